"""Rules vote where their expressions match; the table of the rules counts what it says."""

import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest
from statml.adapters.loss_mixing.auxiliary import RuleVotes
from statml.adapters.loss_mixing.rule_set import (
    LabelMatrix,
    RuleSet,
    as_label_matrix,
    labels_without_ties,
    rule_hits,
)

VOTES = arrays(
    np.int64, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.integers(-1, 3)
)


def _dense(votes):
    return LabelMatrix.from_dense(votes, classes=[0, 1, 2, 3])


def test_rules_vote_where_their_expression_is_found():
    rules = RuleSet([(1, r"\bfree\b"), (0, re.compile("THANKS", re.IGNORECASE)), (1, "prize")])
    votes = rules.apply(["free prize", "freedom, thanks", ""])
    np.testing.assert_array_equal(votes.toarray(), [[1, -1, 1], [-1, 0, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(votes.covered, [True, True, False])
    assert votes.names == [r"\bfree\b", "THANKS", "prize"]


@given(VOTES)
def test_votes_come_back_as_they_went_in(votes):
    np.testing.assert_array_equal(_dense(votes).toarray(), votes)


@given(VOTES)
def test_coverage_overlap_and_conflict_are_those_of_brute_force(votes):
    matrix = _dense(votes)
    given = [[v for v in row if v != -1] for row in votes.tolist()]
    assert matrix.coverage() == pytest.approx(np.mean([len(g) > 0 for g in given]))
    assert matrix.overlap() == pytest.approx(np.mean([len(g) > 1 for g in given]))
    assert matrix.conflict() == pytest.approx(np.mean([len(set(g)) > 1 for g in given]))
    table = matrix.summary()
    for j in range(votes.shape[1]):
        mine = [(row[j], g) for row, g in zip(votes.tolist(), given, strict=True) if row[j] != -1]
        n = len(votes)
        assert table["coverage"].iloc[j] == pytest.approx(len(mine) / n)
        assert table["overlap"].iloc[j] == pytest.approx(sum(len(g) > 1 for _, g in mine) / n)
        assert table["conflict"].iloc[j] == pytest.approx(sum(set(g) != {v} for v, g in mine) / n)


@given(VOTES, st.integers(0, 2**31))
def test_a_rule_is_right_in_a_share_of_the_records_that_it_voted_on(votes, seed):
    y = np.random.default_rng(seed).integers(-1, 4, size=len(votes))
    fired, correct = rule_hits(_dense(votes), y)
    for j, v in enumerate(votes.T):
        known = (v != -1) & (y != -1)
        assert fired[j] == known.sum()
        assert correct[j] == (v == y)[known].sum()


def test_the_accuracy_of_a_rule_has_wilsons_interval():
    rng = np.random.default_rng(0)
    votes = np.where(
        rng.random((60, 5)) < [0.0, 0.1, 0.4, 0.6, 1.0], rng.integers(2, size=(60, 5)), -1
    )
    y = np.where(rng.random(60) < 0.5, votes[:, 4], 1)
    table = _dense(votes).summary(y, level=0.9)
    assert table["fired"].iloc[0] == 0
    assert np.isnan(table["accuracy"].iloc[0])
    assert table[["conf_low", "conf_high"]].iloc[0].tolist() == [0, 1]
    for _, row in table.iloc[1:].iterrows():
        ci = binomtest(int(row["correct"]), int(row["fired"])).proportion_ci(0.9, method="wilson")
        assert row["accuracy"] == pytest.approx(row["correct"] / row["fired"])
        assert row[["conf_low", "conf_high"]].tolist() == pytest.approx([ci.low, ci.high])


def test_wilsons_interval_covers_the_accuracy_of_a_rule_as_often_as_it_says():
    rng = np.random.default_rng(1)
    replications, n, p = 4000, 60, 0.9  # one rule a replication, as columns of one matrix
    y = np.zeros(n, dtype=int)
    votes = np.where(rng.random((n, replications)) < p, 0, 1)
    table = _dense(votes).summary(y)
    covered = ((table["conf_low"] <= p) & (p <= table["conf_high"])).mean()
    exact = sum(  # the coverage of Wilson's interval at this n and p, which is discrete
        np.exp(_log_binomial(k, n, p))
        for k in range(n + 1)
        if binomtest(k, n).proportion_ci(0.95, method="wilson").low <= p
        and p <= binomtest(k, n).proportion_ci(0.95, method="wilson").high
    )
    assert abs(covered - exact) < 4 * np.sqrt(exact * (1 - exact) / replications)
    assert exact > 0.93


def _log_binomial(k, n, p):
    from scipy.stats import binom

    return binom.logpmf(k, n, p)


def test_rows_are_picked_and_rule_votes_take_a_label_matrix():
    votes = np.array([[0, 1], [-1, -1], [1, -1], [-1, 0]])
    matrix = _dense(votes)
    np.testing.assert_array_equal(matrix[[2, 0]].toarray(), votes[[2, 0]])
    np.testing.assert_array_equal(matrix[matrix.covered].toarray(), votes[[0, 2, 3]])
    block = RuleVotes(matrix).bind(4, np.arange(2))
    np.testing.assert_array_equal(block.mask[:, 0], matrix.covered)
    np.testing.assert_allclose(block.targets[0, 0], [0.5, 0.5])


def test_classes_can_be_more_than_those_voted_for():
    matrix = RuleSet([(2, "a"), (5, "b")]).apply(["a", "b"])
    wider = as_label_matrix(matrix, [0, 2, 5])
    np.testing.assert_array_equal(wider.toarray(), matrix.toarray())
    np.testing.assert_array_equal(wider.counts(), [[0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="votes hold 5"):
        as_label_matrix(matrix, [0, 2])


def test_a_tie_is_no_label():
    probs = np.array([[0.5, 0.5], [0.6, 0.4], [np.nan, np.nan], [0.2, 0.8]])
    assert labels_without_ties(probs, np.array([3, 7])).tolist() == [-1, 3, -1, 7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RuleSet([]), "at least one rule"),
        (lambda: RuleSet([(1, "(")]), "regex of rule 0"),
        (lambda: RuleSet([(-1, "a")]), "label of rule 0 must be a whole number >= 0"),
        (lambda: RuleSet([("spam", "a")]), "label of rule 0"),
        (lambda: RuleSet([(1, "a")], names=["a", "b"]), "names must name the 1 rules"),
        (lambda: RuleSet([(1, "a")], classes=[0, 2]), "votes hold 1"),
        (lambda: RuleSet([(1, "a")], classes=[1, 0]), "rising order"),
        (lambda: _dense([0, 1]), "a row a record"),
        (lambda: _dense([[0.5, 1]]), "whole numbers"),
        (lambda: _dense([[np.nan, 1]]), "whole numbers"),
        (lambda: _dense([[-2, 1]]), ">= 0 or -1"),
        (lambda: _dense([[7, 1]]), "votes hold 7"),
        (lambda: LabelMatrix.from_dense([[-1]]), "at least one vote"),
        (lambda: LabelMatrix([[3]], [0, 1]), "codes must be 1 to 2"),
        (lambda: _dense([[1]]).summary([0, 1]), "y must have one label for each of the 1"),
        (lambda: _dense([[1]]).summary([9]), "y holds 9"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_single_text_or_a_missing_one_is_refused():
    rules = RuleSet([(1, "a")])
    with pytest.raises(TypeError, match="a single one"):
        rules.apply("a text")
    with pytest.raises(TypeError, match="got float at 1"):
        rules.apply(["a", float("nan")])
    with pytest.raises(TypeError, match="pairs"):
        RuleSet(["ab", "c"])
