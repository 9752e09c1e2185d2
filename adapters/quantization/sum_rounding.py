r"""Rounding that keeps the sums of weights: no data, no learning, one pass (SQuant).

Neighbouring pixels are alike, and after a ReLU channels have a positive mean, so that what the errors of a kernel's weights have in common
matters more than each of them: with the input nearly constant over the kernel, the output moves by the constant times
:math:`\sum_k (\hat w_k - w_k)`. Rounded to nearest, this sum is a random walk. Here the fewest codes are rounded the other way, those nearest to a tie
first, until

- in every kernel, then
- in every output channel

the sum of errors is at most half a step. For depthwise layers, whose kernels are their channels, this is most of what learnt rounding gives.

References
----------
Guo, C. et al. (2022). SQuant: on-the-fly data-free quantization via diagonal Hessian approximation. ICLR (SQuant-K and SQuant-C).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from .quantizers import QuantizedLayer


def round_by_sums(weight: Tensor, low: int = -127, high: int = 127) -> Tensor:
    """Whole numbers near given ones, such that kernels and channels keep their sums within half a unit.

    Parameters
    ----------
    weight : Tensor of shape (n_out, n_in, ...)
        In units of the step; what a linear layer has is a kernel of one weight.
    low, high : int, default=-127, 127
        Bounds of the result; what lies outside is clipped and changed no more.

    Returns
    -------
    Tensor
        Whole numbers less than one away from `weight`, where that is within the bounds.

    Examples
    --------
    >>> import torch
    >>> round_by_sums(torch.tensor([[[0.4, 0.3, 0.4]]]))
    tensor([[[1., 0., 0.]]])
    """
    n_out, n_in = weight.shape[:2]
    kernels = weight.reshape(n_out * n_in, -1)
    codes = kernels.round().clamp(low, high)
    if kernels.shape[1] > 1:
        codes = _balance(kernels, codes, low, high)
    channels = weight.reshape(n_out, -1)
    return _balance(channels, codes.reshape(n_out, -1), low, high).reshape(weight.shape)


def _balance(weight: Tensor, codes: Tensor, low: int, high: int) -> Tensor:
    """Move codes by one, in every row against its sum of errors, those first that the move brings nearest to their weight."""
    error = codes - weight
    total = error.sum(1)
    sign = total.sign()[:, None]
    moved = codes - sign
    # only the other neighbour of a weight, never a second step away
    free = (error * sign > 0) & (moved >= low) & (moved <= high) & (error.abs() < 1)
    gain = torch.where(free, error * sign, -torch.inf)
    rank = gain.argsort(1, descending=True).argsort(1)
    wanted = total.abs().round()[:, None]
    return torch.where((rank < wanted) & free, moved, codes)


@torch.no_grad()
def keep_sums(student: fx.GraphModule) -> float:
    """Round the weights of a quantised network again, on its own grids, so that sums of weights are kept.

    Parameters
    ----------
    student : GraphModule
        `model_` of a `GenieQuantizer` that rounded to nearest (a learnt rounding would be lost); changed in place.

    Returns
    -------
    float
        Share of the weights that changed.
    """
    changed = total = 0
    for module in student.modules():
        if not isinstance(module, QuantizedLayer):
            continue
        quantizer, weight = module.quantizer, module.layer.weight
        wide = (-1, *[1] * (weight.ndim - 1))
        step, zero = (t.reshape(wide) for t in (quantizer.step, quantizer.zero_point))
        # bounds are those of the codes; zero-points differ between channels, so codes are what is rounded
        codes = round_by_sums(weight / step + zero, quantizer.low, quantizer.high)
        changed += int((codes != quantizer.codes()).sum())
        total += codes.numel()
        quantizer.set_codes(codes)
        module.freeze()
    return changed / total
