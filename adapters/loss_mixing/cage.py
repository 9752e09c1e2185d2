r"""CAGE, a label model of rules that vote for one label each, kept on its feet by a guess of how good the rules are.

Rule j votes for k_j (l_j = 1) or abstains (l_j = 0). With a parameter for every rule and class,

.. math::

    P_\theta(l, y) = \frac{1}{Z} \exp \sum_j \theta_{jy} l_j, \qquad Z = \sum_y \prod_j (1 + e^{\theta_{jy}}),

so that rules are independent given y and fire with probability :math:`\sigma(\theta_{jy})`, and class y has the share
:math:`\prod_j (1 + e^{\theta_{jy}}) / Z`: the shares of the classes are no parameters of their own. From votes alone nothing says which
class is which. The quality guide does, the share of its votes in which a rule is believed to be right,

.. math::

    a_{jy} = P_\theta(y \mid l_j = 1) \propto e^{\theta_{jy}} \prod_{m \ne j} (1 + e^{\theta_{my}}), \qquad
    R(\theta) = -\sum_j \big[ q_j \log a_{j k_j} + (1 - q_j) \log(1 - a_{j k_j}) \big],

and `CAGE` minimises, over n records of which some may have a label,

.. math::

    -\frac1n \sum_{i \in U} \log \sum_y P_\theta(l_i, y) - \frac1n \sum_{i \in L} \log P_\theta(l_i, y_i) + g\, R(\theta)
    + \frac{l2}{2} \|\theta\|^2

with its exact gradient by L-BFGS. A step takes time proportional to (votes + rules) x classes.

References
----------
Chatterjee, O., Ramakrishnan, G. and Sarawagi, S. (2020). Robust data programming with precision-guided labeling
functions. AAAI.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp, softmax
from sklearn.exceptions import ConvergenceWarning

from statml._validation import check_integer, check_number

from .rule_set import UNLABELLED, LabelMatrix, LabelModel, label_positions, rule_hits

Array = NDArray[np.float64]
TYPICAL = 0.9  # quality of a rule about which nothing is known


class CAGE(LabelModel):
    """Label model for rules that vote for one label each, with a guide of their quality.

    Parameters
    ----------
    quality : float, array-like of shape (n_rules,), or "labelled", default=0.9
        Share of its votes in which a rule is believed to be right. "labelled" takes it from the labels given to `fit`: right votes over all
        votes *of the rule* on labelled records, with one more vote of quality 0.9 in each so that few labels do not make certainty.
    guide : float, default=1.0
        Weight of the guide, beside the mean log-likelihood. 0 leaves the classes without names, and is allowed with labels only.
    l2 : float, default=1e-4
        Ridge strength: (l2/2) times the squared norm of theta is added.
    classes : array-like of int, optional
        All labels there are, in rising order; by default those of the votes.
    max_iter : int, default=2000
    tol : float, default=1e-6
        Largest entry of the gradient at which L-BFGS stops.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_rules_ : int
    theta_ : ndarray of shape (n_rules, n_classes)
    rule_labels_ : ndarray of int of shape (n_rules,)
        -1 for a rule that never voted, which stays without effect.
    quality_ : ndarray of shape (n_rules,)
        The guide; NaN for a rule that never voted.
    precision_ : ndarray of shape (n_rules,)
        The share of right votes according to the fitted model, a_jk.
    class_prior_ : ndarray of shape (n_classes,)
    log_likelihood_ : float
        Mean over the records.
    n_iter_ : int

    Warns
    -----
    ConvergenceWarning
        If L-BFGS stopped before `tol` was reached.

    References
    ----------
    Chatterjee, O., Ramakrishnan, G. and Sarawagi, S. (2020). Robust data programming with precision-guided labeling
    functions. AAAI.

    Examples
    --------
    >>> from statml.adapters import CAGE
    >>> from statml.datasets import make_weak_labels
    >>> data = make_weak_labels(n=2000, coverage=0.3, accuracy=0.85, random_state=0)
    >>> model = CAGE(quality=0.85).fit(data.votes)
    >>> covered = (data.votes != -1).any(axis=1)
    >>> bool((model.predict(data.votes) == data.y)[covered].mean() > 0.85)
    True
    """

    def __init__(
        self,
        quality: float | ArrayLike | str = TYPICAL,
        guide: float = 1.0,
        l2: float = 1e-4,
        classes: ArrayLike | None = None,
        max_iter: int = 2000,
        tol: float = 1e-6,
    ):
        self.quality = quality
        self.guide = guide
        self.l2 = l2
        self.classes = classes
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, votes: Any, y: ArrayLike | None = None) -> Self:
        """Estimate theta.

        Parameters
        ----------
        votes : LabelMatrix, or array-like of int of shape (n_records, n_rules)
            Labels, -1 where there is no vote.
        y : array-like of int of shape (n_records,), optional
            Labels that are known, -1 for the others.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a rule votes for more than one label, or for unusable votes, labels or parameters.
        """
        guide, l2 = check_number("guide", self.guide, 0), check_number("l2", self.l2, 0)
        max_iter = check_integer("max_iter", self.max_iter, low=1)
        tol = check_number("tol", self.tol, 0)
        votes = self._start(votes)
        labels = _labels_of_rules(votes)
        truth = np.full(len(votes), UNLABELLED)
        if y is not None:
            truth = label_positions(y, self.classes_, len(votes))
        if guide == 0 and (truth == UNLABELLED).all():
            raise ValueError(
                "guide must be > 0 without labels: nothing else says which class is which, got 0"
            )
        quality = self._quality(votes, labels, y)
        seen = labels >= 0
        fired = sp.csr_array(votes.codes > 0, dtype=float)[:, np.flatnonzero(seen)]
        start = np.ones((int(seen.sum()), len(self.classes_)))
        result = minimize(
            lambda t: objective(
                t.reshape(start.shape), fired, truth, labels[seen], quality[seen], guide, l2
            ),
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iter, "gtol": tol, "ftol": 0.0},
        )
        if np.abs(result.jac).max() > 100 * tol:
            warnings.warn(
                f"L-BFGS has stopped with a gradient of {np.abs(result.jac).max():.1e} ({result.message})",
                ConvergenceWarning,
                stacklevel=2,
            )
        theta = result.x.reshape(start.shape)
        self.theta_: NDArray[np.float64] = np.zeros((self.n_rules_, len(self.classes_)))
        self.theta_[seen] = theta
        self.rule_labels_: NDArray[np.int64] = np.where(seen, self.classes_[labels], UNLABELLED)
        self.quality_ = quality
        self.precision_: NDArray[np.float64] = np.full(self.n_rules_, np.nan)
        self.precision_[seen] = np.exp(log_agreement(theta))[np.arange(len(theta)), labels[seen]]
        self.class_prior_ = softmax(np.logaddexp(0, theta).sum(axis=0))
        self.log_likelihood_ = -negative_log_likelihood(theta, fired, truth)[0]
        self.n_iter_ = result.nit
        return self

    def _quality(self, votes: LabelMatrix, labels: NDArray, y: ArrayLike | None) -> Array:
        m = len(labels)
        if isinstance(self.quality, str):
            if self.quality != "labelled":
                raise ValueError(
                    f'quality must be a number, one a rule, or "labelled", got {self.quality!r}'
                )
            if y is None:
                raise ValueError(
                    'quality="labelled" needs labels: give y, with -1 where they are unknown'
                )
            fired, correct = rule_hits(votes, y)
            quality = (correct + TYPICAL) / (fired + 1)
        else:
            quality = np.asarray(self.quality, dtype=float)
            if quality.shape not in ((), (m,)):
                raise ValueError(
                    f"quality must be a number or one for each of the {m} rules, got shape {quality.shape}"
                )
            if not ((quality >= 0) & (quality <= 1)).all():
                raise ValueError(f"quality must be in [0, 1], got {self.quality!r}")
            quality = np.broadcast_to(quality, (m,))
        return np.where(labels >= 0, quality, np.nan)

    def _posterior(self, votes: LabelMatrix) -> Array:
        strange = (_labels_of_rules(votes) >= 0) & (self.rule_labels_ >= 0)
        found = np.where(strange, self.classes_[_labels_of_rules(votes)], self.rule_labels_)
        if (found != self.rule_labels_).any():
            j = int(np.flatnonzero(found != self.rule_labels_)[0])
            raise ValueError(
                f"rule {votes.names[j]!r} votes for {found[j]}, but voted for {self.rule_labels_[j]} in the fit"
            )
        return softmax(sp.csr_array(votes.codes > 0, dtype=float) @ self.theta_, axis=1)


def objective(
    theta: Array,
    fired: sp.csr_array,
    truth: NDArray[np.int64],
    labels: NDArray[np.int64],
    quality: Array,
    guide: float,
    l2: float,
) -> tuple[float, Array]:
    """What `CAGE` minimises, and its gradient, flat.

    Parameters
    ----------
    theta : ndarray of shape (m, C)
    fired : sparse array of shape (n, m)
        1 where a rule votes.
    truth : ndarray of int of shape (n,)
        Positions of known classes, else -1.
    labels : ndarray of int of shape (m,)
        Positions of the labels of the rules.
    quality : ndarray of shape (m,)
    guide, l2 : float

    Returns
    -------
    float, ndarray of shape (m * C,)
    """
    value, gradient = negative_log_likelihood(theta, fired, truth)
    if guide:
        penalty, slope = guide_penalty(theta, labels, quality)
        value, gradient = value + guide * penalty, gradient + guide * slope
    value += 0.5 * l2 * float((theta**2).sum())
    return value, (gradient + l2 * theta).ravel()


def negative_log_likelihood(
    theta: Array, fired: sp.csr_array, truth: NDArray[np.int64]
) -> tuple[float, Array]:
    """Mean over the records of -log P(l_i), or -log P(l_i, y_i) where y_i is known; and its gradient (m, C)."""
    n = fired.shape[0]
    score = fired @ theta
    size = np.logaddexp(0, theta).sum(axis=0)  # log of the product over rules
    log_z = logsumexp(size)
    evidence = logsumexp(score, axis=1)
    q = np.exp(score - evidence[:, None])
    known = truth >= 0
    evidence[known] = score[known, truth[known]]
    q[known] = np.eye(theta.shape[1])[truth[known]]
    gradient = np.exp(size - log_z) * expit(theta) - (fired.T @ q) / n
    return float(log_z - evidence.mean()), gradient


def log_agreement(theta: Array) -> Array:
    """log P(y | l_j = 1), shape (m, C)."""
    u = np.logaddexp(0, theta).sum(axis=0) + log_expit(theta)
    return u - logsumexp(u, axis=1, keepdims=True)


def guide_penalty(theta: Array, labels: NDArray[np.int64], quality: Array) -> tuple[float, Array]:
    """The quality guide R, and its gradient (m, C)."""
    rules = np.arange(len(theta))
    log_a = log_agreement(theta)
    own = log_a[rules, labels]
    others = log_a.copy()
    others[rules, labels] = -np.inf
    log_rest = logsumexp(others, axis=1)  # log(1 - a), without cancellation
    value = -float(quality @ own + (1 - quality) @ log_rest)
    # dR/du, with u the logits of a: a - q for the own label, (q - a) times the shares of the others for these
    excess = quality - np.exp(own)
    du = excess[:, None] * np.exp(others - log_rest[:, None])
    du[rules, labels] = -excess
    s = expit(theta)
    return value, s * du.sum(axis=0) + (1 - s) * du


def _labels_of_rules(votes: LabelMatrix) -> NDArray[np.int64]:
    """Position of the one label that each rule votes for, -1 for a rule that never votes."""
    m = votes.shape[1]
    used = votes.indicators().sum(axis=0).reshape(m, -1) > 0
    several = used.sum(axis=1) > 1
    if several.any():
        j = int(np.flatnonzero(several)[0])
        raise ValueError(
            f"CAGE takes rules that vote for one label each, but {votes.names[j]!r} votes for "
            f"{votes.classes[used[j]].tolist()}. DawidSkene takes such annotators"
        )
    return np.where(used.any(axis=1), used.argmax(axis=1), UNLABELLED)
