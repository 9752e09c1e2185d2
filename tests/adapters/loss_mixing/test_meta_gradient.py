"""Meta-gradients against finite differences, an unrolled graph, per-sample gradients and the closed form."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy.optimize import root  # noqa: E402
from statml.adapters.loss_mixing import head_meta_gradient, meta_gradient  # noqa: E402
from statml.adapters.loss_mixing.auxiliary import Entropy, SoftTarget, Teacher, bind_losses  # noqa: E402
from statml.adapters.loss_mixing.head import (  # noqa: E402
    HeadCurvature,
    cross_entropy_slope,
    head_alignment,
    implicit_direction,
    logit_curvature,
)
from statml.adapters.loss_mixing.one_step import last_layer  # noqa: E402
from torch import nn  # noqa: E402
from torch.func import functional_call, grad, vmap  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

B, C, D, LR = 7, 3, 4, 0.3


def make_module(seed=0, **kwargs):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, C, **kwargs)).double()


def case(seed=0, module=None):
    """Module, batch, bound losses, weights, validation data; everything in double precision."""
    rng = np.random.default_rng(seed)
    X = torch.from_numpy(rng.normal(size=(B, D)))
    probs = rng.dirichlet(np.ones(C), size=B)
    y = np.array([0, 1, 2, 0, 1, -1, -1])
    aux = [Teacher(rng.normal(size=(B, C)), 4.0), SoftTarget(probs, np.arange(B) > 2)]
    losses = bind_losses(y, aux, np.arange(C), None, 4.0)
    weights = torch.from_numpy(rng.uniform(0.2, 1.5, size=(B, 3)))
    X_val = torch.from_numpy(rng.normal(size=(5, D)))
    y_val = torch.tensor([0, 1, 2, 0, 1])
    return module or make_module(seed), X, losses, weights, X_val, y_val


def as_function(losses):
    bound = losses.tensors("cpu", torch.float64)
    return lambda z: bound.losses(z, torch.arange(len(z)))


def validation_loss(module, X, function, weights, X_val, y_val, lookahead=1.0):
    """After one step of gradient descent, with a graph that reaches back to the weights."""
    params = dict(module.named_parameters())
    total = (weights * function(functional_call(module, params, (X,)))).sum(1).mean()
    slopes = torch.autograd.grad(total, list(params.values()), create_graph=True)
    moved = {n: p - LR * g for (n, p), g in zip(params.items(), slopes, strict=True)}
    return cross_entropy(functional_call(module, moved, (X_val,)), y_val)


def test_a_linear_model_with_two_records_computed_by_hand():
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(module.weight)
    x, t = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[0.0], [1.0]]).double()
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    for method in ("forward", "reverse", "head"):
        got = meta_gradient(
            module, x, lambda z: (z - t) ** 2 / 2, torch.ones(2, 1).double(), one, zero,
            lr=0.1, method=method, val_loss=lambda z, y: ((z - y) ** 2 / 2).mean(),
        )  # fmt: skip
        np.testing.assert_allclose(got[:, 0], [-0.0425, -0.085], rtol=1e-12)


@pytest.mark.parametrize("method", ["full", "forward", "reverse"])
def test_the_full_gradient_is_that_of_an_unrolled_step_and_of_finite_differences(method):
    module, X, losses, weights, X_val, y_val = case()
    function = as_function(losses)
    got = meta_gradient(module, X, function, weights, X_val, y_val, lr=LR, method=method)
    free = weights.clone().requires_grad_()
    after = validation_loss(module, X, function, free, X_val, y_val)
    (unrolled,) = torch.autograd.grad(after, free)
    np.testing.assert_allclose(got, unrolled, atol=1e-15)
    h = 1e-5
    for i, k in [(0, 0), (3, 1), (6, 2), (1, 2)]:
        up, down = weights.clone(), weights.clone()
        up[i, k] += h
        down[i, k] -= h
        slope = [validation_loss(module, X, function, w, X_val, y_val).item() for w in (up, down)]
        assert abs(got[i, k].item() - (slope[0] - slope[1]) / (2 * h)) < 1e-10


@pytest.mark.parametrize("lookahead", [0.0, 0.5, 1.0])
def test_it_is_the_product_with_the_gradient_of_every_record_by_itself(lookahead):
    module, X, losses, weights, X_val, y_val = case(1)
    params = {n: p.detach() for n, p in module.named_parameters()}
    bound = losses.tensors("cpu", torch.float64)

    def one(p, x, i, k):
        z = functional_call(module, p, (x[None],))
        return bound.losses(z, i[None])[0, k]

    slopes = [
        vmap(grad(lambda p, x, i, k=k: one(p, x, i, k)), (None, 0, 0))(params, X, torch.arange(B))
        for k in range(3)
    ]
    g = {
        n: sum(
            (weights[:, k].view(-1, *[1] * params[n].ndim) * slopes[k][n]).mean(0) for k in range(3)
        )
        for n in params
    }
    moved = {n: (params[n] - lookahead * LR * g[n]).requires_grad_() for n in params}
    v = torch.autograd.grad(
        cross_entropy(functional_call(module, moved, (X_val,)), y_val), list(moved.values())
    )
    expected = torch.stack(
        [
            -LR / B * sum((s[n] * d).flatten(1).sum(1) for n, d in zip(params, v, strict=True))
            for s in slopes
        ],
        dim=1,
    )
    function = as_function(losses)
    for method in ("forward", "reverse", "full"):
        got = meta_gradient(
            module, X, function, weights, X_val, y_val, lr=LR, lookahead=lookahead, method=method
        )
        np.testing.assert_allclose(got, expected, atol=1e-15)


@pytest.mark.parametrize("bias", [True, False])
def test_for_a_linear_network_the_head_is_the_whole(bias):
    torch.manual_seed(0)
    module, X, losses, weights, X_val, y_val = case(
        2, nn.Sequential(nn.Flatten(), nn.Linear(D, C, bias=bias)).double()
    )
    function = as_function(losses)
    head, full = (
        meta_gradient(module, X, function, weights, X_val, y_val, lr=LR, method=method)
        for method in ("head", "full")
    )
    np.testing.assert_allclose(head, full, atol=1e-15)
    W = module[1].weight.detach().numpy()
    b = module[1].bias.detach().numpy() if bias else None
    if bias:
        z = X.numpy() @ W.T + b
        closed = head_meta_gradient(
            W, b, X.numpy(), losses.gradients(z, np.arange(B)), weights.numpy(), X_val.numpy(),
            np.eye(C)[y_val], LR,
        )  # fmt: skip
        np.testing.assert_allclose(closed, full, atol=1e-15)


def test_the_head_is_what_unrolling_gives_when_only_the_last_layer_moves():
    module, X, losses, weights, X_val, y_val = case(3)
    got = meta_gradient(module, X, as_function(losses), weights, X_val, y_val, lr=LR, method="head")
    for part in module[:2].parameters():
        part.requires_grad_(False)
    full = meta_gradient(module, X, as_function(losses), weights, X_val, y_val, lr=LR)
    np.testing.assert_allclose(got, full, atol=1e-15)


def test_a_preconditioner_stretches_the_step():
    """Adam's, say: the same as unrolling a step that is stretched."""
    module, X, losses, weights, X_val, y_val = case(4)
    function = as_function(losses)
    rng = torch.Generator().manual_seed(0)
    scale = {
        n: torch.rand(p.shape, generator=rng, dtype=torch.float64) + 0.5
        for n, p in module.named_parameters()
    }
    free = weights.clone().requires_grad_()
    params = dict(module.named_parameters())
    total = (free * function(module(X))).sum(1).mean()
    slopes = torch.autograd.grad(total, list(params.values()), create_graph=True)
    moved = {n: p - LR * scale[n] * g for (n, p), g in zip(params.items(), slopes, strict=True)}
    after = cross_entropy(functional_call(module, moved, (X_val,)), y_val)
    (expected,) = torch.autograd.grad(after, free)
    for method in ("forward", "reverse"):
        got = meta_gradient(
            module, X, function, weights, X_val, y_val, lr=LR, method=method, scale=scale
        )
        np.testing.assert_allclose(got, expected, atol=1e-15)


def test_eulers_identity_and_the_order_of_the_records():
    module, X, losses, weights, X_val, y_val = case(5)
    function = as_function(losses)
    arguments = {"lr": LR, "lookahead": 0.0}
    M = -B / LR * meta_gradient(module, X, function, weights, X_val, y_val, **arguments)
    params = list(module.parameters())
    trained = torch.autograd.grad((weights * function(module(X))).sum(1).mean(), params)
    v = torch.autograd.grad(cross_entropy(module(X_val), y_val), params)
    product = sum((a * b).sum() for a, b in zip(trained, v, strict=True))
    np.testing.assert_allclose((weights * M).sum().item(), B * product.item(), rtol=1e-12)
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    bound = losses.tensors("cpu", torch.float64)
    permuted = meta_gradient(
        module,
        X[order],
        lambda z: bound.losses(z, order),
        weights[order],
        X_val,
        y_val,
        **arguments,
    )
    np.testing.assert_allclose(permuted, -LR / B * M[order], atol=1e-15)


def test_equal_losses_have_equal_gradients_and_flipped_labels_the_odds():
    module, X, _, _, X_val, y_val = case(6, nn.Linear(D, 2).double())
    one_hot = np.eye(2)[np.array([0, 1, 0, 1, 0, 1, 0])]
    y = np.array([0, 1, 0, 1, 0, 1, 0])
    losses = bind_losses(y, [SoftTarget(one_hot), SoftTarget(1 - one_hot)], np.arange(2), None, 1.0)
    weights = torch.ones(B, 3).double()
    M = meta_gradient(
        module, X, as_function(losses), weights, X_val, y_val.clamp(max=1), lr=LR, lookahead=0.0
    )
    np.testing.assert_allclose(M[:, 0], M[:, 1], rtol=1e-12)
    p = module(X).softmax(1)[:, 1].detach()
    as_0, as_1 = (
        torch.where(torch.tensor(y == 0), M[:, 0], M[:, 2]),
        torch.where(torch.tensor(y == 1), M[:, 0], M[:, 2]),
    )
    np.testing.assert_allclose(as_0 / as_1, -p / (1 - p), rtol=1e-10)


@pytest.mark.parametrize("method", ["full", "head"])
def test_a_small_step_of_the_weights_lowers_the_validation_loss(method):
    for seed in range(5):
        module, X, losses, weights, X_val, y_val = case(seed)
        if method == "head":
            for part in module[:2].parameters():
                part.requires_grad_(False)
        function = as_function(losses)
        slope = meta_gradient(module, X, function, weights, X_val, y_val, lr=LR, method=method)
        with torch.no_grad():
            other = weights - 1e-2 * slope / slope.norm()
        if method == "head":
            for part in module.parameters():
                part.requires_grad_(True)
            frozen = nn.Sequential(module[2]).double()
            X, X_val = module[:2](X).detach(), module[:2](X_val).detach()
            module = frozen
        before, after = (
            validation_loss(module, X, function, w, X_val, y_val).item() for w in (weights, other)
        )
        assert after < before


def test_the_module_is_left_as_it_was():
    """Mode of each part, running statistics, gradients; and dropout does not disturb the result."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(D, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, C)
    ).double()
    module[1].running_mean.normal_()
    module[1].eval()
    _, X, losses, weights, X_val, y_val = case(7)
    state = {name: v.clone() for name, v in module.state_dict().items()}
    module[0].weight.grad = torch.ones_like(module[0].weight)
    seed = torch.get_rng_state()
    results = {
        method: [
            meta_gradient(
                module, X, as_function(losses), weights, X_val, y_val, lr=LR, method=method
            )
            for _ in range(2)
        ]
        for method in ("forward", "reverse", "head")
    }
    for one, two in results.values():
        assert torch.equal(one, two)
    np.testing.assert_allclose(results["forward"][0], results["reverse"][0], atol=1e-15)
    assert [part.training for part in module[:3]] == [True, False, True]
    assert all(torch.equal(v, state[name]) for name, v in module.state_dict().items())
    assert (module[0].weight.grad == 1).all()
    assert all(p.grad is None for p in list(module.parameters())[1:])
    assert torch.equal(seed, torch.get_rng_state())


def test_any_module_will_do():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.GroupNorm(1, 3), nn.GELU(), nn.Flatten(),
        nn.Linear(3, C),
    ).double()  # fmt: skip
    module[1].weight.requires_grad_(False)  # a part that is not trained
    module, X, losses, weights, X_val, y_val = case(8, module)
    one, two = (
        meta_gradient(module, X, as_function(losses), weights, X_val, y_val, lr=LR, method=method)
        for method in ("forward", "reverse")
    )
    assert one.abs().max() > 0
    np.testing.assert_allclose(one, two, atol=1e-15)


def test_what_is_no_loss_a_record_is_refused():
    module, X, _, weights, X_val, y_val = case()
    for bad in (lambda z: z.mean(), lambda z: z.sum(1), lambda z: z[:3]):
        with pytest.raises(ValueError, match="one row of losses a record"):
            meta_gradient(module, X, bad, weights, X_val, y_val, lr=LR)
    with pytest.raises(ValueError, match='method must be "full", "forward"'):
        meta_gradient(module, X, lambda z: z, weights, X_val, y_val, lr=LR, method="fast")


def test_a_head_that_is_not_linear_is_refused_with_the_remedy():
    module = nn.Sequential(nn.Linear(D, C), nn.ReLU())
    with pytest.raises(
        ValueError, match='whose outputs are those of an nn.Linear; use meta="full"'
    ):
        last_layer(module, torch.ones(3, D))
    assert last_layer(make_module(), torch.ones(3, D).double())[0] == "2"


# --- implicit ---------------------------------------------------------------------------------------


def test_the_implicit_gradient_is_that_of_the_minimum():
    """Minimise anew with one weight changed, and look how the validation loss moved."""
    rng = np.random.default_rng(0)
    n, l2 = 30, 0.05
    H, H_val = rng.normal(size=(n, 2)), rng.normal(size=(6, 2))
    y, y_val = rng.integers(0, C, n), np.eye(C)[rng.integers(0, C, 6)]
    aux = [Teacher(rng.normal(size=(n, C)), 3.0), Entropy(), lambda z, i: z.square().sum(1)]
    losses = bind_losses(y, aux, np.arange(C), None, 3.0)
    weights = rng.uniform(0.1, 1.0, size=(n, 4))
    weights[:, 2] *= 0.1  # the entropy is not convex
    index = np.arange(n)

    def minimum(weights):
        def slope(v):
            W, b = v[: 2 * C].reshape(C, 2), v[2 * C :]
            z = H @ W.T + b
            G = (weights[:, :, None] * losses.gradients(z, index)).sum(axis=1) / n
            return np.concatenate([(G.T @ H).ravel(), G.sum(axis=0)]) + l2 * v

        found = root(slope, np.zeros(3 * C), tol=1e-13)
        assert np.abs(slope(found.x)).max() < 1e-12
        return found.x[: 2 * C].reshape(C, 2), found.x[2 * C :]

    def val_loss(W, b):
        z = H_val @ W.T + b
        return np.mean(np.log(np.exp(z).sum(axis=1)) - (y_val * z).sum(axis=1))

    W, b = minimum(weights)
    D = cross_entropy_slope(H_val @ W.T + b, y_val)
    A = logit_curvature(losses, H @ W.T + b, index, weights)
    direction = implicit_direction(H, A, (D.T @ H_val, D.sum(axis=0)), l2)
    got = -head_alignment(H, losses.gradients(H @ W.T + b, index), direction) / n
    h = 1e-3
    for i, k in [(0, 0), (4, 1), (9, 2), (11, 3)]:
        up, down = weights.copy(), weights.copy()
        up[i, k] += h
        down[i, k] -= h
        slope = (val_loss(*minimum(up)) - val_loss(*minimum(down))) / (2 * h)
        assert abs(got[i, k] - slope) < 1e-5 * abs(got).max()


def test_products_by_the_curvature_are_those_of_its_matrix(monkeypatch):
    rng = np.random.default_rng(1)
    H, A = rng.normal(size=(20, 3)), rng.normal(size=(20, 2, 2))
    A = A @ A.transpose(0, 2, 1)
    curvature = HeadCurvature(H, A, 0.1)
    V = rng.normal(size=(4, 8))
    np.testing.assert_allclose(curvature.matvec(V), V @ curvature.dense(), rtol=1e-10)
    direction = (rng.normal(size=(2, 3)), rng.normal(size=2))
    direct = implicit_direction(H, A, direction, 0.1)
    monkeypatch.setattr("statml.adapters.loss_mixing.head.DIRECT_SIZE", 0)
    iterated = implicit_direction(H, A, direction, 0.1)
    np.testing.assert_allclose(direct[0], iterated[0], rtol=1e-4, atol=1e-6)
