"""The design tool: expected widths and acceptance against closed forms, before any release."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

from statml.privacy import mechanisms, models
from statml.privacy.design import ReleaseDesignDisplay, design_release, expected_acceptance

N = 50
MODEL = models.NormalMean(sigma=2.0, prior_sd=3.0)


def test_gaussian_noise_on_a_normal_mean_has_its_closed_form_width():
    """Posterior variance 1 / (1 / prior + 1 / (sigma^2 / n + noise^2)), whatever the release."""
    scales = (0.05, 0.5, 5.0)
    candidates = {scale: mechanisms.Gaussian(scale) for scale in scales}
    table = design_release(MODEL, candidates, N, n_sims=16, draws=2000, random_state=1).table
    exact = [(1 / 9 + 1 / (4 / N + scale**2)) ** -0.5 for scale in scales]
    # the standard deviation of 2,000 independent normal draws has relative error 1 / sqrt(4,000)
    relative = table["posterior_sd"].to_numpy() / exact - 1
    assert np.abs(relative).max() < 4 / np.sqrt(4000 * 16)
    # scales are common to the simulations: what is left is the error of the draws
    assert table["std_error"].to_numpy() == pytest.approx(
        np.array(exact) / np.sqrt(4000 * 16), rel=0.8
    )
    complete = (1 / 9 + N / 4) ** -0.5
    assert table["nonprivate_sd"].iloc[0] == pytest.approx(complete, rel=4 / np.sqrt(4000 * 16))
    assert table["prior_sd"].iloc[0] == pytest.approx(3, rel=4 / np.sqrt(8000))
    assert table["relative_to_prior"].to_numpy() == pytest.approx(
        table["posterior_sd"] / table["prior_sd"]
    )
    assert table["relative_to_nonprivate"].to_numpy() == pytest.approx(
        table["posterior_sd"] / table["nonprivate_sd"]
    )


@pytest.mark.parametrize("noise_on_sum", [0.5, 2.0, 10.0])
def test_expected_acceptance_has_its_closed_form_for_normal_records(noise_on_sum):
    """(2 / pi) arctan(sqrt 2 noise / sigma) for Gaussian, 2 exp(a^2 / 2) Phi(-a) for Laplace noise on the sum."""
    a = MODEL.sigma / (np.sqrt(2) * noise_on_sum)
    expected = {
        "gaussian": 2 / np.pi * np.arctan(np.sqrt(2) * noise_on_sum / MODEL.sigma),
        "laplace": 2 * np.exp(a**2 / 2) * ndtr(-a),
    }
    candidates = {
        "gaussian": mechanisms.Gaussian(noise_on_sum / N),
        "laplace": mechanisms.Laplace(noise_on_sum / N),
    }
    table = design_release(MODEL, candidates, N, n_sims=200, draws=10, random_state=2).table
    for _, row in table.iterrows():
        assert abs(row["acceptance"] - expected[row["release"]]) < 4 * row["acceptance_se"]
        assert row["acceptance_se"] < 0.02


def test_width_grows_and_acceptance_rises_as_epsilon_falls():
    model = models.BetaBernoulli(2, 3)
    candidates = {
        eps: mechanisms.DiscreteLaplace.from_epsilon(eps, sensitivity=1)
        for eps in (0.05, 0.3, 1, 5)
    }
    table = design_release(model, candidates, 100, n_sims=20, random_state=0).table
    assert (np.diff(table["posterior_sd"]) < 0).all()
    assert (np.diff(table["acceptance"]) < 0).all()
    assert (table["acceptance"] >= table["acceptance_bound"]).all()
    assert table["epsilon"].to_numpy() == pytest.approx([0.05, 0.3, 1, 5])
    assert table["relative_to_prior"].iloc[0] > 0.5
    assert table["relative_to_nonprivate"].iloc[-1] == pytest.approx(1, abs=0.05)


def test_a_survey_with_randomized_answers_can_be_designed():
    model = models.BetaBernoulli(2, 3)
    candidates = [
        mechanisms.RandomizedResponse.from_epsilon(eps, 2, counts=counts)
        for eps in (0.5, 4.0)
        for counts in (False, True)
    ]
    named = dict(zip(["0.5", "0.5 counts", "4", "4 counts"], candidates, strict=True))
    table = design_release(model, named, 200, n_sims=20, random_state=0).table.set_index("release")
    assert table.loc["4", "posterior_sd"] < table.loc["0.5", "posterior_sd"]
    # answers and their counts tell the same about the proportion
    for eps in ("0.5", "4"):
        a, b = table.loc[eps], table.loc[eps + " counts"]
        assert abs(a["posterior_sd"] - b["posterior_sd"]) < 4 * np.hypot(
            a["std_error"], b["std_error"]
        )


def test_planning_for_given_parameters_differs_from_planning_for_the_prior():
    model = models.BetaBernoulli(1, 1)
    candidates = {"release": mechanisms.DiscreteLaplace(1.0)}
    rare = design_release(model, candidates, 400, theta=[0.01], n_sims=10, random_state=0).table
    average = design_release(model, candidates, 400, n_sims=10, random_state=0).table
    assert rare["posterior_sd"].iloc[0] < 0.5 * average["posterior_sd"].iloc[0]


def test_the_width_of_a_quantity_may_be_asked_for():
    candidates = {"release": mechanisms.Gaussian(0.5)}
    options = {"n_sims": 4, "draws": 500, "random_state": 7}
    plain = design_release(MODEL, candidates, N, **options).table
    scaled = design_release(
        MODEL, candidates, N, quantities={"ten mu": lambda theta: 10 * theta[:, 0]}, **options
    ).table
    assert scaled["term"].tolist() == ["ten mu"]
    for name in ("posterior_sd", "prior_sd", "nonprivate_sd"):
        assert scaled[name].to_numpy() == pytest.approx(10 * plain[name].to_numpy())
    with pytest.raises(TypeError, match="quantities must be a dict of functions"):
        design_release(MODEL, candidates, N, quantities={"mu": 3})
    with pytest.raises(ValueError, match=r"quantities\['mu'\] must give an array of shape"):
        design_release(MODEL, candidates, N, quantities={"mu": lambda theta: theta})


def test_a_model_without_exact_draws_is_designed_by_the_sampler():
    pytest.importorskip("statml.privacy.posterior")
    model = models.NormalMean(
        sigma=2.0, prior_sd=3.0, bounds=(-40, 40)
    )  # bounds rule exact draws out
    candidates = {scale: mechanisms.Gaussian(scale) for scale in (0.5, 5.0)}
    table = design_release(model, candidates, N, n_sims=8, draws=1500, random_state=3).table
    exact = [(1 / 9 + 1 / (4 / N + scale**2)) ** -0.5 for scale in (0.5, 5.0)]
    for width, error, truth in zip(table["posterior_sd"], table["std_error"], exact, strict=True):
        assert abs(width - truth) < 4 * error + 0.03 * truth


def test_the_design_does_not_depend_on_the_workers_and_resumes(tmp_path):
    candidates = {eps: mechanisms.Laplace.from_epsilon(eps, 0.2) for eps in (0.5, 5.0)}
    options = {"n_sims": 4, "draws": 50, "random_state": 5}
    one = design_release(MODEL, candidates, N, **options)
    two = design_release(MODEL, candidates, N, n_jobs=2, **options)
    kept = design_release(MODEL, candidates, N, checkpoint_dir=tmp_path, **options)
    (tmp_path / "task_000002.zip").unlink()
    resumed = design_release(MODEL, candidates, N, checkpoint_dir=tmp_path, **options)
    with pytest.raises(ValueError, match="holds another run"):
        design_release(MODEL, candidates, N + 1, checkpoint_dir=tmp_path, **options)
    for other in (two, kept, resumed):
        pd.testing.assert_frame_equal(one.table, other.table)
    assert "50 records, 4 simulations" in str(one)


def test_expected_acceptance_of_no_noise_to_speak_of_is_small_and_of_much_is_one():
    rng = np.random.default_rng(0)
    theta = np.array([0.0])
    x = MODEL.sample_records(theta, N, rng)
    S = MODEL.statistic(x).sum(axis=0)
    assert expected_acceptance(MODEL, mechanisms.Gaussian(1e-6), theta, x, S, rng) < 0.01
    assert expected_acceptance(MODEL, mechanisms.Gaussian(1e6), theta, x, S, rng) > 0.999


def test_designs_are_drawn_against_epsilon_or_by_name():
    by_epsilon = {eps: mechanisms.Laplace.from_epsilon(eps, 0.2) for eps in (0.5, 5.0)}
    design = design_release(MODEL, by_epsilon, N, n_sims=2, draws=20, random_state=0)
    display = ReleaseDesignDisplay.from_design(design)
    assert display.ax_.get_xscale() == "log"
    by_name = [mechanisms.Gaussian(0.1), mechanisms.Laplace(0.1)]
    named = design_release(MODEL, by_name, N, n_sims=2, draws=20, random_state=0)
    _, ax = plt.subplots()
    display = ReleaseDesignDisplay.from_design(named, "acceptance", ax=ax)
    assert display.ax_ is ax
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        "Gaussian(scale=0.1)",
        "Laplace(scale=0.1)",
    ]
    with pytest.raises(ValueError, match="quantity must be"):
        ReleaseDesignDisplay.from_design(design, "width")
    plt.close("all")


def test_bad_designs_are_refused():
    noise = mechanisms.Laplace(1.0)
    with pytest.raises(TypeError, match="must be Mechanism objects, got float for 1"):
        design_release(MODEL, {1: 2.0}, N)
    with pytest.raises(ValueError, match="at least one"):
        design_release(MODEL, {}, N)
    with pytest.raises(ValueError, match="n_records must be an integer >= 1"):
        design_release(MODEL, [noise], 0)
    with pytest.raises(ValueError, match="n_sims must be an integer >= 2"):
        design_release(MODEL, [noise], N, n_sims=1)
    for bad in ([1.0, 2.0], [np.nan], 3.0):
        with pytest.raises(ValueError, match="theta must be 1 finite numbers, in this order: mu"):
            design_release(MODEL, [noise], N, theta=bad)
