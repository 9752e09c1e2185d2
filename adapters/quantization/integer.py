"""An exact reference for quantised networks in integers: code by code what onnxruntime computes.

With q codes, s steps, z zero-points; i the input, c the output channel, o the output of a layer:

- conv, linear:  a_c = sum (q_i - z_i) (w - z_c) + b_c,  b_c = round(bias_c / (s_i s_c)),  in int32;
  q_o = clip(round(a_c M_c) + z_o),  M_c = s_i s_c / s_o.
- add:  q_o = clip(round(z_o - (A z_a + B z_b) + B q_b + A q_a)),  A = s_a / s_o, B = s_b / s_o.
- average over n pixels:  q_o = clip(round(sum (q_i - z_i) s_i / (s_o n)) + z_o).

Sums of integers are exact here (float64 holds every integer below 2^53, and no sum leaves int32). Steps, M, A, B and the products with
them are float32, roundings are to the nearest with ties to even, and the sum of an addition is made of two fused multiply-adds, because
onnxruntime's kernels for x86 processors with AVX2 do it so; other processors may round an addition to the other neighbour.
ReLU and ReLU6 before a grid are bounds on codes: rounding is monotone, so that nothing is lost.

Normalisations that follow no layer are computed in float32. With placement "academic" outputs of layers are real: the reference then computes
in float64 between the grids, and other runtimes agree up to their own rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .quantized_graph import Grid, Node, QuantizedGraph

BIAS_LIMIT = 2**30  # of int32, with as much room for the sum
FUSED = ("relu", "relu6")


@dataclass(frozen=True)
class Step:
    """A node together with the ReLU that follows it.

    Parameters
    ----------
    name : str
        Of the tensor that it makes: the name of the last node in it.
    node : Node
        The operation.
    inputs : tuple of str
        Names of the tensors that it reads.
    activation : {"relu", "relu6", None}
    grid : Grid or None
        Of the output; None if the output stays real.
    """

    name: str
    node: Node
    inputs: tuple[str, ...]
    activation: str | None
    grid: Grid | None

    def bounds(self) -> tuple[int, int]:
        """Least and greatest code of the output, the ReLU included."""
        low, high = 0, 2**self.grid.n_bits - 1
        if self.activation is not None:
            low = self.grid.zero_point
        if self.activation == "relu6":
            six = np.rint(np.float32(6) / np.float32(self.grid.step))
            high = int(min(high, six + self.grid.zero_point))
        return low, high


@dataclass(frozen=True)
class IntegerWeights:
    """What a convolution or linear layer stores: centred codes, float32 steps and int32 biases.

    Parameters
    ----------
    codes : ndarray of int8, output channels first
    step : ndarray of float32, shape (n_out,)
    bias : ndarray of int32, shape (n_out,)
        In units of the step times the input's step.
    """

    codes: NDArray[np.int8]
    step: NDArray[np.float32]
    bias: NDArray[np.int32]


def fuse(graph: QuantizedGraph) -> list[Step]:
    """Nodes in execution order, each ReLU joined to the node before it where nothing else reads that node.

    Parameters
    ----------
    graph : QuantizedGraph

    Returns
    -------
    list of Step
    """
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for source in node.inputs:
            readers[source] = readers.get(source, 0) + 1
    steps: dict[str, Step] = {}
    for node in graph.nodes:
        before = steps.get(node.inputs[0]) if node.op in FUSED else None
        if (
            before is not None
            and before.grid is None
            and before.activation is None
            and before.node.op in ("conv", "linear", "add", "affine")
            and readers[node.inputs[0]] == 1
        ):
            del steps[before.name]
            steps[node.name] = Step(node.name, before.node, before.inputs, node.op, node.activation)
        else:
            grid = (
                graph.grid_read(node.name)
                if node.op in ("max_pool", "flatten", "concat")
                else node.activation
            )
            steps[node.name] = Step(node.name, node, node.inputs, None, grid)
    return list(steps.values())


def fits_int8(node: Node) -> bool:
    """Whether a layer's centred codes fit int8."""
    return bool(np.abs(node.weight.centred).max(initial=0) <= 127)


def integer_weights(node: Node, grid: Grid) -> IntegerWeights:
    """The integers of a layer whose input lies on a grid.

    A channel whose weights are all but zero can have a bias of more than 2^30 steps, which int32 could not hold: its step is raised until it
    can, and its weights, each below 2^-22 of the bias, are rounded to that step.

    Parameters
    ----------
    node : Node
        A conv or linear.
    grid : Grid
        Of its input.

    Returns
    -------
    IntegerWeights

    Raises
    ------
    ValueError
        If centred codes do not fit int8, or a sum could leave int32.
    """
    centred = node.weight.centred.astype(np.int64)
    if not fits_int8(node):
        raise ValueError(
            f"layer {node.name!r}: codes minus zero-point reach {np.abs(centred).max()}, and int8 holds 127 on either side; "
            f'8-bit weights need a symmetric grid (placement="deployable")'
        )
    step = node.weight.step.astype(np.float32)
    unit = np.float32(grid.step) * step
    least = (np.abs(node.bias) / (BIAS_LIMIT * np.float64(np.float32(grid.step)))).astype(
        np.float32
    )
    narrow = np.abs(node.bias) > BIAS_LIMIT * unit.astype(np.float64)
    if narrow.any():
        wide = (-1, *[1] * (centred.ndim - 1))
        raised = np.where(narrow, least * np.float32(1.001), step).astype(np.float32)
        factor = np.where(narrow, step.astype(np.float64) / raised, 1.0)
        centred = np.rint(centred * factor.reshape(wide)).astype(np.int64)
        step, unit = raised, np.float32(grid.step) * raised
    bias = np.rint(node.bias / unit.astype(np.float64)).astype(np.int64)
    largest = max(grid.zero_point, 2**grid.n_bits - 1 - grid.zero_point)
    sums = np.abs(centred).reshape(len(centred), -1).sum(1) * largest + np.abs(bias)
    if sums.max(initial=0) >= 2**31:
        raise ValueError(f"layer {node.name!r}: sums of up to {sums.max()} do not fit int32")
    return IntegerWeights(centred.astype(np.int8), step, bias.astype(np.int32))


class IntegerNetwork:
    """A quantised network that computes with integers, as onnxruntime does.

    Parameters
    ----------
    graph : QuantizedGraph

    Attributes
    ----------
    steps_ : list of Step
    weights_ : dict of str to IntegerWeights
        By the name of the conv or linear node; of those that read codes. Empty with placement "academic".

    Examples
    --------
    A layer of one weight, 3 x 0.5, on inputs in steps of 0.25:

    >>> import numpy as np
    >>> from statml.adapters.quantization.quantized_graph import Grid, Node, QuantizedGraph, Weight
    >>> weight = Weight(np.array([[11]], np.int16), np.array([0.5]), np.array([8], np.int16), 4)
    >>> nodes = (
    ...     Node("x", "input", activation=Grid(0.25, 0, 8)),
    ...     Node("fc", "linear", ("x",), Grid(1.0, 0, 4), weight, np.array([1.0])),
    ... )
    >>> network = IntegerNetwork(QuantizedGraph(nodes, (1,), "deployable"))
    >>> network.codes(np.array([[0.5], [4.0], [99.0]]))["fc"].ravel()      # 1.5 x + 1 on whole numbers 0 to 15
    array([ 2,  7, 15])
    """

    def __init__(self, graph: QuantizedGraph) -> None:
        self.graph = graph
        self.steps_ = fuse(graph)
        grids = {step.name: step.grid for step in self.steps_}
        self.weights_ = {
            step.node.name: integer_weights(step.node, grids[step.inputs[0]])
            for step in self.steps_
            if step.node.weight is not None
            and grids[step.inputs[0]] is not None
            and graph.placement == "deployable"
        }

    def __call__(self, X: ArrayLike) -> NDArray[np.float32]:
        """Outputs of the network.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of float32, shape (n_records, n_outputs)
        """
        return self._values(self.run(X))

    def _values(self, tensors: dict[str, Tensor]) -> NDArray[np.float32]:
        last = self.steps_[-1]
        output = tensors[last.name]
        return (
            (output if last.grid is None else dequantise(output, last.grid))
            .numpy()
            .astype(np.float32)
        )

    def codes(self, X: ArrayLike) -> dict[str, NDArray[np.int64]]:
        """Codes of all tensors that lie on a grid.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        dict of str to ndarray of int64
        """
        tensors = self.run(X)
        return {
            step.name: tensors[step.name].numpy().astype(np.int64)
            for step in self.steps_
            if step.grid is not None
        }

    @torch.no_grad()
    def run(self, X: ArrayLike) -> dict[str, Tensor]:
        """All tensors: codes where there is a grid, else real values; float64 in both cases."""
        x = torch.as_tensor(np.asarray(X), dtype=torch.float32)
        if tuple(x.shape[1:]) != tuple(self.graph.input_shape):
            raise ValueError(
                f"X must have shape (n_records, {', '.join(map(str, self.graph.input_shape))}); got {tuple(x.shape)}"
            )
        if not torch.isfinite(x).all():
            raise ValueError("X has values that are not finite")
        tensors: dict[str, Tensor] = {}
        grids: dict[str, Grid | None] = {}
        for step in self.steps_:
            read = [tensors[name] for name in step.inputs] if step.inputs else [x.double()]
            on = [grids[name] for name in step.inputs] or [None]
            tensors[step.name] = self.apply(step, read, on)
            grids[step.name] = step.grid
        return tensors

    def apply(self, step: Step, inputs: list[Tensor], grids: list[Grid | None]) -> Tensor:
        """One step: codes or real values in, codes or real values out."""
        op, grid = step.node.op, step.grid
        if step.node.name in self.weights_:
            return self._layer(step, inputs[0], grids[0])
        if grid is not None and all(g is not None for g in grids):
            if op == "add":
                return clip(_add(inputs, grids, grid), step)
            if op == "global_avg_pool":
                n = int(np.prod(inputs[0].shape[2:]))
                total = inputs[0].flatten(2).sum(2) - grids[0].zero_point * n
                scale = np.float32(grids[0].step) / (np.float32(grid.step) * np.float32(n))
                codes = clip(requantise(total, scale, grid), step)
                kept = 0 if step.node.options.get("squeeze") else inputs[0].ndim - 2
                return codes.reshape(*codes.shape, *[1] * kept)
            if op in ("max_pool", "flatten", "concat") and set(grids) == {grid}:
                return real(step.node, inputs)
        values = [t if g is None else dequantise(t, g) for t, g in zip(inputs, grids, strict=True)]
        y = real(step.node, values)
        if grid is not None:
            return clip(quantise(y, grid), step)
        return {None: y, "relu": y.clamp(min=0), "relu6": y.clamp(0, 6)}[step.activation]

    def _layer(self, step: Step, codes: Tensor, grid: Grid) -> Tensor:
        weights = self.weights_[step.node.name]
        total = product(
            step.node, codes - grid.zero_point, torch.from_numpy(weights.codes).double()
        )
        axis = 1 if step.node.op == "conv" else -1
        total = total + _along(torch.from_numpy(weights.bias), axis, total.ndim).double()
        unit = np.float32(grid.step) * weights.step
        if step.grid is None:
            y = (total.float() * _along(torch.from_numpy(unit), axis, total.ndim)).double()
            return {None: y, "relu": y.clamp(min=0), "relu6": y.clamp(0, 6)}[step.activation]
        scale = torch.from_numpy(unit / np.float32(step.grid.step))
        return clip(requantise(total, _along(scale, axis, total.ndim), step.grid), step)


def product(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    """A convolution or linear layer without bias."""
    if node.op == "linear":
        return x @ weight.T
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[weight.ndim - 3]
    o = node.options
    return convolve(x, weight, None, o["stride"], o["padding"], o["dilation"], o["groups"])


def requantise(total: Tensor, scale: Tensor | np.float32, grid: Grid) -> Tensor:
    """Codes of integer sums: round(total scale) + zero-point, total and product in float32; clipped to bytes."""
    scaled = total.float() * torch.as_tensor(scale, dtype=torch.float32)
    z = grid.zero_point
    return (scaled.clamp(-z, 255 - z).round() + z).double()


def quantise(x: Tensor, grid: Grid) -> Tensor:
    """Codes of real values, computed in float32, clipped to bytes."""
    z = grid.zero_point
    scaled = x.float() / torch.tensor(grid.step, dtype=torch.float32)
    return (scaled.clamp(-z, 255 - z).round() + z).double()


def dequantise(codes: Tensor, grid: Grid) -> Tensor:
    """Values of codes, computed in float32."""
    return (
        (codes - grid.zero_point).float() * torch.tensor(grid.step, dtype=torch.float32)
    ).double()


def clip(codes: Tensor, step: Step) -> Tensor:
    """Codes within the bounds of a step's grid and ReLU."""
    return codes.clamp(*step.bounds())


def _add(inputs: list[Tensor], grids: list[Grid], grid: Grid) -> Tensor:
    """Codes of a sum of two tensors, as onnxruntime's kernel adds them."""
    f = np.float32
    ratios = [f(f(g.step) / f(grid.step)) for g in grids]
    fixed = f(grid.zero_point) - f(
        f(ratios[0] * f(grids[0].zero_point)) + f(ratios[1] * f(grids[1].zero_point))
    )
    # a fused multiply-add rounds once: float64 holds the exact product of a byte and a float32, and (but for steps that differ by more than 2^20) its sum
    partial = (inputs[1] * float(ratios[1]) + float(fixed)).float().double()
    return (inputs[0] * float(ratios[0]) + partial).float().round().clamp(0, 255).double()


def real(node: Node, inputs: list[Tensor]) -> Tensor:
    """An operation on real values, or on codes where it only passes them on."""
    x, o = inputs[0], node.options
    if node.op == "input":
        return x
    if node.op in ("conv", "linear"):
        axis = 1 if node.op == "conv" else -1
        y = product(node, x, torch.from_numpy(node.weight.values))
        return y + _along(torch.from_numpy(node.bias), axis, y.ndim)
    if node.op == "affine":
        scale, shift = (torch.from_numpy(np.float32(o[k])).double() for k in ("scale", "shift"))
        y = (x * _along(scale, 1, x.ndim)).float().double()
        return (y + _along(shift, 1, x.ndim)).float().double()
    if node.op == "add":
        return inputs[0] + inputs[1]
    if node.op == "concat":
        return torch.cat(inputs, o["axis"])
    if node.op == "flatten":
        return x.flatten(o["start_axis"])
    if node.op == "relu":
        return x.clamp(min=0)
    if node.op == "relu6":
        return x.clamp(0, 6)
    if node.op == "global_avg_pool":
        return x.mean(tuple(range(2, x.ndim)), keepdim=not o.get("squeeze"))
    n = x.ndim - 3
    if node.op == "max_pool":
        pool = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)[n]
        return pool(x, o["kernel_size"], o["stride"], o["padding"], o["dilation"], o["ceil_mode"])
    if node.op == "avg_pool":
        functional = torch.nn.functional
        pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[n]
        return pool(
            x,
            o["kernel_size"],
            o["stride"],
            o["padding"],
            o["ceil_mode"],
            o["count_include_pad"],
        )
    raise ValueError(f"node {node.name!r} has an operation that is not known: {node.op!r}")


def _along(values: Tensor, axis: int, n_axes: int) -> Tensor:
    """A vector shaped to broadcast along one axis."""
    shape = [1] * n_axes
    shape[axis] = -1
    return values.reshape(shape)
