"""What an evaluation says: shares and times with intervals, paired differences, curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.iolib.summary import Summary
from statsmodels.iolib.table import SimpleTable
from statsmodels.iolib.tableformatting import fmt_params
from statsmodels.stats.proportion import proportion_confint

from statml._validation import RandomState, as_generator, check_choice, check_level
from statml.inference import percentile_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .displays import ByNumberDisplay, SurvivalDisplay

Array = NDArray[np.float64]

# what is averaged over scenarios; of times, smaller is better
TERMS = {
    "success": "all classified",
    "seconds": "time, restricted",
    "fraction": "share classified",
}
N_BOOT = 2000


class ViewpointResults:
    """Measurements of policies on common scenarios; `evaluate` makes it.

    Parameters
    ----------
    frame : DataFrame
        One row a policy and scenario: policy, scenario, n_targets, success (all targets classified within the horizon), seconds (until then,
        or the horizon), censored (the horizon came first), fraction (of the targets classified), declared and declared_right (targets
        classified, and rightly so), entropy (bits left, summed over targets), min_distance (m, to the nearest target), path_length (m),
        reward.
    targets : DataFrame
        One row a policy, scenario and target: declared, seconds (of the declaration), belief (in the likeliest class, at the end), right
        (whether that is the class).
    horizon : float
        Seconds after which an episode is cut.

    Examples
    --------
    >>> from statml.adapters.viewpoint import GreedyInformationPolicy, NearestFrontalPolicy, Scene, evaluate
    >>> scene = Scene(n_targets=3, random_beliefs=False)
    >>> results = evaluate([GreedyInformationPolicy(), NearestFrontalPolicy()], scene, 40)
    >>> results.tidy().columns.tolist()
    ['policy', 'term', 'estimate', 'conf_low', 'conf_high', 'n']
    >>> results.paired("GreedyInformationPolicy", "NearestFrontalPolicy").index.tolist()
    ['success', 'seconds', 'fraction']
    """

    def __init__(self, frame: pd.DataFrame, targets: pd.DataFrame, horizon: float):
        self.frame, self.targets, self.horizon = frame, targets, float(horizon)

    @property
    def policies(self) -> list[str]:
        """Names, in the order of the evaluation."""
        return list(dict.fromkeys(self.frame["policy"]))

    # --- tables -----------------------------------------------------------------------------------------

    def tidy(self, level: float = 0.95) -> pd.DataFrame:
        """Every policy's figures, with intervals.

        Parameters
        ----------
        level : float, default=0.95
            Wilson's intervals for the shares of scenarios (success) and of declarations (declared_right); percentile bootstrap
            over scenarios for the restricted mean time and the share of targets classified.

        Returns
        -------
        DataFrame
            policy, term, estimate, conf_low, conf_high, n. The restricted mean time is the area under the Kaplan-Meier curve up to
            the horizon, a time that failures count in full: the mean over successes alone rewards giving up on hard scenarios.
        """
        level = check_level(level)
        rows = []
        for policy, part in self.frame.groupby("policy", sort=False):
            n = len(part)
            picks = _picks(n, np.random.default_rng(0))
            for term in TERMS:
                values = part[term].to_numpy(float)
                if term == "success":
                    low, high = wilson(values.sum(), n, level)
                else:
                    low, high = percentile_interval(values[picks].mean(1), level)
                rows.append((policy, term, values.mean(), low, high, n))
            declared, right = int(part["declared"].sum()), int(part["declared_right"].sum())
            share = right / declared if declared else np.nan
            rows.append(
                (policy, "declared_right", share, *wilson(right, declared, level), declared)
            )
        columns = ["policy", "term", "estimate", "conf_low", "conf_high", "n"]
        return pd.DataFrame(rows, columns=columns)

    def declarations(self, level: float = 0.95) -> pd.DataFrame:
        """Whether beliefs are right as often as they say.

        Parameters
        ----------
        level : float, default=0.95
            Of Wilson's interval. It takes declarations as independent.

        Returns
        -------
        DataFrame
            Indexed by policy: declared (number of targets), right (share), conf_low, conf_high, and belief, the mean of what was believed at the
            declaration. Where conf_high is below belief, beliefs promise more than they keep: looks that err together were counted as
            independent.
        """
        rows = {}
        for policy, part in self.targets[self.targets["declared"]].groupby("policy", sort=False):
            n, right = len(part), int(part["right"].sum())
            low, high = wilson(right, n, check_level(level))
            rows[policy] = (n, right / n, low, high, part["belief"].mean())
        columns = ["declared", "right", "conf_low", "conf_high", "belief"]
        return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("policy")

    def paired(
        self, a: str, b: str, *, level: float = 0.95, random_state: RandomState = 0
    ) -> pd.DataFrame:
        """One policy against another, scenario by scenario.

        Parameters
        ----------
        a, b : str
            Names of policies.
        level : float, default=0.95
            Of the percentile bootstrap of the mean difference, over scenarios.
        random_state : int, SeedSequence, Generator, RandomState or None, default=0
            Of the bootstrap.

        Returns
        -------
        DataFrame
            Indexed by term (success, seconds, fraction): the two means, the difference a - b with its interval, in how many scenarios a
            had the larger and the smaller value, and the p-value of the two-sided sign test. Seconds are restricted to the
            horizon, and less of them is better. Differences that are 0 in every scenario give an interval of length 0.

        Raises
        ------
        ValueError
            If there is no policy of that name.
        """
        level = check_level(level)
        first, second = (self._of(name, policy) for name, policy in (("a", a), ("b", b)))
        picks = _picks(len(first), as_generator(random_state))
        rows = {}
        for term in TERMS:
            x, y = first[term].to_numpy(float), second[term].to_numpy(float)
            difference = x - y
            low, high = percentile_interval(difference[picks].mean(1), level)
            larger, smaller = int((difference > 0).sum()), int((difference < 0).sum())
            p = stats.binomtest(larger, larger + smaller).pvalue if larger + smaller else 1.0
            rows[term] = (x.mean(), y.mean(), difference.mean(), low, high, larger, smaller, p)
        columns = ["mean_a", "mean_b", "difference", "conf_low", "conf_high"]
        columns += ["larger", "smaller", "p_value"]
        return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("term")

    def survival(self, level: float = 0.95) -> pd.DataFrame:
        """The Kaplan-Meier curves of the time until all targets are classified.

        Parameters
        ----------
        level : float, default=0.95
            Of the pointwise intervals; Wilson's, as nothing is censored before the horizon.

        Returns
        -------
        DataFrame
            policy, seconds, unfinished (share of the scenarios), conf_low, conf_high; from 0 to the horizon.
        """
        level = check_level(level)
        parts = []
        for policy, part in self.frame.groupby("policy", sort=False):
            curve = SurvfuncRight(part["seconds"].to_numpy(), part["success"].to_numpy(int))
            last = curve.surv_prob[-1:] if len(curve.surv_prob) else [1.0]
            seconds = np.concatenate([[0.0], curve.surv_times, [self.horizon]])
            unfinished = np.concatenate([[1.0], curve.surv_prob, last])
            low, high = wilson(np.round(unfinished * len(part)), len(part), level)
            columns = {"seconds": seconds, "unfinished": unfinished}
            columns |= {"conf_low": low, "conf_high": high}
            table = pd.DataFrame(columns)
            table.insert(0, "policy", policy)
            parts.append(table)
        return pd.concat(parts, ignore_index=True)

    def by_n(self, term: str = "success", level: float = 0.95) -> pd.DataFrame:
        """A figure by the number of targets.

        Parameters
        ----------
        term : {"success", "seconds", "fraction"}, default="success"
        level : float, default=0.95

        Returns
        -------
        DataFrame
            policy, n_targets, estimate, conf_low, conf_high, n.
        """
        check_choice("term", term, TERMS)
        parts = []
        for n_targets, part in self.frame.groupby("n_targets"):
            table = ViewpointResults(part, self.targets, self.horizon).tidy(level)
            table = table[table["term"] == term].drop(columns="term")
            table.insert(1, "n_targets", n_targets)
            parts.append(table)
        return pd.concat(parts, ignore_index=True)

    def summary(self, level: float = 0.95) -> Summary:
        """All policies in one table.

        Parameters
        ----------
        level : float, default=0.95

        Returns
        -------
        statsmodels Summary
            Prints as text; also ``as_html()`` and ``as_latex()``.
        """
        table = self.tidy(level).set_index(["policy", "term"])
        rows = []
        for policy in self.policies:
            row = []
            for term in (*TERMS, "declared_right"):
                value = table.loc[(policy, term)]
                digits = 1 if term == "seconds" else 3
                row.append(f"{value['estimate']:.{digits}f}")
                row.append(f"[{value['conf_low']:.{digits}f}, {value['conf_high']:.{digits}f}]")
            rows.append(row)
        header = []
        for title in (*TERMS.values(), "right if declared"):
            header += [title, f"{level:.0%} interval"]
        n = len(self._of("policy", self.policies[0]))
        title = f"Active classification: {n} common scenarios, cut after {self.horizon:g} s"
        summary = Summary()
        summary.tables.append(
            SimpleTable(rows, header, self.policies, title=title, txt_fmt=fmt_params)
        )
        summary.add_extra_txt(
            [
                "Times are in seconds; a scenario that is cut counts with the whole time.",
                "The scenarios are common: compare two policies by paired(), not by their intervals.",
            ]
        )
        return summary

    # --- plots ------------------------------------------------------------------------------------------

    def plot_survival(self, ax: Axes | None = None, level: float = 0.95) -> SurvivalDisplay:
        """Share of scenarios that are not finished, over time; see `SurvivalDisplay`."""
        from .displays import SurvivalDisplay

        return SurvivalDisplay.from_results(self, ax=ax, level=level)

    def plot_by_n(
        self, term: str = "success", ax: Axes | None = None, level: float = 0.95
    ) -> ByNumberDisplay:
        """A figure by the number of targets; see `ByNumberDisplay`."""
        from .displays import ByNumberDisplay

        return ByNumberDisplay.from_results(self, term=term, ax=ax, level=level)

    def __repr__(self) -> str:
        n = self.frame["scenario"].nunique()
        return f"<ViewpointResults: {', '.join(self.policies)} on {n} scenarios>"

    def _of(self, name: str, policy: str) -> pd.DataFrame:
        check_choice(name, policy, self.policies)
        return self.frame[self.frame["policy"] == policy].set_index("scenario").sort_index()


def wilson(count, n: int, level: float) -> tuple[Array, Array]:
    """Wilson's interval of a share; NaN where there is nothing to count."""
    if n == 0:
        return np.nan, np.nan
    return proportion_confint(count, n, alpha=1 - level, method="wilson")


def _picks(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Scenarios of each bootstrap sample, shape (N_BOOT, n)."""
    return rng.integers(0, n, (N_BOOT, n))
