r"""Dawid and Skene's label model: every annotator has an error rate for each pair of true and given label.

With classes :math:`\pi_c = P(y = c)` and confusion :math:`\theta_{jcv} = P(l_j = v \mid y = c)`, votes independent given y,

.. math::

    \ell(\pi, \theta) = \sum_i \log \sum_c \pi_c \prod_j \theta_{j c l_{ij}} + \alpha \Big( \sum_c \log \pi_c + \sum_{jcv} \log \theta_{jcv} \Big),

the second part being the log-density, up to a constant, of Dirichlet priors with :math:`\alpha` observations added to each cell. EM raises it with every step,

.. math::

    q_{ic} \propto \pi_c \prod_j \theta_{j c l_{ij}}, \qquad \pi_c \propto \alpha + \sum_i q_{ic}, \qquad
    \theta_{jcv} \propto \alpha + \sum_i q_{ic} 1(l_{ij} = v),

from q = shares of the votes. Abstention is either *missing*, a record that an annotator was never asked about, and drops out of the product (Dawid
and Skene's case), or *informative*, one more value v of the vote. Rules that can vote for one label only say something just by
when they fire, and need the second.

A step takes time proportional to (number of votes) x (classes): abstentions cost nothing, since they are counted by their complement.

References
----------
Dawid, A. P. and Skene, A. M. (1979). Maximum likelihood estimation of observer error-rates using the EM algorithm. Applied
Statistics, 28(1).
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

from statml._validation import check_choice, check_integer, check_number

from .rule_set import UNLABELLED, LabelMatrix, LabelModel, label_positions

Array = NDArray[np.float64]
LEAST = 1e-300  # a probability of zero, on the scale of logarithms


class DawidSkene(LabelModel):
    """Label model with a confusion matrix for every annotator or rule, by EM.

    Parameters
    ----------
    abstain : {"missing", "informative"}, default="missing"
        What it means that an annotator did not vote: nothing, or that by itself it says something about the class. Labelling rules
        that vote for one label each need "informative".
    smoothing : float, default=0.01
        Observations added to every cell of the confusion matrices and to every class; 0 is maximum likelihood.
    classes : array-like of int, optional
        All labels there are, in rising order; by default those of the votes.
    max_iter : int, default=500
    tol : float, default=1e-7
        EM stops when a step raises the mean log-likelihood of a record by less.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_rules_ : int
    class_prior_ : ndarray of shape (n_classes,)
    confusion_ : ndarray of shape (n_rules, n_classes, n_classes) or (n_rules, n_classes, n_classes + 1)
        Chance of each vote (last axis) given the true class; the last vote is none where abstention is informative.
    log_likelihood_path_ : ndarray of shape (number of iterations,)
        Of the parameters after each step, with the part of the prior; it never falls.
    n_iter_ : int

    Warns
    -----
    ConvergenceWarning
        If `max_iter` steps were not enough.

    Notes
    -----
    EM finds the maximum next to the majority vote. Nothing in the votes says which latent class is which: where most annotators are worse than chance,
    or rules are dependent given the class, it can be wrong with great confidence. Judge it on a few known labels.

    References
    ----------
    Dawid, A. P. and Skene, A. M. (1979). Maximum likelihood estimation of observer error-rates using the EM algorithm. Applied
    Statistics, 28(1).

    Examples
    --------
    The third annotator says the opposite of what the others say, and is of as much use.

    >>> from statml.adapters import DawidSkene
    >>> votes = [[0, 0, 1], [1, 1, 0], [0, 0, 1], [1, 1, 0], [0, -1, 1], [1, -1, 0]]
    >>> model = DawidSkene().fit(votes)
    >>> model.predict([[-1, -1, 1]])
    array([0])
    """

    def __init__(
        self,
        abstain: str = "missing",
        smoothing: float = 0.01,
        classes: ArrayLike | None = None,
        max_iter: int = 500,
        tol: float = 1e-7,
    ):
        self.abstain = abstain
        self.smoothing = smoothing
        self.classes = classes
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, votes: Any, y: ArrayLike | None = None) -> Self:
        """Estimate the error rates.

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
            For unusable votes, labels or parameters; or if abstention is missing and each annotator only ever gives one label, so that nothing
            can be learned from votes.
        """
        check_choice("abstain", self.abstain, ("missing", "informative"))
        smoothing = check_number("smoothing", self.smoothing, 0)
        max_iter = check_integer("max_iter", self.max_iter, low=1)
        tol = check_number("tol", self.tol, 0)
        votes = self._start(votes)
        used = votes.indicators().sum(axis=0).reshape(self.n_rules_, -1) > 0
        if self.abstain == "missing" and (used.sum(axis=1) <= 1).all():
            raise ValueError(
                'abstain="missing" cannot tell rules apart that vote for one label each: given that they vote, the vote is known. '
                'Use abstain="informative", or CAGE'
            )
        truth = np.full(len(votes), UNLABELLED)
        if y is not None:
            truth = label_positions(y, self.classes_, len(votes))
        if self.abstain == "missing":  # records without a vote say nothing about anything
            keep = votes.covered | (truth >= 0)
            votes, truth = votes[keep], truth[keep]
        fit = em(
            votes.indicators(), truth, len(self.classes_), self.abstain, smoothing, max_iter, tol
        )
        if not fit.converged:
            warnings.warn(
                f"EM has not converged after max_iter={max_iter} steps",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.class_prior_, self.confusion_ = fit.prior, fit.confusion
        self.log_likelihood_path_, self.n_iter_ = fit.path, len(fit.path)
        return self

    def _posterior(self, votes: LabelMatrix) -> Array:
        joint = log_joint(votes.indicators(), self.class_prior_, self.confusion_)
        return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


class EMResult(NamedTuple):
    """Parameters found by `em`, the objective after each step, and whether it has converged."""

    prior: Array
    confusion: Array
    path: Array
    converged: bool


def em(
    indicators: sp.csr_array,
    truth: NDArray[np.int64],
    n_classes: int,
    abstain: str,
    smoothing: float,
    max_iter: int,
    tol: float,
) -> EMResult:
    """EM from the shares of the votes.

    Parameters
    ----------
    indicators : sparse array of shape (n, n_rules * n_classes)
    truth : ndarray of int of shape (n,)
        Positions of known classes, else -1.
    n_classes, abstain, smoothing, max_iter, tol
        As in `DawidSkene`.

    Returns
    -------
    EMResult
    """
    known = truth >= 0
    fixed = np.eye(n_classes)[truth[known]]
    q = sum(
        indicators[:, c::n_classes].sum(axis=1)[:, None] * np.eye(n_classes)[c]
        for c in range(n_classes)
    )
    total = q.sum(axis=1, keepdims=True)
    overall = q.sum(axis=0) / q.sum()  # where nobody votes
    q = np.where(total > 0, q / np.maximum(total, 1), overall)
    q[known] = fixed
    path: list[float] = []
    while True:
        prior, confusion = m_step(indicators, q, abstain, smoothing)
        joint = log_joint(indicators, prior, confusion)
        evidence = logsumexp(joint, axis=1)
        q = np.exp(joint - evidence[:, None])
        evidence[known] = joint[known, truth[known]]
        q[known] = fixed
        penalty = 0.0
        if smoothing:
            penalty = smoothing * (np.log(prior).sum() + np.log(confusion).sum())
        path.append(float(evidence.sum() + penalty))
        converged = len(path) > 1 and path[-1] - path[-2] < tol * len(q)
        if converged or len(path) == max_iter:
            return EMResult(prior, confusion, np.array(path), converged)


def m_step(
    indicators: sp.csr_array, q: Array, abstain: str, smoothing: float
) -> tuple[Array, Array]:
    """Class shares (C,) and confusion (m, C, C or C + 1) of largest expected log-likelihood, given q (n, C).

    A rule that never voted on a class, without smoothing, gets even chances there: nothing was seen.
    """
    n_classes = q.shape[1]
    size = q.sum(axis=0)
    prior = (smoothing + size) / (n_classes * smoothing + size.sum())
    count = (
        (indicators.T @ q).reshape(-1, n_classes, n_classes).transpose(0, 2, 1)
    )  # (m, true, vote)
    if abstain == "informative":
        none = np.maximum(size[None] - count.sum(axis=2), 0.0)
        count = np.concatenate([count, none[:, :, None]], axis=2)
    count = count + smoothing
    total = count.sum(axis=2, keepdims=True)
    even = np.full_like(count, 1 / count.shape[2])
    return prior, np.divide(count, total, out=even, where=total > 0)


def log_joint(indicators: sp.csr_array, prior: Array, confusion: Array) -> Array:
    """log P(y = c, votes), shape (n, C)."""
    n_classes = len(prior)
    logs = np.log(np.maximum(confusion, LEAST))
    start = np.log(np.maximum(prior, LEAST))
    weights = logs[:, :, :n_classes]
    if logs.shape[2] > n_classes:  # all abstain, and each vote puts right its own part
        start = start + logs[:, :, -1].sum(axis=0)
        weights = weights - logs[:, :, -1:]
    return start + indicators @ weights.transpose(0, 2, 1).reshape(-1, n_classes)
