r"""Expected responses of new cases under draws of theta, for models of a response given features."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from .protocols import Array, RecordModel


def expected_response(model: RecordModel, theta: Array, X: ArrayLike) -> Array:
    """E(y | features, theta) for every draw of theta and every case.

    A model may bring its own ``expected_response(theta, X)``; linear and logistic regression are known here.

    Parameters
    ----------
    model : RecordModel
    theta : ndarray of shape (size, k)
        Its first p + 1 columns are the intercept and the slopes.
    X : array-like of shape (n, p)

    Returns
    -------
    ndarray of shape (size, n)

    Raises
    ------
    ValueError
        If the model has no response, or X another shape.
    """
    from .models import LinearRegression, LogisticRegression

    if hasattr(model, "expected_response"):
        return np.asarray(model.expected_response(theta, X), dtype=float)
    if not isinstance(model, (LinearRegression, LogisticRegression)):
        raise ValueError(
            f"predict needs a model of a response given features, which {type(model).__name__} is not; "
            "sample_predictive draws new records"
        )
    X = np.asarray(X, dtype=float)
    p = model.n_features
    if X.ndim != 2 or X.shape[1] != p or not np.isfinite(X).all():
        raise ValueError(f"X must be finite and of shape (n, {p}), got shape {X.shape}")
    linear = theta[:, :1] + theta[:, 1 : p + 1] @ X.T
    return expit(linear) if isinstance(model, LogisticRegression) else linear
