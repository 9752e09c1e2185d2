r"""Auxiliary losses: what a teacher, a rule or a user says about each record, as one loss a record.

A source is bound to the records of a fit and then is a `Block` of K losses: on logits z (b, C) of the records `index` it gives

.. math:: \ell_{ik}, \qquad \delta_{ik} = \partial \ell_{ik} / \partial z_i,

the losses (b, K) and their gradients (b, K, C), and says in ``mask`` (n, K) which records have which loss. Most are a divergence
from a distribution q at temperature T, with p = softmax(z/T):

.. math:: \ell = T^2 \sum_c q_c (\log q_c - \log p_c), \qquad \delta = T (p - q),

KL(teacher || student) with q the teacher's softmax at T (Hinton, Vinyals and Dean 2015); with T = 1 and without the entropy of q, the
cross-entropy with a soft or hard label. Everything here takes NumPy arrays and torch tensors alike.

References
----------
Hinton, G., Vinyals, O. and Dean, J. (2015). Distilling the knowledge in a neural network. arXiv:1503.02531.
Maheshwari, A. et al. (2021). Semi-supervised data programming with subset selection. Findings of ACL.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from statml._validation import check_number

UNLABELLED = -1  # as in scikit-learn's semi-supervised methods
LEAST = 1e-30  # a probability of zero, on the scale of logarithms


class Block(Protocol):
    """K losses a record, bound to n records."""

    names: list[str]
    mask: Any  # (n, K) bool

    def losses(self, logits: Any, index: Any) -> Any:
        """Losses (b, K), differentiable in the logits (b, C); those outside the mask are 0."""

    def gradients(self, logits: Any, index: Any) -> Any:
        """Their gradients in the logits, (b, K, C), closed form."""

    def tensors(self, device: Any, dtype: Any) -> Self:
        """The block for tensors of torch."""

    def padded(self, m: int) -> Self:
        """The block with m more records, which have none of its losses."""


# --- functions that take both NumPy arrays and tensors ----------------------------------------------


def log_softmax(z: Any) -> Any:
    """Logarithm of the softmax over the last axis."""
    if not isinstance(z, np.ndarray):
        return z.log_softmax(-1)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def exp(z: Any) -> Any:
    return np.exp(z) if isinstance(z, np.ndarray) else z.exp()


def _padded(values: NDArray, m: int) -> NDArray:
    return np.concatenate([values, np.zeros((m, *values.shape[1:]), values.dtype)])


def _as_tensor(values: NDArray, device: Any, dtype: Any) -> Any:
    import torch

    return torch.as_tensor(values, device=device).to(
        dtype if values.dtype.kind == "f" else torch.bool
    )


# --- blocks -----------------------------------------------------------------------------------------


class TargetBlock:
    """Divergences from distributions that were fixed before.

    Parameters
    ----------
    names : list of str
    targets : ndarray of shape (n, K, C)
        Distributions over the classes, at temperature `temperature`.
    mask : ndarray of bool of shape (n, K)
    temperature : float, default=1.0
    divergence : bool, default=False
        Whether the entropy of the target is subtracted, so that the least loss is zero.
    """

    def __init__(
        self,
        names: list[str],
        targets: NDArray,
        mask: NDArray,
        temperature: float = 1.0,
        divergence: bool = False,
    ):
        self.names, self.mask, self.temperature = names, mask, temperature
        self.targets = np.where(mask[:, :, None], targets, 0.0)
        logs = np.log(np.maximum(self.targets, LEAST)) if divergence else 0.0
        self.negative_entropy = (self.targets * logs).sum(axis=2)  # (n, K)

    def losses(self, logits, index):
        log_p = log_softmax(logits / self.temperature)
        cross = (self.targets[index] * log_p[:, None]).sum(-1)
        return self.temperature**2 * (self.negative_entropy[index] - cross)

    def gradients(self, logits, index):
        p = exp(log_softmax(logits / self.temperature))[:, None]
        return self.temperature * (self.mask[index][:, :, None] * p - self.targets[index])

    def curvature(self, logits, weights):
        """Sum over k of weights (b, K) times the second derivative, diag(p) - pp'; shape (b, C, C)."""
        p = exp(log_softmax(logits / self.temperature))
        diagonal = np.einsum("bc,cd->bcd", p, np.eye(p.shape[1]))
        return weights.sum(axis=1)[:, None, None] * (diagonal - p[:, :, None] * p[:, None])

    def tensors(self, device, dtype):
        block = copy.copy(self)
        for name in ("mask", "targets", "negative_entropy"):
            setattr(block, name, _as_tensor(getattr(self, name), device, dtype))
        return block

    def padded(self, m):
        block = copy.copy(self)
        for name in ("mask", "targets", "negative_entropy"):
            setattr(block, name, _padded(getattr(self, name), m))
        return block

    @staticmethod
    def joined(blocks: Sequence[TargetBlock]) -> TargetBlock:
        """Neighbours of one temperature as one block: fewer, larger operations."""
        block = copy.copy(blocks[0])
        block.names = [name for b in blocks for name in b.names]
        for name in ("mask", "targets", "negative_entropy"):
            setattr(block, name, np.concatenate([getattr(b, name) for b in blocks], axis=1))
        return block


class EntropyBlock:
    """Entropy of the prediction itself."""

    def __init__(self, name: str, mask: NDArray):
        self.names, self.mask = [name], mask

    def losses(self, logits, index):
        log_p = log_softmax(logits)
        return self.mask[index] * -(exp(log_p) * log_p).sum(-1)[:, None]

    def gradients(self, logits, index):
        log_p = log_softmax(logits)
        p = exp(log_p)
        entropy = -(p * log_p).sum(-1)[:, None]
        return self.mask[index][:, :, None] * (-p * (log_p + entropy))[:, None]

    def tensors(self, device, dtype):
        return EntropyBlock(self.names[0], _as_tensor(self.mask, device, dtype))

    def padded(self, m):
        return EntropyBlock(self.names[0], _padded(self.mask, m))


class FunctionBlock:
    """A function of logits (b, C) and index (b,), both tensors, that returns losses (b,)."""

    def __init__(
        self, name: str, function: Callable[[Any, Any], Any], mask: Any, n: int | None = None
    ):
        self.names, self.function, self.mask = [name], function, mask
        self.n = len(mask) if n is None else n  # the records that the function knows

    def losses(self, logits, index):
        if isinstance(logits, np.ndarray):
            return self._by_torch(logits, index)[0]
        return self.mask[index] * self._checked(logits, index)[:, None]

    def gradients(self, logits, index):
        if isinstance(logits, np.ndarray):
            return self._by_torch(logits, index)[1]
        import torch

        with torch.enable_grad():
            z = logits.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._checked(z, index).sum(), z)
        return self.mask[index][:, :, None] * slope[:, None]

    def _by_torch(self, logits: NDArray, index: NDArray) -> tuple[NDArray, NDArray]:
        import torch

        z, i = torch.from_numpy(logits), torch.from_numpy(np.asarray(index))
        block = self.tensors("cpu", z.dtype)
        return block.losses(z, i).detach().numpy(), block.gradients(z, i).numpy()

    def _checked(self, logits, index):
        losses = self.function(logits, index.clamp(max=self.n - 1))
        shape = tuple(getattr(losses, "shape", ()))
        if shape != (len(logits),):
            raise ValueError(
                f"auxiliary loss {self.names[0]!r} must return one loss a record, a tensor of shape ({len(logits)},), got "
                f"shape {shape}" + (' (a mean? use reduction="none")' if shape == () else "")
            )
        return losses

    def probe(self, n: int, n_classes: int) -> None:
        """Refuse a function that mixes records: a loss must not change with who else is in the batch."""
        import torch

        z = torch.linspace(-1, 1, 2 * n_classes).reshape(2, n_classes).double()
        index = torch.tensor([0, min(1, n - 1)])
        both = self._checked(z, index)
        alone = self._checked(z[:1], index[:1])
        if not torch.allclose(both[:1].double(), alone.double(), rtol=1e-4, atol=1e-6):
            raise ValueError(
                f"auxiliary loss {self.names[0]!r} gives a record another loss when other records are with it, {float(both[0]):.4g} "
                f'rather than {float(alone[0]):.4g} (a mean? use reduction="none")'
            )

    def tensors(self, device, dtype):
        mask = _as_tensor(self.mask, device, dtype)
        return FunctionBlock(self.names[0], self.function, mask, self.n)

    def padded(self, m):
        return FunctionBlock(self.names[0], self.function, _padded(self.mask, m), self.n)


# --- sources ----------------------------------------------------------------------------------------


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


class Losses:
    """All losses of a fit, the cross-entropy with y first; itself a `Block`.

    Parameters
    ----------
    blocks : list of Block
    """

    def __init__(self, blocks: list[Any]):
        self.blocks = blocks
        self.names = [name for block in blocks for name in block.names]
        masks = [block.mask for block in blocks]
        numpy = isinstance(masks[0], np.ndarray)
        self.mask = np.concatenate(masks, axis=1) if numpy else _cat(masks)

    def losses(self, logits, index):
        parts = [block.losses(logits, index) for block in self.blocks]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1) if isinstance(logits, np.ndarray) else _cat(parts)

    def gradients(self, logits, index):
        parts = [block.gradients(logits, index) for block in self.blocks]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1) if isinstance(logits, np.ndarray) else _cat(parts)

    def tensors(self, device, dtype):
        return Losses([block.tensors(device, dtype) for block in self.blocks])


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


def _cat(parts):
    import torch

    return torch.cat(parts, dim=1)


def _listed(values: NDArray) -> str:
    shown = ", ".join(str(v) for v in values[:10])
    return shown + (", ..." if len(values) > 10 else "")


def _as_matrix(values: Any, n: int, n_classes: int, name: str, what: str) -> NDArray[np.float64]:
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu().numpy()
    matrix = np.asarray(values, dtype=float)
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
