"""The update that all fusions share, b_k <- b_k (p_k / pi_k)^w / sum, and what a fusion is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from statml._validation import check_choice, check_number

CLIP = 1e-6  # no look is taken as certain
FLOOR = 1e-12  # no class is ever ruled out for good

State = dict[str, np.ndarray]


@runtime_checkable
class Fusion(Protocol):
    """A rule for the weight of a look. `clip` is how near to 0 a look's probability is let."""

    clip: float

    def start(self, episodes: int, targets: int) -> State:
        """The arrays that are carried along; their first axes are episodes and targets."""
        ...

    def weigh(
        self, state: State, relative: np.ndarray, seen: np.ndarray
    ) -> tuple[np.ndarray | None, State]:
        """Weights (E, N), None for 1, and the new state, from relative poses (E, N, 3) and what was seen (E, N)."""
        ...


def fuse_beliefs(
    beliefs: np.ndarray,
    p: np.ndarray,
    method: str = "product",
    prior: np.ndarray | None = None,
    weight: float | np.ndarray | None = None,
) -> np.ndarray:
    """Fuse beliefs with classifier vectors.

    Parameters
    ----------
    beliefs : array of shape (..., K)
        Probabilities of the classes.
    p : array of shape (..., K)
        What the classifier says, probabilities that sum to one.
    method : {"product", "tempered"}, default="product"
        "product": conflation, which is Bayes' rule when looks are independent given the class. "tempered": b p^w with w < 1, for looks
        that repeat each other.
    prior : array of shape (K,), default=None
        Class shares that the classifier was trained on; the update divides by them. None: equal shares.
    weight : float or array of shape (...), default=None
        w, in [0, 1]; None means 1 for "product" and 0.5 for "tempered". Weights of your own, such as those of ``PoseDiscountFusion``,
        may be given to either.

    Returns
    -------
    array of shape (..., K)
        Sums to one, no entry is zero: `p` is kept in [1e-6, 1 - 1e-6] and beliefs above 1e-12, so that certain and contradictory looks
        cancel instead of leaving no class at all.

    Raises
    ------
    ValueError
        If an argument is not a probability vector, or shapes do not match.

    Examples
    --------
    >>> from statml.adapters.viewpoint import fuse_beliefs
    >>> fuse_beliefs([0.5, 0.5], [0.8, 0.2])
    array([0.8, 0.2])
    >>> fuse_beliefs(fuse_beliefs([0.5, 0.5], [1.0, 0.0]), [0.0, 1.0])
    array([0.5, 0.5])
    """
    check_choice("method", method, ("product", "tempered"))
    beliefs, p = check_probabilities("beliefs", beliefs), check_probabilities("p", p)
    if beliefs.shape[-1] != p.shape[-1]:
        raise ValueError(
            f"p must have as many classes as beliefs, {beliefs.shape[-1]}, got {p.shape[-1]}"
        )
    p = clipped(p, CLIP)
    if prior is not None:
        prior = check_probabilities("prior", prior)
        if prior.shape != p.shape[-1:] or not (prior > 0).all():
            raise ValueError(f"prior must be {p.shape[-1]} positive class shares, got {prior}")
        p = p / prior
    if weight is None:
        weight = 1.0 if method == "product" else 0.5
    elif np.ndim(weight) == 0:
        weight = check_number("weight", weight, 0, 1)
    else:
        weight = np.asarray(weight, float)[..., None]
        if not ((weight >= 0) & (weight <= 1)).all():
            raise ValueError("weight must be in [0, 1] everywhere")
    return updated(beliefs, p if np.all(weight == 1.0) else p**weight)


def updated(beliefs: np.ndarray, likelihood: np.ndarray) -> np.ndarray:
    """Bayes' rule with a floor under every class."""
    product = np.maximum(beliefs, FLOOR) * likelihood
    return product / product.sum(-1, keepdims=True)


def clipped(p: np.ndarray, clip: float) -> np.ndarray:
    """The vectors with entries in [clip, 1 - clip], summing to one; as they are where nothing is outside."""
    if not clip or (p.min() >= clip and p.max() <= 1 - clip):
        return p
    p = np.clip(p, clip, 1 - clip)
    return p / p.sum(-1, keepdims=True)


def check_probabilities(name: str, value: np.ndarray) -> np.ndarray:
    """Vectors over the last axis that are finite, not negative, and sum to one within 1e-6."""
    value = np.asarray(value, float)
    if value.ndim < 1 or value.shape[-1] < 2:
        raise ValueError(f"{name} must hold at least 2 classes, got shape {value.shape}")
    total = value.sum(-1)
    # NaN fails every comparison, so it is asked what holds
    good = (value >= 0).all(-1) & (np.abs(total - 1) <= 1e-6)
    if not good.all():
        bad = value[~good][0] if value.ndim > 1 else value
        raise ValueError(f"{name} must be probabilities that sum to one, got {bad}")
    return value
