"""The path's plot shows what its table holds."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from statml.group_robust import GroupDROClassifier, GroupPathDisplay


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(200, 2)), np.array(["a", "b", "c"])[rng.integers(0, 3, 200)]
    y = (X[:, 0] * np.where(groups == "a", -1, 1) + rng.logistic(size=200) > 0).astype(int)
    return GroupDROClassifier().fit(X, y, groups)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_line_a_group_along_alpha(model):
    display = GroupPathDisplay.from_estimator(model)
    lines = display.ax_.get_lines()
    assert [line.get_label() for line in lines] == ["a", "b", "c"]
    own = display.table[display.table["group"] == "b"]
    np.testing.assert_array_equal(lines[1].get_xdata(), own["alpha"])
    np.testing.assert_array_equal(lines[1].get_ydata(), own["loss"])
    left, right = display.ax_.get_xlim()
    assert left > right  # from the mean loss to the worst group


def test_weights_along_the_ridge_on_given_axes(model):
    _, ax = plt.subplots()
    display = GroupPathDisplay.from_estimator(model, l2s=[1e-3, 1e-2, 1e-1], show="weight", ax=ax)
    assert display.ax_ is ax
    assert ax.get_xlabel() == "l2"
    assert ax.get_xscale() == "log"
    total = sum(line.get_ydata() for line in ax.get_lines())
    np.testing.assert_allclose(total, 1)


def test_many_groups_are_drawn_without_a_legend():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(200, 2)), np.arange(200) % 20
    fit = GroupDROClassifier().fit(X, rng.integers(0, 2, 200), groups)
    display = GroupPathDisplay.from_estimator(fit, alphas=[1.0, 0.3])
    assert len(display.ax_.get_lines()) == 20
    assert display.ax_.get_legend() is None


def test_two_parameters_at_once_are_refused(model):
    with pytest.raises(ValueError, match="path varies both alpha and l2"):
        GroupPathDisplay.from_path(model.path(alphas=[1.0, 0.5], l2s=[1e-3, 1e-2]))
    with pytest.raises(ValueError, match='show must be "loss" or "weight"'):
        GroupPathDisplay.from_path(model.path(alphas=[1.0]), show="q")
