r"""Effects of training time and of size, with intervals over replicates.

At one level of sparsity, and for one replicate (seed), the error of four networks makes a two-by-two table:

=====================  ====================================  ==================================
error                  T epochs                              (k+1) T epochs
=====================  ====================================  ==================================
dense                  :math:`E_{00}`, the dense net         :math:`E_{10}`, extended training
pruned (LRR's mask)    :math:`E_{01}`, rewound to the start  :math:`E_{11}`, learning-rate rewinding
=====================  ====================================  ==================================

The total effect of pruning is :math:`E_{00} - E_{11}` (positive: pruning helps). Time can be paid for before size or after it; the
Shapley effect of each is the mean of both orders,

.. math::  \text{time} = \tfrac12[(E_{00} - E_{10}) + (E_{01} - E_{11})], \qquad
           \text{size} = \tfrac12[(E_{00} - E_{01}) + (E_{10} - E_{11})],

which add up to the total exactly; the interaction is :math:`(E_{01} - E_{11}) - (E_{00} - E_{10})`. The networks of a replicate share their
start and their order of records, so that all differences are paired; intervals are Student's over replicates. Bands that hold for
all levels at once take the quantile of the largest of the correlated t statistics, by simulation.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

EFFECTS = (
    "total", "time", "size", "interaction",
    "time_dense", "time_sparse", "size_short", "size_long",
)  # fmt: skip
SIMULATIONS = 20_000


def effects_of(e00: Array, e10: Array, e01: Array, e11: Array) -> dict[str, Array]:
    """The effects of one table of errors, elementwise.

    Parameters
    ----------
    e00, e10, e01, e11 : ndarray of one shape
        Errors of the dense net, of extended dense training, of the mask trained briefly, and of learning-rate rewinding.

    Returns
    -------
    dict of name to ndarray
        ``total``, the Shapley effects ``time`` and ``size``, ``interaction``, and the four simple effects.

    Examples
    --------
    >>> effects = effects_of(0.10, 0.08, 0.11, 0.07)
    >>> {name: round(value, 3) for name, value in effects.items()}
    {'total': 0.03, 'time': 0.03, 'size': 0.0, 'interaction': 0.02, 'time_dense': 0.02, 'time_sparse': 0.04, 'size_short': -0.01, 'size_long': 0.01}
    """
    simple = {
        "time_dense": e00 - e10,
        "time_sparse": e01 - e11,
        "size_short": e00 - e01,
        "size_long": e10 - e11,
    }
    return {
        "total": e00 - e11,
        "time": (simple["time_dense"] + simple["time_sparse"]) / 2,
        "size": (simple["size_short"] + simple["size_long"]) / 2,
        "interaction": simple["time_sparse"] - simple["time_dense"],
    } | simple


def paired_interval(values: Array, level: float) -> dict[str, Array]:
    """Mean over replicates with Student's interval.

    Parameters
    ----------
    values : ndarray of shape (n_replicates, ...)
    level : float

    Returns
    -------
    dict with ``estimate``, ``std_error``, ``conf_low``, ``conf_high``
        The last three are NaN for a single replicate.
    """
    n, mean = len(values), values.mean(axis=0)
    if n < 2:
        nan = np.full_like(mean, np.nan, dtype=float)
        return {"estimate": mean, "std_error": nan, "conf_low": nan, "conf_high": nan}
    se = values.std(axis=0, ddof=1) / np.sqrt(n)
    half = stats.t.ppf((1 + level) / 2, n - 1) * se
    return {"estimate": mean, "std_error": se, "conf_low": mean - half, "conf_high": mean + half}


def simultaneous_critical_value(values: Array, level: float, seed: int = 0) -> float:
    """Critical value of the largest |t| over columns: what makes their intervals hold at once.

    Parameters
    ----------
    values : ndarray of shape (n_replicates, n_columns)
        The correlation of the columns is taken from it; columns without variation do not count.
    level : float
    seed : int, default=0
        Of the simulation, which only settles one number.

    Returns
    -------
    float
        At least the value for a single column; NaN for a single replicate.
    """
    n = len(values)
    if n < 2:
        return np.nan
    single = stats.t.ppf((1 + level) / 2, n - 1)
    varying = values[:, values.std(axis=0) > 0]
    if varying.shape[1] < 2:
        return float(single)
    standard = (varying - varying.mean(axis=0)) / varying.std(axis=0, ddof=1)
    rng = np.random.default_rng(seed)
    # rows of `standard` times normals: normal with the estimated correlation; a common chi makes them t
    normal = rng.standard_normal((SIMULATIONS, n)) @ standard / np.sqrt(n - 1)
    chi = np.sqrt(rng.chisquare(n - 1, SIMULATIONS) / (n - 1))
    return float(max(single, np.quantile(np.abs(normal).max(axis=1) / chi, level)))


def effects_table(runs: pd.DataFrame, metric: str, level: float) -> pd.DataFrame:
    """The effects at every noise and sparsity level.

    Parameters
    ----------
    runs : DataFrame
        One row a network: noise, level, density, arm, replicate, and the metric.
    metric : str
    level : float

    Returns
    -------
    DataFrame
        noise, level, density, effect, estimate, std_error, conf_low, conf_high, band_low, band_high (for all levels at
        once), regime.
    """
    out = []
    for noise, part in runs.groupby("noise"):
        cells = {arm: _grid(part, arm, metric) for arm in ("dense", "edt", "sparse_short", "lrr")}
        levels = cells["lrr"].columns
        dense = cells["dense"].to_numpy()  # one column, level 0
        effects = effects_of(
            dense,
            cells["edt"][levels].to_numpy(),
            cells["sparse_short"][levels].to_numpy(),
            cells["lrr"].to_numpy(),
        )
        regimes = regime_labels(part, levels, metric, level)
        density = part[part["arm"] == "lrr"].groupby("level")["density"].first()
        for name in EFFECTS:
            interval = paired_interval(effects[name], level)
            critical = simultaneous_critical_value(effects[name], level)
            table = pd.DataFrame({"noise": noise, "level": levels, **interval})
            table["band_low"] = table["estimate"] - critical * table["std_error"]
            table["band_high"] = table["estimate"] + critical * table["std_error"]
            table.insert(2, "density", density[levels].to_numpy())
            table.insert(3, "effect", name)
            out.append(table.assign(regime=regimes))
    return pd.concat(out, ignore_index=True)


def regime_labels(part: pd.DataFrame, levels: pd.Index, metric: str, level: float) -> list[str]:
    """What pruning does at each level, judged by intervals.

    "better training": the training loss of LRR is below that of the dense net and the test error is lower;
    "regularisation": the training loss is above, or fewer noisy labels are fitted, and the test error is lower; "damage": the test
    error is higher; "neutral": the interval of the test error holds zero; "" for a single replicate.
    """
    changes = {}
    for column in (metric, "train_loss", "memorised"):
        change = _grid(part, "lrr", column).to_numpy() - _grid(part, "dense", column).to_numpy()
        changes[column] = paired_interval(change, level)
    labels = []
    for k in range(len(levels)):
        error, loss, memorised = ((c["conf_low"][k], c["conf_high"][k]) for c in changes.values())
        if np.isnan(error[0]):
            labels.append("")
        elif error[0] > 0:
            labels.append("damage")
        elif error[1] < 0 and loss[1] < 0:
            labels.append("better training")
        elif error[1] < 0 and (loss[0] > 0 or memorised[1] < 0):
            labels.append("regularisation")
        elif error[1] < 0:
            labels.append("better, cause open")
        else:
            labels.append("neutral")
    return labels


def optimal_levels(runs: pd.DataFrame, arms: tuple[str, ...], level: float) -> pd.DataFrame:
    """The best level of each arm, chosen on validation data in each replicate, and what it is worth on test data.

    The dense net counts as level 0 of every arm, and every arm has the same choice of levels, so that none gains by
    having more draws. The test error of the chosen level is not biased by the choice.

    Returns
    -------
    DataFrame
        noise, arm, mean_level, mean_density, test_error, change (against dense, paired) with std_error, conf_low, conf_high.
    """
    rows = []
    for noise, part in runs.groupby("noise"):
        dense = _grid(part, "dense", "test_error").to_numpy()[:, 0]
        start = part[part["arm"] == "dense"]
        for arm in arms:
            own = pd.concat([start, part[part["arm"] == arm]])
            # ties go to the sparser network
            own = own.sort_values(
                ["replicate", "validation_error", "level"], ascending=[True, True, False]
            )
            best = own.groupby("replicate").first()
            interval = paired_interval(best["test_error"].to_numpy() - dense, level)
            rows.append(
                {
                    "noise": noise,
                    "arm": arm,
                    "mean_level": best["level"].mean(),
                    "mean_density": best["density"].mean(),
                    "test_error": best["test_error"].mean(),
                    "change": float(interval.pop("estimate")),
                    **{name: float(value) for name, value in interval.items()},
                }
            )
    return pd.DataFrame(rows)


def subgroup_table(
    changes: dict[str, Array], scores: Array, n_subgroups: int, level: float
) -> pd.DataFrame:
    """Mean change of the training loss in groups of records of equal difficulty.

    Parameters
    ----------
    changes : dict of arm to ndarray of shape (n_replicates, n_levels, n_records)
        Loss of the arm's network less that of the dense net.
    scores : ndarray of shape (n_records,)
        Difficulty (EL2N).
    n_subgroups : int
    level : float

    Returns
    -------
    DataFrame
        arm, level (1, 2, ...), subgroup (1 the easiest), estimate, std_error, conf_low, conf_high.
    """
    rank = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    group = rank * n_subgroups // len(scores)
    rows = []
    for arm, change in changes.items():
        means = np.stack(
            [change[:, :, group == g].mean(axis=2) for g in range(n_subgroups)], axis=2
        )
        interval = paired_interval(means, level)
        n_levels = change.shape[1]
        grid = np.indices((n_levels, n_subgroups)) + 1
        rows.append(
            pd.DataFrame(
                {"arm": arm, "level": grid[0].ravel(), "subgroup": grid[1].ravel()}
                | {name: value.ravel() for name, value in interval.items()}
            )
        )
    return pd.concat(rows, ignore_index=True)


def _grid(part: pd.DataFrame, arm: str, column: str) -> pd.DataFrame:
    """Replicates by levels."""
    return part[part["arm"] == arm].pivot(index="replicate", columns="level", values=column)
