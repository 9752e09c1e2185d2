"""Fast node sums and fast solves against the dense ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statml.graphs.families import Conditional, SparseLogit, Trinomial, Unsigned
from statml.graphs.node_sums import ChebyshevSums, DenseSums, EdgeSums, Pairs, chebyshev_degree
from statml.graphs.node_system import NodeSystem

KERNELS = ("mean", "mean_slope", "variance", "information", "density")


def all_pairs(n, rows=None, cols=None):
    rows = np.arange(n) if rows is None else rows
    cols = np.arange(n) if cols is None else cols
    both = np.intersect1d(rows, cols)
    none = np.empty(0, dtype=int)
    return Pairs(
        rows, cols, np.searchsorted(rows, both), np.searchsorted(cols, both),
        none, none, np.empty(0, dtype=np.int8), False,
    )  # fmt: skip


def kernel(family, name, rho):
    return lambda x: getattr(family, name)(x, rho)


@pytest.mark.parametrize(
    ("family", "rho", "spread", "level"),
    [
        (SparseLogit(), 0.5, 1.0, 0.0),
        (SparseLogit(), 1.0, 3.0, 1.0),
        (Trinomial(), 1e-3, 2.5, 0.0),
        (Unsigned(), None, 2.0, -7.0),
    ],
)
def test_interpolated_sums_equal_dense_sums(family, rho, spread, level):
    rng = np.random.default_rng(1)
    n = 300
    theta = rng.normal(0, spread, 2 * n)
    theta[:n] += level
    pairs = all_pairs(n)
    kernels = [kernel(family, name, rho) for name in KERNELS]
    kernels.append(lambda x: family.score(x, rho, 0))
    kernels.append(lambda x: family.log_probability(x, rho, 0))
    dense, fast = DenseSums(theta, pairs), ChebyshevSums(theta, pairs, 1e-13)
    size = np.abs(dense.sums(*kernels)).max(axis=0)
    assert np.abs(dense.sums(*kernels) - fast.sums(*kernels)).max(axis=0) == pytest.approx(
        0, abs=1e-10 * size.min()
    )
    assert fast.totals(*kernels) == pytest.approx(dense.totals(*kernels), rel=1e-10, abs=1e-8)


@pytest.mark.parametrize("half_length", [1.0, 2.0, 5.0, 10.0])
def test_the_rule_for_the_degree_is_enough(half_length):
    """Twice the degree changes the sums by no more than the tolerance."""
    n = 200
    theta = np.concatenate([np.linspace(-half_length, half_length, n)] * 2)
    pairs, mean = all_pairs(n), kernel(SparseLogit(), "mean_slope", 0.7)
    once = ChebyshevSums(theta, pairs, 1e-8)
    twice = ChebyshevSums(theta, pairs, 1e-16)
    assert chebyshev_degree(half_length, 1e-16) >= 1.5 * chebyshev_degree(half_length, 1e-8)
    scale = np.abs(twice.sums(mean)).max()
    assert np.abs(once.sums(mean) - twice.sums(mean)).max() <= 1e-8 * scale


def test_equal_statuses_do_not_break_the_interpolation():
    pairs = all_pairs(50)
    fast = ChebyshevSums(np.zeros(100), pairs).sums(kernel(SparseLogit(), "density", 0.5))
    assert fast == pytest.approx(49 * (0.5 - 0.125))


def test_a_node_missing_on_one_side_has_no_self_term_there():
    rng = np.random.default_rng(2)
    rows, cols = np.arange(0, 60), np.arange(10, 80)
    theta = rng.normal(size=len(rows) + len(cols))
    pairs = all_pairs(80, rows, cols)
    g = kernel(Trinomial(), "variance", 0.2)
    assert ChebyshevSums(theta, pairs, 1e-13).sums(g) == pytest.approx(
        DenseSums(theta, pairs).sums(g)
    )


@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_fast_and_dense_systems_have_the_same_solutions(ridge):
    rng = np.random.default_rng(3)
    n = 250
    theta = rng.normal(0, 1.5, 2 * n)
    pairs, g = all_pairs(n), kernel(SparseLogit(), "information", 0.6)
    rhs = rng.normal(size=(2 * n, 2))
    gauge = np.concatenate([np.ones(n), -np.ones(n)])
    rhs -= np.outer(gauge, gauge @ rhs) / (2 * n)
    dense = NodeSystem(DenseSums(theta, pairs).matrix(g), ridge)
    fast = NodeSystem(ChebyshevSums(theta, pairs, 1e-14).matrix(g), ridge)
    x = dense.solve(rhs)
    assert np.abs(dense.apply(x) - rhs).max() < 1e-9
    assert fast.solve(rhs) == pytest.approx(x, rel=1e-8, abs=1e-10)
    assert np.linalg.eigvalsh(dense.dense()).min() > 0


@given(seed=st.integers(0, 1000), ridge=st.sampled_from([0.0, 0.5]))
def test_sparse_systems_are_solved_exactly(seed, ridge):
    rng = np.random.default_rng(seed)
    n = 15
    mask = rng.random((n, n)) < 0.4
    np.fill_diagonal(mask, False)
    mask[np.arange(n), (np.arange(n) + 1) % n] = True  # connects everything
    mask[np.arange(n), (np.arange(n) + 2) % n] = True
    source, target = np.nonzero(mask)
    i = np.arange(n)
    pairs = Pairs(i, i, i, i, source, target, np.ones(len(source), np.int8), True)
    theta = rng.normal(size=2 * n)
    sums = EdgeSums(theta, pairs)
    system = NodeSystem(sums.matrix(kernel(Conditional(), "information", None)), ridge)
    rhs = rng.normal(size=2 * n)
    rhs[:n] -= (rhs[:n].sum() - rhs[n:].sum()) / n
    assert system.dense() @ system.solve(rhs) == pytest.approx(rhs, abs=1e-8)


def test_edge_sums_are_sums_over_the_edges():
    i = np.arange(4)
    source, target = np.array([0, 0, 2]), np.array([1, 2, 3])
    pairs = Pairs(i, i, i, i, source, target, np.ones(3, np.int8), True)
    theta = np.arange(8) / 10
    x = theta[source] + theta[4 + target]
    rows = np.bincount(source, x, minlength=4)
    cols = np.bincount(target, x, minlength=4)
    assert EdgeSums(theta, pairs).sums(lambda v: v)[:, 0] == pytest.approx(np.r_[rows, cols])
