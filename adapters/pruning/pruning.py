"""One pruning: score, choose what stays, make up for what went.

`prune_step` is the engine's only way from masks to fewer: a saliency gives terms, a distribution forms pools with a number to keep, a
structure chooses within the pools. `prune` is the same for a network by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from statml._validation import RandomState, check_choice, check_number

from .compensation import move_by_fisher, refit_least_squares
from .distribution import DISTRIBUTIONS, Distribution
from .distribution.by_layer import Uniform
from .distribution.erk import ERK
from .distribution.pooled import LAMP
from .layer_inputs import execution_order, layers_of
from .masks import (
    Masks,
    apply_masks,
    full_masks,
    n_kept,
    prunable_weights,
    warn_of_collapse,
)
from .records import Loss, Scoring, as_batches, as_loss
from .saliency import Saliency
from .saliency._base import as_saliency, checked_terms, seeded_generator
from .saliency.layerwise import LayerSolver
from .saliency.magnitude import Magnitude
from .structure import Structure, Units, as_structure
from .structure.n_of_m import NOfM
from .structure.weights import Weights

COMPENSATIONS = ("ls", "obs")


def check_members(
    saliency: Saliency,
    structure: Structure,
    distribution: Distribution,
    compensate: str | None,
    sparsity: float,
) -> None:
    """Refuse what does not go together."""
    check_number("sparsity", sparsity, 0, 1, high_open=True)
    if structure.sparsity is not None and abs(sparsity - structure.sparsity) > 1e-9:
        raise ValueError(
            f"structure {structure!r} ends at sparsity {structure.sparsity:g}; set sparsity={structure.sparsity:g}, "
            f"got {sparsity!r}"
        )
    if compensate is not None:
        check_choice("compensate", compensate, COMPENSATIONS)
    if isinstance(saliency, LayerSolver):
        if not isinstance(structure, (Weights, NOfM)):
            raise ValueError(
                f'{saliency!r} takes structure="unstructured" or "n:m", got {structure!r}'
            )
        if not distribution.layerwise and not isinstance(structure, NOfM):
            raise ValueError(
                f'{saliency!r} works layer by layer: scope must be "layer", "uniform" or "erk", got {distribution!r}'
            )
        if compensate == "obs":
            raise ValueError(
                f'{saliency!r} moves the weights itself: compensate must be None or "ls"'
            )
    if isinstance(structure, NOfM) and isinstance(distribution, (ERK, Uniform)):
        raise ValueError(
            f'structure {structure!r} gives every layer the same share: scope must be "global" or "layer", got {distribution!r}'
        )
    if isinstance(distribution, LAMP) and not isinstance(saliency, Magnitude):
        raise ValueError(f'scope="lamp" is defined for criterion="magnitude", got {saliency!r}')
    if distribution.rescale({}, {}) is not None and not isinstance(structure, Weights):
        raise ValueError(
            f'scope {distribution!r} ranks single weights: structure must be "unstructured", got {structure!r}'
        )


def number_kept(weights: dict[str, nn.Parameter], sparsity: float) -> int:
    """How many of n weights stay: n - round(sparsity n).

    Raises
    ------
    ValueError
        If none would.
    """
    n = sum(w.numel() for w in weights.values())
    kept = n - round(sparsity * n)
    if kept == 0:
        raise ValueError(
            f"sparsity {sparsity!r} would remove all {n} prunable weights of {', '.join(weights)}"
        )
    return kept


def prune_step(
    scoring: Scoring,
    sparsity: float,
    saliency: Saliency,
    structure: Structure,
    distribution: Distribution,
    compensate: str | None = None,
    units: Units | None = None,
) -> Masks:
    """Prune a network in place, to a sparsity that counts from all its prunable weights.

    Parameters
    ----------
    scoring : Scoring
        Network, masks and records; the masks may have zeros already, which stay.
    sparsity : float
    saliency : Saliency
    structure : Structure
    distribution : Distribution
    compensate : {"ls", "obs"} or None, default=None
    units : Units, optional
        Of an earlier step; they do not change.

    Returns
    -------
    dict of str to bool Tensor
        Those of the weights, and those of what is attached to the units (biases of channels).
    """
    before = scoring.masks
    n_keep = min(number_kept(scoring.weights, sparsity), _weights_kept(scoring))
    dense = copy.deepcopy(scoring.module) if compensate == "ls" else None
    units = structure.units(scoring) if units is None else units
    scoring = replace(scoring)
    n_start = _weights_kept(scoring)
    for r in range(1, saliency.rounds + 1):
        n = round(n_start * (n_keep / n_start) ** (r / saliency.rounds))
        if isinstance(saliency, LayerSolver):
            scoring.masks = _solve_layers(scoring, n, saliency, structure, distribution)
        else:
            scoring.masks = _choose(scoring, n, saliency, structure, distribution, units)
        if r < saliency.rounds:
            apply_masks(scoring.module, scoring.masks)
    if compensate == "obs":
        move_by_fisher(scoring, before)
    apply_masks(scoring.module, scoring.masks)
    if compensate == "ls":
        refit_least_squares(scoring, dense)
    return scoring.masks


def _weights_kept(scoring: Scoring) -> int:
    return n_kept({name: scoring.masks[name] for name in scoring.weights})


def _choose(
    scoring: Scoring,
    n_keep: int,
    saliency: Saliency,
    structure: Structure,
    distribution: Distribution,
    units: Units,
) -> Masks:
    terms, link = checked_terms(saliency, scoring), saliency.link
    masks = {name: scoring.masks[name] for name in scoring.weights}
    rescaled = distribution.rescale({name: link(t, 1.0) for name, t in terms.items()}, masks)
    if rescaled is not None:
        terms, link = rescaled, _mean
    chosen: Masks = {}
    for names, n in _joined(distribution.pools(scoring.weights, masks, n_keep), units):
        chosen |= structure.choose(names, n, terms, link, masks, units)
    stays = torch.zeros(max(units.n_units, 1), dtype=torch.bool)
    for name, ids in units.ids.items():
        stays[ids[chosen[name]].cpu()] = True
    if units.fixed is not None:
        stays[units.fixed] = True
    attached = {name: stays.to(ids.device)[ids] for name, ids in units.attached.items()}
    return {name: chosen[name] for name in masks} | attached


def _mean(total, size):
    return total / size


def _joined(pools: list[tuple[list[str], int]], units: Units) -> list[tuple[list[str], int]]:
    """Pools that share a unit as one."""
    joined: list[tuple[list[str], int, set[int]]] = []
    for names, n in pools:
        mine = {u for name in names if name in units.ids for u in units.ids[name].unique().tolist()}
        mine.discard(units.fixed if units.fixed is not None else -1)
        apart = []
        for other in joined:
            if other[2] & mine:
                names, n, mine = other[0] + names, other[1] + n, other[2] | mine
            else:
                apart.append(other)
        joined = [*apart, (names, n, mine)]
    return [(names, n) for names, n, _ in joined]


def _solve_layers(
    scoring: Scoring,
    n_keep: int,
    solver: LayerSolver,
    structure: Structure,
    distribution: Distribution,
) -> Masks:
    pattern = structure if isinstance(structure, NOfM) else None
    if pattern is None:
        pools = distribution.pools(scoring.weights, scoring.masks, n_keep)
        counts = {names[0]: n for names, n in pools}
    else:
        counts = {name: int(m.sum()) for name, m in scoring.masks.items()}
    masks = dict(scoring.masks)
    layers = layers_of(scoring.module, list(scoring.weights), repr(solver))
    for name in execution_order(scoring, layers):
        masks[name] = solver.prune_layer(scoring, name, counts[name], pattern)
    return masks


def prune(
    module: nn.Module,
    sparsity: float,
    criterion: str | Saliency | Callable = "magnitude",
    data: tuple[Any, Any] | Sequence[tuple[Any, Any]] | None = None,
    *,
    scope: str | Distribution = "global",
    structure: str | Structure = "unstructured",
    compensate: str | None = None,
    masks: Masks | None = None,
    loss: str | Loss = "cross_entropy",
    exclude: Sequence[str] = ("bias", "norm"),
    prune_output: bool = False,
    random_state: RandomState = None,
) -> tuple[nn.Module, Masks]:
    """Prune a network in one shot, without training.

    Parameters
    ----------
    module : torch Module
        Left as it is.
    sparsity : float
        Share of the prunable weights that are zero afterwards, in [0, 1); ``round(sparsity * n)`` of n with
        single weights, as near as whole units allow otherwise.
    criterion : str, Saliency or callable, default="magnitude"
        As in `score_weights`.
    data : (X, y) or list of such batches, optional
        Records for criteria, compensation and channels; where there are any, the running statistics of batch
        normalisations are estimated anew after the pruning.
    scope : str or Distribution, default="global"
        How many weights each layer keeps: "global" (all compete), "layer" (the same share), "row" (the same share of each output),
        "uniform" (the same share, first layer dense), "erk", "lamp".
    structure : str or Structure, default="unstructured"
        "unstructured", "2:4" and other patterns N:M, "block" (4 x 4), "channel".
    compensate : {"ls", "obs"} or None, default=None
        Whether the other weights move: by least squares layer by layer, or by the Fisher matrix.
    masks : dict of str to bool Tensor, optional
        What is pruned already.
    loss, exclude, prune_output, random_state
        As in `score_weights`.

    Returns
    -------
    module : torch Module
        A copy in which the pruned weights are exactly zero.
    masks : dict of str to bool Tensor

    Raises
    ------
    ValueError
        If the arguments do not go together, data are missing, or nothing would be left.

    Warns
    -----
    UserWarning
        If nothing is left of a layer.

    Examples
    --------
    >>> import torch
    >>> from statml.adapters import MLP
    >>> from statml.adapters.pruning import density, prune
    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> sparse, masks = prune(MLP(20, 3, hidden=(50,)), 0.75)
    >>> density(masks), int((sparse.layers[1].weight == 0).sum())
    (0.25, 750)
    """
    saliency, distribution = as_saliency(criterion), DISTRIBUTIONS.make(scope)
    structure = as_structure(structure)
    check_members(saliency, structure, distribution, compensate, sparsity)
    if saliency.trained:
        raise ValueError(
            f"criterion {criterion!r} is learned in training: use PruningClassifier, PruningRegressor or PruningCallback"
        )
    module = copy.deepcopy(module)
    weights = prunable_weights(module, exclude, prune_output)
    device = next(iter(weights.values())).device
    batches = as_batches(data, device)
    start = full_masks(weights) if masks is None else {**full_masks(weights), **masks}
    apply_masks(module, start)
    scoring = Scoring(
        module, weights, start, batches, as_loss(loss), seeded_generator(random_state, device)
    )
    if saliency.needs_data:
        scoring.need_records(repr(criterion))
    if compensate is not None:
        scoring.need_records(f'compensate="{compensate}"')
    new = prune_step(scoring, sparsity, saliency, structure, distribution, compensate)
    warn_of_collapse({name: new[name] for name in weights})
    if batches:
        reestimate_normalisations(module, batches)
    return module, new


@torch.no_grad()
def reestimate_normalisations(module: nn.Module, batches: Sequence[tuple[Any, Any]]) -> None:
    """Running means and variances of batch normalisations anew, as averages over the batches, in place.

    Parameters
    ----------
    module : torch Module
    batches : sequence of (X, y)
        Those of one record are passed over.
    """
    norms = [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None
    ]
    batches = [X for X, _ in batches if len(X) > 1]
    if not norms or not batches:
        return
    momenta = [norm.momentum for norm in norms]
    modes = [part.training for part in module.modules()]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    for X in batches:
        module(X)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for part, mode in zip(module.modules(), modes, strict=True):
        part.training = mode
