"""A quantised network as plain data: nodes in execution order, integer weight codes, grids of tensors.

This is what a fitted quantizer hands to whatever runs or writes the network: an integer reference, ONNX. No torch module is
left in it. The meaning of every number:

- A tensor t with a grid (step s, zero-point z, n bits) holds codes q in {0, ..., 2^n - 1}, and stands for s (q - z). A code comes of a real
  value x as q = clip(round(x / s) + z, 0, 2^n - 1), ties to even. A tensor without sign has z = 0, one with sign z = 2^(n-1),
  so that every tensor of up to 8 bits fits uint8.
- A weight of an output channel c holds codes w in {0, ..., 2^n - 1} and stands for s_c (w - z_c).
- conv and linear: y_c = s_in s_c sum (q_in - z_in) (w - z_c) + bias_c. Batch normalisation after a layer is folded into s_c, w, z_c
  and the bias, exactly.
- `Node.activation` is the grid of a node's output: **all** its consumers read the quantised tensor. Where it is None the output stays real.
  Conv, then relu, with a grid on the relu alone: the result of conv is real between them, and the codes are those of the relu.

Placements. "deployable": the input, every conv and linear (after its activation function), every add, every average has a grid; so every conv and
linear reads codes and, but for the last layer, whose logits stay real, gives codes. Weights then fit int8 when centred: w - z_c lies in
[-127, 127]. A max pool or flatten has no grid of its own, as it passes codes on; what a concat joins shares one grid.
"academic": inputs of conv and linear have grids (that of the first may not), nothing else; sums and outputs are real.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "Node", "QuantizedGraph", "Weight"]

OPS = (
    "input",
    "conv",
    "linear",
    "affine",
    "relu",
    "relu6",
    "add",
    "concat",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "flatten",
)


@dataclass(frozen=True)
class Grid:
    """The grid of a tensor: value = step (code - zero_point), code in {0, ..., 2^n_bits - 1}.

    Parameters
    ----------
    step : float
        Positive.
    zero_point : int
        0 for a tensor without sign, 2^(n_bits - 1) for one with sign; anything between for an asymmetric grid.
    n_bits : int
        2 to 8.

    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid(step=0.5, zero_point=8, n_bits=4)
    >>> grid.codes(np.array([-9.0, 0.0, 0.74, 1.25]))
    array([ 0,  8,  9, 10])
    >>> grid.values(np.array([0, 8, 15]))
    array([-4. ,  0. ,  3.5])
    """

    step: float
    zero_point: int
    n_bits: int

    @property
    def signed(self) -> bool:
        """Whether the grid holds negative values."""
        return self.zero_point > 0

    def codes(self, x: NDArray) -> NDArray[np.int64]:
        """Codes of real values."""
        q = np.round(np.asarray(x) / self.step) + self.zero_point
        return np.clip(q, 0, 2**self.n_bits - 1).astype(np.int64)

    def values(self, codes: NDArray) -> NDArray[np.float64]:
        """Values of codes."""
        return self.step * (np.asarray(codes) - self.zero_point)


@dataclass(frozen=True)
class Weight:
    """Integer weights of a layer, one grid an output channel.

    Parameters
    ----------
    codes : ndarray of int16, output channels first
        In {0, ..., 2^n_bits - 1}.
    step : ndarray of float64, shape (n_out,)
        Positive.
    zero_point : ndarray of int16, shape (n_out,)
        In {0, ..., 2^n_bits - 1}.
    n_bits : int
        2 to 8.
    """

    codes: NDArray[np.int16]
    step: NDArray[np.float64]
    zero_point: NDArray[np.int16]
    n_bits: int

    @property
    def centred(self) -> NDArray[np.int16]:
        """Codes minus zero-points."""
        return self.codes - self._wide(self.zero_point)

    @property
    def values(self) -> NDArray[np.float64]:
        """The real weights that the codes stand for."""
        return self._wide(self.step) * self.centred

    def _wide(self, per_channel: NDArray) -> NDArray:
        return per_channel.reshape(-1, *[1] * (self.codes.ndim - 1))


@dataclass(frozen=True)
class Node:
    """One operation and its output.

    Parameters
    ----------
    name : str
        Unique; for conv and linear the name of the module in the network.
    op : str
        One of `OPS`: "input"; "conv" (of one to three dimensions); "linear" (on the last dimension); "affine" (`scale` and `shift` a channel, shape
        (n_channels,), in `options`: a normalisation that follows no layer); "relu"; "relu6"; "add" (of two tensors of the same
        shape); "concat" (`axis`); "max_pool" (`kernel_size`, `stride`, `padding`, `dilation`, `ceil_mode`); "avg_pool" (`kernel_size`, `stride`, `padding`, `ceil_mode`,
        `count_include_pad`); "global_avg_pool" (over all dimensions after the channels, which stay as ones); "flatten" (`start_axis`, usually 1).
    inputs : tuple of str
        Names of the nodes whose outputs are read.
    activation : Grid or None
        Grid of the output.
    weight : Weight or None
        Of conv and linear.
    bias : ndarray of float64, shape (n_out,), or None
        Of conv and linear, always given there.
    options : dict
        For conv: `stride`, `padding`, `dilation`, tuples with one number a spatial dimension (padding is the same on both sides, with zeros), and
        `groups`. For the pools tuples likewise.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    activation: Grid | None = None
    weight: Weight | None = None
    bias: NDArray[np.float64] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class QuantizedGraph:
    """Nodes in execution order; the first is the input, the last gives the output.

    Parameters
    ----------
    nodes : tuple of Node
    input_shape : tuple of int
        Shape of one record.
    placement : {"deployable", "academic"}

    Notes
    -----
    `lowering.lower` makes one of a fitted quantizer's module; `lowering.round_to_nearest` of any network, with round-to-nearest codes and
    steps from a few inputs, for tests and as a start.
    """

    nodes: tuple[Node, ...]
    input_shape: tuple[int, ...]
    placement: str

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def output(self) -> str:
        """Name of the node whose output is the network's."""
        return self.nodes[-1].name

    def grid_read(self, name: str) -> Grid | None:
        """The grid on which a node's output lies, its own or the one that a max pool or flatten passes on."""
        node = self[name]
        if node.activation is not None or node.op not in ("max_pool", "flatten", "concat"):
            return node.activation
        grids = {self.grid_read(source) for source in node.inputs}
        return grids.pop() if len(grids) == 1 else None
