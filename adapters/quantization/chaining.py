"""One unit after the other, each with inputs from the network that is already quantised up to it.

Float and quantised network are executed side by side, node by node, on all records: what a unit puts out is what the next takes in. The work is one
forward of each network in all, whatever the number of units. A tensor is kept until the last node that reads it has been.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from statml.parallel import progress_bar

from .._files import read_state, write_state
from .quantizers import LSQActivation, QuantizedLayer
from .reconstruction import Settings, UnitRecord, reconstruct_unit
from .rounding import Learning
from .tracing import module_of, run_nodes
from .units import Unit, find_units, student_nodes

CHUNK = 128  # records that are executed at a time
# of the steps of activations, when they are learnt after the roundings; as in BRECQ's code
SECOND_PASS_ITERATIONS, SECOND_PASS_RATE = 5000, 4e-4


def reconstruct_network(
    traced: fx.GraphModule,
    student: fx.GraphModule,
    X: Tensor,
    learning: Learning,
    settings: Settings,
    seeds: np.random.SeedSequence,
    *,
    progress: bool | str = "auto",
    folder: Path | None = None,
    fingerprint: str = "",
) -> list[tuple[Unit, UnitRecord]]:
    """Learn all units of a network.

    Parameters
    ----------
    traced : GraphModule
        The float network.
    student : GraphModule
        The one with quantisers, all with initial grids; changed in place.
    X : Tensor of shape (n_records, ...)
    learning : Learning
        What the rounding method learns.
    settings : Settings
    seeds : SeedSequence
        Every unit draws from a child of its own.
    progress : "auto", True or False, default="auto"
    folder : Path, optional
        Where every finished unit leaves its codes and steps; units found there are not learnt again.
    fingerprint : str, default=""
        What identifies the run in `folder`.

    Returns
    -------
    list of (Unit, UnitRecord)
    """
    units = find_units(traced, learning.granularity)
    passes = [(learning.quantize_activations, settings, True)]
    if learning.activation_step == "after":
        n = min(settings.recon_iter, SECOND_PASS_ITERATIONS)
        second = replace(settings, recon_iter=n, lr_a_step=SECOND_PASS_RATE)
        passes.append((True, second, False))
    children = seeds.spawn(len(passes))
    total = sum(len(units) * chosen.recon_iter for _, chosen, _ in passes)
    records: dict[Unit, UnitRecord] = {}
    with progress_bar(total, progress, "reconstruction") as bar:
        for k, (active, chosen, first) in enumerate(passes):
            for module in _quantisers(student):
                module.active = active
            run = _Pass(traced, student, units, learning, chosen, children[k], first, bar)
            run.keep_in(folder, f"pass{k}", fingerprint)
            for unit, record in run.walk(X):
                before = records.get(unit)
                records[unit] = (
                    record if before is None else replace(record, undecided=before.undecided)
                )
    for module in _quantisers(student):
        module.active = True
    return list(records.items())


def _quantisers(student: fx.GraphModule) -> list[LSQActivation]:
    return [m for m in student.modules() if isinstance(m, LSQActivation)]


class _Pass:
    """One walk through both networks."""

    def __init__(self, traced, student, units, learning, settings, seeds, first, bar):
        self.traced, self.student, self.units = traced, student, units
        self.learning, self.settings, self.first, self.bar = learning, settings, first, bar
        self.seeds = seeds.spawn(len(units))
        self.learnt: set[int] = set()  # activations whose step belongs to an earlier unit
        self.student_node = {node.name: node for node in student.graph.nodes}
        self.folder: Path | None = None

    def keep_in(self, folder: Path | None, prefix: str, fingerprint: str) -> None:
        self.folder, self.prefix, self.fingerprint = folder, prefix, fingerprint

    def walk(self, X: Tensor):
        """Execute both networks node by node; learn a unit when its first node's turn has come."""
        unit_of = {name: k for k, unit in enumerate(self.units) for name in unit.nodes}
        ends = {unit.nodes[-1]: k for k, unit in enumerate(self.units)}
        done: set[str] = set()
        self.float_values: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        for node in self.traced.graph.nodes:
            if node.op == "output":
                break
            if node.op == "placeholder":
                self.float_values[node.name] = self.values[node.name] = X
                done.add(node.name)
                continue
            if node.name in unit_of:
                if node.name in ends:  # all that comes in has been computed
                    k = ends[node.name]
                    yield self.units[k], self._learn(k)
                    done |= set(self.units[k].nodes)
            else:
                self._execute(node)
                done.add(node.name)
            for name in list(self.values):
                readers = self._traced_node(name).users
                if all(user.name in done for user in readers):
                    del self.values[name], self.float_values[name]

    def _traced_node(self, name: str) -> fx.Node:
        if not hasattr(self, "_by_name"):
            self._by_name = {node.name: node for node in self.traced.graph.nodes}
        return self._by_name[name]

    def _execute(self, node: fx.Node) -> None:
        """A node that belongs to no unit, in both networks."""
        sources = [source.name for source in node.all_input_nodes]
        twin = self.student_node[node.name]
        before = [
            source
            for source in twin.all_input_nodes
            if isinstance(module_of(self.student, source), LSQActivation)
        ]
        name = node.name
        if not sources:  # a constant
            value = run_nodes(self.traced, [node], {})[name]
            self.float_values[name] = self.values[name] = value
            return
        self.float_values[name] = self._in_parts(
            self.traced, [node], self.float_values, sources, name
        )
        self.values[name] = self._in_parts(
            self.student, [*before, twin], self.values, sources, name
        )

    @torch.no_grad()
    def _in_parts(self, graph, nodes, values, sources, name) -> Any:
        n = max(len(values[s]) for s in sources if self._traced_node(s).op != "get_attr")
        parts = []
        for start in range(0, n, CHUNK):
            known = {
                s: values[s] if self._traced_node(s).op == "get_attr" else _slice(values[s], start)
                for s in sources
            }
            parts.append(run_nodes(graph, nodes, known)[name])
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return type(parts[0])(torch.cat(column) for column in zip(*parts, strict=True))

    def _learn(self, k: int) -> UnitRecord:
        unit, out = self.units[k], self.units[k].nodes[-1]
        # constants that the unit reads, and nothing else, come in beside its entry
        own = [self._traced_node(name) for name in unit.nodes]
        extra = [s for node in own for s in node.all_input_nodes if s.op == "get_attr"]
        constants = {s.name: self.float_values[s.name] for s in extra}
        inside = student_nodes(self.student, unit)
        layers = {
            name: self.student.get_submodule(name)
            for name in unit.layers
            if isinstance(self.student.get_submodule(name), QuantizedLayer)
        }
        activations = {
            id(module): module
            for node in inside
            if isinstance(module := module_of(self.student, node), LSQActivation)
        }
        fresh = [m for key, m in activations.items() if key not in self.learnt]
        self.learnt |= set(activations)

        def forward(x: Tensor) -> Tensor:
            return run_nodes(self.student, inside, constants | {unit.entry: x})[out]

        def float_forward(x: Tensor) -> Tensor:
            return run_nodes(self.traced, own, constants | {unit.entry: x})[out]

        x, float_x = self.values[unit.entry], self.float_values[unit.entry]
        with torch.no_grad():
            target = torch.cat([float_forward(part) for part in float_x.split(CHUNK)])
        record = self._restored(k, layers, fresh)
        if record is None:
            generator = torch.Generator(x.device)
            generator.manual_seed(int(self.seeds[k].generate_state(1, np.uint64)[0] >> 1))
            learning = self.learning
            record = reconstruct_unit(
                forward,
                layers,
                fresh if self.learning.quantize_activations or not self.first else [],
                x,
                float_x,
                target,
                self.settings,
                roundings=self.first,
                weight_step=self.first and learning.weight_step,
                activation_step=not self.first or learning.activation_step == "jointly",
                generator=generator,
                on_iteration=self.bar.update,
            )
            self._keep(k, layers, fresh, record)
        else:
            self.bar.update(self.settings.recon_iter)
        for layer in layers.values():
            layer.freeze()
        with torch.no_grad():
            self.values[out] = torch.cat([forward(part) for part in x.split(CHUNK)])
        self.float_values[out] = target
        return record

    # --- checkpoints ----------------------------------------------------------------------------------

    def _file(self, k: int) -> Path:
        return self.folder / f"{self.prefix}_unit{k:03d}.pt"

    def _keep(self, k, layers, activations, record: UnitRecord) -> None:
        if self.folder is None:
            return
        state = {
            "fingerprint": self.fingerprint,
            "codes": {
                name: layer.quantizer.codes().to(torch.uint8) for name, layer in layers.items()
            },
            "steps": {name: layer.quantizer.step.detach() for name, layer in layers.items()},
            "activations": [activation.step.detach() for activation in activations],
            "record": asdict(record),
        }
        write_state(self._file(k), state)

    @torch.no_grad()
    def _restored(self, k, layers, activations) -> UnitRecord | None:
        if self.folder is None or not self._file(k).exists():
            return None
        state = read_state(self._file(k))
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"checkpoint_dir {str(self.folder)!r} holds another run: its network, images or parameters differ. "
                "Name another folder, or delete this one to start anew."
            )
        for name, layer in layers.items():
            layer.thaw()
            layer.quantizer.set_codes(state["codes"][name].to(layer.quantizer.base))
            layer.quantizer.step.copy_(state["steps"][name])
        for activation, step in zip(activations, state["activations"], strict=True):
            activation.step.copy_(step)
        return UnitRecord(**state["record"])


def _slice(value: Any, start: int) -> Any:
    if isinstance(value, Tensor):
        return value[start : start + CHUNK]
    return type(value)(v[start : start + CHUNK] for v in value)
