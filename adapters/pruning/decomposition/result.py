"""What the experiment found: the tables, and how they are printed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from statsmodels.iolib.summary import Summary

from statml.inference.summaries import summary_of, text_table


@dataclass(frozen=True)
class PruningEffectResult:
    """Result of `decompose_pruning_effect`.

    Attributes
    ----------
    runs : DataFrame
        One row a network: noise, level, density (of the prunable weights), n_parameters, arm, replicate, epochs_total, train_loss,
        train_error, validation_error, test_error, test_loss, memorised (share of the changed labels that it predicts).
    effects : DataFrame
        noise, level, density, effect, estimate, std_error, conf_low, conf_high, band_low, band_high, regime. Positive effects lower
        the test error; "time" and "size" are Shapley effects and add up to "total".
    subgroups : DataFrame
        Change of the training loss against the dense net, by difficulty (EL2N) of the records: noise, arm, level, subgroup,
        estimate, std_error, conf_low, conf_high.
    influence : DataFrame or None
        What the records whose loss pruning lowers most are worth: test error of a dense net trained without them less that of one
        trained without as many random ones.
    optimal : DataFrame
        The best level of each arm, chosen on validation data, and its change of the test error.
    level : float
        Of all intervals.
    """

    runs: pd.DataFrame = field(repr=False)
    effects: pd.DataFrame = field(repr=False)
    subgroups: pd.DataFrame = field(repr=False)
    influence: pd.DataFrame | None = field(repr=False)
    optimal: pd.DataFrame = field(repr=False)
    n_replicates: int
    level: float

    def summary(self) -> Summary:
        """The effects on the test error, one table a level of noise, and the best level of each arm.

        Returns
        -------
        statsmodels Summary
            Prints as text; also ``as_html()`` and ``as_latex()``.
        """
        interval = f"{self.level:.0%} interval"
        tables = []
        for noise, part in self.effects.groupby("noise"):
            dense = self.runs.query("noise == @noise and arm == 'dense'")
            wide = part.pivot(index="level", columns="effect", values="estimate")
            rows = [
                [
                    f"{t.density:.3f}",
                    f"{t.estimate:+.4f}",
                    f"[{t.conf_low:+.4f}, {t.conf_high:+.4f}]",
                    f"{wide.loc[t.level, 'time']:+.4f}",
                    f"{wide.loc[t.level, 'size']:+.4f}",
                    str(t.regime),
                ]
                for t in part[part["effect"] == "total"].sort_values("level").itertuples()
            ]
            title = (
                f"Effect of pruning, label noise {noise:g}: dense net {dense['test_error'].mean():.4f} "
                f"(training loss {dense['train_loss'].mean():.3g})"
            )
            header = ["density", "total", interval, "time", "size", "regime"]
            tables.append(text_table(rows, header, [str(k) for k in wide.index], title))
        rows = [
            [
                f"{row.mean_density:.3f}",
                f"{row.test_error:.4f}",
                f"{row.change:+.4f}",
                f"[{row.conf_low:+.4f}, {row.conf_high:+.4f}]",
            ]
            for row in self.optimal.itertuples()
        ]
        names = [f"noise {row.noise:g}, {row.arm}" for row in self.optimal.itertuples()]
        header = ["mean density", "test error", "change", interval]
        tables.append(text_table(rows, header, names, "Best level, chosen on validation data"))
        note = f"{self.n_replicates} replicates; a positive effect lowers the test error: pruning helps."
        return summary_of(*tables, notes=[note])

    def __str__(self) -> str:
        return self.summary().as_text()

    def to_frame(self) -> pd.DataFrame:
        """The effects, one row a noise, level and effect."""
        return self.effects.copy()
