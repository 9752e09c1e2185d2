"""A run that is killed goes on where it was, with the same draws to the last bit."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from statml.privacy import PrivatePosterior, mechanisms, models, sampling
from statml.privacy.sampling import Chain, better_schedule, fingerprint_of

BETA = models.BetaBernoulli(2, 3)


def posterior(kernel, folder=None, **options):
    model, mechanism, release = {
        "gibbs": (
            models.DirichletCategorical(np.ones(3)),
            mechanisms.RandomizedResponse(epsilon=1.0, n_categories=3),
            np.repeat([0.0, 1.0, 2.0], 10),
        ),
        "unknown n": (BETA, mechanisms.DiscreteLaplace(2.0), [17]),
        "own density": (BETA, mechanisms.Rounded(mechanisms.Laplace(2.0), 5), [15]),
    }.get(kernel, (models.NormalMean(2.0, prior_sd=3.0, bounds=(-9, 9)), mechanisms.Gaussian(0.3), [1.3]))  # fmt: skip
    if kernel == "unknown n":
        options["n_prior"] = PoissonLike()
    kernel = {"own density": "interweave", "unknown n": "mwg"}.get(kernel, kernel)
    options = {"draws": 60, "tune": 40, "chains": 2, "random_state": 3} | options
    fitted = PrivatePosterior(
        model, mechanism, 30, kernel=kernel, checkpoint_dir=folder, progress=False, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return fitted.fit(release)


class PoissonLike:
    def logpmf(self, n):
        return -0.5 * (np.asarray(n) - 30.0) ** 2 / 20


def same(one, two):
    np.testing.assert_array_equal(one.draws_of(), two.draws_of())
    np.testing.assert_array_equal(one.record_acceptance_, two.record_acceptance_)
    assert set(one.idata_.sample_stats) == set(two.idata_.sample_stats)
    for name in one.idata_.sample_stats:
        np.testing.assert_array_equal(one.idata_.sample_stats[name], two.idata_.sample_stats[name])


class Killed(BaseException):
    """Not an error that anything would catch."""


KERNELS = ["mwg", "auto", "interweave", "block", "soma", "gibbs", "clt", "unknown n", "own density"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_killed_run_resumes_with_bit_identical_draws(kernel, tmp_path, monkeypatch):
    """Killed again and again, after rounds of other lengths than those of the run that is not killed."""
    whole = posterior(kernel)
    monkeypatch.setattr(sampling, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr(sampling, "SECONDS_A_ROUND", 1e-9)
    advance, rng = Chain.advance, np.random.default_rng(1)
    calls = 0

    def mortal(self, n_sweeps):
        nonlocal calls
        calls += 1
        if calls % 9 == 0:  # in the middle of a round of two chains as well
            raise Killed
        return advance(self, n_sweeps)

    monkeypatch.setattr(Chain, "advance", mortal)
    deaths = 0
    while True:
        monkeypatch.setattr(sampling, "FIRST_ROUND", int(rng.integers(3, 12)))
        try:
            resumed = posterior(kernel, tmp_path)
            break
        except Killed:
            deaths += 1
            assert deaths < 60
    assert deaths >= 2
    same(whole, resumed)
    calls = 0
    same(whole, posterior(kernel, tmp_path))  # and a finished run is only read
    assert calls == 0


@pytest.mark.parametrize("tune", [0, 3, 17, 100, 333, 500])
def test_a_chain_is_the_same_in_rounds_of_any_length(tune):
    """Far from the release, so that warm-up is tempered; rounds that end beside the stages of the tempering."""
    plan = PrivatePosterior(
        models.NormalMean(1.0, prior_sd=50.0, bounds=(-90, 90)), mechanisms.Gaussian(0.05), 20, tune=tune, draws=20
    )._plan([40.0])  # fmt: skip
    whole = Chain(plan, np.random.default_rng(0), np.array([-60.0]))
    assert whole.coldest < 0.01
    whole.advance(tune + 20)
    for length in (1, 7, 13):
        parts = Chain(plan, np.random.default_rng(0), np.array([-60.0]))
        while parts.position < tune + 20:
            parts.advance(length)
        for name, value in vars(whole.trace).items():
            np.testing.assert_array_equal(value, getattr(parts.trace, name))


def test_resuming_does_not_depend_on_the_workers(tmp_path, monkeypatch):
    whole = posterior("interweave", store_records=True)
    monkeypatch.setattr(sampling, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr(sampling, "FIRST_ROUND", 13)
    monkeypatch.setattr(Chain, "advance", _once(Chain.advance))
    with pytest.raises(Killed):
        posterior("interweave", tmp_path, store_records=True)
    monkeypatch.undo()
    resumed = posterior("interweave", tmp_path, store_records=True, n_jobs=2)
    same(whole, resumed)
    np.testing.assert_array_equal(whole.idata_.latent["x"], resumed.idata_.latent["x"])


def _once(advance):
    calls = 0

    def one_round(self, n_sweeps):
        nonlocal calls
        calls += 1
        if calls > 2:
            raise Killed
        return advance(self, n_sweeps)

    return one_round


def test_a_folder_belongs_to_one_run(tmp_path):
    posterior("mwg", tmp_path)
    for options in ({"random_state": 4}, {"draws": 61}, {"chains": 3}, {"tune": 41}):
        with pytest.raises(ValueError, match="holds another run"):
            posterior("mwg", tmp_path, **options)
    with pytest.raises(ValueError, match="holds another run"):
        posterior("block", tmp_path)


def test_exact_draws_are_kept_too(tmp_path):
    first = PrivatePosterior(
        BETA, mechanisms.DiscreteLaplace(2.0), 30, checkpoint_dir=tmp_path, progress=False
    ).fit(17)
    again = PrivatePosterior(
        BETA, mechanisms.DiscreteLaplace(2.0), 30, checkpoint_dir=tmp_path, progress=False
    ).fit(17)  # without a seed, the entropy of the first run is used again
    np.testing.assert_array_equal(first.draws_of(), again.draws_of())


def test_fingerprints_tell_plans_apart_and_are_the_same_in_another_process():
    def plan(release, scale=0.3):
        return PrivatePosterior(
            models.NormalMean(2.0, bounds=(-9, 9)), mechanisms.Gaussian(scale), 30
        )._plan([release])

    assert fingerprint_of(plan(1.3)) == fingerprint_of(plan(1.3))
    assert fingerprint_of(plan(1.3)) != fingerprint_of(plan(1.4))
    assert fingerprint_of(plan(1.3)) != fingerprint_of(plan(1.3, 0.4))
    code = (
        "from statml.privacy import PrivatePosterior, mechanisms, models, sampling;"
        "p = PrivatePosterior(models.NormalMean(2.0, bounds=(-9, 9)), mechanisms.Gaussian(0.3), 30)._plan([1.3]);"
        "print(sampling.fingerprint_of(p))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == fingerprint_of(plan(1.3))


def test_the_better_schedule_moves_the_slowest_parameter_further_for_its_cost():
    rng = np.random.default_rng(0)
    free = rng.standard_normal((500, 2))
    slow = np.empty((500, 2))
    state = np.zeros(2)
    for row in slow:
        state = 0.99 * state + np.sqrt(1 - 0.99**2) * rng.standard_normal(2)
        row[:] = state
    half = np.column_stack([free[:, 0], slow[:, 1]])
    assert better_schedule(slow, free, 3.0, 12.0) == 1
    assert better_schedule(free, slow, 3.0, 12.0) == 0
    assert better_schedule(free, rng.permutation(free), 12.0, 3.0) == 1  # as good, and cheaper
    assert better_schedule(half, free, 3.0, 12.0) == 1
    assert better_schedule(np.zeros((9, 1)), np.zeros((9, 1)), 12.0, 3.0) == 1
