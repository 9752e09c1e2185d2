"""The path of a pruned network: its levels, what each was worth, and which one to take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._net import Batches, Records
from .costs import count_macs, count_nonzero, stored_bytes
from .masks import Masks, density
from .records import evaluation_mode

COLUMNS = {
    "level": "int64",
    "sparsity": "float64",
    "density": "float64",
    "epochs_total": "int64",
    "train_loss": "float64",
    "train_error": "float64",
    "val_loss": "float64",
    "val_error": "float64",
    "val_std_error": "float64",
    "nonzero": "int64",
    "n_parameters": "int64",
    "macs": "int64",
    "bytes": "int64",
}


@dataclass
class Measured:
    """Losses and errors over some records.

    Parameters
    ----------
    loss, error : float
        Weighted means; the error is the share of wrong classes or, for numbers, the squared error over the variance.
    std_error : float
        Of the error over records.
    n : int
    """

    loss: float
    error: float
    std_error: float
    n: int


NOTHING = Measured(np.nan, np.nan, np.nan, 0)


def measure(
    module: nn.Module,
    data: Records | None,
    criterion: nn.Module,
    device: str,
    batch_size: int = 1024,
) -> Measured:
    """Loss and error of a network in evaluation mode.

    Parameters
    ----------
    module : torch Module
    data : Records or None
    criterion : torch Module
        One loss a record or an output.
    device : str
    batch_size : int, default=1024

    Returns
    -------
    Measured
        NaN without records.
    """
    if data is None or not len(data):
        return NOTHING
    losses, errors, weights = [], [], []
    targets = data.y["y"]
    if targets.is_floating_point():
        variance = targets.double().var(0, correction=0).mean().clamp(min=1e-30)
    with evaluation_mode(module), torch.no_grad():
        for X, y in Batches(data, batch_size):
            true = y["y"].to(device)
            outputs = module(X.to(device))
            loss = criterion(outputs, true)
            losses.append(loss.flatten(1).mean(1) if loss.ndim > 1 else loss)
            if true.is_floating_point():
                error = (outputs - true).double().square().mean(1) / variance.to(device)
            else:
                error = (outputs.argmax(1) != true).double()
            errors.append(error)
            weights.append(y["weight"] if "weight" in y else torch.ones(len(X)))
    loss, error, weight = (torch.cat(v).double().cpu().numpy() for v in (losses, errors, weights))
    if not weight.any():
        return NOTHING
    mean, n = np.average(error, weights=weight), len(error)
    spread = np.average((error - mean) ** 2, weights=weight)
    effective = weight.sum() ** 2 / (weight**2).sum()
    std_error = np.sqrt(spread / max(effective - 1, 1)) if n > 1 else np.nan
    return Measured(float(np.average(loss, weights=weight)), float(mean), float(std_error), n)


def path_row(
    level: int,
    weight_masks: Masks,
    state: Mapping[str, Tensor],
    parameters: list[str],
    positions: Mapping[str, int],
    epochs_total: int,
    train: Measured,
    val: Measured,
) -> dict[str, Any]:
    """One row of the table of a path."""
    kept = density(weight_masks)
    return {
        "level": level,
        "sparsity": 1 - kept,
        "density": kept,
        "epochs_total": epochs_total,
        "train_loss": train.loss,
        "train_error": train.error,
        "val_loss": val.loss,
        "val_error": val.error,
        "val_std_error": val.std_error,
        "nonzero": count_nonzero(state, parameters),
        "n_parameters": sum(state[name].numel() for name in parameters),
        "macs": count_macs(state, positions),
        "bytes": stored_bytes(state),
    }


def path_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table of a path, one row a level."""
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def select(path: pd.DataFrame, selection: str) -> int:
    """The row to take.

    Parameters
    ----------
    path : DataFrame
        Of `path_table`.
    selection : {"final", "best", "1se"}
        The last; the one of least validation error, of equals the sparsest; the sparsest whose validation error is
        within one standard error of the least.

    Returns
    -------
    int
        Position.

    Examples
    --------
    >>> import pandas as pd
    >>> path = pd.DataFrame({"sparsity": [0, 0.5, 0.9], "val_error": [0.10, 0.09, 0.11], "val_std_error": [0.03] * 3})
    >>> select(path, "final"), select(path, "best"), select(path, "1se")
    (2, 1, 2)
    """
    if selection == "final":
        return len(path) - 1
    error = path["val_error"].to_numpy()
    best = int(np.argmin(error))
    limit = error[best] + (path["val_std_error"].to_numpy()[best] if selection == "1se" else 0.0)
    allowed = np.flatnonzero(error <= limit)
    return int(allowed[np.argmax(path["sparsity"].to_numpy()[allowed])])


def split(
    y: NDArray, fraction: float, rng: np.random.Generator, stratify: bool
) -> tuple[NDArray, NDArray]:
    """Records for training and for validation, of each class the same share where there are classes.

    Parameters
    ----------
    y : ndarray of shape (n_records, ...)
    fraction : float
        Share that is held out, rounded down; every class keeps at least one record to train on.
    rng : Generator
    stratify : bool

    Returns
    -------
    train, val : ndarray of int
        In their order.
    """
    held = []
    strata = np.unique(y, return_inverse=True)[1] if stratify else np.zeros(len(y), int)
    order = rng.permutation(len(y))
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        held.append(members[: min(int(fraction * len(members) + 1e-9), len(members) - 1)])
    val = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(y)), val), val
