"""From traces of chains to ArviZ's InferenceData, convergence diagnostics and printed tables."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from statsmodels.iolib.table import SimpleTable

from ..inference.summaries import number, text_table
from .protocols import Array
from .sampling import Chain, Plan

if TYPE_CHECKING:
    import arviz

WORST_R_HAT = 1.01
LEAST_ESS = 400
INDEXED = re.compile(r"^(.+)\[(.+)\]$")


@dataclass(frozen=True)
class Results:
    """Draws of all chains.

    Parameters
    ----------
    kernel : str
    theta : ndarray of shape (chains, draws, k)
    stats : dict of ndarrays of shape (chains, draws, ...)
        log_eta, accept_rate, S and n, as far as there are any.
    acceptance_rate : float
    record_acceptance : ndarray of shape (n,)
    x : ndarray of shape (chains, draws, n, d) or None
    """

    kernel: str
    theta: Array
    stats: dict[str, Array]
    acceptance_rate: float
    record_acceptance: Array
    x: Array | None = None

    def inference_data(self, plan: Plan) -> arviz.InferenceData:
        """The draws as ArviZ takes them."""
        import arviz

        posterior, coords, dims = variables(list(plan.model.parameter_names), self.theta)
        if "S" in self.stats:
            names = list(plan.model.statistic_names)
            n_totals = self.stats["S"].shape[-1]
            coords["statistic"] = names if len(names) == n_totals else list(range(n_totals))
            dims["S"] = ["statistic"]
        with warnings.catch_warnings():
            # fewer draws than chains is what a user may ask for
            warnings.simplefilter("ignore", UserWarning)
            idata = arviz.from_dict(
                posterior=posterior,
                sample_stats=self.stats,
                observed_data={"release": plan.release},
                coords=coords,
                dims=dims,
                attrs={
                    "inference_library": "statml",
                    "kernel": self.kernel,
                    "model": type(plan.model).__name__,
                    "mechanism": repr(plan.mechanism),
                },
            )
            if self.x is not None:
                latent = arviz.dict_to_dataset({"x": self.x}, dims={"x": ["record", "column"]})
                idata.add_groups({"latent": latent})
        return idata

    def diagnostics(self, plan: Plan) -> pd.DataFrame:
        """r_hat, ess_bulk and ess_tail of theta, log_eta, S and n: one row each."""
        import arviz

        rows = dict(zip(plan.model.parameter_names, np.moveaxis(self.theta, -1, 0), strict=True))
        if self.kernel != "exact":
            rows["log_eta"] = self.stats["log_eta"]
            for j, S in enumerate(np.moveaxis(self.stats["S"], -1, 0)):
                rows[f"S[{j}]"] = S
            rows["n"] = self.stats["n"]
        table = {}
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for term, values in rows.items():
                # What never moves (a statistic that is constant, a known n) has nothing to converge.
                if term not in plan.model.parameter_names and np.ptp(values) <= 1e-9 * np.abs(
                    values
                ).max(initial=0.0):
                    continue
                table[term] = {
                    "r_hat": float(arviz.rhat(values)) if len(values) > 1 else np.nan,
                    "ess_bulk": float(arviz.ess(values, method="bulk")),
                    "ess_tail": float(arviz.ess(values, method="tail")),
                }
        return pd.DataFrame.from_dict(table, orient="index").rename_axis("term")


def from_chains(plan: Plan, chains: list[Chain]) -> Results:
    """The draws after warm-up."""
    kept = slice(plan.tune, None)

    def stack(name: str) -> Array:
        return np.array([getattr(chain.trace, name)[kept] for chain in chains])

    stats = {name: stack(name) for name in ("log_eta", "accept_rate", "S", "n")}
    proposes = plan.kernel not in ("gibbs", "clt")
    one_by_one = plan.kernel in ("mwg", "interweave", "block") and plan.log_prior_n is None
    counts = sum(chain.trace.record_accepted for chain in chains)
    return Results(
        kernel=plan.kernel,
        theta=stack("theta"),
        stats=stats,
        acceptance_rate=float(stats["accept_rate"].mean()) if proposes else np.nan,
        record_acceptance=counts / (len(chains) * plan.draws)
        if one_by_one
        else np.full(plan.n_records, np.nan),
        x=stack("x") if plan.store_records else None,
    )


def from_exact(plan: Plan, theta: Array) -> Results:
    """Independent draws."""
    n = np.full(theta.shape[:2], plan.n_records)
    return Results("exact", theta, {"n": n}, np.nan, np.full(plan.n_records, np.nan))


def variables(
    names: list[str], theta: Array
) -> tuple[dict[str, Array], dict[str, list], dict[str, list[str]]]:
    """Flat parameters as ArviZ variables: beta[0], beta[1], ... become one variable beta.

    Returns
    -------
    variables : dict of ndarrays of shape (chains, draws, ...)
    coords : dict of dimension -> labels
    dims : dict of variable -> dimensions
    """
    groups: dict[str, list[tuple[str, int]]] = {}
    for j, name in enumerate(names):
        match = INDEXED.match(name)
        base, index = match.groups() if match else (name, "")
        groups.setdefault(base, []).append((index, j))
    out, coords, dims = {}, {}, {}
    for base, members in groups.items():
        columns = [j for _, j in members]
        indices = [index.split(",") for index, _ in members]
        if members[0][0] == "" and len(members) == 1:
            out[base] = theta[..., columns[0]]
        elif shape := _grid(indices):
            out[base] = theta[..., columns].reshape(*theta.shape[:2], *shape)
        else:
            out[base] = theta[..., columns]
            coords[f"{base}_dim"] = [index for index, _ in members]
            dims[base] = [f"{base}_dim"]
    return out, coords, dims


def _grid(indices: list[list[str]]) -> tuple[int, ...] | None:
    """The shape of an array whose entries have these indices in row-major order, or None."""
    if not all(part.strip().isdigit() for index in indices for part in index):
        return None
    if len({len(index) for index in indices}) != 1:
        return None
    numbers = np.array(indices, dtype=int)
    shape = tuple(int(size) for size in numbers.max(axis=0) + 1)
    full = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), axis=1)
    return shape if full.shape == numbers.shape and (full == numbers).all() else None


def report(diagnostics: pd.DataFrame) -> bool:
    """Whether the chains have converged; if not, a warning in plain words."""
    r_hat = diagnostics["r_hat"]
    ess = diagnostics[["ess_bulk", "ess_tail"]].min(axis=1)
    if (r_hat > WORST_R_HAT).any():
        warnings.warn(
            f"the chains do not agree yet: R-hat of {r_hat.idxmax()} is {r_hat.max():.3f} (should be at most {WORST_R_HAT}). "
            "Raise tune and draws (twice as many, say); if that does not help, start nearer to the posterior with init.",
            stacklevel=3,
        )
    elif r_hat.isna().any():
        warnings.warn(
            "R-hat cannot be computed from a single chain or so few draws: whether the chains have converged is not known. "
            "Take chains=4 and more draws.",
            stacklevel=3,
        )
    elif (ess < LEAST_ESS).any():
        warnings.warn(
            f"{ess.idxmin()} has only {ess.min():.0f} effective draws (should be at least {LEAST_ESS}): its interval is rough. "
            f"Raise draws about {LEAST_ESS / max(ess.min(), 1):.0f}-fold.",
            stacklevel=3,
        )
    return bool((r_hat <= WORST_R_HAT).all() and (ess >= LEAST_ESS).all())


def printed_table(table: pd.DataFrame, level: float) -> SimpleTable:
    """Means, standard deviations, quantiles and diagnostics for reading."""
    header = ["mean", "sd", f"[{(1 - level) / 2:.4g}", "median", f"{(1 + level) / 2:.4g}]"]
    header += ["R-hat", "ESS bulk", "ESS tail"]
    rows = [
        (
            number(row.estimate, 4),
            *(number(v) for v in (row.std_error, row.conf_low, row.median, row.conf_high)),
            *(number(row.r_hat), number(row.ess_bulk, 0), number(row.ess_tail, 0)),
        )
        for row in table.itertuples()
    ]
    return text_table(rows, header, table["term"].tolist())
