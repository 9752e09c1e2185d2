r"""`AttributeAdversarialClassifier`: a network trained against changes that are named beforehand.

.. math::  \min_\theta \; E\big[ (1 - \rho)\, J(\theta; x, y) + \rho \max_{\alpha \in A} J(\theta; G(x, \alpha), y) \big]

with G the chain of `attributes`, A their box and :math:`\rho` = `mix`. The inner maximum is that of `search`, of each record for itself.

Reference: Gokhale, T., Anirudh, R., Kailkhura, B., Thiagarajan, J. J., Baral, C. and Yang, Y. (2021). Attribute-guided adversarial training
for robustness to natural perturbations. AAAI.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted
from torch import nn

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_choice,
    check_integer,
    check_labels,
    check_number,
)

from .._estimator import NetClassifier, relative_weights
from .._net import Checkpoint, Net
from .attack import AttackResult, attack
from .attribute import Attribute, Chain, check_range
from .objectives import OBJECTIVES
from .training import BASELINES, AdversarialNet, Adversary, AdversaryCheckpoint, Plan


class AttributeAdversarialClassifier(NetClassifier):
    """Neural network that is trained on the worst versions of its records within a box of attributes.

    Parameters
    ----------
    module : "mlp", torch Module, or class or function that makes one, default="mlp"
        As in `NetClassifier`.
    attributes : sequence of Attribute, default=()
        What may change, in the order in which it acts: ``[Rotation(45), Translate(0.15), Scale(0.7, 1.3)]``. With none, training is ordinary.
    objective : {"adversarial", "explore", "ada", "agat_code", "random", "worst_of_k", "none"}, default="adversarial"
        What the inner search climbs (`statml.adapters.attribute_robust.objectives`); or a baseline: random attributes, the worst of
        `n_starts` random ones, or clean training.
    beta_feature, beta_attribute : float, default=0.0
        Weights of the distances in features and attributes, for "explore" and "agat_code" (released code: 5 and 5); for "ada",
        `beta_feature` is gamma.
    n_starts : int, default=1
        k, random starts judged without derivatives.
    n_steps : int, default=5
        m, steps along the derivative from the best of them. A search costs k + 2m forward passes of the perturbed records.
    step_size : float, default=0.4
        How far a step moves the parameter of the largest derivative, in half-widths of the box.
    mix : float in [0, 1], default=0.5
        Share of each batch that is perturbed.
    mode : {"online", "pool"}, default="online"
        Perturb anew in every step; or, as in the paper, add the worst versions of some records to a pool every `pool_every` epochs, and draw
        the share `mix` of each batch from it.
    pool_every : int, default=5
    pool_fraction : float, default=0.3
        Size of the pool at the end, as a share of the records.
    warmup_epochs : int, default=2
        Epochs of clean training before; more of them where training against an unready network fails.
    curriculum_epochs : int, default=0
        Epochs after the warm-up in which the box grows from the clean values to its full size.
    value_range : tuple (low, high) or None, default=(0.0, 1.0)
        Of images; others are refused. None, and tables and series, are not checked.
    epochs : int, default=15
    batch_size : int, default=64
    optimizer : {"adam", "adamw", "sgd"} or class, default="adam"
    lr : float, default=2e-3
    weight_decay, device, accelerate, random_state, progress, checkpoint_dir
        As in `NetClassifier`. `random_state` fixes the searches, too; the pool is part of a checkpoint.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    attribute_names_ : list of str
    history_ : DataFrame, one row an epoch
        ``clean_loss`` of the unperturbed part of the batches; ``start_loss`` and ``inner_loss``, of the perturbed part at the first random start and
        at the end of the search, both of the network in evaluation mode; ``box_hit_rate``, the share of attributes that ended on the
        border of the box. NaN where there was none.
    module_, net_, loss_curve_, n_iter_, n_features_in_
        As in `NetClassifier`.

    See Also
    --------
    robustness_report : What the fitted classifier, or any other, does over the box.

    Notes
    -----
    Random augmentation over the same box (``objective="random"``) gives most of the gain over clean training at a fraction of the cost; compare with it.
    The box comes from what a deployment may see, never from the data that the model is judged on. Attributes may not change the
    class. A network in evaluation mode is searched; neither its gradients nor its buffers are touched.

    A search may be too strong to learn from: worst cases help a network that is nearly right on random ones, and hold up one that is not.
    Where random augmentation does not fit the training data within the epochs at hand, take fewer steps (one or two in the 15 epochs of the
    benchmark of digits), more epochs, or a network that learns faster, by normalisation say. `start_loss` in `history_` tells: it is
    the loss at random attributes.

    References
    ----------
    Gokhale, T. et al. (2021). Attribute-guided adversarial training for robustness to natural perturbations. AAAI.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from statml.adapters.attribute_robust import AttributeAdversarialClassifier, Custom
    >>> X, y = load_iris(return_X_y=True)
    >>> drift = Custom(lambda x, a: x + a, -0.3, 0.3, names="drift", units="cm")  # all four lengths, by a bent ruler
    >>> model = AttributeAdversarialClassifier(attributes=[drift], epochs=30, lr=0.01, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.9
    True
    >>> model.attack(X, y).attributes["drift"].abs().max() <= 0.3
    np.True_
    """

    _net_class: ClassVar[type[Net]] = AdversarialNet

    def __init__(
        self,
        module: str | type[nn.Module] | nn.Module = "mlp",
        attributes: Sequence[Attribute] = (),
        *,
        objective: str = "adversarial",
        beta_feature: float = 0.0,
        beta_attribute: float = 0.0,
        n_starts: int = 1,
        n_steps: int = 5,
        step_size: float = 0.4,
        mix: float = 0.5,
        mode: str = "online",
        pool_every: int = 5,
        pool_fraction: float = 0.3,
        warmup_epochs: int = 2,
        curriculum_epochs: int = 0,
        value_range: tuple[float, float] | None = (0.0, 1.0),
        epochs: int = 15,
        batch_size: int = 64,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float = 2e-3,
        weight_decay: float = 0.0,
        device: str = "cpu",
        accelerate: Mapping[str, Any] | None = None,
        random_state: RandomState = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
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
        self.attributes = attributes
        self.objective = objective
        self.beta_feature = beta_feature
        self.beta_attribute = beta_attribute
        self.n_starts = n_starts
        self.n_steps = n_steps
        self.step_size = step_size
        self.mix = mix
        self.mode = mode
        self.pool_every = pool_every
        self.pool_fraction = pool_fraction
        self.warmup_epochs = warmup_epochs
        self.curriculum_epochs = curriculum_epochs
        self.value_range = value_range

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        attributes_clean: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train from new weights on.

        Parameters
        ----------
        X : array-like of shape (n_records, channels, height, width), (n_records, height, width), or as the attributes take it
            Grey images without their channel are given one.
        y : array-like of shape (n_records,)
            Labels of any kind.
        attributes_clean : array-like of shape (n_records, n_parameters), optional
            Attributes that the records have as they are, where these are known and differ; from there the box of the curriculum grows, and
            distances are measured.
        sample_weight : array-like of shape (n_records,), optional
            The objective is the weighted mean of the losses.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unusable data or parameters: images outside `value_range` or with channels last, attributes that do not fit the data, a reversed box,
            an attribute that no derivative reaches but is to be searched with one, another run in `checkpoint_dir`.

        Warns
        -----
        UserWarning
            If a box holds values that may change the class.
        """
        plan = self._plan()
        X, y = self._check_data(X, y)
        self._check_attributes(plan.chain, X)
        if plan.n_steps and plan.objective in OBJECTIVES:
            plan.chain.check_derivatives(torch.from_numpy(X[:2]))
        plan.chain.warn_of_labels()
        extras: dict[str, NDArray] = {}
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
            extras["weight"] = relative_weights(weight)
        if attributes_clean is not None:
            extras["attributes"] = self._check_clean(plan.chain, attributes_clean, len(X))
        seed = self._seeds().spawn(1)[0].generate_state(1).item()
        self._adversary = Adversary(plan, torch.Generator().manual_seed(seed))
        try:
            self._train(X, y, extras)
            rows = self._adversary.rows
        finally:
            del self._adversary
        # neither the adversary nor its pool belong to what is kept
        self.net_ = self._make_net(self.net_.module_, torch.Generator(), 0, plain=True)
        columns = ["epoch", "clean_loss", "start_loss", "inner_loss", "box_hit_rate"]
        self.history_ = pd.DataFrame(rows, columns=columns)
        self.attribute_names_ = list(plan.chain.names)
        return self

    def _plan(self) -> Plan:
        check_choice("objective", self.objective, (*OBJECTIVES, *BASELINES))
        plan = Plan(
            chain=Chain(self.attributes),
            objective=self.objective,
            beta_feature=check_number("beta_feature", self.beta_feature, 0),
            beta_attribute=check_number("beta_attribute", self.beta_attribute, 0),
            n_starts=check_integer("n_starts", self.n_starts, low=1),
            n_steps=check_integer("n_steps", self.n_steps, low=0),
            step_size=check_number("step_size", self.step_size, 0, low_open=True),
            mix=check_number("mix", self.mix, 0, 1),
            mode=check_choice("mode", self.mode, ("online", "pool")),
            pool_every=check_integer("pool_every", self.pool_every, low=1),
            pool_fraction=check_number("pool_fraction", self.pool_fraction, 0, low_open=True),
            warmup_epochs=check_integer("warmup_epochs", self.warmup_epochs, low=0),
            curriculum_epochs=check_integer("curriculum_epochs", self.curriculum_epochs, low=0),
            epochs=check_integer("epochs", self.epochs, low=0),
        )
        if self.objective in ("explore", "ada", "agat_code") and not (
            plan.beta_feature or (plan.beta_attribute and self.objective != "ada")
        ):
            needed = "beta_feature" if self.objective == "ada" else "beta_feature or beta_attribute"
            raise ValueError(
                f'objective="{self.objective}" needs {needed} > 0 (the released code has 5); with 0 there is nothing to weigh'
            )
        if not plan.chain.n_parameters:
            plan.objective = "none"
        return plan

    def _as_float32(self, X: ArrayLike, y: ArrayLike | str = "no_validation", **checks: Any) -> Any:
        checked = super()._as_float32(X, y, **checks)
        if isinstance(checked, tuple):
            return self._with_channel(checked[0]), *checked[1:]
        return self._with_channel(checked)

    def _with_channel(self, X: NDArray) -> NDArray:
        """Grey images (n, height, width) with their channel, where an attribute wants images."""
        images = any(getattr(a, "kind", None) == "images" for a in self.attributes)
        return X[:, None] if images and X.ndim == 3 else X

    def _check_attributes(self, chain: Chain, X: NDArray) -> None:
        chain.check(X)
        images = X.ndim == 4 or any(a.kind == "images" for a in chain.attributes)
        if images and self.value_range is not None:
            low, high = self.value_range
            if not low < high:
                raise ValueError(f"value_range must be (low, high), got {self.value_range!r}")
            check_range(X, (low, high), "value_range")

    @staticmethod
    def _check_clean(chain: Chain, values: ArrayLike, n: int) -> NDArray[np.float32]:
        values = check_array(values, dtype=np.float32, input_name="attributes_clean")
        if values.shape != (n, chain.n_parameters):
            raise ValueError(
                f"attributes_clean must have shape ({n}, {chain.n_parameters}), a row a record and a column a parameter "
                f"({', '.join(chain.names)}), got {values.shape}"
            )
        return values

    def _callbacks(self) -> list[tuple[str, Any]]:
        return [("adversary", self._adversary)] if hasattr(self, "_adversary") else []

    def _make_net(
        self, module: nn.Module, order: torch.Generator, epochs: int, plain: bool = False
    ) -> Net:
        net = super()._make_net(module, order, epochs, plain)
        accelerator = getattr(net, "accelerator", None)
        if not plain and accelerator is not None and accelerator.num_processes > 1:
            if self.mode == "pool":
                raise ValueError(
                    f'mode="pool" is made in one process, accelerate runs {accelerator.num_processes}'
                )
            # the processes draw different starts for their different records
            self._adversary.generator.manual_seed(
                self._adversary.generator.initial_seed() + accelerator.process_index
            )
        return net

    def _make_checkpoint(self, path: Path, fingerprint: str, order: torch.Generator) -> Checkpoint:
        callback = AdversaryCheckpoint(path, fingerprint, order)
        callback.adversary = self._adversary
        return callback

    def _identity(self, *free: str) -> dict[str, str]:
        if self.mode == "pool":  # how fast the pool grows depends on the end
            free = tuple(name for name in free if name != "epochs")
        return super()._identity(*free)

    # --- the attack -------------------------------------------------------------------------------------

    def attack(
        self,
        X: ArrayLike,
        y: ArrayLike,
        n_starts: int = 20,
        n_steps: int = 20,
        *,
        n_climbs: int = 8,
        attributes: Sequence[Attribute] | None = None,
        grid: int | None = None,
        random_state: RandomState = 0,
    ) -> AttackResult:
        """Look for the attributes of each record at which the loss of the fitted network is largest.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)
        y : array-like of shape (n_records,)
            True labels.
        n_starts : int, default=20
            Random starts; with ``n_steps=0``, the worst of k.
        n_steps : int, default=20
            Steps along the derivative from the best of them.
        n_climbs : int, default=8
            From how many of the starts to climb, the best first. In training it is one.
        attributes : sequence of Attribute, optional
            Others than those of the training.
        grid : int, optional
            Instead, judge all points of a grid with so many a side, for one or two parameters: no search, and nothing for it to miss but what
            lies between the points.
        random_state : int, SeedSequence, Generator, RandomState or None, default=0

        Returns
        -------
        AttackResult

        Notes
        -----
        A search finds a lower bound of the worst loss; training against a weak one can hide from it. Judge by the worst of many random draws
        or a grid as well.
        """
        check_is_fitted(self, "net_")
        chain = Chain(self.attributes if attributes is None else attributes)
        n_starts = check_integer("n_starts", n_starts, low=1)
        n_steps = check_integer("n_steps", n_steps, low=0)
        n_climbs = check_integer("n_climbs", n_climbs, low=1)
        grid = None if grid is None else check_integer("grid", grid, low=2)
        X = self._as_float32(X, reset=False)
        codes = self._codes(y, len(X))
        self._check_attributes(chain, X)
        if n_steps and grid is None:
            chain.check_derivatives(torch.from_numpy(X[:2]))
        seed = as_seed_sequence(random_state).generate_state(1).item()
        return attack(
            self.module_,
            chain,
            X,
            codes,
            n_starts=n_starts,
            n_steps=n_steps,
            n_climbs=n_climbs,
            grid=grid,
            generator=torch.Generator().manual_seed(seed),
        )

    def _codes(self, y: ArrayLike, n: int) -> NDArray[np.int64]:
        """Positions of labels among the classes."""
        y = check_labels("y", y)
        if len(y) != n:
            raise ValueError(f"y must hold {n} labels, one a record of X, got {len(y)}")
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if (self.classes_[codes] != y).any():
            unknown = y[self.classes_[codes] != y].tolist()[0]
            raise ValueError(f"y must hold classes of the fit, got {unknown!r}")
        return codes
