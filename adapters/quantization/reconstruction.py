r"""Reconstruction of one unit: roundings and steps with which its output changes least.

Minimised over the roundings V and the steps s_w, s_a of the unit is

.. math:: \mathbb{E} \sum_c (y_c - \hat y_c)^2 + \lambda \sum_i \left(1 - |2 h(V_i) - 1|^{\beta}\right),

the mean over records and places, the first sum over channels, the second over the unit's weights. The second term is left out in the first
fifth of the iterations; then beta falls from 20 to 2, which leaves roundings free at first and drives them to 0 or 1 at the end. What
comes in is, element by element, the quantised or the float network's with probability 1/2 (QDrop), and so do quantisers inside.

V moves by about the learning rate an iteration, and must move by 2.4 to be decided: fewer iterations need a larger rate, or the
result is that of an optimiser cut short. `UnitRecord.undecided` says so.

References
----------
Jeon, Y., Lee, C. and Kim, H. (2023). Genie: show me the data for quantization. CVPR.

Li, Y. et al. (2021). BRECQ: pushing the limit of post-training quantization by block reconstruction. ICLR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .quantizers import LSQActivation, QuantizedLayer, rectified_sigmoid

EVALUATED = 128  # records at a time


@dataclass(frozen=True)
class Settings:
    """Numbers of a reconstruction; `GenieQuantizer` has them as parameters of the same names.

    Parameters
    ----------
    recon_iter : int, default=500
    recon_batch : int, default=32
    lr_round, lr_w_step, lr_a_step : float
        Of roundings (constant), steps of weights and of activations (both falling to 0 by a cosine).
    round_weight : float, default=1.0
    beta : (float, float), default=(20.0, 2.0)
    warmup : float, default=0.2
    drop_prob : float, default=0.5
    """

    recon_iter: int = 500
    recon_batch: int = 32
    lr_round: float = 1e-2
    lr_w_step: float = 1e-4
    lr_a_step: float = 4e-5
    round_weight: float = 1.0
    beta: tuple[float, float] = (20.0, 2.0)
    warmup: float = 0.2
    drop_prob: float = 0.5


@dataclass(frozen=True)
class UnitRecord:
    """What came of a reconstruction.

    Parameters
    ----------
    start_loss : float
        Error of the unit's output with rounding to nearest, over all records.
    soft_loss : float
        At the end, before the roundings are decided.
    hard_loss : float
        After it.
    undecided : dict of str to float
        By layer, the share of roundings with h in (0.01, 0.99) at the end.
    loss : list of float
        Error of the minibatch, in every iteration.
    """

    start_loss: float
    soft_loss: float
    hard_loss: float
    undecided: dict[str, float] = field(default_factory=dict)
    loss: list[float] = field(default_factory=list)


def rounding_penalty(h: Tensor, beta: float) -> Tensor:
    """Sum of 1 - |2 h - 1|^beta: zero where every rounding is decided."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def annealed_beta(t: int, n: int, beta: tuple[float, float] = (20.0, 2.0), warmup: float = 0.2):
    """Beta in iteration t of n: constant in the warm-up, then linear from the first to the second value.

    Examples
    --------
    >>> [annealed_beta(t, 20_000) for t in (1, 4_000, 8_000, 12_000, 20_000)]
    [20.0, 20.0, 15.5, 11.0, 2.0]
    """
    start, end = beta
    done = (t - warmup * n) / ((1 - warmup) * n)
    return float(end + (start - end) * max(0.0, 1 - max(0.0, done)))


def reconstruction_error(y: Tensor, target: Tensor) -> Tensor:
    """Squared error, summed over channels and averaged over records and places."""
    return (y - target).square().sum(1).mean()


def reconstruct_unit(
    forward: Callable[[Tensor], Tensor],
    layers: dict[str, QuantizedLayer],
    activations: Sequence[LSQActivation],
    quantized: Tensor,
    float_inputs: Tensor,
    target: Tensor,
    settings: Settings,
    *,
    roundings: bool = True,
    weight_step: bool = True,
    activation_step: bool = True,
    generator: torch.Generator | None = None,
    on_iteration: Callable[[], object] = lambda: None,
) -> UnitRecord:
    """Learn the roundings and steps of one unit, then decide the roundings.

    Parameters
    ----------
    forward : callable
        Tensor -> Tensor, the unit with its quantisers.
    layers : dict of str to QuantizedLayer
        Those of the unit, with quantizers at their initial steps.
    activations : sequence of LSQActivation
        Those whose steps are learnt; all of them let elements pass with ``drop_prob``.
    quantized, float_inputs : Tensor of shape (n_records, ...)
        What comes in, in the quantised network so far and in the float one.
    target : Tensor of shape (n_records, ...)
        What goes out of the unit in the float network.
    settings : Settings
    roundings, weight_step, activation_step : bool, default=True
        What is learnt.
    generator : torch.Generator, optional
        Draws minibatches and what passes.
    on_iteration : callable, optional
        Called after every iteration.

    Returns
    -------
    UnitRecord
        The quantizers of `layers` hold decided codes.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from statml.adapters.quantization.quantizers import WeightQuantizer, search_step
    >>> _ = torch.manual_seed(0)
    >>> layer = nn.Linear(8, 4)
    >>> x = torch.randn(64, 8)
    >>> y = layer(x).detach()
    >>> unit = QuantizedLayer(layer)
    >>> unit.quantizer = WeightQuantizer(layer.weight, 2, *search_step(layer.weight, 2, per_channel=True))
    >>> record = reconstruct_unit(unit, {"": unit}, [], x, x, y, Settings(500))
    >>> record.hard_loss < record.start_loss
    True
    """
    quantizers = {
        name: layer.quantizer for name, layer in layers.items() if layer.quantizer is not None
    }
    start = _settled(_hard_error(forward, layers, quantized, target))
    curve: list[float] = []
    learns = roundings or weight_step or (activation_step and activations)
    if settings.recon_iter == 0 or not learns:
        for quantizer in quantizers.values():
            quantizer.set_codes(_decided(quantizer))
        return UnitRecord(start, start, start, dict.fromkeys(quantizers, 0.0), curve)
    for layer in layers.values():
        layer.thaw() if roundings or weight_step else layer.freeze()
    for quantizer in quantizers.values():
        quantizer.hard = not roundings
    optimizers, schedules = _optimizers(
        quantizers.values(), activations, settings, roundings, weight_step, activation_step
    )
    first = [quantizer.step.detach().clone() for quantizer in quantizers.values()]
    try:
        for activation in activations:
            activation.drop_prob, activation.generator = settings.drop_prob, generator
        n = len(quantized)
        for t in range(1, settings.recon_iter + 1):
            batch = torch.randperm(n, generator=generator)[: settings.recon_batch]
            x = quantized[batch]
            if settings.drop_prob:
                draws = torch.rand(x.shape, generator=generator, device=x.device)
                x = torch.where(draws < settings.drop_prob, x, float_inputs[batch])
            error = reconstruction_error(forward(x), target[batch])
            loss = error
            if roundings and t > settings.warmup * settings.recon_iter:
                beta = annealed_beta(t, settings.recon_iter, settings.beta, settings.warmup)
                for quantizer in quantizers.values():
                    h = rectified_sigmoid(quantizer.V)
                    loss = loss + settings.round_weight * rounding_penalty(h, beta)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            for schedule in schedules:
                schedule.step()
            if weight_step:
                _keep_positive([q.step for q in quantizers.values()], first)
            curve.append(error.item())
            on_iteration()
    finally:
        for activation in activations:
            activation.drop_prob, activation.generator = 0.0, None
    undecided = {name: q.undecided() if roundings else 0.0 for name, q in quantizers.items()}
    soft = _settled(_error(forward, quantized, target))
    for quantizer in quantizers.values():
        quantizer.set_codes(_decided(quantizer))
    for layer in layers.values():
        layer.thaw()
        layer.freeze()
    return UnitRecord(start, soft, _error(forward, quantized, target), undecided, curve)


def _settled(error: float) -> float:
    """Refuse the error of a unit that has diverged."""
    if not math.isfinite(error):
        raise ValueError(
            "the reconstruction has diverged, the error of a unit is no finite number: scale X as the network's training "
            "data were, or lower lr_round, lr_w_step or lr_a_step"
        )
    return error


def _optimizers(quantizers, activations, settings, roundings, weight_step, activation_step):
    """Adam for each kind of parameter; the learning rates of steps fall to zero."""
    optimizers, schedules = [], []
    if roundings:
        optimizers.append(torch.optim.Adam([q.V for q in quantizers], settings.lr_round))
    for wanted, steps, rate in (
        (weight_step, [q.step for q in quantizers], settings.lr_w_step),
        (activation_step, [a.step for a in activations], settings.lr_a_step),
    ):
        if wanted and steps:
            optimizer = torch.optim.Adam(steps, rate)
            optimizers.append(optimizer)
            schedules.append(
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.recon_iter)
            )
    return optimizers, schedules


@torch.no_grad()
def _keep_positive(steps: list[Tensor], first: list[Tensor]) -> None:
    for step, before in zip(steps, first, strict=True):
        torch.maximum(step, before * 1e-3, out=step.data)


@torch.no_grad()
def _decided(quantizer) -> Tensor:
    hard, quantizer.hard = quantizer.hard, True
    codes = quantizer.codes()
    quantizer.hard = hard
    return codes


@torch.no_grad()
def _error(forward: Callable, x: Tensor, target: Tensor) -> float:
    """Over all records, nothing dropped."""
    total = 0.0
    for part, wanted in zip(x.split(EVALUATED), target.split(EVALUATED), strict=True):
        total += reconstruction_error(forward(part), wanted).item() * len(part)
    return total / len(x)


def _hard_error(forward: Callable, layers: dict[str, QuantizedLayer], x, target) -> float:
    before = {name: layer.quantizer.hard for name, layer in layers.items() if layer.quantizer}
    for name in before:
        layers[name].thaw()
        layers[name].quantizer.hard = True
    error = _error(forward, x, target)
    for name, hard in before.items():
        layers[name].quantizer.hard = hard
    return error


# --- steps in closed form -----------------------------------------------------------------------------


def refit_step(weight: Tensor, codes: Tensor, moments: Tensor) -> Tensor:
    r"""The step with which given codes reproduce the outputs of a linear unit best, in closed form.

    With centred codes c of an output channel and :math:`H = X^\top X` of its inputs, :math:`\|X (w - s c)\|^2` is least at
    :math:`s^* = c^\top H w / c^\top H c`.

    Parameters
    ----------
    weight : Tensor of shape (n_out, n_in)
    codes : Tensor of shape (n_out, n_in)
        Centred: codes minus zero-point.
    moments : Tensor of shape (n_in, n_in)
        H, or any positive multiple of it.

    Returns
    -------
    Tensor of shape (n_out,)
        NaN where all codes of a channel are zero.

    Examples
    --------
    >>> import torch
    >>> refit_step(torch.tensor([[1.0, 2.2]]), torch.tensor([[1.0, 2.0]]), torch.eye(2))
    tensor([1.0800])
    """
    turned = codes @ moments
    return (turned * weight).sum(1) / (turned * codes).sum(1)
