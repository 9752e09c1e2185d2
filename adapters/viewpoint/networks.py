"""Networks over a set of targets: what the policy and its critic are made of.

A decision sees N targets as rows (observation, ``scene.OBSERVATION_COLUMNS``) and a mask of those that exist. `TargetEmbedding`
makes a token of every row, an encoder makes tokens t_i and one vector z of the set, and a head reads them:

    displacement   a = tanh(W z)                          three numbers, the drone's frame
    candidate      logit(i, c) = w_c . relu(V [t_i, z])    a pointer at viewpoint c of target i
    value          v = W z

The encoder "set_transformer" is one self-attention block and a pooling by attention with a learned seed (Lee et al.),

    MAB(Q, K) = LN(O + relu(W_o O)),  O = LN(Q + softmax(W_q Q (W_k K)' / sqrt(d)) W_v K),
    t = MAB(x, x),  z = MAB(seed, t),

both with the mask on the keys: a padded target weighs exactly nothing, so that neither the order nor the padding of the targets
changes an action. "deepsets" (masked mean) has the same two invariances; "mlp" (all rows in one vector, a fixed N) and "lstm" (targets from
far to near, the classified ones first) are for comparison.

Cost of one decision: O(N^2 d + N d^2).

References
----------
Lee, Lee, Kim, Kosiorek, Choi, Teh (2019), Set Transformer, ICML. Zaheer et al. (2017), Deep Sets, NeurIPS.
"""

from __future__ import annotations

import math

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

NEAR = 8.0  # metres within which positions are told in metres; farther away, by direction and log range


class SetNetwork(nn.Module):
    """Embedding, encoder and head: from the observed targets to an action's mean, to logits or to a value.

    Parameters
    ----------
    arch : {"set_transformer", "deepsets", "mlp", "lstm"}
    n_columns : {8, 9}
        Columns of an observation.
    head : nn.Module
        (tokens, pooled, mask) -> output: `VectorHead`, `PointerHead`.
    d_model : int, default=64
        Width of every layer.
    n_heads : int, default=4
        Attention heads of "set_transformer".
    n_targets : int, optional
        The fixed number of rows of "mlp".

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.viewpoint.networks import SetNetwork, VectorHead
    >>> network = SetNetwork("set_transformer", 9, VectorHead(64, 3))
    >>> targets, mask = torch.randn(2, 5, 9), torch.ones(2, 5, dtype=torch.bool)
    >>> network(targets, mask).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        arch: str,
        n_columns: int,
        head: nn.Module,
        d_model: int = 64,
        n_heads: int = 4,
        n_targets: int | None = None,
    ):
        super().__init__()
        self.embedding = TargetEmbedding(n_columns, d_model)
        self.encoder = ENCODERS[arch](d_model, n_heads=n_heads, n_targets=n_targets)
        self.head = head

    def forward(self, targets: Tensor, mask: Tensor) -> Tensor:
        """Targets (B, N, n_columns) and mask (B, N), True where there is a target, to the head's output."""
        x = self.embedding(targets)
        tokens, pooled = self.encoder(x, mask, targets)
        return self.head(tokens, pooled, mask)


class TargetEmbedding(nn.Module):
    """A token of what is observed of one target: W relu(W' features), without a scale that a larger field could leave.

    Angles come in as sine and cosine: the heading that shows the drone a target's front is +-pi, where the angle itself jumps. The
    position comes as direction, log range, and metres up to `NEAR`; and as the direction of the drone seen from the target, on
    which a view depends.
    """

    def __init__(self, n_columns: int, d_model: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_columns + 6, d_model), nn.ReLU(), nn.Linear(d_model, d_model)
        )

    def forward(self, targets: Tensor) -> Tensor:
        return self.layers(self.features(targets))

    @staticmethod
    def features(targets: Tensor) -> Tensor:
        """(..., n_columns) to (..., n_columns + 6) numbers of order one."""
        belief, x, y, heading, last, tracked, vx, vy, *idle = targets.unbind(-1)
        range_ = torch.sqrt(x * x + y * y + 1e-6)
        east, north = x / range_, y / range_
        near = range_.clamp(max=NEAR) / NEAR
        cos, sin = torch.cos(heading), torch.sin(heading)
        return torch.stack(
            [
                belief,
                last,
                tracked,
                *idle,
                east,
                north,
                torch.log1p(range_) / 2.0,
                near * east,
                near * north,
                cos,
                sin,
                -(east * cos + north * sin),  # the drone's direction in the target's frame:
                east * sin - north * cos,  # (1, 0) in front of it
                vx,
                vy,
            ],
            dim=-1,
        )


# --- encoders: (x (B, N, d), mask (B, N), observed targets) -> tokens (B, N, d), pooled (B, d) ----------


class SetTransformer(nn.Module):
    """One self-attention block, pooled by attention."""

    def __init__(self, d_model: int, n_heads: int, **_):
        super().__init__()
        self.self_attention = SelfAttention(d_model, n_heads)
        self.pooling = PoolingByAttention(d_model, n_heads)

    def forward(self, x: Tensor, mask: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.self_attention(x, mask)
        return tokens, self.pooling(tokens, mask)


class AttentionBlock(nn.Module):
    """What the two blocks share: the projections, and the layers after the attention."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads, self.scale = n_heads, d_model**-0.5  # the full width, as published
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model, bias=False)  # a bias would cancel in the softmax
        self.value = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)
        self.norm_attention = nn.LayerNorm(d_model)
        self.norm_out = nn.LayerNorm(d_model)

    def after(self, Q: Tensor, attended: Tensor) -> Tensor:
        O = self.norm_attention(Q + attended)
        return self.norm_out(O + F.relu(self.out(O)))


class SelfAttention(AttentionBlock):
    """MAB(x, x): (B, N, d) to (B, N, d)."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, N, d / heads)
            for project in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None, None, :], scale=self.scale
        )
        return self.after(x, attended.transpose(1, 2).flatten(2))


class PoolingByAttention(AttentionBlock):
    """MAB(seed, t): (B, N, d) to (B, d).

    The seed's query q is the same for every set, so that the scores q' W_k t are linear in t: no keys are formed.
    """

    def __init__(self, d_model: int, n_heads: int):
        super().__init__(d_model, n_heads)
        self.seed = nn.Parameter(torch.randn(d_model) / d_model**0.5)

    def forward(self, t: Tensor, mask: Tensor) -> Tensor:
        q = self.query(self.seed).unflatten(0, (self.n_heads, -1))
        W_k = self.key.weight.unflatten(0, (self.n_heads, -1))
        scores = t @ torch.einsum("he,hed->dh", q, W_k) * self.scale  # (B, N, heads)
        weights = scores.masked_fill(~mask.unsqueeze(-1), -torch.inf).softmax(dim=1)
        v = self.value(t).unflatten(-1, (self.n_heads, -1))
        attended = (weights.unsqueeze(-1) * v).sum(1).flatten(1)
        return self.after(self.seed, attended)


class DeepSets(nn.Module):
    """rho(mean over the targets of phi(x))."""

    def __init__(self, d_model: int, **_):
        super().__init__()
        self.phi = nn.Sequential(
            nn.ReLU(), nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, d_model)
        )
        self.rho = nn.Sequential(
            nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, d_model), nn.ReLU()
        )

    def forward(self, x: Tensor, mask: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.phi(x)
        present = mask.unsqueeze(-1).to(x.dtype)
        return tokens, self.rho((tokens * present).sum(1) / present.sum(1))


class Padded(nn.Module):
    """A perceptron of all tokens in one vector, zeros where there is no target; a fixed N."""

    def __init__(self, d_model: int, n_targets: int, **_):
        super().__init__()
        self.n_targets = n_targets
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Linear(n_targets * d_model, 2 * d_model),
            nn.ReLU(),
            nn.Linear(2 * d_model, d_model),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, mask: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        n = mask.shape[1]
        if n > self.n_targets and not mask[:, self.n_targets :].any():  # padding alone
            x, mask, n = x[:, : self.n_targets], mask[:, : self.n_targets], self.n_targets
        if n > self.n_targets:
            raise ValueError(
                f'arch="mlp" was fitted to at most {self.n_targets} targets, got {int(mask.sum(1).max())}; '
                "the other architectures take any number"
            )
        tokens = x * mask.unsqueeze(-1).to(x.dtype)
        padded = F.pad(tokens, (0, 0, 0, self.n_targets - n))
        return x, self.layers(padded.flatten(1))


class FarToNear(nn.Module):
    """An LSTM over the targets, the classified first, then from far to near: the nearest open one is read last."""

    def __init__(self, d_model: int, **_):
        super().__init__()
        self.lstm = nn.LSTM(d_model, d_model, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        _, px, py, _, _, tracked, *_ = targets.unbind(-1)
        key = torch.hypot(px, py) + 1e6 * (tracked > 0.5)
        key = key.masked_fill(~mask, -1.0)  # padding comes last, and is cut off
        order = key.argsort(dim=1, descending=True, stable=True)
        ordered = x.gather(1, order.unsqueeze(-1).expand_as(x))
        packed = pack_padded_sequence(
            ordered, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        return x, self.lstm(packed)[1][0].squeeze(0)


ENCODERS = {
    "set_transformer": SetTransformer,
    "deepsets": DeepSets,
    "mlp": Padded,
    "lstm": FarToNear,
}


# --- heads --------------------------------------------------------------------------------------------


class VectorHead(nn.Module):
    """Numbers of the whole set: `n_outputs` of them, within (-1, 1) if they are a displacement."""

    def __init__(self, d_model: int, n_outputs: int, bounded: bool = False):
        super().__init__()
        self.linear, self.bounded = nn.Linear(d_model, n_outputs), bounded

    def forward(self, tokens: Tensor, pooled: Tensor, mask: Tensor) -> Tensor:
        out = self.linear(pooled)
        return torch.tanh(out) if self.bounded else out


class PointerHead(nn.Module):
    """A logit for each of the `n_candidates` viewpoints around each target: (B, N * n_candidates)."""

    def __init__(self, d_model: int, n_candidates: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * d_model, d_model), nn.ReLU(), nn.Linear(d_model, n_candidates)
        )

    def forward(self, tokens: Tensor, pooled: Tensor, mask: Tensor) -> Tensor:
        context = pooled.unsqueeze(1).expand(-1, tokens.shape[1], -1)
        logits = self.layers(torch.cat([tokens, context], dim=-1))
        lowest = torch.finfo(logits.dtype).min
        return logits.masked_fill(~mask.unsqueeze(-1), lowest).flatten(1)


# --- the two networks of a policy ---------------------------------------------------------------------


class ActorCritic(nn.Module):
    """An actor and a critic of the same architecture, without a common layer.

    What the critic learns then leaves a warm-started actor as it is.

    Parameters
    ----------
    arch, n_columns, d_model, n_heads, n_targets
        As `SetNetwork` takes them.
    n_candidates : int, optional
        Candidate viewpoints a target: the actor points at one of them. None: it returns a displacement.
    """

    STD = 0.3  # of the actions that PPO tries, at the start: small, not to undo a warm start

    def __init__(
        self,
        arch: str,
        n_columns: int,
        n_candidates: int | None = None,
        d_model: int = 64,
        n_heads: int = 4,
        n_targets: int | None = None,
    ):
        super().__init__()
        size = {"d_model": d_model, "n_heads": n_heads, "n_targets": n_targets}
        if n_candidates is None:
            head: nn.Module = VectorHead(d_model, 3, bounded=True)
            self.log_std = nn.Parameter(torch.full((3,), math.log(self.STD)))
        else:
            head = PointerHead(d_model, n_candidates)
        self.actor = SetNetwork(arch, n_columns, head, **size)
        self.critic = SetNetwork(arch, n_columns, VectorHead(d_model, 1), **size)


def act(actor: SetNetwork, targets: Tensor, mask: Tensor) -> NDArray:
    """The action that an actor thinks best: displacements (B, 3), or candidates (B,)."""
    with torch.no_grad():
        out = actor(targets, mask)
    return out.argmax(1).numpy() if isinstance(actor.head, PointerHead) else out.double().numpy()


def mirrored(targets: Tensor) -> Tensor:
    """The same scene in a mirror along the drone's axis: y, heading and lateral velocity change their sign."""
    sign = torch.ones(targets.shape[-1], dtype=targets.dtype)
    sign[[2, 3, 7]] = -1.0
    return targets * sign
