r"""Randomized response: every person's category is replaced at random before anybody sees it (local privacy).

.. math:: P(s_i = l \mid x_i = k) = Q_{kl}

independently over persons [1]_. The density of all answers is a product over records,
:math:`\log \eta(s \mid x) = \sum_i \log Q_{x_i s_i}`: additive in the records with the one statistic
:math:`t_i = \log Q_{x_i s_i}`, which depends on the person's own answer.

With :math:`Q_{kk} = e^\epsilon / (e^\epsilon + K - 1)` and all other entries equal it is :math:`\epsilon`-differentially private; in general
:math:`\epsilon = \max \log Q_{kl} / Q_{k'l}`.

References
----------
.. [1] S. L. Warner (1965). Randomized response. J. Am. Stat. Assoc. 60.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._validation import check_integer, check_number
from ..protocols import Mechanism, RecordModel
from ._release import as_release, numbers

Array = NDArray[np.float64]


class RandomizedResponse(Mechanism):
    """Categories, each replaced at random with known probabilities.

    Give either `Q`, or `epsilon` and `n_categories`. The category of a record is the column of its one-hot statistic
    (or its value 0, 1, ..., K - 1 where the model's statistic has one column).

    Parameters
    ----------
    Q : array-like of shape (K, L) or None, default=None
        Row k: probabilities of the L answers for a person of category k. Rows sum to one.
    epsilon : float or None, default=None
        Privacy loss of K-ary randomized response: the truth with probability exp(epsilon) / (exp(epsilon) + K - 1), else one
        of the other categories.
    n_categories : int or None, default=None
        K of K-ary randomized response.
    counts : bool, default=False
        Whether the release is how often each answer was given (L integers) rather than the n answers (0, ..., L - 1)
        in the order of the records. Records are exchangeable, so that both carry the same information on theta.

    Attributes
    ----------
    Q : ndarray of shape (K, L)
    sensitivity : None
        Not needed.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import mechanisms
    >>> coin = mechanisms.RandomizedResponse(epsilon=np.log(3), n_categories=2)
    >>> coin.Q
    array([[0.75, 0.25],
           [0.25, 0.75]])
    >>> mechanisms.RandomizedResponse(coin.Q, counts=True).check_release([2, 3], ["no", "yes"])
    array([0., 0., 1., 1., 1.])
    >>> round(coin.acceptance_bound(), 4)
    0.3333
    """

    factorises = True
    needs_release = True

    def __init__(
        self,
        Q: ArrayLike | None = None,
        *,
        epsilon: float | None = None,
        n_categories: int | None = None,
        counts: bool = False,
    ):
        if (Q is None) == (epsilon is None) or (epsilon is None) != (n_categories is None):
            raise ValueError("RandomizedResponse takes either Q, or epsilon and n_categories")
        self.Q = _matrix(Q) if epsilon is None else _k_ary(epsilon, n_categories)
        self.counts = bool(counts)
        with np.errstate(divide="ignore"):
            self._log_Q = np.log(self.Q)

    @classmethod
    def from_epsilon(
        cls, epsilon: float, n_categories: int, *, counts: bool = False
    ) -> RandomizedResponse:
        """K-ary randomized response with privacy loss epsilon."""
        return cls(epsilon=epsilon, n_categories=n_categories, counts=counts)

    def categories(self, model: RecordModel, x: Array) -> NDArray[np.int64]:
        """The category of every record, shape (n,)."""
        t = np.asarray(model.statistic(x), dtype=float)
        n_categories = len(self.Q)
        if t.shape[1] == n_categories and n_categories > 1:
            found = t.argmax(axis=1)
            one_hot = t[np.arange(len(t)), found].sum() == len(t) == np.abs(t).sum()
        else:
            found = t[:, 0].astype(np.int64)
            one_hot = t.shape[1] == 1 and (found == t[:, 0]).all()
        if not one_hot or (len(found) and not (found.min() >= 0 and found.max() < n_categories)):
            raise ValueError(
                f"randomized response over {n_categories} categories needs a model whose statistic is the category of "
                f"a record: one-hot with {n_categories} columns, or one column of 0, ..., {n_categories - 1}"
            )
        return found

    def statistic(self, model: RecordModel, x: Array, release: Array | None) -> Array:
        """log Q of the person's answer given the record's category, shape (n, 1)."""
        if release is None:
            raise ValueError(
                "the statistic of randomized response depends on the release; got None"
            )
        categories = self.categories(model, x)
        if len(release) != len(categories):
            raise ValueError(
                f"the release holds {len(release)} answers, but there are {len(categories)} records"
            )
        return self._log_Q[categories, np.asarray(release, dtype=np.int64)][:, None]

    def log_density(self, release: Array, totals: Array) -> Array:
        """The log probability of all answers, which is the total of `statistic`.

        Parameters
        ----------
        release : ndarray of shape (n,)
            Not used: `totals` were made with it.
        totals : ndarray of shape (..., 1)

        Returns
        -------
        ndarray of shape (...)
        """
        return np.asarray(totals, dtype=float)[..., 0]

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """A release given the true categories of the n persons (there is no total here), reproducible from `rng`.

        For simulation: a survey that protects its respondents draws from the system's entropy.

        Returns
        -------
        ndarray
            The answers, shape (n,), or their counts, shape (L,), with ``counts=True``.
        """
        categories = np.asarray(totals, dtype=np.int64)
        cumulative = np.cumsum(self.Q, axis=1)[categories]
        cumulative[:, -1] = 1.0
        answers = (rng.random(len(categories))[:, None] >= cumulative).sum(axis=1)
        if self.counts:
            return np.bincount(answers, minlength=self.Q.shape[1]).astype(float)
        return answers.astype(float)

    def simulate(self, model: RecordModel, x: Array, rng: np.random.Generator) -> Array:
        """A release given complete records of a model, for rehearsals."""
        return self.randomise(self.categories(model, x), rng)

    def check_release(
        self,
        release: ArrayLike | Mapping[str, float],
        statistic_names: list[str],
        n_records: int | None = None,
    ) -> Array:
        """The n answers as an array; counts are laid out as answers in order.

        Raises
        ------
        ValueError
            If an answer is none of 0, ..., L - 1, a count is negative or no integer, or there are not `n_records` of them.
        """
        n_answers = self.Q.shape[1]
        if self.counts:
            same = len(statistic_names) == n_answers
            names = statistic_names if same else [f"answer {l}" for l in range(n_answers)]
            values = as_release(release, names)
            if (values < 0).any() or (values != np.rint(values)).any():
                raise ValueError(f"release must be counts, integers >= 0; got {values}")
            answers = np.repeat(np.arange(n_answers), values.astype(np.int64)).astype(float)
        else:
            answers = numbers("release", release)
            taken = (
                f"release must be the answers of all records, each one of 0, ..., {n_answers - 1}"
            )
            if answers.ndim != 1:
                raise ValueError(f"{taken}; got shape {answers.shape}")
            bad = ~np.isin(answers, np.arange(n_answers))
            if bad.any():
                i = int(np.flatnonzero(bad)[0])
                raise ValueError(f"{taken}; got release[{i}] = {answers[i]:g}")
        if n_records is not None and len(answers) != n_records:
            raise ValueError(f"release holds {len(answers)} answers, but n_records is {n_records}")
        return answers

    def n_totals(self, n_statistics: int) -> int:
        """One: the log probability of a person's answer."""
        return 1

    def release_size(self, n_statistics: int) -> None:
        """None: as many entries as records."""
        return None

    def epsilon(self, sensitivity: ArrayLike | None = None) -> float:
        """The largest log ratio of two entries of a column of Q; infinite where one is zero and the other is not."""
        used = self._log_Q[:, self.Q.max(axis=0) > 0]
        return float((used.max(axis=0) - used.min(axis=0)).max())

    def acceptance_bound(
        self, sensitivity: ArrayLike | None = None, *, average: bool = False
    ) -> float:
        """exp(-epsilon); on average over answers one minus the largest total variation distance of two rows of Q."""
        if not average:
            return float(np.exp(-self.epsilon()))
        overlap = np.minimum(self.Q[:, None, :], self.Q[None, :, :]).sum(axis=-1)
        return float(overlap.min())

    def __repr__(self) -> str:
        K, L = self.Q.shape
        counts = ", counts=True" if self.counts else ""
        return f"RandomizedResponse(Q of shape ({K}, {L}), epsilon={self.epsilon():.6g}{counts})"


def _matrix(Q: ArrayLike) -> Array:
    Q = numbers("Q", Q)
    taken = "Q must be a matrix of probabilities, one row a category, rows summing to one"
    if Q.ndim != 2 or Q.shape[0] < 2 or Q.shape[1] < 2:
        raise ValueError(f"{taken}; got shape {Q.shape}")
    if not (np.isfinite(Q).all() and (Q >= 0).all() and np.allclose(Q.sum(axis=1), 1, atol=1e-8)):
        raise ValueError(f"{taken}; got {Q.tolist()}")
    return Q / Q.sum(axis=1, keepdims=True)


def _k_ary(epsilon: float, n_categories: int) -> Array:
    epsilon = check_number("epsilon", epsilon, 0, low_open=True)
    n_categories = check_integer("n_categories", n_categories, 2)
    lie = np.exp(-epsilon - np.log1p((n_categories - 1) * np.exp(-epsilon)))
    Q = np.full((n_categories, n_categories), lie)
    np.fill_diagonal(Q, 1 - (n_categories - 1) * lie)
    return Q
