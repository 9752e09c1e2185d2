"""What a fitted path says: a printed summary, and the displays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.utils.validation import check_is_fitted
from statsmodels.iolib.summary import Summary
from statsmodels.stats.proportion import proportion_confint

from statml._validation import check_level
from statml.inference.summaries import summary_of, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .displays import LayerDensityDisplay, MaskDisplay, PruningPathDisplay


class PathReport:
    """Summary and plots of an estimator with a path."""

    def summary(self, level: float = 0.95) -> Summary:
        """The path as a table, with intervals for the validation error.

        Parameters
        ----------
        level : float, default=0.95
            Confidence level of each interval: Wilson's for classes, normal for squared errors. They reflect which
            records were held out, not the randomness of the training.

        Returns
        -------
        statsmodels Summary
            Prints as text; also ``as_html()`` and ``as_latex()``. The selected level is marked by an asterisk.
        """
        check_is_fitted(self, "path_")
        path = self.path_.join(
            error_intervals(self.path_, self.n_val_, hasattr(self, "classes_"), level)
        )
        rows = []
        for row in path.itertuples():
            mark = "*" if row.level == self.best_level_ else ""
            rows.append(
                [
                    f"{row.sparsity:.4f}",
                    f"{row.epochs_total}",
                    f"{row.train_loss:.4f}",
                    f"{row.train_error:.4f}",
                    f"{row.val_error:.4f}",
                    f"[{row.conf_low:.4f}, {row.conf_high:.4f}]",
                    f"{row.nonzero / row.n_parameters:.4f}",
                    f"{row.macs}",
                    f"{row.bytes}{mark}",
                ]
            )
        header = ["sparsity", "epochs", "train loss", "train error", "val. error"]
        header += [f"{level:.0%} interval", "nonzero share", "products", "bytes"]
        title = f"{type(self).__name__}: {self.criterion!r}, {len(path)} levels"
        table = text_table(rows, header, [str(k) for k in path["level"]], title)
        notes = [
            "* the fitted network. Sparsity counts the prunable weights, the share of nonzero parameters all of them.",
            "Products are those with weights that are not zero; zeros alone save no time on dense hardware.",
        ]
        if self.selection != "final":
            notes.append("The validation error chose the level, so that its own is too good.")
        return summary_of(table, notes=notes)

    def plot_path(self, ax: Axes | None = None) -> PruningPathDisplay:
        """Errors along the path; see `PruningPathDisplay`."""
        from .displays import PruningPathDisplay

        return PruningPathDisplay.from_estimator(self, ax=ax)

    def plot_layer_density(self, ax: Axes | None = None) -> LayerDensityDisplay:
        """Densities of the layers; see `LayerDensityDisplay`."""
        from .displays import LayerDensityDisplay

        return LayerDensityDisplay.from_estimator(self, ax=ax)

    def plot_mask(self, layer: str | None = None, ax: Axes | None = None) -> MaskDisplay:
        """The mask of one layer; see `MaskDisplay`."""
        from .displays import MaskDisplay

        return MaskDisplay.from_estimator(self, layer=layer, ax=ax)


def error_intervals(
    path: pd.DataFrame, n_val: int, classes: bool, level: float = 0.95
) -> pd.DataFrame:
    """Intervals for the validation errors of a path.

    Parameters
    ----------
    path : DataFrame
        With columns val_error and val_std_error.
    n_val : int
        Records for validation.
    classes : bool
        Whether an error is a share of wrong classes.
    level : float, default=0.95

    Returns
    -------
    DataFrame
        Columns conf_low and conf_high.
    """
    level = check_level(level)
    error = path["val_error"].to_numpy()
    if n_val == 0:
        low = high = np.full(len(path), np.nan)
    elif classes:
        low, high = proportion_confint(
            np.round(error * n_val), n_val, alpha=1 - level, method="wilson"
        )
    else:
        half = stats.norm.ppf((1 + level) / 2) * path["val_std_error"].to_numpy()
        low, high = np.maximum(error - half, 0.0), error + half
    return pd.DataFrame({"conf_low": low, "conf_high": high}, index=path.index)
