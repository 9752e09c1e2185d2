r"""What would a release tell? Expected posterior width and acceptance against the privacy loss, before any release.

Simulation from the prior predictive: for k = 1, ..., n_sims

.. math:: \theta \sim p(\theta), \quad x_i \sim f(\cdot \mid \theta), \quad s \sim \eta(\cdot \mid x),

then, for each mechanism, the standard deviation of :math:`p(\theta \mid s)`, and the acceptance probability of the sampler's
record moves, :math:`\mathbb{E} \min\{1, g(s, S^*) / g(s, S)\}`. Since :math:`(\theta, x, s)` is a draw from the joint law
in which the sampler is stationary, the latter needs no Markov chain. All mechanisms see the same parameters,
records and (scaled) noise, so that their differences are sharper than each of their values.

Averaged over the prior, the posterior variance is at most the prior variance and at least that of complete data; where a row
of the table comes near the first, the release would tell nothing, and where near the second, privacy costs nothing.

Cost: n_sims posteriors a mechanism. Exact draws are used where a model has them, else `PrivatePosterior`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .._display import BLUE, GREY, PALETTE, axes, log_ticks
from .._validation import RandomState, as_seed_sequence, check_choice, check_integer
from ..parallel import parallel_map
from .kernels.exact import exact_draws, has_exact
from .protocols import Mechanism, RecordModel, UnknownSensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
N_PRIOR = 4000  # draws for the standard deviation of the prior
LEAST_ESS = 50  # of a simulated chain, below which its standard deviation is no estimate


@dataclass(frozen=True)
class ReleaseDesign:
    """What `design_release` found.

    Attributes
    ----------
    table : DataFrame
        One row a mechanism and parameter, with columns

        - ``release``: the mechanism's label; ``term``: the parameter or quantity;
        - ``epsilon``: privacy loss (NaN where it is not known, infinite for Gaussian noise);
        - ``posterior_sd``, ``std_error``: expected posterior standard deviation, and its Monte-Carlo error;
        - ``relative_to_prior``, ``relative_to_nonprivate``: its ratio to ``prior_sd`` and to ``nonprivate_sd``, the expected
          standard deviation given complete records;
        - ``acceptance``, ``acceptance_se``: expected acceptance of a record move, and its Monte-Carlo error;
        - ``acceptance_bound``: what the privacy loss alone guarantees for its average (0 where nothing is known).
    n_records, n_sims : int
    """

    table: pd.DataFrame
    n_records: int
    n_sims: int

    def tidy(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def __str__(self) -> str:
        head = f"Design of a release about {self.n_records} records, {self.n_sims} simulations"
        shown = self.table[
            [
                "release", "term", "epsilon", "posterior_sd", "relative_to_prior",
                "relative_to_nonprivate", "acceptance",
            ]
        ]  # fmt: skip
        return f"{head}\n{shown.to_string(index=False, float_format='{:.3g}'.format)}"


def design_release(
    model: RecordModel,
    mechanisms: Mapping[Hashable, Mechanism] | Sequence[Mechanism],
    n_records: int,
    *,
    theta: ArrayLike | None = None,
    quantities: Mapping[str, Callable[[Array], Array]] | None = None,
    n_sims: int = 20,
    draws: int = 1000,
    tune: int = 500,
    kernel: str = "auto",
    random_state: RandomState = None,
    n_jobs: int | None = None,
    progress: bool | str = "auto",
    checkpoint_dir: str | os.PathLike | None = None,
) -> ReleaseDesign:
    """Expected posterior width and acceptance of releases that nobody has made yet.

    Parameters
    ----------
    model : RecordModel
    mechanisms : dict or sequence of Mechanism
        The candidates; the keys of a dict label them, e.g.
        ``{eps: mechanisms.Laplace.from_epsilon(eps, sensitivity=13) for eps in (0.1, 1, 10)}``.
    n_records : int
    theta : array-like of shape (k,) or None, default=None
        Plan for these parameters. None plans for those that the prior expects.
    quantities : dict of callables or None, default=None
        What the release is to tell, in place of the parameters: names, and functions of draws of shape (size, k) to an array of
        shape (size,), e.g. ``{"difference": lambda p: p[:, 1] - p[:, 0]}``.
    n_sims : int, default=20
        Number of simulated data sets.
    draws, tune : int, default=1000, 500
        Draws kept and thrown away of each simulated posterior (one chain). Exact draws need no tuning.
    kernel : str, default="auto"
        As in `PrivatePosterior`; "auto" draws exactly where the model can.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
    n_jobs : int or None, default=None
    progress : "auto", True or False, default="auto"
    checkpoint_dir : path or None, default=None
        As in `statml.parallel.parallel_map`; one task a simulated data set.

    Returns
    -------
    ReleaseDesign

    Raises
    ------
    TypeError
        If a mechanism is none.
    ValueError
        If there are none, or a number is out of range, or `checkpoint_dir` holds another design.

    Warns
    -----
    UserWarning
        If simulated chains were too short: fewer than 50 effective draws of some parameter.

    Notes
    -----
    The standard deviation given complete records comes from the model's own ``draw_posterior``, as a chain of `draws` steps
    from the true parameters: for models whose step is no exact draw, take enough of them.

    Examples
    --------
    >>> from statml.privacy import mechanisms, models
    >>> from statml.privacy.design import design_release
    >>> model = models.NormalMean(sigma=1.0, prior_sd=2.0, bounds=None)
    >>> candidates = {sd: mechanisms.Gaussian(sd) for sd in (0.1, 1.0)}
    >>> design = design_release(model, candidates, n_records=100, n_sims=5, random_state=0)
    >>> design.table["posterior_sd"].round(1).tolist()  # exactly 0.141 and 0.894
    [0.1, 0.9]
    """
    if not isinstance(mechanisms, Mapping):
        mechanisms = {str(mechanism): mechanism for mechanism in mechanisms}
    for label, mechanism in mechanisms.items():
        if not isinstance(mechanism, Mechanism):
            raise TypeError(
                f"mechanisms must be Mechanism objects, got {type(mechanism).__name__} for {label!r}"
            )
    if not mechanisms:
        raise ValueError("mechanisms must be at least one, got none")
    n_records = check_integer("n_records", n_records, 1)
    n_sims = check_integer("n_sims", n_sims, 2)
    draws, tune = check_integer("draws", draws, 10), check_integer("tune", tune, 0)
    if theta is not None:
        theta = np.asarray(theta, dtype=float)
        if theta.shape != (len(model.parameter_names),) or not np.isfinite(theta).all():
            raise ValueError(
                f"theta must be {len(model.parameter_names)} finite numbers, in this order: "
                f"{', '.join(model.parameter_names)}; got {theta}"
            )
    functions = _functions(quantities)
    prior_seed, sims_seed = as_seed_sequence(random_state).spawn(2)
    prior_rng = np.random.default_rng(prior_seed)
    prior = np.array([model.sample_prior(prior_rng) for _ in range(N_PRIOR)])
    prior_sd = _spread(prior, functions)
    # in the tasks, so that a checkpoint knows of which design it is
    design = {
        "model": model,
        "mechanisms": list(mechanisms.values()),
        "n_records": n_records,
        "theta": theta,
        "functions": functions,
        "draws": draws,
        "tune": tune,
        "kernel": kernel,
    }
    results = parallel_map(
        _simulate_once,
        [(k, design) for k in range(n_sims)],
        random_state=sims_seed,
        n_jobs=n_jobs,
        progress=progress,
        checkpoint_dir=checkpoint_dir,
        description="simulated releases",
    )
    nonprivate_sd = np.mean([result["nonprivate_sd"] for result in results], axis=0)
    sd = np.array([result["sd"] for result in results])  # simulations, mechanisms, parameters
    acceptance = np.array([result["acceptance"] for result in results])
    short = np.sum([result["short"] for result in results])
    if short:
        warnings.warn(
            f"{short} of {n_sims * len(mechanisms)} simulated chains have fewer than {LEAST_ESS} effective draws, so that "
            "widths are too small: raise draws",
            stacklevel=2,
        )
    rows = []
    for j, (label, mechanism) in enumerate(mechanisms.items()):
        for p, term in enumerate(functions or model.parameter_names):
            mean = sd[:, j, p].mean()
            rows.append(
                {
                    "release": label,
                    "term": term,
                    "epsilon": _epsilon(mechanism),
                    "posterior_sd": mean,
                    "std_error": sd[:, j, p].std(ddof=1) / np.sqrt(n_sims),
                    "prior_sd": prior_sd[p],
                    "nonprivate_sd": nonprivate_sd[p],
                    "relative_to_prior": mean / prior_sd[p],
                    "relative_to_nonprivate": mean / nonprivate_sd[p],
                    "acceptance": acceptance[:, j].mean(),
                    "acceptance_se": acceptance[:, j].std(ddof=1) / np.sqrt(n_sims),
                    "acceptance_bound": mechanism.acceptance_bound(average=True),
                }
            )
    return ReleaseDesign(pd.DataFrame(rows), n_records, n_sims)


def expected_acceptance(
    model: RecordModel,
    mechanism: Mechanism,
    theta: Array,
    x: Array,
    release: Array,
    rng: np.random.Generator,
) -> float:
    """Mean over records of min{1, g(s, S*) / g(s, S)}, each with one proposal from f(. | theta).

    Parameters
    ----------
    model : RecordModel
    mechanism : Mechanism
    theta : ndarray of shape (k,)
    x : ndarray of shape (n, d)
        Records drawn given theta.
    release : ndarray
        Drawn given x.
    rng : Generator

    Returns
    -------
    float
    """
    t = np.asarray(mechanism.statistic(model, x, release), dtype=float)
    proposal = model.sample_records(theta, len(x), rng)
    t_new = np.asarray(mechanism.statistic(model, proposal, release), dtype=float)
    S = t.sum(axis=0)
    log_ratio = mechanism.log_density(release, S - t + t_new) - mechanism.log_density(release, S)
    return float(np.exp(np.minimum(log_ratio, 0)).mean())


def _simulate_once(task: tuple[int, dict], rng: np.random.Generator) -> dict[str, Array]:
    _, design = task
    model, n_records, draws = design["model"], design["n_records"], design["draws"]
    theta = model.sample_prior(rng) if design["theta"] is None else design["theta"]
    x = model.sample_records(theta, n_records, rng)
    step, chain = theta, np.empty((draws, len(theta)))
    for i in range(draws):
        chain[i] = step = model.draw_posterior(x, step, rng)
    noise_seed, move_seed, chain_seed = as_seed_sequence(rng).spawn(3)
    sd, acceptance, short = [], [], 0
    for mechanism in design["mechanisms"]:
        s = mechanism.simulate(model, x, np.random.default_rng(noise_seed))
        release = mechanism.check_release(s, model.statistic_names, n_records)
        sample, rate, ess = _posterior(mechanism, s, release, chain_seed, design)
        short += ess < LEAST_ESS
        if getattr(model, "additive", True):
            rate = expected_acceptance(
                model, mechanism, theta, x, release, np.random.default_rng(move_seed)
            )
        sd.append(_spread(sample, design["functions"]))
        acceptance.append(rate)
    return {
        "nonprivate_sd": _spread(chain, design["functions"]),
        "sd": np.array(sd),
        "acceptance": np.array(acceptance),
        "short": int(short),
    }


def _posterior(
    mechanism: Mechanism, s: Array, release: Array, seed: np.random.SeedSequence, design: dict
) -> tuple[Array, float, float]:
    """Draws of theta; the acceptance rate where a chain was run; the least effective number of draws."""
    model, n_records, draws = design["model"], design["n_records"], design["draws"]
    if design["kernel"] in ("auto", "exact") and has_exact(model, mechanism, release, n_records):
        rng = np.random.default_rng(seed)
        return exact_draws(model, mechanism, release, n_records, draws, rng), np.nan, np.inf
    from .posterior import PrivatePosterior

    posterior = PrivatePosterior(
        model,
        mechanism,
        n_records,
        draws=draws,
        tune=design["tune"],
        chains=1,
        kernel=design["kernel"],
        random_state=seed,
        progress=False,
    )
    with warnings.catch_warnings():
        # one short chain a data set is meant; those that are too short are counted
        warnings.simplefilter("ignore", UserWarning)
        posterior.fit(s)
    theta = posterior.draws_of().to_numpy()
    ess = posterior.diagnostics_["ess_bulk"].to_numpy()[: theta.shape[1]]
    return theta, float(posterior.acceptance_rate_), float(np.min(ess))


def _functions(quantities) -> dict[str, Callable[[Array], Array]] | None:
    if quantities is None:
        return None
    functions = dict(quantities)
    if not functions or not all(callable(f) for f in functions.values()):
        raise TypeError(f"quantities must be a dict of functions, got {quantities!r}")
    return functions


def _spread(theta: Array, functions: dict[str, Callable[[Array], Array]] | None) -> Array:
    """Standard deviations of the parameters, or of the quantities made of them."""
    if functions is None:
        return theta.std(axis=0)
    values = {name: np.asarray(f(theta), dtype=float) for name, f in functions.items()}
    for name, value in values.items():
        if value.shape != (len(theta),):
            raise ValueError(
                f"quantities[{name!r}] must give an array of shape ({len(theta)},), got {value.shape}"
            )
    return np.array([value.std() for value in values.values()])


def _epsilon(mechanism: Mechanism) -> float:
    try:
        return mechanism.epsilon()
    except (NotImplementedError, UnknownSensitivity):
        return np.nan


class ReleaseDesignDisplay:
    """Expected posterior width, or acceptance, against the privacy loss.

    Parameters
    ----------
    design : ReleaseDesign
    quantity : {"posterior_sd", "acceptance"}

    Examples
    --------
    >>> from statml.privacy import mechanisms, models
    >>> from statml.privacy.design import ReleaseDesignDisplay, design_release
    >>> model = models.NormalMean(sigma=1.0, prior_sd=2.0)
    >>> candidates = {e: mechanisms.Laplace.from_epsilon(e, sensitivity=0.1) for e in (0.1, 1, 10)}
    >>> design = design_release(model, candidates, n_records=100, n_sims=3, random_state=0)
    >>> ReleaseDesignDisplay.from_design(design).ax_.get_ylabel()
    'expected posterior sd'
    """

    def __init__(self, design: ReleaseDesign, quantity: str = "posterior_sd"):
        self.design = design
        self.quantity = quantity

    @classmethod
    def from_design(
        cls, design: ReleaseDesign, quantity: str = "posterior_sd", ax: Axes | None = None
    ) -> ReleaseDesignDisplay:
        """Draw a design.

        Parameters
        ----------
        design : ReleaseDesign
        quantity : {"posterior_sd", "acceptance"}, default="posterior_sd"
        ax : matplotlib Axes or None, default=None
        """
        check_choice("quantity", quantity, ("posterior_sd", "acceptance"))
        return cls(design, quantity).plot(ax)

    def plot(self, ax: Axes | None = None) -> ReleaseDesignDisplay:
        """Draw; the axes are kept as ``ax_``, and the figure as ``figure_``."""
        self.ax_ = ax = axes(ax, figsize=(6, 4))
        self.figure_ = ax.figure
        table = self.design.table
        epsilon = table["epsilon"].to_numpy()
        on_scale = (
            np.isfinite(epsilon).all() and len(np.unique(epsilon)) == table["release"].nunique()
        )
        labels = list(dict.fromkeys(table["release"]))
        position = epsilon if on_scale else table["release"].map(labels.index).to_numpy()
        if self.quantity == "posterior_sd":
            for k, (term, rows) in enumerate(table.groupby("term", sort=False)):
                colour, at = PALETTE[k % len(PALETTE)], position[rows.index]
                ax.errorbar(
                    at, rows["posterior_sd"], yerr=1.96 * rows["std_error"], color=colour,
                    marker="o", markersize=4, capsize=2, label=term,
                )  # fmt: skip
                ax.axhline(rows["nonprivate_sd"].iloc[0], color=colour, linestyle="--", linewidth=1)
                ax.axhline(rows["prior_sd"].iloc[0], color=colour, linestyle=":", linewidth=1)
            ax.plot([], [], color=GREY, linestyle=":", label="prior")
            ax.plot([], [], color=GREY, linestyle="--", label="complete records")
            ax.set_ylabel("expected posterior sd")
            ax.set_ylim(bottom=0)
        else:
            first = table.drop_duplicates("release")
            at = position[first.index]
            ax.errorbar(
                at, first["acceptance"], yerr=1.96 * first["acceptance_se"], color=BLUE,
                marker="o", markersize=4, capsize=2, label="expected",
            )  # fmt: skip
            ax.plot(at, first["acceptance_bound"], color=GREY, linestyle="--", label="guaranteed")
            ax.set_ylabel("acceptance of a record move")
            ax.set_ylim(0, 1.03)
        if on_scale:
            ax.set_xscale("log")
            log_ticks(ax.xaxis)
            ax.set_xlabel("privacy loss epsilon")
        else:
            ax.set_xticks(range(len(labels)), [str(label) for label in labels])
            ax.set_xlabel("release")
        ax.legend(frameon=False)
        return self
