"""A pruned network as an ONNX file that other runtimes execute, checked against the original before it is handed out.

ONNX knows no sparse weights that runtimes would use, so that zeros inside a weight stay in the file: remove dead units first
(`compact`), which makes file and run time smaller whatever the runtime.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .channel_ids import as_inputs, evaluation_copy
from .compaction import TOLERANCE, outputs_of
from .sparse_formats import SparseLinear

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(
    module: nn.Module, x: Tensor | tuple[Tensor, ...], path: str | os.PathLike[str]
) -> Path:
    """Write a network into an ONNX file and compare it, run by onnxruntime, with the original.

    Parameters
    ----------
    module : torch Module
        Masked, or made smaller by `compact`; exported in evaluation mode.
    x : Tensor of shape (n_records, ...), or a tuple of them
        An example of its input. The number of records stays free in the file.
    path : path
        One file, weights included.

    Returns
    -------
    Path

    Raises
    ------
    ModuleNotFoundError
        Without onnx, onnxscript and onnxruntime.
    ValueError
        If the module cannot be exported, or onnxruntime gives other outputs.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"export_onnx needs {package}: pip install 'statml[onnx]'", name=package
            )
    inputs = as_inputs(x)
    module = evaluation_copy(module).cpu()
    for name, part in module.named_modules():
        if isinstance(part, SparseLinear):
            raise ValueError(
                f"module {name!r} is a sparse layer, which ONNX does not know; export the dense or the compact module"
            )
    inputs = tuple(t.detach().cpu() for t in inputs)
    batch = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    example = tuple(torch.cat([t, t])[:2] for t in inputs)  # one record would fix the batch size
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts
            program = torch.onnx.export(
                module, example, dynamo=True, dynamic_shapes=batch, verbose=False
            )
        program.save(path, external_data=False)
    except Exception as error:
        raise ValueError(f"{type(module).__name__} cannot be exported to ONNX: {error}") from error
    ours, theirs = outputs_of(module, inputs), run_onnx(path, inputs)
    for a, b in zip(ours, theirs, strict=True):
        difference = (a - b).abs().max().item() if a.shape == b.shape else float("inf")
        if not difference <= TOLERANCE * max(1.0, a.abs().max().item()):
            raise ValueError(
                f"{str(path)!r} does not agree with {type(module).__name__} when onnxruntime runs it: "
                f"the largest difference of an output is {difference:.3g}"
            )
    return path


def run_onnx(path: str | os.PathLike[str], x: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    """What onnxruntime makes of an input.

    Parameters
    ----------
    path : path
    x : Tensor of shape (n_records, ...), or a tuple of them

    Returns
    -------
    list of Tensor
    """
    session, feed = onnx_session(path, as_inputs(x))
    return [torch.from_numpy(out) for out in session.run(None, feed)]


def onnx_session(path: str | os.PathLike[str], inputs: tuple[Tensor, ...]):
    """An onnxruntime session with torch's number of threads, and its input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = [t.detach().cpu().contiguous().numpy() for t in tree_leaves(inputs)]
    return session, dict(zip((i.name for i in session.get_inputs()), arrays, strict=True))
