"""Additive-noise mechanisms: densities, samplers, privacy, acceptance identities, refusals."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from statml.privacy import mechanisms
from statml.privacy.mechanisms.discrete_gaussian import log_normaliser, zcdp_epsilon
from statml.privacy.mechanisms.gaussian import epsilon_of, gdp_of
from statml.privacy.protocols import UnknownSensitivity

ADDITIVE = [
    mechanisms.Laplace,
    mechanisms.Gaussian,
    mechanisms.DiscreteLaplace,
    mechanisms.DiscreteGaussian,
]
CONTINUOUS, DISCRETE = ADDITIVE[:2], ADDITIVE[2:]
NAMES = ["sum_x", "sum_y", "sum_xy"]
SCIPY = {
    mechanisms.Laplace: lambda scale: scipy.stats.laplace(scale=scale).logpdf,
    mechanisms.Gaussian: lambda scale: scipy.stats.norm(scale=scale).logpdf,
    mechanisms.DiscreteLaplace: lambda scale: scipy.stats.dlaplace(1 / scale).logpmf,
}
scales = st.floats(0.05, 50)


def density_at(mechanism, z):
    """log density of the noise at each z, for one statistic."""
    return mechanism.log_density(np.zeros(1), -np.asarray(z, dtype=float)[:, None])


# --- densities --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCIPY)
@pytest.mark.parametrize("scale", [0.3, 1.0, 7.5])
def test_log_densities_are_those_of_scipy(kind, scale):
    z = np.arange(-30, 31)
    assert density_at(kind(scale), z) == pytest.approx(SCIPY[kind](scale)(z), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", DISCRETE)
@given(scale=scales)
def test_discrete_noise_sums_to_one(kind, scale):
    z = np.arange(-2000, 2001)
    assert np.exp(density_at(kind(scale), z)).sum() == pytest.approx(1, rel=1e-12)


@given(sigma=st.floats(0.05, 20))
def test_both_sums_of_the_discrete_gaussian_normaliser_agree_with_brute_force(sigma):
    k = np.arange(-400, 401)
    brute = scipy.special.logsumexp(-0.5 * (k / sigma) ** 2)
    assert log_normaliser(sigma) == pytest.approx(brute, abs=1e-13)


def test_noise_of_many_statistics_is_independent_with_a_scale_each():
    scale, release, totals = np.array([1.0, 2.0, 5.0]), np.array([1.0, -2, 0]), np.ones((4, 2, 3))
    value = mechanisms.Laplace(scale).log_density(release, totals)
    assert value.shape == (4, 2)
    expected = scipy.stats.laplace.logpdf(release, 1, scale).sum()
    assert value == pytest.approx(np.full((4, 2), expected))


@pytest.mark.parametrize("kind", ADDITIVE)
def test_densities_far_out_do_not_underflow(kind):
    far = density_at(kind(1.0), [1000, 1001])
    assert np.isfinite(far).all()
    assert far[0] > far[1]


@pytest.mark.parametrize("kind", DISCRETE)
def test_no_integer_release_can_come_from_a_total_that_is_no_integer(kind):
    assert kind(2.0).log_density(np.array([3.0]), np.array([[2.5], [2.0]]))[0] == -np.inf


@pytest.mark.parametrize("kind", ADDITIVE)
@given(data=st.data())
def test_the_separable_form_is_the_density_up_to_a_constant(kind, data):
    m = data.draw(st.integers(1, 4))
    scale = data.draw(st.one_of(scales, st.lists(scales, min_size=m, max_size=m)))
    whole = st.integers(-40, 40).map(float)
    release = np.array(data.draw(st.lists(whole, min_size=m, max_size=m)))
    totals = np.array(
        data.draw(st.lists(st.lists(whole, min_size=m, max_size=m), min_size=2, max_size=5))
    )
    noise = kind(scale)
    form = noise.separable(m)
    separable = -(form.weight * np.abs(release - totals) ** form.power).sum(axis=-1)
    assert form.power.shape == form.weight.shape == (m,)
    exact = noise.log_density(release, totals)
    assert exact - exact[0] == pytest.approx(separable - separable[0], rel=1e-9, abs=1e-9)


# --- intervals: what censoring and rounding rest on -------------------------------------------------


@pytest.mark.parametrize("kind", DISCRETE)
@given(scale=st.floats(0.2, 12), low=st.integers(-60, 60), width=st.integers(0, 50))
def test_probabilities_of_intervals_are_sums_of_the_mass(kind, scale, low, width):
    noise = kind(scale)
    brute = scipy.special.logsumexp(density_at(noise, np.arange(low, low + width + 1)))
    value = noise.log_interval([low], [low + width], np.zeros(1))[0]
    assert value == pytest.approx(brute, rel=1e-10, abs=1e-12)
    upper = scipy.special.logsumexp(density_at(noise, np.arange(low, low + 800)))
    assert noise.log_interval([low], [np.inf], np.zeros(1))[0] == pytest.approx(
        upper, rel=1e-10, abs=1e-12
    )


@pytest.mark.parametrize("kind", CONTINUOUS)
@given(scale=st.floats(0.2, 12), low=st.floats(-5, 5), width=st.floats(0.01, 5))
def test_probabilities_of_intervals_are_integrals_of_the_density(kind, scale, low, width):
    noise = kind(scale)
    points = [0.0] if low < 0 < low + width else None
    brute, error = quad(
        lambda z: np.exp(density_at(noise, [z])[0]), low, low + width, points=points
    )
    value = np.exp(noise.log_interval([low], [low + width], np.zeros(1))[0])
    assert value == pytest.approx(brute, rel=1e-8, abs=10 * error)


@pytest.mark.parametrize("kind", ADDITIVE)
def test_probabilities_of_intervals_far_out_are_accurate(kind):
    """300 scales out, an interval one wide has nearly the probability of its near end; the two tails mirror each other."""
    noise = kind(1.0)
    right = noise.log_interval([300.0], [301.0], np.zeros(1))[0]
    left = noise.log_interval([-301.0], [-300.0], np.zeros(1))[0]
    assert right == pytest.approx(left, rel=1e-14)
    upper = noise.log_interval([300.0], [np.inf], np.zeros(1))[0]
    assert right <= upper == pytest.approx(right, abs=0.7)
    assert density_at(noise, [300])[0] == pytest.approx(right, abs=6)


@pytest.mark.parametrize("kind", ADDITIVE)
def test_an_empty_interval_has_probability_zero_and_the_line_one(kind):
    noise = kind(2.0)
    assert noise.log_interval([1.0], [0.0], np.zeros(1))[0] == -np.inf
    assert noise.log_interval([-np.inf], [np.inf], np.zeros(1))[0] == pytest.approx(0, abs=1e-15)


# --- samplers ---------------------------------------------------------------------------------------


def chi_square(noise, draws, width):
    """p-value of draws of one statistic against the mechanism's own probabilities of cells (a, b]."""
    low, high = np.floor(np.quantile(draws, [0.02, 0.98]) / width) * width
    ends = np.arange(low, high + width, width)
    # of integers, those in (a, b] are the ones in [a + 1, b]
    starts = np.r_[-np.inf, ends + 1 if noise.discrete else ends]
    cells = zip(starts, np.r_[ends, np.inf], strict=True)
    p = np.exp([noise.log_interval([a], [b], np.zeros(1))[0] for a, b in cells])
    assert p.sum() == pytest.approx(1)
    counts = np.bincount(np.searchsorted(ends, draws), minlength=len(ends) + 1)
    return scipy.stats.chisquare(counts, p * len(draws)).pvalue


@pytest.mark.parametrize("kind", ADDITIVE)
@pytest.mark.parametrize("scale", [0.6, 1.5, 6.25])
def test_the_sampler_draws_from_the_density(kind, scale):
    noise = kind(scale)
    p_values = [
        chi_square(
            noise,
            noise.randomise(np.zeros(20_000), np.random.default_rng(seed)),
            max(1.0, scale // 4),
        )
        for seed in range(8)
    ]
    # Fisher's pooling of eight seeds; 1e-4 is the level of this test
    assert scipy.stats.combine_pvalues(p_values).pvalue > 1e-4


@pytest.mark.parametrize("kind", ADDITIVE)
def test_releases_are_fixed_by_the_generator_and_have_a_scale_a_statistic(kind):
    noise = kind([0.01, 30.0])
    one = noise.randomise([5, 7], np.random.default_rng(3))
    two = noise.randomise([5, 7], np.random.default_rng(3))
    assert one.tolist() == two.tolist()
    spread = np.std([noise.randomise([5, 7], np.random.default_rng(k)) for k in range(200)], axis=0)
    assert spread[0] < 0.1
    assert spread[1] > 20


# --- privacy and acceptance -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [mechanisms.Laplace, mechanisms.DiscreteLaplace])
@given(
    epsilon=st.floats(0.05, 10),
    release=st.lists(st.integers(-30, 30), min_size=3, max_size=3),
    move=st.lists(st.integers(-5, 5), min_size=3, max_size=3),
)
def test_every_log_ratio_of_neighbours_lies_within_epsilon(kind, epsilon, release, move):
    totals = np.array([[3.0, -2.0, 10.0]])
    noise = kind.from_epsilon(epsilon, sensitivity=max(np.abs(move).sum(), 1))
    ratio = noise.log_ratio(np.array(release, dtype=float), totals, totals + move)
    assert np.abs(ratio).max() <= epsilon * (1 + 1e-12)
    assert np.exp(min(ratio[0], 0)) >= noise.acceptance_bound() * (1 - 1e-12)


@pytest.mark.parametrize("scale", [0.5, 2.0, 9.0])
@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_mean_acceptance_is_one_minus_the_total_variation_distance(scale, d):
    """The closed forms exp(-d / 2b), 2 Phi(-d / 2 sigma) and, for a move of one count, 2a / (1 + a)."""
    for kind in CONTINUOUS:
        noise = kind(scale)

        def overlap(z, noise=noise):
            return np.exp(density_at(noise, [z, z - d]).min())

        parts = [-np.inf, 0, d / 2, d, np.inf]
        numeric = sum(quad(overlap, a, b)[0] for a, b in itertools.pairwise(parts))
        assert noise.mean_acceptance(d) == pytest.approx(numeric, abs=1e-7)
    assert mechanisms.Laplace(scale).mean_acceptance(d) == pytest.approx(np.exp(-d / 2 / scale))
    assert mechanisms.Gaussian(scale).mean_acceptance(d) == pytest.approx(
        2 * scipy.stats.norm.cdf(-d / 2 / scale)
    )
    z = np.arange(-900, 901)
    for kind in DISCRETE:
        noise = kind(scale)
        numeric = np.exp(np.minimum(density_at(noise, z), density_at(noise, z - d))).sum()
        assert noise.mean_acceptance(d) == pytest.approx(numeric, abs=1e-12)
    a = np.exp(-1 / scale)
    assert mechanisms.DiscreteLaplace(scale).mean_acceptance(1) == pytest.approx(2 * a / (1 + a))


@pytest.mark.parametrize("kind", ADDITIVE)
@given(scale=st.floats(0.2, 20), d=st.integers(1, 6))
def test_mean_acceptance_lies_above_its_bound(kind, scale, d):
    noise = kind(scale, sensitivity=d)
    assert noise.mean_acceptance(d) >= noise.acceptance_bound(average=True) * (1 - 1e-12)
    assert noise.acceptance_bound(average=True) >= noise.acceptance_bound() >= 0


def test_average_bounds_have_their_closed_forms():
    laplace = mechanisms.Laplace.from_epsilon(1.5, sensitivity=13)
    assert laplace.acceptance_bound() == pytest.approx(np.exp(-1.5))
    assert laplace.acceptance_bound(average=True) == pytest.approx(2 / (1 + np.exp(1.5)))
    gaussian = mechanisms.Gaussian.from_gdp(0.8, sensitivity=4)
    assert gaussian.acceptance_bound() == 0
    assert gaussian.acceptance_bound(average=True) == pytest.approx(2 * scipy.stats.norm.cdf(-0.4))
    assert (
        mechanisms.Laplace(1e-4, sensitivity=10).acceptance_bound(average=True) == 0
    )  # no overflow


def test_without_a_sensitivity_the_bound_is_zero_and_epsilon_asks_for_one():
    assert mechanisms.Laplace(2.0).acceptance_bound() == 0
    assert mechanisms.Laplace(2.0).acceptance_bound(sensitivity=1) == pytest.approx(np.exp(-0.5))
    with pytest.raises(UnknownSensitivity, match="sensitivity is needed"):
        mechanisms.Laplace(2.0).epsilon()


def test_several_scales_and_sensitivities_add_up_by_the_norm_of_the_mechanism():
    assert mechanisms.Laplace([1.0, 2.0], sensitivity=[3.0, 4.0]).epsilon() == pytest.approx(5)
    assert mechanisms.Laplace([1.0, 2.0]).epsilon(3.0) == pytest.approx(3)
    assert mechanisms.Gaussian([1.0, 2.0]).gdp([3.0, 8.0]) == pytest.approx(5)
    assert mechanisms.Laplace.from_epsilon(2.0, [3.0, 5.0]).epsilon() == pytest.approx(2)


def test_gaussian_noise_is_calibrated_by_the_exact_formula():
    """delta(epsilon) is the integral of the positive part of p - e^eps q."""
    mu, epsilon = 0.9, 0.7
    delta, _ = quad(
        lambda z: max(scipy.stats.norm.pdf(z) - np.exp(epsilon) * scipy.stats.norm.pdf(z + mu), 0),
        -12, 12, points=[epsilon / mu - mu / 2], epsabs=1e-13,
    )  # fmt: skip
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, abs=1e-8)
    assert gdp_of(epsilon, delta) == pytest.approx(mu, abs=1e-8)
    assert gdp_of(8.0, 1e-30) < gdp_of(8.0, 1e-6)
    assert epsilon_of(0.01, 0.5) == 0
    assert mechanisms.Gaussian(2.0).epsilon(1.0) == np.inf
    noise = mechanisms.Gaussian.from_rho(0.5, sensitivity=3)
    assert (noise.scale, noise.rho()) == pytest.approx((3, 0.5))


@given(epsilon=st.floats(0.01, 20), log_delta=st.floats(-40, -0.5))
def test_noise_from_epsilon_and_delta_spends_that_epsilon(epsilon, log_delta):
    delta = np.exp(log_delta)
    gaussian = mechanisms.Gaussian.from_epsilon(epsilon, delta, sensitivity=2)
    assert gaussian.epsilon(delta=delta) == pytest.approx(epsilon, rel=1e-6)
    discrete = mechanisms.DiscreteGaussian.from_epsilon(epsilon, delta, sensitivity=2)
    assert discrete.epsilon(delta=delta) == pytest.approx(epsilon, rel=1e-5)


def test_the_zcdp_epsilon_of_the_discrete_gaussian_holds_and_is_not_far_off():
    """Against the exact delta of the mechanism: the sum of the positive part of p - e^eps q."""
    noise, delta = mechanisms.DiscreteGaussian(3.0, sensitivity=1), 1e-5
    epsilon = noise.epsilon(delta=delta)
    z = np.arange(-200, 201)
    p, q = np.exp(density_at(noise, z)), np.exp(density_at(noise, z - 1))
    assert np.maximum(p - np.exp(epsilon) * q, 0).sum() <= delta
    assert np.maximum(p - np.exp(0.8 * epsilon) * q, 0).sum() > delta
    assert epsilon < zcdp_bound(noise.rho(), delta)


def zcdp_bound(rho, delta):
    """The simple conversion of Bun and Steinke, rho + 2 sqrt(rho log(1 / delta)), which ours improves."""
    assert zcdp_epsilon(rho, delta) > rho
    return rho + 2 * np.sqrt(rho * np.log(1 / delta))


@pytest.mark.parametrize(("p", "tight"), [(1, 16 / 3), (2, 9.375), (3, 14.4)])
def test_the_tight_sensitivity_of_the_regression_moments_has_its_closed_form(p, tight):
    """(p + 1)(p + 3)^2 / 2(p + 2), attained by v and -v / (p + 2), and not exceeded by other pairs."""

    def statistic(
        v,
    ):  # v = (x_1, ..., x_p, y) in [-1, 1]^(p+1): y, xy, y^2, x, and the triangle of xx'
        x, y = v[:p], v[p]
        return np.r_[y, x * y, y * y, x, np.outer(x, x)[np.triu_indices(p)]]

    def move(v):
        return np.abs(statistic(v[: p + 1]) - statistic(v[p + 1 :])).sum()

    assert (p + 1) * (p + 3) ** 2 / (2 * (p + 2)) == pytest.approx(tight)
    ones = np.ones(p + 1)
    assert move(np.r_[ones, -ones / (p + 2)]) == pytest.approx(tight)
    rng = np.random.default_rng(p)
    box = scipy.optimize.Bounds(-1, 1)
    found = [
        -scipy.optimize.minimize(
            lambda v: -move(v), rng.uniform(-1, 1, 2 * p + 2), method="Powell", bounds=box
        ).fun
        for _ in range(12)
    ]
    assert max(found) == pytest.approx(tight, abs=1e-3)
    assert max(found) <= tight + 1e-9


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ADDITIVE)
@pytest.mark.parametrize("scale", [0, -1, np.nan, np.inf, [], [1.0, 0.0], [[1.0]]])
def test_a_scale_that_is_not_positive_is_refused_by_name(kind, scale):
    with pytest.raises(ValueError, match="scale must be a positive finite number"):
        kind(scale)


@pytest.mark.parametrize("value", [0, -0.5, np.nan, np.inf])
def test_budgets_and_sensitivities_that_are_not_positive_are_refused_by_name(value):
    for make in (mechanisms.Laplace.from_epsilon, mechanisms.DiscreteLaplace.from_epsilon):
        with pytest.raises(ValueError, match="epsilon must be a finite number > 0"):
            make(value, sensitivity=1)
        with pytest.raises(ValueError, match="sensitivity must be a positive"):
            make(1.0, sensitivity=value)
    for kind in (mechanisms.Gaussian, mechanisms.DiscreteGaussian):
        with pytest.raises(ValueError, match="rho must be"):
            kind.from_rho(value, sensitivity=1)
        with pytest.raises(ValueError, match="epsilon must be"):
            kind.from_epsilon(value, 1e-6, sensitivity=1)
        with pytest.raises(ValueError, match="delta must be"):
            kind.from_epsilon(1.0, value, sensitivity=1)
    with pytest.raises(ValueError, match="mu must be"):
        mechanisms.Gaussian.from_gdp(value, sensitivity=1)


@pytest.mark.parametrize("kind", ADDITIVE)
def test_a_release_of_the_wrong_shape_is_told_the_entries_in_order(kind):
    noise = kind(2.0)
    order = "3 entries, in this order: sum_x, sum_y, sum_xy"
    for release in ([1, 2], [1, 2, 3, 4], [[1, 2, 3]], 5, []):
        with pytest.raises(ValueError, match=order):
            noise.check_release(release, NAMES)
    with pytest.raises(ValueError, match="missing: sum_xy; not expected: sum_yy"):
        noise.check_release({"sum_x": 1, "sum_y": 2, "sum_yy": 3}, NAMES)
    named = noise.check_release({"sum_xy": 3, "sum_y": 2, "sum_x": 1}, NAMES)
    assert named.tolist() == [1, 2, 3]
    assert noise.check_release(4, ["n"]).tolist() == [4]


@pytest.mark.parametrize("kind", ADDITIVE)
def test_a_release_with_nan_or_no_numbers_is_refused_with_its_name(kind):
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"release\[1\] \(sum_y\) is not a finite number"):
            kind(2.0).check_release([1, bad, 3], NAMES)
    with pytest.raises(TypeError, match="release must be numbers"):
        kind(2.0).check_release(["a", "b", "c"], NAMES)


@pytest.mark.parametrize("kind", DISCRETE)
def test_discrete_noise_refuses_releases_that_are_no_integers(kind):
    with pytest.raises(ValueError, match=r"release\[2\] \(sum_xy\) is not an integer"):
        kind(2.0).check_release([1, 2, 3.5], NAMES)


def test_scales_of_another_number_than_the_statistics_are_refused():
    with pytest.raises(ValueError, match="scale has 2 entries, but there are 3 statistics"):
        mechanisms.Laplace([1.0, 2.0]).check_release([1, 2, 3], NAMES)
    with pytest.raises(ValueError, match="sensitivity has 2 entries, but scale has 3"):
        mechanisms.Laplace([1.0, 2.0, 3.0]).epsilon([1.0, 2.0])
