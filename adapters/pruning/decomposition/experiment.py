"""Does pruning help because the network is smaller, or because it trained longer?

Iterative magnitude pruning with learning-rate rewinding trains a network again and again while it shrinks: at level k it is smaller
and has seen (k+1) T epochs. `decompose_pruning_effect` trains, from the same starts and in the same order of records, the networks that
tell the two apart (`arms`), at every level and over replicates, with and without noisy labels, all as one stack of networks (`stacks`),
and estimates the effects with intervals (`effects`).

============  ========  ====================================================================================
arm           epochs    network at level k
============  ========  ====================================================================================
dense         T         all weights (level 0 of every arm)
edt           (k+1) T   all weights; learning rate and momentum start anew at each level (extended dense training)
lrr           (k+1) T   the (1 - fraction)^k weights of largest magnitude, values kept (learning-rate rewinding)
sparse_short  T         LRR's mask, weights rewound to the start
wr            T         weights rewound to the start at every level, masks from these (weight rewinding, lottery tickets)
random        (k+1) T   as lrr with random masks: what does the choice of the weights matter?
narrow        T         a dense network with as many weights: what does sparsity matter beyond size?
============  ========  ====================================================================================

Reference: Jin, T., Carbin, M., Roy, D. M., Frankle, J. and Dziugaite, G. K. (2022). Pruning's effect on generalization through the lens
of training and regularization. NeurIPS. Its arms are dense, edt and lrr; the two-by-two decomposition, its intervals and the other arms are this
package's. Cost: about (number of arms) x (levels) x (replicates) trainings of T epochs for every noise level.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array, check_consistent_length
from torch import nn

from statml._validation import (
    RandomState,
    check_choice,
    check_integer,
    check_labels,
    check_level,
    check_number,
)
from statml.parallel import parallel_map

from ..._estimator import make_module
from ..._mlp import MLP
from .effects import effects_table, optimal_levels, paired_interval, subgroup_table
from .result import PruningEffectResult
from .stacks import Masks, Recipe, Stack, evaluate, full_masks, keep_largest, train

ARMS = ("lrr", "edt", "sparse_short", "wr", "random", "narrow")
NEEDED = ("lrr", "edt", "sparse_short")
LONG = ("lrr", "edt", "random")  # go on training; the others start anew at every level


def decompose_pruning_effect(
    module: Sequence[int] | type[nn.Module] | Callable[..., nn.Module],
    X: ArrayLike,
    y: ArrayLike,
    X_test: ArrayLike,
    y_test: ArrayLike,
    *,
    noise: Sequence[float] = (0.0, 0.2),
    noise_type: str = "uniform",
    fraction: float = 0.2,
    levels: int = 14,
    arms: Sequence[str] | None = None,
    n_replicates: int = 5,
    epochs: int = 40,
    batch_size: int = 128,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    rewind_epoch: int = 0,
    prune_output: bool = False,
    validation_fraction: float = 0.1,
    el2n_epoch: float = 0.1,
    n_subgroups: int = 10,
    influence_top: float | None = None,
    level: float = 0.95,
    looped: bool | None = None,
    random_state: RandomState = None,
    n_jobs: int | None = None,
    progress: bool | str = "auto",
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> PruningEffectResult:
    """Estimate how much of pruning's effect on the test error is training time, and how much is size.

    Parameters
    ----------
    module : sequence of int, or class or function that makes a torch Module
        Widths of the hidden layers of a multilayer perceptron, which trains as one batched program; or any module without
        randomness in its forward pass, which goes network by network. Called with ``n_inputs`` and ``n_outputs`` where it takes them.
    X : array-like of shape (n_records, ...)
    y : array-like of shape (n_records,)
        Classes.
    X_test, y_test : array-like
        Test data, on which the effects are measured; their labels stay clean.
    noise : sequence of float in [0, 1), default=(0.0, 0.2)
        Shares of the training labels that are replaced.
    noise_type : {"uniform", "symmetric"}, default="uniform"
        New labels from all classes, the true one among them, or from the other classes.
    fraction : float in (0, 1), default=0.2
        Share of the surviving weights that each level removes.
    levels : int, default=14
    arms : sequence of str or None, default=None
        Of the table in this module's docstring; "lrr", "edt" and "sparse_short" are needed. None: all that the module allows ("narrow"
        only for a perceptron).
    n_replicates : int, default=5
        Seeds. Data and label noise are the same for all, so that intervals are about the randomness of training alone.
    epochs : int, default=40
        T, the epochs of one training.
    batch_size : int, default=128
    lr, momentum, weight_decay : float, default=0.1, 0.9, 1e-4
        Of SGD; the learning rate falls to a tenth after half and three quarters of the epochs.
    rewind_epoch : int, default=0
        Epoch of the dense training to whose weights "wr" and "sparse_short" are rewound; 0 is the initialisation.
    prune_output : bool, default=False
        Whether the output layer is pruned as well.
    validation_fraction : float in (0, 1), default=0.1
        Share of the records that is held out, with clean labels, to choose the best level.
    el2n_epoch : float in (0, 1], default=0.1
        Share of the dense training after which the difficulty of the records is taken.
    n_subgroups : int, default=10
    influence_top : float in (0, 1) or None, default=None
        Share of the records whose influence is measured; None leaves it out.
    level : float, default=0.95
        Confidence level.
    looped : bool or None, default=None
        Whether networks go one by one; None: only where they have to.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
    n_jobs, progress, checkpoint_dir
        As in `statml.parallel.parallel_map`; the tasks are the noise levels.

    Returns
    -------
    PruningEffectResult

    Raises
    ------
    ValueError
        If an argument is out of its range, the data are unusable, or a training diverges.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from statml.adapters.pruning import decompose_pruning_effect
    >>> X, y = load_digits(return_X_y=True)
    >>> result = decompose_pruning_effect(
    ...     (32,), X[:300] / 16, y[:300], X[300:600] / 16, y[300:600],
    ...     noise=(0.0,), fraction=0.5, levels=2, n_replicates=2, epochs=3, random_state=0)
    >>> wide = result.effects.pivot(index="level", columns="effect", values="estimate")
    >>> bool((abs(wide["time"] + wide["size"] - wide["total"]) < 1e-12).all())
    True
    """
    X, y, X_test, y_test, classes = _check_data(X, y, X_test, y_test)
    arms = _check_arms(arms, module)
    for name, value in (("validation_fraction", validation_fraction), ("fraction", fraction)):
        check_number(name, value, 0, 1, low_open=True, high_open=True)
    check_number("el2n_epoch", el2n_epoch, 0, 1, low_open=True)
    if influence_top is not None:
        check_number("influence_top", influence_top, 0, 1, low_open=True, high_open=True)
    noise = [check_number("noise", q, 0, 1, high_open=True) for q in noise]
    if len(set(noise)) != len(noise) or not noise:
        raise ValueError(f"noise must hold different shares, at least one, got {noise}")
    setting = {
        "module": module
        if callable(module)
        else tuple(check_integer("module", w, 1) for w in module),
        "noise_type": check_choice("noise_type", noise_type, ("uniform", "symmetric")),
        "fraction": float(fraction),
        "levels": check_integer("levels", levels, low=1),
        "arms": arms,
        "n_replicates": check_integer("n_replicates", n_replicates, low=1),
        "recipe": Recipe(
            check_integer("epochs", epochs, low=1),
            check_integer("batch_size", batch_size, low=1),
            check_number("lr", lr, 0, low_open=True),
            check_number("momentum", momentum, 0, 1, high_open=True),
            check_number("weight_decay", weight_decay, 0),
        ),
        "rewind_epoch": check_integer("rewind_epoch", rewind_epoch, low=0, high=epochs),
        "prune_output": bool(prune_output),
        "validation_fraction": float(validation_fraction),
        "el2n_epoch": max(1, round(el2n_epoch * epochs)),
        "influence_top": influence_top,
        "looped": looped,
        "n_classes": len(classes),
    }
    check_integer("n_subgroups", n_subgroups, low=1, high=len(X))
    check_level(level)
    data = (X, y, X_test, y_test)
    answers = parallel_map(
        _one_noise_level,
        [(q, setting, data) for q in noise],
        random_state=random_state,
        n_jobs=n_jobs,
        progress=progress,
        checkpoint_dir=checkpoint_dir,
        description="pruning effect",
    )
    return _gather(noise, answers, n_subgroups, level)


# --- one noise level -------------------------------------------------------------------------------------


def _one_noise_level(task: tuple, rng: np.random.Generator) -> dict[str, Any]:
    """All networks of one noise level: the table of runs, the difficulty of the records, and changes of their losses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the products are small: more threads only wait for each other
    try:
        with torch.random.fork_rng(devices=[]):
            return _Experiment(task, rng).run()
    finally:
        torch.set_num_threads(threads)


class _Experiment:
    """The networks of one noise level."""

    def __init__(self, task: tuple, rng: np.random.Generator):
        self.noise, setting, (X, y, X_test, y_test) = task
        self.setting, self.recipe, self.rng = setting, setting["recipe"], rng
        self.n_replicates = setting["n_replicates"]
        kept = rng.permutation(len(X))
        n_validation = max(1, round(setting["validation_fraction"] * len(X)))
        held_out, used = kept[:n_validation], np.sort(kept[n_validation:])
        self.used = used
        self.true = y[used]
        self.given = noisy_labels(
            self.true, self.noise, setting["n_classes"], setting["noise_type"], rng
        )
        self.changed = np.flatnonzero(self.given != self.true)
        self.X, self.y = torch.from_numpy(X[used]), torch.from_numpy(self.given)
        self.validation = torch.from_numpy(X[held_out]), torch.from_numpy(y[held_out])
        self.test = torch.from_numpy(X_test), torch.from_numpy(y_test)
        self.seeds = rng.integers(2**31, size=(self.n_replicates, 2)).tolist()
        self.n_inputs = int(X[0].size)
        self.rows: dict[str, list] = {}

    def run(self) -> dict[str, Any]:
        setting = self.setting
        dense = self._start()
        start = dense.copy()
        el2n = np.zeros(len(self.used))

        def watch(epoch, stack):
            nonlocal start
            if epoch == setting["rewind_epoch"]:
                start = stack.copy()
            if epoch == setting["el2n_epoch"]:
                el2n[:] = self._el2n(stack)

        self._train(dense, None, [0] * self.n_replicates, watch)
        dense_loss = self._record({"dense": dense}, {"dense": full_masks(dense)}, 0)["dense"]
        stacks = {arm: dense.copy() for arm in setting["arms"] if arm in (*LONG, "wr")}
        masks = {arm: full_masks(dense) for arm in setting["arms"]}
        ranks = {n: torch.from_numpy(self.rng.random(t.shape)) for n, t in masks["lrr"].items()}
        n_prunable = sum(m[0].numel() for m in masks["lrr"].values())
        losses: dict[str, list] = {"lrr": [], "edt": []}
        for k in range(1, setting["levels"] + 1):
            n_keep = max(1, round((1 - setting["fraction"]) ** k * n_prunable))
            for arm in setting["arms"]:
                if arm in ("lrr", "wr"):
                    size = {n: stacks[arm].parameters[n].abs() for n in masks[arm]}
                    masks[arm] = keep_largest(size, masks[arm], n_keep)
                elif arm == "random":
                    masks[arm] = keep_largest(ranks, masks[arm], n_keep)
            for arm in setting["arms"]:
                if arm in ("sparse_short", "wr"):
                    stacks[arm] = start.copy()
                elif arm == "narrow":
                    stacks[arm], masks[arm] = self._narrow(dense, n_keep)
            masks["sparse_short"] = masks["lrr"]
            self._train_together(stacks, masks, k)
            changes = self._record(stacks, masks, k)
            for arm in losses:
                losses[arm].append(changes[arm] - dense_loss)
        answer = {
            "rows": {name: np.array(values) for name, values in self.rows.items()},
            "el2n": el2n,
            "changes": {a: np.stack(c, axis=1).astype(np.float32) for a, c in losses.items()},
        }
        if setting["influence_top"] is not None:
            answer["influence"] = self._influence(answer)
        return answer

    def _start(self) -> Stack:
        """One initialisation a replicate."""
        modules = [self._module(seed) for seed, _ in self.seeds]
        return Stack.of(modules, self.setting["prune_output"], self.setting["looped"])

    def _module(self, seed: int, hidden: Sequence[int] | None = None) -> nn.Module:
        torch.manual_seed(seed)
        module, n_classes = self.setting["module"], self.setting["n_classes"]
        if isinstance(module, tuple):
            return MLP(self.n_inputs, n_classes, hidden=module if hidden is None else hidden)
        return make_module(module, self.n_inputs, n_classes)

    def _orders(self, level: int) -> list[np.random.Generator]:
        """The order of the records in the training of a level, one generator a replicate."""
        return [np.random.default_rng([seed, level]) for _, seed in self.seeds]

    def _train(self, stack, masks, levels, watch=None, records=None) -> None:
        """Train a stack whose networks are the replicates, as often as there are entries in `levels` / n_replicates."""
        if records is None:
            records = torch.arange(len(self.used)).expand(len(stack), -1)
        blocks = levels[:: self.n_replicates]
        orders = [rng for k in blocks for rng in self._orders(k)]
        train(stack, masks, self.X, self.y, records, orders, self.recipe, watch)

    def _train_together(
        self, stacks: dict[str, Stack], masks: dict[str, Masks], level: int
    ) -> None:
        """Train all arms of a level as one stack; `stacks` is changed."""
        arms = list(stacks)
        joined = Stack.join([stacks[arm] for arm in arms])
        names = dict.fromkeys(name for arm in arms for name in masks[arm])
        keep = {}
        for name in names:
            parts = []
            for arm in arms:
                ones = torch.ones_like(stacks[arm].parameters[name], dtype=torch.bool)
                parts.append(masks[arm].get(name, ones))
            keep[name] = torch.cat(parts)
        levels = [level if arm in LONG else 0 for arm in arms for _ in range(self.n_replicates)]
        self._train(joined, keep, levels)
        for i, arm in enumerate(arms):
            stacks[arm] = joined[np.arange(self.n_replicates) + i * self.n_replicates]

    def _record(self, stacks, masks, level: int) -> dict[str, NDArray]:
        """Add a row a network; returns the training losses (n_replicates, n_records) of each arm."""
        losses = {}
        for arm, stack in stacks.items():
            fit, check, test = (
                evaluate(stack, *d) for d in ((self.X, self.y), self.validation, self.test)
            )
            if not (np.isfinite(fit.loss).all() and np.isfinite(test.loss).all()):
                raise ValueError(
                    f"the training of {arm!r} has diverged, its losses are no finite numbers: scale X and X_test, or lower lr"
                )
            losses[arm] = fit.loss
            prunable = [masks[arm].get(n) for n in stack.prunable]
            kept = sum(m.flatten(1).sum(1) for m in prunable).numpy()
            size = sum(m[0].numel() for m in prunable)
            nonzero = sum((p != 0).flatten(1).sum(1) for p in stack.parameters.values()).numpy()
            memorised = fit.predicted[:, self.changed] == self.given[self.changed]
            values = {
                "level": [level] * len(stack),
                "density": kept / size,
                "n_parameters": nonzero,
                "arm": [arm] * len(stack),
                "replicate": np.arange(len(stack)),
                "epochs_total": [self.recipe.epochs * (level + 1 if arm in LONG else 1)]
                * len(stack),
                "train_loss": fit.loss.mean(axis=1),
                "train_error": (fit.predicted != self.given).mean(axis=1),
                "validation_error": (check.predicted != self.validation[1].numpy()).mean(axis=1),
                "test_error": (test.predicted != self.test[1].numpy()).mean(axis=1),
                "test_loss": test.loss.mean(axis=1),
                "memorised": memorised.mean(axis=1) if len(self.changed) else [np.nan] * len(stack),
            }
            for name, column in values.items():
                self.rows.setdefault(name, []).extend(list(column))
        return losses

    def _el2n(self, stack: Stack) -> NDArray:
        """Mean length of the error vector, softmax less one-hot label, of every record."""
        logits = stack.logits(self.X)
        error = logits.softmax(dim=2) - nn.functional.one_hot(self.y, logits.shape[2])
        return error.norm(dim=2).mean(dim=0).double().numpy()

    def _narrow(self, dense: Stack, n_keep: int) -> tuple[Stack, Masks]:
        """Dense networks with about `n_keep` prunable weights, in the corner of wide tensors."""
        hidden = self.setting["module"]
        widths = _narrow_widths(self.n_inputs, hidden, self.setting, n_keep)
        stack = dense._map(torch.zeros_like)
        masks = {n: torch.zeros_like(t, dtype=torch.bool) for n, t in stack.parameters.items()}
        for b, (seed, _) in enumerate(self.seeds):
            for name, value in self._module(seed, widths).named_parameters():
                corner = (b, *(slice(0, size) for size in value.shape))
                stack.parameters[name][corner] = value.detach()
                masks[name][corner] = True
        return stack, masks

    def _influence(self, answer: dict) -> dict[str, Any]:
        """Dense networks trained without the most improved records, and without as many random ones."""
        rows = pd.DataFrame({n: answer["rows"][n] for n in ("arm", "level", "validation_error")})
        lrr = rows[rows["arm"] == "lrr"].groupby("level")["validation_error"].mean()
        level = int(lrr.idxmin())
        improved = answer["changes"]["lrr"][:, level - 1].mean(axis=0)
        n_out = max(1, round(self.setting["influence_top"] * len(improved)))
        rest = np.sort(np.argsort(improved, kind="stable")[n_out:])
        records = [rest] * self.n_replicates
        records += [
            np.sort(self.rng.permutation(len(improved))[n_out:]) for _ in range(self.n_replicates)
        ]
        stack = Stack.join([self._start(), self._start()])
        self._train(stack, None, [0] * len(stack), records=torch.from_numpy(np.stack(records)))
        wrong = evaluate(stack, *self.test).predicted != self.test[1].numpy()
        without_top, without_random = wrong.mean(axis=1).reshape(2, -1)
        return {"level": level, "n_removed": n_out, "top": without_top, "random": without_random}


def noisy_labels(
    y: NDArray[np.int64], share: float, n_classes: int, kind: str, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Labels of which a share was replaced: ceil(share n) of them, drawn without replacement.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
    share : float
    n_classes : int
    kind : {"uniform", "symmetric"}
        From all classes, so that (n_classes - 1) / n_classes of the replaced labels change, or from the others.
    rng : numpy Generator

    Returns
    -------
    ndarray of int, shape (n,)
    """
    out = y.copy()
    chosen = rng.permutation(len(y))[: int(np.ceil(share * len(y)))]
    if kind == "uniform":
        out[chosen] = rng.integers(n_classes, size=len(chosen))
    else:
        out[chosen] = (y[chosen] + rng.integers(1, n_classes, size=len(chosen))) % n_classes
    return out


def _narrow_widths(n_inputs, hidden, setting, n_keep: int) -> list[int]:
    """Hidden widths, all scaled alike, that give nearly `n_keep` prunable weights."""

    def n_weights(widths):
        sizes = [n_inputs, *widths] + ([setting["n_classes"]] if setting["prune_output"] else [])
        return sum(a * b for a, b in itertools.pairwise(sizes))

    candidates = [[max(1, round(s * h)) for h in hidden] for s in np.linspace(0, 1, 2001)]
    return min(candidates, key=lambda widths: abs(n_weights(widths) - n_keep))


# --- what comes in and what goes out ------------------------------------------------------------------------


def _check_data(X, y, X_test, y_test):
    checked = []
    for name, value in (("X", X), ("X_test", X_test)):
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as infinite
            array = check_array(value, dtype=np.float32, order="C", allow_nd=True, input_name=name)
        checked.append(np.ascontiguousarray(array))
    X, X_test = checked
    if X.shape[1:] != X_test.shape[1:]:
        raise ValueError(f"X_test must have records of shape {X.shape[1:]}, got {X_test.shape[1:]}")
    y, y_test = check_labels("y", y), check_labels("y_test", y_test)
    check_consistent_length(X, y)
    check_consistent_length(X_test, y_test)
    classes, encoded = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y holds one class only, {classes[0]}; at least two are needed")
    unknown = np.setdiff1d(y_test, classes)
    if len(unknown):
        raise ValueError(f"y_test holds classes that y does not: {unknown[:5]}")
    return X, encoded.astype(np.int64), X_test, np.searchsorted(classes, y_test), classes


def _check_arms(arms: Sequence[str] | None, module: object) -> tuple[str, ...]:
    perceptron = not callable(module)
    if isinstance(module, nn.Module):
        raise TypeError(
            "module must be hidden widths, or a class or function that makes a module: every replicate needs new "
            f"weights; got a {type(module).__name__}, which has its own"
        )
    if arms is None:
        return ARMS if perceptron else tuple(arm for arm in ARMS if arm != "narrow")
    for arm in arms:
        check_choice("arms", arm, ARMS)
    missing = [arm for arm in NEEDED if arm not in arms]
    if missing:
        raise ValueError(
            f"arms must hold {', '.join(NEEDED)}, from which the effects come; {missing[0]} is missing"
        )
    if "narrow" in arms and not perceptron:
        raise ValueError(
            'arms can hold "narrow" only where module is hidden widths: other modules cannot be scaled'
        )
    return tuple(arm for arm in ARMS if arm in arms)


def _gather(noise, answers, n_subgroups: int, level: float) -> PruningEffectResult:
    tables, subgroups, influence = [], [], []
    for q, answer in zip(noise, answers, strict=True):
        table = pd.DataFrame(answer["rows"])
        table.insert(0, "noise", q)
        tables.append(table)
        part = subgroup_table(answer["changes"], answer["el2n"], n_subgroups, level)
        part.insert(0, "noise", q)
        subgroups.append(part)
        if "influence" in answer:
            found = answer["influence"]
            gap = paired_interval(found["top"] - found["random"], level)
            influence.append(
                {
                    "noise": q,
                    "level": found["level"],
                    "n_removed": found["n_removed"],
                    "error_without_top": found["top"].mean(),
                    "error_without_random": found["random"].mean(),
                    **{name: float(value) for name, value in gap.items()},
                }
            )
    runs = pd.concat(tables, ignore_index=True)
    arms = tuple(arm for arm in ARMS if arm in set(runs["arm"]))
    return PruningEffectResult(
        runs=runs,
        effects=effects_table(runs, "test_error", level),
        subgroups=pd.concat(subgroups, ignore_index=True),
        influence=pd.DataFrame(influence) if influence else None,
        optimal=optimal_levels(runs, arms, level),
        n_replicates=len(set(runs["replicate"])),
        level=level,
    )
