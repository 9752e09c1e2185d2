"""Measures of efficiency, slack and sensitivity, and the displays."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_digits

torch = pytest.importorskip("torch")

from statml.adapters import (  # noqa: E402
    LayerDensityDisplay,
    MaskDisplay,
    NetClassifier,
    PruningClassifier,
    PruningPathDisplay,
    PruningRegressor,
)
from statml.adapters.pruning import (  # noqa: E402
    accuracy_density,
    efficiency_table,
    parameter_efficiency,
    parameter_slack,
    sensitivity_scan,
)
from statml.adapters.pruning.costs import count_macs, layer_positions, stored_bytes  # noqa: E402
from torch import nn  # noqa: E402


@pytest.fixture(scope="module")
def fitted():
    X, y = load_digits(return_X_y=True)
    model = PruningClassifier(
        module__hidden=(32, 16),
        epochs=8,
        sparsity=0.9,
        fraction=0.5,
        validation_fraction=0.4,
        random_state=0,
    )
    return model.fit(X / 16, y)


def test_accuracy_density_is_percent_by_million_parameters():
    assert accuracy_density(0.75, 250_000) == pytest.approx(300)
    assert accuracy_density([0.5, 1.0], [1e6, 2e6]) == pytest.approx([50, 50])


def test_parameter_efficiency_has_the_invariances_that_it_claims():
    def e(a, m, n=100_000, dense=0.9, chance=0.0):
        return parameter_efficiency(a, m, n, dense, chance)

    assert e(0.9, 100_000) == 0.0
    assert e(0.9, 10_000) == pytest.approx(1.0)
    assert e(0.99, 100_000) == pytest.approx(np.log10(99 / 9))
    # wider by a factor, with as many times the weights left
    assert e(0.85, 5_000) == pytest.approx(e(0.85, 15_000, n=300_000))
    # along a path it adds up
    via = e(0.88, 20_000) + parameter_efficiency(0.7, 2_000, 20_000, 0.88)
    assert e(0.7, 2_000) == pytest.approx(via)
    # a test set that divides all odds by three
    harder = [1 / (1 + 3 * (1 - a) / a) for a in (0.85, 0.9)]
    assert e(0.85, 5_000) == pytest.approx(e(harder[0], 5_000, dense=harder[1]))
    assert e(0.1, 5_000, chance=0.1) == -np.inf
    with pytest.raises(ValueError, match="below 1"):
        e(1.0, 10)
    with pytest.raises(ValueError, match="dense_accuracy must be"):
        e(0.5, 10, dense=0.1, chance=0.2)
    with pytest.raises(ValueError, match="positive"):
        e(0.5, 0)
    with pytest.raises(ValueError, match=r"shares in \[0, 1\]"):
        accuracy_density(75.0, 10)


def test_the_table_of_a_path_starts_at_one_and_zero(fitted):
    table = efficiency_table(fitted.path_, chance=0.1)
    assert table["compression"].iloc[0] == table["mac_ratio"].iloc[0] == 1.0
    assert table["parameter_efficiency"].iloc[0] == 0.0
    assert (table["compression"].diff().dropna() > 0).all()
    with pytest.raises(ValueError, match="dense network"):
        efficiency_table(fitted.path_.iloc[1:])


def test_slack_is_the_largest_sparsity_within_the_loss():
    path = pd.DataFrame(
        {"sparsity": [0, 0.2, 0.5, 0.8, 0.9], "val_error": [0.10, 0.09, 0.11, 0.10, 0.30]}
    )
    table = parameter_slack(path, n_val=1000, loss=[0.0, 0.02, 0.5])
    assert table["slack"].tolist() == [0.8, 0.8, 0.9]
    assert np.isnan(table["slack_confident"].iloc[0])
    assert table["slack_confident"].iloc[2] == 0.9
    with pytest.raises(ValueError, match="dense network"):
        parameter_slack(path.iloc[1:], 100)


def test_confident_slack_claims_too_much_no_more_often_than_its_level_says():
    """Independent errors, a true loss at the boundary of what is allowed: the bound fails in at most 1 - level of the draws."""
    rng = np.random.default_rng(0)
    n_val, replications, level = 400, 800, 0.9
    wrong = 0
    for dense, allowed in ((0.05, 0.01), (0.2, 0.03)):
        errors = rng.binomial(n_val, [dense, dense + allowed], (replications, 2)) / n_val
        for e in errors:
            path = pd.DataFrame({"sparsity": [0.0, 0.5], "val_error": e})
            claimed = parameter_slack(path, n_val, [allowed], level)["slack_confident"].iloc[0]
            wrong += claimed == 0.5
    n = 2 * replications
    limit = 1 - level
    assert wrong / n < limit + 4 * np.sqrt(limit * (1 - limit) / n)
    assert wrong / n > 0.5 * limit  # and it is not empty


def test_products_and_bytes_are_counted_over_the_whole_network():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 3))
    positions = layer_positions(net, torch.zeros(5, 1, 8, 8))
    assert positions == {"0.weight": 9, "2.weight": 1}
    state = net.state_dict()
    assert count_macs(state, positions) == 9 * 36 + 108
    dense = sum(4 * v.numel() for v in state.values())
    assert stored_bytes(state) == dense
    state["2.weight"][1:] = 0
    assert stored_bytes(state) == dense - 4 * 108 + 14 + 4 * 36
    assert count_macs(state, positions) == 9 * 36 + 36


def test_the_scan_prunes_one_layer_at_a_time(fitted):
    X, y = load_digits(return_X_y=True)
    X = X / 16
    scan = sensitivity_scan(fitted.dense_module_, (X, y), [0.5, 0.95])
    assert scan["layer"].tolist() == ["(dense)", *["layers.1.weight"] * 2, *["layers.3.weight"] * 2]
    dense = NetClassifier(fitted.dense_module_, epochs=0).fit(X, y)
    assert scan["error"].iloc[0] == pytest.approx(1 - dense.score(X, y))
    assert (scan["loss"].iloc[[2, 4]].to_numpy() > scan["loss"].iloc[[1, 3]].to_numpy()).all()


def test_intervals_of_the_path_are_wilsons(fitted):
    display = PruningPathDisplay.from_estimator(fitted, level=0.9)
    n, p = fitted.n_val_, fitted.path_["val_error"].iloc[0]
    z = stats.norm.ppf(0.95)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert display.path["conf_low"].iloc[0] == pytest.approx(centre - half)
    assert display.path["conf_high"].iloc[0] == pytest.approx(centre + half)


def test_displays_show_what_the_estimator_holds(fitted):
    for show in (PruningPathDisplay.from_estimator, fitted.__class__.plot_path):
        ax = show(fitted).ax_
        assert ax.lines[0].get_xdata().tolist() == pytest.approx(fitted.path_["density"].tolist())
    display = LayerDensityDisplay.from_estimator(fitted)
    assert [bar.get_width() for bar in display.ax_.patches] == pytest.approx(
        list(fitted.layer_density_.values())
    )
    assert fitted.plot_layer_density().densities == fitted.layer_density_
    mask = MaskDisplay.from_estimator(fitted, layer="layers.3.weight")
    assert mask.ax_.images[0].get_array().shape == (16, 32)
    assert fitted.plot_mask().name == "layers.1.weight"
    with pytest.raises(ValueError, match='layer must be "layers'):
        fitted.plot_mask("layers.9.weight")


def test_a_path_without_held_out_records_is_plotted_too():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    model = PruningRegressor(
        module__hidden=(8,),
        epochs=2,
        sparsity=0.5,
        schedule="one-shot",
        validation_fraction=0.0,
        random_state=0,
    ).fit(X, X[:, 0])
    display = model.plot_path()
    assert len(display.ax_.containers) == 0
