"""Everything public that goes on from a `checkpoint_dir`, one small job each.

A job takes a folder (or None) and returns arrays by name: all that the run computed, but times. `JOBS` names, for each, the
public object that it is about; `test_kills` asserts that none is missing.
"""

import warnings
from functools import partial

import numpy as np
import pandas as pd


def columns(frame: pd.DataFrame, *left_out: str) -> dict[str, np.ndarray]:
    """The columns of a table; what is no number is compared as text."""
    frame = frame.drop(columns=list(left_out), errors="ignore").reset_index(drop=True)
    return {
        f"{name}": values.to_numpy()
        if values.dtype.kind in "biuf"
        else values.astype(str).to_list()
        for name, values in frame.items()
    }


def weights(module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


def records(n=150, seed=0):
    """Two features, three more of noise, two classes, and groups in which the first feature tells less."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5)).astype(np.float32)
    y = (X[:, 0] + X[:, 1] + 0.5 * rng.normal(size=n) > 0).astype(int)
    return X, y, (X[:, 0] > 0).astype(int)


def images(n=120, n_classes=10):
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    kept = np.flatnonzero(y < n_classes)[:n]
    return (X[kept] / 16).astype(np.float32).reshape(-1, 1, 8, 8), y[kept]


# --- the rooms that all share -------------------------------------------------------------------------


def draw(task, rng):
    import time

    time.sleep(0.02)
    return {"task": task, "x": rng.normal(size=20_000)}


def parallel_loop(folder, n_jobs=1):
    from statml.parallel import parallel_map

    found = parallel_map(draw, range(40), random_state=5, n_jobs=n_jobs, checkpoint_dir=folder)
    return {"x": np.stack([one["x"] for one in found]), "task": [one["task"] for one in found]}


def simulated_eigenvalues(rng):
    return np.linalg.eigvalsh(np.cov(rng.normal(size=(120, 200))))


def bootstrap(folder):
    from statml.inference import parametric_bootstrap

    return {
        "draws": parametric_bootstrap(
            simulated_eigenvalues, np.sort, 60, random_state=0, checkpoint_dir=folder
        )
    }


# --- graphs, privacy, groups, influence ---------------------------------------------------------------


def signed_network(folder):
    from statml.datasets import make_signed_network
    from statml.graphs import SignedBetaModel

    data = make_signed_network(80, 0.4, 0.5, 0.5, heterogeneity=1.0, random_state=3)
    fit = SignedBetaModel(l2=1e-3, random_state=0).fit(data.adjacency)
    return columns(fit.gof(n_boot=60, checkpoint_dir=folder).tests)


def private(make, release, folder):
    """Chains that write their state after every round, and whose rounds are short."""
    from statml.privacy import sampling

    sampling.CHECKPOINT_EVERY, sampling.SECONDS_A_ROUND = 0.0, 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so few draws
        fit = make(chains=2, random_state=5, progress=False, checkpoint_dir=folder).fit(release)
    kept = {"draws": fit.draws_of()}
    return kept | {name: np.asarray(v) for name, v in fit.idata_.sample_stats.items()}


def private_posterior(folder):
    from statml.privacy import PrivatePosterior, mechanisms, models

    model = models.NormalMean(sigma=2.0, prior_sd=3.0, bounds=(-9, 9))
    make = partial(
        PrivatePosterior, model, mechanisms.Gaussian(0.3), 200, kernel="interweave", draws=8000,
        tune=500,
    )  # fmt: skip
    return private(make, [1.3], folder)


def private_regression(folder):
    from statml.privacy import PrivateLinearRegression, mechanisms

    release = {
        "y": -17.2, "x1 y": -5.2, "x2 y": 1.6, "y^2": 11.0, "x1": 3.5, "x1^2": 6.8, "x2": -6.9,
        "x1 x2": 1.1, "x2^2": -2.1,
    }  # fmt: skip
    make = partial(
        PrivateLinearRegression, mechanisms.Laplace(scale=1.5), n_records=50, bounds=(-10, 10),
        draws=1500, tune=300,
    )  # fmt: skip
    return private(make, release, folder)


def private_naive_bayes(folder):
    from statml.privacy import PrivateNaiveBayes, mechanisms

    tables = [np.array([[40, 8], [10, 42]]), np.array([[30, 15, 5], [4, 16, 30]])]
    make = partial(
        PrivateNaiveBayes, mechanisms.DiscreteLaplace(4), n_records=100, draws=9000, tune=300
    )
    return private(make, tables, folder)


def private_table(folder):
    from statml.privacy import PrivateContingencyTable, mechanisms

    make = partial(
        PrivateContingencyTable, mechanisms.DiscreteGaussian(6.25), n_records=400,
        draws=20_000, tune=300,
    )  # fmt: skip
    return private(make, [[131, 119], [47, 122]], folder)


def private_proportion(folder):
    from statml.privacy import PrivateProportion, mechanisms

    make = partial(
        PrivateProportion, mechanisms.DiscreteLaplace(scale=2), n_records=300, kernel="mwg",
        draws=6000, tune=300,
    )  # fmt: skip
    return private(make, 170, folder)


def private_design(folder):
    from statml.privacy import design_release, mechanisms, models

    candidates = {eps: mechanisms.Laplace.from_epsilon(eps, 0.2) for eps in (0.5, 5.0)}
    model = models.NormalMean(sigma=2.0, prior_sd=3.0, bounds=(-9, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = design_release(
            model, candidates, 50, n_sims=12, draws=200, random_state=5, checkpoint_dir=folder
        )
    return columns(found.table)


def subsampled(name, folder):
    import statml.group_robust as family

    X, y, groups = records(300)
    fit = getattr(family, name)().fit(X, y, groups)
    found = fit.subsample(n_subsamples=80, random_state=3, progress=False, checkpoint_dir=folder)
    return {"deviations": found.deviations}


def retrained(name, folder, **options):
    from sklearn.linear_model import LogisticRegression

    import statml.influence as family

    X, y, _ = records(80)
    method = getattr(family, name)(**options, progress=False, checkpoint_dir=folder)
    model = LogisticRegression(C=10.0).fit(X[:40], y[:40])
    method.fit(model, X[:40], y[:40], X_val=X[40:], y_val=y[40:])
    values = method.influence() if name == "DataShapley" else method.influence(X[40:], y[40:])
    return {"influence": np.asarray(values)}


# --- networks -----------------------------------------------------------------------------------------

NET = {"module__hidden": (16,), "module__dropout": 0.2, "lr": 0.01, "random_state": 0}


def trained(name, folder, options=NET, groups=False, **more):
    import statml.adapters as adapters

    X, y, g = records()
    model = getattr(adapters, name)(**options, **more, progress=False, checkpoint_dir=folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so little data
        model.fit(X, y, **({"groups": g} if groups else {}))
    kept = weights(model.module_) | {"loss": model.loss_curve_}
    for table in ("history_", "path_", "slices_"):
        if hasattr(model, table):
            found = columns(getattr(model, table), "seconds", "time", "latency_ms")
            kept |= {f"{table}{c}": values for c, values in found.items()}
    return kept


def mixed_losses(folder):
    from statml.adapters import AMALClassifier, Teacher

    X, y, _ = records(200)
    rng = np.random.default_rng(1)
    teachers = [Teacher(rng.normal(size=(150, 2)) + 3 * np.eye(2)[y[:150]], name=n) for n in "ab"]
    model = AMALClassifier(**NET, epochs=25, progress=False, checkpoint_dir=folder)
    model.fit(X[:150], y[:150], teachers, X[150:], y[150:])
    return weights(model.module_) | {"lambda": model.lambda_, "path": model.lambda_path_}


def decomposed(folder):
    from statml.adapters import decompose_pruning_effect

    X, y, _ = records(200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = decompose_pruning_effect(
            (8,), X[:120], y[:120], X[120:], y[120:], levels=2, n_replicates=3, epochs=2,
            random_state=0, progress=False, checkpoint_dir=folder,
        )  # fmt: skip
    return columns(found.runs, "seconds")


def adversarially_trained(folder, **options):
    from statml.adapters import AttributeAdversarialClassifier
    from statml.adapters.attribute_robust import Rotation, Translate

    X, y = images()
    model = AttributeAdversarialClassifier(
        attributes=[Rotation(30), Translate(0.15)], n_steps=2, warmup_epochs=1, epochs=20,
        module__hidden=(16,), random_state=0, progress=False, checkpoint_dir=folder, **options,
    ).fit(X, y)  # fmt: skip
    return weights(model.module_) | columns(model.history_, "seconds")


def quantized(folder, real=False, **options):
    import torch
    from statml.adapters import GenieQuantizer
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),
            nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10),
        ).eval()  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so few iterations
        model = GenieQuantizer(
            n_samples=48, distill_batch=24, distill_iter=8, generator_channels=(8, 4), latent_dim=16,
            recon_iter=40, random_state=0, progress=False, checkpoint_dir=folder, **options,
        ).fit(network, images()[0] if real else None, input_shape=(1, 8, 8))  # fmt: skip
    return {
        **({} if real else {"images": model.synthetic_data_}),
        "logits": model.decision_function(images()[0]),
        **columns(model.layers_, "seconds", "time_s"),
    }


def open_vae(folder, **options):
    from statml.adapters import OpenVAEClassifier

    X, y = images(200, 4)
    X = X.reshape(len(X), -1)
    model = OpenVAEClassifier(
        hidden=(32,), latent_dim=6, epochs=12, batch_size=32, random_state=0, progress=False,
        checkpoint_dir=folder, **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for task in ((0, 1), (2, 3)):
            model.partial_fit(X[np.isin(y, task)], y[np.isin(y, task)])
    return {"proba": model.predict_proba(X), "outlier": model.outlier_proba(X)}


def continual_runs(folder):
    from sklearn.linear_model import SGDClassifier
    from statml.adapters import ContinualEvaluator

    X, y = images(400, 6)
    X = X.reshape(len(X), -1)
    evaluator = ContinualEvaluator.from_classes(X[::2], y[::2], X[1::2], y[1::2])
    report = evaluator.run(
        SGDClassifier(loss="log_loss", random_state=0), n_repeats=30, orders="random",
        random_state=0, progress=False, checkpoint_dir=folder,
    )  # fmt: skip
    return {"matrices": report.matrices_, "orders": [run["order"] for run in report.runs]}


def viewpoints(folder):
    from statml.adapters.viewpoint import ActiveClassificationEnv, ViewpointPolicy, ppo

    ppo.STRETCH = 2  # iterations from one file to the next
    policy = ViewpointPolicy(
        d_model=16, n_heads=2, total_steps=240, warm_start_steps=40, n_envs=2, n_steps=10,
        batch_size=20, random_state=0, progress=False, checkpoint_dir=folder,
    ).fit(ActiveClassificationEnv(n_targets=(1, 3), side=8.0, horizon=30))  # fmt: skip
    return weights(policy.network_) | columns(policy.history_, "cpu_s")


# Each line: the public object that has `checkpoint_dir`, what of it is tried, the job.
JOBS = {
    ("statml.parallel.parallel_map", "alone"): parallel_loop,
    ("statml.parallel.parallel_map", "two workers"): partial(parallel_loop, n_jobs=2),
    ("statml.inference.parametric_bootstrap", ""): bootstrap,
    ("statml.graphs.SignedBetaModel", "gof"): signed_network,
    ("statml.privacy.PrivatePosterior", ""): private_posterior,
    ("statml.privacy.PrivateLinearRegression", ""): private_regression,
    ("statml.privacy.PrivateNaiveBayes", ""): private_naive_bayes,
    ("statml.privacy.PrivateContingencyTable", ""): private_table,
    ("statml.privacy.PrivateProportion", ""): private_proportion,
    ("statml.privacy.design_release", ""): private_design,
    ("statml.group_robust.GroupDROClassifier", "subsample"): partial(subsampled, "GroupDROClassifier"),
    ("statml.group_robust.GroupDRORegressor", "subsample"): partial(subsampled, "GroupDRORegressor"),
    ("statml.influence.DataShapley", ""): partial(retrained, "DataShapley", max_permutations=16, stop=0, random_state=0),
    ("statml.influence.LeaveOneOut", ""): partial(retrained, "LeaveOneOut", warm_start=False),
    ("statml.influence.SubsetEnsemble", ""): partial(retrained, "SubsetEnsemble", n_subsets=200, store="outputs", random_state=0),
    ("statml.adapters.NetClassifier", ""): partial(trained, "NetClassifier", epochs=150),
    ("statml.adapters.NetRegressor", ""): partial(trained, "NetRegressor", epochs=150),
    ("statml.adapters.GroupDRONet", ""): partial(trained, "GroupDRONet", epochs=60, groups=True, averaging=0.5, selection="worst-group"),
    ("statml.adapters.JTTNet", ""): partial(trained, "JTTNet", epochs=60, cv=2),
    ("statml.adapters.LfFNet", ""): partial(trained, "LfFNet", epochs=60),
    ("statml.adapters.AGRONet", "two stages"): partial(trained, "AGRONet", epochs=16, cv=2),
    ("statml.adapters.AGRONet", "alternating"): partial(trained, "AGRONet", epochs=16, cv=2, schedule="alternate"),
    ("statml.adapters.PruningClassifier", "path"): partial(trained, "PruningClassifier", epochs=3, schedule="iterative", rewind="weight"),
    ("statml.adapters.PruningClassifier", "learned gates"): partial(trained, "PruningClassifier", epochs=12, schedule="cubic", criterion="l0"),
    ("statml.adapters.PruningRegressor", "path"): partial(trained, "PruningRegressor", epochs=3, schedule="iterative", rewind="lr"),
    ("statml.adapters.decompose_pruning_effect", ""): decomposed,
    ("statml.adapters.AMALClassifier", ""): mixed_losses,
    ("statml.adapters.AttributeAdversarialClassifier", "online"): adversarially_trained,
    ("statml.adapters.AttributeAdversarialClassifier", "pool"): partial(adversarially_trained, mode="pool", pool_every=3),
    ("statml.adapters.GenieQuantizer", ""): quantized,
    ("statml.adapters.GenieQuantizer", "BRECQ on real records"): partial(quantized, real=True, method="brecq"),
    ("statml.adapters.OpenVAEClassifier", "two tasks"): open_vae,
    ("statml.adapters.OpenVAEClassifier", "exemplars, elastic weights"): partial(open_vae, replay="exemplar", memory_size=20, regularization="ewc"),
    ("statml.adapters.ContinualEvaluator", "run"): continual_runs,
    ("statml.adapters.viewpoint.ViewpointPolicy", ""): viewpoints,
}  # fmt: skip
