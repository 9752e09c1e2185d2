"""How fast a pruned network really is, here: dense, sparse, compact and ONNX on the same batch.

Counts of operations say little: dense kernels do not skip zeros, and sparse kernels need about 85 % of them to break even. So each form is run
on this machine, in turns (what else the machine does hits all alike), after a warm-up, and the median is reported.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from statml._validation import check_integer

from .channel_ids import as_inputs, evaluation_copy
from .compaction import compact, outputs_of
from .onnx_export import export_onnx, onnx_session
from .sparse_formats import packed_bytes, state_bytes, to_sparse

WARM_UP = 3


def benchmark(
    module: nn.Module, x: Tensor | tuple[Tensor, ...], n_repeats: int = 20
) -> pd.DataFrame:
    """Time a pruned network in every form that it can take, on this machine.

    Parameters
    ----------
    module : torch Module
        With zeros in its weights; left as it is. Timed on the CPU.
    x : Tensor of shape (n_records, ...), or a tuple of them
        The batch to time with: batches of other sizes give other ratios.
    n_repeats : int, default=20
        Timed runs of each form, in turns.

    Returns
    -------
    DataFrame
        One row a form: "dense" (the zeros are stored and multiplied), "sparse" (linear layers in CSR where that is faster), "compact" (dead
        units removed), "onnx" (compact, run by onnxruntime). Columns: ``form``; ``median_ms``, ``q25_ms`` and ``q75_ms`` of a run;
        ``speedup`` over dense; ``bytes`` of the weights (for dense the plain weights, for compact the file of `save_pruned`, for
        sparse what is in memory, for ONNX the file); ``max_difference`` from the dense output;
        ``n_records`` and ``n_threads`` of the runs; ``note``, why a form could not be timed.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    >>> with torch.no_grad():
    ...     net[0].weight[32:] = 0
    ...     net[0].bias[32:] = 0
    >>> table = benchmark(net, torch.randn(64, 64), n_repeats=5).set_index("form")
    >>> bool(table.bytes["compact"] < table.bytes["dense"] / 10)
    True
    """
    n_repeats = check_integer("n_repeats", n_repeats, low=1)
    inputs = tuple(t.detach().cpu() for t in as_inputs(x))
    dense = evaluation_copy(module).cpu()
    small = compact(dense, inputs).eval()
    sparse = to_sparse(dense, inputs, "auto")
    expected = outputs_of(dense, inputs)
    runs: dict[str, Callable[[], object]] = {}
    rows: dict[str, dict] = {}
    for form, net, size in (
        ("dense", dense, state_bytes(dense)),
        ("sparse", sparse, state_bytes(sparse)),
        ("compact", small, packed_bytes(small)),
    ):
        runs[form] = lambda net=net: net(*inputs)
        rows[form] = {
            "bytes": size,
            "max_difference": _difference(expected, outputs_of(net, inputs)),
            "note": "",
        }
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = export_onnx(small, inputs, Path(folder, "network.onnx"))
        except (ModuleNotFoundError, ValueError) as error:
            rows["onnx"] = {"bytes": np.nan, "max_difference": np.nan, "note": str(error)}
        else:
            session, feed = onnx_session(path, inputs)
            runs["onnx"] = lambda: session.run(None, feed)
            got = [torch.from_numpy(out) for out in session.run(None, feed)]
            rows["onnx"] = {
                "bytes": path.stat().st_size,
                "max_difference": _difference(expected, got),
                "note": "",
            }
        times = _in_turns(runs, n_repeats)
    table = pd.DataFrame([{"form": form} | row for form, row in rows.items()])
    quantiles = {form: np.quantile(t, [0.5, 0.25, 0.75]) * 1e3 for form, t in times.items()}
    for k, name in enumerate(("median_ms", "q25_ms", "q75_ms")):
        table.insert(k + 1, name, [quantiles.get(f, [np.nan] * 3)[k] for f in table["form"]])
    table.insert(4, "speedup", table["median_ms"].iloc[0] / table["median_ms"])
    table.insert(7, "n_records", len(inputs[0]))
    table.insert(8, "n_threads", torch.get_num_threads())
    return table


@torch.no_grad()
def _in_turns(runs: dict[str, Callable[[], object]], n_repeats: int) -> dict[str, list[float]]:
    """Seconds of each run; the forms take turns."""
    times: dict[str, list[float]] = {form: [] for form in runs}
    for repeat in range(WARM_UP + n_repeats):
        for form, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat >= WARM_UP:
                times[form].append(time.perf_counter() - start)
    return times


def _difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
