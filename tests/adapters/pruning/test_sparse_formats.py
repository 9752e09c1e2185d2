"""Zeros that are not stored: sizes as the survey counts them, files that come back exactly, sparse kernels that agree."""

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from statml.adapters.pruning import (  # noqa: E402
    SparseLinear,
    compact,
    load_pruned,
    save_pruned,
    sparsity_report,
    storage_bytes,
    to_sparse,
)
from statml.adapters.pruning.sparse_formats import pack, unpack  # noqa: E402
from torch import nn  # noqa: E402


def masked(sparsity, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(60, 80),
        nn.BatchNorm1d(80),
        nn.ReLU(),
        nn.Linear(80, 40),
        nn.ReLU(),
        nn.Linear(40, 3),
    )
    with torch.no_grad():
        for layer in (net[0], net[3]):
            layer.weight.masked_fill_(torch.rand_like(layer.weight) < sparsity, 0.0)
    return net.eval(), torch.randn(16, 60)


@pytest.mark.parametrize(
    ("sparsity", "bitmap", "delta", "csr"),
    # of the survey's formulas for 1e8 entries of 8 bits in 1e4 columns, relative to dense
    [
        (0.5, 0.625, 0.8125, 1.375),
        (0.8, 0.325, 0.375, 0.55),
        (0.9, 0.225, 0.2, 0.275),
        (0.99, 0.135, 0.024, 0.028),
    ],
)
def test_formats_take_what_the_survey_counts(sparsity, bitmap, delta, csr):
    n, columns = 4_000_000, 10_000
    rng = np.random.default_rng(0)
    values = torch.from_numpy((rng.random(n) >= sparsity).astype(np.int8)).reshape(-1, columns)
    sizes = storage_bytes(values)
    m = int(values.sum())
    gaps = np.diff(np.flatnonzero(values.numpy().ravel()), prepend=-1)
    bits = {
        "bitmap": 8 * m + n,
        "coo": m * (8 + 22),  # 2^22 > 4e6
        "delta": m * (8 + math.ceil(math.log2(gaps.max()))),
        "csr": m * (8 + 14) + len(values) * math.ceil(math.log2(m)),  # 2^14 > 1e4
        "csr_int32": 8 * m + 32 * (m + len(values) + 1),
    }
    assert {k: -(-v // 8) for k, v in bits.items()} == {
        k: v for k, v in sizes.items() if k != "dense"
    }
    # binomial noise in m is of order 1e-3; the largest gap grows with log n, by a bit at most up to 1e8
    assert sizes["bitmap"] / n == pytest.approx(bitmap, abs=2e-3)
    assert sizes["csr"] / n == pytest.approx(csr, abs=2e-3)
    assert delta - (1 - sparsity) / 8 - 2e-3 <= sizes["delta"] / n <= delta + 2e-3


def test_csr_with_int32_breaks_even_at_half_the_zeros():
    weight = torch.ones(64, 64)
    weight[:, ::2] = 0
    sizes = storage_bytes(weight)
    assert sizes["csr_int32"] - sizes["dense"] == 4 * 65  # the row pointers


@given(
    shape=st.lists(st.integers(0, 40), min_size=0, max_size=3),
    sparsity=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    dtype=st.sampled_from(
        [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64]
    ),
)
def test_packing_is_undone_exactly(shape, sparsity, dtype):
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randint(-9, 9, shape, generator=generator).to(dtype)
    tensor = tensor.masked_fill(torch.rand(shape, generator=generator) < sparsity, 0)
    packed = pack({"a": tensor, "b": torch.ones(3)})
    again = unpack(packed)
    assert list(again) == ["a", "b"]
    assert again["a"].dtype == dtype
    torch.testing.assert_close(again["a"], tensor, rtol=0, atol=0)
    assert sum(t.nbytes for t in packed.values()) <= tensor.nbytes + 12
    assert min(storage_bytes(tensor).values()) >= 0


def test_not_a_number_is_a_value():
    tensor = torch.zeros(1000)
    tensor[3], tensor[7] = float("nan"), float("-inf")
    packed = pack({"a": tensor})
    assert "a::bitmap" in packed
    torch.testing.assert_close(unpack(packed)["a"], tensor, rtol=0, atol=0, equal_nan=True)


def test_the_report_counts_the_whole_network_and_its_real_file(tmp_path):
    net, _ = masked(0.9)
    table = sparsity_report(net).set_index("tensor")
    save_pruned(net, tmp_path / "net.safetensors")
    total = table.loc["total"]
    assert total["file_bytes"] == (tmp_path / "net.safetensors").stat().st_size
    assert total["n"] == sum(t.numel() for t in net.state_dict().values())
    assert total["n_nonzero"] == sum(int((t != 0).sum()) for t in net.state_dict().values())
    assert total["sparsity"] == 1 - total["n_nonzero"] / total["n"]
    for name in ("dense", "bitmap", "coo", "delta", "csr", "csr_int32"):
        assert total[f"{name}_bytes"] == table[f"{name}_bytes"].iloc[:-1].sum()
    assert table.loc["0.weight", "file_bytes"] < 0.2 * table.loc["0.weight", "dense_bytes"]
    assert total["file_bytes"] < 0.3 * total["dense_bytes"]


def test_a_pruned_network_comes_back_from_a_smaller_file(tmp_path):
    net, x = masked(0.9)
    save_pruned(net, tmp_path / "net.safetensors")
    again = load_pruned(tmp_path / "net.safetensors", masked(0.0, seed=1)[0])
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)


def test_a_compact_network_is_read_into_the_architecture_it_came_from(tmp_path):
    net, x = masked(0.5)
    with torch.no_grad():
        net[0].weight[:50] = 0
        net[0].bias[:50] = 1.0
        net[3].bias = None  # a constant makes `compact` add one
    small = compact(net, x)
    save_pruned(small, tmp_path / "small.safetensors")
    again = load_pruned(tmp_path / "small.safetensors", net)
    assert again[0].out_features == again[1].num_features == again[3].in_features == 30
    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)


def test_a_shared_weight_is_stored_once(tmp_path):
    def shared():
        layer = nn.Linear(50, 50)
        return nn.Sequential(layer, nn.ReLU(), layer)

    net = shared()
    save_pruned(net, tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").stat().st_size < 1.2 * 4 * 50 * 50
    again = load_pruned(tmp_path / "net.safetensors", shared())
    assert again[0].weight is again[2].weight
    assert torch.equal(again[0].weight, net[0].weight)


def rewrite(path, change):
    """Change the tensors of a safetensors file and nothing else."""
    from safetensors import safe_open
    from safetensors.torch import save

    with safe_open(path, "pt") as file:
        tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
    change(tensors, metadata)
    path.write_bytes(save(tensors, metadata))


def test_files_that_were_changed_are_refused(tmp_path):
    net, _ = masked(0.9)
    path = tmp_path / "net.safetensors"

    def refused(change, message):
        save_pruned(net, path)
        rewrite(path, change)
        with pytest.raises(ValueError, match=message):
            load_pruned(path, net)

    refused(lambda t, m: t["0.weight::values"].add_(1), "was changed after it was written")
    refused(lambda t, m: t["0.weight::bitmap"].bitwise_xor_(1), "was changed after it was written")
    refused(lambda t, m: t.pop("5.bias"), "was changed after it was written")
    refused(lambda t, m: m.pop("sha256"), "was changed after it was written")
    refused(lambda t, m: m.update(format="other"), "was not written by save_pruned")
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")  # a pickle
    with pytest.raises(ValueError, match="no safetensors file"):
        load_pruned(path, net)
    save_pruned(net, path)
    with pytest.raises(ValueError, match="do not fit Linear"):
        load_pruned(path, nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a::bitmap": torch.zeros(3, dtype=torch.uint8)}, "does not fit its shape"),
        ({"a::shape": torch.tensor([2**40, 2**20])}, "does not fit its shape"),
        ({"a::shape": torch.tensor([-10, -100])}, "lacks its values or its shape"),
        ({"a::values": torch.ones(2)}, "1 entries, its values 2"),
        ({"a::values": None}, "lacks its values or its shape"),
        ({"a::bitmap": None}, "no part of a packed tensor"),
        ({"b::code": torch.ones(1)}, "no part of a packed tensor"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(change, message):
    tensor = torch.zeros(10, 100)
    tensor[3, 4] = 1
    packed = {k: v for k, v in (pack({"a": tensor}) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        unpack(packed)


def test_a_length_that_lies_is_refused_by_the_header(tmp_path):
    path = tmp_path / "net.safetensors"
    save_pruned(masked(0.9)[0], path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["0.bias"]["data_offsets"][1] += 10**9
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(ValueError, match="no safetensors file"):
        load_pruned(path, masked(0.9)[0])


@pytest.mark.parametrize("sparsity", [0.5, 0.95, 1.0])
def test_csr_agrees_with_dense_and_with_scipy(sparsity):
    from scipy.sparse import csr_array

    net, x = masked(sparsity)
    sparse = to_sparse(net, x, "csr")
    assert [type(layer) is SparseLinear for layer in sparse] == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    with torch.no_grad():
        assert (sparse(x) - net(x)).abs().max() < 1e-5
        layer = sparse[0]
        theirs = csr_array(
            (layer.values.numpy(), layer.columns.numpy(), layer.row_starts.numpy()), shape=(80, 60)
        )
        np.testing.assert_array_equal(theirs.toarray(), net[0].weight.numpy())
        expected = (theirs @ x.numpy().T).T + net[0].bias.numpy()
        np.testing.assert_allclose(layer(x).numpy(), expected, atol=1e-5)
        stacked = layer(x.reshape(4, 4, 60))
        torch.testing.assert_close(stacked.view(16, 80), layer(x), rtol=0, atol=0)
        torch.testing.assert_close(layer(x[0]), layer(x)[0], rtol=0, atol=1e-5)
        assert layer(x[:0]).shape == (0, 80)
    assert layer.columns.dtype == layer.row_starts.dtype == torch.int32  # not torch's 64 bits


def test_auto_makes_sparse_only_what_is_faster():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 768))
    with torch.no_grad():
        net[0].weight[:, 8:] = 0  # 8 of 768 columns: a hundred times fewer products
        net[2].weight[0, 0] = 0  # one zero: CSR many times slower
    sparse = to_sparse(net, torch.randn(64, 768), "auto")
    assert isinstance(sparse[0], SparseLinear)
    assert isinstance(sparse[2], nn.Linear)


def test_layers_that_fused_code_reads_by_itself_stay_dense():
    # in evaluation mode, torch's encoder layer reads these weights without calling the layers
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = nn.Sequential(encoder, nn.Linear(16, 3)).eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim > 1:
                p.masked_fill_(torch.rand_like(p) < 0.9, 0.0)
    sparse = to_sparse(net, torch.randn(3, 5, 16), "csr")
    assert isinstance(sparse[1], SparseLinear)
    assert isinstance(sparse[0].linear1, nn.Linear)


def test_bad_input_is_named():
    net, x = masked(0.9)
    with pytest.raises(ValueError, match='layout must be "auto" or "csr"'):
        to_sparse(net, x, "bsr")
    with pytest.raises(ValueError, match="convolutions have no sparse kernel"):
        to_sparse(nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 4, 4), "csr")
    with pytest.raises(ValueError, match="ReLU has none"):
        sparsity_report(nn.ReLU())
