r"""SOURCE: unrolled differentiation of a training run in a few segments, each as if it were at its mean.

The run is cut into L segments with mean curvature H_l, mean gradients g_{l,i} and a total step size s_l (the sum of η_t,
divided by 1 − μ with momentum). Within a segment gradient descent is solved in closed form,

.. math::  I(i, z) = \frac1n \sum_{l=1}^{L} \Big[\prod_{l'>l} e^{-s_{l'}H_{l'}}\, \nabla\ell(z;\theta_T)\Big]^\top
           \big(I - e^{-s_lH_l}\big) H_l^{-1} g_{l,i} .

One segment and s → ∞ is the influence function; many segments approach the full unrolling of gradient descent
(`HyDRA`), without its n vectors along T steps. It assumes that the curvature hardly changes within a segment and that every
record is seen equally often. For an unconverged run it is what influence functions are not.

Cost: a few checkpoints' gradients a segment; an eigendecomposition O(p³) a segment, or EK-FAC's for a network.

Reference: Bae, J., Lin, W., Lorraine, J. and Grosse, R. (2024). Training data attribution via approximate unrolled
differentiation. NeurIPS. Equation 16 and Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from .._validation import as_generator, check_choice, check_integer
from ._dynamic import UnrolledInfluence
from .curvature import DENSE_LIMIT, KINDS, Curvature
from .oracle import count, take
from .solvers.ekfac import LayerBasis, apply_spectrum, ekfac
from .trajectory import Trajectory

Array = NDArray[np.float64]


class Source(UnrolledInfluence):
    """Influence by segment-wise unrolling (SOURCE).

    Influence is the loss without a record minus the loss with it: positive is helpful.

    Parameters
    ----------
    n_segments : int, default=3
    trajectory : Trajectory or None, default=None
        The run, of which some parameters suffice (``record_sgd(every=...)``); None: one of `record_sgd` with its defaults
        (convex models only).
    n_checkpoints : int, default=10
        Parameters, evenly spaced, over which a segment's curvature and gradients are averaged; fewer where the
        trajectory holds fewer.
    curvature : {"auto", "hessian", "ggn", "fisher"}, default="auto"
    solver : {"auto", "dense", "ekfac"}, default="auto"
        How functions of H_l are applied; "auto": dense for a convex model of up to 3000 parameters and for one without
        layers, EK-FAC otherwise, as in the paper.
    random_state : int, SeedSequence, Generator or None, default=None
        Of the labels that EK-FAC draws, and of the run, where it is made here.

    Attributes
    ----------
    trajectory_ : Trajectory
    segments_ : list
        Each with ``thetas``, ``total_lr`` (s_l).
    diagnostics_ : dict
        ``n_steps``, ``nonconvergence`` and ``smallest_phase``, the smallest s_l times the mean eigenvalue of H_l: well above 1
        means that a segment has all but converged in most directions.

    References
    ----------
    Bae, J. et al. (2024). Training data attribution via approximate unrolled differentiation. NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from statml.influence import Source, record_sgd
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> run = record_sgd(model, X, y, batch_size=None, n_epochs=60, every=5, random_state=0)
    >>> Source(3, run).fit(model, X, y).influence(X[:2], y[:2]).shape
    (2, 150)
    """

    _every_step = False

    def __init__(
        self,
        n_segments: int = 3,
        trajectory: Trajectory | None = None,
        n_checkpoints: int = 10,
        curvature: str = "auto",
        solver: str = "auto",
        random_state: int | np.random.SeedSequence | np.random.Generator | None = None,
    ):
        self.n_segments = n_segments
        self.trajectory = trajectory
        self.n_checkpoints = n_checkpoints
        self.curvature = curvature
        self.solver = solver
        self.random_state = random_state

    def _prepare_run(self) -> None:
        check_integer("n_segments", self.n_segments, low=1)
        check_integer("n_checkpoints", self.n_checkpoints, low=1)
        check_choice("curvature", self.curvature, KINDS)
        check_choice("solver", self.solver, ("auto", "dense", "ekfac"))
        solver = self.solver
        if solver == "auto":
            solver = self._choose_solver()
        rng = as_generator(self.random_state)
        self.segments_ = []
        phases = []
        for thetas, total in cut(self.trajectory_, self.n_segments, self.n_checkpoints):
            curvature = Curvature(self.oracle_, self.curvature, 0.0, thetas)
            self.segments_.append(
                Segment(
                    thetas,
                    total,
                    _spectrum(curvature, rng) if solver == "dense" else ekfac(curvature, rng),
                )
            )
            phases.append(total * curvature.mean_eigenvalue())
        self.diagnostics_["smallest_phase"] = min(phases)
        self.method_ = f"SOURCE ({self.n_segments} segments, {solver})"

    def _choose_solver(self) -> str:
        oracle, one = self.oracle_, slice(0, 1)
        if oracle.convex and oracle.n_params <= DENSE_LIMIT:
            return "dense"
        layered = oracle.layer_factors(take(oracle.X, one), take(oracle.y, one))
        return "ekfac" if layered else "dense"

    def _influence(self, X, y, target) -> Array:
        oracle, n = self.oracle_, self.n_train_
        out = np.zeros((count(X), n))
        for rows in oracle.batches(count(X)):
            U = oracle.value_grad(take(X, rows), take(y, rows), target, self.trajectory_.final)
            for segment in reversed(self.segments_):
                S = segment.apply(U, segment.learned)
                for theta in segment.thetas:
                    out[rows] += oracle.grad_dot(S.T, oracle.X, oracle.y, theta=theta).T / len(
                        segment.thetas
                    )
                U = segment.apply(U, segment.kept)
        sign = 1.0 if target == "loss" else -1.0
        return out * (sign * oracle.sample_weight / n)

    def _parameter_change(self, index_sets) -> Array:
        oracle, n = self.oracle_, self.n_train_
        sets = [np.array([i]) for i in range(n)] if index_sets is None else index_sets
        members = np.zeros((n, len(sets)))
        for k, index in enumerate(sets):
            members[index, k] = oracle.sample_weight[index]
        change = np.zeros((len(sets), oracle.n_params))
        for segment in self.segments_:
            pull = sum(
                oracle.grad_sum(members, oracle.X, oracle.y, theta) for theta in segment.thetas
            )
            learned = segment.apply(pull.T / len(segment.thetas), segment.learned) / n
            change = segment.apply(change, segment.kept) + learned
        return change


@dataclass
class Segment:
    """A stretch of the run as gradient descent on one quadratic."""

    thetas: Array
    total_lr: float
    spectrum: list[LayerBasis]

    def apply(self, V: Array, function) -> Array:
        return apply_spectrum(self.spectrum, V, function)

    def kept(self, eigenvalues: Array) -> Array:
        """What a segment leaves of a change that was there before it: e^{−sλ}."""
        return np.exp(-self.total_lr * eigenvalues)

    def learned(self, eigenvalues: Array) -> Array:
        """What a segment makes of a constant pull: (1 − e^{−sλ})/λ, s where λ = 0."""
        x = self.total_lr * eigenvalues
        small = np.abs(x) < 1e-12
        return self.total_lr * np.where(small, 1.0, -np.expm1(-x) / np.where(small, 1.0, x))


def cut(run: Trajectory, n_segments: int, n_checkpoints: int) -> list[tuple[Array, float]]:
    """Segments of equal numbers of steps: parameters from which they step, and sums of step sizes."""
    if run.n_steps < n_segments:
        raise ValueError(f"n_segments={n_segments} exceeds the {run.n_steps} steps of the run")
    ends = np.linspace(0, run.n_steps, n_segments + 1).round().astype(int)
    out = []
    for low, high in pairwise(ends):
        inside = np.flatnonzero((run.steps >= low) & (run.steps < high))
        if not len(inside):
            # no parameters were kept in here: the last ones before it stand in
            inside = np.flatnonzero(run.steps < high)[-1:]
        even = np.linspace(0, len(inside) - 1, min(n_checkpoints, len(inside))).round().astype(int)
        out.append((run.thetas[inside[even]], float(run.lrs[low:high].sum() / (1 - run.momentum))))
    return out


def _spectrum(curvature: Curvature, rng) -> list[LayerBasis]:
    """The whole matrix as one layer with a single output."""
    eigenvalues, vectors = eigh(curvature.dense())
    return [LayerBasis(slice(0, len(eigenvalues)), np.ones((1, 1)), vectors, eigenvalues[None])]
