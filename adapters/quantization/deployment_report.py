"""What a quantised network is once it is a file: its size, the operations it runs as, whether its codes are right, how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .onnx_export import STORAGES, build_model
from .parity import ParityReport, compare_codes
from .quantized_graph import QuantizedGraph
from .runtime import count_operations, open_session, run_session

WARM_UP, N_REPEATS = 3, 15


@dataclass(frozen=True)
class ExportReport:
    """Of a quantised network in an ONNX file.

    Parameters
    ----------
    path : Path
    placement : {"academic", "deployable"}
    weight_storage : {"int4", "int8"}
    n_layers : int
        Convolutions and linear layers.
    size : DataFrame
        Bytes of the file of each form, ``form`` "float32", "int8" and "int4", and ``ratio`` to float32. The float32 form is the same network,
        normalisations folded, without quantisation.
    ops : DataFrame
        Operations of the graph that onnxruntime made of the file: ``op``, ``count``, ``arithmetic``.
    parity : ParityReport or None
        Codes compared with the integer reference; None without check.
    latency : DataFrame or None
        Of one record on one thread, in onnxruntime: ``form``, ``median_ms``, ``q25_ms``, ``q75_ms`` and ``speedup`` over float32.
    """

    path: Path
    placement: str
    weight_storage: str
    n_layers: int
    size: pd.DataFrame
    ops: pd.DataFrame
    parity: ParityReport | None
    latency: pd.DataFrame | None

    @property
    def n_integer(self) -> int:
        """Convolutions and linear layers that onnxruntime runs in integers."""
        return int(self.ops.loc[self.ops["arithmetic"] == "integer", "count"].sum())

    @property
    def n_float(self) -> int:
        """Convolutions and linear layers that onnxruntime runs in floats."""
        return int(self.ops.loc[self.ops["arithmetic"] == "float", "count"].sum())

    @property
    def runs_in_integers(self) -> bool:
        """Whether onnxruntime runs every convolution and linear layer in integers."""
        return self.n_integer == self.n_layers and self.n_float == 0

    def __str__(self) -> str:
        sizes = self.size.set_index("form")
        row = sizes.loc[self.weight_storage]
        lines = [
            f"{self.path.name}: {row['bytes'] / 1e6:.3f} MB, {row['ratio']:.2f} of float32 ({sizes.loc['float32', 'bytes'] / 1e6:.3f} MB)",
            f"Layers: {self.n_integer} of {self.n_layers} run in integers, {self.n_float} in floats",
        ]
        if not self.runs_in_integers:
            lines.append(
                "This file is smaller but no faster: "
                + (
                    'placement "academic" leaves the outputs of layers real, and onnxruntime then computes in floats. '
                    'For speed, fit with placement="deployable".'
                    if self.placement == "academic"
                    else "onnxruntime found no integer kernel for some layers (see ops)."
                )
            )
        if self.parity is not None:
            lines.append(f"Parity: {self.parity}")
        if self.latency is not None:
            table = self.latency.set_index("form")
            ours = table.loc[self.weight_storage]
            lines.append(
                f"Time of one record, one thread: {ours['median_ms']:.3g} ms, float32 {table.loc['float32', 'median_ms']:.3g} ms: "
                f"{ours['speedup']:.2f} times as fast"
            )
        return "\n".join(lines)


def report_export(
    graph: QuantizedGraph,
    path: Path,
    *,
    weight_storage: str,
    opset: int,
    check: bool,
    X: ArrayLike | None,
) -> ExportReport:
    """Measure a file that was just written.

    Parameters
    ----------
    graph : QuantizedGraph
        What the file holds.
    path : Path
    weight_storage : {"int4", "int8"}
    opset : int
    check : bool
        Whether to compare codes and to time.
    X : array-like of shape (n_records, ...), or None
        Records to check with; None stands for 8 of standard normal noise.

    Returns
    -------
    ExportReport
    """
    models = {
        form: build_model(graph, weight_storage=form, opset=opset).SerializeToString()
        for form in ("float32", *sorted(STORAGES, reverse=True))
    }
    size = pd.DataFrame(
        {"form": list(models), "bytes": [len(content) for content in models.values()]}
    )
    size["ratio"] = size["bytes"] / size["bytes"].iloc[0]
    parity = latency = None
    if check:
        if X is None:
            X = np.random.default_rng(0).standard_normal((8, *graph.input_shape))
        X = np.asarray(X, dtype=np.float32)
        parity = compare_codes(graph, X, weight_storage=weight_storage, opset=opset)
        latency = time_sessions({"float32": models["float32"], weight_storage: path}, X[:1])
    return ExportReport(
        path,
        graph.placement,
        weight_storage,
        sum(node.weight is not None for node in graph.nodes),
        size,
        count_operations(path),
        parity,
        latency,
    )


def time_sessions(
    models: dict[str, bytes | Path], X: NDArray, *, n_repeats: int = N_REPEATS, n_threads: int = 1
) -> pd.DataFrame:
    """Time ONNX models on one batch, in turns, so that what else the machine does hits all alike.

    Parameters
    ----------
    models : dict of str to bytes or path
        The first is what the others are compared with.
    X : ndarray of shape (n_records, ...)
    n_repeats : int, default=15
    n_threads : int, default=1

    Returns
    -------
    DataFrame
        ``form``, ``median_ms``, ``q25_ms``, ``q75_ms``, ``speedup``: the median over turns of the ratio of times.
    """
    sessions = {name: open_session(model, n_threads=n_threads) for name, model in models.items()}
    return time_in_turns(
        {name: lambda s=session: run_session(s, X) for name, session in sessions.items()},
        n_repeats=n_repeats,
    )


def time_in_turns(runs: dict[str, Callable[[], object]], *, n_repeats: int) -> pd.DataFrame:
    """Time functions in turns; the table of `time_sessions`."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(WARM_UP + n_repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    first = np.array(next(iter(times.values())))
    return pd.DataFrame(
        [
            {"form": name}
            | dict(
                zip(
                    ("q25_ms", "median_ms", "q75_ms"),
                    1e3 * np.quantile(t, [0.25, 0.5, 0.75]),
                    strict=True,
                )
            )
            | {"speedup": float(np.median(first / np.array(t)))}
            for name, t in times.items()
        ]
    )
