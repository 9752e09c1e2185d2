"""What a run through a sequence of tasks says: tables with intervals over runs, plots, and a CLEVA compass."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.iolib.summary import Summary
from statsmodels.iolib.table import SimpleTable
from statsmodels.iolib.tableformatting import fmt_params

from statml._validation import check_choice, check_level

from .compass import CompassDisplay, cleva_entry, write_cleva
from .metrics import continual_scores, open_set_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .displays import AccuracyMatrixDisplay, LearningCurvesDisplay, OpenSetDisplay

Array = NDArray[np.float64]

TITLES = {
    "acc": "accuracy after the last task",
    "average_incremental": "average incremental accuracy",
    "base": "accuracy on the first task",
    "new": "accuracy on the last task",
    "bwt": "backward transfer",
    "fwt": "forward transfer",
    "forgetting": "forgetting, from the best",
    "forgetting_since_learned": "forgetting, since learned",
}
SHARES = ("acc", "average_incremental", "base", "new")  # in [0, 1]
RATES = ("auroc", "fpr95", "oscr", "outlier_rate", "inlier_rate")


class ContinualReport:
    """Measurements of one or several runs through the same tasks; `ContinualEvaluator.run` makes it.

    Parameters
    ----------
    runs : list of dict
        Of each run: ``order``, ``matrix`` of shape (T, T), ``seconds`` (CPU, a task), ``n_records`` (a task), ``facts``, and
        ``open_set`` with the scores of known and unknown records.
    tasks : sequence of str
    n_classes : ndarray of int, shape (T,)
        Classes of each task: weights of the tasks in means over tasks, so that every class counts the same.
    baseline : ndarray of shape (T,), optional
    inlier_rejection : float, default=0.05
    label : str, default="model"
    strategy : str, default="continual"

    Attributes
    ----------
    matrices_ : ndarray of shape (n_runs, T, T)
        ``[r, t, j]``: accuracy (mean of the recalls of the classes) in run r, after its task t, on its task j, in the order of
        that run.
    matrix_ : ndarray of shape (T, T)
        Their mean.
    """

    def __init__(
        self,
        runs: list[dict[str, Any]],
        tasks: Sequence[str],
        *,
        n_classes: NDArray[np.int64] | None = None,
        baseline: Array | None = None,
        inlier_rejection: float = 0.05,
        label: str = "model",
        strategy: str = "continual",
    ):
        if not runs:
            raise ValueError("runs must hold at least one run, got none")
        self.runs, self.tasks, self.baseline = runs, list(tasks), baseline
        self.n_classes = np.ones(len(self.tasks)) if n_classes is None else np.asarray(n_classes)
        self.inlier_rejection, self.label, self.strategy = inlier_rejection, label, strategy
        self.matrices_ = np.stack([np.asarray(run["matrix"]) for run in runs])
        self.matrix_ = self.matrices_.mean(axis=0)

    # --- tables -----------------------------------------------------------------------------------------

    def scores(self) -> pd.DataFrame:
        """The scores of every run.

        Returns
        -------
        DataFrame
            One row a run; columns as the attributes of `ContinualScores`.
        """
        rows = []
        for run in self.runs:
            order = list(run["order"])
            baseline = None if self.baseline is None else self.baseline[order]
            rows.append(continual_scores(run["matrix"], baseline, self.n_classes[order]).as_dict())
        return pd.DataFrame(rows)[list(TITLES)]

    def tidy(self, level: float = 0.95) -> pd.DataFrame:
        """Means over runs with intervals.

        Parameters
        ----------
        level : float, default=0.95
            Of Student's t interval over the runs, cut to [0, 1] for accuracies. It reflects what differs among them, seeds and
            orders, not the choice of the test records. NaN with one run.

        Returns
        -------
        DataFrame
            term, estimate, std_error, conf_low, conf_high, n_runs.
        """
        table = _over_runs(self.scores(), level)
        share = table["term"].isin(SHARES)
        for end in ("conf_low", "conf_high"):
            table.loc[share, end] = table.loc[share, end].clip(0, 1)
        return table

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """Intervals over runs, indexed by term; see `tidy`."""
        return self.tidy(level).set_index("term")[["conf_low", "conf_high"]]

    def glance(self) -> pd.DataFrame:
        """One row of facts: tasks, runs, records, CPU seconds, and what the estimator says of itself."""
        first = self.runs[0]
        facts = {
            "label": self.label,
            "strategy": self.strategy,
            "n_tasks": len(self.tasks),
            "n_classes": int(self.n_classes.sum()),
            "n_runs": len(self.runs),
            "n_orders": len({tuple(run["order"]) for run in self.runs}),
            "n_records": int(np.sum(first["n_records"])),
            "cpu_seconds": float(np.mean([np.sum(run["seconds"]) for run in self.runs])),
        }
        return pd.DataFrame([facts | first["facts"]])

    def curves(self, level: float = 0.95) -> pd.DataFrame:
        """Accuracy on all, the first and the newest task after each task.

        Parameters
        ----------
        level : float, default=0.95
            Of the intervals over runs.

        Returns
        -------
        DataFrame
            curve ("all", "base", "new"), n_tasks (learned so far), estimate, conf_low, conf_high.
        """
        parts = []
        for t in range(len(self.tasks)):
            values: dict[str, list[float]] = {"all": [], "base": [], "new": []}
            for run in self.runs:
                row = np.asarray(run["matrix"])[t]
                weights = self.n_classes[list(run["order"])][: t + 1]
                values["all"].append(np.average(row[: t + 1], weights=weights))
                values["base"].append(row[0])
                values["new"].append(row[t])
            part = _over_runs(pd.DataFrame(values), level).rename(columns={"term": "curve"})
            parts.append(part.assign(n_tasks=t + 1))
        table = pd.concat(parts, ignore_index=True)
        table["curve"] = pd.Categorical(table["curve"], ["all", "base", "new"], ordered=True)
        table = table.sort_values(["curve", "n_tasks"], ignore_index=True)
        return table[["curve", "n_tasks", "estimate", "conf_low", "conf_high"]]

    def open_set(self, level: float = 0.95) -> pd.DataFrame:
        """How each score tells each unknown set, and the worst of the sets.

        Parameters
        ----------
        level : float, default=0.95
            Of the intervals of ``outlier_rate``: Wilson's over the records, its ends averaged over the runs; with several runs
            the wider, at each end, of that and Student's t interval over the runs.

        Returns
        -------
        DataFrame
            Indexed by score and set: auroc, fpr95, oscr, outlier_rate, inlier_rate (means over runs), conf_low, conf_high,
            worst_set. The row ``worst`` of a score repeats that of the set with the smallest outlier rate, which ``worst_set``
            names.

        Raises
        ------
        ValueError
            If no unknown sets were given.
        """
        self._need_open_set()
        level = check_level(level)
        rows = []
        for score, first in self.runs[0]["open_set"].items():
            of_score = []
            for name in first["out"]:
                found = [self._open_set_scores(run, score, name) for run in self.runs]
                frame = pd.DataFrame([{k: getattr(one, k) for k in RATES} for one in found])
                row = {"score": score, "set": name, **frame.mean().to_dict()}
                wilson = [one.conf_int(level).loc["outlier_rate"] for one in found]
                low, high = (np.mean([w[end] for w in wilson]) for end in ("conf_low", "conf_high"))
                if len(found) > 1:
                    student = _over_runs(frame[["outlier_rate"]], level).iloc[0]
                    low = max(min(low, student["conf_low"]), 0.0)
                    high = min(max(high, student["conf_high"]), 1.0)
                row |= {"conf_low": low, "conf_high": high, "worst_set": ""}
                of_score.append(row)
            worst = min(of_score, key=lambda row: row["outlier_rate"])
            rows += [*of_score, worst | {"set": "worst", "worst_set": worst["set"]}]
        return pd.DataFrame(rows).set_index(["score", "set"])

    def summary(self, level: float = 0.95) -> Summary:
        """The report as a table for reading.

        Parameters
        ----------
        level : float, default=0.95
            Confidence level of the intervals over runs.

        Returns
        -------
        statsmodels Summary
            Prints as text; also ``as_html()`` and ``as_latex()``.
        """
        table = self.tidy(level)
        summary = Summary()
        summary.tables.append(
            SimpleTable(
                [
                    [f"{row.estimate:.4f}" if np.isfinite(row.estimate) else "", *_interval(row)]
                    for row in table.itertuples()
                ],
                ["mean", "std err", f"{level:.0%} interval"],
                [TITLES[term] for term in table["term"]],
                title=f"{self.label}: {len(self.tasks)} tasks, {len(self.runs)} runs, {self.strategy}",
                txt_fmt=fmt_params,
            )
        )
        notes = ["Accuracies are means of the recalls of the classes."]
        if len(self.runs) == 1:
            notes.append("One run: how much seeds and orders change is unknown; use n_repeats.")
        else:
            notes.append("Intervals are over runs (seeds, orders), for these test records.")
        if self._has_open_set:
            rows = self.open_set(level)
            summary.tables.append(
                SimpleTable(
                    [
                        [
                            *(f"{row[k]:.3f}" for k in RATES),
                            f"[{row['conf_low']:.3f}, {row['conf_high']:.3f}]",
                        ]
                        for _, row in rows.iterrows()
                    ],
                    ["AUROC", "FPR95", "OSCR", "rejected", "of known", f"{level:.0%} interval"],
                    [
                        f"{score}: {name} {f'({worst})' if worst else ''}".strip()
                        for (score, name), worst in zip(rows.index, rows["worst_set"], strict=True)
                    ],
                    title="Unknown records",
                    txt_fmt=fmt_params,
                )
            )
            notes.append(
                f"rejected: share of the unknown records above the threshold that {self.inlier_rejection:.0%} of "
                "other known records exceed; of known: the same share of known records."
            )
        summary.add_extra_txt(notes)
        return summary

    def compare(self, other: ContinualReport, level: float = 0.95) -> pd.DataFrame:
        """Differences to another report, run by run.

        Parameters
        ----------
        other : ContinualReport
            With as many runs, of the same orders: from ``run`` with the same `random_state`.
        level : float, default=0.95

        Returns
        -------
        DataFrame
            As `tidy`, of self minus other; Student's t interval of the paired differences.

        Raises
        ------
        ValueError
            If the runs cannot be paired.
        """
        if [list(r["order"]) for r in self.runs] != [list(r["order"]) for r in other.runs]:
            raise ValueError("other must have the same orders of tasks, run by run; got others")
        return _over_runs(self.scores() - other.scores(), level)

    # --- plots ------------------------------------------------------------------------------------------

    def plot_matrix(self, ax: Axes | None = None) -> AccuracyMatrixDisplay:
        """Accuracies on each task after each task; see `AccuracyMatrixDisplay`."""
        from .displays import AccuracyMatrixDisplay

        return AccuracyMatrixDisplay.from_report(self, ax=ax)

    def plot_curves(
        self,
        others: Sequence[ContinualReport] = (),
        curve: str = "all",
        level: float = 0.95,
        ax: Axes | None = None,
    ) -> LearningCurvesDisplay:
        """Accuracy over the tasks, of several reports if `others` are given; see `LearningCurvesDisplay`."""
        from .displays import LearningCurvesDisplay

        check_choice("curve", curve, ("all", "base", "new"))
        return LearningCurvesDisplay.from_reports([self, *others], curve, level, ax)

    def plot_open_set(self, score: str | None = None, ax: Axes | None = None) -> OpenSetDisplay:
        """Distributions of a score for known and unknown records; see `OpenSetDisplay`."""
        from .displays import OpenSetDisplay

        return OpenSetDisplay.from_report(self, score, ax)

    def cleva(
        self,
        path: str | os.PathLike | None = None,
        *,
        inner: Mapping[str, int] | None = None,
        outer: Mapping[str, bool] | None = None,
        color: str = "magenta",
    ) -> dict[str, Any]:
        """The CLEVA compass of this report, as its JSON.

        Parameters
        ----------
        path : path, optional
            Where to write it.
        inner : mapping of axis to {0, 1, 2}, optional
            What the method uses: not, supervised, unsupervised; see `compass.INNER`. A report cannot know; what is not
            named is 0, but ``generative`` and ``episodic_memory``, which are 1 where generated or stored records were counted.
        outer : mapping of axis to bool, optional
            What is reported; see `compass.OUTER`. By default what was measured here, and this overrides it.
        color : str, default="magenta"

        Returns
        -------
        dict
            ``{"entries": [...]}``; `plot_cleva` draws it, and so does the authors' software.
        """
        facts = self.runs[0]["facts"]
        used = {
            axis: 1
            for axis, fact in (("generative", "generated_data"), ("episodic_memory", "stored_data"))
            if facts.get(fact, 0) > 0
        }
        document = {
            "entries": [
                cleva_entry(
                    self.label,
                    inner=used | dict(inner or {}),
                    outer=self._measured() | dict(outer or {}),
                    color=color,
                )
            ]
        }
        if path is not None:
            write_cleva(document, path)
        return document

    def plot_cleva(self, ax: Axes | None = None, **options: Any) -> CompassDisplay:
        """Draw the compass; `options` are those of `cleva`."""
        return CompassDisplay(self.cleva(**options)).plot(ax)

    # --- parts ------------------------------------------------------------------------------------------

    def _measured(self) -> dict[str, bool]:
        several = len(self.tasks) > 1
        facts = self.runs[0]["facts"]
        fwt = several and bool(self.scores()["fwt"].notna().all())
        named = ("parameters", "optimization_steps", "generated_data", "stored_data", "memory")
        return {
            "compute_time": True,
            "forgetting": several,
            "forward_transfer": fwt,
            "backward_transfer": several,
            "openness": self._has_open_set,
            "data_per_task": True,
            "task_order": True,
            "per_task_metric": True,
            **{name: name in facts for name in named},
        }

    @property
    def _has_open_set(self) -> bool:
        return bool(self.runs[0]["open_set"])

    def _need_open_set(self) -> None:
        if not self._has_open_set:
            raise ValueError(
                "nothing is known of unknown records: give outliers to ContinualEvaluator"
            )

    def _open_set_scores(self, run: dict[str, Any], score: str, name: str):
        found = run["open_set"][score]
        return open_set_scores(
            found["in"],
            found["correct"],
            found["out"][name],
            score_val=found["val"],
            inlier_rejection=self.inlier_rejection,
        )


def _over_runs(values: pd.DataFrame, level: float) -> pd.DataFrame:
    """Mean and Student's t interval of every column."""
    level = check_level(level)
    n = len(values)
    estimate = values.mean().to_numpy()
    std_error = (
        values.std(ddof=1).to_numpy() / np.sqrt(n) if n > 1 else np.full(len(estimate), np.nan)
    )
    half = stats.t.ppf((1 + level) / 2, max(n - 1, 1)) * std_error
    return pd.DataFrame(
        {
            "term": values.columns,
            "estimate": estimate,
            "std_error": std_error,
            "conf_low": estimate - half,
            "conf_high": estimate + half,
            "n_runs": n,
        }
    )


def _interval(row: Any) -> tuple[str, str]:
    if not np.isfinite(row.std_error):
        return "", ""
    return f"{row.std_error:.4f}", f"[{row.conf_low:.4f}, {row.conf_high:.4f}]"
