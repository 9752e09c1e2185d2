"""What is left makes up for what was pruned, in closed form and without training.

- "ls": each layer, in the order of execution, is refitted on its mask so that it gives the dense layer's outputs from the
  inputs that it now gets: with x the inputs in the pruned and z those in the dense network, each row v minimises
  E (v'x + b' - w'z - b)^2 over its support. The intercept moves along where there is one.
- "obs": the weights of a block of the Fisher matrix move by -[F^-1]_:Q ([F^-1]_QQ)^-1 w_Q where Q went (`saliency.woodfisher`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layer_inputs import design, execution_order, layers_of, rows
from .masks import Masks, apply_masks
from .records import Scoring, evaluation_mode
from .saliency.layerwise import solve_on_support
from .saliency.woodfisher import WoodFisher, block_inverse_fisher, in_blocks

RIDGE = 1e-6  # of the mean square input, towards the dense weights


@torch.no_grad()
def refit_least_squares(scoring: Scoring, dense: nn.Module) -> None:
    """Refit every layer of the pruned network, in place.

    Parameters
    ----------
    scoring : Scoring
        The pruned network, its masks and records.
    dense : torch Module
        The network before pruning.
    """
    layers = layers_of(scoring.module, list(scoring.weights), 'compensate="ls"')
    originals = layers_of(dense, list(scoring.weights), 'compensate="ls"')
    for name in execution_order(scoring, layers):
        layer, original = layers[name], originals[name]
        gram, cross, x_sum, z_sum, n = _pair_moments(scoring, dense, layer, original)
        has_bias = layer.bias is not None
        if has_bias:  # centred moments: the intercept drops out
            gram = gram - x_sum[:, :, None] * x_sum[:, None, :] / n
            cross = cross - x_sum[:, :, None] * z_sum[:, None, :] / n
        W = rows(original, original.weight).double()
        keep = rows(layer, scoring.masks[name])
        new = torch.empty_like(W)
        for g in range(len(W)):
            ridge = RIDGE * gram[g].diagonal().mean().clamp(min=1e-12)
            eye = torch.eye(len(gram[g]), dtype=gram.dtype, device=gram.device)
            right = W[g] @ cross[g].T + ridge * W[g]
            new[g] = solve_on_support(gram[g] + ridge * eye, right, keep[g])
        layer.weight.copy_(new.reshape(layer.weight.shape))
        if has_bias:
            shift = torch.einsum("god,gd->go", W, z_sum) - torch.einsum("god,gd->go", new, x_sum)
            layer.bias.copy_(original.bias + shift.reshape(-1) / n)
        apply_masks(scoring.module, scoring.masks)


@torch.no_grad()
def move_by_fisher(scoring: Scoring, before: Masks) -> None:
    """Move the weights that are left, block by block, in place; the pruned ones must still hold their values.

    Parameters
    ----------
    scoring : Scoring
        The network with its weights before pruning, and the new masks.
    before : dict of str to bool Tensor
        The old masks.
    """
    method = WoodFisher()
    new, scoring.masks = scoring.masks, before
    inverse = block_inverse_fisher(scoring, method.block, method.damping)
    scoring.masks = new
    for name, w in scoring.weights.items():
        gone = (before[name] & ~new[name]).reshape(1, -1)
        q = in_blocks(gone.to(w.dtype), method.block)[0]  # (blocks, b)
        values = in_blocks(w.reshape(1, -1), method.block)[0] * q
        system = inverse[name] * q[:, :, None] * q[:, None, :] + torch.diag_embed(1 - q)
        z = torch.linalg.solve(system, values[:, :, None])
        change = -(inverse[name] @ z).reshape(-1)[: w.numel()]
        w.add_(change.view_as(w))
    apply_masks(scoring.module, new)


def _pair_moments(scoring: Scoring, dense: nn.Module, layer: nn.Module, original: nn.Module):
    """X'X and X'Z of a layer's inputs in the pruned (X) and the dense network (Z), their sums and their number."""
    seen: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda part, x, out: seen.update(x=x[0])),
        original.register_forward_hook(lambda part, x, out: seen.update(z=x[0])),
    ]
    total: list = [0.0, 0.0, 0.0, 0.0, 0]
    try:
        with evaluation_mode(scoring.module), evaluation_mode(dense):
            for records, _ in scoring.batches:
                scoring.module(records)
                dense(records)
                X = design(layer, seen["x"]).double()
                Z = design(original, seen["z"]).double()
                parts = (
                    X.transpose(1, 2) @ X,
                    X.transpose(1, 2) @ Z,
                    X.sum(1),
                    Z.sum(1),
                    X.shape[1],
                )
                total = [a + b for a, b in zip(total, parts, strict=True)]
    finally:
        for handle in handles:
            handle.remove()
    return total
