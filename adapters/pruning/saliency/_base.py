"""The protocol of saliencies, and the function that scores the weights of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from statml._validation import RandomState, as_seed_sequence

from .._registry import Described, Registry
from ..masks import full_masks, prunable_weights
from ..records import Loss, Scoring, as_batches, as_loss


class Saliency(Described):
    """How much each weight matters; the least salient ones are pruned.

    A saliency has a term for each weight (`terms`) that can be added up over the weights of a unit (a block, a channel), and turns
    the sum into a score a weight (`link`): a channel's Taylor score is the square of the sum of its terms, not the sum of
    squares. Units are ranked by their score a weight, so that large and small ones compete fairly.

    A saliency that is learned in training overrides the four hooks below, which are called in each step.

    Attributes
    ----------
    needs_data : bool
        Whether terms are computed from records.
    trained : bool
        Whether it is learned in training, so that it scores nothing before.
    rounds : int
        Into how many rounds one pruning is split, each scored anew.
    """

    needs_data = False
    trained = False
    rounds = 1

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        """A term for each weight, by the weights' names and of their shapes."""
        raise NotImplementedError

    def link(self, total: Tensor, size: Tensor | float) -> Tensor:
        """Score a weight of units whose terms sum to `total` over `size` weights; larger stays."""
        return total / size

    # --- hooks of training ------------------------------------------------------------------------------

    def start(self, weights: Mapping[str, nn.Parameter], n_records: int, n_steps: int) -> None:
        """A training cycle of `n_steps` steps begins."""

    def perturb(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor] | None:
        """The weights with which the network runs in this step; None: as they are."""

    def penalty(self, weights: Mapping[str, nn.Parameter]) -> Tensor | None:
        """What is added to the loss of a step."""

    def after_backward(self, weights: Mapping[str, nn.Parameter]) -> None:
        """The gradients of a step are there."""

    def after_step(self, weights: Mapping[str, nn.Parameter], lr: float) -> None:
        """The weights were updated."""

    def finish(self, weights: Mapping[str, nn.Parameter]) -> None:
        """A training cycle ends: what was learned beside the weights moves into them."""

    def state(self) -> dict[str, Any]:
        """What a resumed training needs of it: tensors and dicts of tensors."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


SALIENCIES = Registry("criterion", Saliency)


class FunctionSaliency(Saliency):
    """A user's own function: (module, batches) -> scores by the weights' names; larger stays.

    Parameters
    ----------
    function : callable
    """

    needs_data = True

    def __init__(self, function: Callable[[nn.Module, list], Mapping[str, Tensor]]):
        self.function = function

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        scores = self.function(scoring.module, scoring.batches)
        for name, weight in scoring.weights.items():
            if name not in scores:
                raise ValueError(f"criterion returned no scores for {name}")
            if scores[name].shape != weight.shape:
                raise ValueError(
                    f"criterion returned scores of shape {tuple(scores[name].shape)} for {name}, "
                    f"whose shape is {tuple(weight.shape)}"
                )
        return {name: scores[name].detach() for name in scoring.weights}


def as_saliency(criterion: str | Saliency | Callable) -> Saliency:
    """A saliency from its name, or from a user's function."""
    if callable(criterion) and not isinstance(criterion, (Saliency, type)):
        return FunctionSaliency(criterion)
    return SALIENCIES.make(criterion)


def score_weights(
    module: nn.Module,
    criterion: str | Saliency | Callable = "magnitude",
    data: tuple[Any, Any] | Sequence[tuple[Any, Any]] | None = None,
    *,
    loss: str | Loss = "cross_entropy",
    exclude: Sequence[str] = ("bias", "norm"),
    prune_output: bool = False,
    random_state: RandomState = None,
) -> dict[str, Tensor]:
    """Score every prunable weight of a network; larger matters more.

    Parameters
    ----------
    module : torch Module
        Left as it is.
    criterion : str, Saliency or callable, default="magnitude"
        A name (``SALIENCIES.names()`` lists them), or a function (module, batches) -> dict of scores.
    data : (X, y) or list of such batches, optional
        Records, for criteria that look at any; classes as integers from 0 on.
    loss : {"cross_entropy", "mse"} or callable, default="cross_entropy"
        (outputs, y) -> one loss a record.
    exclude, prune_output
        As in `prunable_weights`.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        For "random".

    Returns
    -------
    dict of str to Tensor
        Scores by the weights' names, of the weights' shapes.

    Raises
    ------
    ValueError
        If the criterion needs data and there is none, is learned in training, or gives NaN.

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.pruning import score_weights
    >>> layer = torch.nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[-3.0, 1.0]]))
    >>> score_weights(layer, "magnitude", prune_output=True)
    {'weight': tensor([[3., 1.]])}
    """
    weights = prunable_weights(module, exclude, prune_output)
    saliency = as_saliency(criterion)
    if saliency.trained:
        raise ValueError(
            f"criterion {criterion!r} is learned in training: use PruningClassifier, PruningRegressor or PruningCallback"
        )
    device = next(iter(weights.values())).device
    scoring = Scoring(
        module,
        weights,
        full_masks(weights),
        as_batches(data, device),
        as_loss(loss),
        seeded_generator(random_state, device),
    )
    if saliency.needs_data:
        scoring.need_records(repr(criterion))
    terms = checked_terms(saliency, scoring)
    return {name: saliency.link(t, 1.0) for name, t in terms.items()}


def checked_terms(saliency: Saliency, scoring: Scoring) -> dict[str, Tensor]:
    """Terms of a saliency, in float32 or better, refused if they hold NaN."""
    terms = saliency.terms(scoring)
    for name, values in terms.items():
        if values.isnan().any():
            raise ValueError(
                f"{saliency!r} gives NaN for {name}: the network's weights, outputs or the records hold NaN or infinity"
            )
    return {
        name: t.detach() if t.dtype in (torch.float32, torch.float64) else t.detach().float()
        for name, t in terms.items()
    }


def seeded_generator(random_state: RandomState, device: torch.device) -> torch.Generator:
    """A torch generator from any accepted `random_state`."""
    seed = int(as_seed_sequence(random_state).generate_state(1)[0])
    return torch.Generator(device).manual_seed(seed)
