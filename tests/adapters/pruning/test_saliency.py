"""Saliencies against closed forms, finite differences and independent computations."""

import copy
import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import integrate, stats

torch = pytest.importorskip("torch")

from statml.adapters import MLP  # noqa: E402
from statml.adapters.pruning import (  # noqa: E402
    SALIENCIES,
    full_masks,
    prunable_weights,
    prune,
    score_weights,
)
from statml.adapters.pruning.records import Scoring, as_batches, squared_error  # noqa: E402
from statml.adapters.pruning.saliency.hard_concrete import (  # noqa: E402
    HardConcrete,
    probability_open,
    sample_gate,
)
from statml.adapters.pruning.saliency.layerwise import (  # noqa: E402
    constrained_least_squares,
    greedy_removals,
)
from statml.adapters.pruning.saliency.synflow import linearised  # noqa: E402
from statml.adapters.pruning.saliency.variational_dropout import divergence  # noqa: E402
from statml.adapters.pruning.saliency.woodfisher import (  # noqa: E402
    WoodFisher,
    add_records,
    block_inverse_fisher,
)
from torch import nn  # noqa: E402

F = nn.functional


@pytest.fixture
def problem():
    torch.manual_seed(0)
    net = MLP(5, 3, hidden=(7, 6)).double()
    X, y = torch.randn(40, 5).double(), torch.randint(0, 3, (40,))
    return net, X, y


def scoring_of(net, X, y, loss=None, **kwargs):
    weights = prunable_weights(net, **kwargs)
    batches = list(zip(X.split(16), y.split(16), strict=True))
    extra = {} if loss is None else {"loss": loss}
    return Scoring(net, weights, full_masks(weights), batches, **extra)


def terms(criterion, scoring):
    return SALIENCIES.make(criterion).terms(scoring)


def test_obs_on_least_squares_is_the_rise_of_the_residual_sum_and_the_squared_t_statistic():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 5)), rng.normal(size=60)
    y += X @ np.array([1, 0.5, 0, -0.2, 2])
    fit = sm.OLS(y, X).fit()
    H = torch.tensor(2 * X.T @ X)  # of the residual sum of squares
    w = torch.tensor(fit.params)
    inverse = torch.linalg.inv(H)
    saliency = w**2 / (2 * inverse.diagonal())
    for i in range(5):
        without = sm.OLS(y, np.delete(X, i, 1)).fit()
        assert float(saliency[i]) == pytest.approx(without.ssr - fit.ssr, abs=1e-9)
    assert saliency.numpy() == pytest.approx(fit.tvalues**2 * fit.scale, rel=1e-9)
    # two at once: the refit, which the sum of the singles is not
    Q = [1, 4]
    set_cost = w[Q] @ torch.linalg.solve(inverse[Q][:, Q], w[Q]) / 2
    without = sm.OLS(y, np.delete(X, Q, 1)).fit()
    assert float(set_cost) == pytest.approx(without.ssr - fit.ssr, abs=1e-9)
    assert abs(float(set_cost - saliency[Q].sum())) > 1e-3
    keep = torch.ones(1, 5, dtype=torch.bool)
    keep[0, Q] = False
    refit = constrained_least_squares(w[None], H, keep)[0, [0, 2, 3]]
    assert refit.numpy() == pytest.approx(without.params, abs=1e-9)
    # greedy elimination goes the way of backward elimination
    order, cost = greedy_removals(w[None], inverse, torch.ones(1, 5, dtype=torch.bool))
    left, rss = list(range(5)), fit.ssr
    for step in range(5):
        options = {
            i: sm.OLS(y, X[:, [j for j in left if j != i]]).fit().ssr if len(left) > 1 else y @ y
            for i in left
        }
        best = min(options, key=options.get)
        assert int(order[0, step]) == best
        assert float(cost[0, step]) == pytest.approx(options[best] - rss, abs=1e-8)
        left.remove(best)
        rss = options[best]


def test_woodfisher_recursion_is_the_direct_inverse():
    torch.manual_seed(1)
    g = torch.randn(30, 2, 6).double()
    inverse = torch.eye(6).double().repeat(2, 1, 1) / 0.1
    for chunk in g.split(7):
        add_records(inverse, chunk, 30)
    for block in range(2):
        direct = 0.1 * torch.eye(6).double() + g[:, block].T @ g[:, block] / 30
        assert torch.allclose(inverse[block], torch.linalg.inv(direct), atol=1e-12, rtol=0)
        one = torch.eye(6).double() / 0.1
        for record in g[:, block]:  # Sherman and Morrison, one gradient after the other
            moved = one @ record
            one -= torch.outer(moved, moved) / (30 + record @ moved)
        assert torch.allclose(inverse[block], one, atol=1e-12, rtol=0)


def test_woodfisher_scores_use_the_fisher_matrix_of_single_records(problem):
    net, X, y = problem
    scoring = scoring_of(net, X, y)
    found = WoodFisher(block=64, damping=1e-2).terms(scoring)["layers.3.weight"]
    rows = []
    for i in range(len(X)):
        loss = F.cross_entropy(net(X[i : i + 1]), y[i : i + 1])
        rows.append(torch.autograd.grad(loss, net.layers[3].weight)[0].reshape(-1))
    g = torch.stack(rows)
    inverse = torch.linalg.inv(1e-2 * torch.eye(42).double() + g.T @ g / len(X))
    expected = net.layers[3].weight.detach().reshape(-1) ** 2 / (2 * inverse.diagonal())
    assert torch.allclose(found.reshape(-1), expected, rtol=1e-8)
    blocks = block_inverse_fisher(scoring, 10, 1e-2)["layers.3.weight"]
    assert blocks.shape == (5, 10, 10)
    direct = torch.linalg.inv(1e-2 * torch.eye(10).double() + g[:, 10:20].T @ g[:, 10:20] / len(X))
    assert torch.allclose(blocks[1], direct, rtol=1e-8)


def test_obd_curvature_is_the_hessian_of_a_linear_network(problem):
    _, X, _ = problem
    net = nn.Sequential(nn.Flatten(), nn.Linear(5, 2)).double()
    y = torch.randn(40, 2).double()
    found = terms("obd", scoring_of(net, X, y, squared_error, prune_output=True))["1.weight"]
    curvature = X.square().mean(0)  # of the mean over two outputs of the squared error
    expected = net[1].weight.detach() ** 2 * curvature / 2
    assert torch.allclose(found, expected, rtol=1e-10)


def test_obd_curvature_is_the_expected_squared_gradient_under_the_models_own_labels(problem):
    net, X, y = problem
    found = scoring_of(net, X, y).curvature_diagonal()
    expected = {name: torch.zeros_like(w) for name, w in prunable_weights(net).items()}
    for i in range(len(X)):
        logits = net(X[i : i + 1])
        probabilities = logits.softmax(1).detach()[0]
        for label in range(3):
            loss = F.cross_entropy(logits, torch.tensor([label]))
            for name, w in prunable_weights(net).items():
                g = torch.autograd.grad(loss, w, retain_graph=True)[0]
                expected[name] += probabilities[label] * g**2 / len(X)
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-8, atol=1e-12)


def test_snip_is_the_derivative_in_the_mask(problem):
    net, X, y = problem
    found = terms("snip", scoring_of(net, X, y))
    weights = prunable_weights(net)
    c = {name: torch.ones_like(w, requires_grad=True) for name, w in weights.items()}
    outputs = torch.func.functional_call(net, {n: w * c[n] for n, w in weights.items()}, (X,))
    grads = torch.autograd.grad(F.cross_entropy(outputs, y), list(c.values()))
    total = sum(g.abs().sum() for g in grads)
    for name, g in zip(c, grads, strict=True):
        assert torch.allclose(found[name], g / total, atol=1e-14, rtol=0)


def test_taylor_is_the_squared_first_order_change(problem):
    net, X, y = problem
    found = score_weights(net.float(), "taylor", (X.float(), y))["layers.1.weight"]
    net = net.double()
    base = F.cross_entropy(net(X), y).item()
    for i, j in ((0, 0), (3, 2)):
        changed = copy.deepcopy(net)
        with torch.no_grad():
            changed.layers[1].weight[i, j] *= 1 - 1e-6
        slope = (F.cross_entropy(changed(X), y).item() - base) / 1e-6
        assert float(found[i, j]) == pytest.approx(slope**2, rel=1e-3)


def test_grasp_is_half_the_derivative_of_the_squared_gradient_norm(problem):
    net, X, y = problem
    found = terms("grasp", scoring_of(net, X, y))
    weights = prunable_weights(net)

    def squared_norm(module):
        loss = F.cross_entropy(module(X), y)
        grads = torch.autograd.grad(loss, list(prunable_weights(module).values()))
        return sum((g**2).sum() for g in grads).item()

    for name, i, j in (("layers.1.weight", 2, 1), ("layers.3.weight", 0, 4)):
        values = []
        for h in (1e-5, -1e-5):
            changed = copy.deepcopy(net)
            with torch.no_grad():
                dict(changed.named_parameters())[name][i, j] += h
            values.append(squared_norm(changed))
        slope = (values[0] - values[1]) / 2e-5
        # removing w changes the norm by about -w times the slope
        expected = weights[name][i, j].item() * slope / 2
        assert float(found[name][i, j]) == pytest.approx(expected, abs=2e-8)


def test_synflow_conserves_the_flow_in_every_layer_and_unit(problem):
    net, X, y = problem
    found = terms("synflow", scoring_of(net, X, y, prune_output=True))
    flow = linearised(net)(torch.ones(1, 5).double()).sum().item()
    for values in found.values():
        assert float(values.sum()) == pytest.approx(flow, rel=1e-10)
    into, out = found["layers.1.weight"].sum(1), found["layers.3.weight"].sum(0)
    assert torch.allclose(into, out, rtol=1e-10)


def test_synflow_leaves_no_layer_empty_where_magnitude_in_one_shot_does():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 10)
    )
    with torch.no_grad():
        net[2].weight.mul_(0.1)
    X = torch.randn(4, 20)
    with pytest.warns(UserWarning, match=r"2\.weight"):
        prune(net, 0.99)
    _, masks = prune(net, 0.99, "synflow", (X, torch.zeros(4, dtype=torch.long)))
    assert all(m.any() for m in masks.values())


def test_rescaling_a_relu_unit_changes_magnitudes_but_no_loss_based_score(problem):
    net, X, y = problem
    same = copy.deepcopy(net)
    with torch.no_grad():
        same.layers[1].weight[2] *= 10
        same.layers[1].bias[2] *= 10
        same.layers[3].weight[:, 2] /= 10
    assert torch.allclose(net(X), same(X))
    for criterion in ("taylor", "snip", "obd", "synflow"):
        one, two = terms(criterion, scoring_of(net, X, y)), terms(criterion, scoring_of(same, X, y))
        assert all(torch.allclose(one[n], two[n], rtol=1e-8, atol=1e-14) for n in one), criterion
    one, two = (terms("magnitude", scoring_of(m, X, y)) for m in (net, same))
    assert not torch.allclose(one["layers.1.weight"], two["layers.1.weight"])


def test_wanda_is_the_weight_times_the_norm_of_its_input(problem):
    net, X, y = problem
    found = terms("wanda", scoring_of(net, X, y))
    hidden = net.layers[1](X).relu()
    for name, inputs in (("layers.1.weight", X), ("layers.3.weight", hidden)):
        expected = dict(net.named_parameters())[name].abs() * inputs.norm(dim=0)
        assert torch.allclose(found[name], expected.float(), rtol=1e-5)


def test_wanda_sees_the_patches_of_a_strided_dilated_grouped_convolution():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2).double()
    X = torch.randn(5, 4, 9, 8).double()
    weights = {"weight": conv.weight}
    scoring = Scoring(conv, weights, full_masks(weights), [(X, torch.zeros(5))])
    found = SALIENCIES.make("wanda").terms(scoring)["weight"]
    patches = F.unfold(X, 3, dilation=2, padding=1, stride=2).reshape(5, 2, 18, -1)
    norms = patches.square().sum((0, 3)).sqrt()  # (groups, d)
    expected = conv.weight.abs().reshape(2, 3, 18) * norms[:, None, :]
    assert torch.allclose(found, expected.reshape(conv.weight.shape).float(), rtol=1e-5)


def test_apoz_counts_how_often_a_unit_is_on(problem):
    net, X, y = problem
    found = terms("apoz", scoring_of(net, X, y))["layers.1.weight"]
    share = (net.layers[1](X) > 0).double().mean(0)
    assert torch.allclose(found, share.float()[:, None].expand(7, 5))


def test_apoz_looks_behind_the_normalisation():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    )
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([9.0, -9.0, 0.0]))
    X = torch.randn(8, 1, 4, 4)
    found = score_weights(net, "apoz", (X, torch.zeros(8, dtype=torch.long)))["0.weight"]
    assert found[0].unique().tolist() == [1.0]
    assert found[1].unique().tolist() == [0.0]


def test_hard_concrete_gates_are_zero_as_often_as_the_penalty_says():
    found = probability_open(torch.tensor([-3.0, 0.0, 2.0]))
    assert found.tolist() == pytest.approx([0.197594, 0.831822, 0.973367], abs=1e-6)
    torch.manual_seed(0)
    n = 200_000
    for log_alpha, p in ((-3.0, 0.197594), (0.0, 0.831822)):
        share = float((sample_gate(torch.full((n,), log_alpha)) > 0).float().mean())
        assert abs(share - p) < 4 * (p * (1 - p) / n) ** 0.5
    gates = HardConcrete()
    w = {"w": nn.Parameter(torch.ones(3))}
    gates.start(w, 10, 10)
    with torch.no_grad():
        gates._extra["w"].copy_(torch.tensor([-5.0, 0.0, 5.0]))
    gates.finish(w)
    assert w["w"].tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_divergence_of_sparse_variational_dropout_is_near_the_exact_one():
    at = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0]).double()
    assert divergence(at).tolist() == pytest.approx(
        [2.6342, 1.5405, 0.4312, 0.0684, 0.0093], abs=1e-4
    )

    # the exact one, E log|1 + a z| - log a less its limit for large a = sqrt(alpha), by quadrature around its pole
    def mean_log(a, shift):
        def f(z):
            return stats.norm.pdf(z) * np.log(abs(shift + a * z))

        pole = -shift / a
        return sum(integrate.quad(f, *ends, limit=200)[0] for ends in ((-40, pole), (pole, 40)))

    for value, log_alpha in zip(divergence(at).tolist(), at.tolist(), strict=True):
        a = np.exp(log_alpha / 2)
        exact = mean_log(a, 1.0) - log_alpha / 2 - mean_log(1.0, 0.0)
        assert value == pytest.approx(exact, abs=0.01)


def test_a_function_of_ones_own_is_a_criterion(problem):
    net, X, y = problem

    def largest_first_layer(module, batches):
        assert len(batches) == 1
        return {n: p.abs() + (n == "layers.1.weight") for n, p in module.named_parameters()}

    _, masks = prune(net.float(), 0.5, largest_first_layer, (X, y))
    assert masks["layers.1.weight"].all()
    with pytest.raises(ValueError, match="no scores for"):
        score_weights(net, lambda module, batches: {}, (X, y))
    with pytest.raises(ValueError, match="scores of shape"):
        score_weights(net, lambda m, b: {n: torch.ones(1) for n, _ in m.named_parameters()}, (X, y))


@pytest.mark.parametrize("criterion", SALIENCIES.names())
def test_scoring_leaves_the_network_and_its_modes_as_they_were(criterion):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    net.train()
    net[1].eval()
    X, y = torch.randn(20, 1, 4, 4), torch.randint(0, 3, (20,))
    if SALIENCIES.make(criterion).trained:
        with pytest.raises(ValueError, match="learned in training"):
            score_weights(net, criterion, (X, y))
        return
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    first = score_weights(net, criterion, (X, y), random_state=0)
    again = score_weights(net, criterion, (X, y), random_state=0)
    assert torch.equal(first["0.weight"], again["0.weight"])  # dropout is off
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_nan_is_refused_and_data_are_asked_for(problem):
    net, X, y = problem
    with pytest.raises(ValueError, match="needs records"):
        score_weights(net, "taylor")
    with pytest.raises(ValueError, match='criterion must be one of "activation"'):
        score_weights(net, "magic")
    with torch.no_grad():
        net.layers[1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="gives NaN"):
        score_weights(net, "magnitude")
    with pytest.raises(ValueError, match="as many X as y"):
        score_weights(net, "taylor", (X, y[:3]))


def test_classes_may_be_any_integers_numpy_knows(problem):
    net, X, y = problem
    scores = [
        score_weights(net.float(), "taylor", (X.numpy(), y.numpy().astype(kind)))["layers.1.weight"]
        for kind in (np.int32, np.int64, np.uint8)
    ]
    assert all(torch.equal(a, b) for a, b in itertools.pairwise(scores))
    assert as_batches((X, y), torch.device("cpu"))[0][0].dtype == torch.float32
