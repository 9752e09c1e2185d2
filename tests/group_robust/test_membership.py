"""Hard groups, soft groups, and what is refused of either."""

import numpy as np
import pandas as pd
import pytest

from statml.group_robust.membership import (
    HardGroups,
    SoftGroups,
    check_group_weights,
    encode_groups,
    refuse_empty,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_one_hot_memberships_are_hard_groups(rng):
    codes, weight = rng.integers(0, 3, 40), rng.random(40) + 0.5
    hard, soft = HardGroups(codes, weight, 3), SoftGroups(np.eye(3)[codes], weight)
    values, X, U = rng.normal(size=40), rng.normal(size=(40, 4)), rng.normal(size=(40, 2))
    q = np.array([0.5, 0.2, 0.3])
    order = hard.order
    np.testing.assert_allclose(hard.means(values[order]), soft.means(values), atol=1e-15)
    np.testing.assert_allclose(hard.row_weights(q), soft.row_weights(q)[order], atol=1e-15)
    np.testing.assert_allclose(
        hard.cross_means(X[order], U[order]), soft.cross_means(X, U), atol=1e-15
    )
    np.testing.assert_allclose(hard.effective_sizes(), soft.effective_sizes(), rtol=1e-12)
    np.testing.assert_allclose(
        hard.columns(np.array([2, 0])), soft.columns(np.array([2, 0]))[order], atol=1e-15
    )
    rows = np.arange(0, 40, 2)
    np.testing.assert_allclose(
        hard.take(rows).means(values[order][rows]),
        soft.take(order[rows]).means(values[order][rows]),
        atol=1e-15,
    )


def test_mass_weighted_mean_of_soft_group_losses_is_the_mean_loss(rng):
    membership = rng.dirichlet(np.ones(4), 50)  # memberships of a row sum to one
    soft, losses = SoftGroups(membership, np.ones(50)), rng.random(50)
    means = soft.means(losses)
    assert soft.mass @ means / soft.mass.sum() == pytest.approx(losses.mean(), abs=1e-15)
    assert means.max() >= losses.mean()


def test_rows_of_weight_zero_are_left_out(rng):
    codes, weight = np.array([0, 1, 0, 1]), np.array([1.0, 0.0, 2.0, 3.0])
    groups = HardGroups(codes, weight, 2)
    assert groups.order.tolist() == [0, 2, 3]
    assert groups.sizes.tolist() == [2, 1]
    assert groups.means(np.array([1.0, 4.0, 7.0])).tolist() == [3.0, 7.0]
    assert SoftGroups(np.eye(2)[codes], weight).order.tolist() == [0, 2, 3]


def test_effective_size_of_equal_weights_is_the_size():
    groups = HardGroups(np.array([0, 0, 0, 1]), np.full(4, 2.5), 2)
    np.testing.assert_allclose(groups.effective_sizes(), [3, 1], rtol=1e-15)


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (["b", "a", "b"], ["a", "b"]),
        ([True, False, True], [False, True]),
        (pd.Series(["b", "a", "b"], dtype="category"), ["a", "b"]),
        ([[2], [1], [2]], [1, 2]),
        ([("x"), 1, ("x")], ["1", "x"]),
    ],
)
def test_labels_of_any_kind_are_taken(given, labels):
    found, codes = encode_groups(given, 3)
    assert found.tolist() == labels
    assert codes.tolist() == [1, 0, 1]


def test_labels_without_an_order_come_in_that_of_their_appearance():
    labels, codes = encode_groups(np.array(["x", 1, "x"], dtype=object), 3)
    assert labels.tolist() == ["x", 1]
    assert codes.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "b"], r"groups must hold one label for each of the 3 rows of X, got shape \(2,\)"),
        (np.ones((3, 2)), r"got shape \(3, 2\) \(memberships in several groups go into"),
        (["a", None, "b"], "groups must not hold missing labels, got 1"),
        ([1.0, np.nan, np.nan], "groups must not hold missing labels, got 2"),
    ],
)
def test_bad_labels_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        encode_groups(np.array(given, dtype=object) if None in given else given, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones(3), r"group_weights must have shape \(3, m\), one row for each row of X"),
        (np.ones((2, 2)), r"got \(2, 2\)"),
        (np.ones((3, 0)), r"got \(3, 0\)"),
        (-np.ones((3, 2)), "finite memberships >= 0"),
        (np.full((3, 2), np.nan), "finite memberships >= 0"),
    ],
)
def test_bad_memberships_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        check_group_weights(given, 3)


def test_columns_name_soft_groups():
    labels, membership = check_group_weights(pd.DataFrame({"young": [1, 0], "poor": [1, 1]}), 2)
    assert labels.tolist() == ["young", "poor"]
    assert membership.tolist() == [[1, 1], [0, 1]]


def test_an_empty_group_is_named():
    groups = SoftGroups(np.array([[1.0, 0.0], [1.0, 0.0]]), np.ones(2))
    with pytest.raises(ValueError, match="1 of 2 are empty: 'poor'"):
        refuse_empty(groups, np.array(["young", "poor"]))
