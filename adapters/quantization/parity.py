"""Does the file compute what the network was meant to compute? Answered code by code.

Three computations of one quantised network are compared on the same records:

- the runtime: the ONNX file, run by onnxruntime;
- the reference: `IntegerNetwork`, exact in integers. The runtime must give the same codes, all of them;
- the simulation ("fake quantisation"): real numbers rounded to the grids, which is what training and accuracy tables use. Step by step, from
  the reference's codes, it may differ by one code where a value falls (within float32's rounding) on a tie.

A bias is stored as an integer, in units of the input's step times the weights'. Where those units are coarse (two or three bits) the rounding
of the bias itself moves codes; this share is counted apart, as it is part of the file and no error of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .integer import IntegerNetwork, Step, _along, product, real
from .onnx_export import build_model
from .quantized_graph import Grid, QuantizedGraph
from .runtime import open_session, run_session


@dataclass(frozen=True)
class ParityReport:
    """Codes of a runtime and of the simulation, against the exact reference.

    Parameters
    ----------
    table : DataFrame
        One row a tensor on a grid (flattened ones are not counted twice): ``tensor``, ``op``, ``n_bits``, ``n_codes``; ``different``, codes that onnxruntime computed
        otherwise than the reference, ``largest`` the largest such difference; ``simulated_different`` and ``simulated_largest``, the same for the
        simulation; ``bias_moved``, codes that the rounding of the bias moved (layers only).
    output_difference : float
        Largest difference of an output between runtime and reference, relative to the largest output.
    same_class : float
        Share of records on which the simulation of the whole network and the runtime have the same largest output.
    n_records : int
    """

    table: pd.DataFrame
    output_difference: float
    same_class: float
    n_records: int

    @property
    def n_codes(self) -> int:
        """Codes compared."""
        return int(self.table["n_codes"].sum())

    @property
    def n_different(self) -> int:
        """Codes that onnxruntime computed otherwise than the reference."""
        return int(self.table["different"].sum())

    @property
    def simulated_share(self) -> float:
        """Share of codes that the simulation, step by step, gives otherwise than the reference."""
        return float(self.table["simulated_different"].sum() / max(self.n_codes, 1))

    @property
    def exact(self) -> bool:
        """Whether the runtime gave the reference's codes, and its outputs up to float32's rounding."""
        return self.n_different == 0 and self.output_difference < 1e-5

    def __str__(self) -> str:
        return (
            f"{self.n_different:,} of {self.n_codes:,} codes differ between onnxruntime and the integer reference "
            f"({self.n_records} records); {self.simulated_share:.3%} between simulation and reference, step by step; "
            f"same class as the simulated network on {self.same_class:.1%} of records"
        )


def compare_codes(
    graph: QuantizedGraph, X: ArrayLike, *, weight_storage: str = "int8", opset: int = 21
) -> ParityReport:
    """Run a quantised network in onnxruntime, in the integer reference and in the simulation, and compare.

    Parameters
    ----------
    graph : QuantizedGraph
    X : array-like of shape (n_records, ...)
    weight_storage : {"int4", "int8"}, default="int8"
        Of the file that onnxruntime runs.
    opset : int, default=21

    Returns
    -------
    ParityReport
        Its `exact` is not to be expected with placement "academic", where sums are floats.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from statml.adapters.quantization.lowering import round_to_nearest
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).eval()
    >>> X = torch.randn(20, 1, 8)
    >>> graph, _ = round_to_nearest(net, X, n_bits_w=4, n_bits_a=4)
    >>> report = compare_codes(graph, X)
    >>> report.exact, report.n_codes
    (True, 640)
    """
    X = np.asarray(X, dtype=np.float32)
    network = IntegerNetwork(graph)
    tensors = network.run(X)
    on_grid = [s for s in network.steps_ if s.grid is not None and s.node.op != "flatten"]
    model = build_model(
        graph, weight_storage=weight_storage, opset=opset, outputs=tuple(s.name for s in on_grid)
    )
    output, *codes = run_session(open_session(model.SerializeToString()), X)
    grids = {step.name: step.grid for step in network.steps_}
    rows = []
    for step, theirs in zip(on_grid, codes, strict=True):
        ours = tensors[step.name].numpy()
        row = {"tensor": step.name, "op": step.node.op, "n_bits": step.grid.n_bits}
        row |= {"n_codes": ours.size} | _differences(ours, theirs, "different", "largest")
        inputs = [tensors[name] for name in step.inputs] or [torch.from_numpy(X).double()]
        on = [grids[name] for name in step.inputs] or [None]
        stored = network.weights_.get(step.node.name)
        simulated = simulate_step(step, inputs, on, stored and _stored_bias(stored, on[0], step))
        row |= _differences(ours, simulated, "simulated_different", "simulated_largest")
        row["bias_moved"] = (
            int((simulate_step(step, inputs, on) != simulated).sum()) if stored else 0
        )
        rows.append(row)
    expected = network._values(tensors)
    scale = max(np.abs(expected).max(initial=0), np.finfo(np.float32).tiny)
    free = simulate(graph, X)
    return ParityReport(
        pd.DataFrame(rows),
        float(np.abs(output - expected).max(initial=0) / scale),
        float((free.reshape(len(X), -1).argmax(1) == output.reshape(len(X), -1).argmax(1)).mean()),
        len(X),
    )


def simulate(graph: QuantizedGraph, X: ArrayLike) -> NDArray[np.float64]:
    """Outputs of a quantised network simulated in real numbers (float64): rounded to grids, never an integer.

    Parameters
    ----------
    graph : QuantizedGraph
    X : array-like of shape (n_records, ...)

    Returns
    -------
    ndarray of float64, shape (n_records, n_outputs)
    """
    network = IntegerNetwork(graph)
    tensors: dict[str, Tensor] = {}
    grids: dict[str, Grid | None] = {}
    with torch.no_grad():
        for step in network.steps_:
            inputs = [tensors[name] for name in step.inputs]
            on = [grids[name] for name in step.inputs]
            if not step.inputs:
                inputs, on = [torch.as_tensor(np.asarray(X, dtype=np.float32)).double()], [None]
            out = simulate_step(step, inputs, on)
            tensors[step.name] = torch.as_tensor(out, dtype=torch.float64)
            grids[step.name] = step.grid
    last = network.steps_[-1]
    out = tensors[last.name].numpy()
    return out if last.grid is None else last.grid.values(out)


@torch.no_grad()
def simulate_step(
    step: Step, inputs: list[Tensor], grids: list[Grid | None], bias: NDArray | None = None
) -> NDArray:
    """Codes (or, without a grid, values) that one step gives when it is computed in real numbers.

    Parameters
    ----------
    step : Step
    inputs : list of Tensor
        Codes where there is a grid, else real values.
    grids : list of Grid or None
        Of the inputs.
    bias : ndarray of shape (n_out,), optional
        Instead of the layer's own.

    Returns
    -------
    ndarray of int64 or float64
    """
    values = [
        t if g is None else torch.from_numpy(g.values(t.numpy()))
        for t, g in zip(inputs, grids, strict=True)
    ]
    node = step.node
    if node.op in ("conv", "linear"):
        y = product(node, values[0], torch.from_numpy(node.weight.values))
        bias = node.bias if bias is None else bias
        y = y + _along(torch.from_numpy(bias), 1 if node.op == "conv" else -1, y.ndim)
    else:
        y = real(node, values)
    if step.activation is not None:
        y = y.clamp(0, 6 if step.activation == "relu6" else None)
    return y.numpy() if step.grid is None else step.grid.codes(y.numpy())


def _stored_bias(stored, grid: Grid, step: Step) -> NDArray[np.float64]:
    """The real numbers that a layer's int32 biases stand for."""
    return stored.bias * (np.float64(np.float32(grid.step)) * stored.step.astype(np.float64))


def _differences(ours: NDArray, theirs: NDArray, count: str, largest: str) -> dict[str, int]:
    if ours.shape != theirs.shape:
        raise AssertionError(f"shapes differ: {ours.shape} and {theirs.shape}")
    apart = np.abs(ours.astype(np.int64) - np.asarray(theirs).astype(np.int64))
    return {count: int((apart > 0).sum()), largest: int(apart.max(initial=0))}
