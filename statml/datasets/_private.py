"""Small public tables on which private releases are rehearsed."""

from __future__ import annotations

import pandas as pd


def load_berkeley_admissions() -> pd.DataFrame:
    """Graduate admissions at Berkeley in 1973, six largest departments together: sex by decision.

    4,526 applicants. By department the difference between the sexes nearly vanishes: women applied more often where few
    of either sex were admitted (Simpson's paradox).

    Returns
    -------
    DataFrame of int, shape (2, 2)
        Rows (``sex``) male and female, columns (``decision``) admitted and rejected.

    References
    ----------
    Bickel, P. J., Hammel, E. A. and O'Connell, J. W. (1975). Sex bias in graduate admissions: data from Berkeley. Science
    187, 398-404. The counts are those of R's ``datasets::UCBAdmissions``, added over departments.

    Examples
    --------
    >>> from statml.datasets import load_berkeley_admissions
    >>> load_berkeley_admissions()
    decision  admitted  rejected
    sex
    male          1198      1493
    female         557      1278
    """
    return pd.DataFrame(
        [[1198, 1493], [557, 1278]],
        index=pd.Index(["male", "female"], name="sex"),
        columns=pd.Index(["admitted", "rejected"], name="decision"),
    )
