"""Printed summaries: statsmodels' tables, which are text, HTML and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from statsmodels.iolib.summary import Summary
from statsmodels.iolib.table import SimpleTable
from statsmodels.iolib.tableformatting import fmt_2cols, fmt_params


def summary_of(*tables: SimpleTable, notes: Sequence[str] = ()) -> Summary:
    """Tables below each other, and notes below them."""
    summary = Summary()
    summary.tables = list(tables)
    if notes:
        summary.add_extra_txt(list(notes))
    return summary


def text_table(
    rows: Sequence[Sequence[str]],
    header: Sequence[str],
    names: Sequence[str],
    title: str | None = None,
) -> SimpleTable:
    """A table of cells that are text, one name a row."""
    return SimpleTable(rows, header, names, title=title, txt_fmt=fmt_params)


def frame_table(frame: pd.DataFrame, title: str | None = None) -> SimpleTable:
    """A table of numbers with its index as the names of the rows.

    Examples
    --------
    >>> import pandas as pd
    >>> print(frame_table(pd.DataFrame({"n": [12], "share_right": [0.75]}, index=["all"])))
    =================================
                        n share right
    ---------------------------------
    all                12       0.750
    =================================
    """
    rows = [
        [number(x) if isinstance(x, (float, np.floating)) else str(x) for x in row]
        for row in frame.itertuples(index=False)
    ]
    header = [name.replace("_", " ") for name in frame.columns]
    return text_table(rows, header, [str(name) for name in frame.index], title)


def facts_table(title: str, facts: dict[str, object], width: int) -> SimpleTable:
    """Facts in two halves side by side, the left one filled first; those without a value are left out."""
    cells = [(f"{name.replace('_', ' ')}:", fact(value)) for name, value in facts.items()]
    cells = [(name, value) for name, value in cells if value] or [("", "")]
    n_rows = (len(cells) + 1) // 2
    cells += [("", "")] * (2 * n_rows - len(cells))
    # The padding separates the halves and makes the table as wide as the one of coefficients.
    padding = 21 + max(width - 78, 0)
    left, right = (
        SimpleTable(
            [[value] for _, value in half],
            stubs=[name for name, _ in half],
            title=title,
            txt_fmt=fmt_2cols,
        )
        for half in (
            cells[:n_rows],
            [(f"  {name}".ljust(padding), value) for name, value in cells[n_rows:]],
        )
    )
    left.extend_right(right)
    return left


def number(x: float, decimals: int = 3) -> str:
    """A number in statsmodels' style, but blank where there is none and 0 without an exponent."""
    if np.isnan(x):
        return ""
    if np.isinf(x):
        return "inf" if x > 0 else "-inf"
    if x != 0 and not 1e-4 <= abs(x) < 1e4:
        return f"{x:.{decimals}g}"
    return f"{x:.{decimals}f}"


def fact(value: object) -> str:
    """A fact as it is printed, blank where there is none."""
    if isinstance(value, (float, np.floating)):
        return "" if np.isnan(value) else f"{value:.5g}"
    return str(value)
