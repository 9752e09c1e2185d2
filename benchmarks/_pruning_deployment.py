"""What a pruned network saves: time after channel pruning against Torch-Pruning, sparse kernels, sizes of files.

Part of benchmarks/pruning.py. Torch-Pruning gets an environment of its own, .venv-torch-pruning, made on the first run; it and statml
halve the channels of the same network by magnitude, and each ratio of times is taken within one process, run in
turns, in CPU time on one thread.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from _residual_net import CPU_REPEATS, ResidualNet, cpu_times
from statml.adapters.pruning import (
    compact,
    export_onnx,
    find_groups,
    load_pruned,
    prune,
    save_pruned,
    sparsity_report,
    to_sparse,
)
from torch import nn
from torch.nn.utils import prune as torch_prune

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 64)


def channels() -> list[dict]:
    """Half of the channels of a residual network: how much faster, how much smaller."""
    torch.manual_seed(0)
    dense = ResidualNet().eval()
    for layer in dense.modules():  # as after training: statistics and shifts away from their start
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.bias, std=0.2)
    masked = _half_of_each_layer(dense)
    x = torch.randn(64, 1, 28, 28)
    small = compact(masked, x)
    with torch.no_grad():
        difference = (masked(x) - small(x)).abs().max().item()
    theirs = copy.deepcopy(dense)
    for layer in list(theirs.modules()):
        if isinstance(layer, nn.Conv2d):
            torch_prune.ln_structured(layer, "weight", 0.5, n=2, dim=0)
            torch_prune.remove(layer, "weight")
    forms = {
        "statml, masked only": (masked, 0.0),
        "statml, compact()": (small, difference),
        "torch.nn.utils.prune, hooks removed": (theirs, np.nan),
    }
    ratios: dict[str, dict[str, float]] = {name: {} for name in forms}
    onnx: dict[str, float] = {}
    for batch in BATCHES:
        x = torch.randn(batch, 1, 28, 28)
        runs = [lambda x=x: dense(x)] + [lambda net=net, x=x: net(x) for net, _ in forms.values()]
        session = _onnx(small, x)
        if session is not None:
            runs.append(lambda: session())  # noqa: B023
        times = cpu_times(runs, CPU_REPEATS)
        for name, mine in zip(forms, times[1:], strict=False):
            ratios[name][f"batch {batch}"] = float(np.median(times[0] / mine))
        if session is not None:
            onnx[f"batch {batch}"] = float(np.median(times[0] / times[-1]))
    rows = [
        {
            "network": name,
            "parameters": sum(p.numel() for p in net.parameters()),
            **{f"times faster than dense, {b}": r for b, r in ratios[name].items()},
            "max difference from masked": diff,
        }
        for name, (net, diff) in forms.items()
    ]
    if onnx:
        rows.append(
            rows[1]
            | {"network": "statml, export_onnx()"}
            | {f"times faster than dense, {b}": r for b, r in onnx.items()}
        )
    with tempfile.TemporaryDirectory() as folder:
        torch.save(dense.state_dict(), Path(folder, "weights.pt"))
        out = subprocess.run(
            [_environment(), ROOT / "benchmarks/_torch_pruning_worker.py", Path(folder, "weights.pt"), *map(str, BATCHES)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    peer = json.loads(out.strip().splitlines()[-1])
    rows.append(
        {"network": "Torch-Pruning 1.6.1", "parameters": peer["parameters"]}
        | {f"times faster than dense, batch {b}": peer[str(b)] for b in BATCHES}
    )
    return rows


def _half_of_each_layer(dense: nn.Module) -> nn.Module:
    """A copy in which the half of each layer's channels with the smallest norms is zero."""
    net = copy.deepcopy(dense)
    tensors = dict(net.named_parameters())
    by_layer: dict[frozenset, list] = {}
    for group in find_groups(net, torch.randn(2, 1, 28, 28)):
        if group.kept_because is None:
            by_layer.setdefault(frozenset(name for name, _, _ in group.outputs), []).append(group)
    with torch.no_grad():
        for groups in by_layer.values():
            norms = [
                sum(
                    tensors[name].select(dim, index).square().sum().item()
                    for name, dim, index in group.outputs
                    if name in tensors and tensors[name].ndim > 1
                )
                for group in groups
            ]
            for k in np.argsort(norms)[: len(groups) // 2]:
                for name, dim, index in groups[k].outputs:
                    if name in tensors:
                        tensors[name].select(dim, index).zero_()
    return net


def _onnx(net: nn.Module, x: torch.Tensor):
    if any(importlib.util.find_spec(p) is None for p in ("onnx", "onnxscript", "onnxruntime")):
        return None
    from statml.adapters.pruning.onnx_export import onnx_session

    with tempfile.TemporaryDirectory() as folder:
        session, feed = onnx_session(export_onnx(net, x, Path(folder, "net.onnx")), (x,))
    return lambda: session.run(None, feed)


def sparse_kernels() -> list[dict]:
    """One linear layer of 1024 x 1024: CSR with 32-bit indices, with torch's 64 bits, and rows removed."""
    rows = []
    for sparsity in (0.5, 0.8, 0.9, 0.95, 0.98):
        torch.manual_seed(0)
        layer = nn.Linear(1024, 1024)
        with torch.no_grad():
            layer.weight.masked_fill_(torch.rand_like(layer.weight) < sparsity, 0.0)
        row: dict = {"zeros": sparsity}
        for batch in (1, 128):
            x = torch.randn(batch, 1024)
            sparse = to_sparse(layer, x, "csr")
            torchs = layer.weight.detach().to_sparse_csr()
            fewer = nn.Linear(1024, round(1024 * (1 - sparsity)))
            runs = [
                lambda: layer(x),  # noqa: B023
                lambda: sparse(x),  # noqa: B023
                lambda: nn.functional.linear(x, torchs, layer.bias),  # noqa: B023
                lambda: fewer(x),  # noqa: B023
            ]
            times = cpu_times(runs, 4 * CPU_REPEATS)
            for name, mine in zip(
                ("to_sparse", "torch CSR", "rows removed"), times[1:], strict=True
            ):
                row[f"dense / {name}, batch {batch}"] = float(np.median(times[0]) / np.median(mine))
            row["max difference"] = max(
                row.get("max difference", 0.0), (sparse(x) - layer(x)).abs().max().item()
            )
        rows.append(row)
    return rows


def files() -> list[dict]:
    """Bytes of the file of a pruned residual network, against what torch.nn.utils.prune leaves."""
    torch.manual_seed(0)
    dense = ResidualNet().eval()
    rows = []
    for sparsity in (0.5, 0.8, 0.9, 0.95, 0.99):
        sparse, _ = prune(dense, sparsity)
        hooked = copy.deepcopy(dense)
        torch_prune.global_unstructured(
            [(m, "weight") for m in hooked.modules() if isinstance(m, nn.Conv2d)],
            torch_prune.L1Unstructured,
            amount=sparsity,
        )
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            torch.save(dense.state_dict(), folder / "dense.pt")
            torch.save(hooked.state_dict(), folder / "hooks.pt")
            save_pruned(sparse, folder / "sparse.safetensors")
            again = load_pruned(folder / "sparse.safetensors", ResidualNet())
            same = all(
                torch.equal(a, b)
                for a, b in zip(
                    again.state_dict().values(), sparse.state_dict().values(), strict=True
                )
            )
            size = {p.stem: p.stat().st_size for p in folder.iterdir()}
        rows.append(
            {
                "sparsity": sparsity,
                "of the whole network": sparsity_report(sparse)["sparsity"].iloc[-1],
                "save_pruned / dense file": size["sparse"] / size["dense"],
                "torch.nn.utils.prune / dense file": size["hooks"] / size["dense"],
                "read back exactly": same,
            }
        )
    return rows


def _environment() -> Path:
    folder = ROOT / ".venv-torch-pruning"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = [f"torch=={torch.__version__.split('+')[0]}", "torch-pruning==1.6.1", "numpy"]
        command = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *packages]
        subprocess.run(command, check=True)
        (folder / "ready").touch()
    return python


TITLES = {
    "channels": "Half of the channels of a residual network, 28 x 28 pixels, one thread, CPU time",
    "sparse_kernels": "A linear layer of 1024 x 1024 with scattered zeros, one thread, CPU time",
    "files": "File of a residual network after magnitude pruning",
}
