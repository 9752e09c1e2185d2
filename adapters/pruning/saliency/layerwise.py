"""Layer by layer: choose the weights that go and move the others, so that the layer's outputs stay.

With X the inputs of a layer and w one of its rows, the error of a change d of the row is d'H d / 2, H = 2 X'X / n (damped by a
hundredth of its mean diagonal). Removing w_i and moving the others at best costs w_i^2 / (2 [H^-1]_ii) and moves the row by
-(w_i / [H^-1]_ii) H^-1 e_i.

- OBC (Frantar and Alistarh 2022) does exactly that, one weight after the other, H^-1 updated each time: O(d^3) a row, about
  half a second a row of a thousand inputs.
- SparseGPT (Frantar and Alistarh 2023) goes through the columns once, in one order for all rows, so that they share U, the upper
  Cholesky factor of H^-1: a weight costs w_i^2 / U_ii^2 and its error goes to the columns on its right, O(d^3) for all
  rows together.

Both go through the layers in the order of execution, each with the inputs that it gets from the pruned layers before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distribution._base import apportion
from ..layer_inputs import Moments, input_moments, layers_of, rows
from ..masks import largest
from ..records import Scoring
from ..structure.n_of_m import NOfM
from ._base import SALIENCIES, Saliency

DAMPING = 0.01
BLOCK = 128  # columns


class LayerSolver(Saliency):
    """A saliency that chooses the mask of a layer and its new weights in one go."""

    needs_data = True

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        layers = layers_of(scoring.module, list(scoring.weights), repr(self))
        moments = input_moments(scoring, layers)
        terms = {}
        for name, layer in layers.items():
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped_hessian(moments[name])))
            scores = rows(layer, layer.weight.detach().double().square())
            scores = scores / (2 * inverse.diagonal(dim1=1, dim2=2)[:, None, :])
            terms[name] = scores.reshape(layer.weight.shape).float()
        return terms

    def solve(
        self, W: Tensor, H: Tensor, mask: Tensor, n_keep: int, pattern: NOfM | None
    ) -> tuple[Tensor, Tensor]:
        """New weights and mask of one layer.

        Parameters
        ----------
        W : Tensor of shape (outputs, d), float64
            Zero where the mask is off.
        H : Tensor of shape (d, d)
            Damped.
        mask : bool Tensor of shape (outputs, d)
        n_keep : int
        pattern : NOfM or None
            Then `n_keep` is not looked at.

        Returns
        -------
        weights, mask : Tensor of shape (outputs, d)
        """
        raise NotImplementedError

    @torch.no_grad()
    def prune_layer(self, scoring: Scoring, name: str, n_keep: int, pattern: NOfM | None) -> Tensor:
        """Prune one layer of the network in place; returns its mask."""
        layer = layers_of(scoring.module, [name], repr(self))[name]
        weight, keep = rows(layer, layer.weight).double(), rows(layer, scoring.masks[name])
        hessian = damped_hessian(input_moments(scoring, {name: layer})[name])
        available = [int(k.sum()) for k in keep]
        counts = apportion([max(a, 1e-9) for a in available], n_keep, available)
        parts = [
            self.solve(*part, pattern) for part in zip(weight, hessian, keep, counts, strict=True)
        ]
        new, mask = (
            torch.stack(part).reshape(layer.weight.shape) for part in zip(*parts, strict=True)
        )
        layer.weight.copy_(torch.where(mask, new, 0.0))
        return mask


@SALIENCIES.register("sparsegpt")
class SparseGPT(LayerSolver):
    """Column by column, errors passed to the right."""

    def solve(self, W, H, mask, n_keep, pattern):
        W, d = W.clone(), W.shape[1]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        U = torch.linalg.cholesky(inverse, upper=True)
        stays = torch.zeros_like(mask)
        width = BLOCK if pattern is None else max(pattern.m, BLOCK // pattern.m * pattern.m)
        left = n_keep
        for i in range(0, d, width):
            j = min(i + width, d)
            block, errors = W[:, i:j], torch.zeros_like(W[:, i:j])
            if pattern is None:
                # its share of what is still to be kept, but no more than there is, here and in what follows
                here, later = int(mask[:, i:j].sum()), int(mask[:, j:].sum())
                share = round(left * here / max(here + later, 1))
                n = min(max(share, left - later), here)
                cost = (block / U.diagonal()[i:j]).square().masked_fill(~mask[:, i:j], -torch.inf)
                stays[:, i:j] = largest(cost, n)
                left -= n
            for k in range(i, j):
                if pattern is not None and (k - i) % pattern.m == 0:
                    group = slice(k, min(k + pattern.m, j))
                    cost = (W[:, group] / U.diagonal()[group]).square()
                    cost = cost.masked_fill(~mask[:, group], -torch.inf)
                    stays[:, group] = pattern.best(cost, 0.0) & mask[:, group]
                error = torch.where(stays[:, k], 0.0, W[:, k]) / U[k, k]
                W[:, k:j] -= error[:, None] * U[k, k:j]
                errors[:, k - i] = error
            W[:, j:] -= errors @ U[i:j, j:]
        return W, stays


@SALIENCIES.register("obc")
class OBC(LayerSolver):
    """Exact greedy removal, row by row."""

    def solve(self, W, H, mask, n_keep, pattern):
        n_rows, d = W.shape
        orders = torch.empty(n_rows, d, dtype=torch.long, device=W.device)
        costs = torch.empty(n_rows, d, dtype=W.dtype, device=W.device)
        chunk = max(1, int(1e6) // d**2)  # matrices that stay in the cache
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        for part in torch.arange(n_rows, device=W.device).split(chunk):
            orders[part], costs[part] = greedy_removals(W[part], inverse, mask[part], pattern)
        if pattern is not None:
            stays = mask.clone()
            for place in range(d):
                gone = costs[:, place] < torch.inf
                stays[gone, orders[gone, place]] = False
        else:
            # a row removes in its own order; between rows the cheapest next removal goes first
            n_remove = mask.numel() - n_keep
            cost = costs.cummax(dim=1).values
            goes = largest(-cost, n_remove)
            stays = torch.ones_like(mask)
            stays.scatter_(1, orders, ~goes)
        return constrained_least_squares(W, H, stays), stays


def damped_hessian(moments: Moments) -> Tensor:
    """2 X'X / n plus a hundredth of its mean diagonal, (groups, d, d)."""
    H = 2 * moments.gram / moments.n
    mean = H.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, 1.0)
    return H + DAMPING * mean[:, None, None] * torch.eye(H.shape[1], dtype=H.dtype, device=H.device)


def greedy_removals(
    W: Tensor, inverse: Tensor, mask: Tensor, pattern: NOfM | None = None
) -> tuple[Tensor, Tensor]:
    """In which order each row loses its weights, and what each removal costs.

    Parameters
    ----------
    W : Tensor of shape (rows, d)
    inverse : Tensor of shape (d, d)
        H^-1.
    mask : bool Tensor of shape (rows, d)
        What is off goes first, at no cost.
    pattern : NOfM or None
        Given, removals that would leave fewer than n in a group of m cost infinity.

    Returns
    -------
    order, cost : Tensor of shape (rows, d)
    """
    n_rows, d = W.shape
    W, inverse = W.clone(), inverse.repeat(n_rows, 1, 1)
    row = torch.arange(n_rows, device=W.device)
    there = torch.ones_like(mask)
    group = torch.arange(d, device=W.device) // (pattern.m if pattern else d)
    removed = torch.zeros(n_rows, int(group[-1]) + 1, dtype=torch.long, device=W.device)
    sizes = torch.bincount(group)
    limit = sizes if pattern is None else sizes - -(-sizes * pattern.n // pattern.m)
    order = torch.empty(n_rows, d, dtype=torch.long, device=W.device)
    cost = torch.empty(n_rows, d, dtype=W.dtype, device=W.device)
    for step in range(d):
        diagonal = inverse.diagonal(dim1=1, dim2=2)
        loss = W.square() / (2 * diagonal.clamp(min=1e-300))
        loss = torch.where(mask, loss, -1.0)  # off already: first
        blocked = ~there | (removed >= limit)[:, group]
        loss = loss.masked_fill(blocked, torch.inf)
        cost[:, step], p = loss.min(1)
        p = torch.where(cost[:, step] < torch.inf, p, there.long().argmax(1))
        order[:, step] = p
        column = inverse[row, :, p]  # (rows, d)
        pivot = column[row, p].clamp(min=1e-300)
        W -= column * (W[row, p] / pivot)[:, None]
        W[row, p] = 0.0
        inverse.baddbmm_(column[:, :, None], (column / pivot[:, None])[:, None, :], alpha=-1.0)
        inverse[row, p, p] = 0.0
        there[row, p] = False
        removed[row, group[p]] += 1
    return order, cost.clamp(min=0.0)


def constrained_least_squares(W: Tensor, H: Tensor, mask: Tensor) -> Tensor:
    """Rows v that are zero off the mask and nearest to those of W: minimal (v - w)'H(v - w).

    Parameters
    ----------
    W : Tensor of shape (rows, d)
    H : Tensor of shape (d, d)
    mask : bool Tensor of shape (rows, d)

    Returns
    -------
    Tensor of shape (rows, d)
    """
    return solve_on_support(H, W @ H, mask)


def solve_on_support(G: Tensor, B: Tensor, mask: Tensor) -> Tensor:
    """For each row, v on its support S with G_SS v_S = b_S, zero elsewhere.

    Parameters
    ----------
    G : Tensor of shape (d, d)
        Positive definite.
    B : Tensor of shape (rows, d)
    mask : bool Tensor of shape (rows, d)

    Returns
    -------
    Tensor of shape (rows, d)
    """
    widest = int(mask.sum(1).max())
    V = torch.zeros_like(B)
    if widest == 0:
        return V
    eye = torch.eye(widest, dtype=G.dtype, device=G.device)
    for part in torch.arange(len(B), device=B.device).split(max(1, int(2e7) // widest**2)):
        # the support first, then padding, for which the system is the identity
        index = torch.sort(mask[part].int(), dim=1, descending=True, stable=True).indices[
            :, :widest
        ]
        real = mask[part].gather(1, index)
        both = real[:, :, None] & real[:, None, :]
        system = torch.where(both, G[index[:, :, None], index[:, None, :]], eye)
        right = torch.where(real, B[part].gather(1, index), 0.0)
        solution = torch.linalg.solve(system, right[:, :, None]).squeeze(2)
        V[part] = V[part].scatter(1, index, torch.where(real, solution, 0.0))
    return V
