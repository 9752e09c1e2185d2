r"""Open-set aware continual learning with one variational autoencoder (OpenVAE).

A task arrives as one `partial_fit`. The old tasks' data are gone; what is left is a joint model of records and classes (`vae`),
and, for each class, the region of the latent space that its records fill: the aggregate posterior and a bound on it
(`bound`). Three uses of the same bound:

1. **Remember.** Old classes are replayed by decoding latents, but only from inside the bound (`replay`).
2. **Reject.** A record beyond the bound is unknown, however sure a softmax is of it (`rejection`).
3. **Ask.** Queries go to records far from what is known but not beyond the bound, where noise begins (`queries`).

After each task the encoder sees the training records, replayed ones included; those that are classified correctly give each
class's mean, covariance and Weibull tail of distances.

References
----------
Mundt, M., Hong, Y., Pliushch, I. and Ramesh, V. (2023). A wholistic view of continual learning with deep neural networks:
forgotten lessons and the bridge to active and open world learning. Neural Networks 160, 306-336.
Mundt, M., Pliushch, I., Majumder, S., Hong, Y. and Ramesh, V. (2022). Unified probabilistic deep continual learning through
generative replay and open set recognition. Journal of Imaging 8, 93.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import nn

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_choice,
    check_integer,
    check_number,
)

from .._estimator import PREDICT_BATCH, NetClassifier
from .bound import Bound
from .conformal import ConformalBound
from .queries import QueryResult, query_pool
from .regularization import REGULARIZATIONS
from .rejection import SCORES, Typicality, p_values
from .replay import REPLAYS, Past, Replayed
from .replay.aggregate import aggregate_posterior
from .saved_bounds import bound_as_plain, bound_from_plain
from .selection import select_exemplars
from .task_order import choose_task
from .training import OpenVAENet
from .vae import CODERS, VAE, kl_divergence, reconstruction_nll
from .weibull import WeibullBound

Array = NDArray[np.float64]
HIDDEN = {"mlp": (400, 400), "conv": (32, 64)}
ABSENT_DRAWS = 500  # that stand for the latents of a class of which the last task had no record


class OpenVAEClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NetClassifier):
    """Classifier that learns task after task, remembers by replaying, and knows what it does not know.

    Parameters
    ----------
    architecture : {"mlp", "conv"}, default="mlp"
        "conv" takes images of any size, (n, height, width) or (n, channels, height, width).
    hidden : sequence of int or None, default=None
        Widths of the encoder's layers, of which the decoder is the mirror image; for "conv" the channels of convolutions that
        halve the image. None: (400, 400) and (32, 64).
    latent_dim : int, default=60
    beta : float, default=0.1
        Weight of the divergence from the prior, per latent dimension (see `vae`).
    noise : float, default=0.25
        Standard deviation of what is added to the inputs in training; the targets stay clean.
    likelihood : {"bernoulli", "gaussian"}, default="bernoulli"
        "bernoulli" for values in [0, 1]; "gaussian" for any, with unit variance.
    encoder, decoder : torch Module or None, default=None
        In place of the architecture's: from a record to features, and from (n, latent_dim) to a record.
    replay : {"aggregate", "openset", "prior", "exemplar", "joint", "none"} or function, default="aggregate"
        What stands in for earlier tasks: draws from each class's aggregate posterior, draws from the prior inside the bound
        (the paper's), any draws from the prior, `memory_size` stored records, all records (the upper bound of continual
        learning) or nothing (the lower). Or a function ``(past, n, rng) -> Replayed``.
    omega_replay : float in (0, 1] or "auto", default="auto"
        Outlier probability under which a draw is kept. "auto": the paper's 0.01, but 0.5 for "aggregate", whose draws need less
        rejection: at 0.01 they lie so close to the means that they vary too little.
    replay_size : "seen" or int, default="seen"
        Number of replayed records; "seen": as many as there were.
    memory_size : int, default=0
        Records to store in all, for ``replay="exemplar"``.
    selector : str or function, default="herding"
        How they are chosen, see `select_exemplars`.
    regularization : {None, "ewc", "lwf"}, default=None
        Elastic weight consolidation or learning without forgetting, the usual baselines.
    regularization_strength : float, default=1.0
    bound : Bound or None, default=None
        What a region is: None for ``WeibullBound()``, the paper's; `PeaksOverThresholdBound`, `ConformalBound`.
    reject_by : {"combined", "latent", "reconstruction", "entropy", "softmax", "bound"}, default="combined"
        Score by which ``predict(reject=True)`` refuses, calibrated on held-out records; "bound" is the outlier probability of
        `bound` as it is.
    reject_alpha : float, default=0.05
        Share of known records that may be rejected.
    calibration : float in [0, 1), default=0.1
        Share of each task's records that is held out and kept, not for training but to calibrate the rejection. With 0
        nothing is kept, and only ``reject_by="bound"`` is to be had.
    n_latent_samples : int, default=100
        Latents over which class probabilities are averaged.
    epochs : int, default=120
        For each task.
    max_steps : int or None, default=None
        End a task's training with the epoch in which this number of steps is reached.
    batch_size, optimizer, lr, weight_decay, device, accelerate, random_state, progress
        As in `NetClassifier`.
    checkpoint_dir : path or None, default=None
        As in `NetClassifier`; each task has a folder in it.
    **nested
        ``optimizer__*``, ``iterator_train__*``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        In the order of their arrival, those of one task sorted.
    n_tasks_ : int
    n_seen_ : ndarray of int, shape (n_classes,)
        Real records of each class so far.
    module_ : VAE
    bound_ : Bound
        On latent means; its labels are positions in ``classes_``.
    replay_bound_ : WeibullBound
        On sampled latents, in the cosine distance.
    class_means_, class_covariances_ : ndarray of shape (n_classes, d) and (n_classes, d, d)
        Of the aggregate posterior.
    exemplars_ : tuple of ndarray (m, ...) and ndarray (m,)
        Stored records and their positions in ``classes_``; empty unless `replay` stores any.
    history_ : list of dict
        Of every epoch: task, epoch, train_loss, class_loss, reconstruction, divergence.
    n_updates_, n_generated_, n_stored_, n_parameters_ : int
        Steps of training, records replayed by the decoder, real records kept (for replay or calibration), weights.
    acceptance_ : list of ndarray
        For each task but the first, the share of draws that was replayed, by class.

    Notes
    -----
    With the cosine distance most of the prior lies beyond the bound; with Euclid's nearly nothing does, since prior draws have
    small norms. Replay therefore always uses the cosine, whatever `bound` is for rejection and queries.

    A class that no later task shows, under ``replay="none"``, keeps the region it had; the encoder moves on.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = OpenVAEClassifier(hidden=(64,), latent_dim=10, max_steps=150, random_state=0)
    >>> for task in [(0, 1), (2, 3)]:
    ...     chosen = (y == task[0]) | (y == task[1])
    ...     model = model.partial_fit(X[chosen] / 16, y[chosen])
    >>> model.classes_
    array([0, 1, 2, 3])
    >>> (model.predict(X[:4] / 16) == y[:4]).mean() > 0.5
    np.True_
    """

    _net_class = OpenVAENet

    def __init__(
        self,
        architecture: str = "mlp",
        *,
        hidden: Sequence[int] | None = None,
        latent_dim: int = 60,
        beta: float = 0.1,
        noise: float = 0.25,
        likelihood: str = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        replay: str | Any = "aggregate",
        omega_replay: float | str = "auto",
        replay_size: str | int = "seen",
        memory_size: int = 0,
        selector: str | Any = "herding",
        regularization: str | None = None,
        regularization_strength: float = 1.0,
        bound: Bound | None = None,
        reject_by: str = "combined",
        reject_alpha: float = 0.05,
        calibration: float = 0.1,
        n_latent_samples: int = 100,
        epochs: int = 120,
        max_steps: int | None = None,
        batch_size: int = 128,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        device: str = "cpu",
        accelerate: Mapping[str, Any] | None = None,
        random_state: RandomState = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        **nested: Any,
    ):
        self.architecture = architecture
        self.hidden = hidden
        self.latent_dim = latent_dim
        self.beta = beta
        self.noise = noise
        self.likelihood = likelihood
        self.encoder = encoder
        self.decoder = decoder
        self.replay = replay
        self.omega_replay = omega_replay
        self.replay_size = replay_size
        self.memory_size = memory_size
        self.selector = selector
        self.regularization = regularization
        self.regularization_strength = regularization_strength
        self.bound = bound
        self.reject_by = reject_by
        self.reject_alpha = reject_alpha
        self.calibration = calibration
        self.n_latent_samples = n_latent_samples
        self.epochs = epochs
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.device = device
        self.accelerate = accelerate
        self.random_state = random_state
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir
        vars(self).update(nested)

    # --- learning ---------------------------------------------------------------------------------------

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
        first = not hasattr(self, "n_tasks_")
        X, y, weight = self._check_task(X, y, sample_weight, first)
        task = 0 if first else self.n_tasks_
        if first:
            root = as_seed_sequence(self.random_state).generate_state(4)
            self._begin(X, root.astype(np.int64))
        known = self.classes_
        new = np.unique(y)
        self.classes_ = new if first else np.concatenate([known, np.setdiff1d(new, known)])
        codes = self._encoded(y)
        streams = np.random.SeedSequence([*self.seed_.tolist(), task]).spawn(3)
        self._training_seeds = streams[0]
        rng = np.random.default_rng(streams[1])

        held_out = self._hold_out(codes, rng)
        new_X, new_y = X[~held_out], codes[~held_out]
        replayed = self._replayed(len(known), rng)
        train_X = np.concatenate([new_X, replayed.X])
        train_y = np.concatenate([new_y, replayed.y])
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
        self._train(train_X, train_y, extras)

        self.n_tasks_ = task + 1
        self.n_updates_ += self.n_iter_ * -(-len(train_X) // self.batch_size)
        self.n_generated_ += 0 if self.replay in ("exemplar", "joint") else len(replayed.X)
        self.n_seen_ = np.pad(self.n_seen_, (0, len(self.classes_) - len(self.n_seen_)))
        self.n_seen_ += np.bincount(codes, minlength=len(self.classes_))
        for row in self.net_.history:
            self.history_.append(
                {"task": task, **{name: row[name] for name in ("epoch", *OpenVAENet.recorded)}}
            )
        if not first:
            self.acceptance_.append(replayed.acceptance)
        self.consolidated_ = self._penalty.consolidate(self.module_, new_X, rng)
        del self._penalty, self._training_seeds
        self._learn_regions(train_X, train_y, (X[held_out], codes[held_out]), streams[2])
        self._store(new_X, new_y, rng)
        return self

    def _begin(self, X: NDArray[np.float32], seed: NDArray[np.int64]) -> None:
        self.seed_ = seed
        self.classes_ = np.empty(0, dtype=np.int64)
        self.shape_ = tuple(X.shape[1:])
        self._n_inputs = int(X[0].size)
        self.n_seen_ = np.zeros(0, dtype=np.int64)
        self.n_updates_ = self.n_generated_ = 0
        self.history_, self.acceptance_ = [], []
        self.exemplars_ = (X[:0], np.empty(0, dtype=np.int64))
        self.calibration_ = (X[:0], np.empty(0, dtype=np.int64))
        self.consolidated_: dict[str, NDArray] = {}

    def _check_task(self, X, y, sample_weight, first: bool):
        from sklearn.utils.validation import _check_sample_weight

        check_choice("architecture", self.architecture, CODERS)
        check_choice("likelihood", self.likelihood, ("bernoulli", "gaussian"))
        check_choice("reject_by", self.reject_by, (*SCORES, "bound"))
        if not callable(self.replay):
            check_choice("replay", self.replay, REPLAYS)
        if self.regularization not in REGULARIZATIONS:
            raise ValueError(
                f'regularization must be None, "ewc" or "lwf", got {self.regularization!r}'
            )
        if self.omega_replay != "auto":
            check_number("omega_replay", self.omega_replay, 0, 1, low_open=True)
        check_integer("n_latent_samples", self.n_latent_samples, low=1)
        X, y = self._as_float32(X, y, reset=first)
        check_classification_targets(y)
        if not first and X.shape[1:] != self.shape_:
            raise ValueError(
                f"X holds records of shape {X.shape[1:]}, the first task's were {self.shape_}"
            )
        if not first and _kind(y) != _kind(self.classes_):
            raise ValueError(
                f"y holds {_kind(y)}, the labels of earlier tasks are {_kind(self.classes_)}: "
                f"{np.asarray(y)[0]!r} against {self.classes_[0]!r}"
            )
        self._check_range(X)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float32, ensure_non_negative=True
            )
            weight = weight / weight.mean()
        return X, y, weight

    def _check_range(self, X: NDArray[np.float32]) -> None:
        if self.likelihood == "bernoulli" and len(X) and (X.min() < 0 or X.max() > 1):
            raise ValueError(
                f'X must lie in [0, 1] under likelihood="bernoulli", got values from {X.min():g} to {X.max():g}; '
                'rescale it, or take likelihood="gaussian"'
            )

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
        replayed = replay(self._past(), n, rng)
        if replayed.starved:
            warnings.warn(
                f"too few draws lie within the bound for class {', '.join(str(c) for c in self.classes_[replayed.starved])}: "
                "replay fills up with those least far out; longer training, a larger beta or omega_replay help",
                stacklevel=3,
            )
        return replayed

    def _past(self) -> Past:
        omega = self.omega_replay
        if omega == "auto":
            omega = 0.5 if self.replay == "aggregate" else 0.01
        return Past(
            decode=self._decoded,
            weights=self.module_.classifier.weight.detach().cpu().double().numpy(),
            bound=self.replay_bound_,
            omega=omega,
            means=self.class_means_,
            covariances=self.class_covariances_,
            stored=self.exemplars_,
        )

    def _learn_regions(self, X, codes, held_out, stream: np.random.SeedSequence) -> None:
        """Means, covariances and bounds of the classes' latents, from what the last task trained on."""
        rng = np.random.default_rng(stream)
        mean, scale = self._encoded_latents(X)
        sample = mean + scale * rng.standard_normal(mean.shape)
        known = range(len(self.classes_))
        weights = self.module_.classifier.weight.detach().cpu().double().numpy()
        predicted = (sample @ weights.T).argmax(axis=1)
        means, covariances = [], []
        for c in known:
            own = (codes == c) & (predicted == c)
            own = own if own.any() else codes == c
            if own.any():
                m, covariance = aggregate_posterior(sample[own])
            else:  # a class without records in this task keeps the region it had
                m, covariance = self.class_means_[c], self.class_covariances_[c]
                draws = rng.multivariate_normal(m, covariance, ABSENT_DRAWS, method="cholesky")
                sample, mean = np.concatenate([sample, draws]), np.concatenate([mean, draws])
                codes = np.concatenate([codes, np.full(ABSENT_DRAWS, c)])
                predicted = np.concatenate([predicted, np.full(ABSENT_DRAWS, c)])
            means.append(m)
            covariances.append(covariance)
        self.class_means_, self.class_covariances_ = np.stack(means), np.stack(covariances)
        held_X, held_codes = held_out
        self.calibration_ = (
            np.concatenate([self.calibration_[0], held_X]),
            np.concatenate([self.calibration_[1], held_codes]),
        )
        calibration = self._encoded_latents(self.calibration_[0])[0]
        labels = (mean @ weights.T).argmax(axis=1)
        judge = clone(self.bound) if self.bound is not None else WeibullBound()
        with warnings.catch_warnings():  # of classes by their codes; what follows names them
            warnings.simplefilter("ignore", UserWarning)
            self.replay_bound_ = WeibullBound().fit(sample, codes, predicted)
            if isinstance(judge, ConformalBound) and len(calibration):
                self.bound_ = judge.fit(
                    np.concatenate([mean, calibration]),
                    np.concatenate([codes, self.calibration_[1]]),
                    np.concatenate([labels, (calibration @ weights.T).argmax(axis=1)]),
                    held_out=np.repeat([False, True], [len(mean), len(calibration)]),
                )
            else:
                self.bound_ = judge.fit(mean, codes, labels)
        starved = self.bound_.starved_ | self.replay_bound_.starved_
        if starved.any():
            warnings.warn(
                f"too few correctly classified records of class {', '.join(str(c) for c in self.classes_[starved])} for a "
                "bound of their own: it leans on that of all classes together",
                stacklevel=3,
            )
        self._calibrate(X)

    def _calibrate(self, X: NDArray[np.float32]) -> None:
        """How well the classes' training records are reconstructed, and the scores of the held-out records."""
        mean, _ = self._encoded_latents(X)
        nll = self._reconstruction_nll(X, mean)
        typical = Typicality.fit(nll, self._codes_of(mean), len(self.classes_))
        self.typical_errors_ = np.stack([typical.centre, typical.spread])
        held_out = self.calibration_[0]
        self.calibration_scores_ = (
            self._scores(held_out) if len(held_out) else np.empty((0, len(SCORES) - 1))
        )

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

    def _make_module(self, n_inputs: int) -> nn.Module:
        if hasattr(self, "net_"):
            module = copy.deepcopy(self.module_)
            module.grow(self._n_outputs)
            return module
        hidden = tuple(HIDDEN[self.architecture] if self.hidden is None else self.hidden)
        latent_dim = check_integer("latent_dim", self.latent_dim, low=1)
        if self.architecture == "conv" and self.encoder is None and len(self.shape_) not in (2, 3):
            raise ValueError(
                f'architecture="conv" takes images, (height, width) or (channels, height, width), got records of '
                f"shape {self.shape_}"
            )
        encoder, decoder, width = CODERS[self.architecture](self.shape_, latent_dim, hidden)
        if self.encoder is not None:
            encoder = copy.deepcopy(self.encoder)
            with torch.no_grad():
                width = encoder.eval()(torch.zeros(1, *self.shape_)).flatten(1).shape[1]
            encoder.train()
        if self.decoder is not None:
            decoder = copy.deepcopy(self.decoder)
        noise = check_number("noise", self.noise, 0)
        return VAE(self.shape_, self._n_outputs, encoder, decoder, width, latent_dim, noise)

    def _net_arguments(self) -> dict[str, Any]:
        return {
            "beta": check_number("beta", self.beta, 0),
            "likelihood": self.likelihood,
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
        return super()._checkpoint_folder() / f"task_{getattr(self, 'n_tasks_', 0)}"

    # --- judging ----------------------------------------------------------------------------------------

    def transform(self, X: ArrayLike) -> Array:
        """Latent means of records.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records, latent_dim)
        """
        return self._encoded_latents(self._checked(X))[0]

    def predict_proba(self, X: ArrayLike) -> Array:
        """Class probabilities, averaged over latents of each record.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records, n_classes)
            Columns in the order of ``classes_``.
        """
        return self._proba(*self._encoded_latents(self._checked(X)))

    def predict(self, X: ArrayLike, reject: bool = False) -> NDArray:
        """The most probable class of each record, or "unknown".

        Parameters
        ----------
        X : array-like of shape (n_records, ...)
        reject : bool, default=False
            Whether to call a record unknown, by `reject_by`: of records of the known classes the share `reject_alpha`.

        Returns
        -------
        ndarray of shape (n_records,)
            Unknown is "unknown" among strings and -1 among numbers.

        Raises
        ------
        ValueError
            If `reject` is asked of an estimator that has held nothing out, or one of the classes is itself called so.
        """
        X = self._checked(X)
        labels = self.classes_[self._proba(*self._encoded_latents(X)).argmax(axis=1)]
        if not reject:
            return labels
        unknown = "unknown" if _kind(self.classes_) == "strings" else -1
        if unknown in self.classes_:
            raise ValueError(f"a class is called {unknown!r}, which stands for unknown records")
        alpha = check_number("reject_alpha", self.reject_alpha, 0, 1, low_open=True, high_open=True)
        labels = labels.astype(object) if isinstance(unknown, str) else labels.copy()
        labels[self._outlier_proba(X, self.reject_by) >= 1 - alpha * (1 + 1e-12)] = unknown
        return labels

    def outlier_proba(self, X: ArrayLike, score: str | None = None) -> Array:
        """How certainly each record is none of the known classes.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)
        score : {"combined", "latent", "reconstruction", "entropy", "softmax", "bound"} or None, default=None
            None: `reject_by`. "bound" is w of `bound_`; the others are 1 minus a conformal p-value against the held-out
            records, so that a known record exceeds 1 - alpha with probability at most alpha.

        Returns
        -------
        ndarray of shape (n_records,)
        """
        return self._outlier_proba(self._checked(X), self.reject_by if score is None else score)

    def score_samples(self, X: ArrayLike) -> Array:
        """Lower bound of the log-density of each record, in nats (the evidence bound at the latent mean).

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records,)
        """
        X = self._checked(X)
        mean, scale = self._encoded_latents(X)
        kl = kl_divergence(torch.from_numpy(mean), torch.from_numpy(scale)).sum(1).numpy()
        return -self._n_inputs * self._reconstruction_nll(X, mean) - kl

    def reconstruct(self, X: ArrayLike) -> NDArray[np.float32]:
        """What the decoder makes of the latent means of records.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of the shape of X
        """
        return self._decoded(self.transform(X))

    # --- remembering and asking -------------------------------------------------------------------------

    def sample(self, n: int, random_state: RandomState = None) -> Replayed:
        """Replay records of the classes known so far, as the next task would.

        Parameters
        ----------
        n : int
        random_state : int, SeedSequence, Generator, RandomState or None, default=None

        Returns
        -------
        Replayed
            With ``X``, ``y`` (labels), ``acceptance`` by class, and ``starved``.
        """
        check_is_fitted(self, "net_")
        replay = self.replay if callable(self.replay) else REPLAYS[self.replay]
        rng = np.random.default_rng(as_seed_sequence(random_state))
        found = replay(self._past(), check_integer("n", n, low=1), rng)
        return Replayed(found.X, self.classes_[found.y], found.acceptance, found.starved)

    def select_exemplars(
        self,
        X: ArrayLike,
        y: ArrayLike,
        m: int,
        method: str | Any = "herding",
        band: tuple[float, float] | None = None,
        random_state: RandomState = None,
    ) -> NDArray[np.int64]:
        """Choose records to keep, by their latents.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)
        y : array-like of shape (n_records,)
            Known labels.
        m : int
            Size of the set.
        method, band
            As in `statml.adapters.continual.select_exemplars`; ``band=(0, 0.95)`` keeps out what lies beyond the bound.
        random_state : int, SeedSequence, Generator, RandomState or None, default=None

        Returns
        -------
        ndarray of int, shape (at most m,)
        """
        X = self._checked(X)
        y = np.asarray(y)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y holds labels that no task has shown, {unknown[:5]}; known are {self.classes_}"
            )
        rng = np.random.default_rng(as_seed_sequence(random_state))
        return self._select(X, self._encoded(y), m, method, band, rng)

    def query(
        self,
        X_pool: ArrayLike,
        n: int,
        strategy: str | Any = "below_bound",
        band: tuple[float, float] | None = (0.0, 0.95),
        random_state: RandomState = None,
    ) -> QueryResult:
        """Choose records of a pool whose labels would teach most, and none that is foreign.

        Parameters
        ----------
        X_pool : array-like of shape (n_pool, ...)
        n : int
            Budget.
        strategy, band
            As in `query_pool`. Beyond the band is, too, what ``predict(reject=True)`` would call unknown, where records were
            held out to calibrate that.
        random_state : int, SeedSequence, Generator, RandomState or None, default=None

        Returns
        -------
        QueryResult
        """
        X_pool = self._checked(X_pool)
        mean, scale = self._encoded_latents(X_pool)
        refused = None
        if band is not None and len(self.calibration_scores_) > 1:
            refused = self._outlier_proba(X_pool, self.reject_by) >= 1 - self.reject_alpha
        return query_pool(
            mean,
            n,
            self.bound_,
            self._codes_of(mean),
            strategy=strategy,
            band=band,
            class_proba=self._proba(mean, scale),
            refused=refused,
            random_state=random_state,
        )

    def next_task(
        self,
        candidates: Mapping[str, ArrayLike],
        rule: str = "dissimilar",
        random_state: RandomState = None,
    ) -> str:
        """Which task to learn next, by how much of it lies beyond the bound.

        Parameters
        ----------
        candidates : mapping of name to array-like of shape (n_records, ...)
        rule : {"dissimilar", "similar", "random"}, default="dissimilar"
        random_state : int, SeedSequence, Generator, RandomState or None, default=None

        Returns
        -------
        str
            A key of `candidates`.
        """
        beyond = {name: self.outlier_proba(X, "bound") for name, X in candidates.items()}
        return choose_task(beyond, rule, random_state=random_state)

    @property
    def _n_features_out(self) -> int:
        return self.module_.mean.out_features

    @property
    def n_parameters_(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.module_.parameters())

    @property
    def n_stored_(self) -> int:
        """Number of real records that are kept, for replay or calibration."""
        check_is_fitted(self, "net_")
        return len(self.exemplars_[0]) + len(self.calibration_[0])

    # --- what these are made of -------------------------------------------------------------------------

    def _checked(self, X: ArrayLike) -> NDArray[np.float32]:
        check_is_fitted(self, "net_")
        X = self._as_float32(X, reset=False)
        if X.shape[1:] != self.shape_:
            raise ValueError(f"X holds records of shape {X.shape[1:]}, fit saw {self.shape_}")
        self._check_range(X)
        return X

    @torch.no_grad()
    def _encoded_latents(self, X: NDArray[np.float32]) -> tuple[Array, Array]:
        module = self.module_.eval()
        empty = torch.empty(0, module.mean.out_features)
        parts = [module.encode(x) for x in self._batches(X)] or [(empty, empty)]
        mean, scale = (
            torch.cat(values).cpu().double().numpy() for values in zip(*parts, strict=True)
        )
        return mean, scale

    @torch.no_grad()
    def _decoded(self, Z: Array) -> NDArray[np.float32]:
        module = self.module_.eval()
        parts = [module.decode(z).cpu() for z in self._batches(Z.astype(np.float32))]
        decoded = torch.cat(parts) if parts else torch.empty(0, *self.shape_)
        return (decoded.sigmoid() if self.likelihood == "bernoulli" else decoded).numpy()

    @torch.no_grad()
    def _reconstruction_nll(self, X: NDArray[np.float32], mean: Array) -> Array:
        """Mean over a record's values of minus the log-likelihood at the latent mean; never zero."""
        module = self.module_.eval()
        pairs = zip(self._batches(X), self._batches(mean.astype(np.float32)), strict=True)
        parts = [
            reconstruction_nll(x, module.decode(z), self.likelihood).flatten(1).mean(1).cpu()
            for x, z in pairs
        ]
        return torch.cat(parts).double().numpy() + 1e-12

    def _batches(self, values: NDArray[np.float32]) -> list[torch.Tensor]:
        device = self.net_.device or "cpu"
        return [
            torch.from_numpy(values[k : k + PREDICT_BATCH]).to(device)
            for k in range(0, len(values), PREDICT_BATCH)
        ]

    def _proba(self, mean: Array, scale: Array) -> Array:
        """Softmax averaged over latents; every record has the same draws, so that no record depends on its company."""
        weights = self.module_.classifier.weight.detach().cpu().double().numpy()
        rng = np.random.default_rng(self.seed_)
        draws = rng.standard_normal((self.n_latent_samples, mean.shape[1]))
        draws -= draws.mean(axis=0)  # a single draw is the mean itself
        total = np.zeros((len(mean), len(weights)))
        for draw in draws:
            logits = (mean + scale * draw) @ weights.T
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            total += odds / odds.sum(axis=1, keepdims=True)
        return total / len(draws)

    def _codes_of(self, mean: Array) -> NDArray[np.int64]:
        weights = self.module_.classifier.weight.detach().cpu().double().numpy()
        return (mean @ weights.T).argmax(axis=1)

    def _scores(self, X: NDArray[np.float32]) -> Array:
        """Columns latent, reconstruction, entropy, softmax; high is suspicious."""
        mean, scale = self._encoded_latents(X)
        codes = self._codes_of(mean)
        rows = np.arange(len(X))
        typical = Typicality(*self.typical_errors_)
        proba = self._proba(mean, scale)
        entropy = -(proba * np.log(np.maximum(proba, 1e-300))).sum(axis=1)
        return np.stack(
            [
                self.bound_.distances(mean)[rows, codes],
                typical.score(self._reconstruction_nll(X, mean), codes),
                entropy,
                1 - proba.max(axis=1),
            ],
            axis=1,
        )

    def _outlier_proba(self, X: NDArray[np.float32], score: str) -> Array:
        check_choice("score", score, (*SCORES, "bound"))
        if score == "bound":
            mean, _ = self._encoded_latents(X)
            return self.bound_.outlier_proba(mean, self._codes_of(mean))
        if len(self.calibration_scores_) < 2:
            raise ValueError(
                f"score {score!r} is calibrated on held-out records, of which there are {len(self.calibration_scores_)}; "
                'fit with calibration > 0 on more records, or take "bound"'
            )
        return 1 - p_values(self.calibration_scores_, self._scores(X), score)

    def _select(self, X, codes, m, method, band, rng) -> NDArray[np.int64]:
        mean, scale = self._encoded_latents(X)
        return select_exemplars(
            mean,
            codes,
            m,
            method,
            bound=self.bound_,
            class_proba=self._proba(mean, scale),
            band=band,
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


def _kind(labels: NDArray) -> str:
    return "strings" if np.asarray(labels).dtype.kind in "OUS" else "numbers"
