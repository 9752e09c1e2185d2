"""How well a network uses its parameters, and how sensitive its layers are.

`accuracy_density` is that of Bianco et al. (2018) with the parameters that are not zero. Hoefler et al. (2021) ask in addition for
a metric that accounts for how hard the last percents are, and for the slack of a network, the parameters that can go at a
given loss of accuracy. Their own formula of a pruned parameter efficiency is not restated here; `parameter_efficiency` is
this package's, built to what they ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import nn

from statml._validation import RandomState, check_level, check_number

from .masks import layer_densities, prunable_weights
from .pruning import prune
from .records import LOSSES, Loss, as_batches, as_loss, evaluation_mode
from .saliency import Saliency


def accuracy_density(accuracy: ArrayLike, nonzero: ArrayLike) -> NDArray[np.float64] | float:
    """Percent accuracy per million parameters that are not zero.

    Parameters
    ----------
    accuracy : array-like
        Shares in [0, 1].
    nonzero : array-like
        Parameters of the whole network that are not zero.

    Returns
    -------
    ndarray or float

    Notes
    -----
    Favours tiny networks whatever they get wrong: the first percents are cheap.

    References
    ----------
    Bianco, S., Cadene, R., Celona, L. and Napoletano, P. (2018). Benchmark analysis of representative deep neural network
    architectures. IEEE Access 6, 64270-64277.

    Examples
    --------
    >>> from statml.adapters.pruning import accuracy_density
    >>> accuracy_density(0.75, 250_000)
    300.0
    """
    accuracy, nonzero = _checked(accuracy, nonzero)
    return _scalar(100 * accuracy / (nonzero / 1e6))


def parameter_efficiency(
    accuracy: ArrayLike,
    nonzero: ArrayLike,
    n_parameters: int,
    dense_accuracy: float,
    chance: float = 0.0,
) -> NDArray[np.float64] | float:
    """Log-odds of a correct answer above chance, relative to the dense network, times the log of the compression.

    With odds o(a) = (a - c) / (1 - a), where c is chance, and the compression r = n / m of a network of n parameters with m that are
    not zero, the efficiency is

        E = log10(r) + log10(o(a) / o(a_dense)).

    Parameters
    ----------
    accuracy : array-like
        Shares in (chance, 1).
    nonzero : array-like
        Parameters of the whole network that are not zero (m).
    n_parameters : int
        All parameters (n).
    dense_accuracy : float
        Of the dense network.
    chance : float, default=0.0
        Accuracy of guessing.

    Returns
    -------
    ndarray or float
        0 for the dense network; +1 for a network a tenth of the size with the same odds.

    Notes
    -----
    This is this package's own definition, and not the formula of Hoefler et al. (2021), who motivate it. It was chosen because

    - the last percents count more than the first, as they ask: from 90 to 95 % the odds double, from 50 to 55 % they rise by a fifth;
    - it weighs the two sides on one scale: ten times fewer parameters are worth as much as odds ten times as good;
    - it counts the whole network, so that leaving a layer unpruned does not flatter it;
    - it is relative to the dense network on the same data: a harder test set, if it divides the odds of both, leaves it as it
      is; so does a wider network with as many times the parameters left, and it adds up along a path: E from dense to
      one level plus E from there to another is E from dense to the other;
    - chance counts as no accuracy at all: E falls to minus infinity there.

    It needs errors on both sides: at accuracy 1 the odds are infinite. Where few records were tested, use
    (errors + 1/2) / (n + 1) for the error.

    Examples
    --------
    >>> from statml.adapters.pruning import parameter_efficiency
    >>> round(parameter_efficiency(0.90, 10_000, 100_000, dense_accuracy=0.90), 3)
    1.0
    >>> parameter_efficiency([0.90, 0.80], [10_000, 1_000], 100_000, 0.90, chance=0.1).round(3)
    array([1.   , 1.641])
    """
    accuracy, nonzero = _checked(accuracy, nonzero)
    chance = check_number("chance", chance, 0, 1, high_open=True)
    dense_accuracy = check_number(
        "dense_accuracy", dense_accuracy, chance, 1, low_open=True, high_open=True
    )
    if (accuracy >= 1).any():
        raise ValueError(
            "accuracy must be below 1, where the odds are infinite; use 1 - (errors + 1/2) / (n + 1)"
        )

    def log_odds(a):
        with np.errstate(divide="ignore"):
            return np.log10(np.maximum(a - chance, 0.0) / (1 - a))

    return _scalar(np.log10(n_parameters / nonzero) + log_odds(accuracy) - log_odds(dense_accuracy))


def efficiency_table(path: pd.DataFrame, chance: float = 0.0) -> pd.DataFrame:
    """The measures of efficiency along a path.

    Parameters
    ----------
    path : DataFrame
        ``path_`` of a `PruningClassifier` whose first level is dense.
    chance : float, default=0.0
        Accuracy of guessing, for `parameter_efficiency`.

    Returns
    -------
    DataFrame
        sparsity, accuracy (held out), compression (parameters over those not zero), mac_ratio (products of the dense network
        over those left), accuracy_density and parameter_efficiency (NaN where no held-out record was wrong).
    """
    if not len(path) or path["sparsity"].iloc[0] > 0:
        raise ValueError("path must start at the dense network")
    accuracy = 1 - path["val_error"].to_numpy()
    if np.isnan(accuracy).any():
        raise ValueError("path must have held-out records: validation_fraction > 0")
    n = int(path["n_parameters"].iloc[0])
    nonzero = path["nonzero"].to_numpy()
    efficiency = np.full(len(path), np.nan)
    able = accuracy < 1
    if able[0]:
        efficiency[able] = parameter_efficiency(
            accuracy[able], nonzero[able], n, accuracy[0], chance
        )
    return pd.DataFrame(
        {
            "sparsity": path["sparsity"],
            "accuracy": accuracy,
            "compression": n / nonzero,
            "mac_ratio": path["macs"].iloc[0] / np.maximum(path["macs"], 1),
            "accuracy_density": accuracy_density(accuracy, nonzero),
            "parameter_efficiency": efficiency,
        }
    )


def parameter_slack(
    path: pd.DataFrame, n_val: int, loss: Sequence[float] = (0.0, 0.001, 0.01), level: float = 0.95
) -> pd.DataFrame:
    """How many weights can go before the accuracy falls by more than a given amount.

    Parameters
    ----------
    path : DataFrame
        ``path_`` of a `PruningClassifier` whose first level is dense.
    n_val : int
        Held-out records, ``n_val_``.
    loss : sequence of float, default=(0.0, 0.001, 0.01)
        Amounts, as shares: 0.01 is one point.
    level : float, default=0.95
        Of the one-sided statement below.

    Returns
    -------
    DataFrame
        A row an amount: loss; slack, the largest sparsity whose held-out accuracy is at least that of the dense network less
        the loss; slack_confident, the largest sparsity up to which, at every level, the one-sided upper bound of
        the loss is at most the amount (NaN if there is none).

    Notes
    -----
    The bound takes the two networks' errors as independent, n records each. They make many errors in common, which
    makes the bound too high and the statement cautious. It holds for one level; with a path of K levels, test K in sequence from the dense
    end, as is done here: the first that fails ends it, so that no correction is needed.

    Examples
    --------
    >>> import pandas as pd
    >>> from statml.adapters.pruning import parameter_slack
    >>> path = pd.DataFrame({"sparsity": [0, 0.5, 0.9], "val_error": [0.100, 0.100, 0.105]})
    >>> parameter_slack(path, n_val=10_000, loss=[0.0, 0.01])
       loss  slack  slack_confident
    0  0.00    0.5              NaN
    1  0.01    0.9              0.5
    """
    level = check_level(level)
    if not len(path) or path["sparsity"].iloc[0] > 0:
        raise ValueError("path must start at the dense network")
    if n_val < 1:
        raise ValueError(f"n_val must be an integer >= 1, got {n_val}")
    error, sparsity = path["val_error"].to_numpy(), path["sparsity"].to_numpy()
    # Agresti and Caffo: one success and one failure more in each group, so that no variance is zero
    shrunk = (error * n_val + 1) / (n_val + 2)
    variance = shrunk * (1 - shrunk) / (n_val + 2)
    upper = (shrunk - shrunk[0]) + stats.norm.ppf(level) * np.sqrt(variance + variance[0])
    rows = []
    for amount in loss:
        allowed = error - error[0] <= amount + 1e-12
        sure = np.logical_and.accumulate(upper[1:] <= amount)
        rows.append(
            {
                "loss": float(amount),
                "slack": float(sparsity[allowed].max()),
                "slack_confident": float(sparsity[1:][sure].max()) if sure.any() else np.nan,
            }
        )
    return pd.DataFrame(rows)


def sensitivity_scan(
    module: nn.Module,
    data: tuple[Any, Any] | Sequence[tuple[Any, Any]],
    sparsities: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    criterion: str | Saliency | Callable = "magnitude",
    *,
    scope: str = "layer",
    loss: str | Loss = "cross_entropy",
    exclude: Sequence[str] = ("bias", "norm"),
    prune_output: bool = False,
    random_state: RandomState = None,
) -> pd.DataFrame:
    """What pruning one layer alone, without training, does to the network.

    Parameters
    ----------
    module : torch Module
        Trained; left as it is.
    data : (X, y) or list of such batches
        Records for the scores and the measures; those that were not trained on tell more.
    sparsities : sequence of float, default=(0.3, 0.5, 0.7, 0.9)
    criterion, loss, exclude, prune_output, random_state
        As in `prune`.
    scope : str, default="layer"
        "layer", or "row" for the same share of each output.

    Returns
    -------
    DataFrame
        A row a layer and sparsity, and first one for the dense network (layer "(dense)"): layer, sparsity, loss and error (share of
        wrong classes, or mean squared error).

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from statml.adapters import NetClassifier
    >>> from statml.adapters.pruning import sensitivity_scan
    >>> X, y = load_digits(return_X_y=True)
    >>> net = NetClassifier(module__hidden=(32, 32), epochs=10, random_state=0).fit(X, y)
    >>> scan = sensitivity_scan(net.module_, (X, y), [0.5, 0.9])
    >>> scan[["layer", "sparsity"]].round(2)
                 layer  sparsity
    0          (dense)       0.0
    1  layers.1.weight       0.5
    2  layers.1.weight       0.9
    3  layers.3.weight       0.5
    4  layers.3.weight       0.9
    """
    weights = prunable_weights(module, exclude, prune_output)
    batches = as_batches(data, next(iter(weights.values())).device)
    rows = [{"layer": "(dense)", "sparsity": 0.0, **_measured(module, batches, as_loss(loss))}]
    for name in weights:
        others = [other for other in weights if other != name]
        for sparsity in sparsities:
            sparse, masks = prune(
                module,
                sparsity,
                criterion,
                batches,
                scope=scope,
                loss=loss,
                exclude=[*exclude, *others],
                prune_output=prune_output,
                random_state=random_state,
            )
            measured = _measured(sparse, batches, as_loss(loss))
            rows.append({"layer": name, "sparsity": 1 - layer_densities(masks)[name], **measured})
    return pd.DataFrame(rows)


def _measured(module: nn.Module, batches: list, loss: Loss) -> dict[str, float]:
    total = wrong = n = 0.0
    with evaluation_mode(module), torch.no_grad():
        for X, y in batches:
            outputs = module(X)
            total += float(loss(outputs, y).double().sum())
            if y.is_floating_point():
                wrong += float(LOSSES["mse"](outputs, y).double().sum())
            else:
                wrong += float((outputs.argmax(1) != y).sum())
            n += len(X)
    return {"loss": total / n, "error": wrong / n}


def _checked(accuracy: ArrayLike, nonzero: ArrayLike) -> tuple[NDArray, NDArray]:
    accuracy, nonzero = np.asarray(accuracy, float), np.asarray(nonzero, float)
    if not ((accuracy >= 0) & (accuracy <= 1)).all():
        raise ValueError("accuracy must hold shares in [0, 1]")
    if not (nonzero > 0).all():
        raise ValueError("nonzero must be positive: a network without parameters has no efficiency")
    return accuracy, nonzero


def _scalar(values: NDArray) -> NDArray[np.float64] | float:
    return float(values) if np.ndim(values) == 0 else values
