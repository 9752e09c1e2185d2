import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from statml.inference import adjust_pvalues, fdr_threshold

METHODS = ("bh", "by", "storey", "liu")

# Few distinct values make ties; 40 lies beyond the underflow of the p-value.
statistics = st.lists(
    st.floats(-6, 6) | st.sampled_from([0.0, 1.0, -1.0, 2.5, 2.5 + 1e-9, 3.0, 40.0, -40.0, np.inf]),
    min_size=1,
    max_size=200,
).map(np.array)
rates = st.sampled_from([0.013, 0.05, 0.1, 0.37, 0.83])


def threshold_of(z, q, method, n_blocks=3):
    return fdr_threshold(lambda: iter(np.array_split(z, n_blocks)), len(z), q, method)


def storey_pi0(p):
    return min(1.0, (1 + (p > 0.5).sum()) / (0.5 * len(p)))


@given(z=statistics, q=rates, method=st.sampled_from(["bh", "by"]))
def test_streamed_rejections_are_those_of_statsmodels(z, q, method):
    found = threshold_of(z, q, method)
    expected = multipletests(2 * norm.sf(abs(z)), q, f"fdr_{method}")[0]
    np.testing.assert_array_equal(abs(z) >= found.threshold, expected)
    assert found.n_rejected == expected.sum()


@given(z=statistics, q=rates)
def test_streamed_storey_is_benjamini_hochberg_at_q_over_pi0(z, q):
    p = 2 * norm.sf(abs(z))
    found, pi0 = threshold_of(z, q, "storey"), storey_pi0(p)
    expected = adjust_pvalues(p) <= q / pi0
    np.testing.assert_array_equal(abs(z) >= found.threshold, expected)
    assert (found.n_rejected, found.pi0) == (expected.sum(), pi0)


@given(z=statistics, q=rates)
def test_liu_threshold_is_the_infimum_of_its_definition(z, q):
    n, t = len(z), np.sort(abs(z))
    bound = np.sqrt(2 * np.log(n) - 2 * np.log(np.log(n))) if n > 1 else np.inf

    def condition(x):
        return n * 2 * norm.sf(x) / max((t >= x).sum(), 1) <= q * (1 + 1e-12)

    # Between jumps of R the condition begins to hold where N G(t) = q k, and it may begin at 0 or at a jump.
    candidates = np.concatenate(
        [[0.0], t, norm.isf(np.minimum(q * np.arange(1, n + 1) / n, 2) / 2)]
    )
    holding = [x for x in candidates if 0 <= x <= bound and condition(x)]
    expected = min(holding) if holding else np.sqrt(2 * np.log(n))
    found = threshold_of(z, q, "liu")
    assert found.threshold == pytest.approx(expected, rel=1e-12)
    assert found.n_rejected == (t >= found.threshold).sum()


@given(z=statistics, q=rates, method=st.sampled_from(METHODS), n_blocks=st.integers(1, 20))
def test_result_does_not_depend_on_the_blocks_or_their_order(z, q, method, n_blocks):
    assert threshold_of(z, q, method) == threshold_of(-z[::-1], q, method, n_blocks)


@pytest.mark.parametrize("method", ["bh", "by", "storey"])
def test_p_value_of_the_threshold_is_the_rate_times_the_share_rejected(method):
    rng = np.random.default_rng(0)
    z = np.append(rng.normal(size=4000), rng.normal(3, 1, size=1000))
    found = threshold_of(z, 0.1, method)
    level = {"bh": 0.1, "by": 0.1 / (1 / np.arange(1, 5001)).sum(), "storey": 0.1 / found.pi0}
    assert 100 < found.n_rejected < 1000
    assert 2 * norm.sf(found.threshold) == pytest.approx(level[method] * found.n_rejected / 5000)
    assert found.estimated_fdp == pytest.approx(level[method] * found.pi0)


def test_liu_agrees_with_benjamini_hochberg_below_its_bound():
    rng = np.random.default_rng(1)
    z = np.append(rng.normal(size=4000), rng.normal(3, 1, size=1000))
    bh, liu = threshold_of(z, 0.1, "bh"), threshold_of(z, 0.1, "liu")
    assert (liu.threshold, liu.n_rejected) == (bh.threshold, bh.n_rejected)


def test_liu_falls_back_on_its_last_resort_where_nothing_is_significant():
    found = threshold_of(np.linspace(-1, 1, 1000), 0.1, "liu")
    assert found.threshold == pytest.approx(np.sqrt(2 * np.log(1000)))
    assert found.n_rejected == 0


@pytest.mark.parametrize("method", ["bh", "by", "storey"])
def test_nothing_is_rejected_where_nothing_is_significant(method):
    found = threshold_of(np.linspace(-1, 1, 1000), 0.1, method)
    assert (found.threshold, found.n_rejected, found.estimated_fdp) == (np.inf, 0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_everything_is_rejected_where_every_p_value_underflows(method):
    found = threshold_of(np.full(1000, -40.0), 0.1, method)
    assert found.n_rejected == 1000
    assert 0 <= found.threshold <= 40


@pytest.mark.parametrize(("method", "bound"), [("bh", 0.08), ("by", 0.08), ("storey", 0.1)])
def test_false_discovery_rate_is_controlled(method, bound):
    # 80 % true hypotheses: the rate is at most pi0 q for bh and by, and q for storey.
    rng = np.random.default_rng(2)
    n_runs, n_null, n_false = 400, 400, 100
    proportions = []
    for _ in range(n_runs):
        z = np.append(rng.normal(size=n_null), rng.normal(3, 1, size=n_false))
        found = threshold_of(z, 0.1, method)
        n_wrong = (abs(z[:n_null]) >= found.threshold).sum()
        proportions.append(n_wrong / max(found.n_rejected, 1))
    error = np.std(proportions) / np.sqrt(n_runs)
    assert np.mean(proportions) <= bound + 3 * error
    if method != "by":  # nor is it needlessly small
        assert np.mean(proportions) >= 0.08 - 3 * error


def test_liu_controls_the_false_discovery_rate_where_it_rejects_within_its_bound():
    rng = np.random.default_rng(3)
    proportions, n_runs = [], 400
    for _ in range(n_runs):
        z = np.append(rng.normal(size=400), rng.normal(3, 1, size=100))
        found = threshold_of(z, 0.1, "liu")
        proportions.append((abs(z[:400]) >= found.threshold).sum() / max(found.n_rejected, 1))
    error = np.std(proportions) / np.sqrt(n_runs)
    assert abs(np.mean(proportions) - 0.08) <= 3 * error


def peak_memory(n_tests, block_size):
    n_blocks = n_tests // block_size

    def blocks():
        for k in range(n_blocks):
            z = np.random.default_rng(k).normal(size=block_size)
            z[: block_size // 20] += 3
            yield z

    tracemalloc.start()
    try:
        found = fdr_threshold(blocks, n_tests, q=0.1, method="storey")
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_a_small_part_of_what_the_statistics_would_take():
    found, peak = peak_memory(4_000_000, block_size=50_000)
    assert found.n_rejected > 10_000
    assert peak < 0.2 * 8 * 4_000_000


@pytest.mark.slow
def test_fifty_million_statistics_take_less_than_100_megabytes():
    found, peak = peak_memory(50_000_000, block_size=500_000)
    assert found.n_rejected > 100_000
    assert peak < 100e6


def test_nan_is_refused():
    with pytest.raises(ValueError, match=r"blocks\(\) gave a statistic that is NaN"):
        threshold_of(np.array([1.0, np.nan]), 0.1, "bh")


def test_a_wrong_number_of_tests_is_refused():
    with pytest.raises(ValueError, match=r"n_tests is 4, but blocks\(\) gave 3 statistics"):
        fdr_threshold(lambda: [np.ones(3)], 4, 0.1)


def test_an_iterator_in_place_of_a_function_is_refused():
    with pytest.raises(TypeError, match=r"blocks must be a function .* got list_iterator"):
        fdr_threshold(iter([np.ones(3)]), 3, 0.1)


def test_statistics_that_change_between_passes_are_refused():
    passes = itertools.count()
    z = np.full(10, 2.4999)  # q k / N meets G within the bin of this value
    q = float(2 * norm.sf(2.4999)) * 1.0001

    def blocks():
        return [z if next(passes) == 0 else z[:5]]

    with pytest.raises(ValueError, match="must give the same statistics at every call"):
        fdr_threshold(blocks, 10, q)


@pytest.mark.parametrize("q", [0, 1, 10, np.nan])
def test_a_rate_outside_the_unit_interval_is_refused(q):
    with pytest.raises(ValueError, match="q must be a finite number in"):
        fdr_threshold(lambda: [np.ones(3)], 3, q)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be"):
        fdr_threshold(lambda: [np.ones(3)], 3, 0.1, method="holm")
    with pytest.raises(ValueError, match="method must be"):
        adjust_pvalues([0.1], method="liu")


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=50).map(np.array)


@given(p=p_values, method=st.sampled_from(["bh", "by"]))
def test_adjusted_p_values_are_those_of_statsmodels(p, method):
    expected = multipletests(p, method=f"fdr_{method}")[1]
    np.testing.assert_array_equal(adjust_pvalues(p, method), expected)


@given(p=p_values)
def test_storey_scales_the_adjusted_p_values_by_pi0(p):
    adjusted = adjust_pvalues(p, "storey")
    np.testing.assert_allclose(adjusted, storey_pi0(p) * adjust_pvalues(p), rtol=1e-14)


def test_adjusted_p_values_keep_their_shape_and_the_input_stays():
    p = np.array([[0.01, 0.04], [0.02, 0.9]])
    before = p.copy()
    assert adjust_pvalues(p, "storey").shape == (2, 2)
    np.testing.assert_array_equal(p, before)
    assert adjust_pvalues([]).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_a_value_that_is_no_p_value_is_refused(bad):
    with pytest.raises(ValueError, match=r"p_values must lie in \[0, 1\], got"):
        adjust_pvalues([0.5, bad])


@pytest.mark.parametrize("method", ["bh", "liu"])
def test_a_statistic_exactly_on_the_line_reaches_the_threshold(method):
    # With one test the line is q itself; the quantile of its own p-value may round to either side.
    for z in np.random.default_rng(4).uniform(1, 6, size=300):
        found = threshold_of(np.array([z]), float(2 * norm.sf(z)), method, n_blocks=1)
        assert found.n_rejected == 1
        assert z >= found.threshold
