"""Runs one peer of statml.group_robust in its own environment: _group_robust_worker.py DATA.npz RESULT.npz METHOD."""

from __future__ import annotations

import sys
import time
import types
import warnings
from importlib import import_module
from importlib.util import find_spec

import numpy as np

warnings.simplefilter("ignore")


def cvxpy_epigraph(X, y, groups, l2, **_):
    """The logistic problem as one writes it in cvxpy, solved by Clarabel."""
    import cvxpy as cp

    w, b, t = cp.Variable(X.shape[1]), cp.Variable(), cp.Variable()
    margins = cp.multiply(2 * y - 1, X @ w + b)
    losses = cp.logistic(-margins)
    constraints = [
        cp.sum(losses[np.flatnonzero(groups == g)]) / (groups == g).sum() <= t
        for g in np.unique(groups)
    ]
    problem = cp.Problem(cp.Minimize(t + l2 / 2 * cp.sum_squares(w)), constraints)
    problem.solve(solver=cp.CLARABEL)
    return w.value, b.value


def fairlearn_gradient(X, y, groups, bound, max_iter, **_):
    """Exponentiated gradient with a bound on the squared error of every group; a mixture of linear models."""
    from fairlearn.reductions import BoundedGroupLoss, ExponentiatedGradient, SquareLoss
    from sklearn.linear_model import LinearRegression

    constraint = BoundedGroupLoss(SquareLoss(-10, 10), upper_bound=float(bound))
    model = ExponentiatedGradient(
        LinearRegression(), constraint, eps=1e-4, nu=1e-6, max_iter=int(max_iter)
    )
    model.fit(X, y, sensitive_features=groups)
    used = [k for k, weight in enumerate(model.weights_) if weight > 0]
    coefs = np.array(
        [np.r_[model.predictors_[k].coef_, model.predictors_[k].intercept_] for k in used]
    )
    return coefs, np.array([model.weights_[k] for k in used])


def hide_top_level_of_dro():
    """It imports torch, which the linear part does not need."""
    folder = find_spec("dro").submodule_search_locations[0]
    for name in ("dro", "dro.linear_model"):
        package = types.ModuleType(name)
        package.__path__ = [folder if name == "dro" else f"{folder}/linear_model"]
        sys.modules[name] = package


def dro_package(X, y, groups, **_):
    """dro takes groups only as a column of X, here the first."""
    from dro.linear_model.group_dro import GroupDRO

    model = GroupDRO(X.shape[1], group_idx=0, model_type="logistic")
    model.fit(X, 2 * y - 1)
    return model.theta, model.b


METHODS = {
    "cvxpy": (cvxpy_epigraph, "cvxpy"),
    "fairlearn": (fairlearn_gradient, "fairlearn.reductions"),
    "dro": (dro_package, "dro.linear_model.group_dro"),
}

if __name__ == "__main__":
    data, result, method = sys.argv[1:]
    arguments = dict(np.load(data))
    if method == "dro":
        hide_top_level_of_dro()
    function, module = METHODS[method]
    import_module(module)
    import_module("sklearn.linear_model")
    started = time.process_time()
    first, second = function(**arguments)
    np.savez(result, first=first, second=second, seconds=time.process_time() - started)
