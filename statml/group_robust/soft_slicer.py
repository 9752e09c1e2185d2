r"""Soft slices: a linear softmax model of who is in which slice, trained against the classifier.

.. math::  P(g \mid z_i) = \mathrm{softmax}_g(z_i' W), \qquad z_i = (\text{features}, \text{probabilities}, \text{class}),

moves uphill on

.. math::  \sum_g v_g \bar L_g + \rho_e\, \overline{H(P(\cdot \mid z_i))} - \rho_m\, \mathrm{KL}(\bar P \,\|\, U),
           \qquad \bar L_g = \frac{\sum_i P(g \mid z_i)\, \ell_i}{\max(\sum_i P(g \mid z_i),\; c\, n)},

c the smallest mass: to shrink below it gains nothing. The weights v say whose loss the adversary raises
(`adversary_weights`).

The inputs hold the predicted probability, of which the loss within a class is a function. So there is no restriction to
speak of: a slicer a class comes within a few percent of the worst of all slices of its mass, the conditional value at risk
of `CVaRClassifier`, and finds the records of large loss whatever their cause. A permutation test calls them significant
even where nobody is neglected. It is here because it is what the paper trains; expect little of it on tables.

Cost: O(n d m) a step of L-BFGS.

Reference: Paranjape, B., Dasigi, P., Srikumar, V., Zettlemoyer, L. and Hajishirzi, H. (2023). AGRO: adversarial discovery of
error-prone groups for robust optimization. International Conference on Learning Representations; inputs, weights and
regularisers as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax, xlogy
from threadpoolctl import threadpool_limits

from .domino import confusion_start, domino_start
from .simplex import greedy_weights

Array = NDArray[np.float64]

WORST_MASS = 0.2  # alpha of the adversary, as in the authors' code
RIDGE = 1e-3  # on the weights: without it a separable slice has none that are finite
STEPS = 20  # of L-BFGS between two looks at which slices are worst


@dataclass
class LinearSlicer:
    """Soft slices of a linear model, trained against the classifier.

    Parameters
    ----------
    n_slices : int
        Of each class if `by_class`, else in all.
    by_class : bool
    init : {"confusion", "domino", "random"}
        What the first slices imitate: cells of class and predicted class; a DOMINO mixture; nothing. Equal slices
        are a stationary point, so that some start has to break the symmetry.
    min_mass, marginal_reg, entropy_reg : float
        c, rho_m and rho_e above.
    adversary : {"worst", "greedy-reverse"}
    n_looks : int
        Times that the adversary looks again which slices are worst, in one call of ``fit_membership``.
    warm_start : bool
        Whether a second call of ``fit_membership`` goes on from the slices there are.
    start : ndarray or None
        Weights to start from in place of `init`.
    """

    n_slices: int = 6
    by_class: bool = True
    init: str = "confusion"
    min_mass: float = 0.02
    marginal_reg: float = 0.0
    entropy_reg: float = 0.0
    adversary: str = "worst"
    n_looks: int = 5
    warm_start: bool = False
    start: Array | None = field(default=None, repr=False)
    n_permutations: int = 19
    weights: Array | None = field(default=None, repr=False)

    @threadpool_limits.wrap(limits=1, user_api="blas")  # matrices too small for several threads
    def fit_membership(self, X, y, proba, losses, rng) -> Array:
        if self.weights is None or not self.warm_start:
            self.n_classes = proba.shape[1]
            raw = self._raw(X, y, proba)
            self.centre, self.scale = raw.mean(axis=0), raw.std(axis=0)
            self.scale[self.scale == 0] = 1.0
            if self.start is None:
                start = self._start(X, y, proba, rng)
                self.weights = self._imitate(self._inputs(X, y, proba), y, start, rng)
            else:
                self.weights = self.start
            self.started = self.weights
        Z, allowed = self._inputs(X, y, proba), self._allowed(y)
        for _ in range(self.n_looks):
            P = soft_slices(Z, self.weights, allowed)
            v = adversary_weights(self._losses(P, losses), P.mean(axis=0), self.adversary)
            found = minimize(
                lambda w, v=v: self._downhill(w, Z, allowed, losses, v),
                self.weights.ravel(),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": STEPS},
            )
            self.weights = found.x.reshape(self.weights.shape)
        return soft_slices(Z, self.weights, allowed)

    def membership(self, X, y, proba) -> Array:
        return soft_slices(self._inputs(X, y, proba), self.weights, self._allowed(y))

    def rules(self, features, classes) -> list[str]:
        names = [*features, *(f"P(y = {c})" for c in classes), *(f"[y = {c}]" for c in classes)]
        rules = []
        for g in range(self.weights.shape[1]):
            own = g // self.n_slices if self.by_class else None
            others = [h for h in range(self.weights.shape[1]) if self._class_of(h) == own]
            contrast = (self.weights[:, g] - self.weights[:, others].mean(axis=1))[:-1]
            top = np.argsort(-np.abs(contrast))[:3]
            score = " ".join(f"{contrast[j]:+.2g} {names[j]}" for j in top)
            rules.append(
                f"slice {g}: {score}" + (f" & y = {classes[own]}" if self.by_class else "")
            )
        return rules

    def null(self) -> LinearSlicer:
        # the start does not depend on the losses, so that permuted ones may share it
        return replace(self, weights=None, start=self.started)

    def _class_of(self, g: int) -> int | None:
        return g // self.n_slices if self.by_class else None

    def _allowed(self, y) -> NDArray[np.bool_]:
        m = self.n_slices * (self.n_classes if self.by_class else 1)
        if not self.by_class:
            return np.ones((len(y), m), dtype=bool)
        return np.arange(m) // self.n_slices == y[:, None]

    def _raw(self, X, y, proba) -> Array:
        return np.hstack([X, proba, np.eye(self.n_classes)[y]])

    def _inputs(self, X, y, proba) -> Array:
        Z = (self._raw(X, y, proba) - self.centre) / self.scale
        return np.column_stack([Z, np.ones(len(Z))])

    def _floor(self, n) -> float:
        return max(self.min_mass * n, 1.0)  # a slice of less than one record is none

    def _losses(self, P, losses) -> Array:
        return P.T @ losses / np.maximum(P.sum(axis=0), self._floor(len(losses)))

    def _start(self, X, y, proba, rng) -> Array | None:
        """Memberships that the first slices imitate: (n, m)."""
        if self.init == "random":
            return None
        make = confusion_start if self.init == "confusion" else domino_start
        if not self.by_class:
            return make(X, y, proba, self.n_slices, rng)
        start = np.zeros((len(y), self.n_slices * self.n_classes))
        for c in range(self.n_classes):
            rows, columns = y == c, slice(c * self.n_slices, (c + 1) * self.n_slices)
            start[rows, columns] = make(X[rows], y[rows], proba[rows], self.n_slices, rng)
        return start

    def _imitate(self, Z, y, start, rng) -> Array:
        """Weights whose slices are near the start, in cross entropy."""
        shape = (Z.shape[1], self._allowed(y).shape[1])
        noise = 0.1 * rng.standard_normal(shape)
        if start is None:
            return noise
        allowed, n = self._allowed(y), len(y)

        def cross_entropy(w):
            W = w.reshape(shape)
            P = soft_slices(Z, W, allowed)
            value = -xlogy(start, np.maximum(P, 1e-300)).sum() / n + RIDGE / 2 * (W**2).sum()
            return value, (Z.T @ (P - start) / n + RIDGE * W).ravel()

        found = minimize(
            cross_entropy, noise.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 100}
        )
        return found.x.reshape(shape)

    def _downhill(self, w, Z, allowed, losses, v):
        """Minus the adversary's objective, and its gradient."""
        n = len(losses)
        W = w.reshape(Z.shape[1], -1)
        P = soft_slices(Z, W, allowed)
        mass, floor = P.sum(axis=0), self._floor(n)
        size = np.maximum(mass, floor)
        slice_losses = P.T @ losses / size
        share = mass / n
        m = len(mass)
        entropy = -xlogy(P, P).sum() / n
        divergence = (xlogy(share, share * m)).sum()
        value = v @ slice_losses + self.entropy_reg * entropy - self.marginal_reg * divergence
        value -= RIDGE / 2 * (W**2).sum()

        slope = (v / size) * (losses[:, None] - np.where(mass > floor, slice_losses, 0.0))
        if self.entropy_reg:
            slope -= self.entropy_reg * (np.log(np.maximum(P, 1e-300)) + 1) / n
        if self.marginal_reg:
            slope -= self.marginal_reg * (np.log(np.maximum(share * m, 1e-300)) + 1) / n
        through_softmax = P * (slope - (P * slope).sum(axis=1, keepdims=True))
        gradient = Z.T @ through_softmax - RIDGE * W
        return -value, -gradient.ravel()


def soft_slices(Z: Array, W: Array, allowed: NDArray[np.bool_]) -> Array:
    """Softmax over the slices that a record may be in: (n, m)."""
    return softmax(np.where(allowed, Z @ W, -np.inf), axis=1)


def adversary_weights(slice_losses: Array, mass: Array, adversary: str) -> Array:
    """Which slices' losses the adversary raises.

    "worst": those of the worst slices of total mass 0.2, which is what the classifier will minimise.
    "greedy-reverse", the authors' code: every slice counts 1 *except* the worst ones, which count 0.2, and the slice in
    which their mass is used up, which counts (1 - 0.2 * mass of the worst ones) * its own mass.

    Parameters
    ----------
    slice_losses, mass : ndarray of shape (m,)
    adversary : {"worst", "greedy-reverse"}

    Returns
    -------
    ndarray of shape (m,)

    Examples
    --------
    >>> import numpy as np
    >>> losses, mass = np.array([0.2, 0.9, 0.5, 1.4]), np.array([0.5, 0.3, 0.15, 0.05])
    >>> adversary_weights(losses, mass, "worst").round(2).tolist()
    [0.0, 0.75, 0.0, 0.25]
    >>> adversary_weights(losses, mass, "greedy-reverse").round(3).tolist()
    [1.0, 0.297, 1.0, 0.2]
    """
    h = greedy_weights(slice_losses, mass / WORST_MASS)
    if adversary == "worst":
        return h
    order = np.argsort(-slice_losses, kind="stable")
    before = np.cumsum(mass[order]) - mass[order]
    full = np.cumsum(mass[order]) <= WORST_MASS
    v = np.ones(len(mass))
    v[order[full]] = WORST_MASS
    tie = order[~full & (before < WORST_MASS)]
    v[tie] = (1 - WORST_MASS * mass[order[full]].sum()) * mass[tie]
    return v
