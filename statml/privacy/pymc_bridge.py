r"""PyMC models as data models.

`PyMCModel` makes a data model for `PrivatePosterior` of a PyMC model in which the confidential records are a free variable: priors
and records are drawn by PyMC, and theta given complete records moves by a step that leaves

.. math:: p(\theta \mid x) \propto p(\theta) \prod_i f(x_i \mid \theta)

invariant, on PyMC's unconstrained scale (`theta_steps`). `RecordSweepStep` (`record_sweep`) is the other way round: PyMC's own
sampler moves theta, and the step moves the records given theta and the release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._validation import check_choice, check_integer
from .protocols import Array
from .theta_steps import hamiltonian_step, slice_rounds, untuned

try:
    import pymc as pm
    import pytensor
    from pymc.pytensorf import join_nonshared_inputs, reseed_rngs
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "PyMCModel and RecordSweepStep need PyMC: pip install 'statml[privacy]', or pip install pymc"
    ) from error

MODE = "NUMBA"  # compiles in seconds and needs no C compiler
_COMPILED: dict[tuple[str, int], _Compiled] = {}  # of this process


class PyMCModel:
    """A data model written in PyMC.

    Parameters
    ----------
    build : callable
        ``(n) -> pm.Model`` of n records: a free variable named `records` whose first axis is the record; every other free variable
        is a parameter. Records must be independent given the parameters. No observed variable, no potential: the
        release comes in by the mechanism.
    records : str, default="x"
        Name of the variable that holds the records.
    n_steps : int, default=5
        Leapfrog steps of a trajectory, or rounds of slices, in a sweep.
    step : {"hmc", "slice"}, default="hmc"
        How theta moves given complete records: Hamiltonian Monte Carlo, or a slice for each coordinate in turn (no gradients).
    statistic : callable or None, default=None
        ``(x of shape (n, d)) -> (n, m)``, of numpy arrays: what was summed for the release. None: the records themselves.
    statistic_names : list of m str or None, default=None
        None: ``S[0]``, ``S[1]``, ...

    Attributes
    ----------
    parameter_names, statistic_names : list of str

    Notes
    -----
    Parameters are on their natural scale. Per-record latent variables are no parameters: sum or integrate them out. Everything is
    compiled for the one number of records that is known, so that `n_prior` is refused.

    Examples
    --------
    >>> import pymc as pm
    >>> from statml.privacy import models
    >>> def build(n):
    ...     with pm.Model() as model:
    ...         mu = pm.Normal("mu", 0, 2)
    ...         pm.Normal("x", mu, 1, shape=n)
    ...     return model
    >>> model = models.PyMCModel(build, statistic=lambda x: x / len(x), statistic_names=["mean"])
    >>> model.parameter_names
    ['mu']
    >>> import numpy as np
    >>> model.sample_prior(np.random.default_rng(0)).shape
    (1,)
    """

    one_n_only = True

    def __init__(
        self,
        build: Callable[[int], Any],
        records: str = "x",
        n_steps: int = 5,
        step: str = "hmc",
        statistic: Callable[[Array], ArrayLike] | None = None,
        statistic_names: list[str] | None = None,
    ):
        if not callable(build):
            raise TypeError(f"build must be a function of n, got {type(build).__name__}")
        if statistic is not None and not callable(statistic):
            raise TypeError(f"statistic must be callable or None, got {type(statistic).__name__}")
        self.build = build
        self.records = records
        self.n_steps = check_integer("n_steps", n_steps, 1)
        self.step = check_choice("step", step, ("hmc", "slice"))
        self.statistic_function = statistic
        graph = _Graph(build, records, 2, self.step)
        self.parameter_names = graph.names
        if statistic_names is None:
            x = np.zeros(graph.record_shape)  # of two records
            shape = np.shape(self.statistic(x.reshape(len(x), -1)))
            statistic_names = [f"S[{j}]" for j in range(shape[1])]
        self.statistic_names = list(statistic_names)
        self.chain_state: dict[str, Any] = untuned(graph.n_unconstrained)

    # --- the protocol -------------------------------------------------------------------------------

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """Parameters from their prior, shape (k,)."""
        return self._compiled(2).draw_prior(rng)

    def sample_records(self, theta: Array, n: int, rng: np.random.Generator) -> Array:
        """n records given theta, shape (n, d)."""
        return self._compiled(n).draw_records(theta, rng)

    def statistic(self, x: Array) -> Array:
        """The statistic of every record, shape (n, m)."""
        if self.statistic_function is None:
            return x
        t = np.asarray(self.statistic_function(x), dtype=float)
        if t.ndim != 2 or len(t) != len(x):
            raise ValueError(
                f"statistic must give one row for each of {len(x)} records, got shape {t.shape}"
            )
        return t

    def draw_posterior(self, x: Array, theta: Array, rng: np.random.Generator) -> Array:
        """The next theta given complete records: one trajectory, or `n_steps` rounds of slices."""
        compiled, state = self._compiled(len(x)), self.chain_state
        q = compiled.to_unconstrained(theta)
        target = compiled.target(x)
        if self.step == "hmc":
            q = hamiltonian_step(target, q, self.n_steps, state, rng)
        else:
            q = slice_rounds(lambda q: target(q)[0], q, self.n_steps, state, rng)
        return compiled.to_natural(q)

    def end_warmup(self) -> None:
        """Freeze the tuning."""
        self.chain_state["frozen"] = 1
        if self.step == "hmc" and self.chain_state["n_adapted"]:
            self.chain_state["log_size"] = self.chain_state["mean_log_size"]

    # --- compilation --------------------------------------------------------------------------------

    def _compiled(self, n: int) -> _Compiled:
        """Compiled functions for n records, shared by the chains of this process."""
        import cloudpickle  # which PyMC brings

        if not hasattr(self, "_key"):
            code = cloudpickle.dumps((self.build, self.records, self.step))
            self._key = hashlib.sha256(code).hexdigest()
        key = (self._key, n)
        if key not in _COMPILED:
            graph = _Graph(self.build, self.records, n, self.step)
            if graph.names != self.parameter_names:
                raise ValueError(
                    f"build: the parameters of {n} records ({len(graph.names)} numbers) are not those of two records "
                    f"({len(self.parameter_names)}): sum or integrate per-record latent variables out"
                )
            _COMPILED[key] = _Compiled(graph)
        return _COMPILED[key]

    def __getstate__(self) -> dict[str, Any]:
        # so that a checkpoint is recognised in another process
        return {name: value for name, value in self.__dict__.items() if name != "_key"}


class _Graph:
    """The PyMC model, checked and taken apart."""

    def __init__(self, build: Callable, records: str, n: int, step: str):
        model = build(n)
        if not isinstance(model, pm.Model):
            raise TypeError(f"build must return a pm.Model, got {type(model).__name__}")
        free = {rv.name: rv for rv in model.free_RVs}
        if records not in free:
            raise ValueError(
                f"records must name a free variable of the PyMC model, got {records!r}; there are {', '.join(free) or 'none'}"
            )
        if model.observed_RVs or model.potentials:
            names = ", ".join(v.name for v in [*model.observed_RVs, *model.potentials])
            raise ValueError(
                f"build: the model must have no observed variables and no potentials, got {names}; the release comes in by the mechanism"
            )
        self.x = free.pop(records)
        if not free:
            raise ValueError(f"build: the model has no parameters beside {records!r}")
        self.model, self.theta = model, list(free.values())
        shapes = _shapes(model, [*self.theta, self.x])
        self.record_shape = shapes.pop()
        self.shapes = shapes
        if not self.record_shape or self.record_shape[0] != n:
            raise ValueError(
                f"the first axis of {records!r} must be the record: for n={n} its shape is {self.record_shape}"
            )
        discrete = [rv.name for rv in self.theta if rv.dtype not in pm.continuous_types]
        if discrete:
            raise ValueError(
                f"build: parameters must be continuous, but {', '.join(discrete)} is discrete; sum it out"
            )
        self.names = [
            name for rv, shape in zip(self.theta, shapes, strict=True) for name in _names(rv, shape)
        ]
        values = [model.rvs_to_values[rv] for rv in self.theta]
        start = model.initial_point()
        self.start = {v.name: np.asarray(start[v.name], dtype=float) for v in values}
        self.values = values
        self.n_unconstrained = sum(v.size for v in self.start.values())


def _shapes(model, variables) -> list[tuple[int, ...]]:
    static = [rv.type.shape for rv in variables]
    if all(None not in shape for shape in static):
        return [tuple(int(size) for size in shape) for shape in static]
    shapes = model.eval_rv_shapes()
    return [tuple(int(size) for size in shapes[rv.name]) for rv in variables]


def _names(rv, shape: tuple[int, ...]) -> list[str]:
    return [
        rv.name + (f"[{','.join(map(str, index))}]" if index else "")
        for index in np.ndindex(*shape)
    ]


class _Compiled:
    """Numba functions of one PyMC model with n records, each compiled at its first use."""

    def __init__(self, graph: _Graph):
        self.graph, self.shapes, self.record_shape = graph, graph.shapes, graph.record_shape
        self.sizes = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        self.x_dtype = graph.x.dtype

    @cached_property
    def _prior(self):
        return compile_function(self.graph.model, [], self.graph.theta)

    @cached_property
    def _records(self):
        return compile_function(self.graph.model, self.graph.theta, self.graph.x)

    @cached_property
    def _forward(self):
        model, theta = self.graph.model, self.graph.theta
        values = [unconstrained(model, rv, rv) for rv in theta]
        return compile_function(model, theta, values)

    @cached_property
    def _target_and_natural(self):
        model, theta, x = self.graph.model, self.graph.theta, self.graph.x
        x_in = x.type(f"{x.name}_given")
        with model:
            log_f = model.replace_rvs_by_values([pm.logp(x, x_in).sum()])[0]
            log_p = model.logp(vars=theta) + log_f
            natural = model.replace_rvs_by_values(theta)
        (log_p, *natural), q = join_nonshared_inputs(
            self.graph.start, [log_p, *natural], self.graph.values
        )
        return (
            compile_function(model, [q, x_in], [log_p, pytensor.grad(log_p, q)]),
            compile_function(model, [q], natural),
        )

    def draw_prior(self, rng: np.random.Generator) -> Array:
        reseed(self._prior, rng)
        return _flat(self._prior())

    def draw_records(self, theta: Array, rng: np.random.Generator) -> Array:
        reseed(self._records, rng)
        x = np.asarray(self._records(*self._split(theta)), dtype=float)
        return np.ascontiguousarray(x.reshape(len(x), -1))

    def to_unconstrained(self, theta: Array) -> Array:
        return _flat(self._forward(*self._split(theta)))

    def to_natural(self, q: Array) -> Array:
        return _flat(self._target_and_natural[1](q))

    def target(self, x: Array) -> Callable[[Array], tuple[float, Array]]:
        """log p(theta, x) on the unconstrained scale and its gradient, for these records."""
        given = x.reshape(self.record_shape).astype(self.x_dtype)
        compiled = self._target_and_natural[0]

        def log_p_and_gradient(q: Array) -> tuple[float, Array]:
            value, gradient = compiled(q, given)
            return float(value), np.asarray(gradient)

        return log_p_and_gradient

    def _split(self, theta: Array) -> list[Array]:
        parts = np.split(np.asarray(theta, dtype=float), self.sizes)
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]


def compile_function(model, inputs: list, outputs):
    # "ignore": parameters that the records do not depend on are taken too
    with model:
        return pm.compile(inputs, outputs, random_seed=0, mode=MODE, on_unused_input="ignore")


def unconstrained(model, rv, value):
    """A value of a variable on PyMC's unconstrained scale, as a graph; bounds may depend on other variables."""
    transform = model.rvs_to_transforms[rv]
    return value if transform is None else transform.forward(value, *rv.owner.inputs)


def _flat(values) -> Array:
    return np.concatenate([np.ravel(v) for v in values]).astype(float)


def reseed(function, rng: np.random.Generator) -> None:
    """All randomness of a compiled function from the chain's generator."""
    reseed_rngs(_generators(function), int(rng.integers(2**63)))


def _generators(function) -> list:
    if not hasattr(function, "_statml_generators"):
        from pytensor.tensor.random.type import RandomGeneratorType

        function._statml_generators = [
            v for v in function.get_shared() if isinstance(v.type, RandomGeneratorType)
        ]
    return function._statml_generators
