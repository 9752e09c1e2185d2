"""A network without its dead units: fewer neurons, channels and attention heads, the same output.

A unit u is dead if at every place where a weight W reads it

- its activation does not depend on the network's input: a constant c_u, most often 0 (all weights that make it are zero), or
- the weights that read it are zero, those apart that only lead to dead units.

The second condition refers to other units, so the set of dead units is found as the largest fixed point, by adding to it until
nothing changes. With the dead units go all slices of parameters in their `ChannelGroup`. A constant c_u other than 0 leaves
its contribution W c_u behind in the bias of the layer that read it; where that contribution is not the same at every place (the
border of a padded convolution sees less of it), the unit stays.

Nothing here asks how the zeros came about: by channel, or weight by weight until a unit was left with nothing. The result is
compared with the original on the example input before it is handed out.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .channel_ids import Propagation, as_inputs, evaluation_copy, propagate
from .channel_units import FIXED, Site
from .graph_resizing import resize_graph

TOLERANCE = 1e-5  # float32 sums in another order, relative to the largest output


def compact(module: nn.Module, x: Tensor | tuple[Tensor, ...]) -> nn.Module:
    """Remove dead neurons, channels and attention heads for good.

    Parameters
    ----------
    module : torch Module
        With zeros in its weights, from whatever kind of pruning. Left as it is.
    x : Tensor of shape (n_records, ...), or a tuple of them
        An example of its input; the result is checked on it.

    Returns
    -------
    torch Module
        Gives the same output in evaluation mode, up to the rounding of sums in another order. It is a module of the same
        classes with smaller parameters. Where the module's own code fixes a size (``x.view(-1, 64)``, the
        number of attention heads), it is the module's graph with that size corrected instead: a ``torch.fx.GraphModule``, in
        evaluation mode for good. Without dead units, it is a copy.

    Raises
    ------
    ValueError
        If the module cannot be traced, or the smaller one does not agree with it.

    Notes
    -----
    Prune convolutions followed by batch normalisation with its scale and shift (all `ChannelGroup.outputs`):
    a shift that is left makes the channel constant rather than zero, and a padded convolution cannot do without it.
    At least one unit of each layer stays.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     net[0].weight[2:] = 0  # six of eight neurons are constant
    >>> compact(net, torch.randn(4, 3))
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=2, bias=True)
    )
    """
    inputs = as_inputs(x)
    run = propagate(module, inputs)
    dead, absorbed = dead_units(run)
    small = copy.deepcopy(module)
    if not dead.any():
        return small
    tensors = _remaining(run, small, dead, absorbed)
    place_tensors(small, tensors)
    try:
        problem = disagreement(module, small, inputs)
    except Exception as error:  # a size that the module's own code fixes
        problem = str(error)
    if problem is not None:
        try:
            small = resize_graph(run, tensors, dead)
            problem = disagreement(module, small, inputs)
        except Exception as error:
            raise ValueError(
                f"{type(module).__name__} cannot be made smaller: its code fixes a size ({problem}), and neither "
                f"can its graph ({error}). A batch size that is read as len(x) or int(...) is fixed too; x.shape[0] is not"
            ) from error
    if problem is not None:
        raise ValueError(
            f"the smaller {type(module).__name__} does not agree with the original: {problem}"
        )
    return small


def dead_units(run: Propagation) -> tuple[np.ndarray, list[tuple[Site, Tensor]]]:
    """The units that make no difference, and what they leave behind.

    Parameters
    ----------
    run : Propagation

    Returns
    -------
    dead : ndarray of bool
        By representative of the unit.
    absorbed : list of (Site, Tensor of shape (n_outputs,))
        What to add to the bias at each site.
    """
    units, slots = run.units, run.parameters.slots
    kept = np.zeros(len(units.parent), dtype=bool)
    kept[[FIXED, *units.kept()]] = True
    owned = np.zeros_like(kept)
    for ids in slots.values():
        owned[units.roots(ids[ids >= 0])] = True
    while True:
        dead = _fixed_point(run, owned & ~kept)
        absorbed, still_needed = _contributions(run, dead)
        for ids in slots.values():  # no layer is left without any unit
            roots = units.roots(np.maximum(ids, FIXED))
            if dead[roots].all():
                still_needed.append(roots[:1])
        if not still_needed:
            return dead, absorbed
        kept[np.concatenate(still_needed)] = True


def _fixed_point(run: Propagation, candidates: np.ndarray) -> np.ndarray:
    dead = np.zeros_like(candidates)
    while True:
        able = candidates.copy()
        for site in run.sites:
            reads = _output_first(site)[torch.from_numpy(~dead[_made(run, site)])] != 0
            is_read = reads.movedim(1, 0).flatten(1).any(1)
            matters = is_read & _channels(site, site.x.depends)
            able[run.units.roots(site.in_ids)[matters.numpy()]] = False
        if np.array_equal(able, dead):
            return dead
        dead = able


def _output_first(site: Site) -> Tensor:
    """The weight with its outputs in dimension 0 and its inputs in dimension 1."""
    return site.weight.value if site.in_axis == 1 else site.weight.value.transpose(0, 1)


def _made(run: Propagation, site: Site) -> np.ndarray:
    """The units that the rows of `_output_first` make."""
    return run.units.roots(site.out_ids[: _output_first(site).shape[0]])


def _channels(site: Site, flags: Tensor) -> Tensor:
    """Whether any entry of an input channel has a flag, for each input of the weight."""
    by_channel = flags.movedim(site.axis, 0).flatten(1).any(1)
    return by_channel.reshape(-1, len(site.in_ids)).any(0)


def _contributions(
    run: Propagation, dead: np.ndarray
) -> tuple[list[tuple[Site, Tensor]], list[np.ndarray]]:
    """What the constants of dead units add at each site; and the units whose constants no bias can take."""
    absorbed, still_needed = [], []
    for site in run.sites:
        gone = _channels_of(site, dead[run.units.roots(site.in_ids)])
        constant = torch.where(gone & ~site.x.depends, site.x.value, 0).double()
        added = site.apply(constant, site.weight.value.double())
        added = added.movedim(site.out_axis, 0).flatten(1)
        added[torch.from_numpy(dead[run.units.roots(site.out_ids)])] = 0
        if not added.any():
            continue
        low, high = added.aminmax(dim=1)
        same_everywhere = (high - low).max() <= 1e-12 * added.abs().max()
        if same_everywhere and _bias_name(run, site) is not None:
            absorbed.append((site, added[:, 0]))
        else:
            nonzero = _channels(site, constant != 0).numpy()
            still_needed.append(run.units.roots(site.in_ids)[nonzero])
    return absorbed, still_needed


def _channels_of(site: Site, by_input: np.ndarray) -> Tensor:
    """Flags by input of the weight, as a tensor that broadcasts with the input."""
    shape = [1] * site.x.value.ndim
    shape[site.axis] = -1
    n_repeats = site.x.value.shape[site.axis] // len(by_input)
    return torch.from_numpy(np.tile(by_input, n_repeats)).reshape(shape)


def _bias_name(run: Propagation, site: Site) -> str | None:
    """The parameter that can take a constant: the site's bias, there or not yet, that no other site uses."""
    name = run.parameters.is_whole(site.bias.entries) if site.bias is not None else None
    if site.bias is None:
        weight = run.parameters.is_whole(site.weight.entries)
        if (
            weight is None
            or not weight.endswith("weight")
            or site.node.startswith(("mm", "matmul"))
        ):
            return None
        name = weight.removesuffix("weight") + "bias"
    users = [other for other in run.sites if _owners(run, other) & (_owners(run, site) | {name})]
    return name if len(users) == 1 else None


def _owners(run: Propagation, site: Site) -> set[str]:
    tensors = [t.entries for t in (site.weight, site.bias) if t is not None]
    return {name for entries in tensors for name in run.parameters.owners(entries)}


def _remaining(
    run: Propagation, module: nn.Module, dead: np.ndarray, absorbed: list[tuple[Site, Tensor]]
) -> dict[str, Tensor]:
    """What is left of each parameter and buffer that changes, by name; new biases are among them."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    changed: dict[str, Tensor] = {}
    with torch.no_grad():
        for site, added in absorbed:
            name = _bias_name(run, site)
            weight = tensors[run.parameters.owners(site.weight.entries)[0]]
            bias = tensors.get(name)
            if bias is None:
                # its slices go with the outputs of the layer
                run.parameters.slots[name, 0] = site.out_ids
                bias = torch.zeros(len(added), device=weight.device)
            changed[name] = (bias.double() + added.to(weight.device)).to(weight.dtype)
        for (name, dim), ids in run.parameters.slots.items():
            gone = dead[run.units.roots(np.maximum(ids, FIXED))]
            if gone.any():
                tensor = changed.get(name, tensors.get(name))
                index = torch.from_numpy(np.flatnonzero(~gone)).to(tensor.device)
                changed[name] = tensor.detach().index_select(dim, index)
    return changed


def place_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put parameters and buffers of other sizes into a module, and correct what its layers say of their sizes.

    Parameters
    ----------
    module : torch Module
        Changed in place. A tensor that two layers share goes by its first name and stays shared.
    tensors : dict of name to Tensor
    """
    old = dict(module.named_parameters(remove_duplicate=False)) | dict(
        module.named_buffers(remove_duplicate=False)
    )
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in old.items()}
    new = {
        name: nn.Parameter(tensor, requires_grad=old[name].requires_grad if name in old else True)
        for name, tensor in tensors.items()
        if not (name in old and not isinstance(old[name], nn.Parameter))
    }
    for prefix, layer in module.named_modules(remove_duplicate=False):
        for kind, values in ((layer._parameters, new), (layer._buffers, tensors)):
            for leaf in kind:
                name = f"{prefix}.{leaf}" if prefix else leaf
                name = names.get(name, name)
                if name in values:
                    kind[leaf] = values[name]
    for layer in module.modules():
        _correct_sizes(layer)


def _correct_sizes(layer: nn.Module) -> None:
    """Make a layer's attributes agree with its weights."""
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.modules.conv._ConvNd):
        n_first, n_second = weight.shape[:2]
        if layer.groups == layer.in_channels > 1:  # depthwise
            times = layer.out_channels // layer.in_channels
            layer.groups = n_first if layer.transposed else n_first // times
        if layer.transposed:
            layer.in_channels, layer.out_channels = n_first, n_second * layer.groups
        else:
            layer.in_channels, layer.out_channels = n_second * layer.groups, n_first
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        tensor = layer.running_mean if weight is None else weight
        layer.num_features = layer.num_features if tensor is None else len(tensor)
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = weight.shape[1]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(weight)


def disagreement(
    module: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...], tolerance: float = TOLERANCE
) -> str | None:
    """How two modules differ in evaluation mode, in words; None if they agree.

    Parameters
    ----------
    module, other : torch Module
    inputs : tuple of Tensor
    tolerance : float
        Largest difference, relative to the largest output (1, if that is larger).

    Returns
    -------
    str or None
    """
    ours, theirs = (outputs_of(m, inputs) for m in (module, other))
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        shapes = [[tuple(t.shape) for t in side] for side in (ours, theirs)]
        return f"its outputs have shapes {shapes[1]}, not {shapes[0]}"
    for a, b in zip(ours, theirs, strict=True):
        if a.numel() == 0:
            continue
        difference = (a.double() - b.double()).abs().max().item()
        if not difference <= tolerance * max(1.0, a.double().abs().max().item()):
            return f"the largest difference of an output is {difference:.3g}"
    return None


@torch.no_grad()
def outputs_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors that a module returns in evaluation mode, on the CPU."""
    module = evaluation_copy(module)
    device = next((t.device for t in module.parameters()), torch.device("cpu"))
    return [
        t.cpu()
        for t in tree_leaves(module(*(x.to(device) for x in inputs)))
        if isinstance(t, Tensor)
    ]
