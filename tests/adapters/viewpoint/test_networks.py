"""The networks: what must not change an action does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from statml.adapters.viewpoint.networks import (
    ENCODERS,
    ActorCritic,
    PointerHead,
    SetNetwork,
    TargetEmbedding,
    VectorHead,
    mirrored,
)

SETS = [
    "set_transformer",
    "deepsets",
]  # invariant to the order; "lstm" is too, unless ranges are equal
EXACT = 1e-14  # of numbers of order one in float64: the order of a sum


def scene(n_episodes=7, n_targets=5, n_columns=9, seed=0):
    """Random observations, the last targets of some episodes missing."""
    rng = np.random.default_rng(seed)
    targets = rng.normal(scale=[1, 5, 5, 2, 1, 1, 1, 1, 1], size=(n_episodes, n_targets, 9))
    targets[..., 5] = rng.random((n_episodes, n_targets)) < 0.3
    mask = np.arange(n_targets) < rng.integers(1, n_targets + 1, size=n_episodes)[:, None]
    targets[~mask] = 0
    return torch.as_tensor(targets[..., :n_columns]), torch.as_tensor(mask)


def network(arch, head=None, seed=0, n_columns=9):
    torch.manual_seed(seed)
    head = VectorHead(16, 3, bounded=True) if head is None else head
    return SetNetwork(arch, n_columns, head, d_model=16, n_heads=4, n_targets=6).double()


def padded(targets, mask, n):
    """n further rows, with whatever a careless caller leaves in them."""
    junk = torch.full((len(targets), n, targets.shape[2]), 3.0, dtype=targets.dtype)
    return torch.cat([targets, junk], 1), torch.cat([mask, torch.zeros(len(mask), n).bool()], 1)


@pytest.mark.parametrize("arch", [*SETS, "lstm"])
def test_the_order_of_the_targets_does_not_change_the_action(arch):
    targets, mask = scene()
    net, order = network(arch), torch.randperm(5, generator=torch.Generator().manual_seed(1))
    moved = net(targets[:, order], mask[:, order])
    torch.testing.assert_close(moved, net(targets, mask), rtol=0, atol=EXACT)


@pytest.mark.parametrize("arch", [*SETS, "lstm"])
@pytest.mark.parametrize("n", [1, 9])
def test_padding_does_not_change_the_action(arch, n):
    targets, mask = scene()
    net = network(arch)
    torch.testing.assert_close(
        net(*padded(targets, mask, n)), net(targets, mask), rtol=0, atol=EXACT
    )


@pytest.mark.parametrize("arch", ENCODERS)
def test_one_target_is_itself_inside_any_padding_and_gives_no_nan(arch):
    targets, mask = scene(n_targets=1)
    net = network(arch)
    alone = net(targets, mask)
    assert torch.isfinite(alone).all()
    torch.testing.assert_close(net(*padded(targets, mask, 4)), alone, rtol=0, atol=EXACT)


@pytest.mark.parametrize("arch", ENCODERS)
def test_gradients_are_finite_and_none_comes_from_padding(arch):
    targets, mask = scene()
    targets.requires_grad_()
    network(arch)(targets, mask).sum().backward()
    assert torch.isfinite(targets.grad).all()
    assert (targets.grad[~mask] == 0).all()
    assert (targets.grad[mask].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("arch", SETS)
def test_logits_of_candidates_move_with_their_targets_and_padding_has_none(arch):
    targets, mask = scene()
    net, order = network(arch, PointerHead(16, 4)), torch.tensor([3, 1, 4, 0, 2])
    logits = net(targets, mask).unflatten(1, (5, 4))
    moved = net(targets[:, order], mask[:, order]).unflatten(1, (5, 4))
    torch.testing.assert_close(moved, logits[:, order], rtol=0, atol=EXACT)
    assert (logits[~mask].flatten().softmax(0) > 0).all()  # finite, so that entropies are
    assert (logits.flatten(1).softmax(1).unflatten(1, (5, 4))[~mask] == 0).all()


def test_attention_is_the_formula_of_the_paper():
    """The pooling forms no keys; written out, it is a masked softmax of queries and keys a head."""
    targets, mask = scene()
    net = network("set_transformer")
    block, x = net.encoder.pooling, net.embedding(targets)
    heads = []
    for h in range(4):
        part = slice(4 * h, 4 * h + 4)
        q, k, v = block.query(block.seed)[part], block.key(x)[..., part], block.value(x)[..., part]
        scores = (k @ q / 16**0.5).masked_fill(~mask, -torch.inf)
        heads.append(torch.einsum("bn,bnd->bd", scores.softmax(1), v))
    O = block.norm_attention(block.seed + torch.cat(heads, 1))
    expected = block.norm_out(O + torch.relu(block.out(O)))
    torch.testing.assert_close(block(x, mask), expected, rtol=0, atol=EXACT)


def test_the_embedding_sees_no_jump_where_a_target_faces_the_drone():
    targets, _ = scene(n_columns=8)
    before, after = targets.clone(), targets.clone()
    before[..., 3], after[..., 3] = np.pi - 1e-9, -np.pi + 1e-9
    features = TargetEmbedding.features
    torch.testing.assert_close(features(before), features(after), rtol=0, atol=1e-8)


def test_features_of_position_stay_small_at_any_range():
    targets, _ = scene()
    far = targets.clone()
    far[..., 1], far[..., 2] = 50.0, -50.0
    assert TargetEmbedding.features(far)[..., 4:13].abs().max() < 2.5
    in_front = torch.tensor([[1.0, 3.0, 0.0, np.pi, 0, 0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(  # the drone stands where the target looks
        TargetEmbedding.features(in_front)[0, 11:13],
        torch.tensor([1.0, 0.0]).double(),
        atol=1e-6,
        rtol=0,
    )


def test_a_mirror_twice_is_no_mirror_and_keeps_distances():
    targets, _ = scene()
    torch.testing.assert_close(mirrored(mirrored(targets)), targets)
    features, mirror = (
        TargetEmbedding.features(targets),
        TargetEmbedding.features(mirrored(targets)),
    )
    torch.testing.assert_close(features.abs(), mirror.abs())


def test_more_targets_than_the_perceptron_was_made_for_are_an_error():
    targets, mask = scene(n_targets=7)
    mask[:] = True
    with pytest.raises(ValueError, match=r"at most 6 targets, got 7"):
        network("mlp")(targets, mask)


def test_actor_and_critic_share_no_layer():
    net = ActorCritic("set_transformer", 9, d_model=16)
    shared = {id(p) for p in net.actor.parameters()} & {id(p) for p in net.critic.parameters()}
    assert not shared
    assert torch.exp(net.log_std).allclose(torch.tensor(0.3))
