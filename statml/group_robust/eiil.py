r"""Environment inference for invariant learning: the split in two that most breaks the invariance of a reference model.

For a reference model with logits f and soft membership :math:`u_i(e)` of record i in environment e, the environments
maximise the penalty of invariant risk minimisation,

.. math::  \frac{1}{2} \sum_{e \in \{0, 1\}} \Big( \frac{\partial}{\partial s} \Big|_{s=1}
           \frac{1}{n} \sum_i u_i(e)\, \ell(s f(x_i), y_i) \Big)^2,
           \qquad u_i(1) = u_i,\; u_i(0) = 1 - u_i,

the mean going over all n records and not over the mass of the environment, as in the authors' code.

No iteration is needed. With :math:`g_i = \partial \ell(s f(x_i), y_i) / \partial s` at s = 1, the objective is
:math:`\tfrac12 (A^2 + (S - A)^2)` in :math:`A = \tfrac1n \sum_i u_i g_i`, where :math:`S = \tfrac1n \sum_i g_i`. It is convex in A, so
that it is largest at an end of the range of A: :math:`u_i = 1` exactly where :math:`g_i > 0`, or exactly where
:math:`g_i < 0`, the same split. For two classes :math:`g_i = f_i (\sigma(f_i) - y_i)`, which is positive if and only if
record i is misclassified: with free memberships, the inferred environments are the errors of the reference model, those
that just train twice would upweight.

Cost: `cv` fits.

Reference: Creager, E., Jacobsen, J.-H. and Zemel, R. (2021). Environment inference for invariant learning. International
Conference on Machine Learning, equations 4 to 6; Arjovsky, M., Bottou, L., Gulrajani, I. and Lopez-Paz, D. (2019).
Invariant risk minimization. arXiv:1907.02893.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression

from .._validation import RandomState, as_generator, check_integer
from ._partition import GroupPartition
from .out_of_fold import aligned_proba, out_of_fold_proba, seeded, stratified_folds

Array = NDArray[np.float64]


class EIILPartition(GroupPartition):
    """Groups of class and inferred environment, to be given to a robust classifier.

    Parameters
    ----------
    estimator : classifier with predict_proba or None, default=None
        The reference model. None is ``LogisticRegression(max_iter=1000)``.
    cv : int or None, default=5
        Folds for out-of-fold logits. None: logits on the training records, as in the paper.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes the folds, and the estimator where its own ``random_state`` is None.

    Attributes
    ----------
    labels_ : ndarray of str, shape (n,)
        Group of each record, like "y=1, environment 0".
    environments_ : ndarray of int, shape (n,)
        1 where the loss grows with the scale of the logits.
    penalty_ : float
        The maximum reached.
    groups_ : ndarray of str
        The groups there are.
    reference_ : classifier
        Fitted to all records; infers the groups of others.
    classes_ : ndarray of shape (n_classes,)

    References
    ----------
    Creager et al. (2021), equations 4 to 6.

    Examples
    --------
    >>> from statml.datasets import make_spurious_gaussians
    >>> from statml.group_robust.eiil import EIILPartition
    >>> data = make_spurious_gaussians(random_state=0)
    >>> groups = EIILPartition(random_state=0).fit_predict(data.X, data.y)
    >>> sorted(set(groups.tolist()))
    ['y=0, environment 0', 'y=0, environment 1', 'y=1, environment 0', 'y=1, environment 1']
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        cv: int | None = 5,
        random_state: RandomState = None,
    ):
        self.estimator = estimator
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Infer environments.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, or y has one class.
        """
        if self.cv is not None:
            check_integer("cv", self.cv, low=2)
        X, codes = self._validated(X, y)
        reference = LogisticRegression(max_iter=1000) if self.estimator is None else self.estimator
        rng = as_generator(self.random_state)
        reference = seeded(reference, rng)
        self.reference_ = clone(reference).fit(X, codes)
        if self.cv is None:
            proba = aligned_proba(self.reference_, X, len(self.classes_), len(X))
        else:
            fold = stratified_folds(codes, self.cv, rng)
            proba = out_of_fold_proba(reference, X, codes, fold)
        slope = scale_slopes(proba, codes)
        self.environments_: NDArray[np.int64] = (slope > 0).astype(np.int64)
        self.penalty_ = invariance_penalty(self.environments_, slope)
        return self._keep(codes, self.environments_)

    def _environments(self, X: Array, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        proba = aligned_proba(self.reference_, X, len(self.classes_), self.n_train_)
        return (scale_slopes(proba, codes) > 0).astype(np.int64)


def scale_slopes(proba: Array, codes: NDArray[np.int64]) -> Array:
    """Derivative of each record's log loss in the scale of its logits, at scale 1: sum_k f_k (p_k - 1[k = y]).

    Parameters
    ----------
    proba : ndarray of shape (n, K)
    codes : ndarray of int, shape (n,)

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> bool(np.isclose(scale_slopes(np.array([[0.2, 0.8]]), np.array([0]))[0], 0.8 * np.log(4)))
    True
    """
    logits = np.log(np.maximum(proba, np.finfo(float).tiny))
    logits = logits - logits[np.arange(len(codes)), codes][:, None]  # the slope ignores constants
    return (proba * logits).sum(axis=1)


def invariance_penalty(u: ArrayLike, slope: Array) -> float:
    """Half the sum over both environments of the squared mean of membership times slope.

    Examples
    --------
    >>> import numpy as np
    >>> invariance_penalty([1, 0], np.array([2.0, -2.0]))
    1.0
    """
    u = np.asarray(u, dtype=float)
    return float(((u * slope).mean() ** 2 + ((1 - u) * slope).mean() ** 2) / 2)
