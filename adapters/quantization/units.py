"""Units of reconstruction: the parts of a network whose outputs are matched one after the other.

They are found in the graph, whatever the classes are called:

- residual block: all between a tensor and the sum that takes it up again, with the activation function after the sum;
- inverted residual, or depthwise separable, block without a sum: a depthwise convolution with the 1x1 convolution after it and,
  where there is one, the 1x1 convolution before it;
- every other layer alone, up to its own output.

A block must be entered by one tensor and left by one. Of blocks inside one another the inner is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from .quantizers import LSQActivation
from .tracing import (
    CONVOLUTIONS,
    is_activation,
    is_addition,
    is_batch_norm,
    is_layer,
    layer_nodes,
    module_of,
)


@dataclass(frozen=True)
class Unit:
    """A part of the graph that is reconstructed as a whole.

    Parameters
    ----------
    kind : {"residual", "inverted-residual", "depthwise-separable", "layer"}
    entry : str
        Name of the node whose output comes in.
    nodes : tuple of str
        Names of its nodes in execution order; the output of the last goes out.
    layers : tuple of str
        Names of the modules to be quantised.
    """

    kind: str
    entry: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]

    @property
    def name(self) -> str:
        """The module that its layers share."""
        parts = [layer.split(".") for layer in self.layers]
        if len(parts) == 1:
            return self.layers[0]
        common = []
        for level in zip(*parts, strict=False):
            if len(set(level)) > 1:
                break
            common.append(level[0])
        return ".".join(common) or self.layers[0]


def find_units(traced: fx.GraphModule, granularity: str = "block") -> list[Unit]:
    """Units of a traced network in the order of their outputs.

    Parameters
    ----------
    traced : GraphModule
        As `tracing.trace` returns it, without quantisers.
    granularity : {"block", "layer"}, default="block"

    Returns
    -------
    list of Unit
        Every layer is in exactly one.

    Examples
    --------
    >>> from torch import nn
    >>> from statml.adapters.quantization.tracing import trace
    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    ... )
    >>> [(unit.kind, unit.layers) for unit in find_units(trace(net))]
    [('layer', ('0',)), ('depthwise-separable', ('2', '4'))]
    """
    nodes = list(traced.graph.nodes)
    place = {node: k for k, node in enumerate(nodes)}
    found: list[tuple[str, list[fx.Node]]] = []
    if granularity == "block":
        found = _residual(traced, nodes, place) + _depthwise(traced, nodes, place)
    taken: set[fx.Node] = set()
    units = []
    # inner blocks first, and residual ones before depthwise ones of the same size
    for kind, part in sorted(found, key=lambda f: (len(f[1]), f[0] != "residual")):
        layers = [node for node in part if is_layer(traced, node)]
        if not layers or taken & set(part):
            continue
        # a depthwise chain inside a residual block belongs to it
        if kind != "residual" and any(k == "residual" and set(part) <= set(p) for k, p in found):
            continue
        taken |= set(part)
        units.append((kind, part, layers))
    units += [("layer", [node], [node]) for node in layer_nodes(traced) if node not in taken]
    units.sort(key=lambda unit: place[unit[1][-1]])
    return [
        Unit(
            kind,
            _entry(part).name,
            tuple(node.name for node in part),
            tuple(node.target for node in layers),
        )
        for kind, part, layers in units
    ]


def _residual(traced, nodes, place) -> list[tuple[str, list[fx.Node]]]:
    dominator = immediate_dominators(nodes, lambda node: node.all_input_nodes)
    found = []
    for node in nodes:
        if not is_addition(node) or dominator.get(node) is None:
            continue
        part = _closed(dominator[node], node, place)
        if part is None:
            continue
        end = node
        while len(end.users) == 1:
            (user,) = end.users
            if not (is_activation(traced, user) or is_batch_norm(traced, user)):
                break
            part.append(user)
            end = user
        while len(part) > 1 and is_batch_norm(traced, part[-1]):
            part.pop()  # of the next block, where normalisation comes first
        found.append(("residual", part))
    return found


def _depthwise(traced, nodes, place) -> list[tuple[str, list[fx.Node]]]:
    before = immediate_dominators(nodes, lambda node: node.all_input_nodes)
    after = immediate_dominators(nodes[::-1], lambda node: list(node.users))
    found = []
    for node in nodes:
        if not _is_depthwise(traced, node):
            continue
        last = _next_layer(traced, node, after)
        if last is None or not _is_pointwise(traced, last):
            continue
        first = _next_layer(traced, node, before)
        kind = "inverted-residual"
        if first is None or not _is_pointwise(traced, first):
            first, kind = node, "depthwise-separable"
        part = _closed(first.all_input_nodes[0], last, place)
        if part is None and first is not node:
            part, kind = _closed(node.all_input_nodes[0], last, place), "depthwise-separable"
        if part is None:
            continue
        end = last
        while len(end.users) == 1:
            (user,) = end.users
            if not (is_batch_norm(traced, user) or is_activation(traced, user)):
                break
            part.append(user)
            end = user
        found.append((kind, part))
    return found


def _is_depthwise(traced, node: fx.Node) -> bool:
    module = module_of(traced, node)
    return (
        isinstance(module, CONVOLUTIONS)
        and module.groups == module.in_channels
        and module.groups > 1
    )


def _is_pointwise(traced, node: fx.Node) -> bool:
    module = module_of(traced, node)
    return (
        isinstance(module, CONVOLUTIONS) and module.groups == 1 and set(module.kernel_size) == {1}
    )


def _next_layer(traced, node: fx.Node, dominator) -> fx.Node | None:
    node = dominator.get(node)
    while node is not None and not is_layer(traced, node):
        node = dominator.get(node)
    return node


def immediate_dominators(nodes, sources) -> dict[fx.Node, fx.Node | None]:
    """For each node of an acyclic graph the last one through which every path from the start to it goes.

    Parameters
    ----------
    nodes : list
        In topological order, sources first.
    sources : callable
        node -> list of nodes.

    Returns
    -------
    dict
        None for a node without sources, and where two starts meet.
    """
    dominator: dict = {}
    depth: dict = {}
    for node in nodes:
        common = None
        for k, source in enumerate(sources(node)):
            if k == 0:
                common = source
            while common is not source and common is not None:
                # the deeper of the two climbs
                if depth[common] >= depth[source]:
                    common = dominator[common]
                else:
                    source = dominator[source]
                if source is None:
                    common = None
        dominator[node] = common
        depth[node] = 0 if common is None else depth[common] + 1
    return dominator


def _closed(start: fx.Node, end: fx.Node, place) -> list[fx.Node] | None:
    """All nodes on paths from one to the other, without the first; None if other tensors come in or go out."""
    reached, waiting = set(), [end]
    while waiting:
        node = waiting.pop()
        if node is start or node in reached:
            continue
        if place[node] <= place[start] or node.op == "placeholder":
            return None
        if node.op == "get_attr":
            continue
        reached.add(node)
        waiting += node.all_input_nodes
    inside = sorted(reached, key=place.get)
    for node in inside:
        if node is not end and any(user not in reached for user in node.users):
            return None
    return inside


def _entry(part: list[fx.Node]) -> fx.Node:
    inside = set(part)
    (entry,) = {
        source
        for node in part
        for source in node.all_input_nodes
        if source not in inside and source.op != "get_attr"
    }
    return entry


def student_nodes(student: fx.GraphModule, unit: Unit) -> list[fx.Node]:
    """The nodes of a unit in the network with quantisers: its own, and the quantisers on its way.

    Quantisers of its output belong to whoever reads it.
    """
    own = set(unit.nodes)
    inside = []
    for node in student.graph.nodes:
        is_quantiser = isinstance(module_of(student, node), LSQActivation)
        if node.name in own:
            inside.append(node)
        elif is_quantiser:
            source = node.args[0].name
            if (source == unit.entry or source in own) and source != unit.nodes[-1]:
                inside.append(node)
    return inside
