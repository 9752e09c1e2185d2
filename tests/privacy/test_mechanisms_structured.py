"""Mechanisms that are no plain noise on a total: local, exponential, objective perturbation, composed, post-processed, custom."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import dblquad
from scipy.special import expit

from statml.privacy import mechanisms
from statml.privacy.protocols import UnknownSensitivity


class Table:
    """Records are categories, the statistic is one-hot."""

    def __init__(self, n_categories):
        self.n_categories = n_categories
        self.statistic_names = [f"n{k}" for k in range(n_categories)]

    def statistic(self, x):
        return np.eye(self.n_categories)[np.asarray(x, dtype=int)[:, 0]]


class Values:
    """Records are their own statistic."""

    def __init__(self, *names):
        self.statistic_names = list(names)

    def statistic(self, x):
        return np.asarray(x, dtype=float)


# --- randomized response ----------------------------------------------------------------------------

Q = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])


def test_randomized_response_is_a_product_over_records():
    mechanism, x = mechanisms.RandomizedResponse(Q), np.array([[0], [1], [1], [0]])
    release = mechanism.check_release([0, 2, 1, 1], ["a", "b"])
    t = mechanism.statistic(Table(2), x, release)
    assert t[:, 0] == pytest.approx(np.log([0.7, 0.3, 0.6, 0.2]))
    assert mechanism.log_density(release, t.sum(axis=0)) == pytest.approx(
        np.log(0.7 * 0.3 * 0.6 * 0.2)
    )
    answers = itertools.product(range(3), repeat=4)
    total = sum(
        np.exp(mechanism.log_density(s, mechanism.statistic(Table(2), x, np.array(s)).sum(axis=0)))
        for s in answers
    )
    assert total == pytest.approx(1)


def test_categories_are_read_from_one_hot_columns_or_from_one_column():
    mechanism = mechanisms.RandomizedResponse(epsilon=1.0, n_categories=3)
    x = np.array([[2], [0], [1]])
    assert mechanism.categories(Table(3), x).tolist() == [2, 0, 1]
    assert mechanism.categories(Values("answer"), x).tolist() == [2, 0, 1]
    for model, records in (
        (Values("answer"), [[0.5]]),
        (Values("answer"), [[3.0]]),
        (Values("a", "b"), [[1.0, 0.0]]),
        (Values("a", "b", "c"), [[1.0, 1.0, 0.0]]),
    ):
        with pytest.raises(ValueError, match="one-hot with 3 columns"):
            mechanism.categories(model, np.array(records))


@given(epsilon=st.floats(0.05, 8), n_categories=st.integers(2, 7))
def test_k_ary_randomized_response_has_the_privacy_loss_that_was_asked_for(epsilon, n_categories):
    mechanism = mechanisms.RandomizedResponse.from_epsilon(epsilon, n_categories)
    assert mechanism.Q.sum(axis=1) == pytest.approx(np.ones(n_categories))
    assert mechanism.epsilon() == pytest.approx(epsilon)
    ratios = np.log(mechanism.Q[:, None, :] / mechanism.Q[None, :, :])
    assert np.abs(ratios).max() <= epsilon * (1 + 1e-9)
    assert mechanism.acceptance_bound() == pytest.approx(np.exp(-epsilon))
    average = mechanism.acceptance_bound(average=True)
    assert average >= 2 / (1 + np.exp(epsilon)) * (1 - 1e-12)
    if n_categories == 2:  # then there is equality
        assert average == pytest.approx(2 / (1 + np.exp(epsilon)))


def test_a_survey_with_answers_that_give_the_truth_away_has_no_finite_privacy_loss():
    assert mechanisms.RandomizedResponse([[1.0, 0.0], [0.5, 0.5]]).epsilon() == np.inf
    assert mechanisms.RandomizedResponse([[1.0, 0.0], [0.5, 0.5]]).acceptance_bound() == 0
    unused = mechanisms.RandomizedResponse([[0.75, 0.25, 0], [0.25, 0.75, 0]])
    assert unused.epsilon() == pytest.approx(np.log(3))


def test_randomized_answers_have_the_probabilities_of_the_matrix():
    truth = np.repeat([0, 1], 5000)
    mechanism = mechanisms.RandomizedResponse(Q)
    p_values = []
    for seed in range(8):
        answers = mechanism.randomise(truth, np.random.default_rng(seed)).astype(int)
        observed = np.bincount(truth * 3 + answers, minlength=6)
        p_values += [
            scipy.stats.chisquare(observed[:3], 5000 * Q[0]).pvalue,
            scipy.stats.chisquare(observed[3:], 5000 * Q[1]).pvalue,
        ]
    assert scipy.stats.combine_pvalues(p_values).pvalue > 1e-4


def test_counts_of_answers_are_taken_as_answers_in_order():
    mechanism = mechanisms.RandomizedResponse(Q, counts=True)
    rng = np.random.default_rng(0)
    x = np.array([[0], [1], [1], [0], [1]])
    counts = mechanism.simulate(Table(2), x, rng)
    assert counts.shape == (3,)
    assert counts.sum() == 5
    answers = mechanism.check_release([1, 0, 4], ["a", "b"], n_records=5)
    assert answers.tolist() == [0, 2, 2, 2, 2]
    named = mechanism.check_release({"answer 0": 1, "answer 1": 0, "answer 2": 4}, ["a", "b"])
    assert named.tolist() == answers.tolist()


def test_answers_of_another_kind_or_number_are_refused():
    mechanism = mechanisms.RandomizedResponse(Q)
    for bad in ([0, 3], [0, 0.5], [0, -1], [0, np.nan]):
        with pytest.raises(ValueError, match=r"each one of 0, ..., 2; got release\[1\]"):
            mechanism.check_release(bad, ["a", "b"])
    with pytest.raises(ValueError, match="release holds 3 answers, but n_records is 4"):
        mechanism.check_release([0, 1, 2], ["a", "b"], n_records=4)
    with pytest.raises(ValueError, match="holds 2 answers, but there are 3 records"):
        mechanism.statistic(Table(2), np.zeros((3, 1)), np.zeros(2))
    with pytest.raises(ValueError, match="3 entries, in this order: answer 0, answer 1, answer 2"):
        mechanisms.RandomizedResponse(Q, counts=True).check_release([2, 3], ["a", "b"])
    with pytest.raises(ValueError, match="integers >= 0"):
        mechanisms.RandomizedResponse(Q, counts=True).check_release([2, 3, -1], ["a", "b"])


def test_matrices_that_are_no_probabilities_and_budgets_that_are_none_are_refused():
    for bad in (
        [[0.5, 0.6], [0.5, 0.5]],
        [[1.5, -0.5], [0.5, 0.5]],
        [0.5, 0.5],
        [[1.0], [1.0]],
        [[np.nan, 1], [0, 1]],
    ):
        with pytest.raises(ValueError, match="Q must be a matrix of probabilities"):
            mechanisms.RandomizedResponse(bad)
    for epsilon in (0, -1, np.nan):
        with pytest.raises(ValueError, match="epsilon must be"):
            mechanisms.RandomizedResponse(epsilon=epsilon, n_categories=2)
    for arguments in ({}, {"epsilon": 1.0}, {"Q": Q, "epsilon": 1.0, "n_categories": 2}):
        with pytest.raises(ValueError, match="either Q, or epsilon and n_categories"):
            mechanisms.RandomizedResponse(**arguments)


# --- the exponential mechanism ----------------------------------------------------------------------


def test_the_exponential_mechanism_keeps_the_normaliser_that_depends_on_the_data():
    mechanism = mechanisms.FiniteExponential(["a", "b", "c"], scale=4.0)
    totals = np.array([[1.0, 5.0, 2.0], [800.0, 0.0, 1.0]])
    p = np.exp([mechanism.log_density(np.array([r]), totals) for r in range(3)])
    assert p.sum(axis=0) == pytest.approx([1, 1])
    assert p[:, 0] == pytest.approx(np.exp(totals[0] / 4) / np.exp(totals[0] / 4).sum())


@given(
    epsilon=st.floats(0.05, 8),
    totals=st.lists(st.floats(-50, 50), min_size=4, max_size=4),
    move=st.lists(st.floats(-1, 1), min_size=4, max_size=4),
)
def test_the_exponential_mechanism_has_its_privacy_loss(epsilon, totals, move):
    mechanism = mechanisms.FiniteExponential.from_epsilon(range(4), epsilon, sensitivity=1)
    assert mechanism.epsilon() == pytest.approx(epsilon)
    for r in range(4):
        s, S = np.array([float(r)]), np.array(totals)
        assert abs(mechanism.log_ratio(s, S, S + move)) <= epsilon * (1 + 1e-9)


def test_the_exponential_mechanism_draws_from_its_probabilities():
    mechanism, totals = mechanisms.FiniteExponential("abc", scale=2.0), np.array([1.0, 3.0, 2.0])
    rng = np.random.default_rng(1)
    drawn = np.bincount(
        [int(mechanism.randomise(totals, rng)[0]) for _ in range(8000)], minlength=3
    )
    p = np.exp([mechanism.log_density([r], totals) for r in range(3)])
    assert scipy.stats.chisquare(drawn, 8000 * p).pvalue > 1e-4


def test_utilities_may_be_a_function_of_the_records():
    candidates = np.array([0.0, 1.0, 2.0])
    mechanism = mechanisms.FiniteExponential(
        candidates.tolist(), scale=2.0, utility=lambda x: -np.abs(x - candidates)
    )
    x = np.array([[0.9], [1.2], [1.4]])
    t = mechanism.statistic(Values("value"), x, None)
    assert t.shape == (3, 3)
    assert t[:, 1].sum() == pytest.approx(-0.7)
    assert mechanism.simulate(Values("value"), x, np.random.default_rng(0))[0] in (0, 1, 2)
    assert mechanism.check_release(2.0, ["value"]).tolist() == [2]
    with pytest.raises(ValueError, match="there are 2 outputs, but the utilities have shape"):
        mechanisms.FiniteExponential("ab", 1.0).statistic(Values("value"), x, None)


def test_an_output_that_was_not_possible_is_refused():
    mechanism = mechanisms.FiniteExponential(["red", "green"], 1.0)
    for bad in ("blue", np.nan, 7, ["red", "green"]):
        with pytest.raises(ValueError, match="release must be one of"):
            mechanism.check_release(bad, ["red", "green"])
    with pytest.raises(ValueError, match="scale must be a finite number > 0"):
        mechanisms.FiniteExponential(["red", "green"], 0)
    with pytest.raises(ValueError, match="at least two"):
        mechanisms.FiniteExponential(["red"], 1.0)
    with pytest.raises(UnknownSensitivity):
        mechanism.epsilon()


# --- objective perturbation -------------------------------------------------------------------------


def logistic_records(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-0.7, 0.7, (n, 2))
    return np.column_stack([X, rng.random(n) < expit(X @ [2.0, -1.0])])


@pytest.mark.parametrize("noise", ["gamma", "gaussian"])
def test_the_density_of_perturbed_coefficients_integrates_to_one(noise):
    """The strongest check there is of tilt, Jacobian and normaliser together."""
    x = logistic_records(12, 0)
    mechanism = mechanisms.ObjectivePerturbation(2, scale=0.8, l2=0.3, noise=noise)

    def density(a, b):
        s = np.array([a, b])
        return np.exp(mechanism.log_density(s, mechanism.statistic(None, x, s).sum(axis=0)))

    mass, error = dblquad(density, -12, 12, -12, 12, epsabs=1e-3, epsrel=1e-3)
    assert mass == pytest.approx(1, abs=3e-3 + error)


@pytest.mark.parametrize("noise", ["gamma", "gaussian"])
def test_perturbed_coefficients_solve_the_tilted_equations_and_the_tilt_has_its_law(noise):
    x = logistic_records(40, 1)
    mechanism = mechanisms.ObjectivePerturbation(2, scale=1.5, l2=0.05, noise=noise)
    norms, angles = [], []
    for seed in range(400):
        s = mechanism.randomise(x, np.random.default_rng(seed))
        b = -mechanism.statistic(None, x, s).sum(axis=0)[:2]
        norms.append(np.linalg.norm(b))
        angles.append(np.arctan2(*b))
    law = scipy.stats.gamma(2, scale=1.5) if noise == "gamma" else scipy.stats.rayleigh(scale=1.5)
    assert scipy.stats.kstest(norms, law.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(angles, scipy.stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


def test_a_nearly_unperturbed_objective_gives_ridge_logistic_regression():
    x = logistic_records(60, 2)
    mechanism = mechanisms.ObjectivePerturbation(2, scale=1e-9, l2=0.1)
    s = mechanism.simulate(None, x, np.random.default_rng(0))

    def objective(w):
        eta = x[:, :2] @ w
        return (np.logaddexp(0, eta) - x[:, 2] * eta).sum() + 0.5 * len(x) * 0.1 * w @ w

    best = scipy.optimize.minimize(objective, np.zeros(2), tol=1e-12)
    assert s == pytest.approx(best.x, abs=1e-5)


@given(seed=st.integers(0, 1000), scale=st.floats(0.3, 10), l2=st.floats(0.01, 1))
def test_the_privacy_loss_of_objective_perturbation_bounds_every_ratio_of_neighbours(
    seed, scale, l2
):
    x = logistic_records(15, seed)
    mechanism = mechanisms.ObjectivePerturbation(
        2, scale, l2, gradient_bound=1, curvature_bound=0.25, n_records=15
    )
    rng = np.random.default_rng(seed)
    s = mechanism.randomise(x, rng)
    t = mechanism.statistic(None, x, s)
    replaced = (
        t.sum(axis=0)
        - t
        + mechanism.statistic(None, rng.permutation(logistic_records(15, seed + 1)), s)
    )
    ratio = mechanism.log_ratio(s, t.sum(axis=0), replaced)
    assert np.abs(ratio).max() <= mechanism.epsilon()


def test_a_loss_may_be_two_functions_and_the_curators_preparation_another():
    def gradient(s, rows):  # pseudo-Huber regression
        r = rows[:, :-1] @ s - rows[:, -1]
        return (r / np.sqrt(1 + r**2))[:, None] * rows[:, :-1]

    def hessian(s, rows):
        r = rows[:, :-1] @ s - rows[:, -1]
        X = rows[:, :-1]
        return ((1 + r**2) ** -1.5)[:, None, None] * X[:, :, None] * X[:, None, :]

    def clipped(x):
        return np.clip(x, -1, 1)

    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (30, 3))
    mechanism = mechanisms.ObjectivePerturbation(2, 1.0, 0.1, (gradient, hessian), design=clipped)
    s = mechanism.randomise(x, rng)
    G, step = mechanism.statistic(None, x, s)[:, :2].sum(axis=0), 1e-5
    up = mechanism.statistic(None, x, s + np.array([step, 0]))[:, :2].sum(axis=0)
    hessian_column = mechanism.statistic(None, x, s)[:, 2:4].sum(axis=0)
    assert (up - G) / step == pytest.approx(hessian_column, rel=1e-3)
    plain = mechanisms.ObjectivePerturbation(2, 1.0, 0.1, (gradient, hessian))
    assert mechanism.statistic(None, x, s) == pytest.approx(plain.statistic(None, clipped(x), s))


def test_objective_perturbation_refuses_what_it_cannot_take():
    mechanism = mechanisms.ObjectivePerturbation(2, 1.0, 0.1)
    with pytest.raises(ValueError, match=r"2 entries, in this order: coef\[0\], coef\[1\]"):
        mechanism.check_release([1, 2, 3], ["anything"])
    with pytest.raises(ValueError, match="is not a finite number"):
        mechanism.check_release([1, np.nan], ["anything"])
    with pytest.raises(UnknownSensitivity, match="gradient_bound"):
        mechanism.epsilon()
    assert mechanism.acceptance_bound() == 0
    assert mechanisms.ObjectivePerturbation(2, 1.0, 0.1, noise="gaussian").epsilon() == np.inf
    for arguments in ({"scale": 0, "l2": 1}, {"scale": 1, "l2": 0}):
        with pytest.raises(ValueError, match="must be a finite number > 0"):
            mechanisms.ObjectivePerturbation(2, **arguments)
    with pytest.raises(ValueError, match="loss must be"):
        mechanisms.ObjectivePerturbation(2, 1.0, 0.1, loss="hinge")
    with pytest.raises(
        ValueError, match=r"records must be 2 features and an answer, shape \(n, 3\)"
    ):
        mechanism.statistic(None, np.zeros((4, 5)), np.zeros(2))
    flat = mechanisms.ObjectivePerturbation(2, 1.0, 0.1, (lambda s, x: x, lambda s, x: x))
    with pytest.raises(ValueError, match="gradients and Hessians must have shapes"):
        flat.statistic(None, np.zeros((4, 2)), np.zeros(2))


# --- composition ------------------------------------------------------------------------------------


def test_composed_releases_stack_statistics_and_add_log_densities():
    parts = [
        mechanisms.Laplace(2.0),
        mechanisms.Gaussian([1.0, 3.0]),
        mechanisms.DiscreteLaplace(4),
    ]
    both = mechanisms.Composed(parts, columns=[[0], [0, 1], [2]])
    model, names = Values("a", "b", "c"), ["a", "b", "c"]
    x = np.array([[1.5, 2.0, 1], [0.5, 1.0, 3]])
    release = both.check_release([[2.5], {"b": 3.0, "a": 1.0}, [7]], names)
    assert release.tolist() == [2.5, 1, 3, 7]
    assert both.check_release(release, names).tolist() == release.tolist()
    t = both.statistic(model, x, release)
    assert t.tolist() == [[1.5, 1.5, 2, 1], [0.5, 0.5, 1, 3]]
    S = t.sum(axis=0)
    expected = (
        parts[0].log_density([2.5], [2.0])
        + parts[1].log_density([1, 3], [2.0, 3.0])
        + parts[2].log_density([7], [4.0])
    )
    assert both.log_density(release, S) == pytest.approx(expected)
    form = both.separable(3)
    move = S + np.array([0.5, 0.5, 1.0, 2.0])
    separable = [-(form.weight * np.abs(release - s) ** form.power).sum() for s in (S, move)]
    assert both.log_ratio(release, S, move) == pytest.approx(separable[1] - separable[0])
    assert both.simulate(model, x, np.random.default_rng(0)).shape == (4,)
    assert both.epsilon([1.0, 1.0, 2.0]) == np.inf
    assert mechanisms.Composed(parts[::2]).epsilon([1.0, 2.0]) == pytest.approx(1.0)


def test_a_survey_and_a_noisy_count_of_the_same_people_compose():
    survey, count = (
        mechanisms.RandomizedResponse(epsilon=1.0, n_categories=2),
        mechanisms.DiscreteLaplace(2),
    )
    both = mechanisms.Composed([survey, count], columns=[[0, 1], [1]])
    assert both.separable(2) is None
    x = np.array([[0], [1], [1]])
    release = both.check_release([[0, 1, 0], [2]], ["no", "yes"], n_records=3)
    S = both.statistic(Table(2), x, release).sum(axis=0)
    answer = mechanisms.RandomizedResponse(epsilon=1.0, n_categories=2).statistic(
        Table(2), x, release[:3]
    )
    assert both.log_density(release, S) == pytest.approx(
        answer.sum() + count.log_density([2], [2.0])
    )
    assert both.simulate(Table(2), x, np.random.default_rng(0)).shape == (4,)
    with pytest.raises(ValueError, match=r"use simulate\(model, x, rng\)"):
        both.randomise(S, np.random.default_rng(0))


def test_the_acceptance_bound_of_a_composition_is_the_better_of_two():
    exact, noisy = mechanisms.Gaussian.from_gdp(0.2, 1.0), mechanisms.Gaussian.from_gdp(0.3, 1.0)
    both = mechanisms.Composed([exact, noisy], columns=[[0], [0]])
    one_minus_sum = (
        1 - 2 * (0.5 - scipy.stats.norm.cdf(-0.1)) - 2 * (0.5 - scipy.stats.norm.cdf(-0.15))
    )
    assert both.acceptance_bound(average=True) == pytest.approx(one_minus_sum)
    assert both.acceptance_bound() == 0
    # and holds: the two together are 0.36-GDP
    assert one_minus_sum <= 2 * scipy.stats.norm.cdf(-0.5 * np.hypot(0.2, 0.3))
    pure = mechanisms.Laplace.from_epsilon(3.0, 1.0)
    twice = mechanisms.Composed([pure, pure], columns=[[0], [0]])
    assert twice.acceptance_bound(average=True) == pytest.approx(2 / (1 + np.exp(6.0)))


def test_compositions_refuse_what_does_not_fit():
    parts = [mechanisms.Laplace(2.0), mechanisms.DiscreteLaplace(4)]
    both = mechanisms.Composed(parts)
    with pytest.raises(
        ValueError, match=r"release 1 \(DiscreteLaplace\(scale=4\)\): .*not an integer"
    ):
        both.check_release([[2.5], [3.5]], ["a", "b"])
    with pytest.raises(ValueError, match="sequence of 2 releases"):
        both.check_release([[1.0], [2.0], [3.0]], ["a", "b"])
    with pytest.raises(ValueError, match="sequence of 2 releases"):
        both.check_release({"a": 1, "b": 2}, ["a", "b"])
    with pytest.raises(ValueError, match="1 entries, in this order: b"):
        both.check_release(np.array([1.0, 2.0, 3.0]), ["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        mechanisms.Composed([])
    with pytest.raises(TypeError, match=r"mechanisms\[1\] must be a Mechanism"):
        mechanisms.Composed([parts[0], 3])
    with pytest.raises(ValueError, match="columns must be given for each"):
        mechanisms.Composed(parts, columns=[[0]])
    with pytest.raises(ValueError, match="columns name statistic 1, but there are 1"):
        both.statistic(Values("a"), np.zeros((2, 1)), np.zeros(2))
    survey = mechanisms.RandomizedResponse(Q)
    with pytest.raises(ValueError, match="at most one"):
        mechanisms.Composed([survey, survey])


# --- post-processing --------------------------------------------------------------------------------

BASES = [
    mechanisms.Laplace(3.0),
    mechanisms.Gaussian(3.0),
    mechanisms.DiscreteLaplace(3.0),
    mechanisms.DiscreteGaussian(3.0),
]


@pytest.mark.parametrize("base", BASES, ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("total", [-4.0, 0.0, 2.0, 11.0])
def test_censored_laws_have_mass_one_and_the_mass_of_the_tail_at_their_bounds(base, total):
    mechanism, S = mechanisms.Censored(base, low=0, high=9), np.array([total])
    ends = [np.exp(mechanism.log_density(np.array([s]), S)) for s in (0.0, 9.0)]
    if base.discrete:
        inside = sum(np.exp(mechanism.log_density(np.array([float(s)]), S)) for s in range(1, 9))
    else:
        inside = scipy.integrate.quad(
            lambda s: np.exp(mechanism.log_density(np.array([s]), S)),
            1e-12, 9 - 1e-12, points=[np.clip(total, 0.1, 8.9)],
        )[0]  # fmt: skip
    assert sum(ends) + inside == pytest.approx(1, abs=1e-8)
    draws = np.array([mechanism.randomise(S, np.random.default_rng(k))[0] for k in range(2000)])
    for bound, p in zip((0, 9), ends, strict=True):
        assert scipy.stats.binomtest(int((draws == bound).sum()), 2000, p).pvalue > 1e-4


@pytest.mark.parametrize("base", BASES, ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("width", [1.0, 2.0, 5.0])
def test_rounded_laws_have_mass_one_and_are_what_rounding_gives(base, width):
    mechanism, S = mechanisms.Rounded(base, width), np.array([3.0])
    grid = width * np.arange(-120, 121)
    p = np.exp([mechanism.log_density(np.array([s]), S) for s in grid])
    assert p.sum() == pytest.approx(1, abs=1e-9)
    if base.discrete:  # all ties included
        k = np.arange(-400, 401)
        mass = np.exp(base.log_density(np.zeros(1), (3.0 - k)[:, None]))
        brute = [mass[np.rint(k / width) * width == s].sum() for s in grid]
        assert p == pytest.approx(np.array(brute), abs=1e-14)
    draws = [mechanism.randomise(S, np.random.default_rng(seed))[0] for seed in range(2000)]
    at = int(np.sum(np.array(draws) == 5 * (width == 5)))
    expected = p[np.flatnonzero(grid == 5 * (width == 5))[0]]
    assert scipy.stats.binomtest(at, 2000, expected).pvalue > 1e-4


@pytest.mark.parametrize("base", BASES, ids=lambda b: type(b).__name__)
def test_rounding_and_censoring_combine_in_either_order(base):
    S = np.array([1.0])
    first = mechanisms.Censored(mechanisms.Rounded(base, 2.0), low=0, high=8)
    second = mechanisms.Rounded(mechanisms.Censored(base, low=0, high=8), 2.0)
    for mechanism in (first, second):
        p = [np.exp(mechanism.log_density(np.array([s]), S)) for s in (0.0, 2, 4, 6, 8)]
        assert sum(p) == pytest.approx(1)
        draws = [mechanism.randomise(S, np.random.default_rng(seed))[0] for seed in range(1500)]
        observed = np.array([np.sum(np.array(draws) == s) for s in (0, 2, 4, 6, 8)])
        assert scipy.stats.chisquare(observed, 1500 * np.array(p)).pvalue > 1e-4


def test_post_processing_costs_no_privacy_and_keeps_the_acceptance_bounds():
    base = mechanisms.Laplace.from_epsilon(0.7, sensitivity=2)
    for mechanism in (mechanisms.Censored(base, low=0), mechanisms.Rounded(base, 10)):
        assert mechanism.epsilon() == pytest.approx(0.7)
        assert mechanism.acceptance_bound() == pytest.approx(np.exp(-0.7))
        assert mechanism.separable(1) is None
        for s in (0.0, 10.0, 50.0):
            totals = np.array([[-30.0], [0.3], [8.0], [80.0]])
            ratio = mechanism.log_ratio(np.array([s]), totals, totals + 2)
            assert np.abs(ratio).max() <= 0.7 * (1 + 1e-9)


def test_bounds_may_differ_between_statistics():
    mechanism = mechanisms.Censored(mechanisms.Laplace([1.0, 2.0]), low=[0, -np.inf], high=[10, 5])
    value = mechanism.log_density(np.array([0.0, 5.0]), np.array([1.0, 2.0]))
    expected = np.log(0.5 * np.exp(-1.0)) + np.log(0.5 * np.exp(-1.5))
    assert value == pytest.approx(expected)


def test_post_processed_releases_outside_the_support_are_refused():
    censored = mechanisms.Censored(mechanisms.DiscreteLaplace(2), low=0)
    with pytest.raises(ValueError, match=r"release\[0\] \(n\) lies outside the bounds \[0, inf\]"):
        censored.check_release([-1], ["n"])
    with pytest.raises(ValueError, match="not an integer"):
        censored.check_release([0.5], ["n"])
    rounded = mechanisms.Rounded(mechanisms.Laplace(2.0), width=0.1)
    assert rounded.check_release([0.3], ["n"]).tolist() == [0.3]
    with pytest.raises(ValueError, match="is no multiple of width 0.1"):
        rounded.check_release([0.35], ["n"])
    with pytest.raises(ValueError, match="low must be less than high"):
        mechanisms.Censored(mechanisms.Laplace(1.0), low=2, high=1)
    with pytest.raises(ValueError, match="low or high must be given"):
        mechanisms.Censored(mechanisms.Laplace(1.0))
    for kind in (lambda base: mechanisms.Censored(base, low=0), mechanisms.Rounded):
        with pytest.raises(TypeError, match="base must be additive noise"):
            kind(mechanisms.RandomizedResponse(Q))
    with pytest.raises(ValueError, match="width must be a positive"):
        mechanisms.Rounded(mechanisms.Laplace(1.0), 0)


# --- custom -----------------------------------------------------------------------------------------


def student(release, total):
    return -2.0 * np.sum(np.log1p((release - total) ** 2 / 3))


@pytest.mark.parametrize("compile", [False, True])
def test_a_custom_density_is_evaluated_row_by_row_plain_or_compiled(compile):
    mechanism = mechanisms.Custom(student, compile=compile, epsilon=1.5)
    release, totals = np.array([1.0, 2.0]), np.random.default_rng(0).normal(size=(3, 4, 2))
    expected = -2 * np.log1p((release - totals) ** 2 / 3).sum(axis=-1)
    assert mechanism.log_density(release, totals) == pytest.approx(expected)
    assert (mechanism.compiled(2) is None) != compile
    if compile:
        density = mechanism.compiled(2)
        value = density.log_density(release, totals[0, 0], density.constants)
        assert value == pytest.approx(expected[0, 0])
    assert mechanism.acceptance_bound() == pytest.approx(np.exp(-1.5))
    again = pickle.loads(pickle.dumps(mechanism))
    assert again.log_density(release, totals[0]) == pytest.approx(expected[0])


def test_a_custom_mechanism_says_what_it_was_not_given():
    mechanism = mechanisms.Custom(student)
    with pytest.raises(ValueError, match="randomise was not given"):
        mechanism.randomise([1.0], np.random.default_rng(0))
    with pytest.raises(NotImplementedError, match="epsilon was not given"):
        mechanism.epsilon()
    assert mechanism.acceptance_bound() == mechanism.acceptance_bound(average=True) == 0
    with pytest.raises(TypeError, match="log_density must be callable"):
        mechanisms.Custom(3)
    with pytest.raises(ValueError, match="2 entries, in this order: a, b"):
        mechanism.check_release([1.0], ["a", "b"])
    with pytest.raises(ValueError, match="gave NaN"):
        mechanisms.Custom(lambda s, S: np.nan).log_density(np.zeros(1), np.zeros(1))


# --- all of them ------------------------------------------------------------------------------------


def test_every_mechanism_prints_itself_and_survives_copying():
    erm = mechanisms.ObjectivePerturbation(2, 1.0, 0.1)
    noise = mechanisms.Laplace([1.0, 2.5])
    every = [
        *BASES, erm, noise, mechanisms.RandomizedResponse(Q), mechanisms.FiniteExponential("ab", 1.0),
        mechanisms.Composed([noise, erm], columns=[[0, 1], [0]]), mechanisms.Censored(noise, low=0),
        mechanisms.Rounded(noise), mechanisms.Custom(student),
    ]  # fmt: skip
    assert {type(m).__name__ for m in every} | {"from_opendp"} == set(mechanisms.__all__)
    for mechanism in every:
        assert repr(mechanism).startswith(type(mechanism).__name__)
        assert (
            repr(copy.deepcopy(mechanism))
            == repr(pickle.loads(pickle.dumps(mechanism)))
            == repr(mechanism)
        )
