"""What every adapter that trains a network has in common: a scikit-learn estimator around a skorch net.

`NetClassifier` and `NetRegressor` train plainly, and are the base of the others. They own what a scikit-learn user expects
and torch does not do: any numeric input becomes float32, labels of any kind are encoded, the default module takes
its size from the data, one `random_state` fixes weights, order and dropout without touching torch's global state, and
files are read without running code (`_saving`). The loop is skorch's (`_net`), kept as ``net_``; ``module__x`` and
``optimizer__x`` reach the module and the optimizer, ``callbacks__x=callback`` is a skorch callback of that name.

A method subclasses one of the two and overrides what it changes:

- ``_net_class``: a subclass of `Net` with another step or objective;
- ``_extras(n, **fit_params)``: what else a record carries into the loop (weights, groups);
- ``_callbacks()``: more skorch callbacks.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import nn

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_choice,
    check_finite,
    check_integer,
    check_number,
    check_outputs,
)
from statml.parallel import check_progress, qualified_name

from ._mlp import MLP
from ._net import Batches, Checkpoint, Net, Progress, Records, accelerated, silent
from ._saving import SavedNet, is_plain

NESTED = ("module__", "optimizer__", "iterator_train__", "callbacks__")
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
PREDICT_BATCH = 1024


class NetEstimator(SavedNet, BaseEstimator):
    """Base of the networks behind ``fit`` and ``predict``; see the module's docstring."""

    _net_class: type[Net] = Net
    _criterion: type[nn.Module]
    _keeps_callbacks = True  # in ``net_``; False where they hold the data

    def __init__(
        self,
        module: str | type[nn.Module] | nn.Module = "mlp",
        *,
        epochs: int = 100,
        batch_size: int = 128,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        device: str = "cpu",
        accelerate: Mapping[str, Any] | None = None,
        random_state: RandomState = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        **nested: Any,
    ):
        self.module = module
        self.epochs = epochs
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

    # --- parameters -------------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters, those of the module and the optimizer (``module__hidden``) among them."""
        return super().get_params(deep=deep) | self._further()

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name."""
        nested = {name: params.pop(name) for name in list(params) if name.startswith(NESTED)}
        super().set_params(**params)
        vars(self).update(nested)
        return self

    def _further(self) -> dict[str, Any]:
        """What the constructor was given beyond its own parameters; `fit` refuses names that mean nothing."""
        own = set(self._get_param_names())
        return {
            name: value
            for name, value in vars(self).items()
            if name not in own and not name.startswith("_") and not name.endswith("_")
        }

    def _check_names(self) -> None:
        unknown = [name for name in self._further() if not name.startswith(NESTED)]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no parameter {unknown[0]!r}; those of the module, the optimizer and the loop "
                f"begin with {', '.join(NESTED)}"
            )

    def _nested(self, prefix: str) -> dict[str, Any]:
        cut = len(prefix)
        return {k[cut:]: v for k, v in self._further().items() if k.startswith(prefix)}

    # --- fitting ----------------------------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train from new weights on.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)
            Numbers; two-dimensional for the default module, images and the like for others. Becomes float32.
        y : array-like of shape (n_records,) or, for a regressor, (n_records, n_outputs)
        sample_weight : array-like of shape (n_records,), optional
            The objective is the weighted mean of the losses.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unusable data (NaN, one class, unequal lengths) or parameters, or if `checkpoint_dir` holds another run.
        """
        X, y = self._check_data(X, y)
        extras = {}
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
            extras["weight"] = relative_weights(weight)
        return self._train(X, y, extras)

    def _train(self, X: NDArray, y: NDArray, extras: dict[str, NDArray]) -> Self:
        """Build the net and train it; y is encoded, extras are further arrays of shape (n_records, ...)."""
        self._check_names()
        epochs = self._n_epochs(len(X))
        check_progress(self.progress)
        data = Records(
            torch.from_numpy(X),
            {
                name: torch.from_numpy(np.ascontiguousarray(v))
                for name, v in {"y": y, **extras}.items()
            },
        )
        seeds = self._seeds().generate_state(2).tolist()
        order = torch.Generator().manual_seed(seeds[1])
        cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=cuda):  # torch's global state stays as it was
            torch.manual_seed(seeds[0])
            net = self._make_net(self._make_module(X[0].size), order, epochs)
            done = 0
            if self.checkpoint_dir is not None:
                done = self._checkpoint(net, order, (X, y, extras))
            net.partial_fit(data, epochs=epochs - done)
        self._finish(net)
        return self

    def _n_epochs(self, n_records: int) -> int:
        """Length of one training."""
        return check_integer("epochs", self.epochs, low=0)

    def _seeds(self) -> np.random.SeedSequence:
        """What fixes the initial weights and the order of the records of one training."""
        return as_seed_sequence(self.random_state)

    def _finish(self, net: Net) -> None:
        if not all(torch.isfinite(weights).all() for weights in net.module_.parameters()):
            raise ValueError(
                "the training has diverged, its weights are no finite numbers: scale X (and the y of a regression), or lower lr"
            )
        self.loss_curve_ = [float(row["train_loss"]) for row in net.history]
        self.n_iter_ = len(self.loss_curve_)
        # an accelerator cannot be pickled
        if self.accelerate is not None or not self._keeps_callbacks:
            net = self._make_net(net.module_, torch.Generator(), 0, plain=True)
        self.net_ = net

    def _make_module(self, n_inputs: int) -> nn.Module:
        """A new module of the size of the data."""
        return make_module(self.module, n_inputs, self._n_outputs, **self._nested("module__"))

    def _make_net(
        self, module: nn.Module, order: torch.Generator, epochs: int, plain: bool = False
    ) -> Net:
        """An initialised net around a module."""
        optimizer = self.optimizer
        if isinstance(optimizer, str):
            optimizer = OPTIMIZERS[check_choice("optimizer", optimizer, OPTIMIZERS)]
        elif not callable(optimizer):
            raise TypeError(
                f"optimizer must be {', '.join(map(repr, OPTIMIZERS))} or a class of torch, got {optimizer!r}"
            )
        net_class, where = self._net_class, {"device": self.device}
        if self.accelerate is not None and not plain:
            from accelerate import Accelerator

            net_class = accelerated(net_class)
            where = {"device": None, "accelerator": Accelerator(**self.accelerate)}
        net = net_class(
            module,
            criterion=self._criterion(reduction="none"),
            optimizer=optimizer,
            optimizer__lr=check_number("lr", self.lr, 0),
            optimizer__weight_decay=check_number("weight_decay", self.weight_decay, 0),
            max_epochs=epochs,
            batch_size=check_integer("batch_size", self.batch_size, low=1),
            iterator_train=Batches,
            iterator_train__shuffle=True,
            iterator_train__generator=order,
            iterator_valid=Batches,
            iterator_valid__batch_size=max(self.batch_size, PREDICT_BATCH),
            train_split=None,
            callbacks=[]
            if plain
            else [*self._own_and_given_callbacks(), self._progress_bar(epochs)],
            callbacks__print_log__sink=silent,
            **self._net_arguments(),
            **{f"optimizer__{k}": v for k, v in self._nested("optimizer__").items()},
            **{f"iterator_train__{k}": v for k, v in self._nested("iterator_train__").items()},
            **where,
        )
        return net.initialize()

    def _progress_bar(self, epochs: int) -> tuple[str, Progress]:
        return "progress", Progress(self.progress, type(self).__name__, epochs)

    def _callbacks(self) -> list[tuple[str, Any]]:
        """More skorch callbacks, as (name, callback)."""
        return []

    def _own_and_given_callbacks(self) -> list[tuple[str, Any]]:
        given = self._nested("callbacks__")
        if given and self.checkpoint_dir is not None:
            raise ValueError(
                f"callbacks__{next(iter(given))} cannot go with checkpoint_dir, which does not keep what a callback knows"
            )
        # copies: a callback learns in training, and a parameter stays as it was given
        return [*self._callbacks(), *copy.deepcopy(given).items()]

    def _net_arguments(self) -> dict[str, Any]:
        """More arguments of the net."""
        return {}

    def _checkpoint(self, net: Net, order: torch.Generator, data: tuple) -> int:
        """Resume from `checkpoint_dir` and go on writing there; returns the number of epochs done."""
        folder = self._checkpoint_folder()
        folder.mkdir(parents=True, exist_ok=True)
        start = {k: v.cpu().numpy() for k, v in net.module_.state_dict().items()}
        identity = self._identity("epochs")  # which may grow: a run that has ended goes on
        fingerprint = joblib.hash((type(self).__name__, identity, data, start))
        callback = self._make_checkpoint(folder / "training.pt", fingerprint, order)
        net.callbacks_.append(("checkpoint", callback.initialize()))
        done = callback.resume(net)
        if done > net.max_epochs:
            raise ValueError(
                f"epochs is {net.max_epochs}, but the run in checkpoint_dir {str(folder)!r} has had {done}. "
                "Ask for at least as many, name another folder, or delete this one to start anew."
            )
        return done

    def _checkpoint_folder(self) -> Path:
        """Where the state of this training is kept."""
        return Path(self.checkpoint_dir)

    def _make_checkpoint(self, path: Path, fingerprint: str, order: torch.Generator) -> Checkpoint:
        """The callback that keeps the state; a method with state of its own returns a subclass."""
        return Checkpoint(path, fingerprint, order)

    def _identity(self, *free: str) -> dict[str, str]:
        """The parameters of a run, but those that may differ when it is resumed, as any process writes them."""
        identity = {}
        for name, value in self.get_params(deep=False).items():
            if name in ("progress", "checkpoint_dir", *free):
                continue
            if hasattr(value, "__qualname__"):  # a function or class
                identity[name] = qualified_name(value)
            elif isinstance(value, nn.Module) or type(value).__repr__ is object.__repr__:
                identity[name] = type(value).__qualname__  # a module's weights are compared
            else:
                identity[name] = repr(value)
        if not is_plain(self.random_state):  # the weights that came of it are compared
            del identity["random_state"]
        return identity

    def _as_float32(self, X: ArrayLike, y: ArrayLike | str = "no_validation", **checks: Any) -> Any:
        """scikit-learn's checks of the data, and the one cast that torch wants."""
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as infinite
            return validate_data(self, X, y, dtype=np.float32, order="C", allow_nd=True, **checks)

    # --- prediction -------------------------------------------------------------------------------------

    @property
    def module_(self) -> nn.Module:
        """The trained module."""
        check_is_fitted(self, "net_")
        return self.net_.module_

    def _outputs(self, X: ArrayLike) -> NDArray[np.float32]:
        """What the module makes of X, shape (n_records, n_outputs)."""
        check_is_fitted(self, "net_")
        X = self._as_float32(X, reset=False)
        data = Records(torch.from_numpy(X), {})
        outputs = torch.cat([part.cpu() for part in self.net_.forward_iter(data)]).numpy()
        return check_outputs(outputs)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class NetClassifier(ClassifierMixin, NetEstimator):
    """Neural network for classification, trained on the cross-entropy.

    Parameters
    ----------
    module : "mlp", torch Module, or class or function that makes one, default="mlp"
        Returns one logit a class. A class or function is called with ``module__*`` and, where it takes
        them, ``n_inputs`` and ``n_outputs``; a Module is copied, and training starts from its weights. "mlp" is
        `MLP` (``module__hidden=(100,)``, ``module__dropout=0.0``).
    epochs : int, default=100
    batch_size : int, default=128
    optimizer : {"adam", "adamw", "sgd"} or class, default="adam"
        Further arguments as ``optimizer__*``.
    lr : float, default=1e-3
        Learning rate.
    weight_decay : float, default=0.0
        As torch's optimizer takes it.
    device : str, default="cpu"
        Where the module is trained: "cpu", "cuda", ...
    accelerate : dict or None, default=None
        Given, the loop runs through ``accelerate.Accelerator(**accelerate)``: ``{"mixed_precision": "bf16"}``, or several
        processes under ``accelerate launch``. `device` is then accelerate's to choose.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes the initial weights, the order of the records and dropout.
    progress : "auto", True or False, default="auto"
        Whether to show a bar over the epochs.
    checkpoint_dir : path or None, default=None
        Folder in which every epoch leaves its state; a run that was killed goes on from there with the same result.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``; ``callbacks__x``: a skorch callback, under the name x in
        ``net_.callbacks_`` after `fit` (a copy; not with `checkpoint_dir`).

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    module_ : torch Module
        Trained.
    net_ : skorch.NeuralNet
    loss_curve_ : list of float
        Mean training loss of each epoch.
    n_iter_ : int
        Number of epochs.
    n_features_in_ : int

    Notes
    -----
    A `random_state` fixes every number on one machine with one version of torch; across machines the last digits differ.
    Minibatches are random, so that an integer weight is not the same as so many copies of a record, as it would be for
    the exact minimum.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from statml.adapters import NetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), NetClassifier(module__hidden=(16,), lr=0.01, random_state=0))
    >>> model.fit(X, y).score(X, y) > 0.95
    True
    """

    _criterion = nn.CrossEntropyLoss

    def _check_data(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
        X, y = self._as_float32(X, y)
        check_classification_targets(y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y holds one class only, {self.classes_[0]}; a classifier needs at least two classes"
            )
        self._n_inputs, self._n_outputs = int(X[0].size), len(self.classes_)
        return X, encoded.astype(np.int64)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records, n_classes)
        """
        logits = self._outputs(X).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> NDArray:
        """The most probable class of each record.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records,)
        """
        best = self._outputs(X).argmax(axis=1)
        return self.classes_[best]


class NetRegressor(RegressorMixin, NetEstimator):
    """Neural network for regression, trained on the squared error.

    Parameters
    ----------
    module, epochs, batch_size, optimizer, lr, weight_decay, device, accelerate, random_state, progress, checkpoint_dir
        As in `NetClassifier`; the module returns one number an output.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``; ``callbacks__x``: a skorch callback, under the name x in
        ``net_.callbacks_`` after `fit` (a copy; not with `checkpoint_dir`).

    Attributes
    ----------
    module_, net_, loss_curve_, n_iter_, n_features_in_
        As in `NetClassifier`.

    Notes
    -----
    The targets are used as they are: bring them to a scale of about 1, for example by
    ``sklearn.compose.TransformedTargetRegressor``.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters import NetRegressor
    >>> X = np.linspace(-2, 2, 200)[:, None]
    >>> y = np.sin(2 * X[:, 0])
    >>> NetRegressor(lr=0.01, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    _criterion = nn.MSELoss

    def _check_data(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
        X, y = self._as_float32(X, y, multi_output=True, y_numeric=True)
        with np.errstate(over="ignore"):
            y = check_finite("y, in single precision,", y.astype(np.float32))
        self._flat = y.ndim == 1
        self._n_inputs, self._n_outputs = int(X[0].size), 1 if self._flat else y.shape[1]
        return X, y.reshape(len(y), -1)

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predictions.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records,) or (n_records, n_outputs), as y was
        """
        outputs = self._outputs(X).astype(np.float64)
        return outputs[:, 0] if self._flat else outputs

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags


def relative_weights(weight: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weights over their mean; divided before they are cast, since single precision ends at 1e38."""
    return (weight / weight.mean()).astype(np.float32)


def make_module(
    module: str | type[nn.Module] | Callable[..., nn.Module] | nn.Module,
    n_inputs: int,
    n_outputs: int,
    **arguments: Any,
) -> nn.Module:
    """A new module, or a copy of the one given.

    Parameters
    ----------
    module : "mlp", torch Module, or class or function that makes one
        A class or function is given ``n_inputs`` and ``n_outputs`` where it takes them. The copy of a Module keeps its weights.
    n_inputs, n_outputs : int
    **arguments
        Further arguments of the class or function.

    Returns
    -------
    torch Module
    """
    if isinstance(module, nn.Module):
        return copy.deepcopy(module)
    if isinstance(module, str):
        check_choice("module", module, ("mlp",))
        module = MLP
    elif not callable(module):
        raise TypeError(
            f'module must be "mlp", a torch Module or a function that makes one, got {module!r}'
        )
    sizes = {"n_inputs": n_inputs, "n_outputs": n_outputs}
    known = inspect.signature(module).parameters
    return module(**({k: v for k, v in sizes.items() if k in known} | arguments))
