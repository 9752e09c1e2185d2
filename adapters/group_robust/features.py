"""What a network makes of its inputs before its last layer.

`NetFeatures` is a scikit-learn transformer, so that a linear model on the features of a network is a pipeline; with
`statml.group_robust.DeepFeatureReweighting` at its end, it is deep feature reweighting (Kirichenko et al. 2023). Its last layer is to
be fitted to records that the network was not trained on: freeze the network with ``sklearn.frozen.FrozenEstimator``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from .._estimator import NetClassifier, NetEstimator
from .._net import Net, Records


class NetFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The inputs of a network's last layer, as columns.

    Parameters
    ----------
    estimator : network or None, default=None
        Fitted by ``fit``; ``FrozenEstimator(network)`` is taken as it is. None is ``NetClassifier()``.
    layer : str or None, default=None
        Name of the layer whose inputs are taken, as in ``module.named_modules()``. None: the last linear one.

    Attributes
    ----------
    estimator_ : network
        Fitted.
    n_features_in_ : int

    References
    ----------
    Kirichenko, P., Izmailov, P. and Wilson, A. G. (2023). Last layer re-training is sufficient for robustness to
    spurious correlations. ICLR.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.pipeline import make_pipeline
    >>> from statml.adapters import NetClassifier
    >>> from statml.adapters.group_robust import NetFeatures
    >>> from statml.datasets import make_spurious_gaussians
    >>> from statml.group_robust import DeepFeatureReweighting
    >>> train, few = (make_spurious_gaussians(n=n, random_state=n) for n in (2000, 500))
    >>> network = NetClassifier(module__hidden=(16,), epochs=10, random_state=0).fit(train.X, train.y)
    >>> model = make_pipeline(NetFeatures(FrozenEstimator(network)), DeepFeatureReweighting(random_state=0))
    >>> model = model.fit(few.X, few.y, deepfeaturereweighting__groups=few.groups)
    >>> model[0].transform(few.X).shape
    (500, 16)
    """

    def __init__(self, estimator: NetEstimator | None = None, layer: str | None = None):
        self.estimator = estimator
        self.layer = layer

    def fit(self, X: ArrayLike, y: ArrayLike | None = None, **fit_params: ArrayLike) -> Self:
        """Train the network, unless it is frozen.

        Parameters
        ----------
        X : array-like of shape (n, ...)
        y : array-like of shape (n,) or None, default=None
            A frozen network needs none.
        **fit_params : array-like
            Of the network's ``fit``: ``sample_weight``, ``groups``.

        Returns
        -------
        self
        """
        network = NetClassifier() if self.estimator is None else self.estimator
        frozen = isinstance(network, FrozenEstimator)
        if not isinstance(network.estimator if frozen else network, NetEstimator):
            raise TypeError(
                f"estimator must be a network such as NetClassifier, or one in a FrozenEstimator, got {network!r}"
            )
        if frozen:
            check_is_fitted(network.estimator)
            self.estimator_ = network.estimator
        else:
            self.estimator_ = clone(network).fit(X, y, **fit_params)
        first = self.estimator_._as_float32(X, reset=False)[:1]
        features, _ = features_and_outputs(self.estimator_.net_, first, self.layer)
        self._n_features_out = features.shape[1]
        self.n_features_in_ = self.estimator_.n_features_in_
        if hasattr(self.estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.estimator_.feature_names_in_
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Features of records.

        Parameters
        ----------
        X : array-like of shape (n, ...)

        Returns
        -------
        ndarray of shape (n, n_features_out)
        """
        check_is_fitted(self)
        X = self.estimator_._as_float32(X, reset=False)
        features, _ = features_and_outputs(self.estimator_.net_, X, self.layer)
        return features

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def last_layer(module: nn.Module, name: str | None = None) -> nn.Module:
    """The layer of a name, or the last linear one.

    Parameters
    ----------
    module : torch Module
    name : str or None, default=None

    Returns
    -------
    torch Module

    Raises
    ------
    ValueError
        If there is none.
    """
    layers = dict(module.named_modules())
    if name is not None:
        if name not in layers:
            raise ValueError(
                f"layer must be one of {', '.join(filter(None, layers))}; got {name!r}"
            )
        return layers[name]
    linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(module).__name__} has no linear layer; name a layer")
    return linear[-1]


def features_and_outputs(
    net: Net, X: NDArray[np.float32], layer: str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The inputs of the last layer, shape (n, n_features), and the module's outputs, (n, n_outputs)."""
    with _kept_inputs(last_layer(net.module_, layer)) as kept:
        outputs = [part.cpu() for part in net.forward_iter(Records(torch.from_numpy(X), {}))]
    return torch.cat(kept).numpy(), torch.cat(outputs).numpy()


@contextmanager
def _kept_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []
    handle = layer.register_forward_pre_hook(
        lambda _, inputs: kept.append(inputs[0].detach().flatten(1).float().cpu())
    )
    try:
        yield kept
    finally:
        handle.remove()
