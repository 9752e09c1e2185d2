"""Calibration and joint tests: they pass a right sampler, and they find wrong ones."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from statml.privacy import (
    AcceptanceDisplay,
    CalibrationDisplay,
    CalibrationResult,
    PosteriorDisplay,
    PrivatePosterior,
    geweke_joint_test,
    mechanisms,
    models,
    simulation_based_calibration,
)
from statml.privacy.kernels.mwg import MetropolisWithinGibbs

BETA = models.BetaBernoulli(2, 3)
NORMAL = models.NormalMean(sigma=2.0, prior_sd=3.0, bounds=(-4, 4))


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def posterior(model, mechanism, n=15, **options):
    return PrivatePosterior(model, mechanism, n, progress=False, **({"tune": 200} | options))


class FourTooMany(models.BetaBernoulli):
    """The posterior step counts four more successes."""

    def draw_from_totals(self, S, n, theta, rng):
        return super().draw_from_totals(S + 4, n + 4, theta, rng)

    def compiled(self):
        return None

    def draw_exact(self, *arguments):
        raise NotImplementedError


class OtherNoise(mechanisms.DiscreteLaplace):
    """Noise of eight times the scale that the density knows."""

    def randomise(self, totals, rng):
        return mechanisms.DiscreteLaplace(8 * self.scale).randomise(totals, rng)


class Frozen(MetropolisWithinGibbs):
    """Records are accepted against the total at the start of the sweep."""

    can_run = False

    def __init__(self, model, mechanism):
        super().__init__(model, mechanism)
        self.can_run = False

    def sweep(self, state, release, rng):
        state.theta = self.model.draw_posterior(state.x, state.theta, rng)
        x_new = self.model.sample_records(state.theta, len(state.x), rng)
        t_new = self.model.statistic(x_new)
        S = state.t.sum(axis=0)
        change = self.mechanism.log_ratio(release, S, S - state.t + t_new)
        accepted = change > -rng.standard_exponential(len(change))
        state.x[accepted], state.t[accepted] = x_new[accepted], t_new[accepted]
        state.S = state.t.sum(axis=0)
        state.log_eta = float(self.mechanism.log_density(release, state.S))
        return state, {"accepted": accepted}


CASES = {
    "mwg": (NORMAL, mechanisms.Laplace(0.3), {"kernel": "mwg"}),
    "interweave": (NORMAL, mechanisms.Gaussian(0.3), {"kernel": "interweave"}),
    "auto": (NORMAL, mechanisms.Laplace(0.3), {}),
    "counts": (BETA, mechanisms.DiscreteLaplace(1.0), {"kernel": "interweave"}),
    "exact": (BETA, mechanisms.DiscreteLaplace(1.0), {"kernel": "exact"}),
    "gibbs": (
        models.DirichletCategorical([1.0, 2.0, 3.0]),
        mechanisms.RandomizedResponse(epsilon=2.0, n_categories=3, counts=True),
        {"kernel": "gibbs"},
    ),
}


def test_right_samplers_are_calibrated():
    """All p-values of all samplers together are uniform; log eta, which depends on the data, is among them."""
    p_values = []
    for k, (model, mechanism, options) in enumerate(CASES.values()):
        result = simulation_based_calibration(
            posterior(model, mechanism, **options), 100, n_draws=49, thin=6, random_state=k, progress=False
        )  # fmt: skip
        assert ("log_eta" in result.ranks) == (options.get("kernel") not in ("exact", "gibbs"))
        p_values += result.table["p_value"].tolist()
    # the chi-squared tests of one run share simulations, so Bonferroni over all of them
    assert min(p_values) > 1e-4 / len(p_values), p_values
    assert 0.2 < np.mean(p_values) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_right_samplers_are_calibrated_in_long_runs(case):
    model, mechanism, options = CASES[case]
    result = simulation_based_calibration(
        posterior(model, mechanism, tune=500, **options), 1000, n_draws=99, thin=20, random_state=0, progress=False
    )  # fmt: skip
    assert result.table["p_value"].min() > 1e-4 / len(result.table)


def test_wrong_samplers_are_found_by_calibration():
    noise = mechanisms.DiscreteLaplace(0.5)
    for model, mechanism in [(FourTooMany(2, 3), noise), (BETA, OtherNoise(0.5))]:
        result = simulation_based_calibration(
            posterior(model, mechanism, kernel="mwg"), 150, n_draws=49, thin=5, random_state=0, progress=False
        )  # fmt: skip
        assert result.table["p_value"].min() < 1e-4


def test_right_samplers_keep_the_joint_law():
    z = []
    for k, (model, mechanism, options) in enumerate(CASES.values()):
        if options.get("kernel") in ("exact", "gibbs"):
            with pytest.raises(ValueError, match="needs a kernel with latent records"):
                geweke_joint_test(posterior(model, mechanism, **options), 5, 2, progress=False)
            continue
        table = geweke_joint_test(
            posterior(model, mechanism, **options), 25, 40, random_state=k, progress=False
        )
        z += table["z"].tolist()
    assert np.abs(z).max() < stats.t(24).isf(1e-4 / len(z))


def test_wrong_samplers_do_not_keep_the_joint_law(monkeypatch):
    table = geweke_joint_test(
        posterior(FourTooMany(2, 3), mechanisms.DiscreteLaplace(1.0), kernel="mwg"), 40, 60,
        random_state=0, progress=False,
    )  # fmt: skip
    assert table["p_value"].min() < 1e-4
    table = geweke_joint_test(
        posterior(BETA, OtherNoise(0.5), kernel="mwg"), 40, 60, random_state=0, progress=False
    )
    assert table["p_value"].min() < 1e-4
    import statml.privacy.kernels as kernels

    monkeypatch.setattr(kernels, "MetropolisWithinGibbs", Frozen)
    table = geweke_joint_test(
        posterior(NORMAL, mechanisms.Gaussian(0.05), kernel="mwg"), 40, 60, random_state=0, progress=False
    )  # fmt: skip
    assert table["p_value"].min() < 1e-4


def test_calibration_does_not_depend_on_the_workers():
    one, two = (
        simulation_based_calibration(
            posterior(BETA, mechanisms.DiscreteLaplace(1.0), kernel="mwg", tune=20), 6, n_draws=9, thin=2,
            random_state=0, n_jobs=n_jobs, progress=False,
        ).ranks
        for n_jobs in (1, 2)
    )  # fmt: skip
    assert one.equals(two)
    assert one.to_numpy().min() >= 0
    assert one.to_numpy().max() <= 9


def test_the_uniformity_test_has_its_level_and_power():
    rng = np.random.default_rng(0)
    import pandas as pd

    p = [
        CalibrationResult(pd.DataFrame({"a": rng.integers(0, 100, 200)}), 99)
        .table["p_value"]
        .iloc[0]
        for _ in range(400)
    ]
    assert stats.kstest(p, "uniform").pvalue > 1e-4
    narrow = rng.binomial(99, 0.5, 200)
    assert CalibrationResult(pd.DataFrame({"a": narrow}), 99).table["p_value"].iloc[0] < 1e-10
    assert "smallest of 1 p-values" in str(CalibrationResult(pd.DataFrame({"a": narrow}), 99))


def test_a_sensitivity_that_is_not_the_models_is_found_by_acceptance():
    told = mechanisms.DiscreteLaplace(0.25, sensitivity=0.02)  # the count moves by one, not by 0.02
    wrong = posterior(BETA, told, kernel="mwg", draws=500, chains=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        wrong.fit(8)
    check = wrong.check_acceptance().iloc[0]
    assert check["bound"] == pytest.approx(np.exp(-0.08))
    assert not check["ok"]
    right = posterior(
        BETA, mechanisms.DiscreteLaplace(2.0, sensitivity=1), kernel="mwg", random_state=0
    ).fit(8)
    row = right.check_acceptance().iloc[0]
    assert row["ok"]
    assert row["least_record_acceptance"] <= row["mean_acceptance"] == right.acceptance_rate_
    for kernel in ("block", "soma"):
        other = right.set_params(
            kernel=kernel, draws=1000, block_size=2 if kernel == "block" else 1
        ).fit(8)
        assert other.check_acceptance()["ok"].all()


def test_displays_show_what_was_drawn():
    fitted = posterior(
        BETA, mechanisms.DiscreteLaplace(2.0, sensitivity=1), kernel="mwg", random_state=0
    ).fit(8)
    display = PosteriorDisplay.from_estimator(fitted, truth=0.4)
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["prior", "private posterior", "naive posterior", "truth"]
    np.testing.assert_array_equal(display.draws["private posterior"], fitted.draws_of()["p"])
    _, ax = plt.subplots()
    assert PosteriorDisplay.from_estimator(fitted, naive=False, ax=ax).ax_ is ax
    assert len(ax.get_legend().get_texts()) == 2
    with pytest.raises(ValueError, match='term must be "p"'):
        PosteriorDisplay.from_estimator(fitted, "q")

    display = AcceptanceDisplay.from_estimator(fitted)
    shown = display.ax_.lines[0].get_ydata()
    np.testing.assert_array_equal(shown, np.sort(fitted.record_acceptance_))
    assert display.bound == pytest.approx(np.exp(-0.5))
    exact = posterior(BETA, mechanisms.DiscreteLaplace(2.0), kernel="exact").fit(8)
    with pytest.raises(ValueError, match="does not propose records one by one"):
        AcceptanceDisplay.from_estimator(exact)

    result = simulation_based_calibration(exact, 30, n_draws=19, random_state=0, progress=False)
    display = CalibrationDisplay.from_result(result)
    assert display.ax_.lines[-1].get_label() == "p"
    heights = display.ax_.lines[-1].get_ydata()
    assert heights[-1] == pytest.approx(0)
    assert np.abs(heights).max() <= 1


def test_arguments_are_refused_by_name():
    right = posterior(BETA, mechanisms.DiscreteLaplace(1.0))
    for name in ("n_sims", "n_draws", "thin"):
        with pytest.raises(ValueError, match=f"{name} must be an integer"):
            simulation_based_calibration(right, **{name: 0})
    for name in ("n_chains", "n_sweeps"):
        with pytest.raises(ValueError, match=f"{name} must be an integer"):
            geweke_joint_test(right, **{name: 0})
