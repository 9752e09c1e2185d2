"""The torch oracle: equal to closed forms, to autograd by hand and to finite differences; methods on networks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge

from statml.influence import (
    TRAK,
    HyDRA,
    InfluenceFunction,
    RepresenterPoint,
    SGDInfluence,
    Source,
    TracIn,
    make_oracle,
    record_sgd,
)
from statml.influence.oracle import GradientOracle

torch = pytest.importorskip("torch")

from statml.adapters import NetClassifier  # noqa: E402
from statml.adapters.influence import TorchOracle  # noqa: E402
from torch import nn  # noqa: E402

# networks in these tests are hardly trained, which influence functions rightly say
pytestmark = pytest.mark.filterwarnings("ignore:the fit has not converged:UserWarning")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mlp(n_inputs=4, n_hidden=5, n_outputs=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(n_inputs, n_hidden), nn.Tanh(), nn.Linear(n_hidden, n_outputs))


def labels(loss_fn, n, rng):
    return {
        "cross_entropy": lambda: rng.permutation(np.arange(n) % 3),
        "binary_cross_entropy": lambda: rng.permutation(np.arange(n) % 2),
        "squared_error": lambda: rng.normal(size=n),
    }[loss_fn]()


def small(loss_fn="cross_entropy", seed=0, n=20, **arguments):
    rng = np.random.default_rng(seed)
    module = mlp(n_outputs=3 if loss_fn == "cross_entropy" else 1, seed=seed)
    X, y = rng.normal(size=(n, 4)), labels(loss_fn, n, rng)
    weight = rng.uniform(0.5, 2, n)
    arguments = {"l2": 0.01, "sample_weight": weight, "batch_size": 7, **arguments}
    return TorchOracle(module, loss_fn, X, y, **arguments)


cases = st.builds(
    small,
    st.sampled_from(["cross_entropy", "binary_cross_entropy", "squared_error"]),
    st.integers(0, 50),
)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X, y = X[:150] / 16, y[:150]
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    linear = nn.Linear(64, 10).double()
    with torch.no_grad():
        linear.weight.copy_(torch.as_tensor(model.coef_))
        linear.bias.copy_(torch.as_tensor(model.intercept_))
    return model, linear, X, y


# --- against closed forms -------------------------------------------------------------------------------


def test_a_linear_network_has_the_derivatives_of_the_softmax_model(digits):
    model, linear, X, y = digits
    torch_side, glm = TorchOracle(linear, X=X, y=y), make_oracle(model, X, y)
    # here [W | b] row by row, there [b | W]
    order = np.arange(650).reshape(10, 65)[:, [*range(1, 65), 0]].ravel()
    ours, theirs = torch_side.prepare(X, y), glm.prepare(X, y)
    V = np.random.default_rng(0).normal(size=(650, 3))
    shuffled = np.empty_like(V)
    shuffled[order] = V
    ridge = glm.regulariser()[:, None] * shuffled
    pairs = [
        (torch_side.theta, glm.theta[order]),
        (torch_side.loss(*ours), glm.loss(*theirs)),
        (torch_side.grad(*ours), glm.grad(*theirs)[:, order]),
        (torch_side.hvp(V), (glm.hvp(shuffled) - ridge)[order]),
        (torch_side.ggn_vp(V), (glm.hvp(shuffled) - ridge)[order]),
        (torch_side.grad_sum(V[:150, :2], *ours), glm.grad_sum(V[:150, :2], *theirs)[order]),
    ]
    for target in ("margin", "prediction"):
        pairs.append((torch_side.output(*ours, target), glm.output(*theirs, target)))
        pairs.append(
            (torch_side.output_grad(*ours, target), glm.output_grad(*theirs, target)[:, order])
        )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_influence_functions_of_a_ridge_network_are_those_of_ridge_regression():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X @ [1.0, -1.0, 0.5] + rng.normal(size=60)
    model = Ridge(alpha=6.0, fit_intercept=False).fit(X, y)
    linear = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.as_tensor(model.coef_[None]))
    oracle = TorchOracle(linear, "squared_error", X, y, l2=0.1)
    I = InfluenceFunction(damping=0.0).fit(oracle).influence(X, y)
    np.testing.assert_allclose(I, InfluenceFunction().fit(model, X, y).influence(X, y), rtol=1e-8)


# --- against autograd and finite differences ------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(cases)
def test_record_gradients_are_those_of_one_record_at_a_time(oracle):
    G = oracle.grad(oracle.X, oracle.y)
    flat = torch.tensor(oracle.theta, requires_grad=True)
    for i in (0, 11):
        value = oracle._record_loss(flat, oracle.X[i], oracle.y[i])
        (expected,) = torch.autograd.grad(value, flat)
        np.testing.assert_allclose(G[i], expected.numpy(), rtol=1e-9, atol=1e-12)


@settings(max_examples=6, deadline=None)
@given(cases, st.sampled_from(["loss", "margin", "prediction"]))
def test_gradients_of_all_targets_are_finite_differences(oracle, target):
    v = np.random.default_rng(1).normal(size=oracle.n_params)
    h = 1e-5
    up = oracle.value(oracle.X, oracle.y, target, oracle.theta + h * v)
    down = oracle.value(oracle.X, oracle.y, target, oracle.theta - h * v)
    slope = oracle.value_grad(oracle.X, oracle.y, target) @ v
    np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=1e-6, atol=1e-7)


@settings(max_examples=6, deadline=None)
@given(cases)
def test_hessian_products_are_differences_of_the_objectives_gradient(oracle):
    v = np.random.default_rng(2).normal(size=oracle.n_params)
    h = 1e-5
    up, down = (oracle.objective_grad(oracle.theta + s * h * v) for s in (1, -1))
    np.testing.assert_allclose(oracle.hvp(v), (up - down) / (2 * h), rtol=1e-5, atol=1e-7)


@settings(max_examples=6, deadline=None)
@given(cases)
def test_gauss_newton_is_the_same_by_products_factors_and_matrix(oracle):
    V = np.random.default_rng(3).normal(size=(oracle.n_params, 19))  # more than one set of columns
    F = oracle.ggn_factor(oracle.X, oracle.y)
    weight = np.repeat(oracle.sample_weight, len(F) // oracle.n_train)
    expected = (F * weight[:, None]).T @ (F @ V) / oracle.n_train + oracle.l2 * V
    np.testing.assert_allclose(oracle.ggn_vp(V), expected, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(oracle.ggn() @ V, expected, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(GradientOracle.ggn(oracle), oracle.ggn(), rtol=1e-8, atol=1e-11)
    assert np.linalg.eigvalsh(oracle.ggn())[0] > 0


@settings(max_examples=5, deadline=None)
@given(cases)
def test_layer_factors_multiply_to_the_gradients(oracle):
    factors = oracle.layer_factors(oracle.X, oracle.y)
    blocks = [np.einsum("no,ni->noi", d, a).reshape(len(a), -1) for a, d in factors]
    np.testing.assert_allclose(np.hstack(blocks), oracle.grad(oracle.X, oracle.y), atol=1e-12)


class Convolutional(nn.Module):
    """A convolution with an activation in place, a sequence layer passed at several positions, and a head."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.mix = nn.Linear(16, 4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12, 10, bias=False)

    def forward(self, x):
        x = torch.relu_(self.convolution(x.reshape(-1, 1, 8, 8)))
        x = torch.tanh(self.mix(self.norm(x).flatten(2)))
        return self.head(self.drop(x.flatten(1)))


def test_convolutions_and_sequences_sum_over_positions():
    X, y = load_digits(return_X_y=True)
    torch.manual_seed(0)
    module = Convolutional()
    names = [n for n, _ in module.named_parameters() if not n.startswith("norm")]
    oracle = TorchOracle(module, X=X[:30] / 16, y=y[:30], params=names)
    assert oracle.layers == ["convolution", "mix", "head"]
    factors = oracle.layer_factors(oracle.X, oracle.y)
    assert [a.shape for a, _ in factors] == [(30, 16, 10), (30, 3, 17), (30, 12)]
    blocks = [
        np.einsum("no,ni->noi" if a.ndim == 2 else "nto,nti->noi", d, a).reshape(30, -1)
        for a, d in factors
    ]
    np.testing.assert_allclose(np.hstack(blocks), oracle.grad(oracle.X, oracle.y), atol=1e-12)
    for solver in ("ekfac", "logra"):
        method = InfluenceFunction(solver, random_state=0).fit(oracle)
        assert np.isfinite(method.influence(X[:3] / 16, y[:3])).all()
    everything = TorchOracle(module, X=X[:30] / 16, y=y[:30])
    assert everything.layer_factors(everything.X, everything.y) is None
    with pytest.raises(ValueError, match="does not split into layers"):
        InfluenceFunction("ekfac").fit(everything)
    assert np.isfinite(InfluenceFunction("cg").fit(everything).influence(X[:3] / 16, y[:3])).all()


def test_a_tied_parameter_is_no_layer_and_its_gradient_counts_both_uses():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(torch.tanh(self.one(x)))

    torch.manual_seed(0)
    oracle = TorchOracle(Tied(), X=np.random.default_rng(0).normal(size=(8, 4)), y=np.arange(8) % 4)
    assert "one" not in oracle.layers
    v = np.random.default_rng(1).normal(size=oracle.n_params)
    up, down = (oracle.loss(oracle.X, oracle.y, oracle.theta + s * 1e-5 * v) for s in (1, -1))
    np.testing.assert_allclose(
        oracle.grad(oracle.X, oracle.y) @ v, (up - down) / 2e-5, rtol=1e-6, atol=1e-8
    )


def test_named_losses_equal_torchs_own_also_where_those_average():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 4))
    for name, module, loss, y, factor in [
        ("cross_entropy", mlp(), nn.CrossEntropyLoss(), rng.integers(0, 3, 12), 1.0),
        ("squared_error", mlp(n_outputs=2), nn.MSELoss(), rng.normal(size=(12, 2)), 1.0),
        (
            "squared_error",
            mlp(n_outputs=1),
            nn.MSELoss(reduction="sum"),
            rng.normal(size=(12, 1)),
            0.5,
        ),
    ]:
        ours, theirs = TorchOracle(module, name, X, y), TorchOracle(module, loss, X, y)
        np.testing.assert_allclose(
            ours.grad(ours.X, ours.y), factor * theirs.grad(theirs.X, theirs.y), atol=1e-12
        )
        np.testing.assert_allclose(
            ours.hvp(np.eye(ours.n_params)), factor * theirs.hvp(np.eye(ours.n_params)), atol=1e-12
        )
    with pytest.raises(NotImplementedError, match="named"):
        theirs.output(theirs.X, theirs.y)


# --- the methods ----------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(cases, st.sampled_from([0.0, 0.8]))
def test_backwards_equals_forwards_through_a_network(oracle, momentum):
    run = record_sgd(oracle, lr=0.1, n_epochs=2, batch_size=6, momentum=momentum, random_state=0)
    X, y = oracle.X[:4], oracle.y[:4]
    forwards = HyDRA(trajectory=run).fit(oracle)
    I = forwards._influence(X, y, "loss")
    J = SGDInfluence(run).fit(oracle)._influence(X, y, "loss")
    np.testing.assert_allclose(J, I, rtol=1e-7, atol=1e-11)
    other = oracle.with_theta(oracle.theta)
    derivative = []
    for h in (1e-5, -1e-5):
        other.sample_weight = oracle.sample_weight.copy()
        other.sample_weight[5] *= 1 + h
        again = record_sgd(
            other, lr=0.1, n_epochs=2, batch_size=6, momentum=momentum, random_state=0
        )
        derivative.append(again.final)
    np.testing.assert_allclose(
        forwards.parameter_change([[5]])[0],
        -(derivative[0] - derivative[1]) / 2e-5,
        rtol=1e-5,
        atol=1e-8,
    )


def test_every_method_takes_a_network_bound_to_data_in_fit():
    X, y = load_digits(return_X_y=True)
    X, y = X[:80] / 16, y[:80]
    oracle = TorchOracle(mlp(64, 6, 10), "cross_entropy", l2=1e-3).bind(X, y)
    run = record_sgd(oracle, lr=0.3, n_epochs=5, random_state=0)
    trained = TorchOracle(mlp(64, 6, 10), "cross_entropy", l2=1e-3).with_theta(run.final)
    methods = [
        *(InfluenceFunction(s, damping=0.05, n_components=20, random_state=0)
          for s in ("direct", "cg", "lanczos", "nystrom", "ekfac", "datainf", "logra")),
        RepresenterPoint(), TracIn(run), TracIn(run, kind="fast"), TracIn(run, cosine=True, proj_dim=30),
        HyDRA(fast=True, trajectory=run), Source(2, run, n_checkpoints=2), TRAK(proj_dim=64, random_state=0),
    ]  # fmt: skip
    for method in methods:
        I = method.fit(trained, X, y).influence(X[:5], y[:5])
        assert I.shape == (5, 80), method
        assert np.isfinite(I).all(), method
        assert np.abs(I).max() > 0, method
        # a training record helps itself
        assert np.all(method.self_influence()[:5] > 0) or isinstance(method, Source), method


def test_estimators_of_the_package_pass_their_module_and_classes():
    X, y = load_digits(return_X_y=True)
    X, y = (X[:100] / 16).astype(np.float32), np.array([f"digit {k}" for k in y[:100]])
    net = NetClassifier(epochs=3, random_state=0, progress=False).fit(X, y)
    oracle = TorchOracle(net, X=X, y=y)
    log_p = np.log(net.predict_proba(X))
    own = np.searchsorted(net.classes_, y)
    np.testing.assert_allclose(
        oracle.loss(oracle.X, oracle.y), -log_p[np.arange(100), own], atol=1e-4
    )
    with pytest.raises(ValueError, match="labels that the network does not know"):
        oracle.prepare(X, np.array(["letter"] * 100))


def test_checkpoints_of_a_users_own_loop_become_vectors_and_back():
    module = mlp()
    oracle = TorchOracle(module)
    checkpoints = []
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    X = torch.randn(12, 4)
    y = torch.arange(12) % 3
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(X), y).backward()
        optimizer.step()
        checkpoints.append(oracle.vector({k: v.clone() for k, v in module.state_dict().items()}))
    np.testing.assert_array_equal(checkpoints[-1], oracle.vector(module))
    I = TracIn(checkpoints, 0.1).fit(oracle, X, y).influence(X[:2], y[:2])
    assert I.shape == (2, 12)
    fresh = mlp(seed=5)
    fresh.load_state_dict({k: v.float() for k, v in oracle.state(checkpoints[-1]).items()})
    torch.testing.assert_close(fresh(X), module(X))
    assert len(oracle.parameter_names) == len(set(oracle.parameter_names)) == oracle.n_params


def test_the_recorded_run_is_torchs_own_sgd():
    module = mlp().double()
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)), np.arange(20) % 3
    oracle = TorchOracle(module, X=X, y=y, l2=0.03)
    run = record_sgd(oracle, lr=0.2, n_epochs=3, batch_size=6, momentum=0.7, random_state=0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.7, weight_decay=0.03)
    for batch in run.batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            module(torch.as_tensor(X[batch])), torch.as_tensor(y[batch])
        ).backward()
        optimizer.step()
    np.testing.assert_allclose(run.final, oracle.vector(module), rtol=1e-10, atol=1e-12)


def test_the_users_module_is_left_alone():
    module = mlp().float().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    oracle = TorchOracle(module, X=np.ones((4, 4)), y=[0, 1, 2, 0])
    oracle.grad(oracle.X, oracle.y)
    InfluenceFunction("ekfac", damping=1.0, random_state=0).fit(oracle)
    assert module.training
    for k, v in module.state_dict().items():
        assert v.dtype == torch.float32
        torch.testing.assert_close(v, before[k])
        assert not module.get_parameter(k)._backward_hooks


def test_bad_input_is_refused_by_name():
    module = mlp()
    X, y = np.ones((6, 4)), np.arange(6) % 3
    with pytest.raises(TypeError, match="module must be"):
        TorchOracle(np.eye(3))
    with pytest.raises(ValueError, match="loss_fn must be"):
        TorchOracle(module, "hinge")
    with pytest.raises(ValueError, match="module lacks"):
        TorchOracle(module, params=["3.weight"])
    with pytest.raises(ValueError, match="does not know: \\[3\\]"):
        TorchOracle(module, X=X, y=[0, 1, 2, 3, 0, 1])
    with pytest.raises(ValueError, match="X must be finite"):
        TorchOracle(module, X=np.full((6, 4), np.nan), y=y)
    with pytest.raises(ValueError, match="same length"):
        TorchOracle(module, X=X, y=y[:4])
    for weight, message in (
        ([1, 2], "sample_weight.shape == \\(2,\\), expected \\(6,\\)"),
        ([1, 1, 1, 1, 1, -1], "Negative values in data passed to `sample_weight`"),
        (np.zeros(6), "Sample weights must contain at least one non-zero number"),
    ):
        with pytest.raises(ValueError, match=message):
            TorchOracle(module, X=X, y=y, sample_weight=weight)
    with pytest.raises(ValueError, match="X must hold real numbers"):
        TorchOracle(module, X=X + 1j, y=y)
    with pytest.raises(
        ValueError, match="records of shape \\(5,\\), which the network does not take"
    ):
        TorchOracle(module, X=np.ones((6, 5)), y=y)
    with pytest.raises(ValueError, match="X must hold numbers of at most"):
        TorchOracle(module, X=X * 1e300, y=y)
    with pytest.raises(ValueError, match="y must hold"):
        TorchOracle(module, X=X)
    with pytest.raises(TypeError, match="dtype must be"):
        TorchOracle(module, dtype=torch.int64)
    with pytest.raises(ValueError, match="training data, got None"):
        InfluenceFunction().fit(TorchOracle(module))
    oracle = TorchOracle(module, X=X, y=y)
    with pytest.raises(ValueError, match="records of shape"):
        oracle.prepare(np.ones((2, 5)))
    with pytest.raises(ValueError, match="lacks the parameters"):
        oracle.vector({})
    with pytest.raises(ValueError, match="y_test must be given"):
        oracle.output(oracle.X)


def test_half_the_memory_and_other_batches_give_the_same():
    a, b = small(batch_size=5), small(batch_size=100, memory_limit=8 * 43 * 9)
    np.testing.assert_allclose(a.grad(a.X, a.y), b.grad(b.X, b.y), atol=1e-14)
    np.testing.assert_allclose(a.ggn(), b.ggn(), atol=1e-13)
    I = InfluenceFunction("cg", damping=0.1).fit(a)._influence(a.X, a.y, "loss")
    J = InfluenceFunction("cg", damping=0.1).fit(b)._influence(b.X, b.y, "loss")
    np.testing.assert_allclose(I, J, atol=1e-6 * np.abs(I).max())
