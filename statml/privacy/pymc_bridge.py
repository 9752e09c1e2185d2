r"""PyMC models as data models, and record sweeps inside ``pm.sample``.

`PyMCModel` makes a data model for `PrivatePosterior` of a PyMC model in which the confidential records are a free variable: priors
and records are drawn by PyMC, and theta given complete records moves by a step that leaves

.. math:: p(\theta \mid x) \propto p(\theta) \prod_i f(x_i \mid \theta)

invariant, on PyMC's unconstrained scale: Hamiltonian Monte Carlo of fixed length, or slices. `RecordSweepStep` is the other way
round: PyMC's own sampler moves theta, and this step moves the records given theta and the release.

A step must cost little, since it is taken in every sweep: a trajectory has a few leapfrog steps [1]_. The step size (dual
averaging towards 80 % acceptance [2]_) and a diagonal metric are tuned in warm-up and then frozen. The metric is the mean square of
the gradients that the chain sees, which at stationarity is the mean precision of :math:`p(\theta \mid x)`: the spread of the chain
itself would not do, since theta given the release is far wider than theta given records.

References
----------
.. [1] R. M. Neal (2011). MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo.
.. [2] M. D. Hoffman, A. Gelman (2014). The no-U-turn sampler. JMLR 15. Section 3.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._validation import check_choice, check_integer
from .kernels.chain import LogEta, accept_records, as_matrix
from .protocols import Array, Mechanism

try:
    import pymc as pm
    import pytensor
    from pymc.pytensorf import join_nonshared_inputs, reseed_rngs
    from pymc.step_methods.compound import BlockedStep, StepMethodState
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "PyMCModel and RecordSweepStep need PyMC: pip install 'statml[privacy]', or pip install pymc"
    ) from error

MODE = "NUMBA"  # compiles in seconds and needs no C compiler
TARGET_ACCEPTANCE = 0.8
JITTER = 0.2  # of the step size, against trajectories that return to where they began
FIRST_METRIC = 50  # steps before the metric is set; then after twice as many, and so on
MOST_SLICE_STEPS = 50
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
        self.chain_state: dict[str, Any] = _untuned(graph.n_unconstrained)

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
        return _compile(self.graph.model, [], self.graph.theta)

    @cached_property
    def _records(self):
        return _compile(self.graph.model, self.graph.theta, self.graph.x)

    @cached_property
    def _forward(self):
        model, theta = self.graph.model, self.graph.theta
        values = [_transformed(model, rv, rv) for rv in theta]
        return _compile(model, theta, values)

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
            _compile(model, [q, x_in], [log_p, pytensor.grad(log_p, q)]),
            _compile(model, [q], natural),
        )

    def draw_prior(self, rng: np.random.Generator) -> Array:
        _reseed(self._prior, rng)
        return _flat(self._prior())

    def draw_records(self, theta: Array, rng: np.random.Generator) -> Array:
        _reseed(self._records, rng)
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


def _compile(model, inputs: list, outputs):
    # "ignore": parameters that the records do not depend on are taken too
    with model:
        return pm.compile(inputs, outputs, random_seed=0, mode=MODE, on_unused_input="ignore")


def _transformed(model, rv, value):
    """A value of a variable on PyMC's unconstrained scale, as a graph; bounds may depend on other variables."""
    transform = model.rvs_to_transforms[rv]
    return value if transform is None else transform.forward(value, *rv.owner.inputs)


def _flat(values) -> Array:
    return np.concatenate([np.ravel(v) for v in values]).astype(float)


def _reseed(function, rng: np.random.Generator) -> None:
    """All randomness of a compiled function from the chain's generator."""
    reseed_rngs(_generators(function), int(rng.integers(2**63)))


def _generators(function) -> list:
    if not hasattr(function, "_statml_generators"):
        from pytensor.tensor.random.type import RandomGeneratorType

        function._statml_generators = [
            v for v in function.get_shared() if isinstance(v.type, RandomGeneratorType)
        ]
    return function._statml_generators


# --- theta given records ------------------------------------------------------------------------------


def _untuned(k: int) -> dict[str, Any]:
    """The tuning of a chain before it starts: numbers and arrays, which a checkpoint keeps."""
    return {
        "frozen": 0,
        "scale": np.ones(k),  # of q: the metric is diag(scale^-2)
        "log_size": 0.0,
        "mean_log_size": 0.0,
        "error": 0.0,
        "n_adapted": 0,
        "centre": 0.0,
        "squares": np.zeros(k),
        "n_squares": 0,
        "window": FIRST_METRIC,
    }


def hamiltonian_step(
    target: Callable[[Array], tuple[float, Array]],
    q: Array,
    n_steps: int,
    state: dict[str, Any],
    rng: np.random.Generator,
) -> Array:
    """One trajectory of `n_steps` leapfrog steps, and the tuning that it teaches while warm-up lasts.

    Parameters
    ----------
    target : callable
        q -> (log density, gradient).
    q : ndarray of shape (k,)
    n_steps : int
    state : dict
        As `_untuned` makes it; changed in place until it is frozen.
    rng : Generator

    Returns
    -------
    ndarray of shape (k,)
    """
    scale = state["scale"]
    size = np.exp(state["log_size"]) * (1 + JITTER * (2 * rng.random() - 1))
    momentum, threshold = rng.standard_normal(len(q)), -rng.standard_exponential()
    log_p, gradient = target(q)
    if not np.isfinite(log_p):
        raise ValueError(
            f"the PyMC model has log density {log_p} at parameters and records that it drew itself"
        )
    if not state["frozen"]:
        state["squares"] = state["squares"] + gradient**2
        state["n_squares"] += 1
    start, energy = q, log_p - 0.5 * momentum @ momentum
    with np.errstate(over="ignore", invalid="ignore"):  # a trajectory may diverge; it is refused
        for _ in range(n_steps):
            momentum = momentum + 0.5 * size * scale * gradient
            q = q + size * scale * momentum
            log_p, gradient = target(q)
            momentum = momentum + 0.5 * size * scale * gradient
        change = log_p - 0.5 * momentum @ momentum - energy
    acceptance = np.exp(min(change, 0.0)) if np.isfinite(change) else 0.0
    if not state["frozen"]:
        _tune(state, acceptance)
    return q if np.isfinite(change) and change > threshold else start


def _tune(state: dict[str, Any], acceptance: float) -> None:
    """Dual averaging of the step size (Hoffman and Gelman, Algorithm 5), and now and then a new metric."""
    state["n_adapted"] += 1
    m = state["n_adapted"]
    state["error"] += (TARGET_ACCEPTANCE - acceptance - state["error"]) / (m + 10)
    state["log_size"] = state["centre"] - np.sqrt(m) / 0.05 * state["error"]
    weight = m**-0.75
    state["mean_log_size"] += weight * (state["log_size"] - state["mean_log_size"])
    if state["n_squares"] >= state["window"]:
        precision = state["squares"] / state["n_squares"]
        known = precision > 0
        state["scale"] = np.where(known, 1 / np.sqrt(np.where(known, precision, 1.0)), 1.0)
        state["squares"], state["n_squares"] = np.zeros_like(precision), 0
        state["window"] *= 2
        # on the new scale the best step is of order one
        state.update(log_size=0.0, mean_log_size=0.0, error=0.0, n_adapted=0, centre=0.0)


def slice_rounds(
    log_density: Callable[[Array], float],
    q: Array,
    n_rounds: int,
    state: dict[str, Any],
    rng: np.random.Generator,
) -> Array:
    """Rounds of slices, one coordinate after another (Neal 2003, Figures 3 and 5); widths are tuned until they are frozen."""
    q = q.copy()
    here = log_density(q)
    for _ in range(n_rounds):
        for j in range(len(q)):
            level, at = here - rng.standard_exponential(), q[j]
            width = state["scale"][j]
            low = at - width * rng.random()
            high = low + width
            n_left = int(MOST_SLICE_STEPS * rng.random())

            def value(point: float, j: int = j) -> float:
                q[j] = point
                return log_density(q)

            for _ in range(n_left):
                if not value(low) > level:
                    break
                low -= width
            for _ in range(MOST_SLICE_STEPS - 1 - n_left):
                if not value(high) > level:
                    break
                high += width
            widest = high - low
            while True:
                point = low + (high - low) * rng.random()
                density = value(point)
                if density > level or point == at:
                    break
                low, high = (point, high) if point < at else (low, point)
            here = density
            if not state["frozen"]:
                state["n_adapted"] += 1
                state["scale"] = state["scale"].copy()
                state["scale"][j] += (widest / 2 - width) / np.sqrt(state["n_adapted"] + 1)
    return q


# --- records given theta, inside pm.sample ----------------------------------------------------------------


class RecordSweepStep(BlockedStep):
    """The record sweep as a step for ``pm.sample``: latent records given all else and the release.

    Proposals for every record come from the PyMC model given the other variables; each is accepted by the ratio of the mechanism's
    density, one after another. All other variables keep the samplers that PyMC gives them.

    Parameters
    ----------
    vars : variable
        The free variable that holds the records; its first axis is the record. Records must be independent given the other
        variables.
    statistic : callable
        ``(x of shape (n, d)) -> (n, m)``: what was summed for the release.
    mechanism : Mechanism
    release : array-like of shape (m,)
    model : pm.Model or None, default=None
        None takes that of the context.
    rng, blocked
        As PyMC passes them.

    Notes
    -----
    The sampler statistics are ``accept_rate`` and ``log_eta``. The model itself must not know the release.

    Examples
    --------
    >>> import pymc as pm
    >>> from statml.privacy import RecordSweepStep, mechanisms
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0, 2)
    ...     x = pm.Normal("x", mu, 1, shape=20)
    ...     step = RecordSweepStep(x, lambda x: x / len(x), mechanisms.Gaussian(0.5), [1.5])
    ...     idata = pm.sample(step=step)  # doctest: +SKIP
    """

    name = "record_sweep"
    _state_class = StepMethodState
    stats_dtypes_shapes = {  # noqa: RUF012
        "accept_rate": (np.float64, []),
        "log_eta": (np.float64, []),
    }

    def __init__(
        self,
        vars: Any,
        statistic: Callable[[Array], ArrayLike],
        mechanism: Mechanism,
        release: ArrayLike,
        *,
        model: Any = None,
        blocked: bool = True,
        rng: Any = None,
    ):
        variables = list(vars) if isinstance(vars, (list, tuple)) else [vars]
        if len(variables) != 1:
            raise ValueError(
                f"vars must be the one variable that holds the records, got {variables}"
            )
        if not isinstance(mechanism, Mechanism):
            raise TypeError(f"mechanism must be a Mechanism, got {type(mechanism).__name__}")
        if not callable(statistic):
            raise TypeError(f"statistic must be callable, got {type(statistic).__name__}")
        model = pm.modelcontext(model)
        x = model.values_to_rvs.get(variables[0], variables[0])
        if x not in model.free_RVs:
            raise ValueError(f"vars must be a free variable of the model, got {variables[0]}")
        self.vars = [model.rvs_to_values[x]]
        self.var_names = tuple(v.name for v in self.vars)
        self.rng = pm.util.get_random_generator(rng)
        others = [rv for rv in model.free_RVs if rv is not x]
        values = [model.rvs_to_values[rv] for rv in others]
        self._others = [v.name for v in values]
        given = x.type("given")
        self._natural = _compile(
            model, [*values, *self.vars], model.replace_rvs_by_values([*others, x])
        )
        self._records = _compile(model, others, x)
        self._back = _compile(model, [given, *others], _transformed(model, x, given))
        self.mechanism = mechanism
        self._statistic = _Statistic(statistic)
        _, x, _ = self._draw(model.initial_point())
        t = self._statistic.statistic(_rows(x))
        names = [f"S[{j}]" for j in range(t.shape[1])]
        self._statistic.statistic_names = names
        self.release = mechanism.check_release(release, names, len(t))
        self._log_eta = LogEta(mechanism, self._statistic)

    def step(self, point: dict[str, Array]) -> tuple[dict[str, Array], list[dict[str, float]]]:
        """One sweep over the records."""
        others, x, x_new = self._draw(point)
        t = self._t(_rows(x))
        S = t.sum(axis=0)
        accepted, _, log_eta = accept_records(
            self._log_eta, self.release, t, self._t(_rows(x_new)), S,
            float(self.mechanism.log_density(self.release, S)), 1.0, self.rng,
        )  # fmt: skip
        x = x.copy()
        x[accepted] = x_new[accepted]
        stats = {"accept_rate": float(accepted.mean()), "log_eta": float(log_eta)}
        return {**point, self.var_names[0]: np.asarray(self._back(x, *others))}, [stats]

    def _draw(self, point: dict[str, Array]) -> tuple[list[Array], Array, Array]:
        """The other variables, the records and new ones, on their natural scale."""
        *others, x = self._natural(*(point[name] for name in [*self._others, *self.var_names]))
        _reseed(self._records, self.rng)
        return others, np.asarray(x), np.asarray(self._records(*others))

    def _t(self, x: Array) -> Array:
        return as_matrix(self.mechanism.statistic(self._statistic, x, self.release))


class _Statistic:
    """As much of a data model as mechanisms look at."""

    def __init__(self, function: Callable[[Array], ArrayLike]):
        self.function = function
        self.statistic_names: list[str] = []

    def statistic(self, x: Array) -> Array:
        t = np.asarray(self.function(x), dtype=float)
        if t.ndim != 2 or len(t) != len(x):
            raise ValueError(
                f"statistic must give one row for each of {len(x)} records, got shape {t.shape}"
            )
        return t


def _rows(x: Any) -> Array:
    x = np.asarray(x, dtype=float)
    return x.reshape(len(x), -1)
