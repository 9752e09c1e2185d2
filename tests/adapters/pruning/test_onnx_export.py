"""ONNX files give what the network gives, in another runtime and for batches of any size."""

import importlib.util

import pytest

torch = pytest.importorskip("torch")

from statml.adapters.pruning import compact, export_onnx, run_onnx, to_sparse  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402


@pytest.fixture
def onnxruntime():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    return pytest.importorskip("onnxruntime")


class Convolutional(nn.Module):
    """A residual sum, and heads whose sizes are in the code, so that the compact network is a graph."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = (x + self.second(x)).flatten(2).transpose(1, 2)
        qkv = self.qkv(x).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.head(y.transpose(1, 2).reshape(x.shape[0], -1, 8).mean(1))


def test_the_file_agrees_for_batches_of_any_size(onnxruntime, tmp_path):
    torch.manual_seed(0)
    net = Convolutional().eval()
    with torch.no_grad():
        for layer in (net.first, net.second):
            layer.weight[:4] = 0
            layer.bias[:4] = 0
        net.norm.bias[:4] = 0
        net.qkv.weight.view(3, 2, 4, 8)[:, 0] = 0  # the first head
        net.qkv.bias.view(3, 2, 4)[:, 0] = 0
    small = compact(net, torch.randn(4, 1, 6, 6))
    dense_path = export_onnx(net, torch.randn(4, 1, 6, 6), tmp_path / "dense.onnx")
    path = export_onnx(small, torch.randn(4, 1, 6, 6), tmp_path / "small.onnx")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["dense.onnx", "small.onnx"]
    for n_records in (1, 5):
        x = torch.randn(n_records, 1, 6, 6)
        for file in (dense_path, path):
            (got,) = run_onnx(file, x)
            assert (got - net(x)).abs().max() < 1e-5
    import onnx

    weights = [
        sum(len(w.raw_data) for w in onnx.load(file).graph.initializer)
        for file in (dense_path, path)
    ]
    assert weights[1] < 0.6 * weights[0]


def test_what_onnx_cannot_hold_is_refused(onnxruntime, tmp_path):
    layer = nn.Linear(6, 5)
    with torch.no_grad():
        layer.weight[:3] = 0
    net, x = nn.Sequential(layer), torch.randn(2, 6)
    with pytest.raises(ValueError, match="export the dense or the compact module"):
        export_onnx(to_sparse(net, x, "csr"), x, tmp_path / "net.onnx")

    class Sequence(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ValueError, match="Sequence cannot be exported to ONNX"):
        export_onnx(Sequence(), x, tmp_path / "net.onnx")


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs onnx: pip install 'statml\[onnx\]'"):
        export_onnx(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()
