"""Masks hold exactly: counts, zeros after every step whatever the optimizer, nested levels."""

import copy
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from statml.adapters import MLP  # noqa: E402
from statml.adapters.pruning import (  # noqa: E402
    PruneRounds,
    apply_masks,
    density,
    full_masks,
    gradient_factors,
    mask_gradients,
    n_kept,
    prunable_weights,
    prune,
)
from torch import nn  # noqa: E402

OPTIMIZERS = {
    "momentum and weight decay": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return MLP(6, 3, hidden=(8, 5))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_and_their_optimizer_state_stay_exactly_zero(net, name):
    weights = prunable_weights(net)
    optimizer = OPTIMIZERS[name](net.parameters())
    X, y = torch.randn(20, 6), torch.randint(0, 3, (20,))

    def step(factors=None):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), y).backward()
        if factors is not None:
            mask_gradients(list(weights.values()), factors)
        optimizer.step()

    for _ in range(3):
        step()  # momentum builds up before the pruning
    masks = {n: torch.rand_like(w) > 0.5 for n, w in weights.items()}
    apply_masks(net, masks, optimizer)
    factors = gradient_factors(list(weights.values()), masks.values())
    moved = {n: w.detach().clone() for n, w in weights.items()}
    for _ in range(5):
        step(factors)
        for n, w in weights.items():
            assert (w[~masks[n]] == 0).all()
            for value in optimizer.state[w].values():
                if value.shape == w.shape and name != "adagrad":
                    assert (value[~masks[n]] == 0).all()
    assert all((w[masks[n]] != moved[n][masks[n]]).any() for n, w in weights.items())


def test_masks_remove_nan_and_leave_no_negative_zero():
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[float("nan"), -1.0]]))
    apply_masks(layer, {"weight": torch.zeros(1, 2, dtype=torch.bool)})
    assert layer.weight.tolist() == [[0.0, 0.0]]
    assert not torch.signbit(layer.weight).any()


@given(sparsity=st.floats(0, 0.99), width=st.integers(1, 12), ties=st.booleans())
def test_counts_hit_the_sparsity_with_ties_too(sparsity, width, ties):
    net = MLP(width, 2, hidden=(7, width))
    if ties:
        with torch.no_grad():
            for p in net.parameters():
                p.fill_(0.5)
    weights = prunable_weights(net)
    n = sum(w.numel() for w in weights.values())
    pruned = round(sparsity * n)
    if pruned == n:
        with pytest.raises(ValueError, match="would remove all"):
            prune(net, sparsity)
        return
    for scope in ("global", "layer", "erk", "lamp", "row"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of collapse
            sparse, masks = prune(net, sparsity, scope=scope)
        assert n - n_kept(masks) == pruned
        zeros = sum(int((p == 0).sum()) for p in prunable_weights(sparse).values())
        assert zeros == pruned


def test_levels_are_nested_and_read_from_one_byte_a_weight(net):
    weights = prunable_weights(net)
    path, masks, steps = PruneRounds(full_masks(weights)), None, [full_masks(weights)]
    for sparsity in (0.2, 0.36, 0.5, 0.9):
        net, masks = prune(net, sparsity, masks=masks)
        path.append(masks)
        steps.append(masks)
    for level, expected in enumerate(steps):
        found = path.masks(level)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(r.dtype == torch.uint8 for r in path.rounds.values())
    with pytest.raises(ValueError, match="not nested"):
        path.append(full_masks(weights))
    with pytest.raises(ValueError, match="n_rounds must be"):
        path.masks(5)


def test_output_layer_biases_and_norms_are_left_alone_unless_asked():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2)
    )
    assert list(prunable_weights(net)) == ["0.weight", "3.weight"]
    assert list(prunable_weights(net, prune_output=True)) == ["0.weight", "3.weight", "4.weight"]
    assert "0.bias" in prunable_weights(net, exclude=("norm",))
    assert "1.weight" in prunable_weights(net, exclude=("bias",))
    assert list(prunable_weights(net, exclude=("bias", "norm", "0"))) == ["3.weight"]


def test_a_parameter_that_two_layers_share_stands_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    net[1].weight = net[0].weight
    assert list(prunable_weights(net)) == ["0.weight"]


def test_a_pruned_module_can_be_copied(net):
    sparse, _ = prune(net, 0.5)
    again = copy.deepcopy(sparse)  # torch.nn.utils.prune's raise here
    X = torch.randn(3, 6)
    assert torch.equal(again(X), sparse(X))


def test_bad_input_is_named(net):
    with pytest.raises(ValueError, match="layers.7.*this module has layers.1.weight"):
        prunable_weights(net, exclude=("layers.7",))
    with pytest.raises(ValueError, match="no prunable weights"):
        prunable_weights(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="no prunable weights"):
        prunable_weights(nn.ReLU())
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="sparsity must be"):
            prune(net, wrong)
    with pytest.raises(ValueError, match="does not have"):
        apply_masks(net, {"x": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ValueError, match="has shape"):
        apply_masks(net, {"layers.1.weight": torch.ones(1, dtype=torch.bool)})


def test_a_layer_of_which_nothing_is_left_is_named(net):
    with torch.no_grad():
        net.layers[3].weight.mul_(1e-6)
    with pytest.warns(UserWarning, match=r"layer collapse.*layers.3.weight"):
        prune(net, 0.5)
    assert density(prune(net, 0.5, scope="erk")[1]) == pytest.approx(0.5)
