"""How each public estimator is used: small clean data, and the call whose result must be right or refused.

`RECIPES` names, for each line, the public class. `make()` gives the arguments by name (a name says what `_corruptions` may do to it), and
`run(**arguments)` fits and predicts, and returns every number that a user would read.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import statml.adapters as adapters
import torch
from statml.adapters import continual
from statml.adapters.attribute_robust import Custom
from statml.adapters.viewpoint import ActiveClassificationEnv
from torch import nn

import statml.graphs as graphs
import statml.group_robust as group_robust
import statml.influence as influence
import statml.privacy as privacy
from statml.group_robust.slicers import TreeSlicer
from statml.privacy import mechanisms, models

from ._corruptions import Corruption


@dataclass(frozen=True)
class Recipe:
    """One line of the table."""

    name: str
    make: Callable[[], dict[str, Any]]
    run: Callable[..., dict[str, Any]]
    rtol: float = 1e-6  # to which an equivalent input gives the same result
    leave_out: dict[str, str] = field(default_factory=dict)  # corruption -> why it is none here
    own: dict[str, Corruption] = field(
        default_factory=dict
    )  # what only its arguments can have; refused


# --- data -----------------------------------------------------------------------------------------------


def records(*names, n=36, n_new=5, seed=0) -> dict[str, np.ndarray]:
    """Numbers that float32 holds exactly; labels and groups that the features tell."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)).round(2).astype(np.float32).astype(float)
    found = {
        "X": X,
        "y": (X[:, 0] + 0.7 * rng.normal(size=n) > 0).astype(int),
        "groups": (X[:, 1] > 0).astype(int),
        "sample_weight": rng.integers(1, 5, size=n) / 4,
        "y_pred": (X[:, 0] > 0).astype(int),
        "held_out": np.arange(n) % 2 == 0,
        "attributes_clean": (X[:, 2:] / 20).astype(np.float32).astype(float),
        "X_new": rng.normal(size=(n_new, 3)).round(2).astype(np.float32).astype(float),
        "y_new": np.arange(n_new) % 2,
        "X_val": rng.normal(size=(12, 3)).round(2).astype(np.float32).astype(float),
        "y_val": np.arange(12) % 2,
        "target": X[:, 0] - X[:, 1] + rng.normal(size=n).round(2),
    }
    if "target" in names:
        found["y"] = found["target"]
    return {name: found[name] for name in names if name != "target"}


def rule_votes() -> dict[str, np.ndarray]:
    """Each rule votes for one class or not at all."""
    found = votes()["votes"]
    return {"votes": np.where(found == np.arange(4) % 2, found, -1)}


def votes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, size=60)
    found = np.where(rng.random((60, 4)) < 0.8, truth[:, None], 1 - truth[:, None])
    return {"votes": np.where(rng.random((60, 4)) < 0.3, -1, found)}


def network(n=14) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    A = rng.choice([-1, 0, 1], p=[0.25, 0.3, 0.45], size=(n, n)).astype(float)
    np.fill_diagonal(A, 0)
    return {"A": A}


# --- calls ----------------------------------------------------------------------------------------------


def classify(make, X, y, X_new, **fit):
    model = make().fit(X, y, **fit)
    return {"proba": model.predict_proba(X_new), "new": model.predict(X_new)}


def regress(make, X, y, X_new, **fit):
    return {"new": make().fit(X, y, **fit).predict(X_new)}


def linear(make, X, y, X_new, **fit):
    """Of convex problems the solution itself, not only what it predicts."""
    model = make().fit(X, y, **fit)
    return {"coef": model.coef_, "intercept": model.intercept_, "new": model.predict(X_new)}


def partitioned(make, X, y):
    return {"groups": np.unique(make().fit_predict(X, y), return_inverse=True)[1]}


def moved(X, by):
    return X + by


def amal(X, y, X_val, y_val, X_new, **fit):
    model = adapters.AMALClassifier(**NET)
    teacher = adapters.Teacher(np.eye(2)[records("y")["y"]], name="t")
    model.fit(X, y, [teacher], X_val, y_val, **fit)
    return {"proba": model.predict_proba(X_new), "lambda": model.lambda_}


def told(make, X):
    """What a teacher says of the training records stands in for X."""
    given = records("X", "y", "X_val", "y_val")
    model = adapters.AMALClassifier(**NET).fit(
        given["X"], given["y"], [make(X)], given["X_val"], given["y_val"]
    )
    return {"proba": model.predict_proba(records("X_new")["X_new"]), "lambda": model.lambda_}


def shares():
    p = np.random.default_rng(0).integers(1, 8, size=(36, 1)) / 8
    return {"X": np.hstack([p, 1 - p])}


def features(X, y, X_new, **fit):
    model = adapters.NetFeatures(adapters.NetClassifier(**NET)).fit(X, y, **fit)
    return {"features": model.transform(X_new)}


def open_vae(X, y, X_new, **fit):
    model = adapters.OpenVAEClassifier(
        hidden=(8,), latent_dim=2, likelihood="gaussian", epochs=2, random_state=0
    ).fit(X, y, **fit)
    return {"proba": model.predict_proba(X_new), "outlier": model.outlier_proba(X_new)}


def bounded(make, X, y, X_new, **fit):
    model = make().fit(X, y, **fit)
    return {"w": model.outlier_proba(X_new), "distances": model.distances(X_new)}


def voted(make, votes):
    model = make().fit(votes)
    known = (np.asarray(votes) != -1).any(axis=1)  # of the others nothing is known, which is NaN
    return {"proba": model.predict_proba(votes)[known]}


def ranked(make, A):
    fit = make().fit(A)
    table = fit.tidy().select_dtypes("number")
    return {name: values.to_numpy() for name, values in table.items()}


def released(make, release):
    fit = make().fit(release)
    return {"mean": fit.posterior_mean_, "sd": fit.posterior_sd_}


@cache
def fitted(kind: str):
    """A model of clean data, which the methods of `statml.influence` explain."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    data = records("X", "y")
    make = {"trees": partial(GradientBoostingClassifier, n_estimators=5, random_state=0)}
    return make.get(kind, LogisticRegression)().fit(data["X"], data["y"])


@cache
def trajectory():
    return influence.record_sgd(fitted(""), *records("X", "y").values(), n_epochs=2, random_state=0)


def attributed(make, X, y, X_new, y_new, kind="", **fit):
    method = make()
    model = None if kind == "neighbours" else fitted(kind)
    method.fit(model, X, y, **fit)
    return {"influence": method.influence(X_new, y_new)}


def retrained(make, X, y, X_new, y_new, **fit):
    """Methods that train anew: the model learns what it is given."""
    method = make().fit(fitted(""), X, y, X_val=X_new, y_val=y_new, **fit)
    data_shapley = isinstance(method, influence.DataShapley)
    return {"influence": method.influence() if data_shapley else method.influence(X_new, y_new)}


def quantize(model, X, input_shape):
    found = adapters.GenieQuantizer(
        n_samples=8, distill_batch=4, distill_iter=1, generator_channels=(4, 4), latent_dim=4,
        recon_iter=2, random_state=0, progress=False,
    ).fit(model, X, input_shape=input_shape)  # fmt: skip
    return {"logits": found.decision_function(np.full((2, 1, 6, 6), 0.5, np.float32))}


def convolutional():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        ).eval()
    X = np.random.default_rng(0).uniform(size=(8, 1, 6, 6)).round(2).astype(np.float32)
    return {"model": model, "X": X.astype(float), "input_shape": (1, 6, 6)}


def look(env):
    policy = adapters.ViewpointPolicy(
        d_model=8, n_heads=2, total_steps=4, warm_start=None, n_envs=2, n_steps=2, batch_size=4,
        random_state=0, progress=False,
    ).fit(env)  # fmt: skip
    return {"action": policy.predict(env.vector(2).reset(seed=0)[0])}


def numbers(found) -> dict[str, Any]:
    """Of a result its table, of that the columns that are numbers."""
    found = getattr(found, "table", found)
    return {name: values.to_numpy() for name, values in found.select_dtypes("number").items()}


def judged(X, y):
    return numbers(
        adapters.robustness_report(
            fitted(""), X, y, [Custom(moved, -0.2, 0.2)], n_draws=3, worst_of=3, progress=False
        )
    )


def continued(X, y, X_new, y_new):
    from sklearn.linear_model import SGDClassifier

    evaluator = adapters.ContinualEvaluator.from_classes(X, y, X_new, y_new)
    report = evaluator.run(
        SGDClassifier(loss="log_loss", random_state=0), n_repeats=2, random_state=0, progress=False
    )
    last = report.matrices_[:, -1]  # of a row before that, tasks to come are NaN
    return {"accuracy": last}


@cache
def learned(name):
    """An adapter that clean data were learned by, whose other methods are tried."""
    box = NET | {"attributes": [Custom(moved, -0.2, 0.2)], "n_steps": 1}
    vae = {
        "hidden": (8,),
        "latent_dim": 2,
        "likelihood": "gaussian",
        "epochs": 2,
        "random_state": 0,
    }
    options = {
        "AttributeAdversarialClassifier": box,
        "OpenVAEClassifier": vae,
        "NetClassifier": NET,
    }.get(name, {})
    return getattr(adapters, name)(**options).fit(*records("X", "y").values())


def attacked(X, y):
    found = learned("AttributeAdversarialClassifier").attack(X, y, n_starts=2, n_steps=1)
    return {"loss": found.loss, "images": found.images}


def worst_case(X, y):
    return {"loss": learned("RobustLogisticRegression").worst_case_loss(X, y)}


def looked_at(X):
    model = learned("OpenVAEClassifier")
    return {"density": model.score_samples(X), "decoded": model.reconstruct(X)}


def learned_on(X, y, **fit):
    model = copy.deepcopy(learned("OpenVAEClassifier")).partial_fit(X, y, **fit)
    return {"proba": model.predict_proba(records("X_new")["X_new"])}


def by_gradients(X, y, sample_weight, X_new, y_new):
    oracle = adapters.TorchOracle(
        learned("NetClassifier").module_, X=X, y=y, sample_weight=sample_weight, l2=0.1
    )
    return {"influence": influence.InfluenceFunction().fit(oracle).influence(X_new, y_new)}


def scenes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = (rng.uniform(size=(24, 1, 8, 8)), rng.uniform(size=(24, 1)))
    X, attributes = (values.round(2).astype(np.float32).astype(float) for values in drawn)
    return {"X": X, "y": np.arange(24) % 2, "attributes_clean": attributes}


def edited(X, y, attributes_clean):
    editor = adapters.fit_editor(
        X, attributes_clean, y, epochs=1, code=2, width=4, random_state=0, progress=False
    )
    with torch.no_grad():
        found = editor.apply(torch.zeros(1, 1, 8, 8), torch.zeros(1, len(editor.names)))
    return {"edited": found.numpy()}


def queried(X):
    bound = adapters.WeibullBound("euclidean").fit(*records("X", "y", n=80).values())
    return {"chosen": continual.query_pool(X, 3, bound, random_state=0).indices}


def decomposed(X, y, X_val, y_val):
    found = adapters.decompose_pruning_effect(
        (4,), X, y, X_val, y_val, noise=(0.4,), arms=("lrr", "edt", "sparse_short"), levels=1, n_replicates=1, epochs=1, random_state=0,
        progress=False,
    )  # fmt: skip
    return numbers(found.runs.drop(columns="seconds", errors="ignore"))


def removed(X, y, X_new, y_new):
    from sklearn.linear_model import LogisticRegression

    order = np.arange(36.0)
    return numbers(
        influence.metrics.removal_curve(
            order, LogisticRegression(), X, y, X_new, y_new, (0.0, 0.2), n_random=2, progress=False
        )
    )


def with_nan():
    model = convolutional()["model"]
    with torch.no_grad():
        model[0].weight[0] = np.nan
    return model


NOT_A_NETWORK = {
    "no network": None,
    "a number as network": 3,
    "a class as network": nn.Linear,
    "a function as network": len,
    "a network without layers": nn.Flatten(),
    "a network without classes": nn.Sequential(nn.Flatten(), nn.Linear(36, 1)),
    "a network of other inputs": nn.Sequential(nn.Flatten(), nn.Linear(35, 3)),
    "a network with NaN": with_nan(),
}
NOT_A_SHAPE = {
    "a shape of text": "big",
    "a negative size": (1, -6, 6),
    "a size that is no integer": (1, 6.0, 6),
    "another shape": (3, 6, 6),
}
NOT_AN_ENVIRONMENT = {
    "no environment": None,
    "a number as environment": 3,
    "a dict as environment": {},
}


def in_place_of(name, values):
    return {
        what: lambda given, rng, value=value: given | {name: value}
        for what, value in values.items()
    }


# --- the table ------------------------------------------------------------------------------------------

NET = {"epochs": 2, "random_state": 0, "module__hidden": (4,), "progress": False}
ONE_ROUND = {"sparsity": 0.5, "schedule": "one-shot"}
CHAINS = {"draws": 60, "tune": 40, "chains": 2, "random_state": 0, "progress": False}
PLAIN = partial(records, "X", "y", "X_new")
WEIGHTED = partial(records, "X", "y", "sample_weight", "X_new")
GROUPED = partial(records, "X", "y", "groups", "X_new")
BOTH = partial(records, "X", "y", "groups", "sample_weight", "X_new")
REGRESSION = partial(records, "X", "y", "sample_weight", "X_new", "target")
TESTED = partial(records, "X", "y", "sample_weight", "X_new", "y_new")
UNWEIGHTED = partial(records, "X", "y", "X_new", "y_new")


def of(package, name, **parameters):
    """A function that makes an estimator, found when it is called."""
    return lambda: getattr(package, name)(**parameters)


def lines(package, make, run, rtol=1e-6, leave_out=(), **by_name):
    return [
        Recipe(
            f"{package.__name__}.{name}",
            make,
            partial(run, of(package, name, **parameters)),
            rtol,
            dict(leave_out),
        )
        for name, parameters in by_name.items()
    ]


R = {"random_state": 0}
MINIBATCHES = {"half the weight twice": "minibatches are random, a weight is no number of copies"}
A_COLUMN_A_RECORD = {"half the weight twice": "each record has an influence of its own"}
PRECISION = A_COLUMN_A_RECORD | {"float32": "scikit-learn's models train in the precision of X"}
ANY_SHAPE = {
    f"one {how} of release": "a table of another shape is another table" for how in ("more", "less")
}
RECIPES = [
    *lines(graphs, network, ranked, SignedBetaModel={}),
    *lines(graphs, lambda: {"A": np.abs(network()["A"])}, ranked, DirectedBetaModel={}),
    *lines(group_robust, BOTH, linear, 1e-4, GroupDROClassifier={"l2": 0.1}),
    *lines(group_robust, partial(records, "X", "y", "groups", "sample_weight", "X_new", "target"), linear, 1e-4, GroupDRORegressor={"l2": 0.1}),
    *lines(group_robust, PLAIN, classify, CVaRClassifier={"alpha": 0.5}, AGROClassifier={"slicer": TreeSlicer(2, n_permutations=3), "n_rounds": 2, "cv": 2, **R}, JTTClassifier=R),
    *lines(group_robust, GROUPED, classify, DeepFeatureReweighting={"Cs": (0.1, 1.0), "n_retrains": 2, **R}),
    *lines(group_robust, partial(records, "X", "y"), partitioned, EIILPartition=R, XRMPartition={"n_rounds": 2, **R}),
    *lines(influence, TESTED, attributed, 1e-5, A_COLUMN_A_RECORD, InfluenceFunction={}, NewtonStep={}, RepresenterPoint={}, TRAK=R, Influence={}),
    Recipe("statml.influence.TracIn", TESTED, partial(attributed, lambda: influence.TracIn(trajectory())), leave_out=A_COLUMN_A_RECORD),
    Recipe("statml.influence.HyDRA", TESTED, partial(attributed, lambda: influence.HyDRA(trajectory=trajectory())), leave_out=A_COLUMN_A_RECORD),
    Recipe("statml.influence.SGDInfluence", TESTED, partial(attributed, lambda: influence.SGDInfluence(trajectory=trajectory())), leave_out=A_COLUMN_A_RECORD),
    Recipe("statml.influence.Source", TESTED, partial(attributed, lambda: influence.Source(2, trajectory())), leave_out=A_COLUMN_A_RECORD),
    *lines(influence, UNWEIGHTED, partial(attributed, kind="trees"), TreeInfluence={}),
    *lines(influence, UNWEIGHTED, partial(attributed, kind="neighbours"), KNNShapley={"n_neighbors": 3}),
    *lines(influence, TESTED, retrained, leave_out=PRECISION, LeaveOneOut={}, SubsetEnsemble={"n_subsets": 10, **R}, DataShapley={"max_permutations": 2, "stop": 0, **R}),
    *lines(adapters, WEIGHTED, classify, leave_out=MINIBATCHES, NetClassifier=NET, JTTNet=NET, LfFNet=NET, PruningClassifier=NET | ONE_ROUND),
    *lines(adapters, partial(records, "X", "y", "attributes_clean", "sample_weight", "X_new"), classify, leave_out=MINIBATCHES, AttributeAdversarialClassifier=NET | {"attributes": [Custom(moved, -0.2, 0.2)], "n_steps": 1}),
    *lines(adapters, REGRESSION, regress, leave_out=MINIBATCHES, NetRegressor=NET, PruningRegressor=NET | ONE_ROUND),
    *lines(adapters, BOTH, classify, leave_out=MINIBATCHES, GroupDRONet=NET),
    *lines(adapters, PLAIN, classify, AGRONet=NET | {"cv": 2, "init": "random", "slicer_epochs": 1}),
    *lines(adapters, WEIGHTED, linear, 1e-4, RobustLogisticRegression={"l2": 0.1}),
    Recipe("statml.adapters.AMALClassifier", partial(records, "X", "y", "sample_weight", "X_val", "y_val", "X_new"), amal, leave_out=MINIBATCHES),
    Recipe("statml.adapters.NetFeatures", WEIGHTED, features, leave_out=MINIBATCHES),
    Recipe("statml.adapters.OpenVAEClassifier", WEIGHTED, open_vae, leave_out=MINIBATCHES),
    *lines(adapters, partial(records, "X", "y", "y_pred", "held_out", "X_new", n=80), bounded, ConformalBound={"distance": "euclidean"}),
    *lines(adapters, partial(records, "X", "y", "y_pred", "X_new", n=80), bounded, PeaksOverThresholdBound={"distance": "euclidean"}, WeibullBound={"distance": "euclidean"}),
    *lines(adapters, rule_votes, voted, CAGE={}),
    *lines(adapters, votes, voted, DawidSkene={}, MajorityVote={}),
    Recipe("statml.adapters.GenieQuantizer", convolutional, quantize, leave_out={"nothing for X": "no data are needed", "too few X": "they have no labels"}, own=in_place_of("model", NOT_A_NETWORK) | in_place_of("input_shape", NOT_A_SHAPE)),
    Recipe("statml.adapters.ViewpointPolicy", lambda: {"env": ActiveClassificationEnv(n_targets=2, horizon=5)}, look, own=in_place_of("env", NOT_AN_ENVIRONMENT)),
    Recipe("statml.privacy.PrivatePosterior", lambda: {"release": [7.0]}, partial(released, lambda: privacy.PrivatePosterior(models.BetaBernoulli(2, 3), mechanisms.DiscreteLaplace(2.0), 30, **CHAINS))),
    Recipe("statml.privacy.PrivateProportion", lambda: {"release": [17.0]}, partial(released, lambda: privacy.PrivateProportion(mechanisms.DiscreteLaplace(2), 30, **CHAINS))),
    Recipe("statml.privacy.PrivateContingencyTable", lambda: {"release": [[13, 11], [5, 12]]}, partial(released, lambda: privacy.PrivateContingencyTable(mechanisms.DiscreteGaussian(2.0), 40, **CHAINS)), leave_out=ANY_SHAPE),
    Recipe("statml.privacy.PrivateNaiveBayes", lambda: {"release": [20.0, 4, 5, 21, 15, 9, 4, 22]}, partial(released, lambda: privacy.PrivateNaiveBayes(mechanisms.DiscreteLaplace(4), 50, n_levels=(2, 2), n_classes=2, **CHAINS))),
    Recipe("statml.privacy.PrivateLinearRegression", lambda: {"release": [-17.2, -5.2, 11.0, 3.5, 6.8]}, partial(released, lambda: privacy.PrivateLinearRegression(mechanisms.Laplace(scale=1.5), 50, formula="y ~ x", bounds=(-10, 10), **CHAINS))),
]  # fmt: skip

# Functions and methods that are handed data, and what is no estimator but is run on them.
ANY_NUMBER = {"too few X": "records may be of any number"}
OVERLAPPING = {"two columns of groups": "two columns of 0 and 1 are groups that overlap"}
FUNCTIONS = [
    Recipe("statml.group_robust.group_report", partial(records, "y", "y_pred", "groups"), lambda y, y_pred, groups: numbers(group_robust.group_report(y, y_pred, groups)), leave_out=OVERLAPPING),
    Recipe("statml.group_robust.worst_group_score", partial(records, "y", "y_pred", "groups", "sample_weight"), lambda y, y_pred, groups, sample_weight: {"score": group_robust.worst_group_score(y, y_pred, groups, sample_weight=sample_weight)}, leave_out=OVERLAPPING),
    Recipe("statml.influence.metrics.removal_curve", UNWEIGHTED, removed, leave_out=PRECISION),
    Recipe("statml.adapters.robustness_report", partial(records, "X", "y"), judged),
    Recipe("statml.adapters.ContinualEvaluator", UNWEIGHTED, continued, leave_out={"no records": "no records are no tasks"}),
    Recipe("statml.adapters.continual.query_pool", partial(records, "X"), queried, leave_out=ANY_NUMBER),
    Recipe("statml.adapters.continual.select_exemplars", partial(records, "X", "y"), lambda X, y: {"chosen": continual.select_exemplars(X, y, 4, random_state=0)}),
    Recipe("statml.adapters.OpenVAEClassifier.score_samples", partial(records, "X"), looked_at, leave_out=ANY_NUMBER),
    Recipe("statml.adapters.OpenVAEClassifier.partial_fit", partial(records, "X", "y", "sample_weight"), learned_on, leave_out=MINIBATCHES),
    Recipe("statml.adapters.AttributeAdversarialClassifier.attack", partial(records, "X", "y"), attacked),
    Recipe("statml.adapters.RobustLogisticRegression.worst_case_loss", partial(records, "X", "y"), worst_case),
    Recipe("statml.adapters.Teacher", shares, partial(told, adapters.Teacher)),
    Recipe("statml.adapters.SoftTarget", shares, partial(told, adapters.SoftTarget)),
    Recipe("statml.adapters.TorchOracle", TESTED, by_gradients, 1e-5, A_COLUMN_A_RECORD),
    Recipe("statml.adapters.fit_editor", scenes, edited, leave_out={"two columns of attributes_clean": "any number of attributes may be recorded"}),
    Recipe("statml.adapters.decompose_pruning_effect", partial(records, "X", "y", "X_val", "y_val"), decomposed),
]  # fmt: skip
