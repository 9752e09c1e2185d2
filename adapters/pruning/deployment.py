"""What a fitted pruning estimator does for its user after training: the plain functions on modules, with the example input kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from . import compaction, onnx_export, sparse_formats, timing

N_EXAMPLES = 32  # records on which smaller networks are compared with the original


class DeploymentMixin:
    """Smaller, faster forms of the fitted network; goes before the base of a `NetEstimator`.

    Attributes
    ----------
    input_shape_ : tuple of int
        Shape of one record.
    """

    def _train(self, X: NDArray, y: NDArray, extras: dict[str, NDArray]) -> Self:
        self.input_shape_ = tuple(int(size) for size in X.shape[1:])
        return super()._train(X, y, extras)

    def compact(self) -> nn.Module:
        """The network without its dead neurons, channels and heads.

        Returns
        -------
        torch Module
            With the same output in evaluation mode; see `statml.adapters.pruning.compact`.
        """
        return compaction.compact(self._deployed(), self._example())

    def to_sparse(self, layout: str = "auto") -> nn.Module:
        """The network with linear layers computed by sparse kernels.

        Parameters
        ----------
        layout : {"auto", "csr"}, default="auto"
            "csr": every linear layer with zeros; "auto": where it is faster here.

        Returns
        -------
        torch Module
            See `statml.adapters.pruning.to_sparse`.
        """
        return sparse_formats.to_sparse(self._deployed(), self._example(), layout)

    def export_onnx(self, path: str | os.PathLike[str]) -> Path:
        """Write the network without its dead units into an ONNX file, checked with onnxruntime.

        Parameters
        ----------
        path : path

        Returns
        -------
        Path
            See `statml.adapters.pruning.export_onnx`.
        """
        return onnx_export.export_onnx(self.compact(), self._example(), path)

    def benchmark(self, X: ArrayLike, n_repeats: int = 20) -> pd.DataFrame:
        """Time the network on this machine: dense, sparse, compact and ONNX.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)
            The batch to time with.
        n_repeats : int, default=20

        Returns
        -------
        DataFrame
            See `statml.adapters.pruning.benchmark`.
        """
        module = self._deployed()
        X = validate_data(self, X, reset=False, dtype=np.float32, allow_nd=True)
        return timing.benchmark(module, torch.from_numpy(np.ascontiguousarray(X)), n_repeats)

    def sparsity_report(self) -> pd.DataFrame:
        """Zeros and true bytes of every tensor of the network, and of the whole.

        Returns
        -------
        DataFrame
            See `statml.adapters.pruning.sparsity_report`.
        """
        return sparse_formats.sparsity_report(self._deployed())

    def _deployed(self) -> nn.Module:
        check_is_fitted(self, "net_")
        return self.module_

    def _example(self) -> Tensor:
        """Inputs of the right shape; random, since what is removed holds for every input."""
        draws = np.random.default_rng(0).standard_normal((N_EXAMPLES, *self.input_shape_))
        device = next((p.device for p in self.module_.parameters()), torch.device("cpu"))
        return torch.from_numpy(draws.astype(np.float32)).to(device)

    # files: `save` and `load` of the base store weights with many zeros as bitmap and values

    @staticmethod
    def _packed(tensors: dict[str, Tensor]) -> dict[str, Any]:
        return sparse_formats.pack(tensors)

    @staticmethod
    def _unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return sparse_formats.unpack(tensors)
