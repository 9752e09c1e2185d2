"""Auxiliary losses: what a teacher, a rule or a user says about each record.

A source is bound to the records of a fit (``bind``), and is then a `Block` of losses, one a record.

References
----------
Hinton, G., Vinyals, O. and Dean, J. (2015). Distilling the knowledge in a neural network. arXiv:1503.02531.
Maheshwari, A. et al. (2021). Semi-supervised data programming with subset selection. Findings of ACL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array, check_is_fitted

from statml._validation import check_number

from .blocks import LEAST, EntropyBlock, FunctionBlock, Losses, TargetBlock, log_softmax

UNLABELLED = -1  # as in scikit-learn's semi-supervised methods


class SoftTarget:
    """Cross-entropy with a distribution over the classes for every record, for example from a label model.

    Parameters
    ----------
    probs : array-like of shape (n_records, n_classes)
        Columns in the order of ``classes_``.
    mask : array-like of bool of shape (n_records,), optional
        Records that have this loss; all by default. The other rows of `probs` are not read: a record about which nothing is known must be
        masked, since a uniform label is a claim.
    name : str, default="soft target"

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters import SoftTarget
    >>> block = SoftTarget([[0.8, 0.2], [0.5, 0.5]], mask=[True, False]).bind(2, np.array([0, 1]))
    >>> block.gradients(np.zeros((2, 2)), np.arange(2))[:, 0].round(2)
    array([[-0.3,  0.3],
           [ 0. ,  0. ]])
    """

    def __init__(self, probs: ArrayLike, mask: ArrayLike | None = None, name: str = "soft target"):
        self.probs, self.mask, self.name = probs, mask, name

    def bind(self, n: int, classes: NDArray, X: Any = None) -> TargetBlock:
        """The block of a fit on n records; X is theirs.

        Raises
        ------
        ValueError
            If rows or columns do not fit, or a row within the mask is no distribution.
        """
        q = _as_matrix(self.probs, n, len(classes), self.name, "probs")
        mask = _as_mask(self.mask, n, self.name)
        bad = mask & ~(np.all(q >= 0, axis=1) & (np.abs(q.sum(axis=1) - 1) < 1e-3))
        if bad.any():
            raise ValueError(
                f"probs of {self.name!r} must be a distribution in every row within the mask; row {int(np.flatnonzero(bad)[0])} is "
                f"{q[bad][0]}. Mask rows about which nothing is known"
            )
        return TargetBlock([self.name], q[:, None], mask[:, None])


class Teacher:
    r"""Distillation from a teacher: T^2 KL(teacher || student) of the softmax at temperature T.

    Parameters
    ----------
    teacher : array-like of shape (n_records, n_classes), or fitted classifier
        Logits, columns in the order of ``classes_``; or a classifier, whose ``predict_proba`` on X gives them. A classifier may know some
        of the classes only; it then gives the others no chance.
    temperature : float or None, default=None
        None takes the estimator's.
    mask : array-like of bool of shape (n_records,), optional
        Records that are taught; all by default.
    name : str, default="teacher"

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters import Teacher
    >>> block = Teacher([[2.0, 0.0, 0.0]], temperature=4).bind(1, np.arange(3))
    >>> block.losses(np.array([[1.0, 0.0, -1.0]]), np.array([0])).round(6)
    array([[0.103107]])
    """

    def __init__(
        self,
        teacher: Any,
        temperature: float | None = None,
        mask: ArrayLike | None = None,
        name: str = "teacher",
    ):
        self.teacher, self.temperature, self.mask, self.name = teacher, temperature, mask, name

    def bind(
        self, n: int, classes: NDArray, X: Any = None, temperature: float = 4.0
    ) -> TargetBlock:
        """The block of a fit on n records; X is theirs."""
        if self.temperature is not None:
            temperature = self.temperature
        temperature = check_number("temperature", temperature, 0, low_open=True)
        mask = _as_mask(self.mask, n, self.name)
        logits = self._logits(n, classes, X)
        if not np.isfinite(logits[mask]).all():
            raise ValueError(f"logits of {self.name!r} hold NaN or infinity within the mask")
        q = np.exp(log_softmax(np.where(mask[:, None], logits, 0.0) / temperature))
        return TargetBlock([self.name], q[:, None], mask[:, None], temperature, divergence=True)

    def _logits(self, n: int, classes: NDArray, X: Any) -> NDArray[np.float64]:
        if not hasattr(self.teacher, "predict_proba"):
            return _as_matrix(self.teacher, n, len(classes), self.name, "logits")
        check_is_fitted(self.teacher)
        known = np.asarray(self.teacher.classes_)
        if not np.isin(known, classes).all():
            raise ValueError(
                f"{self.name!r} knows the classes {_listed(known)}, y holds {_listed(classes)}"
            )
        logits = np.full((n, len(classes)), np.log(LEAST))
        probs = self.teacher.predict_proba(X)
        columns = [int(np.flatnonzero(classes == c)[0]) for c in known]
        logits[:, columns] = np.log(np.maximum(probs, LEAST))
        return logits


class RuleVotes:
    """Votes of labelling rules; where no rule votes there is no loss.

    Parameters
    ----------
    votes : array-like or sparse matrix of shape (n_records, n_rules)
        Labels as in y, -1 where a rule abstains. A sparse matrix is made dense with ``toarray()``, so that 0 is a label.
    aggregate : bool, default=True
        One loss for all rules, the cross-entropy with the share of the votes for each class. False: one loss for each rule, so that each
        can be weighted (``lambda_groups="loss"`` gives every rule one weight).
    names : sequence of str, optional
        Of the rules.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters import RuleVotes
    >>> block = RuleVotes([[0, 1, -1], [-1, -1, -1]]).bind(2, np.array([0, 1]))
    >>> block.targets[0, 0], block.mask[:, 0]
    (array([0.5, 0.5]), array([ True, False]))
    """

    def __init__(self, votes: Any, aggregate: bool = True, names: Sequence[str] | None = None):
        self.votes, self.aggregate, self.names = votes, aggregate, names

    def bind(self, n: int, classes: NDArray, X: Any = None) -> TargetBlock:
        """The block of a fit on n records; X is theirs."""
        votes = np.asarray(self.votes.toarray() if hasattr(self.votes, "toarray") else self.votes)
        if votes.ndim != 2 or len(votes) != n:
            raise ValueError(
                f"votes must have a row for each of the {n} records and a column a rule, got shape {votes.shape}"
            )
        one_hot = votes[:, :, None] == classes  # (n, m, C)
        strange = votes[(votes != UNLABELLED) & ~one_hot.any(axis=2)]
        if len(strange):
            raise ValueError(
                f"votes hold {strange[0]!r}, which is neither a class of y ({_listed(classes)}) nor -1 (abstains)"
            )
        fired = one_hot.any(axis=2)
        if not self.aggregate:
            names = self.names or [f"rule {j}" for j in range(votes.shape[1])]
            if len(names) != votes.shape[1]:
                raise ValueError(
                    f"names must name the {votes.shape[1]} rules, got {len(names)} names"
                )
            return TargetBlock(list(names), one_hot.astype(float), fired)
        count = one_hot.sum(axis=1)
        shares = count / np.maximum(count.sum(axis=1, keepdims=True), 1)
        return TargetBlock(["rules"], shares[:, None], fired.any(axis=1, keepdims=True))


class Entropy:
    """Entropy of the prediction, which unlabelled records can have too: predictions become more certain.

    Parameters
    ----------
    mask : array-like of bool of shape (n_records,), optional
    name : str, default="entropy"
    """

    def __init__(self, mask: ArrayLike | None = None, name: str = "entropy"):
        self.mask, self.name = mask, name

    def bind(self, n: int, classes: NDArray, X: Any = None) -> EntropyBlock:
        """The block of a fit on n records; X is theirs."""
        return EntropyBlock(self.name, _as_mask(self.mask, n, self.name)[:, None])


class PerExample:
    """A loss of one's own; a callable in ``aux`` becomes one.

    Parameters
    ----------
    function : callable
        Takes logits (b, n_classes) and the positions in X (b,) of their records, both torch tensors, and returns losses (b,), one a
        record and not their mean.
    mask : array-like of bool of shape (n_records,), optional
    name : str, optional
        That of the function by default.
    """

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        mask: ArrayLike | None = None,
        name: str | None = None,
    ):
        self.function, self.mask = function, mask
        self.name = name or getattr(function, "__name__", type(function).__name__)

    def bind(self, n: int, classes: NDArray, X: Any = None) -> FunctionBlock:
        """The block of a fit on n records; X is theirs."""
        block = FunctionBlock(self.name, self.function, _as_mask(self.mask, n, self.name)[:, None])
        block.probe(n, len(classes))
        return block


class DistillationLoss:
    """T^2 KL(teacher || student) of every record, and its gradient in the student's logits.

    Parameters
    ----------
    temperature : float, default=4.0

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters import DistillationLoss
    >>> losses, gradients = DistillationLoss(4.0)(np.array([[1.0, 0.0, -1.0]]), np.array([[2.0, 0.0, 0.0]]))
    >>> losses.round(6), gradients.round(6)
    (array([0.103107]), array([[-0.130535,  0.209709, -0.079174]]))
    """

    def __init__(self, temperature: float = 4.0):
        self.temperature = temperature

    def __call__(self, student: NDArray, teacher: NDArray) -> tuple[NDArray, NDArray]:
        """Losses (n,) and gradients (n, n_classes) of logits (n, n_classes) of both."""
        student, n = np.asarray(student, float), len(student)
        block = Teacher(teacher, self.temperature).bind(n, np.arange(student.shape[1]))
        index = np.arange(n)
        return block.losses(student, index)[:, 0], block.gradients(student, index)[:, 0]


# --- all losses of a fit ----------------------------------------------------------------------------


def bind_losses(
    y: NDArray[np.int64],
    aux: Sequence[Any] | None,
    classes: NDArray,
    X: Any,
    temperature: float,
    n: int | None = None,
) -> Losses:
    """The losses of a fit: the cross-entropy with y, then the auxiliary ones.

    Parameters
    ----------
    y : ndarray of int of shape (n + m,)
        Positions in classes, -1 for unlabelled.
    aux : sequence of sources or None
        They speak of the first n records only.
    classes : ndarray of shape (C,)
    X : array-like of shape (n, ...)
        For teachers that are models.
    temperature : float
        Of the teachers that name none.
    n : int, optional
        That of all records by default.

    Returns
    -------
    Losses

    Raises
    ------
    TypeError
        If something in `aux` is neither a source nor callable.
    ValueError
        If a source does not fit the records.
    """
    n = len(y) if n is None else n
    one_hot = (y[:, None] == np.arange(len(classes))).astype(float)
    blocks: list[Any] = [TargetBlock(["ce"], one_hot[:, None], (y != UNLABELLED)[:, None])]
    if aux is not None and not isinstance(aux, (list, tuple)):
        aux = [aux]
    for source in aux or []:
        if isinstance(source, Teacher):
            block: Any = source.bind(n, classes, X, temperature)
        elif hasattr(source, "bind"):
            block = source.bind(n, classes, X)
        elif callable(source):
            block = PerExample(source).bind(n, classes, X)
        else:
            raise TypeError(
                "aux takes SoftTarget, Teacher, RuleVotes, Entropy, PerExample or a function of logits and index, "
                f"got {type(source).__name__}"
            )
        blocks.append(block.padded(len(y) - n))
    merged: list[Any] = []
    for block in blocks:
        alike = isinstance(block, TargetBlock) and merged and isinstance(merged[-1], TargetBlock)
        if alike and merged[-1].temperature == block.temperature:
            merged[-1] = TargetBlock.joined([merged[-1], block])
        else:
            merged.append(block)
    losses = Losses(merged)
    seen: dict[str, int] = {}
    for k, name in enumerate(losses.names):  # two teachers of one name are "teacher", "teacher 2"
        seen[name] = seen.get(name, 0) + 1
        losses.names[k] = name if seen[name] == 1 else f"{name} {seen[name]}"
    return losses


def _listed(values: NDArray) -> str:
    shown = ", ".join(str(v) for v in values[:10])
    return shown + (", ..." if len(values) > 10 else "")


def _as_matrix(values: Any, n: int, n_classes: int, name: str, what: str) -> NDArray[np.float64]:
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu().numpy()
    matrix = check_array(
        values,
        dtype=float,
        ensure_2d=False,
        ensure_all_finite=False,
        allow_nd=True,
        ensure_min_samples=0,
        input_name=name,
    )
    if matrix.shape != (n, n_classes):
        raise ValueError(
            f"{what} of {name!r} must have a row for each of the {n} records and a column for each of the {n_classes} classes, "
            f"got shape {matrix.shape}"
        )
    return matrix


def _as_mask(mask: ArrayLike | None, n: int, name: str) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(n, dtype=bool)
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != (n,):
        raise ValueError(
            f"mask of {name!r} must hold True or False for each of the {n} records, got {mask.dtype} of shape {mask.shape}"
        )
    return mask
