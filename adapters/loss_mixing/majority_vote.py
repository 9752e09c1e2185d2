r"""The majority of the votes, the label model that assumes nothing of the rules but that they are equally good.

.. math::  P(y = c \mid l) = \frac{\#\{j : l_j = c\}}{\#\{j : l_j \ne \text{abstain}\}}

It learns nothing, and is hard to beat where rules seldom conflict. A record on which classes tie has no label, and one without votes
has no probabilities. Time grows with the number of votes.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .rule_set import LabelMatrix, LabelModel


class MajorityVote(LabelModel):
    """Label model that counts votes.

    Parameters
    ----------
    classes : array-like of int, optional
        All labels there are, in rising order; by default those of the votes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_rules_ : int

    Examples
    --------
    >>> from statml.adapters import MajorityVote
    >>> votes = [[0, 0, 1], [1, -1, 0], [-1, -1, -1]]
    >>> model = MajorityVote().fit(votes)
    >>> model.predict_proba(votes).round(2)
    array([[0.67, 0.33],
           [0.5 , 0.5 ],
           [ nan,  nan]])
    >>> model.predict(votes)
    array([ 0, -1, -1])
    """

    def __init__(self, classes: ArrayLike | None = None):
        self.classes = classes

    def fit(self, votes: Any, y: Any = None) -> Self:
        """Remember which classes and how many rules there are.

        Parameters
        ----------
        votes : LabelMatrix, or array-like of int of shape (n_records, n_rules)
            Labels, -1 where there is no vote.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no vote, or one that is no class.
        """
        self._start(votes)
        return self

    def _posterior(self, votes: LabelMatrix) -> NDArray[np.float64]:
        count = votes.counts()
        return count / np.maximum(count.sum(axis=1, keepdims=True), 1)
