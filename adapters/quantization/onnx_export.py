"""Quantised networks as ONNX files that onnxruntime executes in integers, at four bits a weight if wished.

What is written around every convolution and linear layer, so that onnxruntime makes one integer kernel (QLinearConv, QGemm) of it:

    input codes (uint8) -> DequantizeLinear ->|
    weights (int8)      -> DequantizeLinear ->| Conv / Gemm -> QuantizeLinear -> output codes (uint8)
    bias (int32)        -> DequantizeLinear ->|

- Codes of tensors are uint8 always, those with sign around a zero-point: int8 inputs with int8 weights are several times slower on x86.
- A tensor of fewer than eight bits, or a ReLU whose bound lies inside the grid, adds an integer Clip on the codes.
- Weights are stored centred, without zero-points. With ``weight_storage="int4"`` those of up to four bits are packed two in a byte, and a
  Cast (and, where centred codes leave -8 to 7, a subtraction) unpacks them when the file is loaded: half the file, the same kernels, the same
  outputs. Fewer bits make a file smaller, not faster.
- A first convolution that reads one or three channels gets up to a multiple of four of them, without weights: the kernel is twice as fast then.
- placement "academic" leaves outputs of layers real; onnxruntime then computes them in floats, as the report of the export says.

The report checks all this on the file: it counts the operations of the graph that onnxruntime made of it, compares codes one by one with
the exact integer reference, and times it against the same network in floats.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statml._validation import check_choice, check_integer

from .integer import Step, fits_int8, fuse, integer_weights
from .quantized_graph import Grid, Node, QuantizedGraph

if TYPE_CHECKING:
    from onnx import ModelProto

    from .deployment_report import ExportReport

STORAGES = ("int4", "int8")
LEAST_OPSET = 21  # the first with four-bit integers
PASSING = ("max_pool", "flatten", "concat")


def export_onnx(
    graph: QuantizedGraph,
    path: str | os.PathLike,
    *,
    weight_storage: str = "int4",
    opset: int = 21,
    check: bool = True,
    X: ArrayLike | None = None,
) -> ExportReport:
    """Write a quantised network into an ONNX file and report what onnxruntime makes of it.

    Parameters
    ----------
    graph : QuantizedGraph
        As a fitted `GenieQuantizer` holds it.
    path : path
        One file, weights included. Its input is called "input", its output "output"; the number of records is free.
    weight_storage : {"int4", "int8"}, default="int4"
        "int4" packs weights of up to four bits two in a byte; others take a byte each. "int8" spends a byte on each.
    opset : int, default=21
        Version of ONNX's operators, 21 or later.
    check : bool, default=True
        Run the file: compare its codes with the integer reference and time it. Without it the report has sizes and operations alone.
    X : array-like of shape (n_records, ...), optional
        Inputs to check with; by default 8 records of standard normal noise (fixed seed).

    Returns
    -------
    ExportReport
        `size`, `ops`, `parity`, `latency`; prints as a table.

    Raises
    ------
    ModuleNotFoundError
        Without onnx and onnxruntime.
    ValueError
        If weights do not fit int8 (8 bits with free zero-points), or the graph holds what ONNX cannot.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from statml.adapters.quantization.lowering import round_to_nearest
    >>> from statml.adapters.quantization.networks import resnet8
    >>> _ = torch.manual_seed(0)
    >>> graph, _ = round_to_nearest(resnet8("fashion-mnist"), torch.randn(16, 1, 28, 28), n_bits_w=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export_onnx(graph, Path(folder, "net.onnx"))
    >>> report.runs_in_integers, report.parity.n_different
    (True, 0)
    """
    from .deployment_report import report_export

    check_choice("weight_storage", weight_storage, STORAGES)
    opset = check_integer("opset", opset, low=LEAST_OPSET)
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"export_onnx needs {package}: pip install 'statml[onnx]'", name=package
            )
    path = Path(path)
    model = build_model(graph, weight_storage=weight_storage, opset=opset)
    path.write_bytes(model.SerializeToString())
    return report_export(graph, path, weight_storage=weight_storage, opset=opset, check=check, X=X)


def build_model(
    graph: QuantizedGraph,
    *,
    weight_storage: str = "int4",
    opset: int = 21,
    outputs: tuple[str, ...] = (),
) -> ModelProto:
    """The ONNX model of a quantised network.

    Parameters
    ----------
    graph : QuantizedGraph
    weight_storage : {"int4", "int8", "float32"}, default="int4"
        "float32" writes the same network without any quantisation of tensors: the side to compare with.
    opset : int, default=21
    outputs : tuple of str, default=()
        Names of tensors on a grid whose codes are to be outputs too.

    Returns
    -------
    onnx.ModelProto
    """
    writer = _Writer(graph, weight_storage)
    for step in writer.steps:
        writer.write(step)
    return writer.model(opset, outputs)


class _Writer:
    """Collects nodes and constants."""

    def __init__(self, graph: QuantizedGraph, storage: str) -> None:
        self.graph, self.storage = graph, storage
        self.steps = fuse(graph)
        self.nodes: list = []
        self.constants: dict = {}
        self.dequantised: set[str] = set()
        self.floats = storage == "float32"
        self.grids: dict[str, Grid | None] = {
            step.name: None if self.floats else step.grid for step in self.steps
        }
        self.n_axes = _count_axes(self.steps, len(graph.input_shape) + 1)

    def write(self, step: Step) -> None:
        """The nodes of one step: codes to codes where grids allow."""
        node, grid = step.node, self.grids[step.name]
        if node.op == "input":
            real = "input"
        elif node.op in PASSING and grid is not None and self._all_on(grid, step.inputs):
            self._operation(
                node, [self._codes(name) for name in step.inputs], self._codes(step.name)
            )
            return
        else:
            real = self._real(step)
        if grid is None:
            if real != step.name:
                self.node("Identity", [real], [step.name])
            return
        low, high = step.bounds()
        target = self._codes(step.name)
        squeezed = node.op == "global_avg_pool" and node.options.get("squeeze")
        stages = (
            ["QuantizeLinear"] + ["Clip"] * ((low, high) != (0, 255)) + ["Flatten"] * bool(squeezed)
        )
        for k, op in enumerate(stages):
            made = target if k == len(stages) - 1 else f"{target}.{op}"
            if op == "QuantizeLinear":
                self.node(op, [real, *self._grid(grid)], [made])
            elif op == "Clip":
                self.node(op, [real, *(self.constant(np.uint8(b)) for b in (low, high))], [made])
            else:
                self.node(op, [real], [made], axis=1)
            real = made

    def _all_on(self, grid: Grid, names: tuple[str, ...]) -> bool:
        return all(self.grids[name] == grid for name in names)

    def _real(self, step: Step) -> str:
        """An operation between real values (of which onnxruntime makes one of integers where they were codes)."""
        node = step.node
        spare = self._spare(step)
        inputs = [self._value(name, spare) for name in step.inputs]
        bounded = step.activation is not None and self.grids[step.name] is None
        result = f"{step.name}.value" if bounded or self.grids[step.name] is not None else step.name
        target = f"{step.name}.before" if bounded else result
        if node.op in ("conv", "linear"):
            inputs += self._layer(step, spare)
        self._operation(node, inputs, target)
        if bounded:
            result = step.name
            self._bound(step.activation, target, result)
        return result

    def _bound(self, activation: str, source: str, target: str) -> None:
        if activation == "relu":
            self.node("Relu", [source], [target])
        else:
            limits = [self.constant(np.float32(b)) for b in (0, 6)]
            self.node("Clip", [source, *limits], [target])

    def _operation(self, node: Node, inputs: list[str], target: str) -> None:
        o = node.options
        if node.op == "conv":
            attributes = {k: list(o[k]) for k in ("stride", "dilation")}
            self.node(
                "Conv", inputs, [target],
                strides=attributes["stride"], dilations=attributes["dilation"],
                pads=[*o["padding"], *o["padding"]], group=o["groups"],
                kernel_shape=list(node.weight.codes.shape[2:]),
            )  # fmt: skip
        elif node.op == "linear":
            self.node("Gemm", inputs, [target], transB=1)
        elif node.op == "affine":
            wide = (-1, *[1] * (self.n_axes[node.inputs[0]] - 2))
            scale, shift = (
                self.constant(np.float32(o[k]).reshape(wide), f"{node.name}.{k}")
                for k in ("scale", "shift")
            )
            self.node("Mul", [inputs[0], scale], [f"{target}.scaled"])
            self.node("Add", [f"{target}.scaled", shift], [target])
        elif node.op == "add":
            self.node("Add", inputs, [target])
        elif node.op == "concat":
            self.node("Concat", inputs, [target], axis=o["axis"])
        elif node.op == "flatten":
            self.node("Flatten", inputs, [target], axis=o["start_axis"])
        elif node.op in ("relu", "relu6"):
            self._bound(node.op, inputs[0], target)
        elif node.op == "max_pool":
            self.node(
                "MaxPool", inputs, [target],
                kernel_shape=list(o["kernel_size"]), strides=list(o["stride"]), dilations=list(o["dilation"]),
                pads=[*o["padding"], *o["padding"]], ceil_mode=int(o["ceil_mode"]),
            )  # fmt: skip
        elif node.op == "avg_pool":
            self.node(
                "AveragePool", inputs, [target],
                kernel_shape=list(o["kernel_size"]), strides=list(o["stride"]),
                pads=[*o["padding"], *o["padding"]], ceil_mode=int(o["ceil_mode"]), count_include_pad=int(o["count_include_pad"]),
            )  # fmt: skip
        elif node.op == "global_avg_pool":
            real = node.options.get("squeeze") and self.grids[node.name] is None
            averaged = f"{target}.kept" if real else target
            self.node("GlobalAveragePool", inputs, [averaged])
            if real:
                self.node("Flatten", [averaged], [target], axis=1)
        else:
            raise ValueError(f"node {node.name!r} is a {node.op!r}, which is not written to ONNX")

    def _spare(self, step: Step) -> int:
        """Channels without weights that are added to what the first convolution reads; see the top."""
        node = step.node
        first = node.op == "conv" and step.inputs[0] == self.steps[0].name
        if not first or self.grids[step.inputs[0]] is None or self.graph.placement == "academic":
            return 0
        return -node.weight.codes.shape[1] % 4 if node.options["groups"] == 1 else 0

    def _layer(self, step: Step, spare: int) -> list[str]:
        """Weights and bias of a layer as real values that come of stored integers."""
        node, grid = step.node, self.grids[step.inputs[0]]
        name = node.name
        if grid is None or self.graph.placement == "academic":
            return [self._real_weights(node), self.constant(np.float32(node.bias), f"{name}.bias")]
        stored = integer_weights(node, grid)
        widths = np.zeros((stored.codes.ndim, 2), int)
        widths[1, 1] = spare
        codes = np.pad(stored.codes, widths)
        weight = self._weights(node, codes, stored.step)
        unit = np.float32(grid.step) * stored.step
        bias = f"{name}.bias.value"
        whole = self.constant(stored.bias, f"{name}.bias")
        scale = self.constant(unit, f"{name}.bias.step")
        self.node("DequantizeLinear", [whole, scale], [bias], axis=0)
        return [weight, bias]

    def _real_weights(self, node: Node) -> str:
        """Weights that floats are multiplied with: stored as they are, with their zero-points."""
        name = f"{node.name}.weight"
        if self.floats:
            return self.constant(node.weight.values.astype(np.float32), name)
        step = node.weight.step.astype(np.float32)
        if fits_int8(node):
            return self._weights(node, node.weight.centred.astype(np.int8), step)
        scale = self.constant(step, f"{name}.step")
        zero = self.constant(node.weight.zero_point.astype(np.uint8), f"{name}.zero_point")
        codes = self.constant(node.weight.codes.astype(np.uint8), name)
        self.node("DequantizeLinear", [codes, scale, zero], [f"{name}.value"], axis=0)
        return f"{name}.value"

    def _weights(self, node: Node, codes: NDArray[np.int8], step: NDArray[np.float32]) -> str:
        from onnx import TensorProto

        name = f"{node.name}.weight"
        scale = self.constant(step, f"{name}.step")
        if self.storage == "int4" and node.weight.n_bits <= 4:
            eight = f"{name}.unpacked"
            if codes.min(initial=0) >= -8 and codes.max(initial=0) <= 7:
                packed = self.packed(codes, TensorProto.INT4, name)
                self.node("Cast", [packed], [eight], to=TensorProto.INT8)
            else:  # asymmetric: the codes themselves, and a subtraction when the file is loaded
                zero = np.int8(-codes.reshape(len(codes), -1).min(1, initial=0))
                zero = zero.reshape(-1, *[1] * (codes.ndim - 1))
                packed = self.packed(codes + zero, TensorProto.UINT4, name)
                offset = self.constant(zero, f"{name}.zero_point")
                self.node("Cast", [packed], [f"{name}.codes"], to=TensorProto.INT8)
                self.node("Sub", [f"{name}.codes", offset], [eight])
        else:
            eight = self.constant(codes, name)
        # zero-points of zero are written out: onnxruntime makes no QGemm of a layer without
        zeros = self.constant(np.zeros(len(step), np.int8), f"{name}.zeros")
        self.node("DequantizeLinear", [eight, scale, zeros], [f"{name}.value"], axis=0)
        return f"{name}.value"

    def _value(self, name: str, spare: int = 0) -> str:
        """The real values of a tensor, with so many channels of zeros at the end."""
        grid = self.grids[name]
        if grid is None:
            return name
        made = f"{name}.widened" if spare else f"{name}.dequantised"
        if made not in self.dequantised:
            self.dequantised.add(made)
            codes = self._codes(name)
            if spare:
                before_and_after = np.zeros((2, self.n_axes[name]), np.int64)
                before_and_after[1, 1] = spare
                widths = self.constant(before_and_after.ravel())
                self.node("Pad", [codes, widths, self._grid(grid)[1]], [f"{made}.codes"])
                codes = f"{made}.codes"
            self.node("DequantizeLinear", [codes, *self._grid(grid)], [made])
        return made

    def _codes(self, name: str) -> str:
        return f"{name}.codes"

    def _grid(self, grid: Grid) -> list[str]:
        return [self.constant(np.float32(grid.step)), self.constant(np.uint8(grid.zero_point))]

    def node(self, op: str, inputs: list[str], outputs: list[str], **attributes) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, outputs, f"{outputs[0]}.{op}", **attributes))

    def constant(self, value: NDArray, name: str | None = None) -> str:
        from onnx import numpy_helper

        value = np.asarray(value)
        name = name or f"{value.dtype}:{value!r}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(
                np.ascontiguousarray(value).reshape(value.shape), name
            )
        return name

    def packed(self, codes: NDArray, kind: int, name: str) -> str:
        """Four-bit integers, two in a byte, the first in the lower half."""
        from onnx import TensorProto

        nibbles = codes.reshape(-1).astype(np.int16) & 15
        nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.int16))
        content = (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes()
        self.constants[name] = TensorProto(
            name=name, data_type=kind, dims=codes.shape, raw_data=content
        )
        return name

    def model(self, opset: int, outputs: tuple[str, ...]) -> ModelProto:
        from onnx import TensorProto, checker, helper

        last = self._value(self.steps[-1].name)
        self.node("Identity", [last], ["output"])
        value = helper.make_tensor_value_info
        given = [value("input", TensorProto.FLOAT, ["n_records", *self.graph.input_shape])]
        free = {name: [None] * n for name, n in self.n_axes.items()}
        made = [value("output", TensorProto.FLOAT, free[self.steps[-1].name])]
        made += [value(self._codes(name), TensorProto.UINT8, free[name]) for name in outputs]
        content = helper.make_graph(
            self.nodes, "quantized", given, made, list(self.constants.values())
        )
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(
            content,
            opset_imports=imports,
            ir_version=helper.find_min_ir_version_for(imports),
            producer_name="statml",
        )
        checker.check_model(model)
        return model


def _count_axes(steps: list[Step], n_axes: int) -> dict[str, int]:
    """Dimensions of every tensor, records included."""
    counts: dict[str, int] = {}
    for step in steps:
        before = counts[step.inputs[0]] if step.inputs else n_axes
        if step.node.op == "flatten":
            before = step.node.options["start_axis"] + 1
        elif step.node.op == "global_avg_pool" and step.node.options.get("squeeze"):
            before = 2
        counts[step.name] = before
    return counts
