import numpy as np
import pytest
from scipy import stats

from statml.inference import bootstrap_p_value, parametric_bootstrap, percentile_interval


def simulate(rng):
    return rng.normal(2.0, 3.0, size=40)


def mean_and_spread(x):
    return [x.mean(), x.std()]


def test_draws_follow_the_distribution_of_the_statistic():
    draws = parametric_bootstrap(simulate, mean_and_spread, 2000, random_state=0)
    assert draws.shape == (2000, 2)
    assert stats.kstest(draws[:, 0], stats.norm(2.0, 3.0 / np.sqrt(40)).cdf).pvalue > 0.01
    assert stats.kstest(draws[:, 1] ** 2 * 40 / 9, stats.chi2(39).cdf).pvalue > 0.01


def test_draws_are_the_same_for_every_number_of_workers_and_after_resuming(tmp_path):
    one = parametric_bootstrap(simulate, mean_and_spread, 20, random_state=0)
    two = parametric_bootstrap(
        simulate, mean_and_spread, 20, random_state=0, n_jobs=2, checkpoint_dir=tmp_path
    )
    again = parametric_bootstrap(simulate, mean_and_spread, 20, checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, again)


def test_a_checkpoint_of_another_statistic_is_refused(tmp_path):
    parametric_bootstrap(simulate, mean_and_spread, 3, random_state=0, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="description was 'bootstrap of mean_and_spread', now is"):
        parametric_bootstrap(simulate, np.mean, 3, random_state=0, checkpoint_dir=tmp_path)


def test_a_number_as_statistic_gives_one_column():
    assert parametric_bootstrap(simulate, np.mean, 5, random_state=0).shape == (5, 1)


def test_statistics_of_changing_or_too_many_dimensions_are_refused():
    with pytest.raises(ValueError, match="statistic must always return an array of one shape"):
        parametric_bootstrap(lambda rng: rng.integers(1, 9), np.ones, 20, random_state=0)
    with pytest.raises(ValueError, match=r"got shapes \[\(2, 2\)\]"):
        parametric_bootstrap(simulate, lambda x: np.eye(2), 3, random_state=0)


@pytest.mark.parametrize(("n_boot", "error"), [(0, ValueError), (2.0, TypeError)])
def test_a_wrong_number_of_draws_is_refused(n_boot, error):
    with pytest.raises(error, match="n_boot must be an integer >= 1"):
        parametric_bootstrap(simulate, np.mean, n_boot)


@pytest.mark.parametrize(
    ("alternative", "expected"), [("greater", 0.4), ("less", 1.0), ("two-sided", 0.8)]
)
def test_p_value_counts_ties_as_extreme_and_adds_one(alternative, expected):
    assert bootstrap_p_value(3.0, [1.0, 2.0, 3.0, 2.5], alternative) == pytest.approx(expected)


def test_p_value_is_never_zero_and_at_most_one():
    assert bootstrap_p_value(9.0, np.zeros(99), "greater") == 0.01
    assert bootstrap_p_value(9.0, np.zeros(99)) == 0.02
    assert bootstrap_p_value(0.0, np.zeros(99)) == 1.0


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_test_has_its_level_exactly_under_the_hypothesis(alternative):
    # Observed and draws are exchangeable: with 19 draws, P(p <= 0.1) is 0.1.
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 20))
    rejected = np.mean([bootstrap_p_value(v[0], v[1:], alternative) <= 0.1 + 1e-12 for v in values])
    assert abs(rejected - 0.1) <= 3 * np.sqrt(0.1 * 0.9 / 5000)


def test_percentile_interval_holds_the_central_share_of_each_column():
    draws = np.arange(1001.0)
    np.testing.assert_allclose(percentile_interval(draws, 0.9), [50.0, 950.0])
    both = percentile_interval(np.column_stack([draws, -draws]), 0.9)
    np.testing.assert_allclose(both, [[50.0, 950.0], [-950.0, -50.0]])


def test_bad_draws_are_refused():
    with pytest.raises(ValueError, match="draws must not hold NaN, got 1 of 2"):
        bootstrap_p_value(0.0, [1.0, np.nan])
    with pytest.raises(ValueError, match=r"draws must have shape \(n_boot,\) and not be empty"):
        bootstrap_p_value(0.0, np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"\(n_boot,\) or \(n_boot, k\) and not be empty"):
        percentile_interval([])
    with pytest.raises(ValueError, match="observed must be a number, got nan"):
        bootstrap_p_value(np.nan, [1.0])
    with pytest.raises(ValueError, match="alternative must be"):
        bootstrap_p_value(0.0, [1.0], "both")
