"""Data Shapley against enumeration, for every sampler and semivalue."""

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.preprocessing import scale

from statml.influence import DataShapley
from statml.influence.data_shapley import Totals, _walk


@pytest.fixture(scope="module")
def game():
    """A ridge game of eight records and three validation records."""
    rng = np.random.default_rng(0)
    X, X_val = rng.normal(size=(8, 2)), rng.normal(size=(3, 2))
    y = X @ [1.0, -1.0] + rng.normal(size=8)
    model = Ridge(alpha=1.0).fit(X, y)
    return model, X, y, X_val, X_val @ [1.0, -1.0]


def fit(game, *args, **kwargs):
    model, X, y, X_val, y_val = game
    return DataShapley(*args, **kwargs).fit(model, X, y, X_val=X_val, y_val=y_val)


def test_exact_values_are_efficient_for_every_validation_record(game):
    model, _, y, X_val, y_val = game
    matrix = fit(game, "exact").influence()
    full = -((y_val - model.predict(X_val)) ** 2) / 2
    empty = -((y_val - y.mean()) ** 2) / 2
    np.testing.assert_allclose(matrix.sum(axis=1), full - empty, atol=1e-10)


def test_exact_semivalues_equal_brute_force(game):
    """Banzhaf and leave-one-out by their own definitions, with refits from scratch."""
    import itertools

    model, X, y, X_val, y_val = game

    def utility(members):
        if not members:
            return -((y_val - y.mean()) ** 2).mean() / 2
        m = clone(model).fit(X[list(members)], y[list(members)])
        return -((y_val - m.predict(X_val)) ** 2).mean() / 2

    rest = range(1, 8)
    marginals = [
        utility((0, *s)) - utility(s) for k in range(8) for s in itertools.combinations(rest, k)
    ]
    assert fit(game, "exact", "banzhaf").values_[0] == pytest.approx(np.mean(marginals), abs=1e-9)
    loo = utility(tuple(range(8))) - utility(tuple(rest))
    assert fit(game, "exact", "loo").values_[0] == pytest.approx(loo, abs=1e-9)


def test_values_are_additive_over_validation_records_and_equal_for_duplicates(game):
    model, X, y, X_val, y_val = game
    X, y = np.vstack([X[:6], X[:1]]), np.append(y[:6], y[0])
    both = DataShapley("exact").fit(model, X, y, X_val=X_val, y_val=y_val)
    parts = [
        DataShapley("exact").fit(model, X, y, X_val=X_val[[j]], y_val=y_val[[j]]).values_
        for j in range(3)
    ]
    np.testing.assert_allclose(both.values_, np.mean(parts, axis=0), atol=1e-12)
    assert both.values_[0] == pytest.approx(both.values_[-1], abs=1e-10)


@pytest.mark.parametrize(
    ("method", "semivalue"),
    [
        ("permutation", "shapley"), ("permutation", "banzhaf"), ("permutation", ("beta", 4, 1)),
        ("antithetic", "shapley"), ("antithetic", ("beta", 4, 1)),
        ("stratified", "shapley"), ("stratified", "banzhaf"),
    ],
)  # fmt: skip
def test_samplers_are_unbiased_and_their_errors_honest(game, method, semivalue):
    """Standardised errors of several seeds have mean square one."""
    truth = fit(game, "exact", semivalue).values_
    z = []
    for seed in range(3):
        draws = 8 if method == "stratified" else 40
        found = fit(game, method, semivalue, max_permutations=draws, stop=0, random_state=seed)
        z.append((found.values_ - truth) / found.std_error_)
    # 24 dependent scores: eight records of one seed share permutations, so count six
    assert np.mean(np.square(z)) < 1 + 3 * np.sqrt(2 / 6)


@pytest.mark.slow
def test_intervals_cover_the_enumerated_value_at_their_rate(game):
    truth = fit(game, "exact").values_
    replications = 100
    covered = np.zeros(8)
    for seed in range(replications):
        found = fit(game, "permutation", max_permutations=250, stop=0, random_state=seed)
        covered += np.abs(found.values_ - truth) <= 1.96 * found.std_error_
    rate = covered.mean() / replications
    assert rate == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / replications))


@pytest.fixture(scope="module")
def cancer_game():
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)[:, :4]
    model = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X[:40], y[:40])
    return model, X[:40], y[:40], X[100:160], y[100:160]


class SizeGame:
    """Utility n_S (20 - n_S): the marginal contribution falls linearly with the position."""

    def utility(self, members, rng=None):
        return np.array([float(len(members) * (20 - len(members)))])

    def walk(self, order, rng):
        for k in range(1, len(order) + 1):
            yield self.utility(order[:k])


def test_antithetic_pairs_cancel_what_is_linear_in_the_position():
    for antithetic in (True, False):
        part = _walk(
            SizeGame(), 6, np.ones(6), 0.0, None, 5, antithetic, 20, np.random.default_rng(0)
        )
        total = Totals.empty(6, 1).add({k: v for k, v in part.items() if k != "n_fits"})
        mean, error = total.mean_values()
        if antithetic:
            np.testing.assert_allclose(mean, 14.0)  # utility of all, 84, shared by six
            np.testing.assert_allclose(error, 0.0, atol=1e-6)
        else:
            assert error.min() > 0.3


def test_warm_starts_give_the_values_of_refits(cancer_game):
    how = {"max_permutations": 2, "stop": 0, "random_state": 0}
    warm = fit(cancer_game, "permutation", **how)
    cold = fit(cancer_game, "permutation", warm_start=False, **how)
    np.testing.assert_allclose(warm.influence(), cold.influence(), atol=1e-6)
    full = warm.utility_full_ - warm.utility_empty_
    assert warm.values_.sum() == pytest.approx(full, abs=1e-8)  # each permutation telescopes


def test_truncation_saves_fits_and_moves_values_little(cancer_game):
    how = {"max_permutations": 20, "stop": 0, "random_state": 0}
    whole, cut = fit(cancer_game, "permutation", **how), fit(cancer_game, "tmc", tol=0.15, **how)
    assert cut.n_fits_ < 0.9 * whole.n_fits_
    assert np.abs(cut.values_ - whole.values_).max() < 3 * whole.std_error_.max()
    assert abs(cut.diagnostics_["efficiency_gap"]) < 0.15 * abs(
        cut.utility_full_ - cut.utility_empty_
    )


def test_sampling_stops_when_it_knows_enough(game):
    loose = fit(game, "antithetic", stop=0.5, random_state=0)
    assert loose.converged_
    assert loose.n_permutations_ < 1000
    assert loose.diagnostics_["relative_error"] <= 0.5
    with pytest.warns(UserWarning, match="max_permutations=40"):
        fit(game, "permutation", stop=1e-4, max_permutations=40, random_state=0)


def test_the_matrix_its_errors_and_the_test_of_influence(game):
    found = fit(game, "permutation", max_permutations=200, stop=0, random_state=0)
    matrix = found.influence(game[3], game[4])
    np.testing.assert_allclose(matrix.mean(axis=0), found.values_, atol=1e-12)
    assert found.influence_std_.shape == matrix.shape == (3, 8)
    table = found.influential(game[3], game[4], q=0.1)
    assert (np.abs(table["statistic"]) > 1.6).all()
    assert found.rank(game[3], game[4], k=2).shape == (2, 5)
    with pytest.raises(ValueError, match="X_val of fit"):
        found.influence(game[3] + 1, game[4])


def test_g_shapley_telescopes_to_the_utility_of_one_pass(cancer_game):
    found = fit(cancer_game, "gradient", max_permutations=20, stop=0, random_state=0)
    empty = -np.log(2)  # zero parameters
    assert found.utility_empty_ == pytest.approx(empty, abs=1e-12)
    assert found.values_.sum() > 0
    rough = fit(cancer_game, "permutation", max_permutations=20, stop=0, random_state=0)
    assert np.corrcoef(found.values_, rough.values_)[0, 1] > 0.3


def forest_values(**how):
    X, y = load_breast_cancer(return_X_y=True)
    shapley = DataShapley(
        "permutation", max_permutations=4, stop=0, random_state=0, progress=False, **how
    )
    return shapley.fit(
        RandomForestClassifier(2), X[:12], y[:12] * 0 + np.arange(12) % 2, X_val=X[50:55],
        y_val=np.arange(5) % 2,
    ).influence()  # fmt: skip


def test_every_backend_and_a_resumed_run_give_the_same_numbers(tmp_path):
    expected = forest_values()
    with joblib.parallel_config(backend="threading", n_jobs=2):
        np.testing.assert_array_equal(forest_values(n_jobs=2), expected)
    np.testing.assert_array_equal(forest_values(checkpoint_dir=tmp_path), expected)
    done = sorted(tmp_path.rglob("task_*.zip"))
    done[0].unlink()  # as if it had been killed before this task
    np.testing.assert_array_equal(forest_values(checkpoint_dir=tmp_path), expected)


def test_accuracy_is_called_flat(cancer_game):
    with pytest.warns(UserWarning, match="flat"):
        found = fit(
            cancer_game, "tmc", utility="accuracy", max_permutations=3, stop=0, random_state=0
        )
    assert (found.influence() == 0).mean() > 0.7


def test_totals_are_means_and_standard_errors():
    draws = np.random.default_rng(0).normal(size=(50, 4, 3))
    total = Totals.empty(4, 3)
    for draw in draws:
        total = total.add(
            {"n_draws": 1, "total": draw, "square": draw**2, "mean_square": draw.mean(axis=1) ** 2}
        )
    mean, error = total.mean_values()
    per_draw = draws.mean(axis=2)
    np.testing.assert_allclose(mean, per_draw.mean(axis=0))
    np.testing.assert_allclose(error, per_draw.std(axis=0, ddof=1) / np.sqrt(50))
    np.testing.assert_allclose(
        total.matrix().std_error, (draws.std(axis=0, ddof=1) / np.sqrt(50)).T
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "guess"}, "method must be"),
        ({"semivalue": ("beta", 1)}, "semivalue must be"),
        ({"tol": -1}, "tol must be"),
        ({"utility": "neg_log_loss"}, 'must be "neg_squared_error"'),
        ({"warm_start": "maybe"}, "warm_start must be"),
        ({"checkpoint_dir": "x"}, "random_state must be given"),
        ({"max_permutations": 1}, "max_permutations"),
    ],
)
def test_bad_settings_are_refused_by_name(game, settings, message):
    with pytest.raises(ValueError, match=message):
        fit(game, **settings)


def test_the_utility_needs_validation_data_and_enumeration_few_records(game, diabetes):
    model, X, y, *_ = game
    with pytest.raises(ValueError, match="X_val and y_val must hold"):
        DataShapley().fit(model, X, y)
    X, y = diabetes
    model = LinearRegression().fit(X, y)
    with pytest.raises(ValueError, match="at most 16 records"):
        DataShapley("exact").fit(model, X, y, X_val=X[:2], y_val=y[:2])
