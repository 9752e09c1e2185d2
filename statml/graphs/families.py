r"""Families: how the probability of a negative, absent or positive edge depends on one index.

Every model of this package for signed networks is an *additive-index* family: the edge from i to j takes
the value a in {-1, 0, +1} with probability :math:`\pi_a(x_{ij};\rho)`, where :math:`x_{ij} = \alpha_i + \beta_j`
adds the out-status of the sender to the in-status of the receiver, and :math:`\rho` is one parameter for
the whole network that governs its density. A family states :math:`\pi_a` and its derivative in x; everything
else (estimating equations, scores, information, sampling, goodness of fit) follows from these:

=====================  ===========================================  ==============================
quantity               definition                                   used for
=====================  ===========================================  ==============================
``mean``               m = pi_+ - pi_-                              net-degree equations
``mean_slope``         m' = dm/dx                                   their Jacobian
``variance``           V = pi_+ + pi_- - m^2                        their covariance
``density``            e = pi_+ + pi_-                              the equation for rho
``score``              s_a = pi_a' / pi_a                           likelihood equations
``information``        I = sum_a pi_a'^2 / pi_a                     one-step, standard errors
=====================  ===========================================  ==============================

A further family is one more small class here: `probabilities`, `slopes`, and its facts as class attributes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Array = NDArray[np.float64]

__all__ = ["FAMILIES", "Conditional", "Family", "SparseLogit", "Trinomial", "Unsigned"]


class Family:
    """What every additive-index family has in common; a member states the two methods and four facts.

    Attributes
    ----------
    name : str
        The name by which ``family=`` finds it.
    pairs : {"all", "edges"}
        Whether every ordered pair of nodes is an observation, or only those with an edge.
    rho_range : tuple of (float, float) or None
        Open lower and closed upper end of the density parameter; None where there is none.
    net_degree_is_efficient : bool
        True where the net-degree equations are the likelihood equations, so that all estimators agree.
    """

    name: str
    pairs: str = "all"
    rho_range: tuple[float, float] | None = None
    net_degree_is_efficient: bool = False

    def probabilities(self, x: Array, rho: float) -> tuple[Array, Array, Array]:
        """P(-1), P(0), P(+1) at the index x."""
        raise NotImplementedError

    def slopes(self, x: Array, rho: float) -> tuple[Array, Array, Array]:
        """The derivatives of `probabilities` in x."""
        raise NotImplementedError

    def mean(self, x: Array, rho: float) -> Array:
        """E(a) = P(+1) - P(-1)."""
        minus, _, plus = self.probabilities(x, rho)
        return plus - minus

    def mean_slope(self, x: Array, rho: float) -> Array:
        """dE(a)/dx."""
        minus, _, plus = self.slopes(x, rho)
        return plus - minus

    def density(self, x: Array, rho: float) -> Array:
        """P(a != 0)."""
        minus, _, plus = self.probabilities(x, rho)
        return plus + minus

    def density_slope(self, x: Array, rho: float) -> Array:
        """dP(a != 0)/dx."""
        minus, _, plus = self.slopes(x, rho)
        return plus + minus

    def variance(self, x: Array, rho: float) -> Array:
        """Var(a)."""
        minus, _, plus = self.probabilities(x, rho)
        return plus + minus - (plus - minus) ** 2

    def information(self, x: Array, rho: float) -> Array:
        """Fisher information of one pair about x."""
        total = np.zeros_like(np.asarray(x, dtype=float))
        for p, dp in zip(self.probabilities(x, rho), self.slopes(x, rho), strict=True):
            total += np.divide(dp**2, p, out=np.zeros_like(total), where=p > 0)
        return total

    def score(self, x: Array, rho: float, value: int | NDArray[np.integer]) -> Array:
        """s_a(x) = pi_a'(x) / pi_a(x) at the observed value(s) a."""
        p = _pick(self.probabilities(x, rho), value)
        dp = _pick(self.slopes(x, rho), value)
        return np.divide(dp, p, out=np.zeros_like(p), where=p > 0)

    def log_probability(self, x: Array, rho: float, value: int | NDArray[np.integer]) -> Array:
        """log pi_a(x) at the observed value(s) a."""
        with np.errstate(divide="ignore"):
            return np.log(_pick(self.probabilities(x, rho), value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class SparseLogit(Family):
    r"""Difference of two independent unsigned networks with :math:`p = \rho\,s(x)`, :math:`q = \rho\,s(-x)`.

    ``pi_+ = p(1-q)``, ``pi_- = q(1-p)``, s the logistic function; 0 < rho <= 1 is the sparsity factor. The
    likelihood is not concave for rho < 1, the net-degree equations are solvable but not efficient, and one
    scoring step makes them so: the setting of Zhang and Wang (2025).
    """

    name = "sparse-logit"
    rho_range = (0.0, 1.0)

    def probabilities(self, x: ArrayLike, rho: float) -> tuple[Array, Array, Array]:
        s, t = expit(x), expit(np.negative(x))
        rest = 1 - rho  # 1 - rho s = rest + rho t keeps its digits in the tails
        return (
            rho * t * (rest + rho * t),
            rest + 2 * rho**2 * s * t,
            rho * s * (rest + rho * s),
        )

    def slopes(self, x: ArrayLike, rho: float) -> tuple[Array, Array, Array]:
        s, t = expit(x), expit(np.negative(x))
        st = s * t
        skew = 2 * rho**2 * st * (t - s)
        return -rho * st - skew / 2, skew, rho * st - skew / 2


class Trinomial(Family):
    r"""The exponential family :math:`\pi_{\pm} = \rho e^{\pm x}/D,\ \pi_0 = 1/D,\ D = 1 + \rho(e^x + e^{-x})`.

    It is the difference of two networks with logits mu_1 + x and mu_2 - x; then
    ``rho = e^g / (1 + e^{2g}) <= 1/2`` with g = (mu_1 + mu_2)/2, and (mu_1 - mu_2)/2 is part of x. A fitted
    rho above 1/2 says that no two independent layers give so few absent edges. The likelihood is concave.
    """

    name = "trinomial"
    rho_range = (0.0, np.inf)
    net_degree_is_efficient = True

    def probabilities(self, x: ArrayLike, rho: float) -> tuple[Array, Array, Array]:
        # Everything is divided by e^|x|, so that a far-out node cannot overflow.
        shrink = np.exp(-np.abs(x))
        plus, minus = (
            np.where(np.greater(x, 0), 1.0, shrink**2),
            np.where(np.greater(x, 0), shrink**2, 1.0),
        )
        total = shrink + rho * (plus + minus)
        return rho * minus / total, shrink / total, rho * plus / total

    def slopes(self, x: ArrayLike, rho: float) -> tuple[Array, Array, Array]:
        minus, zero, plus = self.probabilities(x, rho)
        mean = plus - minus
        return minus * (-1 - mean), -zero * mean, plus * (1 - mean)


class Conditional(Family):
    r"""The sign given that there is an edge: :math:`P(+1 \mid edge) = s(x)`.

    Only observed edges carry information, so the density of the network may vary in any way; it is the
    limit of the sparse logit family for rho -> 0 and the one to use on large sparse networks.
    """

    name = "conditional"
    pairs = "edges"
    net_degree_is_efficient = True

    def probabilities(self, x: ArrayLike, rho: float | None = None) -> tuple[Array, Array, Array]:
        x = np.asarray(x, dtype=float)
        return expit(-x), np.zeros_like(x), expit(x)

    def slopes(self, x: ArrayLike, rho: float | None = None) -> tuple[Array, Array, Array]:
        x = np.asarray(x, dtype=float)
        slope = expit(x) * expit(-x)
        return -slope, np.zeros_like(x), slope


class Unsigned(Family):
    """The directed beta-model: an edge is present with probability s(x), and never negative."""

    name = "unsigned"
    net_degree_is_efficient = True

    def probabilities(self, x: ArrayLike, rho: float | None = None) -> tuple[Array, Array, Array]:
        x = np.asarray(x, dtype=float)
        return np.zeros_like(x), expit(-x), expit(x)

    def slopes(self, x: ArrayLike, rho: float | None = None) -> tuple[Array, Array, Array]:
        x = np.asarray(x, dtype=float)
        slope = expit(x) * expit(-x)
        return np.zeros_like(x), -slope, slope


FAMILIES: dict[str, Family] = {f.name: f for f in (SparseLogit(), Trinomial(), Conditional())}


def _pick(by_value, value):
    """The entry for the observed value(s) a in {-1, 0, 1} out of a (minus, zero, plus) triple."""
    minus, zero, plus = by_value
    if np.ndim(value) == 0:
        return by_value[int(value) + 1]
    return np.where(value > 0, plus, np.where(value < 0, minus, zero))
