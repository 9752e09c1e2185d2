"""JTTNet, LfFNet, and features of networks for deep feature reweighting."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

torch = pytest.importorskip("torch")

from statml.adapters import NetClassifier  # noqa: E402
from statml.adapters.group_robust import (  # noqa: E402
    AGRONet,
    GroupDRONet,
    JTTNet,
    LfFNet,
    NetFeatures,
)
from statml.adapters.group_robust.lff import (  # noqa: E402
    generalized_cross_entropy,
    relative_difficulty,
)
from torch import nn  # noqa: E402

from statml.datasets import make_spurious_gaussians  # noqa: E402
from statml.group_robust import DeepFeatureReweighting, worst_group_score  # noqa: E402

QUICK = {"module__hidden": (16,), "epochs": 8, "lr": 0.01, "random_state": 0}


@pytest.fixture(scope="module")
def spurious():
    return make_spurious_gaussians(n=800, random_state=0)


# --- just train twice ------------------------------------------------------------------------------------


def test_the_second_network_is_one_trained_with_the_errors_of_the_first_upweighted(spurious):
    X, y = spurious.X, spurious.y
    model = JTTNet(**QUICK, upweight=5.0, stop=0.3).fit(X, y)
    assert model.identification_epochs_ == 3
    weight = np.where(model.error_set_, 5.0, 1.0)
    same = NetClassifier(**QUICK).fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(model.predict_proba(X), same.predict_proba(X))
    minority = y != spurious.attribute
    assert model.error_set_[minority].mean() > 3 * model.error_set_[~minority].mean()


def test_out_of_fold_errors_are_there_where_in_sample_ones_have_vanished():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 30))
    y = (X[:, 0] + rng.normal(size=120) > 0).astype(int)
    memorise = {"module__hidden": (200,), "epochs": 60, "lr": 0.01, "random_state": 0, "stop": 1.0}
    with pytest.warns(UserWarning, match="no record is misclassified"):
        model = JTTNet(**memorise).fit(X, y)
    assert not model.error_set_.any()
    assert 0.1 < JTTNet(**memorise, cv=3).fit(X, y).error_set_.mean() < 0.6


def test_weights_count_in_both_trainings(spurious):
    X, y = spurious.X, spurious.y
    spoiled = np.arange(len(y)) % 3 > 0
    labels, weight = np.where(spoiled, 1 - y, y), (~spoiled).astype(float)
    for cv in (None, 2):
        model = JTTNet(**QUICK, cv=cv).fit(X, labels, sample_weight=weight)
        assert (model.predict(X) == y).mean() > 0.8
        assert model.error_set_[spoiled].mean() > 0.5 > model.error_set_[~spoiled].mean()
    model = LfFNet(**QUICK).fit(X, labels, sample_weight=weight)
    assert (model.predict(X) == y).mean() > 0.8


# --- learning from failure -------------------------------------------------------------------------------


def test_generalised_cross_entropy_lies_between_cross_entropy_and_the_chance_of_an_error():
    p = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    np.testing.assert_allclose(
        generalized_cross_entropy(-p.log(), 0.7), (1 - p**0.7) / 0.7, rtol=1e-12
    )
    np.testing.assert_allclose(generalized_cross_entropy(-p.log(), 1.0), 1 - p, rtol=1e-10)
    np.testing.assert_allclose(generalized_cross_entropy(-p.log(), 1e-9), -p.log(), rtol=1e-7)
    assert torch.equal(generalized_cross_entropy(-p.log(), 0.0), -p.log())


def test_the_gradient_of_the_generalised_cross_entropy_favours_what_is_already_right():
    """d GCE = p^q d CE (equation 3 of the paper)."""
    z = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    losses = -torch.nn.functional.logsigmoid(z)
    generalized_cross_entropy(losses, 0.7).sum().backward()
    p = torch.sigmoid(z.detach())
    np.testing.assert_allclose(z.grad, p**0.7 * -(1 - p), rtol=1e-12)


def test_difficulty_is_the_share_of_the_biased_loss():
    found = relative_difficulty(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([3.0, 1.0, 0.0]))
    assert found.tolist() == [0.25, 0.0, 0.5]


def test_the_biased_network_fails_where_the_easy_rule_does(spurious):
    X, y = spurious.X, spurious.y
    model = LfFNet(**{**QUICK, "epochs": 20}).fit(X, y)
    minority = y != spurious.attribute
    with torch.no_grad():
        biased = model.biased_module_(torch.tensor(X, dtype=torch.float32)).argmax(1).numpy()
    errors = biased != y
    assert errors[minority].mean() > 5 * errors[~minority].mean()
    assert model.difficulty_[minority].mean() > model.difficulty_[~minority].mean() + 0.1
    assert ((model.difficulty_ >= 0) & (model.difficulty_ <= 1)).all()


# --- both ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [JTTNet(**QUICK), JTTNet(**QUICK, cv=2), LfFNet(**QUICK, module__dropout=0.2)]
)
def test_an_interrupted_run_goes_on_to_the_same_result(spurious, tmp_path, monkeypatch, model):
    from statml.adapters._net import Progress

    class Interrupted(Exception):
        pass

    X, y = spurious.X, spurious.y
    whole = clone(model).fit(X, y)
    after, seen = Progress.on_epoch_end, []
    for stop in (3, 8):

        def stopping(self, net, stop=stop, **kwargs):
            seen.append(1)
            if len(seen) == stop:
                raise Interrupted
            after(self, net, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "on_epoch_end", stopping)
            with pytest.raises(Interrupted):
                clone(model).set_params(checkpoint_dir=tmp_path).fit(X, y)
    rest = clone(model).set_params(checkpoint_dir=tmp_path).fit(X, y)
    np.testing.assert_array_equal(whole.predict_proba(X), rest.predict_proba(X))
    if isinstance(model, LfFNet):
        np.testing.assert_array_equal(whole.difficulty_, rest.difficulty_)
    else:
        np.testing.assert_array_equal(whole.error_set_, rest.error_set_)


@pytest.mark.parametrize("model", [JTTNet(**QUICK), LfFNet(**QUICK)])
def test_seeds_files_and_pickles(spurious, tmp_path, model):
    X, y = spurious.X, spurious.y
    before = torch.get_rng_state()
    one, two = clone(model).fit(X, y), clone(model).fit(X, y)
    other = clone(model).set_params(random_state=1).fit(X, y)
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    assert np.abs(one.predict_proba(X) - other.predict_proba(X)).max() > 1e-4
    assert torch.equal(before, torch.get_rng_state())
    one.save(tmp_path / "model.safetensors")
    for again in (
        type(model).load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(one)),
    ):
        np.testing.assert_array_equal(one.predict_proba(X), again.predict_proba(X))
        name = "error_set_" if isinstance(model, JTTNet) else "difficulty_"
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        if isinstance(model, LfFNet):
            x = torch.tensor(X, dtype=torch.float32)
            assert torch.equal(one.biased_module_(x), again.biased_module_(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (JTTNet(upweight=0), "upweight must be a finite number > 0"),
        (JTTNet(stop=0.0), r"stop must be a finite number in \(0, 1\]"),
        (JTTNet(cv=1), "cv must be an integer >= 2"),
        (LfFNet(gce_q=1.5), r"gce_q must be a finite number in \[0, 1\]"),
        (LfFNet(accelerate={}), "accelerate must be None for LfFNet"),
    ],
)
def test_unusable_parameters_are_refused_by_name(spurious, model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(spurious.X, spurious.y)


@pytest.mark.parametrize(
    "model", [JTTNet(**QUICK), LfFNet(**QUICK), GroupDRONet(**QUICK), AGRONet(**QUICK, cv=2)]
)
def test_predictions_do_not_depend_on_the_other_records(spurious, model):
    model.fit(spurious.X, spurious.y)
    whole = model.predict_proba(spurious.X[:40])
    single = np.concatenate([model.predict_proba(spurious.X[k : k + 1]) for k in range(40)])
    np.testing.assert_allclose(single, whole, atol=1e-6)


# --- features --------------------------------------------------------------------------------------------


@parametrize_with_checks([NetFeatures(NetClassifier(epochs=2, random_state=0))])
def test_scikit_learn_takes_the_features_as_its_own(estimator, check):
    check(estimator)


def test_the_last_layer_on_the_features_is_the_network(spurious):
    network = NetClassifier(**QUICK).fit(spurious.X, spurious.y)
    features = NetFeatures(FrozenEstimator(network)).fit(spurious.X)
    F = features.transform(spurious.X)
    last = network.module_.layers[-1]
    with torch.no_grad():
        logits = last(torch.from_numpy(F)).numpy()
    np.testing.assert_array_equal(logits, network._outputs(spurious.X))
    assert features.get_feature_names_out().tolist()[:2] == ["netfeatures0", "netfeatures1"]
    first = NetFeatures(FrozenEstimator(network), layer="layers.1").fit(spurious.X)
    np.testing.assert_allclose(first.transform(spurious.X), spurious.X.astype(np.float32))


def test_deep_feature_reweighting_in_a_pipeline_serves_the_worst_group_better():
    """Three draws pooled: worst groups at 0.55 to 0.65 before and above 0.8 after."""
    before, after = [], []
    for seed in range(3):
        train = make_spurious_gaussians(n=1000, random_state=seed)
        few = make_spurious_gaussians(n=800, random_state=50 + seed)
        test = make_spurious_gaussians(n=4000, agreement=0.5, random_state=100 + seed)
        network = make_pipeline(StandardScaler(), NetClassifier(**QUICK)).fit(train.X, train.y)
        frozen = make_pipeline(
            FrozenEstimator(network[:-1]), NetFeatures(FrozenEstimator(network[-1])),
            DeepFeatureReweighting(n_retrains=5, random_state=0),
        ).fit(few.X, few.y, deepfeaturereweighting__groups=few.groups)  # fmt: skip
        for model, scores in ((network, before), (frozen, after)):
            scores.append(worst_group_score(test.y, model.predict(test.X), test.groups))
    assert np.mean(after) > np.mean(before) + 0.1


def test_what_has_no_features_is_refused(spurious):
    with pytest.raises(TypeError, match="estimator must be a network"):
        NetFeatures(StandardScaler()).fit(spurious.X, spurious.y)
    network = NetClassifier(**QUICK).fit(spurious.X, spurious.y)
    with pytest.raises(ValueError, match="layer must be one of layers, layers.0"):
        NetFeatures(FrozenEstimator(network), layer="head").fit(spurious.X)

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(10, 2))

        def forward(self, X):
            return X @ self.w

    bare = NetClassifier(Bare, epochs=1).fit(spurious.X, spurious.y)
    with pytest.raises(ValueError, match="Bare has no linear layer; name a layer"):
        NetFeatures(FrozenEstimator(bare)).fit(spurious.X)
