"""Fitted networks in files: what `NetClassifier` and all that build on it write, and read without running code.

A file (`_files`) has the weights as tensors, and in its header the parameters and what else `fit` learned, as plain data. A method
whose fitted attributes are more than numbers, arrays, strings and tables overrides ``_fitted_attributes`` and ``load``.
"""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from statml._plain import from_plain, to_plain

from ._files import read_model, write_model

FORMAT = "statml network 1"


class SavedNet:
    """The part of an estimator that writes it into a file and reads it back."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted network into one safetensors file.

        Parameters
        ----------
        path : path
            The file holds the weights, the parameters and what `fit` learned. A module of one's own is not in it:
            hand it to `load`.
        """
        check_is_fitted(self, "net_")
        arrays: list[np.ndarray] = []
        parameters = self._parameters_to_save()
        code = {name: repr(value) for name, value in parameters.items() if not is_plain(value)}
        plain = {name: value for name, value in parameters.items() if name not in code}
        header = {
            "class": type(self).__name__,
            "parameters": to_plain(plain, arrays, "the parameters"),
            "code": code,  # what they were, for the error of `load`
            "fitted": to_plain(self._fitted_attributes(), arrays, "what fit learned"),
        }
        tensors = self._packed(
            {f"module.{k}": v.contiguous().cpu() for k, v in self.module_.state_dict().items()}
        )
        tensors |= {f"array.{k}": torch.from_numpy(np.array(a)) for k, a in enumerate(arrays)}
        write_model(path, FORMAT, tensors, header)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        module: type[nn.Module] | nn.Module | None = None,
        **code: Any,
    ) -> Self:
        """Read what `save` wrote; no code in the file is run.

        Parameters
        ----------
        path : path
        module : torch Module or a function that makes one, optional
            The one that was fitted, if it was not the default.
        **code
            Other parameters that are code (``optimizer``, a class), by name.

        Returns
        -------
        estimator
            Fitted, on the CPU.

        Raises
        ------
        ValueError
            If the file is of another class or was changed after it was written, or if its weights do not fit `module`.
        """
        tensors, header = read_model(path, FORMAT)
        if header["class"] != cls.__name__:
            raise ValueError(f"{str(path)!r} holds a {header['class']}, not a {cls.__name__}")
        tensors = cls._unpacked(tensors)
        n_arrays = sum(name.startswith("array.") for name in tensors)
        arrays = [tensors[f"array.{k}"].numpy() for k in range(n_arrays)]
        parameters = from_plain(header["parameters"], arrays)
        if module is not None:
            code["module"] = module
        for name, what in header["code"].items():
            if name not in code:
                raise ValueError(
                    f"{str(path)!r} was written with {name}={what}; hand it over as `{name}`"
                )
        parameters |= code
        estimator = cls(**parameters).set_params(device="cpu", accelerate=None)
        for name, value in from_plain(header["fitted"], arrays).items():
            setattr(estimator, name, as_fitted(value))
        with torch.random.fork_rng(devices=[]):  # the draws of weights that are overwritten
            network = estimator._make_module(estimator._n_inputs)
        weights = {
            k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")
        }
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"the weights in {str(path)!r} do not fit the module: {error}"
            ) from error
        estimator.net_ = estimator._make_net(network, torch.Generator(), 0, plain=True)
        return estimator

    def _parameters_to_save(self) -> dict[str, Any]:
        """The constructor's arguments; what is not plain data is code, to be handed to `load`."""
        kept_out = ("checkpoint_dir", "random_state", "progress", "callbacks__")
        return {
            name: value
            for name, value in self.get_params(deep=False).items()
            if not name.startswith(kept_out)
        }

    @staticmethod
    def _packed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights by name as they go into a file; `_unpacked` undoes it."""
        return tensors

    @staticmethod
    def _unpacked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return tensors

    def _fitted_attributes(self) -> dict[str, Any]:
        """What `fit` learned beside the weights."""
        return {
            name: as_plain(value)
            for name, value in vars(self).items()
            if (name.endswith("_") or name in ("_n_outputs", "_n_inputs", "_flat"))
            and not name.startswith("__")
            and name != "net_"
        }


def is_plain(value: Any) -> bool:
    """Whether a value can stand in a header."""
    try:
        to_plain(value, [], "")
    except TypeError:
        return False
    return True


def as_plain(value: Any) -> Any:
    """A table as its columns, and strings in an array of objects (names of columns or classes) as a list; `as_fitted` undoes it."""
    if isinstance(value, pd.DataFrame):
        rows = None if isinstance(value.index, pd.RangeIndex) else as_plain(value.index.to_numpy())
        return {
            "table": {name: as_plain(column.to_numpy()) for name, column in value.items()},
            "rows": rows,
            "name": value.index.name,
        }
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        if not all(isinstance(v, str) for v in value):
            raise TypeError(
                f"labels must be numbers, booleans or strings to be saved, got {value[:3]}"
            )
        return {"strings": [str(v) for v in value]}
    return value


def as_fitted(value: Any) -> Any:
    """What `as_plain` was given."""
    if isinstance(value, dict) and set(value) == {"table", "rows", "name"}:
        table = pd.DataFrame({name: as_fitted(column) for name, column in value["table"].items()})
        if value["rows"] is not None:
            table.index = pd.Index(as_fitted(value["rows"]), name=value["name"])
        return table
    if isinstance(value, dict) and set(value) == {"strings"}:
        return np.array(value["strings"], dtype=object)
    return value
