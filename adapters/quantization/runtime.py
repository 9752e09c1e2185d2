"""onnxruntime as used here: one thread, integer kernels that do not saturate, and what it made of a graph."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Operations that multiply weights, by the numbers they multiply.
INTEGER_LAYERS = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}
FLOAT_LAYERS = {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


def open_session(model: bytes | str | os.PathLike, *, n_threads: int = 1, optimized: str | os.PathLike | None = None):  # fmt: skip
    """An onnxruntime session on the CPU.

    Where an x86 processor has no VNNI instructions, onnxruntime's kernels for uint8 times int8 add pairs of products in 16 bits, which can
    saturate; the session then asks for exact ones (``session.x64quantprecision``). With VNNI sums are exact anyway, and the option would only
    halve the speed.

    Parameters
    ----------
    model : bytes or path
    n_threads : int, default=1
    optimized : path, optional
        Where to write the graph that onnxruntime made of the model.

    Returns
    -------
    onnxruntime.InferenceSession
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    if saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3  # of warnings, the one that an optimised graph fits this machine
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def saturates() -> bool:
    """Whether fast products of uint8 and int8 may overflow on this processor: x86 without VNNI, or not known to have it."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True


def run_session(session, X: NDArray) -> list[NDArray]:
    """Outputs of a session with one input."""
    (entry,) = session.get_inputs()
    return session.run(None, {entry.name: np.ascontiguousarray(X, dtype=np.float32)})


def count_operations(model: bytes | str | os.PathLike) -> pd.DataFrame:
    """Operations of the graph that onnxruntime makes of a model on this machine.

    Parameters
    ----------
    model : bytes or path

    Returns
    -------
    DataFrame
        Columns ``op``, ``count`` and ``arithmetic``: "integer" or "float" for operations that multiply weights, else "".
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        open_session(model, optimized=optimized)
        nodes = onnx.load(optimized, load_external_data=False).graph.node
    ops = pd.Series([node.op_type for node in nodes], dtype=str).value_counts(sort=False)
    kinds = dict.fromkeys(INTEGER_LAYERS, "integer") | dict.fromkeys(FLOAT_LAYERS, "float")
    table = pd.DataFrame({"op": ops.index, "count": ops.to_numpy()})
    table["arithmetic"] = [kinds.get(op, "") for op in table["op"]]
    return table.sort_values(["arithmetic", "op"], ascending=[False, True], ignore_index=True)
