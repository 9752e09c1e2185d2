"""Running chains: warm-up and its decisions, many chains at once, and files from which a killed run goes on.

Warm-up has four quarters. In the first, where Gaussian noise would hold a chain far from the release, the density of the release
is raised to a power that grows to one. From the second the widths of slices are set. An adaptive kernel spends the third and the
fourth on its two schedules, and the better one is kept. All this ends with warm-up: draws come from one fixed kernel.

A chain is a position, a state, the state of its random generator and a trace. It advances by any number of sweeps with
the same result, so that rounds may be as long as suits the progress bar, the files and the workers.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm.auto import tqdm

from .. import parallel
from .._validation import RandomState
from .kernels import make_kernel
from .kernels.chain import Trace, as_matrix, run_sweeps, state_of
from .protocols import Array, ChainState, Mechanism, RecordModel

SECONDS_A_ROUND = 1.0
CHECKPOINT_EVERY = 5.0  # seconds
FIRST_ROUND = 50  # sweeps
ANNEALING_STAGES = 12


@dataclass(frozen=True)
class Plan:
    """All that a chain is to do; the arguments of `PrivatePosterior`, checked."""

    model: RecordModel
    mechanism: Mechanism
    release: Array
    n_records: int
    kernel: str
    tune: int
    draws: int
    block_size: int = 1
    adaptive: bool = False
    log_prior_n: Callable | None = None
    n_mechanism: Mechanism | None = None
    init: Array | None = None
    store_records: bool = False

    @property
    def n_sweeps(self) -> int:
        return self.tune + self.draws

    @property
    def statistics_release(self) -> Array:
        """The release without the noisy number of records."""
        return self.release if self.n_mechanism is None else self.release[:-1]


class Chain:
    """One chain.

    Parameters
    ----------
    plan : Plan
    rng : Generator
    theta : ndarray of shape (k,) or None, default=None
        Where to start; None draws from the prior.
    """

    def __init__(self, plan: Plan, rng: np.random.Generator, theta: Array | None = None):
        self._build(plan)
        self.rng = rng
        self.position = 0
        theta = np.array(self.model.sample_prior(rng) if theta is None else theta, dtype=float)
        x = as_matrix(self.model.sample_records(theta, plan.n_records, rng))
        self.state = state_of(self.model, plan.mechanism, plan.statistics_release, theta, x)
        check_integer_totals(plan.mechanism, self.state)
        if hasattr(self.kernel, "start"):
            self.state = self.kernel.start(self.state)
        self.coldest = first_inverse_temperature(self.kernel, self.state, plan.statistics_release)
        self.trace = Trace.empty(self.state, plan.n_sweeps, plan.tune, plan.store_records)

    def _build(self, plan: Plan) -> None:
        self.plan = plan
        self.model = plan.model
        if hasattr(plan.model, "chain_state"):
            self.model = copy.copy(plan.model)
            self.model.chain_state = copy.deepcopy(plan.model.chain_state)
        self.kernel = make_kernel(
            plan.kernel,
            self.model,
            plan.mechanism,
            block_size=plan.block_size,
            adaptive=plan.adaptive,
            log_prior_n=plan.log_prior_n,
            n_mechanism=plan.n_mechanism,
            n_typical=plan.n_records,
        )
        self.mover = getattr(self.kernel, "inner", self.kernel)  # what warm-up tunes

    def advance(self, n_sweeps: int) -> None:
        """Move on by so many sweeps, or to the end."""
        stop = min(self.position + n_sweeps, self.plan.n_sweeps)
        stations = self._stations()
        while self.position < stop:
            if self.position in stations:
                self._decide()
            self.kernel.inverse_temperature = self._inverse_temperature()
            here = min([stop, *(b for b in stations if b > self.position)])
            self.state = run_sweeps(
                self.kernel,
                self.state,
                self.plan.release,
                self.rng,
                self.trace,
                range(self.position, here),
            )
            self.position = here

    def _stations(self) -> list[int]:
        """Where something changes."""
        tune = self.plan.tune
        stages = [self._quarter(1) * k // ANNEALING_STAGES for k in range(ANNEALING_STAGES + 1)]
        return sorted({*stages, self._quarter(2), self._quarter(3), tune})

    def _quarter(self, k: int) -> int:
        return self.plan.tune * k // 4

    def _inverse_temperature(self) -> float:
        end = self._quarter(1)
        if self.position >= end:
            return 1.0
        # the last stage that has begun: it must not change between stations, wherever a round ends
        stage = max(
            k for k in range(ANNEALING_STAGES) if end * k // ANNEALING_STAGES <= self.position
        )
        return float(self.coldest ** (1 - stage / ANNEALING_STAGES))

    def _decide(self) -> None:
        """What warm-up changes when the chain comes here."""
        one, two, three, four = (self._quarter(k) for k in (1, 2, 3, 4))
        trials = getattr(self.mover, "trials", [])
        theta = self.trace.theta
        if one < two == self.position and hasattr(self.mover, "tune"):
            self.mover.tune(theta[one:two])
        if two + 1 < three and three + 1 < four and trials:
            if self.position in (two, three):
                self.mover.settings |= trials[(self.position == three)]
            elif self.position == four:
                better = better_schedule(
                    theta[two:three], theta[three:four],
                    self.trace.cost[two:three].mean(), self.trace.cost[three:four].mean(),
                )  # fmt: skip
                self.mover.settings |= trials[better]
        if self.position == four and hasattr(self.model, "end_warmup"):
            self.model.end_warmup()

    def to_dict(self) -> dict[str, Any]:
        """All that is needed to go on, in arrays, numbers, strings and dicts."""
        return {
            "position": self.position,
            "rng": self.rng.bit_generator.state,
            "state": vars(self.state),
            "trace": vars(self.trace),
            "coldest": self.coldest,
            "settings": getattr(self.mover, "settings", {}),
            "model": getattr(self.model, "chain_state", {}),
        }

    @classmethod
    def from_dict(cls, plan: Plan, kept: dict[str, Any]) -> Chain:
        """The chain that `to_dict` described."""
        chain = cls.__new__(cls)
        chain._build(plan)
        chain.position, chain.coldest = kept["position"], kept["coldest"]
        bits = getattr(np.random, kept["rng"]["bit_generator"])()
        bits.state = kept["rng"]
        chain.rng = np.random.Generator(bits)
        chain.state = ChainState(**_writeable(kept["state"]))
        chain.trace = Trace(**_writeable(kept["trace"]))
        if kept["settings"]:
            chain.mover.settings = dict(kept["settings"])
        if kept["model"]:
            chain.model.chain_state = _writeable(kept["model"])
        return chain


def _writeable(values: dict[str, Any]) -> dict[str, Any]:
    """Copies of the arrays that joblib has handed over read-only."""
    return {
        name: np.array(v) if isinstance(v, np.ndarray) and not v.flags.writeable else v
        for name, v in values.items()
    }


def first_inverse_temperature(kernel, state: ChainState, release: Array) -> float:
    """The power of the release's density to start with: below 1 only for Gaussian noise far from the release."""
    log_eta = getattr(kernel, "log_eta", None) or getattr(
        getattr(kernel, "plain", None), "log_eta", None
    )
    if log_eta is None or not log_eta.is_separable:
        return 1.0
    power = log_eta.compiled.constants[: len(release)]
    distance = -log_eta.shifted(release, state.S)
    return 1.0 if (power == 1).all() else float(min(1.0, 2.0 * len(release) / max(distance, 1e-12)))


def better_schedule(first: Array, second: Array, first_cost: float, second_cost: float) -> int:
    """0 or 1: under which of two schedules theta moves further for its cost.

    Compares expected squared jumps of standardised parameters from sweep to sweep, over the cost of a sweep; the slowest parameter
    counts.
    """
    spread = np.concatenate([first, second]).std(axis=0)
    moved = spread > 0
    if not moved.any():
        return int(second_cost < first_cost)
    efficiency = [
        np.min(np.mean(np.diff(theta[:, moved], axis=0) ** 2, axis=0) / spread[moved] ** 2) / cost
        for theta, cost in ((first, first_cost), (second, second_cost))
    ]
    return int(efficiency[1] > efficiency[0])


def check_integer_totals(mechanism: Mechanism, state: ChainState) -> None:
    """Discrete noise has no density at totals that are no integers."""
    if getattr(mechanism, "discrete", False) and (state.t != np.rint(state.t)).any():
        raise ValueError(
            f"{type(mechanism).__name__} adds integer noise, but the model's statistic is not an integer; "
            "take Laplace or Gaussian, or a statistic that counts"
        )


# --- many chains --------------------------------------------------------------------------------------


def run_chains(
    plan: Plan,
    n_chains: int,
    *,
    random_state: RandomState = None,
    n_jobs: int | None = None,
    progress: bool | str = "auto",
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> list[Chain]:
    """Run chains to their end.

    Parameters
    ----------
    plan : Plan
        With `init` of shape (n_chains, k) or None.
    n_chains : int
    random_state, n_jobs, progress, checkpoint_dir
        As `statml.parallel.parallel_map` takes them. In the folder there is a file a chain, written anew every few seconds.

    Returns
    -------
    list of Chain
    """
    folder, fingerprint = None, ""
    if checkpoint_dir is None:
        seeds = parallel.spawn_seeds(random_state, n_chains)
    else:
        folder = Path(checkpoint_dir).absolute()
        seeds, fingerprint = parallel._open_checkpoint(
            folder, run_chains, [fingerprint_of(plan)] * n_chains, random_state, "chains"
        )
    chains = [_start_or_load(plan, k, seed, folder, fingerprint) for k, seed in enumerate(seeds)]
    n_sweeps, last_written = FIRST_ROUND, time.monotonic()
    with tqdm(
        total=n_chains * plan.n_sweeps,
        initial=sum(chain.position for chain in chains),
        desc="sweeps",
        delay=parallel.PROGRESS_AFTER if progress == "auto" else 0,
        disable={True: False, False: True, "auto": None}[progress],  # None: only on a terminal
    ) as bar:
        while any(chain.position < plan.n_sweeps for chain in chains):
            started = time.monotonic()
            before = sum(chain.position for chain in chains)
            if n_jobs in (None, 1):
                for chain in chains:
                    chain.advance(n_sweeps)
            else:
                kept = parallel.parallel_map(
                    partial(_advance, plan, n_sweeps),
                    [chain.to_dict() for chain in chains],
                    random_state=0,  # not used: every chain brings its generator
                    n_jobs=n_jobs,
                    progress=False,
                )
                chains = [Chain.from_dict(plan, one) for one in kept]
            bar.update(sum(chain.position for chain in chains) - before)
            now = time.monotonic()
            n_sweeps = int(n_sweeps * np.clip(SECONDS_A_ROUND / max(now - started, 1e-9), 0.25, 10))
            n_sweeps = max(n_sweeps, 1)
            done = all(chain.position == plan.n_sweeps for chain in chains)
            if folder is not None and (done or now - last_written >= CHECKPOINT_EVERY):
                for k, chain in enumerate(chains):
                    parallel._write(
                        parallel._file(folder, k),
                        parallel._packed(chain.to_dict(), fingerprint, k),
                    )
                last_written = now
    return chains


def _advance(plan: Plan, n_sweeps: int, kept: dict[str, Any], _rng) -> dict[str, Any]:
    chain = Chain.from_dict(plan, kept)
    chain.advance(n_sweeps)
    return chain.to_dict()


def _start_or_load(plan: Plan, k: int, seed, folder: Path | None, fingerprint: str) -> Chain:
    if folder is not None:
        kept = parallel._load(parallel._file(folder, k), fingerprint, k)
        if kept is not None:
            return Chain.from_dict(plan, kept[0])
    theta = None if plan.init is None else plan.init[k]
    return Chain(plan, np.random.default_rng(seed), theta)


def fingerprint_of(plan: Plan) -> str:
    """What tells one run from another in `checkpoint_dir`.

    Functions and objects that cannot be pickled count by their type and name alone.
    """

    def plain(value: Any) -> Any:
        try:
            return joblib.hash(value)
        except Exception:  # pickling raises nearly anything
            inside = sorted(getattr(value, "__dict__", {}).items())
            name = getattr(value, "__qualname__", type(value).__qualname__)
            return [name, [(key, plain(v)) for key, v in inside]]

    return joblib.hash([(name, plain(value)) for name, value in vars(plan).items()])
