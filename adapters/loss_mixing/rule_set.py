r"""Labelling rules as regular expressions, the votes they cast, and how good and how quarrelsome they are.

Rule j carries the label k_j and votes for it on a text that its expression matches, else it abstains. Of the votes, with n texts:

* coverage, the share of texts with a vote; overlap, of those with two or more; conflict, of those with votes for different labels;
* accuracy, the share of the votes of a rule that are right, *among the texts on which it voted*, with Wilson's interval.

Votes are kept sparse: time and memory grow with the number of votes, not with texts times rules.

References
----------
Ratner, A. et al. (2017). Snorkel: rapid training data creation with weak supervision. VLDB, 11(3).
Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA, 22(158).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from statml._validation import check_level, check_sequence

from .auxiliary import UNLABELLED, SoftTarget

ABSTAIN = UNLABELLED


class RuleSet:
    """Labelling rules for texts.

    Parameters
    ----------
    rules : iterable of (label, regex)
        A label is a whole number >= 0; a regex is text, searched anywhere in the text, or a compiled expression.
    names : sequence of str, optional
        Of the rules; the expressions by default.
    classes : array-like of int, optional
        All labels there are, if no rule votes for some of them.
    flags : int, default=0
        Of `re.compile`, for example ``re.IGNORECASE``. Many published rules expect texts in lower case.

    Raises
    ------
    TypeError, ValueError
        For a rule that is no such pair, or an expression that does not compile.

    Examples
    --------
    >>> from statml.adapters import RuleSet
    >>> rules = RuleSet([(1, r"free|prize"), (0, r"\\bthanks\\b")])
    >>> rules
    RuleSet of 2 rules, 2 classes
    >>> votes = rules.apply(["a free prize", "thanks, mum", "see you"])
    >>> votes.toarray()
    array([[ 1, -1],
           [-1,  0],
           [-1, -1]])
    >>> votes.covered
    array([ True,  True, False])
    """

    def __init__(
        self,
        rules: Iterable[tuple[int, str | re.Pattern]],
        names: Sequence[str] | None = None,
        classes: ArrayLike | None = None,
        flags: int = 0,
    ):
        self.patterns: list[re.Pattern] = []
        labels = []
        for j, rule in enumerate(rules):
            if not isinstance(rule, (tuple, list)) or len(rule) != 2:
                raise TypeError(f"rules must hold pairs (label, regex), got {rule!r} at {j}")
            label, regex = rule
            labels.append(_as_label(label, f"the label of rule {j}"))
            try:
                self.patterns.append(re.compile(regex, flags if isinstance(regex, str) else 0))
            except (re.error, TypeError) as error:
                raise ValueError(
                    f"the regex of rule {j}, {regex!r}, does not compile: {error}"
                ) from error
        if not labels:
            raise ValueError("rules must hold at least one rule, got none")
        self.labels = np.array(labels, dtype=np.int64)
        self.names = list(names) if names is not None else [p.pattern for p in self.patterns]
        if len(self.names) != len(labels):
            raise ValueError(
                f"names must name the {len(labels)} rules, got {len(self.names)} names"
            )
        self.classes = _as_classes(classes, self.labels)

    def __len__(self) -> int:
        return len(self.patterns)

    def __repr__(self) -> str:
        return f"RuleSet of {len(self)} rules, {len(self.classes)} classes"

    def apply(self, texts: Iterable[str]) -> LabelMatrix:
        """The votes of all rules on all texts.

        Parameters
        ----------
        texts : iterable of str

        Returns
        -------
        LabelMatrix of shape (n_texts, n_rules)

        Raises
        ------
        TypeError
            If `texts` is a single text, or something in it is none.
        """
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts must be a sequence of texts, got a single one")
        texts = list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts must hold str, got {type(text).__name__} at {i}")
        rows, columns = [], []
        for j, pattern in enumerate(self.patterns):
            found = [i for i, text in enumerate(texts) if pattern.search(text)]
            rows += found
            columns += [j] * len(found)
        codes = np.searchsorted(self.classes, self.labels)[columns] + 1
        shape = (len(texts), len(self))
        matrix = sp.csr_array((codes.astype(np.int32), (rows, columns)), shape=shape)
        return LabelMatrix(matrix, self.classes, self.names)


class LabelMatrix:
    """Votes of rules or annotators, sparse.

    Parameters
    ----------
    codes : sparse array of int of shape (n_records, n_rules)
        1 + position of the label in `classes`; what is not stored is no vote.
    classes : array-like of int of shape (n_classes,)
    names : sequence of str, optional

    Attributes
    ----------
    codes, classes, names
    shape : (n_records, n_rules)
    covered : ndarray of bool of shape (n_records,)
        Which records have a vote; the mask of `SoftTarget`.

    Examples
    --------
    >>> from statml.adapters import LabelMatrix
    >>> votes = LabelMatrix.from_dense([[1, 1], [0, 1], [0, -1]])
    >>> votes.coverage(), round(votes.overlap(), 3), round(votes.conflict(), 3)
    (1.0, 0.667, 0.333)
    """

    def __init__(self, codes: Any, classes: ArrayLike, names: Sequence[str] | None = None):
        self.codes = sp.csr_array(codes)
        self.codes.sum_duplicates()
        self.codes.eliminate_zeros()
        self.classes = np.asarray(classes)
        stored = self.codes.data
        if len(stored) and (stored.min() < 1 or stored.max() > len(self.classes)):
            raise ValueError(
                f"codes must be 1 to {len(self.classes)}, got {stored.min()} to {stored.max()}"
            )
        m = self.codes.shape[1]
        self.names = list(names) if names is not None else [f"rule {j}" for j in range(m)]
        if len(self.names) != m:
            raise ValueError(f"names must name the {m} rules, got {len(self.names)} names")

    @classmethod
    def from_dense(
        cls,
        votes: ArrayLike,
        classes: ArrayLike | None = None,
        names: Sequence[str] | None = None,
    ) -> Self:
        """Votes as an array of labels, -1 where there is none.

        Parameters
        ----------
        votes : array-like of int of shape (n_records, n_rules)
        classes : array-like of int, optional
            Those that occur by default.
        names : sequence of str, optional

        Returns
        -------
        LabelMatrix

        Raises
        ------
        ValueError
            If a vote is no whole number, or neither -1 nor one of `classes`.
        """
        votes = np.asarray(votes)
        if votes.ndim != 2:
            raise ValueError(
                f"votes must have a row a record and a column a rule, got shape {votes.shape}"
            )
        if votes.dtype.kind not in "iu":
            whole = votes.dtype.kind == "f" and np.isfinite(votes).all() and (votes % 1 == 0).all()
            if not whole:
                raise ValueError(
                    "votes must be whole numbers, -1 for none; got NaN, fractions or text"
                )
            votes = votes.astype(np.int64)
        fired = votes != ABSTAIN
        if (votes[fired] < 0).any():
            raise ValueError(f"votes must be labels >= 0 or -1 for none, got {votes.min()}")
        known = _as_classes(classes, votes[fired])
        position = np.minimum(np.searchsorted(known, votes), len(known) - 1)
        strange = fired & (known[position] != votes)
        if strange.any():
            raise ValueError(
                f"votes hold {votes[strange][0]}, which is not one of the classes {known.tolist()}"
            )
        return cls(np.where(fired, position + 1, 0), known, names)

    @property
    def shape(self) -> tuple[int, int]:
        """(n records, m rules)."""
        return self.codes.shape

    def __len__(self) -> int:
        return self.codes.shape[0]

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Whether at least one rule votes, shape (n,)."""
        return np.diff(self.codes.indptr) > 0

    def __getitem__(self, rows: Any) -> LabelMatrix:
        """The votes on some records: a slice, a mask or positions."""
        rows = np.arange(len(self))[rows]
        if rows.ndim != 1:
            raise TypeError("a LabelMatrix is indexed by a slice, a mask or positions of records")
        return LabelMatrix(self.codes[rows], self.classes, self.names)

    def toarray(self) -> NDArray[np.int64]:
        """The labels, -1 where there is no vote; shape (n_records, n_rules). `RuleVotes` takes either."""
        dense = self.codes.toarray()
        return np.where(dense > 0, self.classes[np.maximum(dense, 1) - 1], ABSTAIN)

    def counts(self) -> NDArray[np.int64]:
        """Votes for each class, shape (n_records, n_classes)."""
        n, n_classes = len(self), len(self.classes)
        rows = np.repeat(np.arange(n), np.diff(self.codes.indptr))
        flat = np.bincount(rows * n_classes + self.codes.data - 1, minlength=n * n_classes)
        return flat.reshape(n, n_classes)

    def indicators(self) -> sp.csr_array:
        """Which vote was cast, as 0 and 1 of shape (n_records, n_rules * n_classes), classes within rules."""
        n_classes = len(self.classes)
        columns = self.codes.indices * n_classes + self.codes.data - 1
        shape = (len(self), self.shape[1] * n_classes)
        ones = np.ones(len(columns))
        return sp.csr_array((ones, columns, self.codes.indptr), shape=shape)

    def coverage(self) -> float:
        """Share of the records with a vote; NaN where there is no record."""
        return _share(self.covered)

    def overlap(self) -> float:
        """Share of the records with two votes or more."""
        return _share(np.diff(self.codes.indptr) > 1)

    def conflict(self) -> float:
        """Share of the records with votes for different labels."""
        return _share((self.counts() > 0).sum(axis=1) > 1)

    def summary(self, y: ArrayLike | None = None, level: float = 0.95) -> pd.DataFrame:
        """The rules one by one.

        Parameters
        ----------
        y : array-like of int of shape (n_records,), optional
            True labels, -1 where unknown. Adds how often each rule was right.
        level : float, default=0.95
            Of the intervals.

        Returns
        -------
        DataFrame
            A row a rule: ``labels`` (those that it voted for), ``coverage``, ``overlap`` (it and another voted), ``conflict`` (it and another
            voted differently), as shares of all records; with `y` also ``fired`` and ``correct``, its votes on labelled records and
            how many of these were right, and ``accuracy``, their ratio, with Wilson's interval ``conf_low``, ``conf_high``: NaN and [0, 1] for a
            rule that never voted there.
        """
        level = check_level(level)
        n, m = self.shape
        rows = np.repeat(np.arange(n), np.diff(self.codes.indptr))
        columns, classes = self.codes.indices, self.codes.data - 1
        count = self.counts()
        total = count.sum(axis=1)

        def share(which: NDArray) -> NDArray:
            return np.bincount(columns[which], minlength=m) / max(n, 1)

        voted = [np.unique(classes[columns == j]) for j in range(m)]
        table = pd.DataFrame(
            {
                "labels": [self.classes[v].tolist() for v in voted],
                "coverage": share(np.ones(len(rows), dtype=bool)),
                "overlap": share(total[rows] > 1),
                "conflict": share(total[rows] > count[rows, classes]),
            },
            index=pd.Index(self.names, name="rule"),
        )
        if y is not None:
            fired, correct = rule_hits(self, y)
            table["fired"], table["correct"] = fired, correct
            share_right = np.full(m, np.nan)
            np.divide(correct, fired, out=share_right, where=fired > 0)
            table["accuracy"] = share_right
            z = norm.ppf((1 + level) / 2)
            table["conf_low"], table["conf_high"] = _wilson(correct, fired, z)
        return table

    def __repr__(self) -> str:
        n, m = self.shape
        return (
            f"LabelMatrix of {n} records and {m} rules, {len(self.classes)} classes: coverage {self.coverage():.3f}, "
            f"overlap {self.overlap():.3f}, conflict {self.conflict():.3f}"
        )


def rule_hits(votes: LabelMatrix, y: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each rule voted on records whose label is known, and how often it was right.

    Parameters
    ----------
    votes : LabelMatrix of shape (n_records, n_rules)
    y : array-like of int of shape (n_records,)
        True labels, -1 where unknown.

    Returns
    -------
    fired, correct : ndarray of int of shape (n_rules,)
    """
    m = votes.shape[1]
    truth = label_positions(y, votes.classes, len(votes))
    rows = np.repeat(np.arange(len(votes)), np.diff(votes.codes.indptr))
    known = truth[rows] >= 0
    right = known & (truth[rows] == votes.codes.data - 1)
    columns = votes.codes.indices
    return np.bincount(columns[known], minlength=m), np.bincount(columns[right], minlength=m)


def label_positions(y: ArrayLike, classes: NDArray, n: int) -> NDArray[np.int64]:
    """Positions in `classes` of the n labels y, -1 where y is -1."""
    y = np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f"y must have one label for each of the {n} records, got shape {y.shape}")
    known = y != UNLABELLED
    position = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    strange = known & (classes[position] != y)
    if strange.any():
        raise ValueError(
            f"y holds {y[strange][0]}, which is neither -1 nor one of the classes {classes.tolist()}"
        )
    return np.where(known, position, UNLABELLED)


def as_label_matrix(votes: Any, classes: ArrayLike | None = None) -> LabelMatrix:
    """Votes as a `LabelMatrix`; an array holds labels, -1 for none.

    Parameters
    ----------
    votes : LabelMatrix, or array-like of int of shape (n_records, n_rules)
    classes : array-like of int, optional
        Those of the result.

    Returns
    -------
    LabelMatrix
    """
    if not isinstance(votes, LabelMatrix):
        return LabelMatrix.from_dense(votes, classes)
    if classes is None or np.array_equal(classes, votes.classes):
        return votes
    wanted = _as_classes(classes, votes.classes)
    used = np.unique(votes.codes.data) - 1
    position = np.minimum(np.searchsorted(wanted, votes.classes), len(wanted) - 1)
    missing = votes.classes[used][wanted[position[used]] != votes.classes[used]]
    if len(missing):
        raise ValueError(
            f"votes hold {missing[0]}, which is not one of the classes {wanted.tolist()}"
        )
    codes = votes.codes.copy()
    codes.data = (position[codes.data - 1] + 1).astype(codes.data.dtype)
    return LabelMatrix(codes, wanted, votes.names)


class LabelModel(BaseEstimator):
    """What label models share: from posterior probabilities to labels and to a loss. Subclasses fit, and give `_posterior`."""

    def _start(self, votes: Any) -> LabelMatrix:
        """The votes of a fit, and what the fitted model remembers of them."""
        votes = as_label_matrix(votes, self.classes)
        if not votes.covered.any():
            raise ValueError("votes must hold at least one vote, got none")
        if len(votes.classes) < 2:
            raise ValueError(
                f"votes must be for at least two classes, got {votes.classes.tolist()} alone; give the others in classes"
            )
        self.classes_, self.n_rules_ = votes.classes, votes.shape[1]
        return votes

    def _votes(self, votes: Any) -> LabelMatrix:
        check_is_fitted(self, "classes_")
        votes = as_label_matrix(votes, self.classes_)
        if votes.shape[1] != self.n_rules_:
            raise ValueError(
                f"votes must have the {self.n_rules_} columns of the fit, got {votes.shape[1]}"
            )
        return votes

    def predict_proba(self, votes: Any) -> NDArray[np.float64]:
        """Probability of each class.

        Parameters
        ----------
        votes : LabelMatrix, or array-like of int of shape (n_records, n_rules)
            Labels, -1 where there is no vote.

        Returns
        -------
        ndarray of shape (n_records, n_classes)
            Columns as ``classes_``. NaN for records without any vote, about which nothing is known.
        """
        votes = self._votes(votes)
        return np.where(votes.covered[:, None], self._posterior(votes), np.nan)

    def predict(self, votes: Any) -> NDArray[np.int64]:
        """Most likely label.

        Parameters
        ----------
        votes : as in `predict_proba`

        Returns
        -------
        ndarray of int of shape (n_records,)
            -1 for records without any vote, and where classes tie.
        """
        return labels_without_ties(self.predict_proba(votes), self.classes_)

    def soft_target(self, votes: Any, name: str = "rules") -> SoftTarget:
        """The probabilities as an auxiliary loss; records without a label (no vote, or a tie) have none.

        Parameters
        ----------
        votes : as in `predict_proba`
        name : str, default="rules"

        Returns
        -------
        SoftTarget
        """
        probs = self.predict_proba(votes)
        mask = labels_without_ties(probs, self.classes_) != ABSTAIN
        return SoftTarget(probs, mask, name)


def labels_without_ties(probs: NDArray, classes: NDArray) -> NDArray[np.int64]:
    """The class of the largest probability, -1 where two are largest or none is known."""
    top = np.nan_to_num(probs, nan=-1.0).max(axis=1, keepdims=True)
    largest = probs >= top - 1e-12  # False for NaN
    return np.where(largest.sum(axis=1) == 1, classes[largest.argmax(axis=1)], ABSTAIN)


def _wilson(correct: NDArray, fired: NDArray, z: float) -> tuple[NDArray, NDArray]:
    """Wilson's interval: all p with |correct - fired p| <= z sqrt(fired p (1 - p)). All of [0, 1] without data."""
    centre = (correct + z**2 / 2) / (fired + z**2)
    wrong = fired - correct
    spread = np.divide(correct * wrong, fired, out=np.zeros(len(fired)), where=fired > 0)
    half = z * np.sqrt(spread + z**2 / 4) / (fired + z**2)
    # where all or none are right one end is exact, and rounding must not move it
    return np.where(correct == 0, 0.0, centre - half), np.where(wrong == 0, 1.0, centre + half)


def _share(of: NDArray[np.bool_]) -> float:
    return float(of.mean()) if len(of) else float("nan")


def _as_label(label: Any, what: str) -> int:
    if isinstance(label, (bool, np.bool_)) or not isinstance(label, (int, np.integer)) or label < 0:
        raise ValueError(f"{what} must be a whole number >= 0 (-1 means no vote), got {label!r}")
    return int(label)


def _as_classes(classes: ArrayLike | None, labels: NDArray) -> NDArray[np.int64]:
    """Classes in order; those that occur if None are given."""
    if classes is None:
        if not len(labels):
            raise ValueError("votes must hold at least one vote, or classes be given; got neither")
        return np.unique(labels).astype(np.int64)
    known = np.array(
        [_as_label(c, "a class") for c in check_sequence("classes", classes, "integers")], np.int64
    )
    if len(np.unique(known)) != len(known) or (np.diff(known) < 0).any() or not len(known):
        raise ValueError(f"classes must hold different labels in rising order, got {classes!r}")
    strange = labels[~np.isin(labels, known)]
    if len(strange):
        raise ValueError(
            f"votes hold {strange[0]}, which is not one of the classes {known.tolist()}"
        )
    return known
