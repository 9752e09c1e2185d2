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

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_choice,
    check_integer,
    check_labels,
    check_number,
)

from .bound import Bound
from .learning import TaskLearner, kind
from .queries import QueryResult, query_pool
from .rejection import SCORES, Typicality, p_values
from .replay import REPLAYS, Replayed
from .task_order import choose_task
from .trained import Array
from .vae import kl_divergence


class OpenVAEClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TaskLearner):
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
    likelihood : {"bernoulli", "gaussian", "pixelcnn"}, default="bernoulli"
        "bernoulli" for values in [0, 1]; "gaussian" for any, with unit variance; "pixelcnn" (PixelVAE, see `pixel_cnn`) for
        the 256 grey levels of images with values in [0, 1], pixel after pixel. Its records are drawn, one pass a value: slow.
    introspection : float >= 0, default=0.0
        Weight of the adversarial terms of an introspective autoencoder (IntroVAE, see `training`); the literature has 0.25.
    encoder, decoder : torch Module or None, default=None
        In place of the architecture's: from a record to features, and from (n, latent_dim) to a record (under "pixelcnn": to 60
        channels of its height and width).
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
    latent_covariance_ : ndarray of shape (d, d)
        Of latent means within classes, by which the latent score of rejection measures.
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

    def __init__(
        self,
        architecture: str = "mlp",
        *,
        hidden: Sequence[int] | None = None,
        latent_dim: int = 60,
        beta: float = 0.1,
        noise: float = 0.25,
        likelihood: str = "bernoulli",
        introspection: float = 0.0,
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
        self.introspection = introspection
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
        X = self._checked(X)
        return self._trained().encode(X)[0]

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
        return self._class_proba(self._checked(X))

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
        labels = self.classes_[self._class_proba(X).argmax(axis=1)]
        if not reject:
            return labels
        unknown = "unknown" if kind(self.classes_) == "strings" else -1
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
        trained = self._trained()
        mean, scale = trained.encode(X)
        kl = kl_divergence(torch.from_numpy(mean), torch.from_numpy(scale)).sum(1).numpy()
        return -self._n_inputs * trained.reconstruction_nll(X, mean) - kl

    def reconstruct(self, X: ArrayLike) -> NDArray[np.float32]:
        """What the decoder makes of the latent means of records.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of the shape of X
        """
        latents = self.transform(X)
        return self._trained().decode(latents, np.random.default_rng(self.seed_))

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
        found = replay(self._past(rng), check_integer("n", n, low=1), rng)
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
            As in `statml.adapters.continual.select_exemplars`; ``band=(0, 0.95)`` keeps out what lies beyond the bound, and what
            ``predict(reject=True)`` would call unknown, where records were held out to calibrate that.
        random_state : int, SeedSequence, Generator, RandomState or None, default=None

        Returns
        -------
        ndarray of int, shape (at most m,)
        """
        X = self._checked(X)
        y = check_labels("y", y)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y holds labels that no task has shown, {unknown[:5]}; known are {self.classes_}"
            )
        rng = np.random.default_rng(as_seed_sequence(random_state))
        return self._select(X, self._encoded(y), m, method, band, rng, self._refused(X, band))

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
        trained = self._trained()
        mean, scale = trained.encode(X_pool)
        return query_pool(
            mean,
            n,
            self.bound_,
            trained.classify(mean),
            strategy=strategy,
            band=band,
            class_proba=trained.class_proba(mean, scale),
            refused=self._refused(X_pool, band),
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

    def _class_proba(self, X: NDArray[np.float32]) -> Array:
        trained = self._trained()
        return trained.class_proba(*trained.encode(X))

    def _refused(self, X: NDArray[np.float32], band) -> NDArray[np.bool_] | None:
        """What the calibrated rejection calls unknown, where there are a band to keep to and records to calibrate by."""
        if band is None or len(self.calibration_scores_) < 2:
            return None
        return self._outlier_proba(X, self.reject_by) >= 1 - self.reject_alpha

    def _outlier_proba(self, X: NDArray[np.float32], score: str) -> Array:
        check_choice("score", score, (*SCORES, "bound"))
        trained = self._trained()
        if score == "bound":
            mean, _ = trained.encode(X)
            return self.bound_.outlier_proba(mean, trained.classify(mean))
        if len(self.calibration_scores_) < 2:
            raise ValueError(
                f"score {score!r} is calibrated on held-out records, of which there are {len(self.calibration_scores_)}; "
                'fit with calibration > 0 on more records, or take "bound"'
            )
        typical = Typicality(self.class_means_, self.latent_covariance_, *self.typical_errors_)
        return 1 - p_values(self.calibration_scores_, typical.scores(trained, X), score)
