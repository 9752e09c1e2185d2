"""A fitted estimator hands out smaller forms of its network, and saves to a smaller file."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError

torch = pytest.importorskip("torch")

from statml.adapters import NetClassifier, PruningClassifier  # noqa: E402
from statml.adapters.pruning import SparseLinear  # noqa: E402
from torch import nn  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:600] / 16).astype(np.float32).reshape(-1, 1, 8, 8), y[:600]


@pytest.fixture(scope="module")
def fitted(digits):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, 10),
    )
    return PruningClassifier(
        net, structure="channel", sparsity=0.5, schedule="one-shot", epochs=1, random_state=0
    ).fit(*digits)


def test_the_compact_network_predicts_as_the_estimator_does(fitted, digits):
    small = fitted.compact()
    n = [sum(p.numel() for p in net.parameters()) for net in (small, fitted.module_)]
    assert n[0] < n[1]
    with torch.no_grad():
        logits = small.eval()(torch.from_numpy(digits[0]))
    probability = torch.softmax(logits.double(), 1).numpy()
    np.testing.assert_allclose(probability, fitted.predict_proba(digits[0]), atol=1e-6)


def test_the_report_is_of_the_network(fitted):
    total = fitted.sparsity_report().iloc[-1]
    state = fitted.module_.state_dict().values()
    assert total["n"] == sum(t.numel() for t in state)
    assert total["n_nonzero"] == sum(int(torch.count_nonzero(t)) for t in state)


def test_a_sparse_network_agrees_and_its_file_is_smaller(tmp_path, digits):
    X, y = digits[0].reshape(len(digits[0]), -1), digits[1]
    common = {"module__hidden": (256,), "epochs": 2, "random_state": 0}
    sparse = PruningClassifier(sparsity=0.9, schedule="one-shot", **common).fit(X, y)
    layers = sparse.to_sparse("csr")
    assert any(isinstance(layer, SparseLinear) for layer in layers.modules())
    with torch.no_grad():
        difference = layers(torch.from_numpy(X)) - sparse.module_.eval()(torch.from_numpy(X))
    assert difference.abs().max() < 1e-5

    dense = NetClassifier(**common).fit(X, y)
    sparse.save(tmp_path / "sparse.safetensors")
    dense.save(tmp_path / "dense.safetensors")
    again = PruningClassifier.load(tmp_path / "sparse.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), sparse.predict_proba(X))
    sizes = [(tmp_path / f"{form}.safetensors").stat().st_size for form in ("sparse", "dense")]
    assert sizes[0] < 0.6 * sizes[1]
    assert again.input_shape_ == (64,)


def test_onnx_gives_the_same_probabilities(fitted, digits, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from statml.adapters.pruning import run_onnx

    (logits,) = run_onnx(fitted.export_onnx(tmp_path / "net.onnx"), torch.from_numpy(digits[0]))
    probability = torch.softmax(logits.double(), 1).numpy()
    np.testing.assert_allclose(probability, fitted.predict_proba(digits[0]), atol=1e-5)


def test_benchmark_takes_the_users_batch(fitted, digits):
    table = fitted.benchmark(digits[0][:5].tolist(), n_repeats=1)
    assert (table["n_records"] == 5).all()


def test_nothing_is_handed_out_before_fit():
    for call in ("compact", "to_sparse", "sparsity_report"):
        with pytest.raises(NotFittedError):
            getattr(PruningClassifier(), call)()
