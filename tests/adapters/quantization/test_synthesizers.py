"""Images from statistics: the loss against its expectation, swing convolution, every synthesizer."""

import numpy as np
import pytest
import torch
from statml.adapters.quantization.statistics import Teacher, as_input_stats, bns_loss, image_loss
from statml.adapters.quantization.swing import offsets, swing_conv, swung
from statml.adapters.quantization.synthesizers import SYNTHESIZERS, Real, Request, synthesize
from statml.adapters.quantization.tracing import fix_shapes, trace
from torch import nn


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_exact_samples_leave_the_loss_that_the_formula_gives():
    # values w x, x standard normal: E = w^2 / N for the mean, about w^2 / (2 N) for the deviation
    w = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64)
    n, repeats = 200, 600
    losses = []
    for k in range(repeats):
        x = torch.randn(n, 4, generator=generator(k), dtype=torch.float64) * w
        losses.append(bns_loss(x, torch.zeros(4).double(), w**2, eps=0.0).item())
    expected = 1.5 * w.square().mean().item() / n
    standard_error = np.std(losses) / repeats**0.5
    # the deviation's share is exact up to order 1 / N^2
    assert abs(np.mean(losses) - expected) < 3.5 * standard_error + expected / n


def test_loss_is_that_of_the_batch_not_of_single_images_and_divides_by_channels():
    x = torch.stack([torch.zeros(2, 3, 3), torch.full((2, 3, 3), 2.0)])
    var = x[:, 0].var()
    assert bns_loss(x, torch.ones(2), var.expand(2)).item() == pytest.approx(0, abs=1e-12)
    moved = bns_loss(x, torch.tensor([1.0, 3.0]), var.expand(2))
    assert moved.item() == pytest.approx(4 / 2)
    # a channel without any spread has a gradient all the same
    constant = torch.zeros(4, 2, requires_grad=True)
    bns_loss(constant, torch.ones(2), torch.ones(2)).backward()
    assert torch.isfinite(constant.grad).all()


def test_single_values_have_no_statistics():
    with pytest.raises(ValueError, match="at least two values a channel"):
        bns_loss(torch.ones(1, 3), torch.zeros(3), torch.ones(3))


def test_image_loss_looks_at_every_image_and_channel_alone():
    x = torch.tensor([0.0, 2.0]).reshape(1, 1, 2, 1).expand(3, 2, 2, 1)
    deviation = 2**0.5
    assert image_loss(x, 1.0, deviation).item() == pytest.approx(0, abs=1e-10)
    assert image_loss(x, 0.0, deviation).item() == pytest.approx(2.0)  # summed over two channels


def test_teacher_reads_inputs_of_normalisations_and_leaves_them_alone(small_net, digits):
    traced = trace(small_net)
    teacher = Teacher(traced)
    X = torch.from_numpy(digits[0][:50])
    seen = {}
    for name, module in small_net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda m, inputs, out, name=name: seen.update({name: inputs[0].clone()})
            )
    try:
        with torch.no_grad():
            small_net(X)
    finally:
        for module in small_net.modules():
            module._forward_hooks.clear()
    before = {name: t.clone() for name, t in traced.state_dict().items()}
    losses = teacher.losses(X)
    assert teacher.layers == list(seen)
    for loss, (name, x) in zip(losses, seen.items(), strict=True):
        norm = small_net.get_submodule(name)
        expected = bns_loss(x, norm.running_mean, norm.running_var, norm.eps)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    for name, t in traced.state_dict().items():
        assert torch.equal(t, before[name])


# --- swing convolution --------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 3, 8, 9])
@pytest.mark.parametrize("kernel", [1, 2])
def test_swing_keeps_the_shape_and_at_its_centre_is_the_plain_convolution(stride, size, kernel):
    conv = nn.Conv2d(2, 3, kernel, stride)
    x = torch.randn(2, 2, size, size)
    assert torch.equal(swing_conv(x, conv, offset=(1, 1)), conv(x))
    for offset in offsets(1, 2):
        assert swing_conv(x, conv, offset=offset).shape == conv(x).shape


def test_swing_leaves_no_pixel_without_gradient():
    conv = nn.Conv2d(1, 1, 1, 2)

    def reached(offset):
        x = torch.randn(1, 1, 8, 8, requires_grad=True)
        y = conv(x) if offset is None else swing_conv(x, conv, offset=offset)
        y.sum().backward()
        return x.grad != 0

    assert reached(None).double().mean() == 0.25
    assert torch.stack([reached(o) for o in offsets(1, 2)]).any(0).all()


def test_swing_draws_every_offset_about_equally():
    conv, x = nn.Conv1d(1, 1, 1), torch.arange(5.0).reshape(1, 1, 5)
    draws, n = generator(), 3000
    first = [swing_conv(x, conv, generator=draws)[0, 0, 2].item() for _ in range(n)]
    _, counts = np.unique(np.round(first, 5), return_counts=True)
    assert len(counts) == 3
    assert np.abs(counts / n - 1 / 3).max() < 4 * (2 / 9 / n) ** 0.5


def test_only_strided_convolutions_swing_and_the_network_stays_itself(small_net):
    traced = trace(small_net)
    X = torch.randn(4, 1, 8, 8)
    other = swung(traced, 1, generator())
    kinds = {name for name, m in other.named_modules() if type(m).__name__ == "SwingConv"}
    assert kinds == {"blocks.1.conv1", "blocks.1.short"}
    assert not any(type(m).__name__ == "SwingConv" for m in traced.modules())
    assert torch.equal(traced(X), trace(small_net)(X))
    assert not torch.equal(other(X), traced(X))
    assert torch.equal(swung(traced, 0, generator())(X), traced(X))


# --- synthesizers -------------------------------------------------------------------------------------


def made_by(name, net, shape=(1, 8, 8), n=40, iterations=40, seed=0, **arguments):
    traced = trace(net)
    fix_shapes(traced, shape)
    request = Request(shape, iterations, generator_channels=(8, 4), latent_dim=16, **arguments)
    seeds = np.random.SeedSequence(seed)
    return synthesize(SYNTHESIZERS[name](), traced, request, n, 25, 1, seeds, progress=False)


@pytest.mark.parametrize("name", ["genie", "gba", "dba", "zeroq"])
def test_images_come_closer_to_the_statistics_than_noise(small_net, name):
    images, losses = made_by(name, small_net)
    assert images.shape == (40, 1, 8, 8)  # 40 is no multiple of the batch: nothing is dropped
    assert set(losses["batch"]) == {0, 1}
    ends = losses.groupby("batch")["total"]
    assert (ends.last() < 0.5 * ends.first()).all()
    noise, _ = made_by("noise", small_net)
    teacher = Teacher(trace(small_net))
    with torch.no_grad():
        assert teacher.losses(images).sum() < 0.5 * teacher.losses(noise).sum()


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_a_seed_fixes_the_images_and_torchs_global_state_stays(small_net, name):
    state = torch.get_rng_state()
    one, _ = made_by(name, small_net, iterations=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, made_by(name, small_net, iterations=3)[0])
    assert not torch.equal(one, made_by(name, small_net, iterations=3, seed=1)[0])


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_images_have_the_scale_and_stay_in_the_range_of_real_inputs(small_net, name):
    mean, std, limits = as_input_stats((3.0, 0.5, 2.0, 4.5), 1)
    images, _ = made_by(name, small_net, iterations=5, mean=mean, std=std, limits=limits)
    assert images.min() >= 2.0
    assert images.max() <= 4.5
    if name in ("genie", "gba", "noise"):
        assert abs(images.mean() - 3) < 0.2


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Conv1d(2, 4, 3, stride=2), nn.BatchNorm1d(4)), (2, 11)),
        ((nn.Linear(5, 6), nn.BatchNorm1d(6)), (5,)),
        ((nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3)), (1, 4, 5, 6)),
        ((nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (3, 7, 9)),
    ],
)
def test_any_number_of_dimensions_and_any_size(layers, shape):
    net = nn.Sequential(*layers)
    net.train()(torch.randn(200, *shape) * 2)
    for name in SYNTHESIZERS:
        if name == "zeroq" and len(shape) == 1:
            with pytest.raises(ValueError, match="statistics of single images"):
                made_by(name, net.eval(), shape)
            continue
        images, _ = made_by(name, net.eval(), shape, n=10, iterations=3)
        assert images.shape == (10, *shape)
        assert torch.isfinite(images).all()


def test_a_network_with_its_own_epsilon_is_matched_in_it():
    x = torch.randn(400, 3, generator=generator()) * 0.1
    mean, var = x.mean(0), x.var(0)
    for eps in (1e-5, 1.0):
        assert bns_loss(x, mean, var, eps).item() == pytest.approx(0, abs=1e-12)


def test_real_images_are_a_sample_without_replacement(small_net):
    X = torch.arange(30.0).reshape(30, 1, 1, 1)
    seeds = np.random.SeedSequence(0)
    images, losses = synthesize(Real(X), trace(small_net), Request((1, 1, 1)), 20, 20, 1, seeds)
    assert len(images.unique()) == 20
    assert not len(losses)


@pytest.mark.parametrize(
    "value", [(0.0,), (0.0, 0.0), (0.0, 1.0, 2.0, 1.0), "none", ((0.0, 1.0), 1.0), None]
)
def test_bad_input_stats_are_refused(value):
    with pytest.raises(ValueError, match="input_stats must be"):
        as_input_stats(value, 3)
