"""Which weights must go together when a channel goes: channel ids, carried through the network's exported graph.

Every entry of every activation gets the id of the unit (neuron, channel, attention head) that it belongs to, and the graph of
ATen operations that ``torch.export`` writes down is run on these integer tensors (`channel_rules`). An operation that only moves
entries (view, permute, cat, split, pixel_shuffle, ...) is executed literally on the ids. An elementwise operation (a residual sum, a
gate) joins the ids that meet. A convolution or linear layer consumes the ids of its input and makes new ones.
A normalisation by channel attaches its parameters. What is unknown keeps ("freezes") every unit that it touches: safe, and said why.
Ids that were joined (union-find) form one `ChannelGroup`: the slices of parameters that can only be removed together.

The run carries two more things along, from which `compaction` decides what may go: the value of each entry, and
whether it depends on the network's input at all (a channel whose weights are zero does not).

Reference: T. Hoefler, D. Alistarh, T. Ben-Nun, N. Dryden, A. Peste, "Sparsity in deep learning", JMLR 22 (2021), section 2.3 on
structured sparsity. The propagation is our own. Cost: one forward pass of two records on integers.
"""

from __future__ import annotations

import copy
import inspect
import operator
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from . import channel_products  # noqa: F401  registers its rules
from .channel_rules import apply_rule
from .channel_units import FIXED, Parameters, Site, Tracked, Units, varies


@dataclass(frozen=True)
class ChannelGroup:
    """Slices of parameters that can only be removed together: one neuron, channel or attention head.

    Attributes
    ----------
    outputs : tuple of (str, int, int)
        Parameter (or buffer), dimension, index: the weights, biases and normalisation parameters that make the unit.
        With all of them zero (running means and variances aside), the unit is zero whatever the input.
    inputs : tuple of (str, int, int)
        The weights that read the unit.
    kept_because : str or None
        Why the unit cannot be removed; None if it can.
    """

    outputs: tuple[tuple[str, int, int], ...]
    inputs: tuple[tuple[str, int, int], ...]
    kept_because: str | None = None

    @property
    def slots(self) -> tuple[tuple[str, int, int], ...]:
        """All slices, `outputs` then `inputs`."""
        return self.outputs + self.inputs


def find_groups(module: nn.Module, x: Tensor | tuple[Tensor, ...]) -> list[ChannelGroup]:
    """Group the slices of a network's parameters that can only be removed together.

    Parameters
    ----------
    module : torch Module
        Left as it is; read in evaluation mode.
    x : Tensor of shape (n_records, ...), or a tuple of them
        An example of its input; two records are used.

    Returns
    -------
    list of ChannelGroup
        One a unit, in the order in which the forward pass makes them. Units that cannot be removed
        (the network's outputs, what a layer normalisation mixes, what meets an unknown operation) are among
        them, with the reason.

    Raises
    ------
    ValueError
        If torch.export cannot trace the module, or it carries hooks of torch.nn.utils.prune.

    Notes
    -----
    Channels of a grouped convolution go by their place in the group: the j-th of every group goes together, so that groups stay
    equal. An attention head is one unit. Group and layer normalisation use all channels at once, so
    that removing one is not exact: their channels are kept.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    >>> groups = find_groups(net, torch.zeros(2, 1, 4, 4))
    >>> len(groups), len(groups[0].outputs), len(groups[0].inputs)
    (6, 6, 4)
    >>> groups[0].outputs[:3]
    (('0.weight', 0, 0), ('0.bias', 0, 0), ('1.weight', 0, 0))
    >>> groups[-1].kept_because
    'it is an output of the network'
    """
    return propagate(module, x).groups()


class Propagation:
    """What one run over the graph learned; see `propagate`.

    Attributes
    ----------
    graph : torch.fx.GraphModule
        The network in evaluation mode as ATen operations, with a free batch size where the module allows one.
    units : Units
    parameters : Parameters
    sites : list of Site
    tracked : dict of node name to Tracked or a list of them
        Every tensor in the graph.
    names : dict
        From each name of a parameter or buffer to the first name of the same tensor.
    """

    def __init__(self, graph: fx.GraphModule, shapes: dict[str, torch.Size], names: dict[str, str]):
        self.graph = graph
        self.names = names
        self.units = Units()
        self.parameters = Parameters(self.units, shapes)
        self.sites: list[Site] = []
        self.tracked: dict[str, Any] = {}

    def run(self, inputs: tuple[Tensor, ...]) -> None:
        """Carry ids, values and dependence through the graph."""
        given = iter(inputs)
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                x = next(given)
                self.tracked[node.name] = Tracked(
                    x, torch.full(x.shape, FIXED), torch.ones(x.shape, dtype=torch.bool)
                )
            elif node.op == "get_attr":
                value = operator.attrgetter(node.target)(self.graph).detach()
                name = self.names.get(node.target)
                entries = None if name is None else self.parameters.entries(name)
                self.tracked[node.name] = Tracked(
                    value, None, torch.zeros(value.shape, dtype=torch.bool), entries
                )
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.tracked[n.name])
                self.tracked[node.name] = apply_rule(self, node, args, kwargs)
            elif node.op == "output":
                for out in node.all_input_nodes:
                    if isinstance(t := self.tracked[out.name], Tracked) and t.ids is not None:
                        self.units.keep(t.ids, "it is an output of the network")
        self._make_boxes()
        for (name, _), ids in self.parameters.slots.items():
            if name in self.parameters.opaque:
                self.units.keep(ids[ids >= 0], self.parameters.opaque[name])

    def _make_boxes(self) -> None:
        """Join units until what remains of every tensor is again a tensor: as many columns in each row.

        A view splits channels into (heads, width) or (channels, height, width). Units that differ along two of these dimensions
        are joined along all but the one with most of them.
        """
        again = True
        while again:
            again = False
            for t in self.tracked.values():
                if not isinstance(t, Tracked) or t.ids is None or t.ids.numel() == 0:
                    continue
                ids = self.units.roots(t.ids)
                along = varies(ids)
                if len(along) < 2:
                    continue
                counts = {d: len(np.unique(np.moveaxis(ids, d, 0), axis=0)) for d in along}
                free = max(along, key=lambda d: counts[d])
                rows = np.moveaxis(ids, free, 0).reshape(ids.shape[free], -1)
                self.units.join(rows[:, :1], rows, "it is tied to what cannot be removed")
                again |= not np.array_equal(ids, self.units.roots(t.ids))

    def groups(self) -> list[ChannelGroup]:
        """The units that own a slice of a parameter."""
        kept = self.units.kept()
        members: dict[int, tuple[list, list]] = {}
        for (name, dim), ids in self.parameters.slots.items():
            reads = (name, dim) in self.parameters.readers
            for index, unit in enumerate(self.units.roots(np.maximum(ids, FIXED)).tolist()):
                if unit != FIXED:
                    members.setdefault(unit, ([], []))[reads].append((name, dim, index))
        return [
            ChannelGroup(tuple(outputs), tuple(inputs), kept.get(unit))
            for unit, (outputs, inputs) in sorted(members.items())
        ]


def propagate(module: nn.Module, x: Tensor | tuple[Tensor, ...]) -> Propagation:
    """Run a module's exported graph on channel ids.

    Parameters
    ----------
    module : torch Module
    x : Tensor of shape (n_records, ...), or a tuple of them

    Returns
    -------
    Propagation
    """
    inputs = tuple(t.detach()[:2].cpu() for t in as_inputs(x))
    inputs = tuple(torch.cat([t, t]) if len(t) == 1 else t for t in inputs)
    module = evaluation_copy(module).cpu()
    graph = export_graph(module, inputs)
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(
        module.named_buffers(remove_duplicate=False)
    )
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}
    shapes = {name: tensors[name].shape for name in dict.fromkeys(names.values())}
    run = Propagation(graph, shapes, names)
    with torch.no_grad():
        run.run(inputs)
    return run


def export_graph(module: nn.Module, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """A module as a graph of ATen operations without side effects, the size of the batch free where that is possible."""
    batch = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, among its parts
            shapes = (batch,) if _takes_any_number(module) else batch
            program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
            graph = program.run_decompositions({}).module()
    except Exception as error:
        raise ValueError(
            f"torch.export cannot trace {type(module).__name__}, which finding its channels needs: {error}"
        ) from error
    for node in list(graph.graph.nodes):
        is_check = node.op == "call_module" or "assert" in str(node.target)
        if is_check and not node.users:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def as_inputs(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """An example input as the arguments of forward."""
    inputs = x if isinstance(x, tuple) else (x,)
    for t in inputs:
        if not isinstance(t, Tensor):
            raise TypeError(f"x must be a Tensor or a tuple of Tensors, got {type(t).__name__}")
        if t.ndim == 0 or len(t) == 0:
            raise ValueError(f"x must hold at least one record, got shape {tuple(t.shape)}")
    return inputs


def evaluation_copy(module: nn.Module) -> nn.Module:
    """A copy of a module in evaluation mode."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch Module, got {type(module).__name__}")
    for name, part in module.named_modules():
        if any(
            leaf.endswith("_mask") and leaf[:-5] + "_orig" in part._parameters
            for leaf in part._buffers
        ):
            raise ValueError(
                f"module {name!r} carries the hooks of torch.nn.utils.prune; make its zeros permanent with "
                "torch.nn.utils.prune.remove first"
            )
    return copy.deepcopy(module).eval()


def _takes_any_number(module: nn.Module) -> bool:
    """Whether forward takes ``*args``, for which torch.export wants the shapes in one tuple."""
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL in kinds
