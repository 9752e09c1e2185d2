"""Plots of group DRO, in the manner of scikit-learn's displays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .._display import PALETTE, axes, log_ticks
from .path import GroupPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .group_dro import GroupDROClassifier, GroupDRORegressor


@dataclass
class GroupPathDisplay:
    """Losses of the groups along the path from the mean loss to the worst group, or along the ridge.

    Use `from_estimator` or `from_path`.

    Parameters
    ----------
    table : DataFrame
        As in ``path().table``, with one value of all parameters but one.
    parameter : {"alpha", "l2"}
    show : {"loss", "weight"}

    Attributes
    ----------
    ax_ : matplotlib Axes
        After `plot`.
    """

    table: pd.DataFrame
    parameter: str
    show: str = "loss"
    ax_: Axes | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_estimator(
        cls,
        estimator: GroupDROClassifier | GroupDRORegressor,
        alphas: ArrayLike | None = None,
        l2s: ArrayLike | None = None,
        show: str = "loss",
        ax: Axes | None = None,
    ) -> Self:
        """Compute a fitted model's path and plot it.

        Parameters
        ----------
        estimator : GroupDROClassifier or GroupDRORegressor
        alphas, l2s : array-like or None, default=None
            As in ``path``; more than one value of one of them only.
        show : {"loss", "weight"}, default="loss"
        ax : matplotlib Axes, optional

        Returns
        -------
        GroupPathDisplay

        Examples
        --------
        >>> import numpy as np
        >>> from statml.group_robust import GroupDRORegressor, GroupPathDisplay
        >>> X = np.repeat([[0.0], [1.0]], 5, axis=0)
        >>> y = np.r_[0, 0, 0, 0, 1, 3, 1, 2, 4, 2.0]
        >>> model = GroupDRORegressor().fit(X, y, groups=[0, 0, 1, 1, 1] * 2)
        >>> GroupPathDisplay.from_estimator(model).ax_.get_xlabel()
        'alpha (1: mean loss; smallest: worst group)'
        """
        return cls.from_path(estimator.path(alphas, l2s), show, ax)

    @classmethod
    def from_path(cls, path: GroupPath, show: str = "loss", ax: Axes | None = None) -> Self:
        """Plot a path over one parameter."""
        if show not in ("loss", "weight"):
            raise ValueError(f'show must be "loss" or "weight", got {show!r}')
        varied = [name for name in ("alpha", "l2") if path.table[name].nunique() > 1]
        if len(varied) > 1:
            raise ValueError(
                "path varies both alpha and l2; plot one at a time: path(alphas=...) or path(l2s=...)"
            )
        return cls(path.table, varied[0] if varied else "alpha", show).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        self.ax_ = ax = axes(ax, figsize=(6.5, 4.2))
        groups = self.table["group"].unique()
        for k, group in enumerate(groups):
            own = self.table[self.table["group"] == group]
            few = len(groups) <= len(PALETTE)
            ax.plot(
                own[self.parameter],
                own[self.show],
                color=PALETTE[k] if few else "0.6",
                marker="o",
                markersize=3,
                linewidth=1.6 if few else 0.8,
                label=str(group) if few else None,
            )
        values = self.table[self.parameter]
        if (values > 0).all() and np.ptp(values) > 0:
            ax.set_xscale("log")
            log_ticks(ax.xaxis)
        if self.parameter == "alpha":
            ax.invert_xaxis()
            ax.set_xlabel("alpha (1: mean loss; smallest: worst group)")
        else:
            ax.set_xlabel("l2")
        ax.set_ylabel("loss of each group" if self.show == "loss" else "weight of each group, q")
        if len(groups) <= len(PALETTE):
            ax.legend(title="group", frameon=False, fontsize=8)
        return self
