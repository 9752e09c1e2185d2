"""Posteriors that are known by other means than sampling latent records, and every kernel that can reach them.

The truth comes from closed forms, quadrature, sums over all counts, importance sampling from the prior, or (one case) published long
runs. Eight chains, each with its own seed, are pooled, and their mean may be 4 Monte-Carlo standard errors off; one short chain alone
would be off by 3 of its own far too often.
"""

import warnings
from functools import cache

import arviz as az
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import trapezoid
from scipy.special import betaln, ndtr

from statml.privacy import PrivatePosterior, mechanisms, models

GATE = 4.0


def fitted(model, mechanism, n, release, kernel, draws=2500, tune=500, chains=8, seed=1, **more):
    posterior = PrivatePosterior(
        model, mechanism, n, draws=draws, tune=tune, chains=chains, kernel=kernel, random_state=seed,
        progress=False, **more,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # short chains, approximate kernels
        return posterior.fit(release)


def draws_by_chain(posterior):
    """Shape (chains, draws, k)."""
    chains = posterior.idata_.posterior.sizes["chain"]
    flat = posterior.draws_of().to_numpy()
    return flat.reshape(chains, -1, flat.shape[1])


def z_of_chains(values, truth):
    """z-score of the mean of all chains, values of shape (chains, draws).

    Not the mean of the chains' own z-scores: a chain that has missed a tail has too small a mean of squares and too small an
    error at once, so that these are biased for standard deviations.
    """
    return float(((values.mean() - truth) / az.mcse(values)).item())


def assert_agrees(posterior, mean, sd=None):
    theta = draws_by_chain(posterior)
    for j, truth in enumerate(np.atleast_1d(mean)):
        assert abs(z_of_chains(theta[..., j], truth)) < GATE, (j, theta[..., j].mean(), truth)
        if sd is not None:
            variance = np.atleast_1d(sd)[j] ** 2
            z = z_of_chains((theta[..., j] - truth) ** 2, variance)
            assert abs(z) < GATE, (j, theta[..., j].std(), variance**0.5)


# --- A, B: a normal mean ----------------------------------------------------------------------------------

A = (models.NormalMean(1.0, 0.0, 2.0), mechanisms.Gaussian(1 / 3), 100, [-2.0979015254933864])
B = (models.NormalMean(2.0, 0.0, 3.0), mechanisms.Laplace(0.5), 50, [1.3])


def normal_laplace_posterior():
    """Mean, standard deviation and quantiles for case B: the density of the release is an exponentially modified normal."""
    mu, v, b, s = np.linspace(-14, 16, 300_001), 2.0**2 / 50, 0.5, 1.3
    sd = np.sqrt(v)
    density = sum(
        np.exp(v / (2 * b**2) - sign * (s - mu) / b) * ndtr((sign * (s - mu) - v / b) / sd)
        for sign in (1, -1)
    )
    density = density * stats.norm.pdf(mu, 0, 3)
    density /= trapezoid(density, mu)
    mean = trapezoid(density * mu, mu)
    cumulative = np.cumsum(density) * (mu[1] - mu[0])
    return mean, np.sqrt(trapezoid(density * (mu - mean) ** 2, mu)), np.interp(
        [0.05, 0.5, 0.95], cumulative, mu
    )  # fmt: skip


KERNELS_OF_A_MEAN = ["mwg", "interweave", "block", "soma", "exact", "clt"]


@pytest.mark.parametrize("kernel", KERNELS_OF_A_MEAN)
def test_a_normal_mean_with_gaussian_noise_has_the_normal_posterior(kernel):
    """Case A. Totals of normal records are normal, so that the central-limit kernel is exact here, too."""
    v = 1 / 100 + 1 / 9
    precision = 1 / 4 + 1 / v
    mean = A[3][0] / v / precision
    assert mean == pytest.approx(-2.036248, abs=1e-6)
    assert precision**-0.5 == pytest.approx(0.342858, abs=1e-6)
    posterior = fitted(*A, kernel, draws=600 if kernel == "soma" else 2500)
    assert posterior.kernel_ == kernel
    assert_agrees(posterior, mean, precision**-0.5)


@pytest.mark.parametrize("kernel", KERNELS_OF_A_MEAN)
def test_a_normal_mean_with_laplace_noise_has_the_posterior_of_quadrature(kernel):
    """Case B."""
    mean, sd, quantiles = normal_laplace_posterior()
    np.testing.assert_allclose([mean, sd], [1.225530, 0.720332], atol=2e-6)
    np.testing.assert_allclose(quantiles, [0.0217, 1.2440, 2.3634], atol=1e-4)
    posterior = fitted(*B, kernel, draws=600 if kernel == "soma" else 2500)
    assert_agrees(posterior, mean, sd)
    theta = draws_by_chain(posterior)[..., 0]
    for level, quantile in zip((0.05, 0.5, 0.95), quantiles, strict=True):
        assert abs(z_of_chains((theta < quantile).astype(float), level)) < GATE


@pytest.mark.parametrize(
    ("sigma", "mechanism", "expected"),
    [
        (1.0, mechanisms.Gaussian(1 / 3 * 1), 2 / np.pi * np.arctan(np.sqrt(2) * (100 / 3) / 1.0)),
        (2.0, mechanisms.Gaussian(0.01), 2 / np.pi * np.arctan(np.sqrt(2) * 1.0 / 2.0)),
        (2.0, mechanisms.Laplace(0.5 / 2), 2 * np.exp((a := 2.0 / (np.sqrt(2) * 25)) ** 2 / 2) * ndtr(-a)),
    ],
    ids=["A", "little noise", "Laplace"],
)  # fmt: skip
def test_the_mean_acceptance_is_one_minus_the_total_variation_distance(sigma, mechanism, expected):
    """Averaged over releases of 100 normal records; the statistic is their mean, so that the noise of the sum is 100-fold."""
    model, n, rng = models.NormalMean(sigma, 0.0, 2.0), 100, np.random.default_rng(0)
    rates = []
    for seed in range(40):
        theta = model.sample_prior(rng)
        x = model.sample_records(theta, n, rng)
        release = mechanism.simulate(model, x, rng)
        # started where the release came from: the chain is stationary at once
        rates.append(
            fitted(model, mechanism, n, release, "mwg", 100, 0, 1, seed, init=theta)
            .acceptance_rate_
        )  # fmt: skip
    error = max(np.std(rates, ddof=1) / np.sqrt(len(rates)), 1e-5)
    assert abs(np.mean(rates) - expected) < 4.5 * error + 0.002


# --- C: a count; D: randomised answers ---------------------------------------------------------------------


def count_posterior(a, b, n, s, log_noise):
    """Mean, standard deviation and log p(s) by the sum over all counts."""
    c = np.arange(n + 1)
    log_p = stats.betabinom.logpmf(c, n, a, b) + log_noise(s - c)
    p = np.exp(log_p)
    p /= p.sum()
    first, total = (a + c) / (a + b + n), a + b + n
    second = first * (a + c + 1) / (total + 1)
    mean = p @ first
    return mean, np.sqrt(p @ second - mean**2), np.logaddexp.reduce(log_p)


def log_discrete_laplace(t):
    return lambda z: np.log(np.tanh(1 / (2 * t))) - np.abs(z) / t


def log_discrete_gaussian(sigma):
    k = np.arange(-400, 401)
    log_total = np.logaddexp.reduce(-(k**2) / (2 * sigma**2))
    return lambda z: -(z**2) / (2 * sigma**2) - log_total


CASES_C = {
    "C, 0.5": (mechanisms.DiscreteLaplace(2.0), log_discrete_laplace(2.0), 0.526813, 0.110256, -3.22326),
    "C, 1": (mechanisms.DiscreteLaplace(1.0), log_discrete_laplace(1.0), 0.538660, 0.091124, -3.20558),
    "C, 3": (mechanisms.DiscreteLaplace(1 / 3), log_discrete_laplace(1 / 3), 0.542598, 0.083553, -3.20053),
    "C'": (mechanisms.DiscreteGaussian(2.0), log_discrete_gaussian(2.0), 0.533680, 0.099654, None),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES_C))
@pytest.mark.parametrize("kernel", ["mwg", "interweave", "block", "soma", "exact"])
def test_a_noisy_count_has_the_posterior_of_the_sum_over_all_counts(case, kernel):
    """Cases C and C'."""
    mechanism, log_noise, *reference = CASES_C[case]
    mean, sd, log_p = count_posterior(2, 3, 30, 17, log_noise)
    np.testing.assert_allclose([mean, sd], reference[:2], atol=1e-6)
    if reference[2] is not None:
        assert log_p == pytest.approx(reference[2], abs=1e-5)
    model = models.BetaBernoulli(2, 3)
    evidence = np.logaddexp.reduce(model.log_count(np.array([17.0]), mechanism, 30))
    assert evidence == pytest.approx(log_p, abs=1e-9)
    draws = 800 if kernel == "soma" else 2500
    assert_agrees(fitted(model, mechanism, 30, [17], kernel, draws), mean, sd)


@pytest.mark.parametrize("kernel", ["mwg", "gibbs", "exact"])
def test_randomised_answers_have_the_posterior_of_quadrature(kernel):
    """Case D."""
    p = np.linspace(1e-6, 1 - 1e-6, 200_001)
    q = np.e / (1 + np.e)
    yes = p * q + (1 - p) * (1 - q)
    density = np.exp(112 * np.log(yes) + 88 * np.log1p(-yes) + 145) * p * (1 - p) ** 2
    density /= trapezoid(density, p)
    mean = trapezoid(density * p, p)
    sd = np.sqrt(trapezoid(density * (p - mean) ** 2, p))
    np.testing.assert_allclose([mean, sd], [0.607954, 0.072270], atol=1e-6)
    answers = np.repeat([1.0, 0.0], [112, 88])
    model, mechanism = (
        models.BetaBernoulli(2, 3),
        mechanisms.RandomizedResponse.from_epsilon(1.0, 2),
    )
    assert_agrees(fitted(model, mechanism, 200, answers, kernel, 1500), mean, sd)


# --- F, J: tables --------------------------------------------------------------------------------------------


def table_posterior(s, sigma, n):
    """Posterior means and standard deviations of uniform cell probabilities, by plain convolutions of exp(-(s - c)^2 / 2 sigma^2)."""
    c = np.arange(n + 1)
    w = np.exp(-((np.asarray(s)[:, None] - c) ** 2) / (2 * sigma**2))
    mean, sd = [], []
    for j in range(len(s)):
        others = np.ones(1)
        for k in range(len(s)):
            if k != j:
                others = np.convolve(others, w[k])[: n + 1]
        p = w[j] * others[::-1]
        p /= p.sum()
        total = n + len(s)
        first = p @ (1 + c) / total
        mean.append(first)
        sd.append(np.sqrt(p @ ((1 + c) * (2 + c)) / total / (total + 1) - first**2))
    return np.array(mean), np.array(sd)


@pytest.mark.parametrize("kernel", ["exact", "mwg", "block"])
def test_a_noisy_table_has_the_posterior_of_convolutions(kernel):
    """Case F."""
    s = (131, 119, 47, 122)
    mean, sd = table_posterior(s, 6.25, 400)
    np.testing.assert_allclose(mean, [0.314975, 0.285272, 0.107054, 0.292698], atol=1e-6)
    np.testing.assert_allclose(sd, [0.026680, 0.026125, 0.020374, 0.026272], atol=1e-6)
    model, mechanism = models.DirichletCategorical(np.ones(4)), mechanisms.DiscreteGaussian(6.25)
    assert_agrees(fitted(model, mechanism, 400, s, kernel, 2000), mean, sd)


J_ANSWERS = np.array([104, 120, 74, 102])  # of (1, 1), (1, 0), (0, 1), (0, 0)


@cache
def randomised_table_posterior():
    """Case J by importance sampling from a Dirichlet law near the posterior."""
    bit = np.array([[0.75, 0.25], [0.25, 0.75]])
    Q, rng = np.kron(bit, bit), np.random.default_rng(0)
    alpha = np.array([10.0, 12.0, 1.9, 10.0])  # below 2, since the posterior stays positive at 0
    p = rng.dirichlet(alpha, 400_000)
    log_w = np.log(p @ Q) @ J_ANSWERS - stats.dirichlet.logpdf(p.T, alpha)
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    mean = w @ p
    return Q, mean, np.sqrt(w @ (p - mean) ** 2)


@pytest.mark.parametrize("kernel", ["gibbs", "mwg"])
def test_two_randomised_questions_have_the_posterior_of_importance_sampling(kernel):
    """Case J."""
    Q, mean, sd = randomised_table_posterior()
    np.testing.assert_allclose(mean, [0.2819, 0.3362, 0.1101, 0.2718], atol=0.002)
    np.testing.assert_allclose(sd, [0.0596, 0.0638, 0.0520, 0.0589], atol=0.002)
    model, mechanism = models.DirichletCategorical(np.ones(4)), mechanisms.RandomizedResponse(Q)
    posterior = fitted(model, mechanism, 400, np.repeat(np.arange(4.0), J_ANSWERS), kernel, 1500)
    assert_agrees(posterior, mean, sd)


# --- I: linear regression ------------------------------------------------------------------------------------

I_RELEASE = {
    "y": -17.15473134947, "x1 y": -5.22543192070, "x2 y": 1.62618334063, "y^2": 11.03130155684,
    "x1": 3.48271049549, "x1^2": 6.80892011490, "x2": -6.91095869216, "x1 x2": 1.07561643523,
    "x2^2": -2.07216429908,
}  # fmt: skip
I_MODEL = models.LinearRegression(2, [0.9, -1.17], 1.0, 2.0, prior_scale=2.0, bounds=(-10, 10))


def regression_in_numpy():
    """The same model as a user writes it."""
    precision_of_prior, x_mean = np.eye(3) / 4, np.array([0.9, -1.17])

    def posterior(x, theta, rng):
        X = np.column_stack([np.ones(len(x)), x[:, :2]])
        half = np.linalg.inv(np.linalg.cholesky(X.T @ X / 2 + precision_of_prior))
        return half.T @ (half @ (X.T @ x[:, 2] / 2) + rng.standard_normal(3))

    def latent(theta, n, rng):
        x = x_mean + rng.standard_normal((n, 2))
        y = theta[0] + x @ theta[1:] + np.sqrt(2) * rng.standard_normal(n)
        return np.column_stack([x, y])

    def statistic(x):
        x1, x2, y = np.clip(x, -10, 10).T / 10
        return np.column_stack([y, x1 * y, x2 * y, y * y, x1, x1 * x1, x2, x1 * x2, x2 * x2])

    return models.CallableModel(
        posterior, latent, statistic, lambda rng: 2 * rng.standard_normal(3),
        parameter_names=["b0", "b1", "b2"], statistic_names=list(I_RELEASE),
    )  # fmt: skip


def test_regression_on_noisy_moments_agrees_with_published_long_runs():
    """Case I: 4 x 245,000 sweeps of another program, with MCSE 0.0057 of the means; acceptance 0.8718."""
    posterior = fitted(I_MODEL, mechanisms.Laplace(1.5), 50, I_RELEASE, "interweave", 10_000)
    theta = draws_by_chain(posterior)
    mcse = np.array([az.mcse(v) for v in np.moveaxis(theta, -1, 0)])
    z = (theta.mean(axis=(0, 1)) - [-0.925, -2.059, 0.623]) / np.hypot(mcse, 0.0057)
    assert np.abs(z).max() < GATE
    sd = theta.std(axis=(0, 1))
    squares = (theta - theta.mean(axis=(0, 1))) ** 2
    error = [float(az.mcse(v)[0]) for v in np.moveaxis(squares, -1, 0)] / (2 * sd)
    assert np.abs((sd - [1.522, 1.347, 1.350]) / np.hypot(error, 0.006)).max() < GATE
    for level, reference in ((0.05, [-3.550, -3.812, -1.502]), (0.95, [1.447, 0.658, 2.888])):
        share = (theta < reference).mean(axis=(0, 1))
        error = [az.mcse((v < q).astype(float)) for v, q in zip(np.moveaxis(theta, -1, 0), reference, strict=True)]  # fmt: skip
        assert np.abs((share - level) / np.hypot(error, 0.0015)).max() < GATE
    assert posterior.acceptance_rate_ == pytest.approx(0.8718, abs=0.002)


def test_a_users_numpy_regression_agrees_with_the_compiled_one():
    """On eight records, where the plain kernel moves fast enough for short chains."""
    release = {name: value / 6 for name, value in I_RELEASE.items()}
    own = fitted(I_MODEL, mechanisms.Laplace(0.4), 8, release, "interweave", 8000)
    user = fitted(regression_in_numpy(), mechanisms.Laplace(0.4), 8, release, "auto", 1500)
    assert user.kernel_ == "mwg"
    assert user.acceptance_rate_ == pytest.approx(own.acceptance_rate_, abs=0.01)
    a, b = draws_by_chain(own), draws_by_chain(user)
    for j in range(3):
        error = np.hypot(az.mcse(a[..., j]), az.mcse(b[..., j]))
        assert abs(a[..., j].mean() - b[..., j].mean()) < GATE * error


def test_the_order_of_a_release_matters_and_names_settle_it():
    """Permuted entries look plausible and give another posterior (pitfall 12); by name they cannot be confused."""
    shuffled = dict(sorted(I_RELEASE.items()))
    options = {"draws": 300, "tune": 200, "chains": 2}
    noise = mechanisms.Laplace(1.5)
    by_name = fitted(I_MODEL, noise, 50, shuffled, "interweave", **options)
    in_order = fitted(I_MODEL, noise, 50, list(I_RELEASE.values()), "interweave", **options)
    np.testing.assert_array_equal(by_name.draws_of(), in_order.draws_of())
    with pytest.raises(ValueError, match="in this order: y, x1 y, x2 y, y.2, x1, x1.2, x2"):
        fitted(I_MODEL, noise, 50, [1.0, 2.0], "interweave", **options)


# --- K: naive Bayes --------------------------------------------------------------------------------------------

NB = models.NaiveBayesLogLinear(n_classes=5, n_levels=[3] * 5)
EPSILONS = (0.1, 0.3, 1, 3, 10)


@cache
def naive_bayes_data():
    """The simulated records behind the reference figures."""
    rng = np.random.default_rng(2022)
    p, pi = rng.dirichlet(np.full(5, 2.0)), rng.dirichlet(np.full(3, 2.0), size=(5, 5))
    classes = rng.choice(5, 100, p=p)
    levels = [[rng.choice(3, p=pi[k, i]) for k in range(5)] for i in classes]
    return np.column_stack([classes, levels]).astype(float)


def naive_bayes_release(epsilon):
    """Tables (feature, level, class) with Laplace noise of scale 2 K / epsilon, in the order of the model."""
    noise = np.random.default_rng(100 + EPSILONS.index(epsilon)).laplace(0, 10 / epsilon, (5, 3, 5))
    return NB.statistic(naive_bayes_data()).sum(axis=0) + noise.transpose(0, 2, 1).ravel()


@pytest.mark.parametrize(
    ("epsilon", "reference"),
    [
        (1, [0.2997, 0.3094, 0.1344, 0.0765, 0.1800]),
        (10, [0.3683, 0.3244, 0.1221, 0.0274, 0.1578]),
    ],
)
def test_naive_bayes_is_drawn_exactly(epsilon, reference):
    """Case K."""
    mechanism = mechanisms.Laplace.from_epsilon(epsilon, NB.sensitivity())
    release = naive_bayes_release(epsilon)
    draws = NB.draw_exact(release, mechanism, 100, 40_000, np.random.default_rng(0))
    error = draws[:, :5].std(axis=0) / np.sqrt(len(draws))
    assert np.abs((draws[:, :5].mean(axis=0) - reference) / np.hypot(error, 3e-5)).max() < 4.5


def naive_bayes_by_enumeration(model, release, b):
    """E(theta | s) for two binary features and three records, by all 8^3 tables of records."""
    cells = np.array([[i, a, c] for i in range(2) for a in range(2) for c in range(2)], float)
    total, weights = 0.0, 0.0
    for records in np.ndindex(8, 8, 8):
        x = cells[list(records)]
        S = model.statistic(x).sum(axis=0)
        classes = np.bincount(x[:, 0].astype(int), minlength=2)
        alpha, beta = model.prior_class, model.prior_level
        log_w = betaln(*(alpha + classes)) - np.abs(release - S).sum() / b
        mean = [(alpha + classes) / (2 * alpha + 3)]
        for table in model.tables(S):
            log_w += sum(betaln(*(beta + row)) for row in table)
            mean.append(((beta + table) / (2 * beta + table.sum(axis=1, keepdims=True))).ravel())
        total = total + np.exp(log_w) * np.concatenate(mean)
        weights += np.exp(log_w)
    return total / weights


def test_exact_draws_and_chains_of_naive_bayes_agree_with_all_records_enumerated():
    model = models.NaiveBayesLogLinear(2, [2, 2], 1.5, 0.7)
    release = np.array([2.6, -0.4, 0.1, 1.2, 0.3, 1.4, 0.9, -1.1])
    truth = naive_bayes_by_enumeration(model, release, 0.8)
    for kernel in ("exact", "mwg"):
        assert_agrees(fitted(model, mechanisms.Laplace(0.8), 3, release, kernel, 4000), truth)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epsilon", "acceptance"), [(0.1, 0.988), (0.3, 0.963), (1, 0.881), (3, 0.676), (10, 0.193)]
)
def test_chains_of_naive_bayes_agree_with_exact_draws_at_every_epsilon(epsilon, acceptance):
    """The paper's example A; acceptance is far above exp(-epsilon)."""
    mechanism = mechanisms.Laplace.from_epsilon(epsilon, NB.sensitivity())
    release = naive_bayes_release(epsilon)
    chain = fitted(NB, mechanism, 100, release, "mwg", 20_000, 2000)
    exact = NB.draw_exact(release, mechanism, 100, 200_000, np.random.default_rng(0))
    assert chain.acceptance_rate_ == pytest.approx(acceptance, abs=0.004)
    assert chain.acceptance_rate_ > np.exp(-epsilon)
    theta = draws_by_chain(chain)
    for j in range(theta.shape[-1]):
        centre = exact[:, j].mean()
        for power in (1, 2):  # both sides are draws, so that both errors count
            a, b = (theta[..., j] - centre) ** power, (exact[:, j] - centre) ** power
            error = np.hypot(az.mcse(a), b.std() / np.sqrt(len(b))).item()
            # 160 comparisons at each of five epsilons: by chance one of them exceeds 4.5 in 0.5 % of cases
            assert abs(a.mean() - b.mean()) < 4.5 * error, (j, power)


# --- every model, by importance sampling from its own prior ------------------------------------------------------

SMALL = {
    "NormalMean": (models.NormalMean(2.0, 1.0, 3.0, bounds=(-3, 4)), mechanisms.Laplace(1.0)),
    "NormalMeanVariance": (
        models.NormalMeanVariance(1.0, 2.0, 3.0, 2.0, bounds=(-3, 4)), mechanisms.Laplace(1.2),
    ),
    "LinearRegression": (
        models.LinearRegression(1, 1.0, 0.5, 2.0, prior_scale=2.0, bounds=(-3, 5)),
        mechanisms.Laplace(1.0),
    ),
    "LinearRegression, nothing known": (
        models.LinearRegression(1, prior_shape=3.0, x_prior_df=5.0, bounds=(-4, 4)),
        mechanisms.Gaussian(1.0),
    ),
    "DirichletCategorical": (
        models.DirichletCategorical([1.0, 2.0, 0.5]), mechanisms.DiscreteLaplace(1.0),
    ),
    "PoissonGamma": (models.PoissonGamma(3.0, 0.5, upper=8), mechanisms.DiscreteLaplace(3.0)),
    "LogisticRegression": (
        models.LogisticRegression(1, 0.5, 1.0, prior_scale=2.0, bounds=(-2, 3)),
        mechanisms.Laplace(0.7),
    ),
    "LogisticRegression, nothing known": (
        models.LogisticRegression(1, x_prior_df=5.0, prior_scale=2.0, bounds=(-2, 3)),
        mechanisms.Laplace(0.7),
    ),
    "DirichletData": (models.DirichletData(3, 2.0, 0.5, floor=0.01), mechanisms.Laplace(4.0)),
}  # fmt: skip
N_SMALL, N_PRIOR = 5, 15_000


def importance_sample(model, mechanism, n_of, rng):
    """Draws of theta from the prior, with the density of one extreme but possible release as weights."""
    names = model.statistic_names
    draws, totals, numbers = [], [], []
    for _ in range(N_PRIOR):
        theta, n = model.sample_prior(rng), n_of(rng)
        draws.append(theta)
        totals.append(model.statistic(model.sample_records(theta, n, rng)).sum(axis=0))
        numbers.append(n)
    totals = np.array(totals)
    release = np.round(np.quantile(totals, 0.7, axis=0), 0 if mechanism.discrete else 2)
    release = mechanism.check_release(release, names)
    return np.array(draws), release, mechanism.log_density(release, totals), np.array(numbers)


def assert_distribution_agrees(posterior, prior, log_weight):
    """P(theta_j < prior quantiles | s), a chain's against the weighted prior's: both errors count."""
    w = np.exp(log_weight - log_weight.max())
    w /= w.sum()
    theta = draws_by_chain(posterior)
    worst = 0.0
    for j in range(prior.shape[1]):
        for cut in np.quantile(prior[:, j], [0.25, 0.5, 0.75]):
            below = (prior[:, j] < cut).astype(float)
            truth = w @ below
            error = np.sqrt(w**2 @ (below - truth) ** 2)
            values = (theta[..., j] < cut).astype(float)
            z = (values.mean() - truth) / np.hypot(error, az.mcse(values))
            worst = max(worst, abs(z))
    assert worst < 4.5
    assert 1 / (w**2).sum() > 400  # enough prior draws count


@pytest.mark.parametrize("name", list(SMALL))
def test_every_model_has_the_posterior_of_importance_sampling(name):
    model, mechanism = SMALL[name]
    rng = np.random.default_rng(3)
    prior, release, log_weight, _ = importance_sample(model, mechanism, lambda _: N_SMALL, rng)
    kernels = ["mwg", "interweave"] if hasattr(model, "to_ancillary") else ["mwg"]
    for kernel in kernels:
        posterior = fitted(model, mechanism, N_SMALL, release, kernel, 4000, 500, 4)
        assert posterior.kernel_ == kernel
        assert_distribution_agrees(posterior, prior, log_weight)


@pytest.mark.parametrize("kernel", ["block", "soma"])
@pytest.mark.parametrize(
    "name",
    [
        "DirichletData",
        pytest.param("LogisticRegression", marks=pytest.mark.slow),
        pytest.param("LinearRegression, nothing known", marks=pytest.mark.slow),
    ],
)
def test_block_and_one_move_of_many_reach_the_same_posterior(name, kernel):
    model, mechanism = SMALL[name]
    rng = np.random.default_rng(3)
    prior, release, log_weight, _ = importance_sample(model, mechanism, lambda _: N_SMALL, rng)
    posterior = fitted(model, mechanism, N_SMALL, release, kernel, 1500, 300, 4)
    assert_distribution_agrees(posterior, prior, log_weight)


def test_objective_perturbation_of_a_logistic_regression_has_the_posterior_of_importance_sampling():
    model = models.LogisticRegression(1, 0.5, 1.0, prior_scale=2.0, bounds=(-2, 3))
    mechanism = mechanisms.ObjectivePerturbation(2, scale=1.5, l2=0.2, design=model.design)
    rng = np.random.default_rng(4)
    release, prior, log_weight = np.array([0.4, -0.6]), [], []
    for _ in range(5000):
        theta = model.sample_prior(rng)
        x = model.sample_records(theta, N_SMALL, rng)
        prior.append(theta)
        totals = mechanism.statistic(model, x, release).sum(axis=0)
        log_weight.append(float(mechanism.log_density(release, totals)))
    posterior = fitted(model, mechanism, N_SMALL, release, "mwg", 1000, 100, 4)
    assert_distribution_agrees(posterior, np.array(prior), np.array(log_weight))


# --- unknown n ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["mwg", "interweave"])
def test_an_unknown_number_of_records_has_the_posterior_of_the_sum_over_all_numbers(kernel):
    a, b, s, s_n, top = 2, 3, 9.0, 22.0, 60
    total = np.zeros(4)
    for n in range(1, top + 1):
        c = np.arange(n + 1)
        log_w = stats.betabinom.logpmf(c, n, a, b) + log_discrete_laplace(2.0)(s - c)
        log_w = log_w + log_discrete_laplace(5.0)(s_n - n)
        w = np.exp(log_w)
        total += [w.sum(), w @ ((a + c) / (a + b + n)), n * w.sum(), n**2 * w.sum()]
    p_mean, n_mean, n_square = total[1:] / total[0]
    posterior = fitted(
        models.BetaBernoulli(a, b), mechanisms.DiscreteLaplace(2.0), None, [s, s_n], kernel,
        {"mwg": 2000, "interweave": 500}[kernel], 200,
        n_prior=stats.randint(1, top + 1), n_mechanism=mechanisms.DiscreteLaplace(5.0),
    )  # fmt: skip
    assert_agrees(posterior, p_mean)
    n = posterior.idata_.sample_stats["n"].to_numpy().astype(float)
    assert abs(z_of_chains(n, n_mean)) < GATE
    assert abs(z_of_chains(n**2, n_square)) < GATE


@pytest.mark.parametrize(
    "name",
    [
        "DirichletData",
        pytest.param("LinearRegression", marks=pytest.mark.slow),
        pytest.param("PoissonGamma", marks=pytest.mark.slow),
    ],
)
def test_models_of_sums_take_an_unknown_number_of_records(name):
    model, mechanism = SMALL[name]
    rng, law = np.random.default_rng(5), stats.randint(1, 9)
    prior, release, log_weight, n = importance_sample(
        model, mechanism, lambda rng: int(rng.integers(1, 9)), rng
    )
    kernel = "interweave" if hasattr(model, "to_ancillary") else "mwg"
    posterior = fitted(
        model, mechanism, None, release, kernel, 3000, 500, 4, n_prior=law
    )  # fmt: skip
    assert_distribution_agrees(posterior, prior, log_weight)
    w = np.exp(log_weight - log_weight.max())
    w /= w.sum()
    drawn = posterior.idata_.sample_stats["n"].to_numpy().astype(float)
    error = np.hypot(np.sqrt(w**2 @ (n - w @ n) ** 2), az.mcse(drawn))
    assert abs(drawn.mean() - w @ n) < GATE * error


def test_a_mean_is_refused_where_n_is_unknown():
    with pytest.raises(ValueError, match="statistic of NormalMean depends on the number of records"):  # fmt: skip
        fitted(*A[:2], 10, A[3], "mwg", 10, 0, 1, n_prior=stats.randint(5, 20))


# --- limits and invariances --------------------------------------------------------------------------------------


def test_without_noise_the_posterior_is_that_of_the_records_and_with_much_noise_the_prior():
    model = models.NormalMeanVariance(1.0, 2.0, 3.0, 2.0)
    rng = np.random.default_rng(6)
    x = model.sample_records(model.sample_prior(rng), 20, rng)
    S = model.statistic(x).sum(axis=0)
    kappa, a = 2.0 + 20, 3.0 + 10
    m = (2.0 + S[0]) / kappa
    b = 2.0 + S[1] / 2 + 1.0 - kappa * m**2 / 2
    sharp = fitted(model, mechanisms.Laplace(0.02), 20, S, "mwg", 20_000, 2000)
    theta = draws_by_chain(sharp)
    # the noise that is left moves means by far less than this
    assert np.abs(theta.mean(axis=(0, 1)) - [m, b / (a - 1)]).max() < 0.05
    blurred = fitted(model, mechanisms.Laplace(1e6), 20, S, "interweave", 4000)
    assert_agrees(blurred, [1.0, 2.0 / (3.0 - 1)])


def callable_mean(factor):
    """A clamped normal mean and its square, every statistic multiplied by a factor."""

    def posterior(x, theta, rng):
        return rng.normal(x.sum() / (len(x) + 0.25), (len(x) + 0.25) ** -0.5, 1)

    def statistic(x):
        x = np.clip(x, -3, 3)
        return factor * np.concatenate([x, x**2], axis=1)

    return models.CallableModel(
        posterior, lambda theta, n, rng: rng.normal(theta[0], 1, (n, 1)), statistic,
        lambda rng: rng.normal(0, 2, 1), parameter_names=["mu"], statistic_names=["x", "x^2"],
    )  # fmt: skip


def test_rescaling_statistics_release_and_noise_changes_nothing():
    one = fitted(
        callable_mean(1.0), mechanisms.Laplace([2.0, 5.0]), 20, [9.0, 30.0], "mwg", 200, 50, 2
    )
    four = fitted(callable_mean(4.0), mechanisms.Laplace([8.0, 20.0]), 20, [36.0, 120.0], "mwg", 200, 50, 2)  # fmt: skip
    np.testing.assert_array_equal(
        one.draws_of(), four.draws_of()
    )  # a power of two: to the last bit


def test_permuting_statistics_changes_nothing():
    model = callable_mean(1.0)
    swapped = models.CallableModel(
        model.posterior_f, model.latent_f, lambda x: model.statistic_f(x)[:, ::-1], model.prior_f,
        parameter_names=["mu"], statistic_names=["x^2", "x"],
    )  # fmt: skip
    one = fitted(model, mechanisms.Laplace([2.0, 5.0]), 20, [9.0, 30.0], "mwg", 200, 50, 2)
    two = fitted(swapped, mechanisms.Laplace([5.0, 2.0]), 20, [30.0, 9.0], "mwg", 200, 50, 2)
    np.testing.assert_allclose(one.draws_of(), two.draws_of(), rtol=1e-9)


@pytest.mark.parametrize("kernel", ["mwg", "interweave", "block", "soma"])
def test_one_record_and_one_statistic_are_enough(kernel):
    mean, sd, _ = count_posterior(2, 3, 1, 1, log_discrete_laplace(1.0))
    posterior = fitted(models.BetaBernoulli(2, 3), mechanisms.DiscreteLaplace(1.0), 1, [1], kernel)
    assert_agrees(posterior, mean, sd)


def test_the_naive_posterior_is_over_confident_and_the_private_one_is_not():
    model, noise, n = models.NormalMean(1.0, 0.0, 1.0), mechanisms.Laplace(0.4), 100
    rng, naive, private = np.random.default_rng(7), [], []
    for seed in range(150):
        theta = model.sample_prior(rng)
        release = noise.simulate(model, model.sample_records(theta, n, rng), rng)
        posterior = fitted(model, noise, n, release, "exact", 500, 0, 1, seed)
        low, high = posterior.conf_int(0.9).to_numpy()[0]
        private.append(low < theta[0] < high)
        low, high = posterior.naive_posterior(size=500, random_state=seed).quantile([0.05, 0.95])["mu"]  # fmt: skip
        naive.append(low < theta[0] < high)
    error = np.sqrt(0.9 * 0.1 / 150)
    assert abs(np.mean(private) - 0.9) < 4 * error
    assert np.mean(naive) < 0.9 - 8 * error


# --- users' functions --------------------------------------------------------------------------------------------


def test_wrong_shapes_from_users_functions_are_refused_by_name():
    good = callable_mean(1.0)
    names = {"parameter_names": ["mu"], "statistic_names": ["x", "x^2"]}

    def fit(**changed):
        fns = {
            name: getattr(good, name)
            for name in ("posterior_f", "latent_f", "statistic_f", "prior_f")
        }
        model = models.CallableModel(**(fns | changed), **names)
        return fitted(model, mechanisms.Laplace(1.0), 5, [1.0, 2.0], "mwg", 20, 0, 1)

    fit()
    with pytest.raises(ValueError, match=r"latent_f must return 5 records, shape \(5, d\), got \(4, 1\)"):  # fmt: skip
        fit(latent_f=lambda theta, n, rng: np.zeros((n - 1, 1)))
    with pytest.raises(ValueError, match=r"statistic_f must return one row a record, shape \(5, 2\)"):  # fmt: skip
        fit(statistic_f=lambda x: x)
    with pytest.raises(ValueError, match="statistic_f must return finite numbers"):
        fit(statistic_f=lambda x: np.full((len(x), 2), np.nan))
    with pytest.raises(ValueError, match=r"posterior_f must return 1 finite numbers \(mu\)"):
        fit(posterior_f=lambda x, theta, rng: np.zeros(2))
    with pytest.raises(ValueError, match="prior_f must return 1 finite numbers"):
        fit(prior_f=lambda rng: np.array([np.nan]))
    with pytest.raises(ValueError, match="prior_f was not given"):
        fit(prior_f=None)
    with pytest.raises(TypeError, match="latent_f must be a function, got 3"):
        fit(latent_f=3)
    with pytest.raises(ValueError, match="must be given together"):
        fit(to_ancillary_f=lambda x, theta, rng: x)


def test_a_users_model_without_a_prior_starts_where_it_is_told():
    good = callable_mean(1.0)
    model = models.CallableModel(
        good.posterior_f, good.latent_f, good.statistic_f,
        parameter_names=["mu"], statistic_names=["x", "x^2"],
    )  # fmt: skip
    posterior = fitted(model, mechanisms.Laplace(2.0), 20, [9.0, 30.0], "auto", 200, 50, 2, init=[0.5])  # fmt: skip
    assert posterior.kernel_ == "mwg"


def test_a_users_model_with_ancillary_noise_interweaves():
    """Case A in a user's functions; without log_prior_f theta moves by proposals from the prior."""

    def model(log_prior_f):
        return models.CallableModel(
            posterior_f=A[0].draw_posterior,
            latent_f=A[0].sample_records,
            statistic_f=A[0].statistic,
            prior_f=A[0].sample_prior,
            parameter_names=["mu"],
            statistic_names=["mean"],
            log_prior_f=log_prior_f,
            to_ancillary_f=A[0].to_ancillary,
            from_ancillary_f=A[0].from_ancillary,
        )

    for log_prior_f in (None, A[0].log_prior):
        posterior = fitted(model(log_prior_f), *A[1:], "interweave", 500, 200)
        assert_agrees(posterior, -2.036248, 0.342858)


def test_a_statistic_that_is_no_sum_is_taken_with_a_warning():
    """The median of three Bernoulli records is 1 where at least two of them are."""
    base = models.BetaBernoulli(2, 3)
    model = models.CallableModel(
        base.draw_posterior, base.sample_records, lambda x: np.median(x, axis=0), base.sample_prior,
        parameter_names=["p"], statistic_names=["median"], additive=False,
    )  # fmt: skip
    posterior = PrivatePosterior(
        model, mechanisms.DiscreteLaplace(0.7), 3, draws=2500, tune=200, chains=8, random_state=0,
        progress=False,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="statistic of CallableModel is no sum over records"):
        posterior.fit([1])
    c = np.arange(4)
    log_w = stats.betabinom.logpmf(c, 3, 2, 3) + log_discrete_laplace(0.7)(1 - (c >= 2))
    w = np.exp(log_w) / np.exp(log_w).sum()
    assert_agrees(posterior, w @ ((2 + c) / 8))


# --- calibration of the whole, and a real number of records ------------------------------------------------------


def calibration(model, mechanism, n, n_sims, kernel="interweave", thin=20):
    from statml.privacy import simulation_based_calibration

    posterior = PrivatePosterior(model, mechanism, n, tune=400, kernel=kernel, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return simulation_based_calibration(
            posterior, n_sims, 49, thin, progress=False, random_state=0
        )


def test_a_small_calibration_of_the_regression_has_uniform_ranks():
    result = calibration(SMALL["LinearRegression"][0], mechanisms.Laplace(1.0), 20, 100)
    assert result.table["p_value"].min() > 1e-3 / len(result.table)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_every_model_is_calibrated(name):
    model, mechanism = SMALL[name]
    kernel = "interweave" if hasattr(model, "to_ancillary") else "mwg"
    result = calibration(model, mechanism, 20, 400, kernel, thin=40)
    assert result.table["p_value"].min() > 1e-3 / len(result.table)


@pytest.mark.slow
def test_the_time_use_example_recovers_its_law():
    """Shares of about the American Time Use Survey's means: 3,128 days, epsilon 1 and 10 (simulated records)."""
    truth, rng = 8 * np.array([0.40, 0.05, 0.55]), np.random.default_rng(0)
    model, n = models.DirichletData(3), 3128
    x = model.sample_records(truth, n, rng)
    for epsilon in (1, 10):
        noise = mechanisms.Laplace.from_epsilon(epsilon, model.sensitivity())
        release = noise.simulate(model, x, rng)
        posterior = fitted(model, noise, n, release, "mwg", 2000, 1000, 4)
        z = (posterior.posterior_mean_ - truth) / posterior.posterior_sd_
        assert np.abs(z).max() < 4.5
        assert (posterior.posterior_sd_ / truth).max() < 0.2
