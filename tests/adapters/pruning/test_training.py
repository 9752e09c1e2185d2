"""Masks in the course of a training, seen after every step; and the callback for skorch."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

torch = pytest.importorskip("torch")

from skorch import NeuralNetClassifier, NeuralNetRegressor  # noqa: E402
from skorch.callbacks import Callback  # noqa: E402
from statml.adapters import MLP, PruningCallback, PruningClassifier  # noqa: E402
from statml.adapters.pruning import GROWTHS, prunable_weights  # noqa: E402
from statml.adapters.pruning.growth.top_kast import TopKAST  # noqa: E402
from statml.adapters.pruning.training import Masking  # noqa: E402
from torch import nn  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32)[:600], y[:600]


class Look(Callback):
    """Checks weights, optimizer state and counts after every step."""

    def __init__(self, masking):
        self.masking, self.kept, self.steps = masking, [], 0

    def on_batch_end(self, net, training=True, **kwargs):
        engine = getattr(self.masking, "_engine", self.masking)
        reserve = isinstance(engine.growth, TopKAST)
        for name, keep in engine.masks.items():
            w = engine._parameters[name]
            assert (w[~keep] == 0).all(), name
            trained = engine.growth.trained(engine.masks)[name] if reserve else keep
            for value in net.optimizer_.state.get(w, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == w.shape:
                    assert (value[~trained] == 0).all(), name
        self.kept.append(sum(int(engine.masks[name].sum()) for name in engine.weights))
        self.steps += 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", torch.optim.RAdam])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "cubic"},
        {"criterion": "l1"},
        {"criterion": "vd"},
        {"growth": "set", "criterion": "random"},
        {"growth": "rigl", "criterion": "random"},
        {"growth": "snfs", "criterion": "random"},
        {"growth": "topkast", "criterion": "random"},
    ],
    ids=lambda c: "-".join(map(str, c.values())) or "default",
)
def test_weights_and_state_are_exactly_zero_after_every_step(
    changes, optimizer, digits, monkeypatch
):
    looks = []
    start = Masking.on_train_begin

    def on_train_begin(self, net, **kwargs):
        start(self, net, **kwargs)
        looks.append(Look(self))
        net.callbacks_.append(("look", looks[-1].initialize()))

    monkeypatch.setattr(Masking, "on_train_begin", on_train_begin)
    PruningClassifier(
        module__hidden=(16, 12),
        epochs=3,
        sparsity=0.7,
        fraction=0.6,
        optimizer=optimizer,
        lr=0.05 if optimizer == "sgd" else 0.005,
        weight_decay=1e-2,
        random_state=0,
        **changes,
    ).fit(*digits)
    assert sum(look.steps for look in looks) >= 15
    n = 64 * 16 + 16 * 12
    assert looks[-1].kept[-1] == n - round(0.7 * n)
    if changes.get("schedule") == "cubic":
        kept = looks[-1].kept
        assert sorted(kept, reverse=True) == kept
        assert len(set(kept)) > 5


def test_an_optimizer_that_moves_what_is_at_rest_is_held_too(digits):
    class Drifting(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.add_(1e-3)
            return loss

    model = PruningClassifier(
        module__hidden=(16,),
        epochs=2,
        sparsity=0.5,
        schedule="one-shot",
        optimizer=Drifting,
        lr=0.05,
        random_state=0,
    ).fit(*digits)
    w = model.module_.layers[1].weight.detach().numpy()
    assert (w[~model.masks_["layers.1.weight"]] == 0).all()


def test_top_kast_lets_weights_come_back_from_the_reserve(digits):
    X, y = digits
    model = PruningClassifier(
        module__hidden=(32, 16),
        epochs=20,
        batch_size=32,
        sparsity=0.8,
        growth="topkast",
        scope="erk",
        random_state=0,
    ).fit(X, y)
    start = PruningClassifier(
        module__hidden=(32, 16),
        epochs=0,
        sparsity=0.8,
        schedule="static",
        scope="erk",
        random_state=0,
    ).fit(X, y)
    moved = sum(int((model.masks_[n] & ~start.masks_[n]).sum()) for n in model.masks_)
    assert moved > 0
    assert model.score(X, y) > 0.5


def skorch_net(callback, **kwargs):
    return NeuralNetClassifier(
        MLP,
        module__n_inputs=64,
        module__n_outputs=10,
        module__hidden=(24, 16),
        criterion=nn.CrossEntropyLoss,
        lr=0.1,
        max_epochs=6,
        callbacks=[("pruning", callback)],
        verbose=0,
        **kwargs,
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"criterion": "taylor", "structure": "channel", "sparsity": 0.5},
        {"criterion": "movement", "scope": "erk"},
        {"criterion": "snip", "schedule": "static"},
        {"criterion": "random", "scope": "erk", "growth": "rigl"},
        {"criterion": "obd", "score_records": 64},
    ],
    ids=lambda c: "-".join(map(str, c.values())) or "default",
)
def test_the_callback_prunes_any_skorch_net(parameters, digits):
    X, y = digits
    callback = PruningCallback(**parameters, random_state=0)
    torch.manual_seed(0)
    net = skorch_net(callback, optimizer__momentum=0.9).fit(X, y)
    pruning = dict(net.callbacks_)["pruning"]
    weights = prunable_weights(net.module_)
    n = sum(w.numel() for w in weights.values())
    zeros = sum(int((w[~pruning.masks_[name]] == 0).sum()) for name, w in weights.items())
    if parameters.get("structure") == "channel":
        assert zeros / n == pytest.approx(0.5, abs=0.03)
    else:
        assert zeros == round(0.9 * n) == n - sum(int(pruning.masks_[k].sum()) for k in weights)
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict(X), net.predict(X))
    net.set_params(callbacks__pruning__sparsity=0.5)
    assert (
        callback.get_params()["sparsity"] == 0.5
        or net.get_params()["callbacks__pruning__sparsity"] == 0.5
    )


def test_the_callback_takes_probabilities_and_regression(digits):
    X, y = digits

    class Probabilities(MLP):
        def forward(self, X):
            return super().forward(X).softmax(1)

    net = NeuralNetClassifier(
        Probabilities,
        module__n_inputs=64,
        module__n_outputs=10,
        module__hidden=(24, 16),
        max_epochs=2,
        callbacks=[PruningCallback("obs", sparsity=0.5, schedule="static", score_records=50)],
        verbose=0,
    ).fit(X, y)
    assert sum(int((w == 0).sum()) for w in prunable_weights(net.module_).values()) == round(
        0.5 * (64 * 24 + 24 * 16)
    )
    net = NeuralNetRegressor(
        MLP,
        module__n_inputs=64,
        module__n_outputs=1,
        module__hidden=(24,),
        max_epochs=2,
        callbacks=[PruningCallback("obd", sparsity=0.5, schedule="static", score_records=50)],
        verbose=0,
    ).fit(X, y.astype(np.float32)[:, None] / 10)
    assert int((net.module_.layers[1].weight == 0).sum()) == 64 * 24 // 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"schedule": "iterative"}, "within one training"),
        ({"criterion": "movement", "schedule": "static"}, "learned in training"),
        ({"criterion": "l0"}, "changes the forward pass"),
        ({"sparsity": 1.0}, "sparsity must be"),
        ({"criterion": "movement", "growth": "set"}, "learned in it"),
    ],
    ids=str,
)
def test_the_callback_names_what_does_not_go_together(parameters, message, digits):
    with pytest.raises(ValueError, match=message):
        skorch_net(PruningCallback(**parameters)).fit(*digits)


def test_growth_rules_have_names():
    assert GROWTHS.names() == ["rigl", "set", "snfs", "topkast"]
