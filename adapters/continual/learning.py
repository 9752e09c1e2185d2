"""How `OpenVAEClassifier` learns a task: what is held out, what is replayed, how the net grows, and what is kept.

The order of things in `TaskLearner.partial_fit`: check the records; hold a share of them out; replay the classes known before;
train the grown net on both; learn where the classes live (`regions`); calibrate the scores of rejection on what was held out
(`rejection`); store what the replay lives on. The estimator that inherits this holds the parameters and does the judging.
"""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight
from torch import nn

from statml._validation import (
    as_seed_sequence,
    check_choice,
    check_integer,
    check_number,
    check_sequence,
)

from .._estimator import NetClassifier, relative_weights
from .likelihoods import LIKELIHOODS
from .regions import learn_regions
from .regularization import REGULARIZATIONS
from .rejection import SCORES, Typicality
from .replay import REPLAYS, Past, Replayed
from .saved_bounds import bound_as_plain, bound_from_plain
from .selection import select_exemplars
from .trained import Trained
from .training import OpenVAENet
from .vae import CODERS, VAE
from .weibull import WeibullBound

HIDDEN = {"mlp": (400, 400), "conv": (32, 64)}


class TaskLearner(NetClassifier):
    """Base of `OpenVAEClassifier`: learns task after task, and keeps itself in files."""

    _net_class = OpenVAENet

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Forget everything and learn one task.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)
            In [0, 1] under the Bernoulli likelihood.
        y : array-like of shape (n_records,)
        sample_weight : array-like of shape (n_records,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As `partial_fit`.
        """
        for name in [k for k in vars(self) if k.endswith("_") and not k.startswith("__")]:
            delattr(self, name)
        return self.partial_fit(X, y, sample_weight=sample_weight)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn one more task; labels not seen before add rows to the classifier.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)
            Records of this task, of the shape of the first task's.
        y : array-like of shape (n_records,)
            Old labels, new ones, or both.
        classes : array-like, optional
            Taken for scikit-learn's sake; classes need not be known before they come.
        sample_weight : array-like of shape (n_records,), optional
            Replayed records weigh 1.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For NaN, values outside [0, 1] under the Bernoulli likelihood, another shape or another kind of label than the
            first task's, or one record only.
        """
        first = not getattr(self, "n_tasks_", 0)  # nor after a first task that broke off
        X, y, weight = self._check_task(X, y, sample_weight, first)
        if first:
            self._begin(X)
        known = len(self.classes_)
        new = np.setdiff1d(y, self.classes_)
        self.classes_ = np.concatenate([self.classes_, new]) if known else new
        codes = self._encoded(y)
        streams = np.random.SeedSequence([*self.seed_.tolist(), self.n_tasks_]).spawn(3)
        self._training_seeds = streams[0]
        rng = np.random.default_rng(streams[1])

        held_out = self._hold_out(codes, rng)
        new_X, new_codes = X[~held_out], codes[~held_out]
        replayed = self._replayed(known, rng)
        train_X = np.concatenate([new_X, replayed.X])
        train_codes = np.concatenate([new_codes, replayed.y])
        if len(train_X) < 2:
            raise ValueError("a task needs at least two records to train on, got n_samples = 1")
        extras = {}
        if weight is not None:
            one = np.ones(len(replayed.X), dtype=np.float32)
            extras["weight"] = np.concatenate([weight[~held_out], one])
        self._n_outputs = len(self.classes_)
        self._penalty = REGULARIZATIONS[self.regularization](
            self.regularization_strength, None if first else self.module_, self.consolidated_
        )
        self._train(train_X, train_codes, extras)
        self.consolidated_ = self._penalty.consolidate(self.module_, new_X, rng)
        del self._penalty, self._training_seeds

        self._note(codes, len(train_X), replayed)
        self.calibration_ = tuple(
            np.concatenate(pair)
            for pair in zip(self.calibration_, (X[held_out], codes[held_out]), strict=True)
        )
        self._learn_regions(train_X, train_codes, np.random.default_rng(streams[2]))
        self._store(new_X, new_codes, rng)
        return self

    # --- before the training ----------------------------------------------------------------------------

    def _check_task(self, X, y, sample_weight, first: bool):
        check_choice("architecture", self.architecture, CODERS)
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        check_choice("reject_by", self.reject_by, (*SCORES, "bound"))
        if not callable(self.replay):
            check_choice("replay", self.replay, REPLAYS)
        if self.regularization not in REGULARIZATIONS:
            raise ValueError(
                f'regularization must be None, "ewc" or "lwf", got {self.regularization!r}'
            )
        if check_number("introspection", self.introspection, 0) > 0:
            if not LIKELIHOODS[self.likelihood].differentiable:
                raise ValueError(
                    "introspection needs records through which gradients pass: likelihood must not be "
                    f"{self.likelihood!r}"
                )
            if self.accelerate is not None:
                raise ValueError("introspection makes steps of its own: accelerate must be None")
        if self.omega_replay != "auto":
            check_number("omega_replay", self.omega_replay, 0, 1, low_open=True)
        check_integer("n_latent_samples", self.n_latent_samples, low=1)
        X, y = self._as_float32(X, y, reset=first)
        check_classification_targets(y)
        if not first and X.shape[1:] != self.shape_:
            raise ValueError(
                f"X holds records of shape {X.shape[1:]}, the first task's were {self.shape_}"
            )
        if not first and kind(y) != kind(self.classes_):
            raise ValueError(
                f"y holds {kind(y)}, the labels of earlier tasks are {kind(self.classes_)}: "
                f"{np.asarray(y)[0]!r} against {self.classes_[0]!r}"
            )
        self._check_range(X)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
            weight = relative_weights(weight)
        return X, y, weight

    def _check_range(self, X: NDArray[np.float32]) -> None:
        if self.likelihood != "gaussian" and len(X) and (X.min() < 0 or X.max() > 1):
            raise ValueError(
                f"X must lie in [0, 1] under likelihood={self.likelihood!r}, got values from {X.min():g} to {X.max():g}; "
                'rescale it, or take likelihood="gaussian"'
            )

    def _begin(self, X: NDArray[np.float32]) -> None:
        """The state before the first task."""
        nothing = (X[:0], np.empty(0, dtype=np.int64))
        self.seed_ = as_seed_sequence(self.random_state).generate_state(4).astype(np.int64)
        self.classes_ = np.empty(0, dtype=np.int64)
        self.shape_ = tuple(X.shape[1:])
        self._n_inputs = int(X[0].size)
        self.n_seen_ = np.zeros(0, dtype=np.int64)
        self.n_tasks_ = self.n_updates_ = self.n_generated_ = 0
        self.history_, self.acceptance_ = [], []
        self.exemplars_ = self.calibration_ = nothing
        self.consolidated_: dict[str, NDArray] = {}

    def _encoded(self, y: NDArray) -> NDArray[np.int64]:
        order = np.argsort(self.classes_)
        return order[np.searchsorted(self.classes_, y, sorter=order)].astype(np.int64)

    def _hold_out(self, codes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """The share of each class that calibrates the rejection."""
        share = check_number("calibration", self.calibration, 0, 1, high_open=True)
        held_out = np.zeros(len(codes), dtype=bool)
        for c in np.unique(codes):
            own = rng.permutation(np.flatnonzero(codes == c))
            held_out[own[: int(share * len(own))]] = True
        return held_out

    def _replayed(self, n_known: int, rng: np.random.Generator) -> Replayed:
        """What stands in for the classes known before this task."""
        if n_known == 0:
            return Replayed(*self.exemplars_, np.empty(0))
        n = int(self.n_seen_.sum())
        if self.replay_size != "seen":
            n = check_integer("replay_size", self.replay_size, low=0)
        replay = self.replay if callable(self.replay) else REPLAYS[self.replay]
        replayed = replay(self._past(rng), n, rng)
        if replayed.starved:
            warnings.warn(
                f"too few draws lie within the bound for class {', '.join(str(c) for c in self.classes_[replayed.starved])}: "
                "replay fills up with those least far out; longer training, a larger beta or omega_replay help",
                stacklevel=3,
            )
        return replayed

    def _past(self, rng: np.random.Generator) -> Past:
        omega = self.omega_replay
        if omega == "auto":
            omega = 0.5 if self.replay == "aggregate" else 0.01
        trained = self._trained()
        return Past(
            decode=lambda Z: trained.decode(Z, rng),
            weights=trained.weights,
            bound=self.replay_bound_,
            omega=omega,
            means=self.class_means_,
            covariances=self.class_covariances_,
            stored=self.exemplars_,
        )

    # --- the training -----------------------------------------------------------------------------------

    def _make_module(self, n_inputs: int) -> nn.Module:
        if hasattr(self, "net_"):
            module = copy.deepcopy(self.module_)
            module.grow(self._n_outputs)
            return module
        hidden = HIDDEN[self.architecture] if self.hidden is None else self.hidden
        hidden = tuple(
            check_integer("hidden", units, low=1)
            for units in check_sequence("hidden", hidden, "integers")
        )
        latent_dim = check_integer("latent_dim", self.latent_dim, low=1)
        if self.architecture == "conv" and self.encoder is None and len(self.shape_) not in (2, 3):
            raise ValueError(
                f'architecture="conv" takes images, (height, width) or (channels, height, width), got records of '
                f"shape {self.shape_}"
            )
        likelihood = LIKELIHOODS[self.likelihood](self.shape_)
        encoder, decoder, width = CODERS[self.architecture](
            self.shape_, latent_dim, hidden, likelihood.decoded_shape
        )
        if self.encoder is not None:
            encoder = copy.deepcopy(self.encoder)
            with torch.no_grad():
                width = encoder.eval()(torch.zeros(1, *self.shape_)).flatten(1).shape[1]
            encoder.train()
        if self.decoder is not None:
            decoder = copy.deepcopy(self.decoder)
        noise = check_number("noise", self.noise, 0)
        return VAE(
            self.shape_, self._n_outputs, encoder, decoder, width, latent_dim, noise, likelihood
        )

    def _net_arguments(self) -> dict[str, Any]:
        return {
            "beta": check_number("beta", self.beta, 0),
            "introspection": float(self.introspection),
            "penalty": getattr(self, "_penalty", None),
        }

    def _finish(self, net: OpenVAENet) -> None:
        net.penalty = None
        super()._finish(net)

    def _seeds(self) -> np.random.SeedSequence:
        return self._training_seeds

    def _n_epochs(self, n_records: int) -> int:
        epochs = super()._n_epochs(n_records)
        if self.max_steps is None:
            return epochs
        steps = check_integer("max_steps", self.max_steps, low=1)
        a_epoch = -(-n_records // check_integer("batch_size", self.batch_size, low=1))
        return min(epochs, -(-steps // a_epoch))

    def _checkpoint_folder(self) -> Path:
        return super()._checkpoint_folder() / f"task_{self.n_tasks_}"

    # --- after the training -----------------------------------------------------------------------------

    def _note(self, codes: NDArray[np.int64], n_records: int, replayed: Replayed) -> None:
        """What the task was, for the record."""
        if self.n_tasks_:
            self.acceptance_.append(replayed.acceptance)
        self.n_updates_ += self.n_iter_ * -(-n_records // self.batch_size)
        self.n_generated_ += 0 if self.replay in ("exemplar", "joint") else len(replayed.X)
        self.n_seen_ = np.pad(self.n_seen_, (0, len(self.classes_) - len(self.n_seen_)))
        self.n_seen_ += np.bincount(codes, minlength=len(self.classes_))
        for row in self.net_.history:
            values = {name: row[name] for name in ("epoch", *OpenVAENet.recorded)}
            self.history_.append({"task": self.n_tasks_, **values})
        self.n_tasks_ += 1

    def _trained(self) -> Trained:
        """The model as functions of arrays."""
        rng = np.random.default_rng(self.seed_)
        draws = rng.standard_normal((self.n_latent_samples, self.module_.mean.out_features))
        draws -= draws.mean(axis=0)  # a single draw is the mean itself
        return Trained(self.module_, self.net_.device or "cpu", draws)

    def _learn_regions(self, X, codes, rng: np.random.Generator) -> None:
        """Where the classes' latents are, and what is usual of their records, from what the last task trained on."""
        trained = self._trained()
        previous = None
        if hasattr(self, "class_means_"):
            previous = (self.class_means_, self.class_covariances_)
        bound = clone(self.bound) if self.bound is not None else WeibullBound()
        regions = learn_regions(trained, X, codes, self.calibration_, bound, previous, rng)
        self.class_means_, self.class_covariances_ = regions.means, regions.covariances
        self.bound_, self.replay_bound_ = regions.bound, regions.replay_bound
        if regions.starved.any():
            starved = ", ".join(str(c) for c in self.classes_[regions.starved])
            warnings.warn(
                f"too few correctly classified records of class {starved} for a bound of their own: it leans on that of "
                "all classes together",
                stacklevel=3,
            )
        typical = Typicality.of(trained, X, codes, regions.means)
        self.latent_covariance_ = typical.covariance
        self.typical_errors_ = np.stack([typical.centre, typical.spread])
        held_out = self.calibration_[0]
        self.calibration_scores_ = np.empty((0, len(SCORES) - 1))
        if len(held_out):
            self.calibration_scores_ = typical.scores(trained, held_out)

    def _store(self, X: NDArray[np.float32], codes: NDArray[np.int64], rng) -> None:
        """Keep records, if the replay lives on stored ones."""
        if self.replay not in ("exemplar", "joint"):
            return
        old_X, old_codes = self.exemplars_
        X, codes = np.concatenate([old_X, X]), np.concatenate([old_codes, codes])
        if self.replay == "exemplar":
            size = check_integer("memory_size", self.memory_size, low=1)
            chosen = self._select(X, codes, size, self.selector, None, rng)
            X, codes = X[chosen], codes[chosen]
        self.exemplars_ = (X, codes)

    def _select(self, X, codes, m, method, band, rng, refused=None) -> NDArray[np.int64]:
        trained = self._trained()
        mean, scale = trained.encode(X)
        return select_exemplars(
            mean,
            codes,
            m,
            method,
            bound=self.bound_,
            class_proba=trained.class_proba(mean, scale),
            band=band,
            refused=refused,
            random_state=rng,
        )

    # --- files ------------------------------------------------------------------------------------------

    def _parameters_to_save(self) -> dict[str, Any]:
        parameters = super()._parameters_to_save()
        if self.bound is not None:
            parameters["bound"] = bound_as_plain(self.bound)
        return parameters

    def _fitted_attributes(self) -> dict[str, Any]:
        kept = super()._fitted_attributes()
        for name in ("bound_", "replay_bound_"):
            kept[name] = bound_as_plain(kept[name])
        return kept

    @classmethod
    def load(cls, path: str | os.PathLike, module: Any = None, **code: Any) -> Self:
        estimator = super().load(path, module, **code)
        for name in ("bound", "bound_", "replay_bound_"):
            if getattr(estimator, name) is not None:
                setattr(estimator, name, bound_from_plain(getattr(estimator, name)))
        return estimator


def kind(labels: NDArray) -> str:
    """Strings or numbers."""
    return "strings" if np.asarray(labels).dtype.kind in "OUS" else "numbers"
