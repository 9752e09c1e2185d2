"""OpenDP: its samplers against our densities, its measurements read as mechanisms."""

import sys

import numpy as np
import pytest
import scipy.stats

from statml.privacy import mechanisms

ADDITIVE = [
    mechanisms.Laplace,
    mechanisms.Gaussian,
    mechanisms.DiscreteLaplace,
    mechanisms.DiscreteGaussian,
]


@pytest.fixture(scope="module")
def dp():
    prelude = pytest.importorskip("opendp.prelude", reason="OpenDP is not installed")
    prelude.enable_features("contrib")
    return prelude


def measurement(dp, kind, scale, vector=False):
    discrete = kind in ADDITIVE[2:]
    laplace = kind in ADDITIVE[::2]
    atom = dp.atom_domain(T="i64") if discrete else dp.atom_domain(T=float, nan=False)
    number = "i64" if discrete else float
    if not vector:
        space = atom, dp.absolute_distance(T=number)
    else:
        space = dp.vector_domain(atom), (dp.l1_distance if laplace else dp.l2_distance)(T=number)
    return (dp.m.make_laplace if laplace else dp.m.make_gaussian)(*space, scale=scale)


@pytest.mark.parametrize("kind", ADDITIVE)
@pytest.mark.parametrize("scale", [0.7, 3.0, 6.25])
def test_kind_and_scale_are_read_from_a_measurement(dp, kind, scale):
    for vector in (False, True):
        mechanism = mechanisms.from_opendp(measurement(dp, kind, scale, vector))
        assert type(mechanism) is kind
        assert mechanism.scale == pytest.approx(scale, rel=1e-10)


def test_the_privacy_loss_agrees_with_the_map_of_the_measurement(dp):
    laplace = measurement(dp, mechanisms.DiscreteLaplace, 2.5)
    assert mechanisms.from_opendp(laplace).epsilon(3) == pytest.approx(laplace.map(3))
    gaussian = measurement(dp, mechanisms.Gaussian, 2.5)
    assert mechanisms.from_opendp(gaussian).rho(3) == pytest.approx(gaussian.map(3.0))


@pytest.mark.parametrize("kind", ADDITIVE)
def test_what_opendp_draws_has_our_density(dp, kind):
    """OpenDP cannot be seeded; the level of this test is 1e-6, so that it fails by chance once in a million runs."""
    noise = kind(1.5)
    draws = np.array([noise.release([10])[0] - 10 for _ in range(4000)])
    ends = np.arange(-4, 5)
    starts = np.r_[-np.inf, ends + 1 if noise.discrete else ends]
    cells = zip(starts, np.r_[ends, np.inf], strict=True)
    p = np.exp([noise.log_interval([a], [b], np.zeros(1))[0] for a, b in cells])
    counts = np.bincount(np.searchsorted(ends, draws), minlength=len(ends) + 1)
    assert scipy.stats.chisquare(counts, p * len(draws)).pvalue > 1e-6


@pytest.mark.parametrize("kind", ADDITIVE)
def test_published_releases_have_a_scale_a_statistic(dp, kind):
    release = kind([1e-4 if kind in ADDITIVE[:2] else 0.05, 1e6]).release([5, 7])
    assert release[0] == pytest.approx(5, abs=0.1)
    assert release[1] != 7
    if kind in ADDITIVE[2:]:
        assert release.tolist() == np.rint(release).tolist()
        with pytest.raises(ValueError, match="totals must be integers"):
            kind(2.0).release([0.5])
    assert mechanisms.Censored(kind(3.0), low=0).release([-500]).tolist() == [0]
    assert mechanisms.Rounded(kind(3.0), 1000).release([2100]).tolist() == [2000]


def test_measurements_that_are_no_plain_noise_are_refused(dp):
    with pytest.raises(TypeError, match="measurement must be an OpenDP Measurement, got float"):
        mechanisms.from_opendp(2.0)
    count = dp.t.make_count(dp.vector_domain(dp.atom_domain(T=int)), dp.symmetric_distance())
    with pytest.raises(ValueError, match="without a transformation before it"):
        mechanisms.from_opendp(count >> dp.m.then_laplace(scale=2.0))
    with pytest.raises(ValueError, match="made by make_laplace or make_gaussian"):
        mechanisms.from_opendp(dp.m.make_randomized_response_bool(prob=0.75))
    space = dp.atom_domain(T=float, nan=False), dp.absolute_distance(T=float)
    with pytest.raises(ValueError, match="coarse grid"):
        mechanisms.from_opendp(dp.m.make_laplace(*space, scale=2.0, k=1))


def test_without_opendp_publishing_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opendp.prelude", None)
    for act in (
        lambda: mechanisms.Laplace(2.0).release([1.0]),
        lambda: mechanisms.from_opendp(None),
    ):
        with pytest.raises(ImportError, match=r"pip install 'statml\[privacy\]'"):
            act()
    # rehearsals go on
    assert mechanisms.Laplace(2.0).randomise([1.0], np.random.default_rng(0)).shape == (1,)
