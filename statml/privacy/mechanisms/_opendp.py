"""OpenDP at the door: its vetted samplers for what is published, and its measurements read as mechanisms.

OpenDP (https://opendp.org) is imported only here, in the functions that need it. Its samplers draw from the system's
entropy and cannot be seeded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def import_opendp() -> Any:
    """OpenDP's prelude, with its contributed constructors enabled.

    Raises
    ------
    ImportError
        If OpenDP is missing or cannot be imported; the message says how to install it.
    """
    try:
        import opendp.prelude as dp
    except ImportError as error:
        raise ImportError(
            "OpenDP draws the noise of releases that are published: pip install 'statml[privacy]', or "
            "pip install opendp. For simulations without it, use randomise(totals, rng)."
        ) from error
    dp.enable_features("contrib")
    return dp


def add_noise(kind: str, totals: Array, scales: Array, discrete: bool) -> Array:
    """Totals plus OpenDP's Laplace or Gaussian noise, each with its own scale."""
    dp = import_opendp()
    domain = dp.atom_domain(T="i64") if discrete else dp.atom_domain(T=float, nan=False)
    metric = dp.absolute_distance(T="i64" if discrete else float)
    make = dp.m.make_laplace if kind == "laplace" else dp.m.make_gaussian
    as_atom = int if discrete else float
    return np.array(
        [
            make(domain, metric, scale=float(scale))(as_atom(total))
            for total, scale in zip(totals, scales, strict=True)
        ],
        dtype=float,
    )


def from_opendp(measurement: Any) -> Any:
    """The mechanism that an OpenDP measurement adds: its kind and scale are read from the measurement.

    Parameters
    ----------
    measurement : opendp Measurement
        Made by ``make_laplace`` or ``make_gaussian`` (or their ``then_`` forms) on a number or a vector, of integers
        (discrete noise) or floats. Not a chain that begins with a transformation: there the scale cannot be told from
        the sensitivity; hand over its last part.

    Returns
    -------
    Laplace, Gaussian, DiscreteLaplace or DiscreteGaussian

    Raises
    ------
    ImportError
        If OpenDP is missing.
    TypeError
        If `measurement` is no OpenDP measurement.
    ValueError
        If it is of another kind, or its floats are rounded to a coarse grid (``k``), where the noise has no density.

    Notes
    -----
    The scale is the slope of the privacy map: epsilon(d) = d / scale for Laplace noise,
    sqrt(2 rho(d)) = d / scale for Gaussian noise. OpenDP rounds the map upwards, so that the scale is
    right to about 15 digits. What the map does not show, such as clamping of the noisy values, is not read.

    Examples
    --------
    >>> import opendp.prelude as dp  # doctest: +SKIP
    >>> space = dp.atom_domain(T=int), dp.absolute_distance(T=int)  # doctest: +SKIP
    >>> from_opendp(dp.m.make_laplace(*space, scale=2.0))  # doctest: +SKIP
    DiscreteLaplace(scale=2)
    """
    dp = import_opendp()
    from . import DiscreteGaussian, DiscreteLaplace, Gaussian, Laplace

    if not isinstance(measurement, dp.Measurement):
        raise TypeError(
            f"measurement must be an OpenDP Measurement, got {type(measurement).__name__}"
        )
    described = (
        f"{measurement.input_domain}, {measurement.input_metric}, {measurement.output_measure}"
    )
    metric = str(measurement.input_metric)
    measure = str(measurement.output_measure)
    atom = str(measurement.input_carrier_type).removeprefix("Vec<").removesuffix(">")
    is_laplace = measure == "MaxDivergence" and metric.startswith(
        ("AbsoluteDistance", "L1Distance")
    )
    is_gaussian = measure == "ZeroConcentratedDivergence" and metric.startswith(
        ("AbsoluteDistance", "L2Distance")
    )
    if not (is_laplace or is_gaussian) or atom[:1] not in "iuf":
        raise ValueError(
            "measurement must be made by make_laplace or make_gaussian on numbers or vectors, without a "
            f"transformation before it; got one of {described}"
        )

    def loss(d: int) -> float:
        distance = int(d) if measurement.input_distance_type.__str__()[:1] in "iu" else float(d)
        privacy = measurement.map(distance)
        return privacy if is_laplace else (2 * privacy) ** 0.5

    # On a grid of floats the map is (d + rounding) / scale; two distances tell the two apart.
    one, two = loss(1), loss(2)
    if not np.isclose(two, 2 * one, rtol=1e-6):
        raise ValueError(
            f"measurement rounds to a coarse grid, or is not additive noise: its privacy map is {one:g} at distance 1 "
            f"and {two:g} at 2. Set k to a fine granularity, or build mechanisms.Rounded by hand."
        )
    discrete = atom[0] in "iu"
    kinds = {
        (True, True): DiscreteLaplace, (True, False): Laplace,
        (False, True): DiscreteGaussian, (False, False): Gaussian,
    }  # fmt: skip
    # the map is rounded outwards in its last digits; a scale is a number that somebody typed
    return kinds[is_laplace, discrete](scale=float(f"{1 / one:.12g}"))
