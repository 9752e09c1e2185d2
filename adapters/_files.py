"""Files of networks: none of them runs code when it is read, and one that was cut off or changed is refused.

A fitted model is a safetensors file: tensors, and a header in JSON as its metadata. The state of an unfinished training is
torch's own file, read with ``weights_only=True``. Both carry a checksum of everything in them, and both are written under another name and
renamed, so that they are there in full or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

N_BYTES = hashlib.sha256().digest_size


def write_model(
    path: str | os.PathLike[str], kind: str, tensors: dict[str, Tensor], header: dict[str, Any]
) -> None:
    """Write tensors and a header into one safetensors file.

    Parameters
    ----------
    path : path
    kind : str
        What the file is; `read_model` asks for the same.
    tensors : dict of str to Tensor
        On the CPU, contiguous.
    header : dict
        Anything that JSON can hold.
    """
    _write(path, model_bytes(kind, tensors, header))


def model_bytes(kind: str, tensors: dict[str, Tensor], header: dict[str, Any]) -> bytes:
    """The content of the file of `write_model`."""
    from safetensors.torch import save

    metadata = {"format": kind, "header": json.dumps(header), "sha256": digest(tensors, header)}
    return save(tensors, metadata)


def read_model(
    path: str | os.PathLike[str], kind: str, writer: str = "statml"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file of `write_model`.

    Parameters
    ----------
    path : path
    kind : str
    writer : str, default="statml"
        Who writes such files, for the error.

    Returns
    -------
    dict of str to Tensor, dict

    Raises
    ------
    ValueError
        If the file is of another kind, damaged, or was changed after it was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no safetensors file: {error}") from error
    if metadata.get("format") != kind:
        raise ValueError(f"{str(path)!r} was not written by {writer}")
    try:
        header = json.loads(metadata["header"])
        whole = metadata["sha256"] == digest(tensors, header)
    except (KeyError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"{str(path)!r} was changed after it was written (its checksum differs)")
    return tensors, header


def digest(tensors: dict[str, Tensor], header: dict[str, Any]) -> str:
    """Checksum of everything in a file."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        values = tensors[name].contiguous()
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(
            values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b""
        )
    return found.hexdigest()


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, None, and lists and dicts of these; torch reads the file, too.

    Parameters
    ----------
    path : Path
    state : dict
    """
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    with partial.open("r+b") as file:
        checksum = hashlib.file_digest(file, "sha256").digest()
        file.write(checksum)  # behind what torch wrote, which it does not look at
    partial.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If the file is damaged or of another kind.
    """
    content = path.read_bytes()
    if hashlib.sha256(content[:-N_BYTES]).digest() != content[-N_BYTES:]:
        raise ValueError(
            f"{str(path)!r} is damaged, so that nothing is known of the run that checkpoint_dir holds. "
            "Name another folder, or delete this one to start anew."
        )
    return torch.load(path, weights_only=True)


def _write(path: str | os.PathLike[str], content: bytes) -> None:
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
