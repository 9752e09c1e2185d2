"""Every kernel against posteriors known in closed form: means, spreads, and the data-dependent log density of the release.

Chains are independent, so the standard error of a mean comes from the spread of the chains' own means; with C chains the statistic is
t with C - 1 degrees of freedom, and a test refuses beyond its two-sided level of 1e-5.
"""

import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.special import betaln, gammaln, ndtr

from statml.privacy import PrivatePosterior, mechanisms, models
from statml.privacy.kernels import make_kernel
from statml.privacy.kernels.chain import accept_records, state_of
from statml.privacy.kernels.reversible_jump import ReversibleJump
from statml.privacy.protocols import ChainState
from statml.privacy.sampling import Chain

CHAINS = 16
LEVEL = 1e-5


def run(model, mechanism, n, release, kernel, seed=0, draws=1500, tune=500, **options):
    posterior = PrivatePosterior(
        model, mechanism, n, kernel=kernel, chains=CHAINS, draws=draws, tune=tune,
        random_state=seed, progress=False, **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return posterior.fit(release)


def agrees(draws, expected):
    """Chain means of draws (chains, draws) against an expectation."""
    means = draws.mean(axis=1)
    t = (means.mean() - expected) / (means.std(ddof=1) / np.sqrt(len(means)))
    assert abs(t) < stats.t(len(means) - 1).isf(LEVEL / 2), (t, means.mean(), expected)


def check(posterior, mean, sd, log_eta=None):
    theta = posterior.idata_.posterior[posterior.model.parameter_names[0]].to_numpy()
    agrees(theta, mean)
    agrees((theta - mean) ** 2, sd**2)
    if log_eta is not None:
        agrees(posterior.idata_.sample_stats["log_eta"].to_numpy(), log_eta)


# --- references -------------------------------------------------------------------------------------------


def normal_reference(sigma, n, prior_sd, noise, s):
    """Mean and standard deviation of mu, and E log eta, given s = mean + noise: by quadrature over the sample mean."""
    marginal = np.hypot(prior_sd, sigma / np.sqrt(n))
    grid = np.linspace(-12, 12, 200_001) * marginal
    log_w = stats.norm.logpdf(grid, 0, marginal) + noise.logpdf(s - grid)
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    shrink = prior_sd**2 / marginal**2
    mean = shrink * (w @ grid)
    variance = shrink * sigma**2 / n + shrink**2 * (w @ grid**2 - (w @ grid) ** 2)
    return mean, variance**0.5, w @ noise.logpdf(s - grid)


def count_reference(a, b, n, log_eta_of_count):
    """The same for a proportion, by the finite sum over the true count."""
    c = np.arange(n + 1)
    log_eta = np.asarray(log_eta_of_count, dtype=float)
    log_w = (
        gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1) + betaln(a + c, b + n - c) + log_eta
    )  # fmt: skip
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    first = (a + c) / (a + b + n)
    second = first * (a + c + 1) / (a + b + n + 1)
    mean = w @ first
    seen = w > 0
    return mean, (w @ second - mean**2) ** 0.5, w[seen] @ log_eta[seen]


N = 20
NORMAL = models.NormalMean(sigma=2.0, prior_sd=3.0)
NORMAL_CASES = {
    "much gaussian noise": (mechanisms.Gaussian(1.0), stats.norm(0, 1.0), 2.5),
    # the accept step must be sequential: with this little noise, accepting all records against the total
    # at the start of the sweep makes the standard deviation more than twice too large
    "little gaussian noise": (mechanisms.Gaussian(0.05), stats.norm(0, 0.05), 0.7),
    "laplace noise": (mechanisms.Laplace(0.5), stats.laplace(0, 0.5), -1.3),
}
BETA = models.BetaBernoulli(2, 3)


@pytest.mark.parametrize("kernel", ["mwg", "interweave", "block", "soma", "clt"])
@pytest.mark.parametrize("case", NORMAL_CASES)
def test_every_kernel_draws_the_posterior_of_a_normal_mean(kernel, case):
    """The central-limit kernel is exact here, since the total is normal."""
    mechanism, noise, s = NORMAL_CASES[case]
    options = {"block_size": 3} if kernel == "block" else {}
    posterior = run(NORMAL, mechanism, N, [s], kernel, **options)
    assert posterior.kernel_ == kernel
    check(posterior, *normal_reference(2.0, N, 3.0, noise, s))


@pytest.mark.parametrize(
    ("mechanism", "kernel"),
    [
        (mechanisms.DiscreteLaplace(2.0), "mwg"),
        (mechanisms.DiscreteLaplace(2.0), "interweave"),
        (mechanisms.DiscreteLaplace(2.0), "block"),
        (mechanisms.DiscreteLaplace(2.0), "soma"),
        (mechanisms.DiscreteGaussian(0.7), "interweave"),
        (mechanisms.DiscreteGaussian(0.7), "soma"),
        (mechanisms.Rounded(mechanisms.Laplace(2.0), width=5), "mwg"),
        (mechanisms.Censored(mechanisms.DiscreteLaplace(2.0), high=15), "mwg"),
    ],
    ids=str,
)
def test_every_kernel_draws_the_posterior_of_a_proportion(mechanism, kernel):
    options = {"block_size": 3} if kernel == "block" else {}
    posterior = run(BETA, mechanism, N, [15], kernel, draws=600, tune=200, **options)
    log_eta = mechanism.log_density(np.array([15.0]), np.arange(N + 1.0)[:, None])
    check(posterior, *count_reference(2, 3, N, log_eta))


class Interpreted:
    """A model without its compiled steps."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        if name in ("compiled", "_model"):
            raise AttributeError(name)
        return getattr(self._model, name)


class WithoutAlpha(Interpreted):
    """And without the prior that lets Gibbs sampling run compiled."""

    def __getattr__(self, name):
        if name == "alpha":
            raise AttributeError(name)
        return super().__getattr__(name)


@pytest.mark.parametrize("kernel", ["mwg", "interweave"])
def test_compiled_and_interpreted_sweeps_are_the_same_sweeps(kernel):
    mechanism = mechanisms.Laplace(0.5)
    one = run(NORMAL, mechanism, N, [1.3], kernel, draws=50, tune=20)
    two = run(Interpreted(NORMAL), mechanism, N, [1.3], kernel, draws=50, tune=20)
    for name in ("log_eta", "accept_rate", "S"):
        a, b = (p.idata_.sample_stats[name].to_numpy() for p in (one, two))
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.draws_of(), two.draws_of(), rtol=1e-9)
    np.testing.assert_allclose(one.record_acceptance_, two.record_acceptance_)


def test_units_of_statistic_and_noise_do_not_matter_and_neither_does_their_order():
    """By powers of two, so that not even rounding differs; two statistics in either order."""

    class Sums(Interpreted):
        statistic_names = ["a", "b"]  # noqa: RUF012

        def __init__(self, model, factors):
            super().__init__(model)
            self.factors = np.asarray(factors)

        def statistic(self, x):
            return np.column_stack([x, x**2])[:, : len(self.factors)] * self.factors

    release, scale = np.array([30.0, 120.0]), np.array([4.0, 32.0])
    plain = run(Sums(NORMAL, [1, 1]), mechanisms.Laplace(scale), N, release, "mwg", draws=50)
    f = np.array([8.0, 0.25])
    scaled = run(Sums(NORMAL, f), mechanisms.Laplace(f * scale), N, f * release, "mwg", draws=50)
    np.testing.assert_array_equal(plain.draws_of(), scaled.draws_of())

    class Swapped(Sums):
        def statistic(self, x):
            return super().statistic(x)[:, ::-1]

    swapped = run(
        Swapped(NORMAL, [1, 1]), mechanisms.Laplace(scale[::-1]), N, release[::-1], "mwg", draws=50
    )
    np.testing.assert_allclose(plain.draws_of(), swapped.draws_of(), rtol=1e-9)


def test_without_noise_to_speak_of_the_posterior_is_that_of_complete_records_and_with_much_the_prior():
    much = run(BETA, mechanisms.DiscreteLaplace(1e6), N, [7], "mwg", draws=1000)
    check(much, 0.4, (0.4 * 0.6 / 6) ** 0.5)
    little = run(BETA, mechanisms.DiscreteLaplace(0.02), N, [7], "interweave", draws=1000)
    check(little, 9 / 25, (9 / 25 * 16 / 25 / 26) ** 0.5)
    assert (little.idata_.sample_stats["S"].to_numpy() == 7).all()


@pytest.mark.parametrize("kernel", ["mwg", "interweave", "soma"])
def test_a_single_record_is_enough(kernel):
    posterior = run(BETA, mechanisms.DiscreteLaplace(1.0), 1, [1], kernel, draws=1000)
    log_eta = mechanisms.DiscreteLaplace(1.0).log_density(np.array([1.0]), np.array([[0.0], [1.0]]))
    check(posterior, *count_reference(2, 3, 1, log_eta))


# --- other mechanisms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["gibbs", "mwg", "interweave"])
def test_randomised_answers_are_accepted_all_at_once_or_counted(kernel):
    answers = np.repeat([0.0, 1.0], [8, 12])
    mechanism = mechanisms.RandomizedResponse(epsilon=1.0, n_categories=2)
    posterior = run(BETA, mechanism, N, answers, kernel, draws=200, tune=50)
    truth = 1 / (1 + np.exp(-1.0))
    # P(answers | count c) averages over which of the people are the c
    log_eta = []
    for c in range(N + 1):
        k = np.arange(max(0, c - 8), min(c, 12) + 1)  # of the c, those who answered 1
        ways = stats.hypergeom(N, c, 12).pmf(k)
        p = truth ** (k + 8 - (c - k)) * (1 - truth) ** (12 - k + c - k)
        log_eta.append(np.log(ways @ p))
    mean, sd, _ = count_reference(2, 3, N, log_eta)
    check(posterior, mean, sd)


def test_gibbs_on_counts_is_the_same_compiled_and_interpreted():
    """Unequal categories, an answer that gives the truth away, one that nobody gave; pooled over chains."""
    Q = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.6, 0.2, 0.1], [0.0, 0.3, 0.6, 0.1]])
    model = models.DirichletCategorical([0.5, 1.0, 4.0])
    answers = np.repeat([0.0, 1.0, 2.0], [9, 25, 6])
    compiled, interpreted = (
        run(
            m,
            mechanisms.RandomizedResponse(Q),
            40,
            answers,
            "gibbs",
            seed=seed,
            draws=1500,
            tune=100,
        )
        for seed, m in enumerate((model, WithoutAlpha(model)))
    )
    one, two = (p.idata_.posterior["p"].to_numpy() for p in (compiled, interpreted))
    np.testing.assert_allclose(one.sum(axis=-1), 1)
    for a, b in [
        *((one[..., k] ** m, two[..., k] ** m) for k in range(3) for m in (1, 2)),
        *((p.idata_.sample_stats["log_eta"].to_numpy() for p in (compiled, interpreted)),),
    ]:
        a, b = a.mean(axis=1), b.mean(axis=1)
        t = (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / CHAINS)
        assert abs(t) < stats.t(CHAINS - 1).isf(LEVEL / 2)
    S = compiled.idata_.sample_stats["S"].to_numpy()
    np.testing.assert_array_equal(S.sum(axis=-1), 40)


def test_two_releases_of_one_count_are_stronger_than_one():
    mechanism = mechanisms.Composed(
        [mechanisms.DiscreteLaplace(2.0), mechanisms.DiscreteGaussian(3.0)], columns=[[0], [0]]
    )
    posterior = run(BETA, mechanism, N, [14, 11], "auto", draws=200, tune=80)
    assert posterior.kernel_ == "interweave"  # the models' exact samplers know one release only
    c = np.arange(N + 1.0)[:, None]
    log_eta = mechanism.log_density(np.array([14.0, 11.0]), np.hstack([c, c]))
    check(posterior, *count_reference(2, 3, N, log_eta))


@pytest.mark.parametrize("kernel", ["mwg", "interweave", "soma"])
def test_an_output_of_the_exponential_mechanism_tells_of_the_proportion(kernel):
    mechanism = mechanisms.FiniteExponential(
        ["yes", "no"], scale=4.0, utility=lambda x: np.column_stack([x[:, 0], 1 - x[:, 0]])
    )
    draws = 100 if kernel == "soma" else 250
    posterior = run(BETA, mechanism, N, "yes", kernel, draws=draws, tune=draws // 4)
    c = np.arange(N + 1.0)
    log_eta = mechanism.log_density(np.array([0.0]), np.column_stack([c, N - c]))
    check(posterior, *count_reference(2, 3, N, log_eta))


@pytest.mark.parametrize("kernel", ["mwg", "soma"])
def test_perturbed_coefficients_tell_of_the_proportion(kernel):
    """An intercept alone: the coefficient depends on the records by the count of ones."""
    mechanism = mechanisms.ObjectivePerturbation(
        1, scale=3.0, l2=0.1, design=lambda x: np.column_stack([np.ones(len(x)), x])
    )
    draws = 60 if kernel == "soma" else 300
    posterior = run(BETA, mechanism, N, [0.8], kernel, draws=draws, tune=50)
    release, log_eta = np.array([0.8]), []
    for c in range(N + 1):
        x = np.repeat([1.0, 0.0], [c, N - c])[:, None]
        S = mechanism.statistic(BETA, x, release).sum(axis=0)
        log_eta.append(mechanism.log_density(release, S))
    check(posterior, *count_reference(2, 3, N, log_eta))


@pytest.mark.parametrize("compile", [False, True])
def test_a_density_of_the_users_own_is_as_good_as_a_built_in_one(compile):
    def student(release, total):
        return -2.0 * np.log1p((release[0] - total[0]) ** 2 / 3)

    mechanism = mechanisms.Custom(student, compile=compile)
    posterior = run(BETA, mechanism, N, [15.0], "mwg", draws=600, tune=100)
    log_eta = [student([15.0], [c]) for c in range(N + 1)]
    check(posterior, *count_reference(2, 3, N, log_eta))


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("kernel", ["mwg", "interweave"])
def test_a_density_that_is_nan_ends_the_run(compile, kernel):
    def broken(release, total):
        return np.sqrt(release[0] - total[0])

    mechanism = mechanisms.Custom(broken, compile=compile)
    with pytest.raises(ValueError, match="NaN"), np.errstate(invalid="ignore"):
        run(BETA, mechanism, N, [10.0], kernel, draws=50)


class MedianOfThree(Interpreted):
    """The noisy median of three answers: no sum over records."""

    additive = False
    statistic_names = ["median"]  # noqa: RUF012

    def statistic(self, x):
        return np.median(x, axis=0)


def test_a_statistic_that_is_no_sum_takes_the_slow_path_and_says_so():
    posterior = PrivatePosterior(
        MedianOfThree(BETA),
        mechanisms.Gaussian(0.5),
        3,
        draws=500,
        tune=200,
        chains=CHAINS,
        random_state=0,
    )
    with pytest.warns(UserWarning, match="no sum over records"):
        posterior.fit([1.2])
    assert posterior.kernel_ == "mwg"
    log_eta = stats.norm(0, 0.5).logpdf(1.2 - (np.arange(4) >= 2))
    check(posterior, *count_reference(2, 3, 3, log_eta))
    for kernel in ("interweave", "block", "soma"):
        with pytest.raises(ValueError, match="no sum over records"):
            posterior.set_params(kernel=kernel).fit([1.2])


# --- acceptance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "expected"),
    [
        (mechanisms.Gaussian(1.0), 2 / np.pi * np.arctan(np.sqrt(2) * N / 2)),
        (mechanisms.Gaussian(1 / N), 2 / np.pi * np.arctan(np.sqrt(2) / 2)),
        (mechanisms.Laplace(1 / N), 2 * np.exp(1.0) * ndtr(-np.sqrt(2))),
    ],
)
@pytest.mark.parametrize("kernel", ["mwg", "interweave"])
def test_mean_acceptance_has_its_closed_form_over_the_joint_law(mechanism, expected, kernel):
    """(2 / pi) arctan(sqrt 2 noise / sigma), and 2 exp(a^2 / 2) Phi(-a) with a = sigma / (sqrt 2 b), for noise on the sum."""
    rng = np.random.default_rng(5)
    rates = []
    mover = make_kernel(kernel, NORMAL, mechanism)
    for _ in range(1500):
        theta = NORMAL.sample_prior(rng)
        x = NORMAL.sample_records(theta, N, rng)
        release = mechanism.simulate(NORMAL, x, rng)
        _, info = mover.sweep(state_of(NORMAL, mechanism, release, theta, x), release, rng)
        rates.append(info["accepted"].mean())
    assert abs(np.mean(rates) - expected) < 4 * np.std(rates) / np.sqrt(len(rates))


def test_no_record_is_accepted_less_often_than_privacy_guarantees():
    mechanism = mechanisms.DiscreteLaplace.from_epsilon(1.0, sensitivity=1)
    for release in (0, 10, 25):
        posterior = run(BETA, mechanism, N, [release], "mwg", draws=400)
        # accept or refuse at rate >= exp(-1), autocorrelated: ten times the binomial variance is ample
        slack = 4 * np.sqrt(10 * 0.37 * 0.63 / (400 * CHAINS))
        assert posterior.record_acceptance_.min() > np.exp(-1) - slack
        assert posterior.check_acceptance()["ok"].all()


# --- pieces -----------------------------------------------------------------------------------------------


def test_accepting_records_updates_the_total_after_each():
    """Proposals that all overshoot together: only as many are accepted as the release allows."""
    from statml.privacy.kernels.chain import LogEta

    log_eta = LogEta(mechanisms.Gaussian(0.01), NORMAL)
    t, t_new = np.zeros((10, 1)), np.ones((10, 1))
    for rng in map(np.random.default_rng, range(20)):
        accepted, S, value = accept_records(
            log_eta, np.array([3.0]), t, t_new, np.zeros(1), log_eta(np.array([3.0]), np.zeros(1)), 1.0, rng
        )  # fmt: skip
        assert accepted.sum() == S[0] == 3
        assert accepted[:3].all()
        assert value == pytest.approx(stats.norm(0, 0.01).logpdf(0))


def test_soma_refuses_what_is_not_exchangeable():
    answers = mechanisms.RandomizedResponse(epsilon=1.0, n_categories=2)
    with pytest.raises(ValueError, match='"soma" needs exchangeable records'):
        run(BETA, answers, N, np.ones(N), "soma")

    class Weighted(Interpreted):
        def statistic(self, x):
            return x * np.arange(1, len(x) + 1)[:, None]

    with pytest.raises(ValueError, match="depends on the place of the record"):
        run(Weighted(BETA), mechanisms.Laplace(1.0), N, [10.0], "soma")


def test_kernels_say_what_they_need():
    noise = mechanisms.DiscreteLaplace(1.0)
    with pytest.raises(ValueError, match="needs RandomizedResponse"):
        run(BETA, noise, N, [10], "gibbs")

    class Plain(Interpreted):
        def __getattr__(self, name):
            if name in ("to_ancillary", "moments", "draw_exact"):
                raise AttributeError(name)
            return super().__getattr__(name)

    for kernel, what in [
        ("interweave", "to_ancillary and from_ancillary"),
        ("clt", "moments and draw_from_totals"),
        ("exact", "no exact sampler"),
    ]:
        with pytest.raises(ValueError, match=what):
            run(Plain(BETA), noise, N, [10], kernel)
    both = mechanisms.Composed([noise, noise], columns=[[0], [0]])
    for kernel in ("clt", "exact"):
        with pytest.raises(ValueError, match=f'kernel="{kernel}" needs'):
            run(BETA, both, N, [10, 9], kernel)


def test_warm_up_finds_a_release_that_is_far_from_where_chains_start():
    """With Gaussian noise nothing is accepted far from the release, unless its density is tempered at first."""
    model = models.NormalMean(sigma=1.0, prior_sd=100.0)
    noise = mechanisms.Gaussian(0.02)
    release = [40.0]
    posterior = run(
        model, noise, 50, release, "mwg", tune=2000, draws=200, init=[-60.0], allow_improper=False
    )
    assert abs(posterior.posterior_mean_[0] - 40) < 1.0
    chain = Chain(
        PrivatePosterior(model, noise, 50, kernel="mwg", tune=100, draws=10)._plan(release),
        np.random.default_rng(0),
        np.array([-60.0]),
    )
    assert chain.coldest < 1e-3
    powers = []
    while chain.position < 110:
        powers.append(chain._inverse_temperature())
        chain.advance(1)
    assert (np.diff(powers) >= 0).all()
    assert powers[25:] == [1.0] * 85  # the first quarter of warm-up only


def test_what_warm_up_has_tuned_stays_as_it_is():
    model = models.BetaBernoulli(2, 3)
    plan = PrivatePosterior(
        model, mechanisms.Laplace(1.0), N, kernel="interweave", tune=200, draws=100
    )
    chain = Chain(plan._plan([10.0]), np.random.default_rng(0))
    before = chain.mover.settings["widths"].copy()
    chain.advance(200)
    tuned = {name: np.copy(value) for name, value in chain.mover.settings.items()}
    assert tuned["widths"] != before
    chain.advance(100)
    assert {name: np.copy(value) for name, value in chain.mover.settings.items()} == tuned


@pytest.mark.parametrize(("scale", "kept"), [(5.0, 1), (1e-4, 0)])
def test_interweaving_is_kept_where_it_pays(scale, kept):
    plan = PrivatePosterior(
        models.NormalMean(1.0, prior_sd=2.0, bounds=(-50, 50)), mechanisms.Gaussian(scale), 50, tune=800, draws=1
    )._plan([0.3])  # fmt: skip
    assert plan.kernel == "interweave"
    assert plan.adaptive
    votes = []
    for seed in range(9):
        chain = Chain(plan, np.random.default_rng(seed))
        chain.advance(plan.n_sweeps)
        votes.append(chain.mover.settings["interweave"])
    assert abs(np.mean(votes) - kept) < 0.5


# --- unknown n --------------------------------------------------------------------------------------------


class UpTo:
    """n uniform on 1, ..., most."""

    def __init__(self, most):
        self.most = most

    def logpmf(self, n):
        return np.where((n >= 1) & (n <= self.most), 0.0, -np.inf)


def unknown_n_reference(noise, noise_n, s, s_n, most):
    n = np.arange(1, most + 1)
    log_w, first, second = [], [], []
    for size in n:
        c = np.arange(size + 1)
        log_c = (
            gammaln(size + 1) - gammaln(c + 1) - gammaln(size - c + 1)
            + betaln(2 + c, 3 + size - c) - betaln(2, 3)
        )  # fmt: skip
        log_w.append(log_c + noise.log_density(np.array([s]), c[:, None].astype(float)))
        if noise_n is not None:
            log_w[-1] = log_w[-1] + noise_n.log_density(np.array([s_n]), np.array([float(size)]))
        first.append((2 + c) / (5 + size))
        second.append((2 + c) / (5 + size) * (3 + c) / (6 + size))
    sizes = np.repeat(n, n + 1)
    w = np.exp(np.concatenate(log_w) - np.concatenate(log_w).max())
    w /= w.sum()
    mean = w @ np.concatenate(first)
    return mean, (w @ np.concatenate(second) - mean**2) ** 0.5, w @ sizes, w @ sizes**2


@pytest.mark.parametrize(
    ("kernel", "with_release"),
    [("mwg", False), ("mwg", True), ("interweave", True), ("soma", False)],
)
def test_an_unknown_number_of_records_has_its_exact_posterior(kernel, with_release):
    """Few records, so that the edge at one of them and the sweep's own dependence on n matter."""
    noise = mechanisms.DiscreteLaplace(1.5)
    noise_n = mechanisms.DiscreteLaplace(2.0) if with_release else None
    release = [4, 6] if with_release else [4]
    posterior = run(
        BETA, noise, 5, release, kernel, draws=200, tune=50, n_prior=UpTo(12), n_mechanism=noise_n
    )
    mean, sd, n1, n2 = unknown_n_reference(noise, noise_n, 4.0, 6.0, 12)
    check(posterior, mean, sd)
    n = posterior.idata_.sample_stats["n"].to_numpy()
    assert n.min() >= 1
    assert n.max() <= 12
    agrees(n, n1)
    agrees(n**2, n2)


def test_jumps_work_with_any_density():
    def laplace(release, total):
        return -abs(release[0] - total[0]) / 1.5

    posterior = run(
        BETA, mechanisms.Custom(laplace), 5, [4.0], "mwg", draws=400, tune=100, n_prior=UpTo(8)
    )
    noise = mechanisms.DiscreteLaplace(1.5)
    mean, sd, n1, _ = unknown_n_reference(noise, None, 4.0, None, 8)
    check(posterior, mean, sd)
    agrees(posterior.idata_.sample_stats["n"].to_numpy(), n1)


def test_births_come_to_every_place_alike_and_jumps_do_not_follow_n():
    """Births at the end, with a systematic sweep over the records, would leave another law invariant."""
    kernel = ReversibleJump(
        make_kernel("mwg", BETA, mechanisms.DiscreteLaplace(1e6)), BETA, mechanisms.DiscreteLaplace(1e6),
        lambda n: np.where(n <= 5, 0.0, -np.inf), None, n_typical=4,
    )  # fmt: skip
    kernel.n_jumps = 1
    rng, places = np.random.default_rng(0), np.zeros(5)
    for _ in range(6000):
        x = np.array([[0.0], [0.0], [0.0], [0.0]])
        state = ChainState(np.array([1.0]), x, x.copy(), np.zeros(1), 0.0)  # births are ones
        state, _ = kernel.jump(state, np.array([2.0]), np.array([2.0]), rng)
        if len(state.x) == 5:
            places += state.x[:, 0]
    assert stats.chisquare(places).pvalue > 1e-4
    assert places.sum() == pytest.approx(3000, abs=4 * np.sqrt(6000) / 2)

    plan = PrivatePosterior(
        BETA,
        mechanisms.DiscreteLaplace(1.0),
        300,
        kernel="mwg",
        n_prior=UpTo(500),
        tune=20,
        draws=5,
    )._plan([100])
    chain = Chain(plan, np.random.default_rng(0))
    before = chain.kernel.n_jumps
    chain.advance(25)
    assert len(chain.state.x) != 300
    assert chain.kernel.n_jumps == before == 300


def test_what_has_no_meaning_with_another_n_is_refused():
    for model, mechanism, release, what in [
        (NORMAL, mechanisms.Laplace(1.0), [1.0], "depends on the number of records"),
        (BETA, mechanisms.RandomizedResponse(epsilon=1.0, n_categories=2), np.ones(5), "their number is known"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=what):
            run(model, mechanism, 5, release, "mwg", n_prior=UpTo(12))
    with pytest.raises(ValueError, match="where n is unknown"):
        run(BETA, mechanisms.Laplace(1.0), 5, [2.0], "clt", n_prior=UpTo(12))
    with pytest.raises(ValueError, match="known number of records"):
        run(BETA, mechanisms.Laplace(1.0), 5, [2.0], "exact", n_prior=UpTo(12))
