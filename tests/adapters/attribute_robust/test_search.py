"""The inner search: closed forms, invariants, and what it must never touch."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statml.adapters.attribute_robust import (
    Blur,
    Box,
    Chain,
    Custom,
    Jpeg,
    Noise,
    Rotation,
    Scale,
    Translate,
    grid_search,
    search,
)
from statml.adapters.attribute_robust.objectives import OBJECTIVES, make_objective
from statml.adapters.attribute_robust.search import frozen
from torch import nn

RTS = [Rotation(45), Translate(0.15), Scale(0.7, 1.3)]


def brightness(eps, **options):
    return Custom(lambda x, a: x + a, -eps, eps, names="brightness", **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(6 * 36, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def images():
    """Three shapes on 14 x 14 pixels, and a network that knows them."""
    g = generator(1)
    y = torch.arange(240) % 3
    x = torch.zeros(240, 1, 14, 14)
    x[y == 0, :, 5:9, 2:12] = 1
    x[y == 1, :, 3:11, 3:11] = 1
    x[y == 2, :, 6:8, 6:8] = 1
    x += 0.1 * torch.rand(x.shape, generator=g)
    network = small_network()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.zero_grad()
    return x, y, network.eval()


def ce(network, y):
    return lambda x, u: nn.functional.cross_entropy(network(x), y, reduction="none")


@given(
    w=st.lists(st.floats(-3, 3), min_size=2, max_size=4).filter(lambda w: abs(sum(w)) > 0.01),
    eps=st.floats(0.01, 2),
    c=st.floats(-2, 2),
    seed=st.integers(0, 5),
)
@settings(max_examples=20, deadline=None)
def test_worst_brightness_of_a_logistic_model_is_known(w, eps, c, seed):
    w = torch.tensor(w, dtype=torch.float64)
    x = torch.randn(8, len(w), generator=generator(seed), dtype=torch.float64)
    y = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(4)
    chain = Chain([brightness(eps)])
    found = search(
        lambda x, u: nn.functional.softplus(-y * (x @ w + c)),
        chain, x, Box.of(chain, x), n_steps=12, generator=generator(),
    )  # fmt: skip
    known = nn.functional.softplus(-y * (x @ w + c) + eps * w.sum().abs())
    torch.testing.assert_close(found.objective, known)
    torch.testing.assert_close(found.value[:, 0], -y * w.sum().sign() * eps)


def test_ada_of_squared_loss_and_identity_features_is_known():
    # sup over d of (r + w d)^2 / 2 - gamma |d|^2 / 2 = r^2 gamma / (gamma - |w|^2) / 2
    w, r, gamma = torch.tensor([1.0, 2.0], dtype=torch.float64), 0.7, 9.0
    chain = Chain([Custom(lambda x, a: x + a, [-3, -3], [3, 3])])
    x = torch.zeros(5, 2, dtype=torch.float64)
    options = {"n_steps": 200, "generator": generator()}
    penalised = lambda x, u: (r + x @ w) ** 2 / 2 - gamma / 2 * (x**2).sum(1)  # noqa: E731
    found = search(penalised, chain, x, Box.of(chain, x), **options)
    torch.testing.assert_close(found.objective, torch.full((5,), 0.55125, dtype=torch.float64))
    # gamma < |w|^2: no bound but the box
    runaway = lambda x, u: (r + x @ w) ** 2 / 2 - 4.0 / 2 * (x**2).sum(1)  # noqa: E731
    found = search(runaway, chain, x, Box.of(chain, x), **options)
    assert (found.value.abs().amax(1) == 3).all()


def test_ada_objective_is_that_penalty_of_the_features():
    module = nn.Linear(2, 2).double()  # the features of one linear layer are its input
    x = torch.randn(4, 2, dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1])
    changed = x + 0.5
    ada = make_objective("ada", module, x, y, torch.zeros(4, 0), beta_feature=9.0)
    loss = nn.functional.cross_entropy(module(changed), y, reduction="none")
    torch.testing.assert_close(
        ada(changed, torch.zeros(4, 0)), loss - 9 / 2 * 0.5 * torch.ones(4).double()
    )


def test_noise_has_the_derivative_of_its_finite_difference():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    chain = Chain([Noise(0.0, 0.5)])
    x = torch.randn(1, 1, 5, 5, dtype=torch.float64)
    noise = chain.draw_noise(x, generator(4))

    def loss(sd):
        return nn.functional.cross_entropy(
            network(chain.apply(x, sd, noise)), torch.tensor([1]), reduction="sum"
        )

    sd = torch.tensor([[0.2]], dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(loss(sd), sd)
    with torch.no_grad():
        difference = (loss(sd + 1e-5) - loss(sd - 1e-5)) / 2e-5
    assert derivative.item() == pytest.approx(difference.item(), rel=1e-7)


def test_the_search_raises_the_loss(images):
    x, y, network = images
    chain = Chain(RTS)
    for k in (1, 5):
        found = search(
            ce(network, y), chain, x, Box.of(chain, x), n_starts=k, n_steps=5, generator=generator()
        )
        assert (found.objective >= found.start).all()
        assert found.objective.mean() > 1.5 * found.start.mean()


def test_it_reaches_the_worst_of_twenty_in_mean(images):
    x, y, network = images
    chain, box = Chain(RTS), Box.of(Chain(RTS), x)
    objective = ce(network, y)
    margins = []
    for seed in range(5):
        options = {"generator": generator(seed)}
        # the same number of forward passes: 4 + 2 * 8
        climbed = search(objective, chain, x, box, n_starts=4, n_steps=8, **options)
        drawn = search(objective, chain, x, box, n_starts=20, n_steps=0, **options)
        margins.append((climbed.objective - drawn.objective).mean().item())
    assert np.mean(margins) >= 0


@pytest.mark.parametrize(
    "attributes", [[Rotation(45)], [Translate(0.2)], [Rotation(45, padding="border"), Blur(1.5)]]
)
def test_it_finds_98_percent_of_the_maximum_of_a_grid(images, attributes):
    x, y, network = (v[:60] if isinstance(v, torch.Tensor) else v for v in images)
    chain, objective = Chain(attributes), ce(network, y)
    options = {"n_starts": 20, "n_steps": 20, "n_climbs": 8, "generator": generator()}
    found = search(objective, chain, x, Box.of(chain, x), **options)
    n = 201 if chain.n_parameters == 1 else 25
    grid, gap = grid_search(objective, chain, x, Box.of(chain, x), n_points=n)
    assert found.objective.mean() >= 0.98 * grid.objective.mean()
    assert (gap >= 0).all()
    assert (grid.value.abs() <= torch.as_tensor(chain.high) + 1e-6).all()


def test_a_grid_of_a_known_function_is_right():
    chain = Chain([Custom(lambda x, a: x + a, [-1, -1], [1, 1])])
    x = torch.zeros(2, 2)
    found, gap = grid_search(
        lambda x, u: -((x - 0.5) ** 2).sum(1), chain, x, Box.of(chain, x), n_points=5
    )
    assert found.value.tolist() == [[0.5, 0.5]] * 2
    # neighbours differ most from -1 to -0.5: 2.25 - 1
    assert gap.tolist() == [1.25, 1.25]
    with pytest.raises(ValueError, match="one or two parameters, got 4"):
        grid_search(lambda x, u: x, Chain(RTS), torch.zeros(1, 1, 4, 4), None)


def test_worst_of_k_never_falls_with_k(images):
    x, y, network = images
    chain = Chain(RTS)
    losses = [
        search(
            ce(network, y), chain, x, Box.of(chain, x), n_starts=k, n_steps=0, generator=generator()
        ).objective
        for k in (1, 2, 5, 20)
    ]
    for fewer, more in itertools.pairwise(losses):
        assert (more >= fewer).all()


def test_attributes_stay_in_the_box_and_are_each_records_own(images):
    x, y, network = images
    chain = Chain([*RTS, Noise(0.3)])
    found = search(
        ce(network, y),
        chain,
        x,
        Box.of(chain, x),
        n_steps=6,
        step_size=3.0,
        generator=generator(),
    )
    low, high = (torch.as_tensor(v, dtype=x.dtype) for v in (chain.low, chain.high))
    assert (found.value >= low - 1e-6).all()
    assert (found.value <= high + 1e-6).all()
    assert len(found.value[:, 0].unique()) > 30  # one vector for the batch would give one
    # what is returned belongs together: same attributes, same noise, same images, same loss
    with torch.no_grad():
        again = chain.apply(x, found.value, found.noise)
        torch.testing.assert_close(again, found.x)
        torch.testing.assert_close(ce(network, y)(again, None), found.objective)


def test_no_steps_are_random_augmentation_bit_for_bit(images):
    x, y, network = images
    chain = Chain([*RTS, Noise(0.3)])
    found = search(
        ce(network, y), chain, x, Box.of(chain, x), n_starts=1, n_steps=0, generator=generator(7)
    )
    g = generator(7)
    xi = torch.randn(x.shape, generator=g)
    u = 2 * torch.rand(len(x), 5, generator=g) - 1
    low, high = (torch.as_tensor(v, dtype=x.dtype) for v in (chain.low, chain.high))
    value = (low + high) / 2 + (high - low) / 2 * u
    torch.testing.assert_close(found.x, chain.apply(x, value, [None] * 3 + [xi]), rtol=0, atol=0)


def test_a_box_without_width_leaves_records_as_they_are(images):
    x, y, network = images
    chain = Chain([Rotation(0), Translate(0), Noise(0.0, 0.0), Blur(0.0, 0.0)])
    found = search(ce(network, y), chain, x, Box.of(chain, x), generator=generator())
    assert torch.equal(found.x, x)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_neither_gradients_nor_buffers_nor_modes_are_touched(images, kind):
    x, y, network = images
    network = copy.deepcopy(network).train()
    network[4].eval()  # a part that its owner keeps fixed
    before = copy.deepcopy(network.state_dict())
    modes = [part.training for part in network.modules()]
    chain = Chain(RTS)
    rng = torch.get_rng_state()
    with frozen(network):
        assert not any(part.training for part in network.modules())
        objective = make_objective(kind, network, x, y, torch.zeros(len(x), 4), 0.5, 0.5)
        found = search(objective, chain, x, Box.of(chain, x), n_steps=2, generator=generator())
    assert [part.training for part in network.modules()] == modes
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert not found.x.requires_grad
    assert found.x.grad_fn is None
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_every_parameter_moves_whatever_its_unit(images):
    # degrees and pixels of shift: a raw gradient step would move one of them only
    x, y, network = images
    chain = Chain([Rotation(45), Translate(0.15)])
    start = search(
        ce(network, y), chain, x, Box.of(chain, x), n_starts=1, n_steps=0, generator=generator()
    )
    found = search(ce(network, y), chain, x, Box.of(chain, x), n_steps=5, generator=generator())
    moved = (found.u - start.u).abs().mean(0)
    assert (moved > 0.1).all()


def test_attributes_without_derivatives_are_climbed_all_the_same(images):
    x, y, network = images

    def in_steps(x, a):  # outside torch's graph, rounded to whole steps
        return x + torch.from_numpy(np.round(a.numpy(), 1))[..., None, None]

    chain = Chain([Custom(in_steps, -1, 1, differentiable=False), Rotation(45)])
    assert chain.differentiable.tolist() == [False, True]
    assert Chain([Rotation(45), Jpeg(50)]).differentiable.tolist() == [False, False]
    options = {"n_starts": 1, "generator": generator()}
    objective = ce(network, y)
    start = search(objective, chain, x, Box.of(chain, x), n_steps=0, **options).objective
    found = search(
        objective, chain, x, Box.of(chain, x), n_starts=1, n_steps=8, generator=generator()
    )
    assert found.objective.mean() > 1.5 * start.mean()
    with torch.no_grad():
        torch.testing.assert_close(chain.apply(x, found.value, found.noise), found.x)


def test_a_broken_derivative_is_refused_also_among_others():
    x = torch.zeros(2, 3)
    whole = Custom(lambda x, a: x + a, -1, 1)
    for broken in (lambda x, a: x + a.detach(), lambda x, a: x + torch.from_numpy(a.numpy())):
        with pytest.raises(ValueError, match="differentiable=False"):
            Chain([whole, Custom(broken, -1, 1)]).check_derivatives(x)
        Chain([whole, Custom(broken, -1, 1, differentiable=False)]).check_derivatives(x)


def test_spsa_climbs_a_smooth_hill():
    hill = Chain([Custom(lambda x, a: a, [-2, 0], [2, 8], differentiable=False)])
    x = torch.zeros(50, 2)
    found = search(
        lambda x, u: -((u - 0.3) ** 2).sum(1), hill, x, Box.of(hill, x), n_steps=60,
        generator=generator(),
    )  # fmt: skip
    assert found.objective.mean() > -0.01


def test_a_curriculum_grows_the_box_from_the_clean_values():
    chain = Chain([Scale(0.7, 1.3), Blur(2.0)])
    x = torch.zeros(3, 1, 4, 4)
    box = Box.of(chain, x, scale=0.25)
    torch.testing.assert_close(box.value(-torch.ones(3, 2)), torch.tensor([[0.925, 0.0]] * 3))
    torch.testing.assert_close(box.value(torch.ones(3, 2)), torch.tensor([[1.075, 0.5]] * 3))
    own = torch.tensor([[1.0, 0.0], [1.2, 1.0], [0.7, 2.0]])
    box = Box.of(chain, x, own, scale=0.5)
    torch.testing.assert_close(
        box.value(torch.ones(3, 2)), torch.tensor([[1.15, 1.0], [1.25, 1.5], [1.0, 2.0]])
    )
