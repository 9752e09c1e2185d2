r"""Just train twice, for networks: find the records that a first network gets wrong, and give them more weight in a second one.

With E the records that the identification network misclassifies, the second network minimises

.. math::  \lambda_\mathrm{up} \sum_{i \in E} \ell_i(\theta) + \sum_{i \notin E} \ell_i(\theta).

The identification network is stopped early, after T epochs: what it has learnt by then is the easy rule. A network that is
trained on makes no errors on its own records, so that they can also be judged out of fold.

Cost: T + `epochs` epochs; out of fold, `cv` times T instead of T.

Reference: Liu, E. Z., Haghgoo, B., Chen, A. S., Raghunathan, A., Koh, P. W., Sagawa, S., Liang, P. and Finn, C. (2021).
Just train twice: improving group robustness without training group information. International Conference on
Machine Learning, algorithm 1.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from statml._validation import RandomState, as_seed_sequence, check_integer, check_number
from statml.group_robust._estimator import check_weights

from .._estimator import NetClassifier, relative_weights
from .out_of_fold import BASE, out_of_fold


class JTTNet(NetClassifier):
    """Neural network, trained twice.

    Parameters
    ----------
    module, epochs, batch_size, optimizer, lr, weight_decay, device, accelerate, random_state, progress, checkpoint_dir
        As in `NetClassifier`; for both networks.
    upweight : float, default=10.0
        Weight of a misclassified record, lambda_up; the others have weight 1.
    stop : float in (0, 1], default=0.5
        T as a share of `epochs`, rounded up.
    cv : int or None, default=None
        Folds for out-of-fold errors. None: errors on the training records themselves, as in the paper.
    n_jobs : int or None, default=None
        Folds that are trained at once; the result does not depend on it.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``.

    Attributes
    ----------
    error_set_ : ndarray of bool, shape (n,)
        E.
    identification_epochs_ : int
        T.
    classes_, module_, net_, loss_curve_, n_iter_, n_features_in_
        As in `NetClassifier`; of the second network.

    Notes
    -----
    `stop`, `upweight` and `weight_decay` are usually chosen by the accuracy of the worst known group of a validation set, which
    needs group labels. Where labels are noisy, E holds many records whose label is wrong.

    References
    ----------
    Liu et al. (2021), algorithm 1.

    Examples
    --------
    >>> from statml.adapters.group_robust import JTTNet
    >>> from statml.datasets import make_spurious_gaussians
    >>> data = make_spurious_gaussians(random_state=0)
    >>> model = JTTNet(module__hidden=(16,), epochs=10, lr=0.01, random_state=0).fit(data.X, data.y)
    >>> minority = data.y != data.attribute
    >>> bool(model.error_set_[minority].mean() > 5 * model.error_set_[~minority].mean())
    True
    """

    def __init__(
        self,
        module: str | type[nn.Module] | nn.Module = "mlp",
        *,
        epochs: int = 100,
        batch_size: int = 128,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        upweight: float = 10.0,
        stop: float = 0.5,
        cv: int | None = None,
        n_jobs: int | None = None,
        device: str = "cpu",
        accelerate: Mapping[str, Any] | None = None,
        random_state: RandomState = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        **nested: Any,
    ):
        super().__init__(
            module,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            device=device,
            accelerate=accelerate,
            random_state=random_state,
            progress=progress,
            checkpoint_dir=checkpoint_dir,
            **nested,
        )
        self.upweight = upweight
        self.stop = stop
        self.cv = cv
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train twice, each time from new weights on.

        Parameters
        ----------
        X : array-like of shape (n, ...)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,) or None, default=None
            Counts in both trainings.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, or data are unusable.

        Warns
        -----
        UserWarning
            If no record is misclassified: the second network is then trained as the first.
        """
        upweight = check_number("upweight", self.upweight, 0, low_open=True)
        stop = check_number("stop", self.stop, 0, 1, low_open=True)
        epochs = check_integer("epochs", self.epochs, low=0)
        if self.cv is not None:
            check_integer("cv", self.cv, low=2)
        X, y = self._check_data(X, y)
        weight = check_weights(sample_weight, X)
        self.identification_epochs_ = math.ceil(stop * epochs)
        parameters = {
            k: v for k, v in self.get_params(deep=False).items() if k in BASE or "__" in k
        }
        first = NetClassifier(**parameters).set_params(epochs=self.identification_epochs_)
        seed = as_seed_sequence(self.random_state).spawn(1)[0]
        folder = None if self.checkpoint_dir is None else Path(self.checkpoint_dir)
        given = None if sample_weight is None else weight
        if self.cv is None:
            if folder is not None:
                first.set_params(checkpoint_dir=folder / "identification")
            first.set_params(random_state=seed).fit(X, y, sample_weight=given)
            predicted = first._outputs(X).argmax(axis=1)
        else:
            proba, _ = out_of_fold(first, X, y, self.cv, seed, given, self.n_jobs, folder)
            predicted = proba.argmax(axis=1)
        self.error_set_: NDArray[np.bool_] = predicted != y
        if not self.error_set_.any():
            warnings.warn(
                "no record is misclassified, so that the second training is like the first; stop earlier, or use cv",
                stacklevel=2,
            )
        weight = weight * np.where(self.error_set_, upweight, 1.0)
        return self._train(X, y, {"weight": relative_weights(weight)})
