r"""What the inner search climbs: four readings of the paper, and nothing for the baselines.

With logits f, features z (what goes into the last linear layer), softmax p, and primes for the changed record:

=============  ==================================================================  ==========================================
"adversarial"  :math:`CE(f', y)`                                                   min-max, as in the abstract
"explore"      :math:`CE + \beta_f D_z + \beta_a D_\alpha`                         "maximise divergence", taken literally
"ada"          :math:`CE - \beta_f\, \|z' - z\|^2 / 2`                             Volpi et al. (2018), Lagrangian of a Wasserstein ball
"agat_code"    :math:`-(CE + BCE(p', p)) + \beta_f D_z + \beta_a D_\alpha`         the released code, which descends
=============  ==================================================================  ==========================================

:math:`D_z = mean (\sigma(z') - \sigma(z))^2` and :math:`D_\alpha = mean (u' - u)^2 + mean |u' - u|`, with attributes in half-widths of the box.
The default is "adversarial", the maximum of the abstract. The released code descends on its loss, which makes perturbed records easy to
classify while it moves them far; why the two differ is not known.

References
----------
Gokhale, T. et al. (2021). Attribute-guided adversarial training for robustness to natural perturbations. AAAI.
Volpi, R. et al. (2018). Generalizing to unseen domains via adversarial data augmentation. NeurIPS. (eqs. 3-5)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OBJECTIVES = ("adversarial", "explore", "ada", "agat_code")


class Features:
    """Runs a module and keeps what goes into its last linear layer; the logits, if it has none.

    Parameters
    ----------
    module : torch Module
    """

    def __init__(self, module: nn.Module):
        self.module = module
        linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
        self.layer = linear[-1] if linear else None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, K) and features (n, ...)."""
        if self.layer is None:
            logits = self.module(x)
            return logits, logits.flatten(1)
        kept: list[Any] = []
        handle = self.layer.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            logits = self.module(x)
        finally:
            handle.remove()
        return logits, kept[-1].flatten(1)


def make_objective(
    kind: str,
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    u_clean: Tensor,
    beta_feature: float = 0.0,
    beta_attribute: float = 0.0,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The objective of a batch, to be climbed by `search`.

    Parameters
    ----------
    kind : {"adversarial", "explore", "ada", "agat_code"}
    module : torch Module
        In evaluation mode.
    x : Tensor of shape (n, ...)
        Clean records.
    y : Tensor of int, shape (n,)
    u_clean : Tensor of shape (n, K)
        Scaled positions of the clean attributes.
    beta_feature, beta_attribute : float, default=0.0

    Returns
    -------
    callable (x', u) -> Tensor of shape (n,)
    """
    if kind == "adversarial":
        return lambda changed, u: F.cross_entropy(module(changed), y, reduction="none")
    run = Features(module)
    with torch.no_grad():
        logits, z = run(x)
        p = logits.softmax(1)

    def objective(changed: Tensor, u: Tensor) -> Tensor:
        logits, z_changed = run(changed)
        loss = F.cross_entropy(logits, y, reduction="none")
        if kind == "ada":
            return loss - beta_feature / 2 * (z_changed - z).square().sum(1)
        away = beta_feature * (z_changed.sigmoid() - z.sigmoid()).square().mean(1)
        move = u - u_clean
        if move.shape[1]:
            away = away + beta_attribute * (move.square().mean(1) + move.abs().mean(1))
        if kind == "explore":
            return loss + away
        p_changed = logits.softmax(1).clamp(1e-7, 1 - 1e-7)
        return away - loss - F.binary_cross_entropy(p_changed, p, reduction="none").mean(1)

    return objective
