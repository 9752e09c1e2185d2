"""PyMC models as data models, and record sweeps inside pm.sample."""

import copy
import warnings

import numpy as np
import pytest
from scipy import stats

pm = pytest.importorskip("pymc")

from statml.privacy import PrivatePosterior, RecordSweepStep, mechanisms, models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:PyTensor could not link to a BLAS:UserWarning")
N = 50


def build(n):
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 3)
        pm.Normal("x", mu, 2, shape=n)
    return model


def build_with_transforms(n):
    """Bounds that depend on another parameter, a simplex, a vector; records of two columns."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 2, shape=2)
        s = pm.HalfNormal("s", 1)
        a = pm.Uniform("a", 0, s)
        pm.Dirichlet("p", np.ones(3))  # on which the records do not depend
        pm.Normal("x", mu, s + a, shape=(n, 2))
    return model


def mean(x):
    return x / len(x)


@pytest.fixture(scope="module")
def normal():
    return models.PyMCModel(build, statistic=mean, statistic_names=["mean"])


def test_names_and_shapes_are_read_from_the_model(normal):
    assert normal.parameter_names == ["mu"]
    model = models.PyMCModel(build_with_transforms)
    assert model.parameter_names == ["mu[0]", "mu[1]", "s", "a", "p[0]", "p[1]", "p[2]"]
    assert model.statistic_names == ["S[0]", "S[1]"]
    rng = np.random.default_rng(0)
    theta = model.sample_prior(rng)
    assert theta.shape == (7,)
    assert theta[4:].sum() == pytest.approx(1)
    assert 0 < theta[3] < theta[2]
    assert model.sample_records(theta, 7, rng).shape == (7, 2)


def test_the_unconstrained_scale_and_its_density_are_right():
    """There and back; the gradient by differences; the density by hand for one model."""
    model = models.PyMCModel(build_with_transforms)
    rng = np.random.default_rng(1)
    theta = model.sample_prior(rng)
    x = model.sample_records(theta, 7, rng)
    compiled = model._compiled(7)
    q = compiled.to_unconstrained(theta)
    np.testing.assert_allclose(compiled.to_natural(q), theta, rtol=1e-10)
    target = compiled.target(x)
    _, gradient = target(q)
    steps = 1e-6 * np.eye(len(q))
    by_differences = [(target(q + e)[0] - target(q - e)[0]) / 2e-6 for e in steps]
    np.testing.assert_allclose(gradient, by_differences, rtol=1e-5, atol=1e-5)
    # log p(theta) + log f(x | theta) + log Jacobian, up to what does not depend on q
    other = model.sample_prior(rng)
    r = compiled.to_unconstrained(other)

    def by_hand(theta):
        mu, s, a, p = theta[:2], theta[2], theta[3], theta[4:]
        prior = stats.norm(0, 2).logpdf(mu).sum() + stats.halfnorm.logpdf(s) - np.log(s)
        jacobian = np.log(s) + np.log(a / s * (1 - a / s) * s) + np.log(p).sum()
        return prior + jacobian + stats.norm(mu, s + a).logpdf(x).sum()

    assert target(q)[0] - target(r)[0] == pytest.approx(by_hand(theta) - by_hand(other))


def test_draws_come_from_the_generator_that_is_handed_in(normal):
    draws = [
        (normal.sample_prior(rng), normal.sample_records(np.array([1.0]), N, rng))
        for rng in (np.random.default_rng(3), np.random.default_rng(3))
    ]
    np.testing.assert_array_equal(draws[0][0], draws[1][0])
    np.testing.assert_array_equal(draws[0][1], draws[1][1])
    rng = np.random.default_rng(0)
    prior = [normal.sample_prior(rng)[0] for _ in range(500)]
    assert stats.kstest(prior, stats.norm(0, 3).cdf).pvalue > 1e-4
    x = np.concatenate([normal.sample_records(np.array([1.0]), N, rng) for _ in range(20)])
    assert stats.kstest(x[:, 0], stats.norm(1, 2).cdf).pvalue > 1e-4


@pytest.mark.parametrize("step", ["hmc", "slice"])
def test_the_step_leaves_the_posterior_of_complete_records_invariant(step):
    """Start from it, move, and test its law; and the tuning settles and freezes."""
    model = models.PyMCModel(build, statistic=mean, step=step, n_steps=5 if step == "hmc" else 1)
    model.chain_state = copy.deepcopy(model.chain_state)
    rng = np.random.default_rng(0)
    x = model.sample_records(np.array([1.5]), N, rng)
    precision = 1 / 9 + N / 4
    law = stats.norm(x.sum() / 4 / precision, precision**-0.5)
    theta = np.array([0.0])
    for _ in range(300):
        theta = model.draw_posterior(x, theta, rng)
    model.end_warmup()
    tuned = copy.deepcopy(model.chain_state)
    moved = []
    for start in law.rvs(400, random_state=rng):
        theta = np.array([start])
        for _ in range(2):
            theta = model.draw_posterior(x, theta, rng)
        moved.append((start, theta[0]))
    before, after = np.array(moved).T
    assert stats.kstest(after, law.cdf).pvalue > 1e-4
    assert abs(np.corrcoef(before, after)[0, 1]) < 0.6  # and it does move
    for name, value in tuned.items():
        np.testing.assert_array_equal(value, model.chain_state[name])
    if step == "hmc":
        assert tuned["scale"][0] == pytest.approx(precision**-0.5, rel=0.5)


def test_a_posterior_from_pymc_is_the_exact_one(normal):
    """Normal mean, Laplace noise: 1.225530 with standard deviation 0.720332."""
    posterior = PrivatePosterior(
        normal, mechanisms.Laplace(0.5), N, draws=700, tune=300, chains=8, random_state=0, progress=False
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        posterior.fit({"mean": 1.3})
    assert posterior.kernel_ == "mwg"
    theta = posterior.idata_.posterior["mu"].to_numpy()
    for values, exact in ((theta, 1.225530), ((theta - 1.225530) ** 2, 0.720332**2)):
        means = values.mean(axis=1)
        t = (means.mean() - exact) / (means.std(ddof=1) / np.sqrt(8))
        assert abs(t) < stats.t(7).isf(5e-5)


def test_chains_tune_apart_and_resume(normal, tmp_path):
    def fit(folder=None, n_jobs=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return PrivatePosterior(
                normal, mechanisms.Laplace(0.5), N, draws=20, tune=30, chains=2, random_state=0, progress=False,
                checkpoint_dir=folder, n_jobs=n_jobs,
            ).fit([1.3])  # fmt: skip

    untouched = copy.deepcopy(normal.chain_state)
    first = fit()
    np.testing.assert_array_equal(first.draws_of(), fit(tmp_path).draws_of())
    (tmp_path / "task_000001.zip").unlink()
    np.testing.assert_array_equal(first.draws_of(), fit(tmp_path).draws_of())
    for name, value in untouched.items():
        np.testing.assert_array_equal(value, normal.chain_state[name])


def test_models_that_do_not_fit_are_refused():
    def with_observed(n):
        model = build(n)
        with model:
            pm.Normal("y", model["mu"], 1, observed=0.0)
        return model

    def with_potential(n):
        model = build(n)
        with model:
            pm.Potential("extra", model["mu"])
        return model

    def discrete(n):
        with pm.Model() as model:
            k = pm.Poisson("k", 3)
            pm.Normal("x", k, 1, shape=n)
        return model

    def per_record(n):
        with pm.Model() as model:
            z = pm.Normal("z", 0, 1, shape=n)
            pm.Normal("x", z, 1, shape=n)
        return model

    def wrong_axis(n):
        with pm.Model() as model:
            mu = pm.Normal("mu", 0, 1)
            pm.Normal("x", mu, 1, shape=(3, n + 5))
        return model

    for function, what in [
        (with_observed, "no observed variables and no potentials, got y"),
        (with_potential, "got extra"),
        (discrete, "parameters must be continuous, but k is discrete"),
        (wrong_axis, "the first axis of 'x' must be the record"),
    ]:
        with pytest.raises(ValueError, match=what):
            models.PyMCModel(function)
    with pytest.raises(
        ValueError,
        match="records must name a free variable of the PyMC model, got 'y'; there are mu, x",
    ):
        models.PyMCModel(build, records="y")
    with pytest.raises(TypeError, match="build must return a pm.Model"):
        models.PyMCModel(lambda n: None)
    with pytest.raises(TypeError, match="build must be a function"):
        models.PyMCModel(build(3))
    with pytest.raises(ValueError, match='step must be "hmc" or "slice"'):
        models.PyMCModel(build, step="nuts")
    with pytest.raises(ValueError, match="n_steps must be"):
        models.PyMCModel(build, n_steps=0)
    with pytest.raises(ValueError, match="sum or integrate per-record latent variables out"):
        models.PyMCModel(per_record).sample_records(np.zeros(2), 7, np.random.default_rng(0))
    with pytest.raises(ValueError, match="one row for each of 2 records"):
        models.PyMCModel(build, statistic=lambda x: x.sum(axis=0))
    with pytest.raises(ValueError, match="compiled for one number of records"):
        PrivatePosterior(
            models.PyMCModel(build), mechanisms.Laplace(1.0), N, n_prior=stats.poisson(N), progress=False
        ).fit([3.0])  # fmt: skip


def test_a_record_sweep_inside_pymc_gives_the_exact_posterior():
    with build(N) as model:
        step = RecordSweepStep(model["x"], mean, mechanisms.Laplace(0.5), [1.3])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            idata = pm.sample(
                draws=700, tune=200, chains=8, cores=1, step=step, random_seed=1, progressbar=False,
                compute_convergence_checks=False, nuts={"step_scale": 0.5},
            )  # fmt: skip
    theta = idata.posterior["mu"].to_numpy()
    for values, exact in ((theta, 1.225530), ((theta - 1.225530) ** 2, 0.720332**2)):
        means = values.mean(axis=1)
        t = (means.mean() - exact) / (means.std(ddof=1) / np.sqrt(8))
        assert abs(t) < stats.t(7).isf(5e-5)
    x = idata.posterior["x"].to_numpy()
    log_eta = stats.laplace(0, 0.5).logpdf(1.3 - x.mean(axis=-1))
    np.testing.assert_allclose(idata.sample_stats["log_eta"], log_eta)
    assert 0.9 < idata.sample_stats["accept_rate"].mean() < 1


def test_a_record_sweep_respects_transformed_records():
    """Positive records, which PyMC moves on the log scale."""
    with pm.Model() as model:
        rate = pm.Gamma("rate", 3, 1)
        x = pm.Exponential("x", rate, shape=20)
        step = RecordSweepStep([x], lambda x: x, mechanisms.Gaussian(0.5), [9.0], rng=0)
    point = model.initial_point()
    assert "x_log__" in point
    sums = []
    for _ in range(200):
        point, stats_ = step.step(point)
        sums.append(np.exp(point["x_log__"]).sum())
        assert stats_[0]["log_eta"] == pytest.approx(stats.norm(0, 0.5).logpdf(9 - sums[-1]))
    assert np.mean(sums[20:]) == pytest.approx(9, abs=1.0)
    assert point["rate_log__"] == model.initial_point()["rate_log__"]


def test_a_record_sweep_refuses_what_does_not_fit():
    with build(5) as model:
        x = model["x"]
        for arguments, error, what in [
            ((x, mean, 3.0, [1.0]), TypeError, "mechanism must be a Mechanism"),
            ((x, "mean", mechanisms.Laplace(1), [1.0]), TypeError, "statistic must be callable"),
            (
                (x, mean, mechanisms.Laplace(1), [1.0, 2.0]),
                ValueError,
                "release must have 1 entries",
            ),
            (
                (x, lambda x: x[:2], mechanisms.Laplace(1), [1.0]),
                ValueError,
                "one row for each of 5",
            ),
            (
                ([x, model["mu"]], mean, mechanisms.Laplace(1), [1.0]),
                ValueError,
                "the one variable",
            ),
        ]:
            with pytest.raises(error, match=what):
                RecordSweepStep(*arguments)
