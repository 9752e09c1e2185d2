"""PrivatePosterior: what it returns, what it refuses, and what it promises of seeds and workers."""

import pickle
import subprocess
import sys
import warnings

import arviz
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from statml.privacy import PrivatePosterior, mechanisms, models
from statml.privacy.kernels import choose_kernel

BETA = models.BetaBernoulli(2, 3)
NOISE = mechanisms.DiscreteLaplace.from_epsilon(0.5, sensitivity=1)
NORMAL = models.NormalMean(sigma=2.0, prior_sd=3.0)


def fit(model=BETA, mechanism=NOISE, n=30, release=17, **options):
    defaults = {"draws": 200, "tune": 100, "chains": 2, "random_state": 0, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return PrivatePosterior(model, mechanism, n, **(defaults | options)).fit(release)


@pytest.fixture(scope="module")
def chain():
    return fit(kernel="mwg", store_records=True)


@pytest.fixture(scope="module")
def exact():
    return fit()


# --- results ----------------------------------------------------------------------------------------------


def test_a_fit_has_all_attributes(chain, exact):
    assert chain.kernel_ == "mwg"
    assert exact.kernel_ == "exact"
    for one in (chain, exact):
        assert isinstance(one.idata_, arviz.InferenceData)
        draws = one.idata_.posterior["p"].to_numpy()
        assert draws.shape == (2, 200)
        assert one.posterior_mean_ == pytest.approx([draws.mean()])
        assert one.posterior_sd_ == pytest.approx([draws.std(ddof=1)])
        assert (
            one.release_.tolist() == one.idata_.observed_data["release"].to_numpy().tolist() == [17]
        )
        assert one.n_features_in_ == 1
        assert one.record_acceptance_.shape == (30,)
        assert (one.idata_.sample_stats["n"] == 30).all()
        assert one.idata_.attrs["kernel"] == one.kernel_
    stats_ = chain.idata_.sample_stats
    assert set(stats_) == {"log_eta", "accept_rate", "S", "n"}
    assert stats_["S"].shape == (2, 200, 1)
    assert stats_["statistic"].to_numpy().tolist() == ["count"]
    assert chain.acceptance_rate_ == pytest.approx(stats_["accept_rate"].to_numpy().mean())
    assert chain.record_acceptance_.mean() == pytest.approx(chain.acceptance_rate_)
    assert np.isnan(exact.acceptance_rate_)
    assert exact.converged_ is True


def test_statistics_and_density_of_a_draw_are_those_of_its_latent_records(chain):
    x = chain.idata_.latent["x"].to_numpy()
    assert x.shape == (2, 200, 30, 1)
    S = chain.idata_.sample_stats["S"].to_numpy()
    np.testing.assert_array_equal(x.sum(axis=2), S)
    np.testing.assert_allclose(
        chain.idata_.sample_stats["log_eta"], NOISE.log_density(np.array([17.0]), S), rtol=1e-12
    )
    assert "latent" not in fit(kernel="mwg").idata_.groups()
    plain = fit(kernel="mwg")
    np.testing.assert_array_equal(plain.draws_of(), chain.draws_of())


def test_tables_hold_quantiles_of_the_posterior(exact):
    draws = exact.draws_of()["p"]
    table = exact.tidy(level=0.9)
    assert table.columns.tolist()[:7] == [
        "term", "estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high"
    ]  # fmt: skip
    row = table.iloc[0]
    assert [row["conf_low"], row["median"], row["conf_high"]] == pytest.approx(
        np.quantile(draws, [0.05, 0.5, 0.95])
    )
    assert exact.conf_int(0.9).loc["p"].tolist() == pytest.approx(
        [row["conf_low"], row["conf_high"]]
    )
    assert np.isnan(row["p_value"])
    glance = exact.glance().iloc[0]
    assert glance["n_records"] == 30
    assert glance["kernel"] == "exact"
    assert glance["acceptance_bound"] == pytest.approx(np.exp(-0.5))
    text = exact.summary().as_text()
    assert "independent" in text
    assert "R-hat" in text
    for bad in (0, 95):
        with pytest.raises(ValueError, match="level must be"):
            exact.tidy(bad)


def test_parameters_with_indices_become_arrays():
    posterior = fit(models.DirichletCategorical(np.ones(3)), NOISE, 30, [12, 10, 7])
    assert posterior.idata_.posterior["p"].shape == (2, 200, 3)
    np.testing.assert_allclose(posterior.idata_.posterior["p"].sum(axis=-1), 1)


def test_a_long_run_converges_and_a_short_one_says_what_to_do():
    long = PrivatePosterior(BETA, NOISE, 30, kernel="interweave", random_state=0, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert long.fit(17).converged_
    assert set(long.diagnostics_.index) == {"p", "log_eta", "S[0]"}
    assert (long.diagnostics_["r_hat"] <= 1.01).all()
    with pytest.warns(UserWarning, match="effective draws|do not agree"):
        assert not clone(long).set_params(draws=40, tune=10).fit(17).converged_
    with pytest.warns(UserWarning, match="single chain"):
        assert not clone(long).set_params(chains=1).fit(17).converged_


# --- comparisons and predictions ---------------------------------------------------------------------------


def test_the_naive_posterior_takes_the_release_for_the_truth():
    exact = fit(draws=2000)
    naive = exact.naive_posterior(size=4000, random_state=1)["p"]
    beta = stats.beta(2 + 17, 3 + 13)
    assert naive.mean() == pytest.approx(beta.mean(), abs=4 * beta.std() / np.sqrt(4000))
    assert naive.std() < 0.95 * exact.posterior_sd_[0]
    other = PrivatePosterior(BETA, NOISE, 30).naive_posterior([25], size=4000, random_state=1)["p"]
    assert other.mean() == pytest.approx(27 / 35, abs=0.01)
    answers = mechanisms.RandomizedResponse(epsilon=1.0, n_categories=2)
    survey = fit(mechanism=answers, release=np.ones(30))
    with pytest.raises(ValueError, match="no noisy total"):
        survey.naive_posterior()
    with pytest.raises(NotFittedError):
        PrivatePosterior(BETA, NOISE, 30).naive_posterior()


def test_the_nonprivate_posterior_is_that_of_complete_records(exact):
    records = np.repeat([1.0, 0.0], [17, 13])[:, None]
    draws = exact.nonprivate_posterior(records, size=4000, random_state=2)["p"]
    assert draws.mean() == pytest.approx(19 / 35, abs=4 * stats.beta(19, 16).std() / np.sqrt(4000))
    with pytest.raises(ValueError, match="records must be finite"):
        exact.nonprivate_posterior([1.0, 0.0])


def test_predictions_average_over_the_posterior(exact):
    new = exact.sample_predictive(4000, random_state=0)
    assert new.shape == (4000, 1)
    assert new.mean() == pytest.approx(exact.posterior_mean_[0], abs=4 * 0.5 / np.sqrt(4000))
    sets = exact.synthetic_data(500, random_state=0)
    assert sets.shape == (500, 30, 1)
    # records of a set share their parameter, so that counts are wider spread than binomial ones
    counts = sets.sum(axis=(1, 2))
    p, sd = exact.posterior_mean_[0], exact.posterior_sd_[0]
    assert counts.var() == pytest.approx(30 * p * (1 - p) + 870 * sd**2, rel=4 * np.sqrt(2 / 500))
    assert exact.synthetic_data(2, n=5, random_state=0).shape == (2, 5, 1)
    with pytest.raises(ValueError, match="predict needs a model of a response"):
        exact.predict([[1.0]])


def test_the_score_is_the_predictive_density_of_another_release(exact):
    """Of a count: a beta-binomial count under the posterior, plus noise."""
    p = exact.draws_of()["p"].to_numpy()
    c = np.arange(31)
    for release in (17, 5):
        eta = np.exp(NOISE.log_density(np.array([release]), c[:, None].astype(float)))
        expected = (stats.binom(30, p[:, None]).pmf(c) @ eta).mean()
        value = exact.score([release], size=4000)
        assert np.exp(value) == pytest.approx(expected, rel=0.15)


def test_other_mechanisms_are_compared_at_the_posterior_mean(exact):
    table = exact.compare(
        {"more": mechanisms.DiscreteLaplace(20.0)}, n_sims=10, random_state=0, progress=False
    ).table.set_index("release")
    assert table.loc["more", "posterior_sd"] > 1.3 * table.loc["this release", "posterior_sd"]
    assert table.loc["this release", "posterior_sd"] == pytest.approx(
        exact.posterior_sd_[0], rel=0.2
    )


def test_diagnostics_and_plots_are_methods_too(chain, exact):
    import matplotlib.pyplot as plt

    assert chain.check_acceptance()["ok"].all()
    assert exact.sbc(20, n_draws=19, random_state=0, progress=False).ranks.shape == (20, 1)
    assert exact.plot_prior_posterior().term == "p"
    assert np.size(chain.plot_trace()) == 2
    plt.close("all")


# --- seeds, workers, copies -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["exact", "mwg", "interweave", "soma", "clt"])
def test_draws_depend_on_the_seed_alone(kernel):
    one, two = fit(kernel=kernel), fit(kernel=kernel, n_jobs=2)
    np.testing.assert_array_equal(one.draws_of(), two.draws_of())
    if kernel != "exact":
        for name in one.idata_.sample_stats:
            np.testing.assert_array_equal(
                one.idata_.sample_stats[name], two.idata_.sample_stats[name]
            )
    np.testing.assert_array_equal(one.draws_of(), fit(kernel=kernel).draws_of())
    assert (one.draws_of() != fit(kernel=kernel, random_state=1).draws_of()).all(axis=None)
    first, second = one.idata_.posterior["p"].to_numpy()
    assert (first != second).any()


def test_more_draws_begin_with_the_same_ones():
    few, many = fit(kernel="interweave"), fit(kernel="interweave", draws=300)
    np.testing.assert_array_equal(
        few.idata_.posterior["p"], many.idata_.posterior["p"].to_numpy()[:, :200]
    )


def test_posteriors_are_cloned_and_pickled(chain):
    copy = clone(chain)
    assert not hasattr(copy, "idata_")
    assert copy.get_params()["n_records"] == 30
    again = pickle.loads(pickle.dumps(chain))
    pd.testing.assert_frame_equal(again.tidy(), chain.tidy())
    assert chain.set_params(draws=100) is chain
    chain.set_params(draws=200)


def test_importing_the_family_loads_nothing_heavy():
    code = (
        "import sys, statml.privacy as p; p.mechanisms, p.models, p.PrivatePosterior; dir(p);"
        "sys.exit(any(m in sys.modules for m in ('pymc', 'arviz', 'matplotlib', 'opendp', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_is_there():
    import statml.privacy as privacy

    for name in privacy.__all__:
        assert getattr(privacy, name) is not None
    with pytest.raises(AttributeError, match="attribute Posterior"):
        _ = privacy.Posterior


# --- what "auto" means --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "mechanism", "release", "options", "kernel"),
    [
        (BETA, NOISE, [17], {}, "exact"),
        (BETA, mechanisms.RandomizedResponse(epsilon=1.0, n_categories=2), np.ones(30), {}, "exact"),
        (models.DirichletCategorical(np.ones(4)), NOISE, [8, 8, 8, 8], {}, "exact"),
        (
            models.DirichletCategorical(np.ones(4)),
            mechanisms.RandomizedResponse(epsilon=1.0, n_categories=4), np.ones(30), {}, "gibbs",
        ),
        (BETA, NOISE, [17], {"keep_records": True}, "interweave"),
        (BETA, NOISE, [17], {"block_size": 3}, "block"),
        (models.NormalMean(1.0, bounds=(-1, 1)), NOISE, [17], {}, "interweave"),
    ],
)  # fmt: skip
def test_auto_takes_the_first_line_that_applies(model, mechanism, release, options, kernel):
    s = mechanism.check_release(release, model.statistic_names)
    assert choose_kernel(model, mechanism, s, 30, **options) == kernel


# --- releases and arguments that are refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "what"),
    [
        ([1, 2, 3], "release must have 1 entries, in this order: count; got shape (3,)"),
        ({"counts": 3}, "in this order: count; missing: count; not expected: counts"),
        ([np.nan], "release[0] (count) is not a finite number"),
        ([np.inf], "not a finite number"),
        ([17.5], "release[0] (count) is not an integer"),
        (np.ones((30, 1)), "got shape (30, 1)"),
    ],
)
def test_releases_that_could_not_have_been_made_are_refused(release, what):
    import re

    with pytest.raises(ValueError, match=re.escape(what)):
        fit(release=release)


def test_releases_come_in_any_clothes():
    for release in (17, [17], (17.0,), np.array([17]), {"count": 17}, pd.Series({"count": 17})):
        assert fit(release=release).release_.tolist() == [17.0]
    named = fit(
        models.DirichletCategorical(np.ones(2), categories=["no", "yes"]), NOISE, 30,
        pd.Series({"yes": 12, "no": 17}),
    )  # fmt: skip
    assert named.release_.tolist() == [17, 12]


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"n": None}, TypeError, "n_records must be an integer >= 1, got None"),
        ({"n": 0}, ValueError, "n_records must be an integer >= 1, got 0"),
        ({"draws": 0}, ValueError, "draws must be an integer >= 1"),
        ({"tune": -1}, ValueError, "tune must be an integer >= 0"),
        ({"chains": 0}, ValueError, "chains must be an integer >= 1"),
        ({"kernel": "nuts"}, ValueError, 'kernel must be "auto", "mwg"'),
        ({"block_size": 0}, ValueError, "block_size must be"),
        ({"mechanism": 3.0}, TypeError, "mechanism must be a Mechanism, got float"),
        ({"model": 3.0}, TypeError, "model must have parameter_names"),
        ({"init": "zero"}, ValueError, 'init must be "prior"'),
        ({"init": [1.0, 2.0]}, ValueError, "one value a parameter in the order p"),
        ({"init": [np.nan]}, ValueError, "init must be"),
        ({"n_mechanism": NOISE}, ValueError, "n_mechanism needs n_prior"),
        ({"n_prior": 3}, TypeError, "n_prior must be a distribution"),
        ({"n_prior": "flat"}, ValueError, "needs n_mechanism"),
        ({"n_prior": stats.poisson(3), "store_records": True}, ValueError, "store_records must be False"),
        ({"kernel": "exact", "store_records": True}, ValueError, "no records are imputed"),
        ({"model": models.DirichletCategorical(np.ones(2)), "mechanism": mechanisms.Laplace([1.0, 2.0, 3.0]),
          "release": [1, 2]}, ValueError, "scale has 3 entries, but there are 2 statistics"),
        ({"progress": "yes", "kernel": "mwg"}, ValueError, "progress must be"),
    ],
)  # fmt: skip
def test_arguments_are_refused_by_name(options, error, what):
    with pytest.raises(error, match=what):
        fit(**options)


def test_integer_noise_on_a_statistic_that_is_no_integer_is_refused():
    with pytest.raises(ValueError, match="DiscreteLaplace adds integer noise"):
        fit(NORMAL, NOISE, 30, [1], kernel="mwg")


def test_improper_priors_are_refused_unless_asked_for_by_name():
    flat = models.NormalMean(sigma=2.0, prior_sd=np.inf)
    noise = mechanisms.Gaussian(0.5)
    with pytest.raises(ValueError, match="improper prior"):
        fit(flat, noise, 30, [1.0])
    with pytest.raises(ValueError, match="init must be given"):
        fit(flat, noise, 30, [1.0], allow_improper=True)
    posterior = fit(
        flat, noise, 30, [1.0], allow_improper=True, init=[0.0], draws=4000, chains=4, tune=500
    )
    sd = np.hypot(2 / np.sqrt(30), 0.5)
    assert posterior.posterior_sd_[0] == pytest.approx(sd, rel=0.1)
    assert posterior.posterior_mean_[0] == pytest.approx(1.0, abs=0.15)


def test_the_central_limit_kernel_says_that_it_is_approximate():
    posterior = PrivatePosterior(BETA, NOISE, 30, kernel="clt", random_state=0, progress=False)
    with pytest.warns(UserWarning, match="approximate"):
        posterior.fit(17)
    assert "Approximate" in posterior.summary().as_text()


def test_nothing_can_be_asked_before_fit():
    for ask in (
        "summary",
        "tidy",
        "glance",
        "conf_int",
        "draws_of",
        "plot_trace",
        "check_acceptance",
    ):
        with pytest.raises((NotFittedError, AttributeError)):
            getattr(PrivatePosterior(BETA, NOISE, 30), ask)()


def test_a_noisy_number_of_records_comes_last():
    posterior = fit(
        n=None, release={"count": 12, "n": 31}, n_prior="flat",
        n_mechanism=mechanisms.DiscreteLaplace(1.0), kernel="mwg", draws=500, tune=200,
    )  # fmt: skip
    assert posterior.release_.tolist() == [12, 31]
    n = posterior.idata_.sample_stats["n"].to_numpy()
    assert 29 < n.mean() < 33
    assert n.std() > 0.5
    assert posterior.glance()["n_records"].iloc[0] == pytest.approx(n.mean())
    assert posterior.synthetic_data(2, random_state=0).shape == (2, round(n.mean()), 1)
    assert len(posterior.naive_posterior(size=10, random_state=0)) == 10
    with pytest.raises(ValueError, match="release must have 2 entries, in this order: count, n"):
        posterior.fit([12])
    prior = fit(n=None, release=12, n_prior=stats.poisson(40), kernel="mwg", draws=500, tune=200)
    assert 25 < prior.idata_.sample_stats["n"].to_numpy().mean() < 50
