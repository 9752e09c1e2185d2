r"""Objective perturbation: the coefficients of a penalised regression whose objective was tilted at random.

.. math:: s = \arg\min_w \sum_i \ell(w; x_i) + \tfrac{n \lambda}{2} \lVert w \rVert^2 + b^\top w, \qquad b \sim f_b

For a smooth, strictly convex objective s and b determine each other, :math:`b = -G` with
:math:`G = \sum_i [\nabla \ell(s; x_i) + \lambda s]`, and the density of s is, by a change of variables,

.. math:: \log \eta(s \mid x) = \log f_b(-G) + \log \det H, \qquad H = \sum_i [\nabla^2 \ell(s; x_i) + \lambda I].

G and H are sums over records, of statistics that depend on the release: a record costs O(p^2), and the density of one proposal
O(p^3). The ridge is spread over the records, so that n need not be known here.

Noise ``"gamma"`` has :math:`f_b \propto \exp(-\lVert b \rVert_2 / \beta)` [1]_, ``"gaussian"`` is
:math:`N(0, \beta^2 I)` [2]_. For a loss with :math:`\lVert \nabla \ell \rVert \le \xi` and a Hessian of rank one with
eigenvalue at most c, replacing a record moves G by at most :math:`2 \xi` and multiplies :math:`\det H` by at most
:math:`1 + c / n \lambda`, since the other :math:`n - 1` records leave at least :math:`n \lambda I`. Hence with gamma
noise :math:`\epsilon \le 2 \xi / \beta + \log(1 + c / n \lambda)`.

References
----------
.. [1] K. Chaudhuri, C. Monteleoni, A. D. Sarwate (2011). Differentially private empirical risk minimization. JMLR 12. Algorithm 2.
.. [2] D. Kifer, A. Smith, A. Thakurta (2012). Private convex empirical risk minimization and high-dimensional regression. COLT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, gammaln

from ..._validation import check_choice, check_integer, check_number
from ..protocols import Mechanism, RecordModel, UnknownSensitivity
from ._release import as_release, positive

Array = NDArray[np.float64]
Gradient = Callable[[Array, Array], Array]


class ObjectivePerturbation(Mechanism):
    """Coefficients that minimise a randomly tilted, ridge-penalised loss.

    Parameters
    ----------
    n_coefficients : int
        p, the length of the release.
    scale : float
        beta, the scale of the tilt b (its standard deviation for Gaussian noise).
    l2 : float
        lambda > 0: (l2 / 2) ||w||^2 is added to the mean loss.
    loss : "logistic" or (gradient, hessian), default="logistic"
        "logistic" takes records whose first p columns are the features (with a column of ones where there is an intercept)
        and whose last is the answer, 0 or 1. Otherwise two functions of the coefficients s (p,) and records x (n, d):
        gradients of the loss, shape (n, p), and its Hessians, shape (n, p, p), smooth and convex.
    noise : "gamma" or "gaussian", default="gamma"
        Law of the tilt.
    design : callable or None, default=None
        Applied to the records first: ``(x of shape (n, d)) -> (n, p + 1)``, e.g. to clip them to the unit ball as the curator did.
    gradient_bound, curvature_bound : float or None, default=None
        xi and c above, for `epsilon`. For the logistic loss and rows of norm at most R: R and R^2 / 4.
    n_records : int or None, default=None
        n, for `epsilon` only.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import mechanisms
    >>> erm = mechanisms.ObjectivePerturbation(2, scale=2.0, l2=0.1, gradient_bound=1, curvature_bound=0.25, n_records=100)
    >>> round(erm.epsilon(), 4)
    1.0247
    >>> rng = np.random.default_rng(0)
    >>> records = np.column_stack([np.ones(100), rng.uniform(-1, 1, 100), rng.integers(0, 2, 100)])
    >>> erm.randomise(records, rng).shape
    (2,)
    """

    needs_release = True

    def __init__(
        self,
        n_coefficients: int,
        scale: float,
        l2: float,
        loss: str | tuple[Gradient, Gradient] = "logistic",
        noise: str = "gamma",
        design: Callable[[Array], Array] | None = None,
        *,
        gradient_bound: float | None = None,
        curvature_bound: float | None = None,
        n_records: int | None = None,
    ):
        self.n_coefficients = check_integer("n_coefficients", n_coefficients, 1)
        self.scale = check_number("scale", scale, 0, low_open=True)
        self.l2 = check_number("l2", l2, 0, low_open=True)
        self.loss = check_choice("loss", loss, ("logistic",)) if isinstance(loss, str) else loss
        if not isinstance(loss, str) and not (len(loss) == 2 and all(callable(f) for f in loss)):
            raise TypeError(
                f'loss must be "logistic" or two functions (gradient, hessian), got {loss!r}'
            )
        self.noise = check_choice("noise", noise, ("gamma", "gaussian"))
        self.design = design
        self.gradient_bound = gradient_bound
        self.curvature_bound = curvature_bound
        self.n_records = None if n_records is None else check_integer("n_records", n_records, 1)
        self._upper = np.triu_indices(self.n_coefficients)

    # --- the objective ------------------------------------------------------------------------------

    def _derivatives(self, s: Array, x: Array) -> tuple[Array, Array]:
        """Gradients (n, p) and Hessians (n, p, p) of loss and ridge, record by record."""
        rows = np.asarray(x if self.design is None else self.design(x), dtype=float)
        gradient, hessian = _logistic if self.loss == "logistic" else self.loss
        p = self.n_coefficients
        if self.loss == "logistic" and rows.shape[1:] != (p + 1,):
            raise ValueError(
                f"records must be {p} features and an answer, shape (n, {p + 1}), got {rows.shape}"
            )
        G, H = np.asarray(gradient(s, rows)), np.asarray(hessian(s, rows))
        if G.shape != (len(x), p) or H.shape != (len(x), p, p):
            raise ValueError(
                f"gradients and Hessians must have shapes {(len(x), p)} and {(len(x), p, p)}, got {G.shape} and {H.shape}"
            )
        return G + self.l2 * s, H + self.l2 * np.eye(p)

    def statistic(self, model: RecordModel, x: Array, release: Array | None) -> Array:
        """Gradient and upper triangle of the Hessian at the release, shape (n, p + p (p + 1) / 2)."""
        if release is None:
            raise ValueError(
                "the statistic of objective perturbation depends on the release; got None"
            )
        G, H = self._derivatives(np.asarray(release, dtype=float), x)
        return np.concatenate([G, H[:, self._upper[0], self._upper[1]]], axis=1)

    def log_density(self, release: Array, totals: Array) -> Array:
        """log f_b(-G) + log det H, normalised.

        Parameters
        ----------
        release : ndarray of shape (p,)
            Not used: `totals` were made with it.
        totals : ndarray of shape (..., p + p (p + 1) / 2)

        Returns
        -------
        ndarray of shape (...)
        """
        totals = np.asarray(totals, dtype=float)
        p = self.n_coefficients
        H = np.empty((*totals.shape[:-1], p, p))
        H[..., self._upper[0], self._upper[1]] = totals[..., p:]
        H[..., self._upper[1], self._upper[0]] = totals[..., p:]
        return self.log_tilt(-totals[..., :p]) + np.linalg.slogdet(H)[1]

    def log_tilt(self, b: Array) -> Array:
        """log f_b for b of shape (..., p)."""
        p, beta = self.n_coefficients, self.scale
        if self.noise == "gaussian":
            return (
                -0.5 * (b**2).sum(axis=-1) / beta**2
                - p * np.log(beta)
                - 0.5 * p * np.log(2 * np.pi)
            )
        log_normaliser = (
            np.log(2) + 0.5 * p * np.log(np.pi) - gammaln(p / 2) + gammaln(p) + p * np.log(beta)
        )
        return -np.linalg.norm(b, axis=-1) / beta - log_normaliser

    # --- releases -----------------------------------------------------------------------------------

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """A release given the complete records, shape (n, d) (there is no total here), reproducible from `rng`.

        For simulation, not for publishing: the minimiser is found in floating point.
        """
        x = np.asarray(totals, dtype=float)
        p = self.n_coefficients
        b = rng.standard_normal(p)
        if self.noise == "gaussian":
            b *= self.scale
        else:  # a uniform direction with a gamma distributed length
            b *= rng.gamma(p, self.scale) / np.linalg.norm(b)

        def derivatives(w: Array) -> tuple[Array, Array]:
            G, H = self._derivatives(w, x)
            return G.sum(axis=0) + b, H.sum(axis=0)

        return minimise(derivatives, p)

    def simulate(self, model: RecordModel, x: Array, rng: np.random.Generator) -> Array:
        """A release given complete records of a model, for rehearsals."""
        return self.randomise(x, rng)

    def check_release(
        self,
        release: ArrayLike | Mapping[str, float],
        statistic_names: list[str],
        n_records: int | None = None,
    ) -> Array:
        """The p coefficients as an array, in the order of the features; their names in a dict are coef[0], coef[1], ..."""
        return as_release(release, [f"coef[{j}]" for j in range(self.n_coefficients)])

    def release_size(self, n_statistics: int) -> int:
        """Number of coefficients."""
        return self.n_coefficients

    def n_totals(self, n_statistics: int) -> int:
        """Number of columns of `statistic`: a gradient and a triangle of the Hessian."""
        return self.n_coefficients + len(self._upper[0])

    def epsilon(self, sensitivity: ArrayLike | None = None) -> float:
        """The privacy loss 2 xi / beta + log(1 + c / n l2); infinite for Gaussian tilts.

        Parameters
        ----------
        sensitivity : float or None, default=None
            xi, the largest norm of a gradient; None takes `gradient_bound`.
        """
        if self.noise == "gaussian":
            return np.inf
        xi = self.gradient_bound if sensitivity is None else sensitivity
        if xi is None or self.curvature_bound is None or self.n_records is None:
            raise UnknownSensitivity(
                "epsilon needs gradient_bound, curvature_bound and n_records in the constructor"
            )
        xi = float(positive("gradient_bound", xi))
        curvature = check_number("curvature_bound", self.curvature_bound, 0)
        return 2 * xi / self.scale + float(np.log1p(curvature / (self.n_records * self.l2)))

    def __repr__(self) -> str:
        return (
            f"ObjectivePerturbation({self.n_coefficients} coefficients, scale={self.scale:.6g}, "
            f"l2={self.l2:.6g}, noise={self.noise!r})"
        )


def _gradient(w: Array, rows: Array) -> Array:
    features, answer = rows[:, :-1], rows[:, -1]
    return (expit(features @ w) - answer)[:, None] * features


def _hessian(w: Array, rows: Array) -> Array:
    features = rows[:, :-1]
    mean = expit(features @ w)
    return (mean * (1 - mean))[:, None, None] * features[:, :, None] * features[:, None, :]


_logistic = _gradient, _hessian


def minimise(derivatives: Callable[[Array], tuple[Array, Array]], p: int) -> Array:
    """The zero of the gradient of a strongly convex function, by Newton steps that are halved until they help."""
    w = np.zeros(p)
    G, H = derivatives(w)
    for _ in range(200):
        norm = np.linalg.norm(G)
        step = np.linalg.solve(H, G)
        # what is left moves the minimiser by less than its last digits
        if np.linalg.norm(step) <= 1e-13 * (1 + np.linalg.norm(w)):
            return w
        length = 1.0
        while length > 1e-12:
            trial, trial_H = derivatives(w - length * step)
            if np.linalg.norm(trial) < norm * (1 - 1e-4 * length):
                break
            length /= 2
        else:
            return w  # the gradient is at rounding error
        w, G, H = w - length * step, trial, trial_H
    raise RuntimeError("the perturbed objective was not minimised in 200 Newton steps")
