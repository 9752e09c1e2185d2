"""Weights of groups by exponentiated gradients, balanced batches, averages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from statml.adapters.group_robust.online import (  # noqa: E402
    BalancedSampler,
    GroupPlayer,
    HardBatch,
    SoftBatch,
    balanced_membership,
    updated_weights,
)
from statml.adapters.group_robust.training import Averaging  # noqa: E402
from torch import nn  # noqa: E402

from statml.group_robust.membership import HardGroups, SoftGroups  # noqa: E402

losses_of_groups = st.lists(st.floats(0, 30), min_size=2, max_size=6)


@given(losses_of_groups, st.floats(0, 1.5), st.integers(0, 2**16))
def test_present_groups_share_their_weight_anew_and_absent_ones_keep_theirs(losses, step, seed):
    rng = np.random.default_rng(seed)
    m = len(losses)
    q = rng.dirichlet(np.ones(m))
    present = rng.random(m) < 0.5
    found = updated_weights(q, np.array(losses), present, step)
    expected = q.copy()
    grown = q[present] * np.exp(step * np.array(losses)[present])
    expected[present] = grown * q[present].sum() / max(grown.sum(), 1e-300)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-15)
    assert found.sum() == pytest.approx(1, abs=1e-9)


def test_groups_of_the_same_loss_keep_equal_weights_however_rare_they_are():
    """Scaling all groups after those in the batch have grown leaves the rare ones with nothing."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(3), [900, 90, 10])
    player = GroupPlayer(np.zeros(3), None, 0.05)
    published = np.full(3, 1 / 3)
    for _ in range(500):
        group = rng.choice(codes, 16)
        player.play(torch.ones(16), {"group": torch.from_numpy(group)})
        published *= np.exp(0.05 * (np.bincount(group, minlength=3) > 0))
        published /= published.sum()
    np.testing.assert_allclose(player.q, 1 / 3, rtol=1e-4)
    assert published[2] < 1e-3


@given(st.integers(2, 6), st.floats(0.05, 1.0), st.integers(0, 2**16))
def test_weights_stay_below_their_caps_and_sum_to_one(m, alpha, seed):
    rng = np.random.default_rng(seed)
    caps = np.minimum(rng.dirichlet(np.ones(m)) / alpha, 1.0)
    player = GroupPlayer(np.zeros(m), caps, 0.5)
    for _ in range(20):
        group = rng.integers(0, m, 8)
        player.play(torch.tensor(rng.random(8) * 3), {"group": torch.tensor(group)})
        assert player.q.sum() == pytest.approx(1, abs=1e-9)
        assert (player.q <= caps + 1e-9).all()


def test_with_alpha_1_the_robust_loss_is_the_mean_loss():
    rng = np.random.default_rng(0)
    group = np.array([0] * 6 + [1] * 3 + [2])
    caps = np.bincount(group) / 10
    losses = torch.tensor(rng.random(10), requires_grad=True)
    robust = GroupPlayer(np.zeros(3), caps, 0.7).play(losses, {"group": torch.tensor(group)})
    assert robust.item() == pytest.approx(losses.mean().item(), rel=1e-6)
    robust.backward()
    np.testing.assert_allclose(losses.grad, 0.1, rtol=1e-6)


def test_a_loss_of_any_size_leaves_the_weights_finite():
    player = GroupPlayer(np.zeros(2), None, 1.0)
    both = {"group": torch.arange(2)}
    for _ in range(5):
        player.play(torch.tensor([1e6, 0.0]), both)
    assert np.isfinite(player.q).all()
    for _ in range(3):  # and the group that was forgotten can come back
        player.play(torch.tensor([0.0, 40.0]), both)
    assert player.q[1] > 0.99


@given(st.integers(0, 2**16))
def test_one_hot_memberships_are_hard_groups_and_soft_ones_average_to_the_mean(seed):
    rng = np.random.default_rng(seed)
    losses, weight, v = rng.random(12), rng.random(12) + 0.1, rng.random(3)
    soft = SoftBatch(rng.dirichlet(np.ones(3), 12))
    assert soft.sums(losses).sum() == pytest.approx(losses.sum(), rel=1e-12)
    assert (soft.sums(losses) / soft.mass).max() >= losses.mean() - 1e-12
    codes = rng.integers(0, 3, 12)
    for w in (None, weight):
        hard = HardBatch(codes, 3, w)
        hot = SoftBatch(np.eye(3)[codes] * (1 if w is None else w[:, None]))
        np.testing.assert_allclose(hard.sums(losses), hot.sums(losses), rtol=1e-12)
        np.testing.assert_allclose(hard.mass, hot.mass, rtol=1e-12)
        np.testing.assert_allclose(hard.row_weights(v), hot.row_weights(v), rtol=1e-12)


def test_group_means_of_balanced_batches_estimate_weighted_group_losses_hard_and_soft():
    """Draws have known mean and variance: 30,000 of them, four standard errors, six means at once."""
    rng = np.random.default_rng(0)
    n, m, draws = 60, 3, 30_000
    losses, weight = rng.random(n), rng.random(n) + 0.2
    codes = np.r_[np.zeros(45), np.ones(12), np.full(3, 2)].astype(int)
    soft = SoftGroups(rng.dirichlet(0.3 * np.ones(m), n), weight)
    hard = HardGroups(codes, weight, m)
    for groups in (hard, soft):
        sampler = BalancedSampler(groups, draws, torch.Generator().manual_seed(1))
        drawn = np.array(list(sampler))
        P = np.eye(m)[codes] if groups is hard else balanced_membership(soft, n)
        x, p = losses[drawn], P[drawn]
        found = p.T @ x / p.sum(0)
        error = np.sqrt((p**2).T @ x**2) / p.sum(0)  # an upper bound of the standard error
        truth = groups.means(losses[groups.order])
        assert (np.abs(found - truth) < 4 * error).all()
        assert (4 * error < 0.05).all()
    assert (
        np.bincount(codes[list(BalancedSampler(hard, 300, torch.Generator()))]).tolist()
        == [100] * 3
    )


def test_records_of_weight_zero_or_without_a_group_are_never_drawn():
    weight = np.array([1.0, 0.0, 1.0, 1.0])
    membership = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    sampler = BalancedSampler(SoftGroups(membership, weight), 500, torch.Generator())
    assert set(sampler) == {0, 3}


def test_averages_are_the_means_of_the_last_steps_and_integers_the_last():
    module = nn.BatchNorm1d(2)
    averaging = Averaging(0.5)
    averaging.start(n_steps=6)
    seen = []
    for step in range(6):
        with torch.no_grad():
            module.weight.fill_(float(step))
        module.num_batches_tracked.fill_(step)
        averaging.after_step(module, np.array([step / 10, 1 - step / 10]))
        seen.append(step)
    assert torch.allclose(averaging.mean["weight"], torch.tensor(4.0))
    assert int(averaging.mean["num_batches_tracked"]) == 5
    np.testing.assert_allclose(averaging.mean_q, [0.4, 0.6], rtol=1e-6)
