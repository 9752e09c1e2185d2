import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from statml._validation import (
    as_generator,
    as_seed_sequence,
    check_choice,
    check_finite,
    check_integer,
    check_labels,
    check_level,
    check_magnitude,
    check_number,
    check_sequence,
)


@pytest.mark.parametrize("level", [0.5, np.float32(0.5), np.float64(0.5)])
def test_level_comes_back_as_a_python_float(level):
    assert type(check_level(level)) is float
    assert check_level(level) == 0.5


@pytest.mark.parametrize("level", [0, 1, -0.1, float("nan"), float("inf"), 100])
def test_level_outside_the_unit_interval_is_refused(level):
    with pytest.raises(ValueError, match=r"level must be a number strictly between 0 and 1, got"):
        check_level(level)


@pytest.mark.parametrize("level", [95, np.int64(95)])
def test_level_in_percent_is_refused_with_a_suggestion(level):
    with pytest.raises(ValueError, match=r"got 95 \(did you mean 0\.95\?\)$"):
        check_level(level)


@pytest.mark.parametrize("level", ["0.95", None, True, [0.95], 1j])
def test_level_of_a_wrong_type_is_refused(level):
    with pytest.raises(TypeError, match="level must be a number"):
        check_level(level)


def test_number_on_a_closed_bound_passes_and_on_an_open_one_does_not():
    assert check_number("rho", 1, 0, 1) == 1.0
    with pytest.raises(ValueError, match=r"rho must be a finite number in \[0, 1\), got 1$"):
        check_number("rho", 1, 0, 1, high_open=True)
    with pytest.raises(ValueError, match=r"rho must be a finite number in \(0, 1\], got 0\.0$"):
        check_number("rho", 0.0, 0, 1, low_open=True)


@pytest.mark.parametrize(
    ("bounds", "taken"),
    [
        ({}, "a finite number,"),
        ({"low": 0}, "a finite number >= 0,"),
        ({"low": 0, "low_open": True}, "a finite number > 0,"),
        ({"high": 2}, "a finite number <= 2,"),
        ({"high": 2, "high_open": True}, "a finite number < 2,"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_number_that_is_not_finite_is_refused_naming_what_is_taken(bounds, taken, value):
    with pytest.raises(ValueError, match=f"tol must be {taken} got {value}"):
        check_number("tol", value, **bounds)


@pytest.mark.parametrize("value", ["1", None, False, np.True_, np.array([1.0])])
def test_number_of_a_wrong_type_is_refused(value):
    with pytest.raises(TypeError, match="tol must be a finite number"):
        check_number("tol", value)


def test_integer_comes_back_as_a_python_int_within_its_bounds():
    assert type(check_integer("n", np.int32(3), low=3, high=3)) is int
    with pytest.raises(ValueError, match="n must be an integer >= 3, got 2"):
        check_integer("n", np.int64(2), low=3)
    with pytest.raises(ValueError, match=r"n must be an integer in \[1, 3\], got 4"):
        check_integer("n", 4, low=1, high=3)


@pytest.mark.parametrize("value", [3.0, "3", True, np.True_, None])
def test_integer_of_a_wrong_type_is_refused(value):
    with pytest.raises(TypeError, match="n must be an integer, got"):
        check_integer("n", value)


def test_choice_names_all_that_is_taken():
    assert check_choice("method", "bh", ("bh", "by")) == "bh"
    with pytest.raises(ValueError, match='method must be "a", "b" or "c", got \'d\''):
        check_choice("method", "d", ("a", "b", "c"))
    with pytest.raises(ValueError, match="rho must be \"auto\", got 'x'"):
        check_choice("rho", "x", ("auto",))
    with pytest.raises(TypeError, match='method must be "a" or "b", got None'):
        check_choice("method", None, ("a", "b"))


def test_a_generator_is_used_as_it_is():
    rng = np.random.default_rng(0)
    assert as_generator(rng) is rng


@pytest.mark.parametrize(
    "make",
    [
        lambda: 7,
        lambda: np.int64(7),
        lambda: np.random.SeedSequence(7),
        lambda: np.random.RandomState(7),
        lambda: np.random.default_rng(7),
    ],
    ids=["int", "numpy int", "SeedSequence", "RandomState", "Generator"],
)
def test_equal_random_states_give_equal_draws(make):
    assert as_generator(make()).random() == as_generator(make()).random()
    first, second = (as_seed_sequence(make()).generate_state(4) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_an_integer_gives_the_same_generator_as_numpy():
    assert as_generator(7).random() == np.random.default_rng(7).random()


def test_none_gives_fresh_entropy():
    assert as_generator(None).random() != as_generator(None).random()


def test_a_used_random_state_gives_other_draws_the_second_time():
    state = np.random.RandomState(0)
    assert as_generator(state).random() != as_generator(state).random()


def test_a_seed_sequence_gives_the_same_children_however_often_it_was_spawned():
    seed = np.random.SeedSequence(3, spawn_key=(1,))
    seed.spawn(5)
    child = as_seed_sequence(seed).spawn(1)[0]
    assert child.spawn_key == (1, 0)
    assert seed.n_children_spawned == 5


@pytest.mark.parametrize("value", ["0", 0.0, True, [1, 2]])
def test_a_random_state_of_a_wrong_type_is_refused(value):
    with pytest.raises(TypeError, match="random_state must be None, an integer >= 0, or a numpy"):
        as_generator(value)


def test_a_negative_random_state_is_refused():
    with pytest.raises(ValueError, match=r"random_state must be .*, got -1"):
        as_generator(-1)


@pytest.mark.parametrize("make", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_numbers_whose_products_overflow_are_refused(make):
    fine = make(np.array([[0.0, -1e75], [1.0, 1e-300]]))
    assert check_magnitude("X", fine) is fine
    with pytest.raises(ValueError, match=r"X must hold numbers of at most 1e\+75 .* got -2e\+75"):
        check_magnitude("X", make(np.array([[0.0, -2e75], [1.0, 1e75]])))
    assert check_magnitude("X", make(np.zeros((0, 2)))).shape == (0, 2)


def test_missing_and_infinite_numbers_are_counted():
    assert check_finite("y", np.array([1.0, 2.0])).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="y holds NaN or infinite values, 2 of 3"):
        check_finite("y", np.array([np.nan, 0.0, -np.inf]))


@pytest.mark.parametrize(
    "labels",
    [
        [0, None, 1],
        [0.0, np.nan, 1.0],
        np.array(["a", None, "b"], dtype=object),
        pd.Series(["a", pd.NA, "b"]),
        pd.Series(pd.to_datetime(["2020-01-01", None, "2020-01-02"])),
    ],
)
def test_a_missing_label_is_refused_whatever_stands_for_it(labels):
    with pytest.raises(ValueError, match="y must hold a label for every record, got .* for 1 of 3"):
        check_labels("y", labels)


def test_labels_that_cannot_be_sorted_are_refused_by_their_types():
    with pytest.raises(TypeError, match="y must hold labels of one type, got int, str"):
        check_labels("y", np.array([1, "a"], dtype=object))


def test_labels_of_any_one_type_come_back_flat():
    assert check_labels("y", [["b"], ["a"]]).tolist() == ["b", "a"]
    assert check_labels("y", np.array([2, 1], dtype=object)).tolist() == [2, 1]


@pytest.mark.parametrize("values", [64, None, "abc", {"a": 1}, np.nan])
def test_what_is_no_sequence_is_refused_by_name(values):
    with pytest.raises(TypeError, match="hidden must be a sequence of integers, got"):
        check_sequence("hidden", values, "integers")


def test_any_sequence_comes_back_as_a_list():
    for values in ((1, 2), [1, 2], np.array([1, 2]), pd.Series([1, 2]), (i for i in (1, 2))):
        assert check_sequence("hidden", values, "integers") == [1, 2]
