"""Black boxes: how often they err, what they are calibrated to, and what is refused."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from statml.adapters.viewpoint import (
    AnalyticSensor,
    DigitPlateRenderer,
    NoisySensor,
    PredictProbaSensor,
    Scenario,
    Scene,
    TableSensor,
    fit_sensor,
    log_looks,
    plate_quality,
    reliability,
)
from statml.adapters.viewpoint.baselines import GreedyInformationPolicy
from statml.adapters.viewpoint.evaluation import evaluate
from statml.adapters.viewpoint.noise import Noise
from statml.adapters.viewpoint.sensors import Looks
from statsmodels.stats.proportion import proportion_confint


def looks_at(relative, classes, n_classes=6, seen=True, time=1):
    """One target in each of M episodes."""
    m = len(classes)
    return Looks(
        np.asarray(relative, float)[:, None],
        np.full((m, 1), seen),
        np.asarray(classes)[:, None],
        n_classes,
        Noise(np.arange(m)),
        np.full(m, time),
    )


def in_front(distance, degrees, m):
    return np.tile([distance, 0.0, np.pi - np.radians(degrees)], (m, 1))


@pytest.fixture(scope="module")
def digits():
    """A classifier of digits on plates, and its sensor."""
    renderer = DigitPlateRenderer()
    X, y = renderer.training_views(6000, random_state=0)
    return PredictProbaSensor(LogisticRegression(max_iter=300).fit(X, y), renderer)


def test_the_oracle_is_never_wrong_and_as_sure_as_published():
    classes = np.arange(60) % 6
    p = AnalyticSensor().look(looks_at(in_front(3.375, 0, 60), classes))[:, 0]
    np.testing.assert_allclose(p.sum(-1), 1)
    np.testing.assert_array_equal(p.argmax(-1), classes)
    q = 0.5 * 8.64 / 3.375**2
    np.testing.assert_allclose(p.max(-1), 1 / 6 + q)
    np.testing.assert_allclose(np.sort(p)[:, 0], (5 / 6 - q) / 5)


@pytest.mark.parametrize("sensor", [AnalyticSensor(), NoisySensor()])
def test_what_is_not_seen_is_uniform(sensor):
    p = sensor.look(looks_at(in_front(2.5, 0, 9), np.arange(9) % 6, seen=False))
    np.testing.assert_allclose(p, 1 / 6)


def test_the_noisy_sensor_errs_as_often_as_it_says():
    m, classes = 8000, np.arange(8000) % 4
    p = NoisySensor().look(looks_at(in_front(4.0, 5, m), classes, n_classes=4))[:, 0]
    q = plate_quality(in_front(4.0, 5, 1))[0]
    np.testing.assert_allclose(p.max(-1), 0.25 + q)
    labels = p.argmax(-1)
    share = (labels == classes).mean()
    assert abs(share - (0.25 + q)) < 4 * np.sqrt(share * (1 - share) / m)
    # errors fall on the other classes alike
    shift = (labels - classes) % 4
    assert stats.chisquare(np.bincount(shift, minlength=4)[1:]).pvalue > 1e-3


def test_beliefs_from_honest_looks_are_right_as_often_as_they_say():
    """With independent looks Bayes' rule is exact: of targets declared at 95 %, at least 95 % are what was declared."""
    scene = Scene(n_targets=3, sensor=NoisySensor(), random_beliefs=False, horizon=120)
    scenarios = scene.draw(np.arange(300) + 10_000)
    targets = evaluate([GreedyInformationPolicy()], scene, scenarios).targets
    declared = targets[targets["declared"]]
    assert len(declared) > 300
    said = declared["belief"].mean()
    assert said >= 0.95
    assert abs(declared["right"].mean() - said) < 4 * np.sqrt(said * (1 - said) / len(declared))


# --- tables


def test_a_table_interpolates_its_nodes_and_holds_beyond_them():
    table = np.empty((2, 2, 2, 2))
    for i, right in enumerate([[0.9, 0.7], [0.6, 0.5]]):
        for j, p in enumerate(right):
            table[i, j] = [[p, 1 - p], [1 - p, p]]
    sensor = TableSensor(table, distances=[2.0, 4.0], aspects=[0.0, 60.0])
    looks = [(2, 0), (4, 0), (3, 0), (2, 30), (3, -30), (1, 0), (9, 80)]
    relative = np.concatenate([in_front(d, a, 1) for d, a in looks])
    expected = np.array([0.9, 0.6, 0.75, 0.8, 0.675, 0.9, 0.5])
    np.testing.assert_allclose(sensor.confusion(relative)[:, 0, 0], expected)
    np.testing.assert_allclose(sensor.quality(relative, 2), expected - 0.5, atol=1e-12)


def test_a_table_draws_labels_from_its_rows_and_says_their_likelihood():
    matrix = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.0, 0.5, 0.5]])
    sensor = TableSensor(np.tile(matrix, (2, 2, 1, 1)), distances=[2, 4], aspects=[0, 60])
    m = 6000
    p = sensor.look(looks_at(in_front(3, 0, m), np.ones(m, int), n_classes=3))[:, 0]
    columns = (matrix / matrix.sum(0)).T
    which = np.abs(p[:, None] - columns).sum(-1).argmin(-1)
    np.testing.assert_allclose(p, columns[which])
    assert stats.chisquare(np.bincount(which, minlength=3), m * matrix[1]).pvalue > 1e-3


def test_a_table_of_an_honest_sensor_is_that_sensor():
    table = TableSensor.from_sensor(NoisySensor(), n_classes=4, n_looks=60_000, random_state=0)
    for distance, degrees in [(4.0, 0.0), (5.0, 20.0), (6.5, 0.0), (8.0, 30.0)]:
        # nodes stand for their cells, over which the quality is averaged
        at = table.quality(in_front(distance, degrees, 1), 4)[0]
        assert at == pytest.approx(plate_quality(in_front(distance, degrees, 1))[0], abs=0.08)


def test_rows_never_seen_are_uniform():
    table = TableSensor.from_looks(
        in_front(2.0, 0, 3), np.zeros(3, int), np.tile([1.0, 0, 0], (3, 1))
    )
    np.testing.assert_allclose(table.table[1, 0, 0], [(3 + 1 / 3) / 4, 1 / 12, 1 / 12])
    np.testing.assert_allclose(table.table[5], 1 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.full((2, 2, 3, 3), 0.5), [2, 4], [0, 60]), "table must be probabilities"),
        ((np.full((2, 3, 2, 2), 0.5), [2, 4], [0, 60]), "table must have shape"),
        ((np.full((2, 2, 2, 2), 0.5), [4, 2], [0, 60]), "distances must be at least 2 increasing"),
        ((np.full((1, 2, 2, 2), 0.5), [4], [0, 60]), "distances must be"),
    ],
)
def test_bad_tables_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TableSensor(*arguments)


def test_a_table_of_another_number_of_classes_is_refused():
    sensor = TableSensor(np.full((2, 2, 2, 2), 0.5), [2, 4], [0, 60])
    with pytest.raises(ValueError, match="table must be of n_classes=6 classes, got 2"):
        sensor.look(looks_at(in_front(3, 0, 1), [0]))


# --- classifiers


def accuracy_at(sensor, distance, degrees, m=800):
    classes = np.arange(m) % 6
    p = sensor.look(looks_at(in_front(distance, degrees, m), classes))[:, 0]
    return (p.argmax(-1) == classes).mean()


def test_digits_are_read_near_and_frontal_and_not_far_or_from_the_side(digits):
    near, far = accuracy_at(digits, 2.0, 0), accuracy_at(digits, 9.0, 0)
    side = accuracy_at(digits, 2.0, 80)
    standard_error = np.sqrt(0.25 / 800)
    assert near - far > 4 * standard_error
    assert near - side > 4 * standard_error
    assert near > 0.8


def test_a_target_wears_one_handwriting(digits):
    """Looks at one target from one pose repeat each other: they agree more often than looks at different targets."""
    classes = np.full(600, 3)
    first = digits.look(looks_at(in_front(2.5, 0, 600), classes, time=1))[:, 0].argmax(-1)
    second = digits.look(looks_at(in_front(2.5, 0, 600), classes, time=2))[:, 0].argmax(-1)
    wrong = first != 3
    share = (second != 3).mean()
    assert wrong.sum() > 15
    again = (second[wrong] != 3).sum()
    assert stats.binomtest(again, wrong.sum(), share, alternative="greater").pvalue < 1e-3


def test_looks_do_not_depend_on_the_batch(digits):
    classes = np.arange(10) % 6
    all_ = digits.look(looks_at(in_front(3.0, 10, 10), classes))
    head = digits.look(looks_at(in_front(3.0, 10, 4), classes[:4]))
    np.testing.assert_allclose(all_[:4], head, atol=1e-12)


def test_calibration_lowers_the_loss_on_new_looks(digits):
    fitted = fit_sensor(digits, n_classes=6, n_looks=4000, random_state=1)
    assert digits.calibration == (0.0, 0.0, 0.0)
    loss = {}
    for name, sensor in (("raw", digits), ("fitted", fitted)):
        _, classes, p = log_looks(sensor, 6, 6000, random_state=2)
        loss[name] = -np.log(p[np.arange(len(p)), classes])
    gain = loss["raw"] - loss["fitted"]
    assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))


def test_calibration_of_an_honest_classifier_stays_near_none():
    class Honest:
        """Reads a view that is the likelihood vector itself."""

        def predict_proba(self, X):
            return X

    def view(relative, classes, rng):
        right = 1 / 6 + plate_quality(relative)
        labels = np.where(rng.random((len(classes),)) < right, classes, -1)
        other = (classes + rng.integers(1, 6, (len(classes),))) % 6
        labels = np.where(labels < 0, other, labels)
        p = np.repeat(((1 - right) / 5)[:, None], 6, 1)
        p[np.arange(len(p)), labels] = right
        return p

    sensor = PredictProbaSensor(Honest(), view)
    a, b, c = fit_sensor(sensor, 6, n_looks=20_000, random_state=0).calibration
    power = np.exp(a + b * 3.0 + c * 0.2)  # near and frontal, where looks say much
    assert power == pytest.approx(1, abs=0.15)


def test_a_prior_is_divided_out(digits):
    prior = np.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
    classes = np.arange(12) % 6
    plain = digits.look(looks_at(in_front(3, 0, 12), classes))[:, 0]
    sensor = PredictProbaSensor(digits.classifier, digits.renderer, prior=prior)
    divided = sensor.look(looks_at(in_front(3, 0, 12), classes))[:, 0]
    expected = plain / prior
    np.testing.assert_allclose(divided, expected / expected.sum(-1, keepdims=True), atol=1e-12)


class _Says:
    def __init__(self, p):
        self.p = np.asarray(p, float)

    def predict_proba(self, X):
        return np.tile(self.p, (len(X), 1))


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([0.5, 0.6], "probabilities that sum to one, got a row that sums to 1.1"),
        ([1.2, -0.2], "smallest entry -0.2"),
        ([np.nan, 1.0], "sum to one"),
        ([0.2, 0.3, 0.5], r"2 probabilities for each of 4 views, got shape \(4, 3\)"),
    ],
)
def test_classifiers_that_give_no_probabilities_are_refused(p, message):
    sensor = PredictProbaSensor(
        _Says(p), lambda relative, classes, rng: np.zeros((len(classes), 1))
    )
    with pytest.raises(ValueError, match=message):
        sensor.look(looks_at(in_front(3, 0, 4), np.zeros(4, int), n_classes=2))


def test_things_that_do_not_predict_are_refused():
    with pytest.raises(TypeError, match="classifier must have predict_proba"):
        PredictProbaSensor(object(), DigitPlateRenderer())
    with pytest.raises(ValueError, match="n_classes must be"):
        DigitPlateRenderer(n_classes=11)
    with pytest.raises(ValueError, match="half must be"):
        DigitPlateRenderer(half="all")


def test_the_expert_plans_with_a_table_of_a_black_box(digits):
    scene = Scene(n_targets=2, sensor=digits, random_beliefs=False)
    scenario = scene.draw(np.arange(10))
    with pytest.raises(
        TypeError, match=r"sensor must have a method quality.*TableSensor.from_sensor"
    ):
        evaluate([GreedyInformationPolicy()], scene, scenario)
    table = TableSensor.from_sensor(digits, 6, 5000, random_state=0)
    results = evaluate([GreedyInformationPolicy(sensor=table)], scene, scenario)
    assert results.frame["fraction"].mean() > 0.8


def stare(sensor, fusion, distance, degrees, m=800):
    """Forty looks at each of m targets from one pose: how many are declared at 95 %, and how many of these rightly."""
    scene = Scene(1, sensor=sensor, fusion=fusion, horizon=40, target_motion="static")
    scenario = Scenario.placed(
        np.zeros((m, 3)),
        [[distance, 0, np.pi - np.radians(degrees)]],
        6,
        classes=(np.arange(m) % 6)[:, None],
        random_state=8,
    )
    scene.set_scenario(scenario)
    for _ in range(40):
        scene.step(np.zeros((m, 3)))
    return scene.tracked.sum(), scene.declared_right().sum()


def test_staring_at_digits_deceives_the_product_and_not_the_pose_discount(digits):
    """Looks from one pose at one handwriting repeat each other: 95 % by the product is right far less often."""
    fitted = fit_sensor(digits, n_classes=6, n_looks=4000, random_state=1)
    declared, right = stare(fitted, "product", 5.0, 65.0)
    assert declared > 700
    assert proportion_confint(right, declared, method="wilson")[1] < 0.85
    poses = [(3.0, 0.0), (5.0, 50.0), (5.0, 65.0), (8.0, 30.0)]
    counts = np.array([stare(fitted, "pose_discount", *pose) for pose in poses])
    declared, right = counts.sum(0)
    assert declared > 300
    assert right / declared > 0.95 - 3 * np.sqrt(0.95 * 0.05 / declared)


# --- reliability


def test_reliability_counts_by_hand():
    p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 3 + [[0.5, 0.5]])
    classes = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    table = reliability(p, classes, n_bins=5)
    assert table["n"].tolist() == [1, 3, 4]
    np.testing.assert_allclose(table["accuracy"], [0, 2 / 3, 3 / 4])
    np.testing.assert_allclose(table["confidence"], [0.5, 0.6, 0.9])
    expected = proportion_confint(3, 4, 0.05, method="wilson")
    np.testing.assert_allclose(table.iloc[-1][["conf_low", "conf_high"]].astype(float), expected)


def test_reliability_refuses_what_does_not_match():
    with pytest.raises(ValueError, match=r"classes must have shape \(2,\), got \(3,\)"):
        reliability(np.full((2, 2), 0.5), np.zeros(3))
    with pytest.raises(ValueError, match="probabilities must be probabilities"):
        reliability(np.ones((2, 2)), np.zeros(2))
