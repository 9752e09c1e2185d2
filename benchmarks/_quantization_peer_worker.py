"""model-compression-toolkit and torchao on a network; runs inside .venv-mct, which benchmarks/_quantization_peer.py makes.

Called with the file of weights, and one of test records and of images to calibrate on; prints JSON, a row for each peer. The toolkit asks for
three functions of torchvision, which has no build for this torch: they are written out here.
"""

import json
import sys
import time
import types

import torch
from torch import nn

torch.set_num_threads(1)


class Normalize(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = torch.as_tensor(mean), torch.as_tensor(std)

    def forward(self, x):
        return (x - self.mean.view(-1, 1, 1).to(x)) / self.std.view(-1, 1, 1).to(x)


class RandomCrop(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = _setup_size(size)

    def forward(self, x):
        top, left = (
            int(torch.randint(a - b + 1, (1,)))
            for a, b in zip(x.shape[-2:], self.size, strict=True)
        )
        return x[..., top : top + self.size[0], left : left + self.size[1]]


class CenterCrop(RandomCrop):
    def forward(self, x):
        top, left = ((a - b) // 2 for a, b in zip(x.shape[-2:], self.size, strict=True))
        return x[..., top : top + self.size[0], left : left + self.size[1]]


class RandomHorizontalFlip(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p

    def forward(self, x):
        return x.flip(-1) if torch.rand(1) < self.p else x


def _setup_size(size, error_msg=None):
    return (size, size) if isinstance(size, int) else tuple(size)


def stand_in_for_torchvision():
    import importlib.machinery

    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.transforms")
    modules = [types.ModuleType(name) for name in names]
    for name, module in zip(names, modules, strict=True):
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        sys.modules[name] = module
    for part in (Normalize, RandomCrop, CenterCrop, RandomHorizontalFlip, _setup_size):
        for module in modules[1:]:
            setattr(module, part.__name__, part)
    modules[0].transforms, modules[1].transforms = modules[1:]


class Block(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(n_out), nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(n_out), nn.ReLU()
        self.downsample = None
        if (n_in, stride) != (n_out, 1):
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + (x if self.downsample is None else self.downsample(x)))


class Net(nn.Module):
    """The residual network of the weights, with three input channels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.layer3 = nn.Sequential(Block(32, 64, 2))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.flatten(self.avgpool(self.layer3(self.layer2(self.layer1(x)))), 1))


def by_toolkit(net, images):
    """W8A8 by the toolkit's defaults, on given images, or on as many of its own where a number is given."""
    import model_compression_toolkit as mct

    if isinstance(images, int):
        config = mct.data_generation.get_pytorch_data_generation_config(
            data_gen_batch_size=images,
            image_normalization_type=mct.data_generation.ImageNormalizationType.NO_NORMALIZATION,
            image_clipping=False,
        )
        made = mct.data_generation.pytorch_data_generation_experimental(
            model=net, n_images=images, output_image_size=(28, 28), data_generation_config=config
        )
        images = torch.cat([i if i.ndim == 4 else i[None] for i in made]).detach()

    def representative():
        for part in images.split(32):
            yield [part]

    return mct.ptq.pytorch_post_training_quantization(net, representative)[0]


def by_torchao(net, images):
    """W8A8 by the quantizer for x86 processors, calibrated on given images."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    shapes = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(net, (images[:32],), dynamic_shapes=shapes, strict=True)
    prepared = prepare_pt2e(program.module(), quantizer)
    with torch.no_grad():
        for part in images.split(32):
            prepared(part)
    return move_exported_model_to_eval(convert_pt2e(prepared))


def main():
    stand_in_for_torchvision()
    weights, records = sys.argv[1:]
    net = Net()
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.eval()
    data = torch.load(records, weights_only=True)
    X, y, images = data["X"], data["y"], data["images"]

    def accuracy(model):
        with torch.no_grad():
            outputs = torch.cat([model(part) for part in X.split(500)])
        return 100 * (outputs.argmax(1) == y).double().mean().item()

    rows = [{"network": "float", "accuracy": accuracy(net), "wall": 0.0, "cpu": 0.0}]
    for name, by, given in (
        ("model-compression-toolkit, its images", by_toolkit, len(images)),
        ("model-compression-toolkit, statml's images", by_toolkit, images),
        ("torchao, statml's images", by_torchao, images),
    ):
        torch.manual_seed(0)
        wall, cpu = time.perf_counter(), time.process_time()
        quantised = by(net, given)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rows.append({"network": name, "accuracy": accuracy(quantised), "wall": wall, "cpu": cpu})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
