"""AGRO: slices without group labels, and classifiers that are robust over them."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from statml.datasets import make_spurious_gaussians
from statml.group_robust import AGROClassifier, GroupDROClassifier, worst_group_score
from statml.group_robust.game import large_enough, predicted_worst
from statml.group_robust.out_of_fold import log_losses, out_of_fold_proba, stratified_folds
from statml.group_robust.slicers import EstimatorSlicer, TreeSlicer


@parametrize_with_checks([AGROClassifier(slicer=TreeSlicer(2, n_permutations=3), n_rounds=2)])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no slice was found")
        check(estimator)


@pytest.mark.slow
@parametrize_with_checks([AGROClassifier(), AGROClassifier(slicer="linear", n_rounds=2)])
def test_its_defaults_and_soft_slices_are_scikit_learn_estimators(estimator, check):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no slice was found")
        check(estimator)


def quick():
    """The default slicer with fewer permutations, for tests that are not about p-values."""
    return TreeSlicer(3, n_permutations=3)


def spurious(seed, n=2000):
    train = make_spurious_gaussians(n=n, random_state=seed)
    test = make_spurious_gaussians(n=10_000, agreement=0.5, random_state=1000 + seed)
    return train, lambda model: worst_group_score(test.y, model.predict(test.X), test.groups)


@pytest.fixture(scope="module")
def data():
    return make_spurious_gaussians(n=1000, random_state=0)


@pytest.fixture(scope="module")
def fitted(data):
    return AGROClassifier(random_state=0).fit(data.X, data.y)


# --- what it is for ---------------------------------------------------------------------------------


def test_a_tree_slicer_comes_near_the_oracle():
    """Three seeds; the standard error of a worst group of 2500 test records is 0.007."""
    to_oracle, to_erm = [], []
    for seed in range(3):
        train, worst = spurious(seed)
        oracle = worst(GroupDROClassifier().fit(train.X, train.y, groups=train.groups))
        model = AGROClassifier(slicer=quick(), schedule="two-stage", random_state=seed)
        model.fit(train.X, train.y)
        to_oracle.append(oracle - worst(model))
        to_erm.append(worst(model) - worst(LogisticRegression().fit(train.X, train.y)))
    assert np.mean(to_oracle) < 0.02 + 2 * 0.007 * np.sqrt(2 / 3)
    assert np.mean(to_erm) > 0.15


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cutting-plane", "two-stage", "alternate"])
def test_over_ten_seeds_a_tree_slicer_is_within_two_hundredths_of_the_oracle(schedule):
    difference = []
    for seed in range(10):
        train, worst = spurious(seed)
        oracle = worst(GroupDROClassifier().fit(train.X, train.y, groups=train.groups))
        model = AGROClassifier(schedule=schedule, random_state=seed).fit(train.X, train.y)
        difference.append(oracle - worst(model))
    assert np.mean(difference) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("by_class", [True, False])
def test_over_five_seeds_slices_without_restriction_are_no_better_than_the_mean_loss(by_class):
    difference = []
    for seed in range(5):
        train, worst = spurious(seed)
        model = AGROClassifier(
            slicer="linear", by_class=by_class, schedule="two-stage", random_state=seed
        ).fit(train.X, train.y)
        difference.append(worst(model) - worst(LogisticRegression().fit(train.X, train.y)))
    error = np.std(difference, ddof=1) / np.sqrt(5)
    assert np.mean(difference) < 2 * error


def test_the_slices_name_the_spurious_feature(fitted):
    worst = fitted.slices_.loc[fitted.slices_["lift"] > 1]
    assert len(worst) == 2
    assert worst["rule"].str.startswith("x5 ").all()
    assert worst["p_value"].tolist() == [0.01, 0.01]
    assert (worst["lift"] > 2).all()


# --- the table of slices and the rounds -------------------------------------------------------------


def test_mass_loss_and_lift_are_those_of_the_rules(data, fitted):
    """By reading the rules again, and with out-of-fold losses computed again."""
    table = fitted.slices_
    assert list(table) == [
        "rule",
        "mass",
        "loss",
        "lift",
        "p_value",
        "robust_loss",
        "weight",
        "round",
    ]
    assert len(set(table["rule"])) == len(table)
    frame = pd.DataFrame(data.X, columns=data.feature_names).assign(y=data.y)
    member = np.column_stack(
        [frame.eval(rule.replace("y = ", "y == ")).to_numpy() for rule in table["rule"]]
    )
    # three digits of a threshold may put a record or two on the other side
    assert np.abs(member - fitted.slice_proba(data.X, data.y)).sum(axis=0).max() <= 3
    member = fitted.slice_proba(data.X, data.y)
    np.testing.assert_array_equal(member.sum(axis=1), 1)
    np.testing.assert_allclose(table["mass"], member.mean(axis=0))

    rng = np.random.default_rng(0)
    seed = int(rng.integers(2**31))  # the estimator's, drawn first
    fold = stratified_folds(data.y, 5, rng)
    plain = GroupDROClassifier(alpha=1.0, random_state=seed)
    losses = log_losses(out_of_fold_proba(plain, data.X, data.y, fold), data.y)
    np.testing.assert_allclose(table["loss"], member.T @ losses / member.sum(axis=0))
    np.testing.assert_allclose(table["lift"], table["loss"] / losses.mean())
    np.testing.assert_allclose(member.mean(axis=0) @ table["loss"], losses.mean())


def test_the_classifier_is_group_dro_over_the_slices(data, fitted):
    member = fitted.slice_proba(data.X, data.y)
    exact = GroupDROClassifier().fit(data.X, data.y, groups=member.argmax(axis=1))
    np.testing.assert_allclose(fitted.estimator_.coef_, exact.coef_, atol=1e-6)
    np.testing.assert_allclose(fitted.slices_["weight"], exact.group_weights_, atol=1e-6)
    assert fitted.slices_["weight"].sum() == pytest.approx(1)
    assert 0 <= fitted.estimator_.duality_gap_ < 1e-8
    plain = LogisticRegression(C=1 / (1e-3 * 1000), tol=1e-10).fit(data.X, data.y)
    np.testing.assert_allclose(fitted.erm_.coef_, plain.coef_, atol=1e-4)


def test_the_first_round_within_a_standard_error_of_the_best_is_kept(fitted):
    history = fitted.history_
    chosen = history.loc[history["selected"]]
    assert len(chosen) == 1
    best = history.loc[history["predicted_worst"].idxmax()]
    near = history["predicted_worst"] >= best["predicted_worst"] - best["std_error"]
    assert chosen.index[0] == near.idxmax()
    assert chosen["n_slices"].item() == len(fitted.slices_)
    assert np.isnan(history["violation"][0])


def test_cutting_planes_add_slices_that_are_worse_than_all_before(data):
    model = AGROClassifier(n_rounds=3, selection=None, random_state=0).fit(data.X, data.y)
    history = model.history_
    assert history["selected"].tolist() == [False] * (len(history) - 1) + [True]
    assert (np.diff(history["n_slices"]) > 0).all()
    assert (history["violation"][1:] > 0).all()
    later = model.slices_.loc[model.slices_["round"] > 0]
    assert (later["p_value"] <= 0.05).all()
    for k, group in later.groupby("round"):
        # worse, when it was found, than every slice before under the classifier of the round before
        assert group["loss"].min() > history["worst_slice_loss"][k - 1]


def test_schedules_differ_as_they_say(data):
    two_stage = AGROClassifier(slicer=quick(), schedule="two-stage", n_rounds=5, random_state=0)
    two_stage.fit(data.X, data.y)
    assert len(two_stage.history_) == 1
    alternate = AGROClassifier(
        slicer=quick(), schedule="alternate", n_rounds=3, selection=None, random_state=0
    ).fit(data.X, data.y)
    assert len(alternate.history_) == 3
    assert set(alternate.slices_["round"]) == {2}  # the last round's slices replaced the others
    assert two_stage.slices_["round"].tolist() == [0] * len(two_stage.slices_)


def test_merged_slices_are_at_least_one():
    """int(0.2 m) is zero for four slices; one is merged all the same."""
    right = np.array([1, 1, 1, 0, 1, 1, 1, 1], dtype=bool)
    member = np.repeat(np.eye(4), 2, axis=0)
    assert predicted_worst(right, member) == (0.5, np.sqrt(0.25 / 2))
    # of ten slices the two worst: (0 + 0.5) / 2, against the rest
    right = np.array([0, 0, 1, 0] + [1] * 16, dtype=bool)
    assert predicted_worst(right, np.repeat(np.eye(10), 2, axis=0))[0] == 0.25
    # the rest may be worse than the largest slices together
    assert predicted_worst(np.array([True, False]), np.ones((2, 1)))[0] == 0.5
    # a record without any membership counts among the rest
    assert predicted_worst(np.array([1, 0], dtype=bool), np.array([[1.0], [0.0]])) == (0.0, 0.0)


def test_small_slices_are_left_out_unless_a_record_would_be_in_none():
    P = np.array([[0.98, 0.02, 0.0], [0.99, 0.01, 0.0], [0.0, 0.0, 1.0], [0.9, 0.1, 0.0]])
    assert large_enough(P, 0.3).tolist() == [0, 2]
    assert large_enough(P, 0.0).tolist() == [0, 1, 2]


def test_a_class_rarer_than_the_smallest_mass_is_not_lost():
    rng = np.random.default_rng(0)
    y = np.r_[np.zeros(290, dtype=int), np.ones(10, dtype=int)]
    X = rng.normal(size=(300, 3)) + 3 * y[:, None]
    for slicer in ("tree", "linear"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no slice was found")
            model = AGROClassifier(slicer=slicer, min_mass=0.1, n_rounds=1, random_state=0).fit(
                X, y
            )
        member = model.slice_proba(X, y)
        np.testing.assert_allclose(member.sum(axis=1), 1)
        assert (model.predict(X[y == 1]) == 1).mean() > 0.7


# --- other slicers ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:no slice was found")
@pytest.mark.parametrize("init", ["confusion", "domino", "random"])
@pytest.mark.parametrize("adversary", ["worst", "greedy-reverse"])
def test_soft_slices_of_the_original(data, init, adversary):
    X, y = data.X[:200], data.y[:200]
    model = AGROClassifier(
        slicer="linear",
        n_slices=4,
        init=init,
        adversary=adversary,
        entropy_reg=0.1,
        schedule="two-stage",
        n_rounds=1,
        random_state=0,
    ).fit(X, y)
    member = model.slice_proba(X, y)
    np.testing.assert_allclose(member.sum(axis=1), 1)
    if init != "random":  # from there, one slice a class swallows the other
        assert ((member > 0.01) & (member < 0.99)).any()
    table = model.slices_
    assert (table["mass"] >= 0.02).all()
    assert member.shape[1] == len(table) <= 4
    # the slices share out all records, so that their losses average to the mean out-of-fold loss
    np.testing.assert_allclose(table["mass"] @ table["loss"], table["loss"] / table["lift"])


def test_levels_of_a_regressor_as_slices(data):
    model = AGROClassifier(slicer=Ridge(), schedule="two-stage", random_state=0)
    model.fit(data.X, data.y)
    assert model.slices_["rule"].str.contains("predicted loss").any()
    np.testing.assert_array_equal(model.slice_proba(data.X, data.y).sum(axis=1), 1)


@pytest.mark.parametrize(("by_class", "n_slices"), [(True, 4), (False, 2)])
def test_leaves_of_a_given_tree_as_slices(data, by_class, n_slices):
    tree = DecisionTreeRegressor(max_depth=1)
    model = AGROClassifier(
        slicer=tree, by_class=by_class, schedule="two-stage", random_state=0
    ).fit(data.X, data.y)
    assert len(model.slices_) == n_slices
    if by_class:
        assert model.slices_["rule"].str.startswith("x5 ").all()
    assert tree.random_state is None


def test_a_slicer_of_the_users(data):
    class Half:
        """One cut at zero of one column."""

        n_permutations = 3

        def fit_membership(self, X, y, proba, losses, rng):
            return self.membership(X, y, proba)

        def membership(self, X, y, proba):
            return np.column_stack([X[:, 5] <= 0, X[:, 5] > 0]).astype(float)

        def rules(self, features, classes):
            return [f"{features[5]} <= 0", f"{features[5]} > 0"]

        def null(self):
            return self

    model = AGROClassifier(slicer=Half(), schedule="two-stage", random_state=0).fit(data.X, data.y)
    assert model.slices_["rule"].tolist() == ["x5 <= 0", "x5 > 0"]
    np.testing.assert_array_equal(model.slice_proba(data.X, data.y)[:, 0], data.X[:, 5] <= 0)


def test_slices_of_different_rounds_with_the_same_text_are_told_apart(data):
    class Same(TreeSlicer):
        def rules(self, features, classes):
            return ["a slice"] * len(super().rules(features, classes))

    model = AGROClassifier(
        slicer=Same(2, n_permutations=19), n_rounds=3, selection=None, random_state=0
    ).fit(data.X, data.y)
    assert len(model.slices_) > 4
    assert (
        len(set(model.slices_["rule"]))
        == len(model.slices_)
        == model.slice_proba(data.X, data.y).shape[1]
    )


def test_where_nothing_is_neglected_the_classes_are_the_slices():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 2)), rng.integers(0, 2, 200)
    X[:, :] = 0.0  # no rule can tell records of a class apart
    with pytest.warns(
        UserWarning, match="no slice was found beyond the classes; the result is robust over these"
    ):
        model = AGROClassifier(random_state=0).fit(X, y)
    assert model.slices_["rule"].tolist() == ["y = 0", "y = 1"]
    assert model.slices_["p_value"].tolist() == [1.0, 1.0]
    with pytest.warns(
        UserWarning, match="beyond all records together; the result is the mean-loss"
    ):
        model = AGROClassifier(n_slices=1, by_class=False, random_state=0).fit(X, y)
    assert model.slices_["rule"].tolist() == ["all"]
    np.testing.assert_array_equal(model.estimator_.intercept_, model.erm_.intercept_)


# --- as an estimator --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:no slice was found")
@pytest.mark.parametrize(
    "slicer", ["tree", "linear", EstimatorSlicer(RandomForestRegressor(2), n_permutations=2)]
)
def test_random_state_fixes_everything(data, slicer):
    X, y = data.X[:150], data.y[:150]
    fits = [
        AGROClassifier(slicer=slicer, schedule="two-stage", random_state=3).fit(X, y)
        for _ in range(2)
    ]
    pd.testing.assert_frame_equal(fits[0].slices_, fits[1].slices_)
    np.testing.assert_array_equal(*(fit.predict_proba(X) for fit in fits))


def test_it_survives_cloning_and_pickling(data, fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(
        again.slice_proba(data.X, data.y), fitted.slice_proba(data.X, data.y)
    )
    assert clone(fitted).get_params()["random_state"] == 0
    assert clone(AGROClassifier(slicer=TreeSlicer(3))).slicer == TreeSlicer(3)


def test_names_of_columns_and_classes_are_those_of_the_rules(data):
    frame = pd.DataFrame(data.X, columns=[f"col {j}" for j in range(10)])
    labels = np.where(data.y == 1, "sick", "well")
    model = AGROClassifier(schedule="two-stage", random_state=0).fit(frame, labels)
    assert model.slices_["rule"].str.fullmatch(r"col 5 (<=|>) -?[\d.]+ & y = (sick|well)").all()
    assert set(model.predict(frame)) == {"sick", "well"}
    assert model.slice_proba(frame, labels).shape == (1000, 4)


def test_several_classes():
    X, y = load_iris(return_X_y=True)
    model = AGROClassifier(n_slices=9, schedule="two-stage", random_state=0).fit(X, y)
    assert model.estimator_.coef_.shape == (3, 4)
    np.testing.assert_array_equal(model.slice_proba(X, y).sum(axis=1), 1)
    assert model.score(X, y) > 0.9


@pytest.mark.filterwarnings("ignore:no slice was found")
def test_options_of_the_robust_classifier_are_kept_and_it_works_in_a_search(data):
    base = GroupDROClassifier(l2=0.5, offset="excess")
    model = AGROClassifier(base, quick(), schedule="two-stage", random_state=0).fit(data.X, data.y)
    assert model.estimator_.l2 == 0.5
    assert model.estimator_.offset == "excess"
    assert model.erm_.alpha == 1.0
    pipe = make_pipeline(
        StandardScaler(), AGROClassifier(GroupDROClassifier(), quick(), n_rounds=1)
    )
    grid = {"agroclassifier__estimator__l2": [1e-3, 1.0]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(data.X[:300], data.y[:300])
    assert search.best_score_ > 0.7


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"slicer": "forest"},
            ValueError,
            r'slicer must be "tree", "stump" or "linear", got .forest.',
        ),
        ({"slicer": 3}, TypeError, 'slicer must be "tree", .* got 3'),
        ({"slicer": LogisticRegression()}, TypeError, "slicer must be .* a regressor"),
        ({"n_slices": 0}, ValueError, "n_slices must be an integer >= 1, got 0"),
        ({"n_slices": 1}, ValueError, "n_slices must be at least the number of classes, 2"),
        ({"cv": 1}, ValueError, "cv must be an integer >= 2, got 1"),
        ({"n_rounds": 0}, ValueError, "n_rounds must be an integer >= 1, got 0"),
        ({"min_mass": 1.0}, ValueError, r"min_mass must be a finite number in \[0, 1\), got 1.0"),
        ({"marginal_reg": -1.0}, ValueError, "marginal_reg must be a finite number >= 0, got -1.0"),
        ({"entropy_reg": -1.0}, ValueError, "entropy_reg must be a finite number >= 0"),
        ({"init": "kmeans"}, ValueError, 'init must be "confusion", "domino" or "random"'),
        (
            {"schedule": "once"},
            ValueError,
            'schedule must be "cutting-plane", "two-stage" or "alternate"',
        ),
        ({"adversary": "best"}, ValueError, 'adversary must be "worst" or "greedy-reverse"'),
        ({"selection": "groups"}, ValueError, 'selection must be "predicted-worst"'),
        (
            {"adversary": "greedy-reverse"},
            ValueError,
            'adversary acts on the soft slices of slicer="linear" only',
        ),
        (
            {"entropy_reg": 0.1, "slicer": "stump"},
            ValueError,
            "entropy_reg acts on the soft slices",
        ),
        ({"estimator": LogisticRegression()}, TypeError, "estimator must be a GroupDROClassifier"),
        (
            {"estimator": SGDClassifier(loss="log_loss")},
            TypeError,
            "group_weights in fit; got SGDClassifier",
        ),
        ({"random_state": -1}, ValueError, "random_state must be"),
    ],
)
def test_bad_parameters_are_refused_by_name(data, options, error, message):
    with pytest.raises(error, match=message):
        AGROClassifier(**options).fit(data.X, data.y)


def test_bad_data_are_refused(data, fitted):
    with pytest.raises(ValueError, match="at least two classes, got one class"):
        AGROClassifier().fit(data.X, np.ones(1000))
    with pytest.raises(ValueError, match="too few records of all but one class for 5 folds"):
        AGROClassifier().fit(data.X[:21], [0] * 20 + [1])
    with pytest.raises(ValueError, match="y holds the class 7, which was not there in fit"):
        fitted.slice_proba(data.X[:2], [0, 7])
    with pytest.raises(ValueError, match="features"):
        fitted.slice_proba(data.X[:2, :3], [0, 1])
    X = data.X.copy()
    X[3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        AGROClassifier().fit(X, data.y)
