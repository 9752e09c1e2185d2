"""Saliencies of what passes through a layer; no loss is involved.

- Wanda (Sun et al. 2024): abs(w_ij) ||X_j||, with X_j the j-th input over all records. Wanda compares within each output, which is
  ``scope="row"``.
- APoZ (Hu et al. 2016): one minus the average percentage of zeros of a unit's output after its ReLU.
- Activation: mean absolute output of a unit.

The last two score units; each weight gets the score of the unit that it feeds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layer_inputs import input_moments, layers_of, rows
from ..records import Scoring
from ._base import SALIENCIES, Saliency

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
)


@SALIENCIES.register("wanda")
class Wanda(Saliency):
    """Weight times the norm of its input."""

    needs_data = True

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        layers = layers_of(scoring.module, list(scoring.weights), "wanda")
        moments = input_moments(scoring, layers)
        terms = {}
        for name, layer in layers.items():
            norms = moments[name].gram.diagonal(dim1=1, dim2=2).sqrt()[:, None, :]
            scores = rows(layer, layer.weight.detach().abs().double()) * norms
            terms[name] = scores.reshape(layer.weight.shape).float()
        return terms


class _UnitOutputs(Saliency):
    """Mean of a function of each unit's output, spread over the weights that feed it."""

    needs_data = True

    def measure(self, outputs: Tensor) -> Tensor:
        raise NotImplementedError

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        layers = layers_of(scoring.module, list(scoring.weights), type(self).__name__)
        after = following_activation(scoring, layers)
        sums: dict[str, Tensor] = {}

        def watch(name, width):
            def hook(part, inputs, output):
                values = self.measure(output.detach()).double()
                is_conv = isinstance(layers[name], nn.Conv1d | nn.Conv2d | nn.Conv3d)
                by_unit = values.movedim(1 if is_conv else -1, 0).reshape(width, -1)
                sums[name] = sums.get(name, 0.0) + by_unit.mean(1) * len(output)

            return hook

        handles = [
            after[name].register_forward_hook(watch(name, layer.weight.shape[0]))
            for name, layer in layers.items()
        ]
        try:
            scoring.forward()
        finally:
            for handle in handles:
                handle.remove()
        return {
            name: (sums[name] / scoring.n_records)
            .float()
            .reshape(-1, *[1] * (layer.weight.ndim - 1))
            .expand_as(layer.weight)
            .clone()
            for name, layer in layers.items()
        }


@SALIENCIES.register("apoz")
class APoZ(_UnitOutputs):
    """Share of records and places at which the unit is on (output above zero)."""

    def measure(self, outputs: Tensor) -> Tensor:
        return outputs > 0


@SALIENCIES.register("activation")
class Activation(_UnitOutputs):
    """Mean absolute output."""

    def measure(self, outputs: Tensor) -> Tensor:
        return outputs.abs()


def following_activation(scoring: Scoring, layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The activation module that runs next after each layer, before another layer does; else the layer itself.

    An activation that is used in several places stands for no layer in particular; nor is one called as a function seen.
    Then the sign of the layer's own output is looked at, which is the same where a ReLU follows directly.
    """
    calls: list[tuple[str, nn.Module]] = []
    names = {layer: name for name, layer in layers.items()}
    handles = []
    for part in scoring.module.modules():
        if isinstance(part, ACTIVATIONS) or hasattr(part, "weight"):
            handles.append(
                part.register_forward_hook(lambda part, *_: calls.append((names.get(part), part)))
            )
    try:
        with torch.no_grad():
            scoring.forward()
    finally:
        for handle in handles:
            handle.remove()
    calls = calls[: len(calls) // len(scoring.batches)]  # one batch tells the order
    after = dict(layers)
    current = None
    for name, part in calls:
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            current = name
        elif isinstance(part, ACTIVATIONS) and current is not None:
            if sum(other is part for _, other in calls) == 1:
                after[current] = part
            current = None
    return after
