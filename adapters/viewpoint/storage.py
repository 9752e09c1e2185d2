"""Files of a policy: weights and plain data in one safetensors file, and the state of an interrupted training.

Neither runs code when it is read. A safetensors file carries a checksum of everything in it, so that one that was changed is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from .._files import read_model, read_state, write_model, write_state

FORMAT = "statml viewpoint policy 1"


def write_policy(path: str | os.PathLike, weights: dict[str, Tensor], header: dict) -> None:
    """Write weights and a header (anything JSON can hold) into one safetensors file."""
    tensors = {name: values.detach().contiguous().cpu() for name, values in weights.items()}
    write_model(path, FORMAT, tensors, header)


def read_policy(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """Weights and header of a file that `write_policy` wrote; ValueError for any other."""
    return read_model(path, FORMAT, "ViewpointPolicy.save")


class Checkpoint:
    """The state of one training in a folder; None as the folder keeps nothing.

    Parameters
    ----------
    folder : path or None
    identity : dict of str
        What makes the run this run; a folder with another identity is refused.
    """

    def __init__(self, folder: str | os.PathLike | None, identity: dict[str, str]):
        self.path = None if folder is None else Path(folder) / "training.pt"
        self.identity = identity
        self.constant: dict[str, Any] = {}  # written with every state

    def read(self) -> dict[str, Any] | None:
        """The state last written, or None at the start of a run."""
        if self.path is None or not self.path.exists():
            return None
        state = read_state(self.path)
        other = {
            name: state["identity"].get(name)
            for name, value in self.identity.items()
            if state["identity"].get(name) != value
        }
        if other:
            differences = "; ".join(
                f"{name} was {value}, now is {self.identity[name]}" for name, value in other.items()
            )
            raise ValueError(
                f"checkpoint_dir {str(self.path.parent)!r} holds another run: {differences}. "
                "Name another folder, or delete this one to start anew."
            )
        return state

    def write(self, **state: Any) -> None:
        """Write tensors, numbers, strings, and dicts and lists of these."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_state(self.path, {"identity": self.identity, **self.constant, **state})
