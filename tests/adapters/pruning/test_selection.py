"""What stays: structures, distributions over layers, schedules, growth, compensation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from statml.adapters import MLP  # noqa: E402
from statml.adapters.pruning import (  # noqa: E402
    GROWTHS,
    SCHEDULES,
    Scoring,
    apply_masks,
    apportion,
    cubic_sparsity,
    density,
    erk_densities,
    full_masks,
    layer_densities,
    n_kept,
    prunable_weights,
    prune,
    reestimate_normalisations,
)
from statml.adapters.pruning.distribution.pooled import lamp  # noqa: E402
from statml.adapters.pruning.growth.rigl import cosine_fraction  # noqa: E402
from statml.adapters.pruning.saliency.woodfisher import block_inverse_fisher  # noqa: E402
from statml.adapters.pruning.schedule.iterative import Iterative  # noqa: E402
from statml.adapters.pruning.structure.block import Block  # noqa: E402
from statml.adapters.pruning.structure.n_of_m import NOfM  # noqa: E402
from torch import nn  # noqa: E402

LENET = [(300, 784), (100, 300), (10, 100)]


# --- distributions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (0.1, [0.079568, 0.230189, 1.0]),
        (0.2, [0.162241, 0.469362, 1.0]),
        (0.05, [0.038484, 0.111334, 0.918507]),
    ],
)
def test_erk_densities_of_lenet(at, expected):
    assert erk_densities(LENET, at) == pytest.approx(expected, abs=5e-7)


@given(
    shapes=st.lists(
        st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple), min_size=1, max_size=6
    ),
    at=st.floats(0.01, 1.0),
)
def test_erk_densities_are_shares_that_give_the_total(shapes, at):
    densities = np.array(erk_densities(shapes, at))
    sizes = np.array([np.prod(s) for s in shapes])
    assert ((densities > 0) & (densities <= 1)).all()
    assert densities @ sizes == pytest.approx(at * sizes.sum(), rel=1e-9)
    ratio = densities / [sum(s) / np.prod(s) for s in shapes]
    below = ratio[densities < 1 - 1e-9]
    assert len(below) == 0 or np.ptp(below) <= 1e-9 * below.max()  # in proportion where not capped
    assert len(below) == 0 or (ratio[densities >= 1 - 1e-9] <= below.max() * (1 + 1e-9)).all()


def test_erk_refuses_what_is_no_density():
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="density must be"):
            erk_densities(LENET, wrong)
    with pytest.raises(ValueError, match="at least one shape"):
        erk_densities([], 0.5)
    with pytest.raises(ValueError, match="positive dimensions"):
        erk_densities([(0, 3)], 0.5)


@given(
    data=st.lists(st.tuples(st.floats(0, 50), st.integers(0, 60)), min_size=1, max_size=8),
    share=st.floats(0, 1),
)
def test_apportioned_numbers_sum_to_the_total_within_their_bounds(data, share):
    targets, most = [t + 1e-6 for t, _ in data], [m for _, m in data]
    total = round(share * sum(most))
    counts = apportion(targets, total, most)
    assert sum(counts) == total
    assert all(0 <= c <= m for c, m in zip(counts, most, strict=True))


@pytest.mark.parametrize("scope", ["global", "layer", "row", "uniform", "erk", "lamp"])
def test_every_distribution_hits_the_total_and_its_own_shares(scope):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.Conv2d(8, 32, 3),
        nn.Flatten(),
        nn.Linear(32 * 16, 40),
        nn.Linear(40, 2),
    )
    weights = prunable_weights(net)
    n = sum(w.numel() for w in weights.values())
    _, masks = prune(net, 0.8, scope=scope)
    assert n_kept(masks) == n - round(0.8 * n)
    found = layer_densities(masks)
    size = {name: w.numel() for name, w in weights.items()}
    if scope in ("layer", "row"):
        assert all(
            abs(found[name] - 0.2) * size[name] <= (1 if scope == "layer" else w.shape[0])
            for name, w in weights.items()
        )
    if scope == "row":
        rows = masks["3.weight"].sum(1)
        assert rows.max() - rows.min() <= 1
    if scope == "uniform":
        rest = (n_kept(masks) - size["0.weight"]) / (n - size["0.weight"])
        assert found["0.weight"] == 1.0
        assert all(abs(found[k] - rest) * size[k] <= 1 for k in ("1.weight", "3.weight"))
    if scope == "erk":
        expected = erk_densities([tuple(w.shape) for w in weights.values()], 0.2)
        assert all(abs(found[k] - d) * size[k] <= 1 for k, d in zip(found, expected, strict=True))


def test_global_keeps_the_largest_and_layer_the_largest_of_each():
    torch.manual_seed(0)
    net = MLP(10, 3, hidden=(8, 8))
    for scope in ("global", "layer"):
        sparse, masks = prune(net, 0.6, scope=scope)
        pools = [list(masks)] if scope == "global" else [[name] for name in masks]
        for pool in pools:
            w = torch.cat([dict(net.named_parameters())[n].detach().abs()[masks[n]] for n in pool])
            gone = torch.cat(
                [dict(net.named_parameters())[n].detach().abs()[~masks[n]] for n in pool]
            )
            assert w.min() >= gone.max()
        assert torch.equal(sparse.layers[1].weight, net.layers[1].weight * masks["layers.1.weight"])


def test_lamp_divides_by_the_squares_of_what_is_at_least_as_large():
    torch.manual_seed(0)
    w = torch.randn(4, 5).abs()
    w[0, 0] = w[2, 3]  # a tie
    found = lamp(w, torch.ones_like(w, dtype=torch.bool))
    for index in np.ndindex(4, 5):
        x = w[index]
        expected = x**2 / (w[w >= x] ** 2).sum()
        assert float(found[index]) == pytest.approx(float(expected), rel=1e-5)


# --- structures -------------------------------------------------------------------------------------


@given(n=st.integers(1, 3), extra=st.integers(1, 4), width=st.integers(1, 17), ties=st.booleans())
def test_n_of_m_leaves_n_of_every_m_inputs(n, extra, width, ties):
    m = n + extra
    pattern = NOfM(n, m)
    torch.manual_seed(width)
    scores = torch.ones(3, width, 2) if ties else torch.randn(3, width, 2)
    stays = pattern.best(scores, 0.0)
    for start in range(0, width, m):
        group = stays[:, start : start + m]
        size = group.shape[1]
        assert (group.sum(1) == (n if size == m else math.ceil(size * n / m))).all()
        if not ties and size == m:
            ordered = scores[:, start : start + m].sort(dim=1, descending=True).values
            assert (scores[:, start : start + m][group] >= ordered[:, n - 1].min()).all()


def test_two_of_four_runs_along_the_inputs_of_linear_and_convolutional_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 12), nn.Linear(12, 2))
    _, masks = prune(net, 0.5, structure="2:4")
    assert (masks["0.weight"].reshape(6, 2, 4, 3, 3).sum(2) == 2).all()
    assert (masks["2.weight"].reshape(12, 6, 4).sum(2) == 2).all()
    with pytest.raises(ValueError, match=r"sparsity=0\.5"):
        prune(net, 0.6, structure="2:4")


def test_blocks_go_as_one_piece():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 9), nn.Linear(9, 2))
    _, masks = prune(net, 0.5, structure=Block(4))
    mask = masks["0.weight"]
    for i in range(0, 9, 4):
        for j in range(0, 10, 4):
            assert len(mask[i : i + 4, j : j + 4].unique()) == 1
    assert abs(density(masks) - 0.5) * 90 <= 8  # to within half a block


def test_channels_that_meet_in_a_residual_sum_go_together():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(1, 6, 3, padding=1)
            self.two = nn.Conv2d(6, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.out = nn.Linear(6, 2)

        def forward(self, x):
            x = self.one(x)
            x = (x + self.norm(self.two(x))).relu()
            return self.out(x.mean((2, 3)))

    torch.manual_seed(0)
    net, X = Residual(), torch.randn(8, 1, 5, 5)
    with torch.no_grad():
        net.norm.bias.uniform_(-1, 1)
    for scope in ("global", "layer"):
        sparse, masks = prune(
            net, 0.5, data=(X, torch.zeros(8, dtype=torch.long)), structure="channel", scope=scope
        )
        one, two = (masks[f"{n}.weight"].reshape(6, -1) for n in ("one", "two"))
        assert ((one.all(1) == two.all(1)) & (one.any(1) == two.any(1))).all()
        assert one.any(1).sum() == 3
        assert (masks["norm.bias"] == one.any(1)).all()
        hidden = sparse.one(X) + sparse.norm(sparse.two(sparse.one(X)))
        assert (hidden[:, ~one.any(1)] == 0).all()  # the offset of the normalisation went as well
    with pytest.raises(ValueError, match="needs records"):
        prune(net, 0.5, structure="channel")


def test_a_channels_taylor_score_is_the_square_of_the_sum():
    # two channels: in one the terms cancel, in the other they add up
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -1.0], [0.1, 0.1]]))
        net[1].weight.copy_(torch.ones(1, 2))
    X = torch.ones(4, 2).double()
    _, masks = prune(
        net.float(), 0.5, "taylor", (X, torch.ones(4, 1)), structure="channel", loss="mse"
    )
    assert masks["0.weight"].any(1).tolist() == [False, True]


# --- schedules --------------------------------------------------------------------------------------


def test_schedules_give_the_sparsities_of_their_papers():
    found = [cubic_sparsity(0.0, 0.9, t / 10) for t in range(11)]
    expected = [0, 0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991, 0.9]
    assert found == pytest.approx(expected, abs=1e-12)
    levels = SCHEDULES.make("iterative").levels(1 - 0.8**16, 0.2)
    assert len(levels) == 16
    assert [1 - levels[k - 1] for k in (5, 10, 15, 16)] == pytest.approx(
        [0.32768, 0.10737, 0.03518, 0.02815], abs=5e-6
    )
    assert Iterative(4).levels(0.9, 0.2) == pytest.approx(
        [1 - 0.1 ** (k / 4) for k in (1, 2, 3, 4)]
    )
    assert SCHEDULES.make("iterative").levels(0.0, 0.2) == [0.0]


# --- growth -----------------------------------------------------------------------------------------


def test_rigl_drops_the_smallest_and_grows_where_the_gradient_is_largest():
    assert [cosine_fraction(0.3, t) for t in (0, 0.25, 0.5, 0.75)] == pytest.approx(
        [0.3, 0.25607, 0.15, 0.04393], abs=5e-6
    )
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(10, 10))
    keep = torch.rand(10, 10) < 0.4
    apply_masks(nn.ParameterDict({"w": w}), {"w": keep})
    w.grad = torch.randn(10, 10)
    growth = GROWTHS.make("rigl")
    growth.start({"w": w}, {"w": keep}, 4000)
    assert growth.after_backward({"w": w}, {"w": keep}, 150) is None
    assert (
        growth.after_backward({"w": w}, {"w": keep}, 3100) is None
    )  # the last quarter is left alone
    new = growth.after_backward({"w": w}, {"w": keep}, 1500)["w"]
    n, k = int(keep.sum()), round(0.15 * int(keep.sum()))
    assert int(new.sum()) == n
    stayed = torch.zeros_like(keep)
    stayed.view(-1)[w.detach().abs().masked_fill(~keep, -1).flatten().topk(n - k).indices] = True
    assert (new & stayed == stayed).all()
    grown = new & ~stayed
    assert w.grad.abs()[grown].min() >= w.grad.abs()[~stayed & ~grown].max()


def test_updates_come_more_often_in_a_short_training():
    growth = GROWTHS.make("set")
    growth.start({}, {}, 200)
    assert sum(growth.is_due(step) for step in range(200)) >= 9


def test_sparse_momentum_moves_weights_to_the_layer_that_needs_them():
    torch.manual_seed(0)
    weights = {n: nn.Parameter(torch.randn(10, 10)) for n in ("calm", "busy")}
    masks = {n: torch.rand(10, 10) < 0.5 for n in weights}
    growth = GROWTHS.make("snfs")
    growth.start(weights, masks, 4000)
    before = {n: int(m.sum()) for n, m in masks.items()}
    for step in range(101):
        for n, w in weights.items():
            w.grad = torch.randn(10, 10) * (5.0 if n == "busy" else 0.1) + 0.01
        new = growth.after_backward(weights, masks, step)
    after = {n: int(m.sum()) for n, m in new.items()}
    assert sum(after.values()) == sum(before.values())
    assert after["busy"] > before["busy"]


# --- compensation -----------------------------------------------------------------------------------


def test_least_squares_refit_is_that_of_each_row_on_its_support():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    X = torch.randn(300, 6) @ torch.randn(6, 6) + 1
    y = torch.zeros(300, 4)
    sparse, masks = prune(layer, 0.5, data=(X, y), compensate="ls", loss="mse", prune_output=True)
    target = layer(X).detach().double().numpy()
    for r in range(4):
        keep = masks["weight"][r].numpy()
        design = np.column_stack([X.double().numpy()[:, keep], np.ones(300)])
        best = np.linalg.lstsq(design, target[:, r], rcond=None)[0]
        assert sparse.weight[r].detach().numpy()[keep] == pytest.approx(best[:-1], abs=1e-3)
        assert float(sparse.bias[r]) == pytest.approx(best[-1], abs=2e-3)


def test_compensation_brings_a_pruned_network_back_towards_the_dense_one():
    torch.manual_seed(0)
    net = MLP(20, 5, hidden=(40, 30))
    X, fresh = (torch.randn(1200, 20) @ torch.randn(20, 20)).chunk(2)
    y = net(X).argmax(1)

    def error(compensate, criterion="magnitude", scope="row"):
        sparse, masks = prune(net, 0.6, criterion, (X, y), scope=scope, compensate=compensate)
        w = dict(sparse.named_parameters())
        assert all((w[n][~m] == 0).all() for n, m in masks.items())
        with torch.no_grad():
            return float((sparse(fresh) - net(fresh)).square().mean())

    plain = error(None)
    assert error("ls") < 0.5 * plain
    assert error("obs", "obs", "layer") < error(None, "obs", "layer")


def test_fisher_compensation_moves_a_block_to_the_minimum_of_its_quadratic():
    torch.manual_seed(0)
    net = MLP(4, 3, hidden=(5,))
    X, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
    weights = prunable_weights(net)
    scoring = Scoring(net, weights, full_masks(weights), [(X, y)])
    inverse = block_inverse_fisher(scoring, 64, 1e-4)["layers.1.weight"][0].double()
    sparse, masks = prune(net, 0.5, "magnitude", (X, y), compensate="obs")
    mask = masks["layers.1.weight"].reshape(-1)
    F = torch.linalg.inv(inverse)
    w = net.layers[1].weight.detach().reshape(-1).double()
    # the minimum of (v - w)'F(v - w) with v zero off the mask
    v = torch.zeros_like(w)
    v[mask] = w[mask] + torch.linalg.solve(F[mask][:, mask], F[mask][:, ~mask] @ w[~mask])
    found = sparse.layers[1].weight.detach().reshape(-1).double()
    assert torch.allclose(found, v, rtol=1e-2, atol=1e-3)


def test_one_shot_errors_of_a_layer_fall_in_the_order_of_the_methods():
    """Correlated inputs of unequal scale, half of the weights: each method beats the one before by more than chance."""
    methods = [
        ("random", "row", None),
        ("magnitude", "row", None),
        ("wanda", "row", None),
        ("sparsegpt", "layer", None),
        ("wanda", "row", "ls"),
        ("obc", "layer", None),
    ]
    for structure in ("unstructured", "2:4"):
        errors = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            noise = rng.standard_normal((1500, 64))
            X = np.empty_like(noise)
            X[:, 0] = noise[:, 0]
            for j in range(1, 64):
                X[:, j] = 0.8 * X[:, j - 1] + 0.6 * noise[:, j]
            X = torch.from_numpy(X * np.exp(rng.normal(0, 0.5, 64))).float()
            layer = nn.Linear(64, 32, bias=False)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(rng.standard_normal((32, 64)) / 8))
            row = []
            for criterion, scope, compensate in methods:
                sparse, masks = prune(
                    layer,
                    0.5,
                    criterion,
                    (X, torch.zeros(1500, 32)),
                    scope=scope if structure == "unstructured" else "layer",
                    structure=structure,
                    compensate=compensate,
                    loss="mse",
                    prune_output=True,
                    random_state=seed,
                )
                assert n_kept(masks) == 32 * 32
                difference = (sparse(X) - layer(X)).square().sum() / layer(X).square().sum()
                row.append(float(difference.detach()))
            errors.append(row)
        steps = np.log(np.array(errors))[:, :-1] - np.log(np.array(errors))[:, 1:]
        standard_error = steps.std(0, ddof=1) / np.sqrt(len(steps))
        assert (steps.mean(0) > 3 * standard_error).all(), (structure, np.mean(errors, 0))


def test_sparsegpt_and_obc_hit_their_counts_when_weights_are_gone_already():
    torch.manual_seed(0)
    net = MLP(150, 3, hidden=(20, 9))  # more columns than one block of 128
    X, y = torch.randn(200, 150), torch.randint(0, 3, (200,))
    _, masks = prune(net, 0.4, scope="layer")
    n = sum(m.numel() for m in masks.values())
    for criterion in ("sparsegpt", "obc"):
        sparse, new = prune(net, 0.7, criterion, (X, y), scope="layer", masks=masks)
        assert n_kept(new) == n - round(0.7 * n)
        assert all((new[name] <= masks[name]).all() for name in masks)
        w = dict(sparse.named_parameters())
        assert all((w[name][~m] == 0).all() for name, m in new.items())


def test_normalisations_are_estimated_anew_after_one_shot():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    X, y = torch.randn(500, 5) * 3 + 1, torch.randint(0, 2, (500,))
    reestimate_normalisations(net, [(X, y)])
    sparse, _ = prune(net, 0.5, data=(X, y))
    inputs = sparse[0](X)
    batches = inputs.split(128)
    assert torch.allclose(
        sparse[1].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), atol=1e-5
    )
    assert torch.allclose(
        sparse[1].running_var, torch.stack([b.var(0) for b in batches]).mean(0), rtol=1e-4
    )
    assert not torch.allclose(sparse[1].running_mean, net[1].running_mean)
    assert sparse[1].momentum == 0.1
    assert not sparse.training
