r"""Draws of the Pólya-Gamma law PG(1, z), with which a logistic likelihood becomes a Gaussian one.

.. math::  \frac{(e^\psi)^y}{1 + e^\psi} = \tfrac12 e^{(y - 1/2) \psi} \int_0^\infty e^{-\omega \psi^2 / 2}\,
           p(\omega \mid 1, 0)\, d\omega

A draw is a quarter of one from the tilted Jacobi law :math:`J^*(1, z / 2)`, by Devroye's method: proposals are inverse Gaussian
below t = 0.64 and exponential above, and accepted by the partial sums of an alternating series, at least 0.9992 of the time.

Reference: Polson, N. G., Scott, J. G. and Windle, J. (2013). Bayesian inference for logistic models using Pólya-Gamma latent
variables. Journal of the American Statistical Association 108, 1339-1349.
"""

from __future__ import annotations

import math

import numba

TRUNCATION = 0.64


@numba.njit(cache=True, error_model="numpy")
def draw_polya_gamma(z, rng):
    """omega ~ PG(1, z)."""
    z = abs(z) / 2
    rate = math.pi**2 / 8 + z**2 / 2
    # masses of the proposal right and left of t, as a log ratio, since both underflow for large z
    log_left = math.log(2 * _inverse_gaussian_cdf(TRUNCATION, z)) - z
    log_right = math.log(math.pi / (2 * rate)) - rate * TRUNCATION
    right = 1 / (1 + math.exp(min(log_left - log_right, 700.0)))
    while True:
        if rng.random() < right:
            x = TRUNCATION + rng.standard_exponential() / rate
        else:
            x = _truncated_inverse_gaussian(z, rng)
        total = _coefficient(0, x)
        level = rng.random() * total
        n = 0
        while True:
            n += 1
            if n % 2 == 1:
                total -= _coefficient(n, x)
                if level <= total:
                    return x / 4
            else:
                total += _coefficient(n, x)
                if level > total:
                    break


@numba.njit(cache=True, error_model="numpy")
def _coefficient(n, x):
    """The n-th term of the series of J*(1, 0) at x."""
    half = n + 0.5
    if x > TRUNCATION:
        return math.pi * half * math.exp(-((half * math.pi) ** 2) * x / 2)
    return math.pi * half * (2 / (math.pi * x)) ** 1.5 * math.exp(-2 * half**2 / x)


@numba.njit(cache=True, error_model="numpy")
def _inverse_gaussian_cdf(x, z):
    """P(X <= x) for X inverse Gaussian with mean 1 / z and shape 1; a Lévy variable for z = 0."""
    root = 1 / math.sqrt(x)
    upper = _log_normal_cdf(-root * (x * z + 1)) + 2 * z
    return 0.5 * math.erfc(-root * (x * z - 1) / math.sqrt(2)) + math.exp(upper)


@numba.njit(cache=True, error_model="numpy")
def _log_normal_cdf(x):
    """log Phi(x) for x <= 0."""
    if x > -30:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2)))
    return -(x**2) / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log1p(-1 / x**2)


@numba.njit(cache=True, error_model="numpy")
def _truncated_inverse_gaussian(z, rng):
    """X below TRUNCATION, X inverse Gaussian with mean 1 / z and shape 1."""
    if z < 1 / TRUNCATION:
        while True:
            # a truncated Lévy variable, thinned by exp(-z^2 x / 2)
            while True:
                e = rng.standard_exponential()
                if e**2 <= 2 * rng.standard_exponential() / TRUNCATION:
                    break
            x = TRUNCATION / (1 + TRUNCATION * e) ** 2
            if rng.random() <= math.exp(-(z**2) * x / 2):
                return x
    while True:
        mean = 1 / z
        y = rng.standard_normal() ** 2
        x = mean + 0.5 * mean**2 * y - 0.5 * mean * math.sqrt(4 * mean * y + (mean * y) ** 2)
        if rng.random() > mean / (mean + x):
            x = mean**2 / x
        if x <= TRUNCATION:
            return x
