"""HyDRA, SGD-influence and SOURCE: reverse equals forward, finite differences, and the limits of each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from statml.influence import (
    GLMOracle,
    HyDRA,
    InfluenceFunction,
    SGDInfluence,
    Source,
    TracIn,
    Trajectory,
    record_sgd,
)
from statml.influence.glm_families import Binomial, Gaussian, Softmax

FAMILIES = {"gaussian": Gaussian(), "binomial": Binomial(), "softmax": Softmax(3)}


def small_oracle(name="binomial", seed=0, n=24, q=3, l2=0.05):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, q - 1))])
    family = FAMILIES[name]
    classes = rng.permutation(np.arange(n) % (3 if name == "softmax" else 2))
    y = rng.normal(size=n) if name == "gaussian" else classes.astype(float)
    p = family.n_outputs * q
    return GLMOracle(family, rng.normal(size=p), X, y, rng.uniform(0.5, 2, n), np.full(p, l2))


def rerun(oracle, i, factor, **recipe):
    """End of the same run with record i's weight multiplied."""
    weight = oracle.sample_weight.copy()
    weight[i] *= factor
    other = GLMOracle(oracle.family, oracle.theta, oracle.X, oracle.y, weight, oracle.regulariser())
    return record_sgd(other, **recipe).final


def at_optimum(oracle):
    for _ in range(50):
        oracle = oracle.with_theta(
            oracle.theta - np.linalg.solve(oracle.hessian(), oracle.objective_grad())
        )
    assert np.linalg.norm(oracle.objective_grad()) < 1e-12
    return oracle


runs = st.fixed_dictionaries(
    {
        "lr": st.floats(0.01, 0.4),
        "n_epochs": st.integers(1, 4),
        "batch_size": st.sampled_from([1, 5, 8, None]),
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "random_state": st.integers(0, 100),
    }
)
oracles = st.builds(small_oracle, st.sampled_from(sorted(FAMILIES)), st.integers(0, 1000))


@settings(max_examples=30, deadline=None)
@given(oracles, runs)
def test_backwards_equals_forwards(oracle, recipe):
    run = record_sgd(oracle, **recipe)
    forwards = HyDRA(trajectory=run).fit(oracle)
    backwards = SGDInfluence(run).fit(oracle)
    for target in ("loss", "margin", "prediction"):
        I = forwards.influence(oracle.X[:6], oracle.y[:6], target=target)
        J = backwards.influence(oracle.X[:6], oracle.y[:6], target=target)
        np.testing.assert_allclose(J, I, rtol=1e-9, atol=1e-13 * (1 + np.abs(I).max()))
    np.testing.assert_allclose(
        backwards.parameter_change(), forwards.parameter_change(), rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(
        backwards.self_influence(), forwards.self_influence(), rtol=1e-8, atol=1e-12
    )


@settings(max_examples=15, deadline=None)
@given(oracles, runs, st.integers(0, 23))
def test_the_unrolled_change_is_the_derivative_of_the_run(oracle, recipe, i):
    run = record_sgd(oracle, **recipe)
    h = 1e-5
    derivative = (rerun(oracle, i, 1 + h, **recipe) - rerun(oracle, i, 1 - h, **recipe)) / (2 * h)
    change = HyDRA(trajectory=run).fit(oracle).parameter_change([[i]])[0]
    np.testing.assert_allclose(change, -derivative, rtol=1e-5, atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(oracles, runs)
def test_memory_in_blocks_and_groups_give_the_same(oracle, recipe):
    run = record_sgd(oracle, **recipe)
    whole = HyDRA(trajectory=run).fit(oracle)
    small = oracle.with_theta(oracle.theta)
    small.memory_limit = 8 * oracle.n_params * 7
    parts = HyDRA(trajectory=run).fit(small)
    assert parts._change is None
    X, y = oracle.X[:4], oracle.y[:4]
    np.testing.assert_allclose(parts.influence(X, y), whole.influence(X, y), rtol=1e-9, atol=1e-14)
    sets = [np.arange(4), np.array([6, 7, 20])]
    np.testing.assert_allclose(
        parts.parameter_change(sets), whole.parameter_change(sets), rtol=1e-9, atol=1e-14
    )


@settings(max_examples=15, deadline=None)
@given(oracles, runs)
def test_fast_hydra_without_penalty_is_tracin_with_the_last_test_gradient(oracle, recipe):
    recipe["momentum"] = 0.0
    free = GLMOracle(oracle.family, oracle.theta, oracle.X, oracle.y, oracle.sample_weight)
    run = record_sgd(free, **recipe)
    fast = HyDRA(fast=True, trajectory=run).fit(free).influence(free.X[:5], free.y[:5])
    end = free.grad(free.X[:5], free.y[:5], run.final)
    expected = np.zeros_like(fast)
    for theta, batch, lr in zip(run.thetas[:-1], run.batches, run.lrs, strict=True):
        g = free.grad(free.X[batch], free.y[batch], theta)
        expected[:, batch] += lr / len(batch) * (end @ g.T) * free.sample_weight[batch]
    np.testing.assert_allclose(fast, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_full_batches_run_to_the_end_are_influence_functions(name):
    oracle = at_optimum(small_oracle(name, seed=4, l2=0.2))
    run = record_sgd(oracle, batch_size=None, n_epochs=600)
    I = InfluenceFunction().fit(oracle).influence(oracle.X, oracle.y)
    J = SGDInfluence(run).fit(oracle).influence(oracle.X, oracle.y)
    np.testing.assert_allclose(J, I, atol=1e-9 * np.abs(I).max())
    # and one segment of SOURCE at the optimum, s → ∞
    still = Trajectory(np.array([oracle.theta] * 2), lrs=[1e6], steps=[0, 1])
    S = Source(1, still).fit(oracle).influence(oracle.X, oracle.y)
    np.testing.assert_allclose(S, I, atol=1e-10 * np.abs(I).max())


def test_hara_counts_the_share_of_the_weight_decay():
    """With it, Σ over a batch of records is the whole gradient of the batch's objective."""
    oracle = small_oracle("binomial", 3)
    unweighted = GLMOracle(
        oracle.family, oracle.theta, oracle.X, oracle.y, None, oracle.regulariser()
    )
    recipe = {"lr": 0.2, "n_epochs": 2, "batch_size": 6, "random_state": 0}
    run = record_sgd(unweighted, **recipe)
    I = SGDInfluence(run, penalty_share=True).fit(unweighted).influence(oracle.X[:3], oracle.y[:3])
    plain = SGDInfluence(run).fit(unweighted).influence(oracle.X[:3], oracle.y[:3])

    def counterfactual(i, scale):
        """The batch's gradient scaled by (|B| − 1)/|B| with i left out, weight decay included, to first order in `scale`."""
        theta = np.zeros(unweighted.n_params)
        for batch in run.batches:
            g = unweighted.grad(oracle.X[batch], oracle.y[batch], theta)
            each = (g + unweighted.regulariser() * theta) / len(batch)
            kept = np.where(batch == i, 1 - scale, 1.0)
            theta = theta - 0.2 * kept @ each
        return unweighted.loss(oracle.X[:3], oracle.y[:3], theta)

    for i in (0, 11):
        slope = (counterfactual(i, 1e-5) - counterfactual(i, -1e-5)) / 2e-5
        np.testing.assert_allclose(I[:, i], slope, rtol=1e-6, atol=1e-9)
    assert np.abs(I - plain).max() > 1e-4


def unconverged():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(X[:150], y[:150])
    return model, X[:150], y[:150], X[150:200], y[150:200]


def test_unrolling_beats_influence_functions_before_convergence_and_segments_approach_it():
    """Gradient descent of 60 steps on logistic regression; errors relative to full unrolling."""
    model, X, y, X_test, y_test = unconverged()
    run = record_sgd(model, X, y, batch_size=None, n_epochs=60)
    unrolled = HyDRA(trajectory=run).fit(model, X, y)
    truth = unrolled.influence(X_test, y_test)

    def error(method):
        return np.linalg.norm(method.influence(X_test, y_test) - truth) / np.linalg.norm(truth)

    errors = {L: error(Source(L, run, n_checkpoints=60).fit(model, X, y)) for L in (1, 2, 3, 6)}
    assert errors[1] > errors[2] > errors[3] > errors[6]
    assert errors[1] < 0.2
    assert errors[6] < 0.02
    assert error(InfluenceFunction().fit(model, X, y)) > 2 * errors[1]
    assert unrolled.diagnostics_["nonconvergence"] > 1


def test_unrolling_predicts_real_counterfactual_runs():
    """Leave records out of every batch of a short run of SGD, and compare with what was predicted."""
    model, X, y, X_test, y_test = unconverged()
    recipe = {"lr": 0.05, "n_epochs": 3, "batch_size": 16, "random_state": 1}
    run = record_sgd(model, X, y, **recipe)
    method = SGDInfluence(run).fit(model, X, y)
    oracle = method.oracle_
    Z, labels = oracle.prepare(X_test, y_test)
    before = oracle.loss(Z, labels, run.final)
    records = np.arange(0, 150, 10)
    plain = GLMOracle(oracle.family, oracle.theta, oracle.X, oracle.y, None, oracle.regulariser())
    truth = np.column_stack(
        [oracle.loss(Z, labels, rerun(plain, i, 0.0, **recipe)) - before for i in records]
    )
    unrolled = method.influence(X_test, y_test)[:, records]
    static = InfluenceFunction().fit(model, X, y).influence(X_test, y_test)[:, records]
    assert np.corrcoef(unrolled.ravel(), truth.ravel())[0, 1] > 0.99
    assert np.corrcoef(static.ravel(), truth.ravel())[0, 1] < 0.8


def test_source_change_and_influence_agree_and_follow_weights():
    oracle = small_oracle("softmax", 2)
    run = record_sgd(oracle, lr=0.1, n_epochs=10, batch_size=None, momentum=0.5)
    method = Source(3, run).fit(oracle)
    end = oracle.grad(oracle.X, oracle.y, run.final)
    np.testing.assert_allclose(
        method.influence(oracle.X, oracle.y), end @ method.parameter_change().T, atol=1e-12
    )
    sets = [np.array([0, 3]), np.arange(5, 9)]
    singles = method.parameter_change()
    np.testing.assert_allclose(
        method.parameter_change(sets), [singles[s].sum(axis=0) for s in sets], atol=1e-12
    )


def test_source_with_ekfac_is_near_the_dense_one():
    oracle = small_oracle("gaussian", 5, n=400)
    run = record_sgd(oracle, lr=0.05, n_epochs=30, batch_size=None, every=3)
    dense = Source(2, run, solver="dense").fit(oracle).influence(oracle.X, oracle.y)
    kron = Source(2, run, solver="ekfac", random_state=0).fit(oracle).influence(oracle.X, oracle.y)
    assert np.linalg.norm(kron - dense) < 0.1 * np.linalg.norm(dense)


def test_an_equal_record_in_the_same_batches_has_equal_influence():
    oracle = small_oracle("binomial", 6)
    X, y = np.vstack([oracle.X, oracle.X[3]]), np.append(oracle.y, oracle.y[3])
    weight = np.append(oracle.sample_weight, oracle.sample_weight[3])
    doubled = GLMOracle(oracle.family, oracle.theta, X, y, weight, oracle.regulariser())
    run = record_sgd(doubled, lr=0.1, n_epochs=5, batch_size=None)
    for method in (HyDRA(trajectory=run), SGDInfluence(run), Source(2, run), TracIn(run)):
        I = method.fit(doubled).influence(X[:4], y[:4])
        np.testing.assert_allclose(I[:, 3], I[:, -1], rtol=1e-10)


# --- the run itself -------------------------------------------------------------------------------------


def test_a_run_without_a_step_size_converges_to_the_fit():
    X, _ = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)[:, :6]
    target = X @ np.arange(6.0) + np.random.default_rng(0).normal(size=len(X))
    model = Ridge(alpha=50.0).fit(X, target)
    run = record_sgd(model, X, target, batch_size=None, n_epochs=3000, every=500)
    np.testing.assert_allclose(run.final, np.append(model.intercept_, model.coef_), atol=1e-6)
    assert len(run.thetas) == 7
    assert run.steps.tolist() == [0, 500, 1000, 1500, 2000, 2500, 3000]


def test_a_run_is_fixed_by_its_seed_and_covers_every_record_each_epoch():
    oracle = small_oracle()
    a, b = (record_sgd(oracle, n_epochs=3, batch_size=7, random_state=5) for _ in range(2))
    np.testing.assert_array_equal(a.thetas, b.thetas)
    other = record_sgd(oracle, n_epochs=3, batch_size=7, random_state=6)
    assert np.abs(a.final - other.final).max() > 0
    for epoch in range(3):
        seen = np.concatenate(a.batches[4 * epoch : 4 * epoch + 4])
        np.testing.assert_array_equal(np.sort(seen), np.arange(24))


def test_default_runs_are_made_for_convex_models_only():
    oracle = small_oracle()
    method = HyDRA(random_state=0).fit(oracle)
    assert method.n_fits_ == 1
    assert method.trajectory_.n_steps == 20
    oracle.convex = False
    for bad in (HyDRA(), SGDInfluence(), Source()):
        with pytest.raises(ValueError, match="pass trajectory=record_sgd"):
            bad.fit(oracle)


def test_bad_runs_are_refused_by_name():
    oracle = small_oracle()
    sparse = record_sgd(oracle, n_epochs=4, batch_size=None, every=2)
    with pytest.raises(ValueError, match="unrolls every step"):
        HyDRA(trajectory=sparse).fit(oracle)
    with pytest.raises(ValueError, match="must hold its batches"):
        SGDInfluence(Trajectory(sparse.thetas, 0.1)).fit(oracle)
    with pytest.raises(TypeError, match="trajectory must be a Trajectory"):
        SGDInfluence(sparse.thetas).fit(oracle)
    with pytest.raises(ValueError, match="trajectory holds 2 parameters"):
        Source(1, Trajectory([[0, 0], [1, 1]], 0.1)).fit(oracle)
    with pytest.raises(ValueError, match="n_segments=9 exceeds"):
        Source(9, sparse).fit(oracle)
    with pytest.raises(ValueError, match="names record 30"):
        HyDRA(trajectory=Trajectory(np.zeros((2, 3)), 0.1, [[30]])).fit(oracle)
    with pytest.raises(ValueError, match="thetas must be finite"):
        Trajectory([[0.0], [np.nan]], 0.1)
    with pytest.raises(ValueError, match="lrs must be"):
        Trajectory([[0.0], [1.0]], [0.1, 0.2])
    with pytest.raises(ValueError, match="diverged"), np.errstate(all="ignore"):
        record_sgd(small_oracle("gaussian"), lr=50.0, n_epochs=300)
    with pytest.raises(ValueError, match="start must have shape"):
        record_sgd(oracle, start=np.zeros(9))
    with pytest.raises(ValueError, match="lr must be"):
        record_sgd(oracle, lr=-1.0)
    with pytest.raises(ValueError, match="batch_size must be"):
        record_sgd(oracle, batch_size=0)
