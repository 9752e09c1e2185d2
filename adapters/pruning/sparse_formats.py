"""Zeros that are not stored: sizes of sparse formats, files with bitmap and values, linear layers in CSR.

With m non-zeros of k bits among n entries in n_r rows and n_c columns, the survey counts (section 2.2, in bits beside the m k of
the values)

    bitmap        n
    coordinates   m ceil(log2 n)
    delta         m ceil(log2 d_max),    d_max the largest gap between two non-zeros
    CSR           m ceil(log2 n_c) + n_r ceil(log2 m)

and CSR as it runs, with indices of 32 bits, 32 (m + n_r + 1). The bitmap is smallest up to about 70 % of zeros and
still within 4 % of the dense size of it at 99 %, which is why files use it (`save_pruned`).

In time, CSR pays for linear layers from about 80 to 85 % of zeros; below, dense kernels win; convolutions have no sparse kernel
on the CPU. `to_sparse` can measure instead of guessing.

Reference: T. Hoefler, D. Alistarh, T. Ben-Nun, N. Dryden, A. Peste, "Sparsity in deep learning", JMLR 22 (2021).
"""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from statml._validation import check_choice

from .._files import model_bytes, read_model, write_model
from .channel_ids import as_inputs
from .compaction import disagreement, place_tensors

FORMAT = "statml pruned network 1"
PACK_FROM = (
    512  # bytes saved, below which three entries in a file's header cost more than they bring
)
SPARSE_TIMINGS = 15


# --- sizes --------------------------------------------------------------------------------------------


def storage_bytes(tensor: Tensor) -> dict[str, int]:
    """Bytes that a tensor takes in each format.

    Parameters
    ----------
    tensor : Tensor
        Seen as a matrix with one row for each index of the first dimension.

    Returns
    -------
    dict of str to int
        "dense", "bitmap", "coo", "delta", "csr" (all packed to the bit, as in the module's docstring) and
        "csr_int32", the one that computes.

    Examples
    --------
    >>> import torch
    >>> w = torch.zeros(100, 100)
    >>> w[::10] = 1.0
    >>> storage_bytes(w)
    {'dense': 40000, 'bitmap': 5250, 'coo': 5750, 'delta': 5250, 'csr': 5000, 'csr_int32': 8404}
    """
    n, bits = tensor.numel(), 8 * tensor.element_size()
    n_rows = len(tensor) if tensor.ndim > 1 else 1
    where = torch.nonzero(tensor.reshape(-1)).reshape(-1)
    m = len(where)
    gaps = torch.diff(where, prepend=torch.tensor([-1], device=where.device))
    largest_gap = int(gaps.max()) if m else 1
    index_bits = {
        "bitmap": n,
        "coo": m * _bits(n),
        "delta": m * _bits(largest_gap),
        "csr": m * _bits(n // n_rows if n_rows else 0) + n_rows * _bits(m),
        "csr_int32": 32 * (m + n_rows + 1),
    }
    sizes = {"dense": n * bits} | {name: m * bits + index for name, index in index_bits.items()}
    return {name: -(-size // 8) for name, size in sizes.items()}


def _bits(n: int) -> int:
    """Bits that tell n values apart."""
    return math.ceil(math.log2(n)) if n > 1 else 0


def sparsity_report(module: nn.Module) -> pd.DataFrame:
    """Zeros and true sizes of every tensor of a network.

    Parameters
    ----------
    module : torch Module

    Returns
    -------
    DataFrame
        One row a parameter or buffer and a last one, "total", over all of them: not over the weights alone that could be pruned.
        Columns: ``tensor``, ``shape``, ``n``, ``n_nonzero``, ``sparsity``; bytes in each format of `storage_bytes`
        (``dense_bytes``, ``bitmap_bytes``, ...); ``smallest``, the format with the fewest bytes; ``file_bytes``, the bytes in the file of
        `save_pruned`. The total of ``file_bytes`` is the length of that file, its header included.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> layer = nn.Linear(100, 100)
    >>> with torch.no_grad():
    ...     layer.weight[10:] = 0
    >>> sparsity_report(layer)[["tensor", "sparsity", "dense_bytes", "file_bytes"]]
       tensor  sparsity  dense_bytes  file_bytes
    0  weight  0.900000        40000        5266
    1    bias  0.000000          400         400
    2   total  0.891089        40400        6098
    """
    rows = []
    for name, tensor in _tensors(module).items():
        n_nonzero = int(torch.count_nonzero(tensor))
        sizes = storage_bytes(tensor)
        rows.append(
            {
                "tensor": name,
                "shape": tuple(tensor.shape),
                "n": tensor.numel(),
                "n_nonzero": n_nonzero,
                **{f"{name}_bytes": size for name, size in sizes.items()},
                "smallest": min(sizes, key=sizes.get),
                "file_bytes": sum(t.nbytes for t in pack({name: tensor}).values()),
            }
        )
    if not rows:
        raise ValueError(f"module must have parameters, {type(module).__name__} has none")
    table = pd.DataFrame(rows)
    total = table.select_dtypes("number").sum().to_dict()
    sizes = {name: total[f"{name}_bytes"] for name in sizes}
    total |= {
        "tensor": "total",
        "shape": (),
        "smallest": min(sizes, key=sizes.get),
        "file_bytes": packed_bytes(module),
    }
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    table.insert(4, "sparsity", 1 - table["n_nonzero"] / table["n"].clip(lower=1))
    return table


# --- files --------------------------------------------------------------------------------------------


def pack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace tensors with many zeros by a bitmap and the values that are not zero.

    Parameters
    ----------
    tensors : dict of str to Tensor

    Returns
    -------
    dict of str to Tensor
        A tensor that gets smaller becomes three, ``name::bitmap`` (uint8, one bit an entry), ``name::values`` and ``name::shape``;
        the others are as they were. `unpack` is the inverse.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        there = flat != 0
        size = -(-flat.numel() // 8) + int(there.sum()) * flat.element_size() + 8 * tensor.ndim
        if flat.nbytes - size < PACK_FROM:
            packed[name] = tensor.detach().cpu().contiguous()
            continue
        packed[f"{name}::bitmap"] = torch.from_numpy(np.packbits(there.numpy()))
        packed[f"{name}::values"] = flat[there]
        packed[f"{name}::shape"] = torch.tensor(tensor.shape, dtype=torch.int64)
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `pack`.

    Parameters
    ----------
    packed : dict of str to Tensor

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    ValueError
        If a bitmap, its values and its shape do not belong together.
    """
    tensors: dict[str, Tensor] = {}
    for key, tensor in packed.items():
        name, _, part = key.partition("::")
        if part == "":
            tensors[name] = tensor
        elif part == "bitmap":
            values, shape = packed.get(f"{name}::values"), packed.get(f"{name}::shape")
            if values is None or shape is None or shape.dtype != torch.int64 or (shape < 0).any():
                raise ValueError(f"the bitmap of {name} lacks its values or its shape")
            n = math.prod(shape.tolist())
            if tensor.dtype != torch.uint8 or tensor.shape != (-(-n // 8),):
                raise ValueError(f"the bitmap of {name} does not fit its shape {shape.tolist()}")
            there = torch.from_numpy(np.unpackbits(tensor.numpy(), count=n).astype(bool))
            if values.shape != (int(there.sum()),):
                raise ValueError(
                    f"the bitmap of {name} has {int(there.sum())} entries, its values {len(values)}"
                )
            dense = torch.zeros(n, dtype=values.dtype)
            dense[there] = values
            tensors[name] = dense.reshape(shape.tolist())
        elif part not in ("values", "shape") or f"{name}::bitmap" not in packed:
            raise ValueError(f"{key} is no part of a packed tensor")
    return tensors


def save_pruned(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network's weights into a safetensors file without their zeros.

    Parameters
    ----------
    module : torch Module
        Masked, or made smaller by `compact`.
    path : path

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from torch import nn
    >>> layer = nn.Linear(100, 100)
    >>> with torch.no_grad():
    ...     layer.weight[10:] = 0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pruned(layer, Path(folder, "layer.safetensors"))
    ...     again = load_pruned(Path(folder, "layer.safetensors"), nn.Linear(100, 100))
    >>> torch.equal(again.weight, layer.weight)
    True
    """
    write_model(path, FORMAT, _packed(module), {})


def load_pruned(path: str | os.PathLike[str], module: nn.Module) -> nn.Module:
    """Read what `save_pruned` wrote; no code in the file is run.

    Parameters
    ----------
    path : path
    module : torch Module
        Of the architecture that was saved, in any size: its layers take the sizes in the file, so that the result of `compact` is
        read into the network as it was before. Left as it is.

    Returns
    -------
    torch Module

    Raises
    ------
    ValueError
        If the file is of another kind, was changed after it was written, or does not fit the module.

    Notes
    -----
    Where `compact` returned a ``torch.fx.GraphModule``, the graph is the architecture, and the original module cannot take
    its weights: keep such a network with `export_onnx` or ``torch.export.save``.
    """
    packed, _ = read_model(path, FORMAT, "save_pruned")
    tensors = unpack(packed)
    module = copy.deepcopy(module)
    ours = _tensors(module)
    # a layer that had no bias gets one where `compact` put a constant into it
    new = {name for name in tensors if name not in ours and name.endswith("bias")}
    known = {
        f"{prefix}.bias".lstrip(".")
        for prefix, layer in module.named_modules()
        if "bias" in layer._parameters
    }
    wrong = sorted(ours.keys() - tensors.keys()) + sorted(
        tensors.keys() - ours.keys() - (new & known)
    )
    wrong += [
        name
        for name in ours.keys() & tensors.keys()
        if ours[name].ndim != tensors[name].ndim or ours[name].dtype != tensors[name].dtype
    ]
    if wrong:
        raise ValueError(
            f"the weights in {str(path)!r} do not fit {type(module).__name__}: {wrong[0]} differs"
        )
    place_tensors(module, tensors)
    return module


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and the buffers that belong to the state, each once."""
    state = module.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    return {
        name: tensor.detach()
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and first.setdefault(id(tensor), name) == name
    }


def state_bytes(module: nn.Module) -> int:
    """Bytes of a network's parameters and buffers as they are in memory."""
    return sum(tensor.nbytes for tensor in _tensors(module).values())


def packed_bytes(module: nn.Module) -> int:
    """Length of the file of `save_pruned`."""
    return len(model_bytes(FORMAT, _packed(module), {}))


def _packed(module: nn.Module) -> dict[str, Tensor]:
    return pack(_tensors(module))


# --- sparse linear layers -----------------------------------------------------------------------------


class SparseLinear(nn.Module):
    """A linear layer whose weight is stored, and multiplied, in CSR with 32-bit indices; for prediction only.

    Parameters
    ----------
    layer : torch Linear
    """

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        rows, columns = weight.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=self.out_features)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        # torch's own conversion takes 64 bits an index, which doubles the memory that a product reads
        self.register_buffer("row_starts", starts.int())
        self.register_buffer("columns", columns.int())
        self.register_buffer("values", weight[rows, columns])
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            _ = self.weight  # torch says it once, here

    @property
    def weight(self) -> Tensor:
        """The weight as a CSR tensor of shape (out_features, in_features)."""
        return torch.sparse_csr_tensor(
            self.row_starts,
            self.columns,
            self.values,
            (self.out_features, self.in_features),
            check_invariants=False,
        )

    def forward(self, X: Tensor) -> Tensor:
        # W X' in this layout is up to ten times faster than torch's linear with a CSR weight
        columns = X.reshape(-1, self.in_features).t().contiguous()
        if self.bias is None:
            out = self.weight @ columns
        else:
            out = torch.addmm(self.bias[:, None], self.weight, columns)
        return out.t().contiguous().reshape(*X.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        density = len(self.values) / max(self.in_features * self.out_features, 1)
        return f"in_features={self.in_features}, out_features={self.out_features}, density={density:.3g}"


def to_sparse(module: nn.Module, x: Tensor | tuple[Tensor, ...], layout: str = "auto") -> nn.Module:
    """Compute linear layers with sparse kernels.

    Parameters
    ----------
    module : torch Module
        Left as it is.
    x : Tensor of shape (n_records, ...), or a tuple of them
        An example of its input: the result is checked on it, and "auto" measures with it, so take a batch as in use.
    layout : {"auto", "csr"}, default="auto"
        "csr": every linear layer with a zero in it. "auto": those alone that are faster so, timed on this machine.

    Returns
    -------
    torch Module
        A copy in evaluation mode in which these layers are `SparseLinear`.

    Raises
    ------
    ValueError
        For "csr", if the module has no linear layer; if the result does not agree with the module.

    Notes
    -----
    Convolutions stay dense: torch has no sparse kernel for them on the CPU. Remove whole channels (`compact`) there.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> layer = nn.Linear(50, 40)
    >>> with torch.no_grad():
    ...     _ = layer.weight.masked_fill_(torch.rand(40, 50) < 0.9, 0.0)
    >>> x = torch.randn(8, 50)
    >>> torch.allclose(to_sparse(layer, x, "csr")(x), layer(x), atol=1e-5)
    True
    """
    check_choice("layout", layout, ("auto", "csr"))
    inputs = as_inputs(x)
    sparse = copy.deepcopy(module).eval()
    layers = {name: part for name, part in sparse.named_modules() if type(part) is nn.Linear}
    if layout == "csr" and not layers:
        raise ValueError(
            f'layout="csr" takes a module with linear layers, {type(module).__name__} has none; '
            "convolutions have no sparse kernel: remove their channels with compact"
        )
    # a layer that is not called, whose weight the fused code of attention reads itself, is left alone
    seen = _inputs_of(sparse, layers, inputs)
    for name, layer in layers.items():
        if name not in seen or not bool((layer.weight == 0).any()):
            continue
        fast = SparseLinear(layer)
        if layout == "csr" or _is_faster(fast, layer, seen[name]):
            if name == "":
                sparse = fast
            else:
                sparse.set_submodule(name, fast)
    problem = disagreement(module, sparse, inputs)
    if problem is not None:
        raise ValueError(f"the sparse {type(module).__name__} does not agree: {problem}")
    return sparse


@torch.no_grad()
def _inputs_of(
    module: nn.Module, layers: dict[str, nn.Linear], inputs: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """What each layer gets when the module is run; a layer that is not called is missing."""
    seen: dict[str, Tensor] = {}

    def listen(name: str, layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        def forward(X: Tensor) -> Tensor:
            seen[name] = X
            return type(layer).forward(layer, X)

        return forward

    for name, layer in layers.items():
        layer.forward = listen(name, layer)  # a hook would switch torch's fused attention off
    module(*inputs)
    for layer in layers.values():
        del layer.forward
    return seen


@torch.no_grad()
def _is_faster(fast: nn.Module, slow: nn.Module, x: Tensor) -> bool:
    """Whether one layer takes less time than another, by the median of alternating calls."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(SPARSE_TIMINGS):
        for layer, mine in zip((fast, slow), times, strict=True):
            start = time.perf_counter()
            layer(x)
            mine.append(time.perf_counter() - start)
    return float(np.median(times[0])) < float(np.median(times[1]))
