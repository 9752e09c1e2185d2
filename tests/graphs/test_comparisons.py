"""Comparisons, ranks and goodness of fit: closed forms, and the promised rates by simulation."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import norm

from statml.datasets import load_sampson, make_signed_network
from statml.graphs import SignedBetaModel
from statml.graphs.covariance import StatusCovariance
from statml.graphs.displays import compact_letters
from statml.graphs.ranks import rank_intervals
from statml.inference import adjust_pvalues


@pytest.fixture(scope="module")
def monks():
    return SignedBetaModel().fit(load_sampson())


def test_a_comparison_is_the_difference_with_independent_errors(monks):
    c = monks.compare("Boniface", "Basil", level=0.9)
    table = monks.tidy().set_index("term")
    one, other = table.loc["in[Boniface]"], table.loc["in[Basil]"]
    assert c.estimate == pytest.approx(one["estimate"] - other["estimate"])
    assert c.std_error == pytest.approx(np.hypot(one["std_error"], other["std_error"]))
    assert c.conf_high - c.conf_low == pytest.approx(2 * norm.ppf(0.95) * c.std_error)
    assert c.p_value == pytest.approx(2 * norm.sf(c.estimate / c.std_error))
    assert monks.compare("Basil", "Boniface").estimate == pytest.approx(-c.estimate)


@pytest.mark.parametrize("method", ["bh", "by", "storey"])
@pytest.mark.parametrize("side", ["in", "out"])
def test_all_pairs_are_rejected_as_by_adjusted_p_values(monks, method, side):
    names = monks.node_names_
    pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    p = np.array([monks.compare(a, b, side=side).p_value for a, b in pairs])
    rejected = {
        frozenset(x) for x, own in zip(pairs, adjust_pvalues(p, method) <= 0.1, strict=True) if own
    }
    result = monks.compare_many(side=side, q=0.1, method=method)
    assert {frozenset(x) for x in result.table[["higher", "lower"]].to_numpy()} == rejected
    assert result.n_rejected == len(rejected)
    assert result.n_pairs == 153


def test_a_rejection_says_which_node_is_higher(monks):
    result = monks.compare_many(q=0.1)
    status = dict(zip(monks.node_names_, monks.in_status_, strict=True))
    for row in result.table.itertuples():
        assert status[row.higher] - status[row.lower] == pytest.approx(row.estimate)
        assert row.statistic >= result.threshold
    plain = monks.compare_many(q=0.1, directional=False).table
    assert list(plain.columns[:2]) == ["i", "j"]
    assert (plain["statistic"] < 0).any()
    assert len(plain) == len(result.table)


def test_one_node_against_the_rest_and_given_pairs(monks):
    rest = monks.compare_many("vs:Basil", q=0.1)
    assert rest.n_pairs == 17
    assert set(rest.table["lower"]) == {"Basil"}
    pairs = [("Basil", "Bonaventure"), ("John", "Mark")]
    given = monks.compare_many(pairs, q=0.1)
    assert given.n_pairs == 2
    assert given.table[["higher", "lower"]].to_numpy().tolist() == [["Bonaventure", "Basil"]]
    assert monks.compare_many(pd.DataFrame(pairs), q=0.1).n_rejected == 1


def test_numbered_nodes_can_be_named_after_vs():
    data = make_signed_network(30, 0.8, 1.0, 1.0, random_state=0)
    fit = SignedBetaModel(l2=1e-4).fit(data.adjacency)
    table = fit.compare_many("vs:7", q=0.2).table
    assert ((table["higher"] == 7) | (table["lower"] == 7)).all()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("every", 'must be "all", "vs:NODE"'),
        ("vs:Nobody", "Nobody"),
        ([("Basil", "Basil")], "node with itself"),
        ([("Basil", "John"), ("John", "Basil")], "same pair twice"),
        ([("Basil", "John", "Mark")], r"shape \(n_pairs, 2\)"),
        ([("Basil", "Nobody")], "Nobody is not among"),
    ],
)
def test_unusable_pairs_are_refused(monks, pairs, message):
    with pytest.raises(ValueError, match=message):
        monks.compare_many(pairs)


def test_unusable_rates_are_refused(monks):
    with pytest.raises(ValueError, match="q must be"):
        monks.compare_many(q=1.5)
    with pytest.raises(ValueError, match="method must be"):
        monks.compare_many(method="bonferroni")
    with pytest.raises(ValueError, match="k must be"):
        monks.top_k(0)
    with pytest.raises(ValueError, match="k must be"):
        monks.top_k(19)


def test_pairs_are_visited_in_blocks_of_bounded_size(monkeypatch, monks):
    from statml.graphs import comparisons

    whole = monks.compare_many(q=0.1)
    monkeypatch.setattr(comparisons, "BLOCK_PAIRS", 40)
    sizes = [len(i) for i, _ in comparisons._AllPairs(18).blocks()]
    assert max(sizes) <= 40
    assert sum(sizes) == 153
    blocked = monks.compare_many(q=0.1)
    assert blocked.threshold == whole.threshold
    pd.testing.assert_frame_equal(blocked.table, whole.table)
    assert sum(len(t) for t in blocked.iter_rejected()) == whole.n_rejected


@pytest.mark.slow
def test_fifty_million_pairs_need_little_memory():
    import tracemalloc

    data = make_signed_network(10_000, 0.02, 1.0, 1.0, random_state=0)
    fit = SignedBetaModel("trinomial").fit(data.adjacency)
    tracemalloc.start()
    result = fit.compare_many(q=0.01, method="by")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.n_pairs == 10_000 * 9_999 // 2
    assert peak < 600e6  # 50 million doubles alone are 400 MB a column


# --- ranks ------------------------------------------------------------------------------------------


def test_ranks_follow_the_estimates_and_intervals_contain_them(monks):
    for simultaneous in (True, False):
        for side in ("in", "out"):
            table = monks.rank(side=side, simultaneous=simultaneous)
            assert (np.diff(table["estimate"]) <= 0).all()
            assert table["rank"].tolist() == list(range(1, 19))
            assert (table["rank_low"] <= table["rank"]).all()
            assert (table["rank"] <= table["rank_high"]).all()


def test_marginal_rank_intervals_lie_within_the_simultaneous_ones(monks):
    all_at_once, each = monks.rank(), monks.rank(simultaneous=False)
    assert (each["rank_low"] >= all_at_once["rank_low"]).all()
    assert (each["rank_high"] <= all_at_once["rank_high"]).all()


def test_well_separated_statuses_have_certain_ranks():
    covariance = StatusCovariance(np.full(6, 0.01))
    low, high = rank_intervals(np.array([5.0, 1, 3, 0, 4, 2]), covariance, 0.95, True)
    assert low.tolist() == high.tolist() == [1, 5, 3, 6, 2, 4]


def test_simulated_and_bounded_critical_values_nearly_agree(monkeypatch):
    from statml.graphs import ranks

    rng = np.random.default_rng(0)
    estimate, covariance = rng.normal(0, 2, 60), StatusCovariance(rng.uniform(0.02, 0.1, 60))
    simulated = rank_intervals(estimate, covariance, 0.95, True)
    monkeypatch.setattr(ranks, "SIMULATE_UP_TO", 10)
    bounded = rank_intervals(estimate, covariance, 0.95, True)
    # The bound is valid without simulation, hence at least as wide, by a few ranks at the most.
    assert (bounded[0] <= simulated[0]).all()
    assert (bounded[1] >= simulated[1]).all()
    assert np.abs(bounded[0] - simulated[0]).max() <= 4


@pytest.mark.parametrize("simultaneous", [True, False])
def test_rank_intervals_cover_the_true_ranks(simultaneous):
    """Independent normal estimates with distinct truths; pooled over replicates."""
    rng = np.random.default_rng(1)
    truth = np.sort(rng.normal(0, 0.6, 15))[::-1]
    covariance = StatusCovariance(rng.uniform(0.02, 0.1, 15))
    reps, rank = 200, np.arange(1, 16)
    inside = np.empty((reps, 15), dtype=bool)
    for k in range(reps):
        estimate = truth + rng.normal(size=15) * np.sqrt(covariance.variance)
        low, high = rank_intervals(estimate, covariance, 0.9, simultaneous)
        inside[k] = (low <= rank) & (rank <= high)
    rate = inside.all(axis=1).mean() if simultaneous else inside.mean(axis=0).min()
    assert rate >= 0.9 - 3 * np.sqrt(0.9 * 0.1 / reps)


def test_the_top_set_holds_the_estimated_top(monks):
    table = monks.top_k(4)
    assert set(monks.rank()["node"].head(4)) <= set(table["node"])
    assert (table.loc[table["certain"], "rank_high"] <= 4).all()


# --- rates by simulation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "rho", "half", "estimator"),
    [
        (100, 0.9, 1, "one-step"), (100, 0.5, 1, "one-step"), (100, 0.5, 1, "ee"),
        (100, 0.9, 1, "mle"), (150, 0.3, 1, "one-step"),
    ],
)  # fmt: skip
def test_intervals_of_differences_cover_at_their_level(n, rho, half, estimator):
    reps, hits = 30, []
    for rep in range(reps):
        data = make_signed_network(n, rho, half, half, random_state=rep)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = SignedBetaModel(estimator=estimator).fit(data.adjacency)
        i, j = np.random.default_rng(rep).integers(0, n, (2, 300))
        i, j = i[i != j], j[i != j]
        error = (fit.in_status_[i] - fit.in_status_[j]) - (data.beta[i] - data.beta[j])
        z = error / np.hypot(fit.in_status_se_[i], fit.in_status_se_[j])
        hits.append(np.mean(np.abs(z[np.isfinite(z)]) <= norm.ppf(0.975)))
    # Pairs of one network share nodes; the error is that of means over networks, plus the 0.01 that
    # a finite sample is allowed to deviate.
    margin = 3 * np.std(hits, ddof=1) / np.sqrt(reps) + 0.01
    assert np.mean(hits) == pytest.approx(0.95, abs=margin)
    assert margin < 0.025


@pytest.mark.parametrize("cov", ["model", "sandwich", "dyad"])
def test_conditional_intervals_cover_under_any_density(cov):
    """Who meets whom is as uneven as one likes; only the signs follow the model."""
    reps, n, hits = 30, 100, []
    for rep in range(reps):
        rng = np.random.default_rng(rep)
        alpha, beta = rng.uniform(-1, 1, (2, n))
        activity = rng.lognormal(0, 0.7, (2, n))
        meet = rng.random((n, n)) < np.minimum(0.3 * np.outer(*activity), 0.9)
        np.fill_diagonal(meet, False)
        positive = rng.random((n, n)) < expit(alpha[:, None] + beta[None, :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = SignedBetaModel("conditional", cov=cov).fit(meet * np.where(positive, 1, -1))
        side = fit._side("in")
        i, j = rng.integers(0, len(side.nodes), (2, 300))
        i, j = i[i != j], j[i != j]
        difference, se = side.statistics(i, j)
        truth = beta[side.nodes[i]] - beta[side.nodes[j]]
        hits.append(np.mean(np.abs(difference - truth) <= norm.ppf(0.975) * se))
    # Squared residuals of a fit are too small, by a share of parameters to observations.
    margin = 3 * np.std(hits, ddof=1) / np.sqrt(reps) + (0.01 if cov == "model" else 0.02)
    assert np.mean(hits) == pytest.approx(0.95, abs=margin)
    assert margin < 0.04


@pytest.mark.parametrize("pairs", ["all", "vs:0"])
def test_false_discovery_rate_is_controlled(pairs):
    beta = np.repeat(np.arange(5) * 0.5, 20)
    reps, q = 25, 0.1
    false, wrong, power = np.zeros((3, reps))
    for rep in range(reps):
        data = make_signed_network(100, 0.8, 0.5, beta, random_state=rep)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = SignedBetaModel().fit(data.adjacency).compare_many(pairs, q=q).table
        truth = beta[table["higher"].to_numpy(int)] - beta[table["lower"].to_numpy(int)]
        false[rep] = (truth == 0).sum() / max(len(table), 1)
        wrong[rep] = (truth <= 0).sum() / max(len(table), 1)
        power[rep] = (truth > 0).sum()
    assert false.mean() <= q + 3 * false.std(ddof=1) / np.sqrt(reps)
    assert wrong.mean() <= q + 3 * wrong.std(ddof=1) / np.sqrt(reps)
    assert power.mean() > (1500 if pairs == "all" else 25)


def test_one_step_beats_the_estimating_equations_where_edges_are_sparse_and_statuses_vary():
    gain = []
    for rep in range(12):
        data = make_signed_network(150, 0.5, 2.0, 2.0, random_state=rep)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fits = [SignedBetaModel(estimator=e).fit(data.adjacency) for e in ("ee", "one-step")]
        finite = np.isfinite(fits[0].in_status_)
        squared = [np.mean((f.in_status_ - data.beta)[finite] ** 2) for f in fits]
        gain.append(squared[0] / squared[1])
    assert np.mean(gain) > 1.1


# --- goodness of fit --------------------------------------------------------------------------------


def test_reciprocity_is_a_standard_score_under_the_model_and_found_where_it_is():
    scores = []
    for rep in range(30):
        data = make_signed_network(60, 0.7, 0.7, 0.7, random_state=rep)
        fit = SignedBetaModel("trinomial").fit(data.adjacency)
        scores.append(fit.gof().tests.set_index("test").loc["reciprocity", "z"])
    assert np.std(scores, ddof=1) == pytest.approx(1, abs=3 / np.sqrt(2 * 29))
    assert np.mean(scores) == pytest.approx(0, abs=4 / np.sqrt(30))
    a = make_signed_network(60, 0.7, 0.3, 0.3, random_state=0).adjacency.toarray()
    upper = np.triu(a)
    mutual = upper + upper.T
    fit = SignedBetaModel("trinomial").fit(mutual)
    assert fit.gof().tests.set_index("test").loc["reciprocity", "z"] > 10


@pytest.mark.parametrize("family", ["sparse-logit", "conditional"])
def test_reciprocity_equals_the_sum_written_out(family):
    data = make_signed_network(25, 0.8, 0.5, 0.5, random_state=1)
    a = data.adjacency.toarray()
    fit = SignedBetaModel(family, estimator="ee", l2=1e-3).fit(a)
    x = fit.out_status_[:, None] + fit.in_status_[None, :]
    f = fit._engine.family
    r, v = a - f.mean(x, fit.rho_), f.variance(x, fit.rho_)
    both = np.triu(np.ones_like(a), 1).astype(bool)
    if family == "conditional":
        both &= (a != 0) & (a.T != 0)
    total, spread = (r * r.T)[both].sum(), (v * v.T)[both].sum()
    row = fit.gof().tests.set_index("test").loc["reciprocity"]
    assert row["statistic"] == pytest.approx(total)
    assert row["z"] == pytest.approx(total / np.sqrt(spread))


def test_the_two_layer_restriction_is_rejected_only_where_it_is_broken():
    data = make_signed_network(80, 0.8, 0.5, 0.5, random_state=2)
    assert SignedBetaModel().fit(data.adjacency).gof().tests["p_value"][1] > 0.01
    rng = np.random.default_rng(0)
    a = rng.choice([-1, 0, 1], p=[0.45, 0.1, 0.45], size=(80, 80))
    np.fill_diagonal(a, 0)
    row = SignedBetaModel().fit(a).gof().tests.set_index("test").loc["two layers: rho <= 1/2"]
    assert row["statistic"] > 1
    assert row["p_value"] < 1e-6


def test_bootstrap_p_values_are_fixed_by_the_seed_and_small_for_a_wrong_density():
    data = make_signed_network(60, 0.4, 0.5, 0.5, heterogeneity=1.0, random_state=3)
    fit = SignedBetaModel(l2=1e-3, random_state=0).fit(data.adjacency)
    first, second = fit.gof(n_boot=19), fit.gof(n_boot=19)
    pd.testing.assert_frame_equal(first.tests, second.tests)
    spread = first.tests.set_index("test").filter(like="spread", axis=0)
    assert (spread["p_value"] == 0.05).all()  # each observed value beyond all 19 simulated ones
    assert "small p-values" in str(first)


def test_expected_degrees_add_up(monks):
    degrees = monks.gof().degrees
    network = monks.network_
    for sign, name in ((1, "positive"), (-1, "negative")):
        out, into = network.degrees(sign)
        assert degrees[f"{name}_out_observed"].tolist() == out.tolist()
        assert degrees[f"{name}_in_observed"].tolist() == into.tolist()
    p = monks.predict_proba([("Basil", b) for b in monks.node_names_ if b != "Basil"])
    row = degrees.set_index("node").loc["Basil"]
    assert row["positive_out_expected"] == pytest.approx(p[:, 2].sum())
    assert row["negative_out_expected"] == pytest.approx(p[:, 0].sum())


# --- compact letters --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_items_share_a_letter_exactly_if_they_do_not_differ(seed):
    rng = np.random.default_rng(seed)
    different = np.triu(rng.random((9, 9)) < 0.4, 1)
    different |= different.T
    letters = compact_letters(different)
    for i in range(9):
        for j in range(9):
            if i != j:
                assert bool(set(letters[i]) & set(letters[j])) == (not different[i, j])
