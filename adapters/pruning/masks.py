"""Masks: which weights of a network are there, and how the others are held at exactly zero.

A mask is a boolean tensor of the shape of its weight, True where the weight is kept; the masks of a network are a dict from
the weight's name (as in ``named_parameters``) to its mask. Three facts make them exact:

- an update of SGD, Adam and their kin is zero where weight, gradient and optimizer state are zero, so that after
  `apply_masks` it is enough to mask the gradient before each step (`mask_gradients`): one product a weight and step;
- that removes a pruned weight's momentum and its weight decay as well, which is where masks that act on the forward pass
  alone drift;
- masks that only ever shrink are stored once (`PruneRounds`): the round in which each weight was removed, one byte a
  weight, from which the mask of every level is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from statml._validation import check_sequence

Masks = dict[str, Tensor]

NEVER = 255  # the round of a weight that was not pruned
NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, *CONVOLUTIONS)


def prunable_weights(
    module: nn.Module,
    exclude: Sequence[str] = ("bias", "norm"),
    prune_output: bool = False,
) -> dict[str, nn.Parameter]:
    """The parameters that may be pruned, by name.

    Parameters
    ----------
    module : torch Module
    exclude : sequence of str, default=("bias", "norm")
        What is left alone: "bias" (every parameter of one dimension outside normalisations), "norm" (scales and shifts of
        normalisations), and names of parameters or submodules (``"layers.1"``).
    prune_output : bool, default=False
        Whether the output layer, the linear or convolutional one that was registered last, is pruned as well. Where it is not,
        its weights are a floor under the network's size.

    Returns
    -------
    dict of str to Parameter
        In the order of ``named_parameters``; a parameter that two layers share stands there once.

    Raises
    ------
    ValueError
        If a name in `exclude` does not exist, or nothing is left.

    Examples
    --------
    >>> from statml.adapters import MLP
    >>> from statml.adapters.pruning import prunable_weights
    >>> list(prunable_weights(MLP(4, 3, hidden=(8, 8))))
    ['layers.1.weight', 'layers.3.weight']
    """
    exclude = [exclude] if isinstance(exclude, str) else check_sequence("exclude", exclude, "names")
    owners = dict(module.named_modules())
    names = dict(module.named_parameters())
    for entry in exclude:
        if entry not in ("bias", "norm") and entry not in names and entry not in owners:
            raise ValueError(
                f'exclude must hold "bias", "norm" or names of parameters or submodules, got {entry!r}; '
                f"this module has {', '.join(names)}"
            )
    left_alone = {entry for entry in exclude if entry not in ("bias", "norm")}
    if not prune_output:
        outputs = [name for name, owner in owners.items() if isinstance(owner, LAYERS)]
        left_alone |= set(outputs[-1:])
    weights = {}
    for name, parameter in names.items():
        owner = name.rpartition(".")[0]
        if isinstance(owners[owner], NORMS):
            kind = "norm"
        else:
            kind = "bias" if parameter.ndim < 2 else "weight"
        inside = any(name == part or name.startswith(f"{part}.") for part in left_alone)
        if kind not in exclude and not inside and parameter.numel():
            weights[name] = parameter
    if not weights:
        raise ValueError(
            f"the module has no prunable weights: its parameters are {', '.join(names) or 'none'}, "
            f"exclude is {tuple(exclude)!r} and prune_output is {prune_output}"
        )
    return weights


def full_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Masks that keep everything.

    Parameters
    ----------
    weights : mapping of str to Tensor

    Returns
    -------
    dict of str to bool Tensor
    """
    return {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}


@torch.no_grad()
def apply_masks(
    module: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Set the pruned weights, and their optimizer state, to exactly zero.

    Parameters
    ----------
    module : torch Module
        Changed in place.
    masks : dict of str to bool Tensor
    optimizer : torch Optimizer, optional
        State of a weight's shape (momentum, Adam's moments) is masked as the weight is.

    Raises
    ------
    ValueError
        If a mask names no parameter or has another shape.

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.pruning import apply_masks
    >>> layer = torch.nn.Linear(2, 1)
    >>> apply_masks(layer, {"weight": torch.tensor([[True, False]])})
    >>> layer.weight[0, 1].item()
    0.0
    """
    parameters = _checked(module, masks)
    for name, keep in masks.items():
        # not a product: it also removes NaN, and gives no -0.0
        parameters[name].masked_fill_(~keep.to(parameters[name].device), 0.0)
    if optimizer is not None:
        mask_state(optimizer, parameters, masks)


@torch.no_grad()
def mask_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], masks: Masks
) -> None:
    """Set an optimizer's state of pruned weights to zero.

    Parameters
    ----------
    optimizer : torch Optimizer
    parameters : mapping of str to Parameter
    masks : dict of str to bool Tensor
    """
    for name, keep in masks.items():
        parameter = parameters[name]
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value.masked_fill_(~keep.to(value.device), 0.0)


@torch.no_grad()
def mask_gradients(parameters: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply gradients by masks, all in one call.

    Parameters
    ----------
    parameters : sequence of Parameter
        Those without a gradient are passed over.
    factors : sequence of Tensor
        The masks as zeros and ones, in the type of the gradients (see `gradient_factors`).
    """
    pairs = [(p.grad, f) for p, f in zip(parameters, factors, strict=True) if p.grad is not None]
    if pairs:
        torch._foreach_mul_([g for g, _ in pairs], [f for _, f in pairs])


def gradient_factors(parameters: Sequence[Tensor], masks: Iterable[Tensor]) -> list[Tensor]:
    """Masks as `mask_gradients` takes them: zeros and ones of the parameters' type and device."""
    return [m.to(p.device, p.dtype) for p, m in zip(parameters, masks, strict=True)]


def density(masks: Masks) -> float:
    """Share of the weights that is kept, over all masks.

    Parameters
    ----------
    masks : dict of str to bool Tensor

    Returns
    -------
    float
    """
    return n_kept(masks) / sum(m.numel() for m in masks.values())


def n_kept(masks: Masks) -> int:
    """Number of weights that are kept.

    Parameters
    ----------
    masks : dict of str to bool Tensor

    Returns
    -------
    int
    """
    return int(sum(int(m.sum()) for m in masks.values()))


def layer_densities(masks: Masks) -> dict[str, float]:
    """Share of the weights that is kept, mask by mask.

    Parameters
    ----------
    masks : dict of str to bool Tensor

    Returns
    -------
    dict of str to float
    """
    return {name: float(m.sum()) / m.numel() for name, m in masks.items()}


def largest(scores: Tensor, n: int) -> Tensor:
    """Mask of the n largest entries, exactly n: ties are settled by position.

    Parameters
    ----------
    scores : Tensor
    n : int

    Returns
    -------
    bool Tensor of the shape of `scores`

    Examples
    --------
    >>> import torch
    >>> largest(torch.ones(2, 2), 3)
    tensor([[ True,  True],
            [ True, False]])
    """
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[torch.sort(scores.reshape(-1), descending=True, stable=True).indices[:n]] = True
    return mask.view_as(scores)


def warn_of_collapse(masks: Masks) -> list[str]:
    """Warn, by name, of weights that were pruned away entirely.

    Parameters
    ----------
    masks : dict of str to bool Tensor

    Returns
    -------
    list of str
        Names of the weights of density zero.
    """
    gone = [name for name, m in masks.items() if not m.any()]
    if gone:
        warnings.warn(
            f"layer collapse: nothing is left of {', '.join(gone)}, so that nothing passes through. "
            'Prune less, or let each layer keep its share (scope="erk" or "layer").',
            stacklevel=2,
        )
    return gone


class PruneRounds:
    """Nested masks of a whole path, as the round in which each weight was removed.

    Level 0 is the start, level k the state after the k-th round.

    Parameters
    ----------
    masks : dict of str to bool Tensor
        Those of level 0: often `full_masks`.

    Attributes
    ----------
    rounds : dict of str to uint8 Tensor
        k where a weight was removed in round k (0: it was never there), 255 where it is kept to the end.
    n_rounds : int

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.pruning import PruneRounds
    >>> path = PruneRounds({"w": torch.tensor([True, True, True])})
    >>> path.append({"w": torch.tensor([True, False, True])})
    >>> path.append({"w": torch.tensor([False, False, True])})
    >>> path.rounds["w"].tolist(), path.masks(1)["w"].tolist()
    ([2, 1, 255], [True, False, True])
    """

    def __init__(self, masks: Masks):
        self.n_rounds = 0
        self.rounds = {
            name: torch.where(m, NEVER, 0).to("cpu", torch.uint8) for name, m in masks.items()
        }

    def append(self, masks: Masks) -> None:
        """Add the masks of one more round.

        Parameters
        ----------
        masks : dict of str to bool Tensor
            Subsets of those before.

        Raises
        ------
        ValueError
            If a weight came back that was pruned, or after 254 rounds.
        """
        if self.n_rounds + 1 >= NEVER:
            raise ValueError(f"a path has at most {NEVER - 1} rounds")
        for name, rounds in self.rounds.items():
            if bool((masks[name].cpu() & (rounds != NEVER)).any()):
                raise ValueError(f"the masks are not nested: weights of {name} came back")
        self.n_rounds += 1
        for name, rounds in self.rounds.items():
            rounds[~masks[name].cpu() & (rounds == NEVER)] = self.n_rounds

    def masks(self, n_rounds: int | None = None) -> Masks:
        """The masks after some rounds.

        Parameters
        ----------
        n_rounds : int, optional
            From 0 to all of them, the default.

        Returns
        -------
        dict of str to bool Tensor
        """
        n_rounds = self.n_rounds if n_rounds is None else n_rounds
        if not 0 <= n_rounds <= self.n_rounds:
            raise ValueError(f"n_rounds must be an integer in [0, {self.n_rounds}], got {n_rounds}")
        return {name: rounds > n_rounds for name, rounds in self.rounds.items()}


def _checked(module: nn.Module, masks: Masks) -> dict[str, nn.Parameter]:
    """The module's parameters, after a look at whether the masks fit them."""
    parameters = dict(module.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(
                f"masks names {name!r}, which the module does not have; it has {', '.join(parameters)}"
            )
        if mask.shape != parameters[name].shape:
            raise ValueError(
                f"the mask of {name} has shape {tuple(mask.shape)}, its weight {tuple(parameters[name].shape)}"
            )
    return parameters
