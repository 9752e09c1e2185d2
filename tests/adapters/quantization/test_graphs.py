"""Tracing, units, placements, and the plain data of a network."""

import numpy as np
import pytest
import torch
from statml.adapters.quantization.lowering import fold_norm, lower, round_to_nearest
from statml.adapters.quantization.networks import ResNet, mobilenet_v2, resnet8, resnet18
from statml.adapters.quantization.placement import Bits, build_student
from statml.adapters.quantization.tracing import fix_shapes, trace
from statml.adapters.quantization.units import find_units
from torch import nn

F = nn.functional


def net_of(*layers):
    torch.manual_seed(0)
    net = nn.Sequential(*layers)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)  # half of them negative
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def execute(graph, X):
    """An independent, naive execution of the plain data, in float64."""
    values, read = {}, {}
    for node in graph.nodes:
        inputs = [read[name] for name in node.inputs]
        options = node.options
        if node.op == "input":
            y = X.double()
        elif node.op in ("conv", "linear"):
            weight = torch.from_numpy(node.weight.values)
            bias = torch.from_numpy(node.bias)
            if node.op == "linear":
                y = F.linear(inputs[0], weight, bias)
            else:
                conv = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.ndim]
                y = conv(inputs[0], weight, bias, **options)
        elif node.op == "affine":
            wide = (1, -1, *[1] * (inputs[0].ndim - 2))
            scale, shift = (torch.from_numpy(options[k]).reshape(wide) for k in ("scale", "shift"))
            y = inputs[0] * scale + shift
        elif node.op == "relu":
            y = inputs[0].relu()
        elif node.op == "relu6":
            y = inputs[0].clamp(0, 6)
        elif node.op == "add":
            y = inputs[0] + inputs[1]
        elif node.op == "concat":
            y = torch.cat(inputs, options["axis"])
        elif node.op == "max_pool":
            y = {3: F.max_pool1d, 4: F.max_pool2d}[inputs[0].ndim](inputs[0], **options)
        elif node.op == "avg_pool":
            y = {3: F.avg_pool1d, 4: F.avg_pool2d}[inputs[0].ndim](inputs[0], **options)
        elif node.op == "global_avg_pool":
            y = inputs[0].flatten(2).mean(2)
            if not options.get("squeeze"):
                y = y.reshape(*y.shape, *[1] * (inputs[0].ndim - 2))
        elif node.op == "flatten":
            y = inputs[0].flatten(1)
        values[node.name] = read[node.name] = y
        if node.activation is not None:
            codes = node.activation.codes(y.numpy())
            read[node.name] = torch.from_numpy(node.activation.values(codes))
    return values[graph.output]


class Branches(nn.Module):
    """Two branches that are joined, an average pool, a sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 4, 1)
        self.c = nn.Conv2d(7, 7, 3, padding=1, groups=7)
        self.norm, self.head = nn.BatchNorm2d(7), nn.Linear(28, 3)

    def forward(self, x):
        x = torch.cat([self.a(x).relu(), self.b(x)], 1)
        x = x + self.c(F.max_pool2d(x, 3, 1, 1))
        x = nn.functional.max_pool2d(self.norm(x), 2)
        return self.head(x.reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]))


NETS = {
    "1-D": (
        lambda: net_of(
            nn.Conv1d(2, 6, 3, stride=2),
            nn.BatchNorm1d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(2),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        (2, 19),
    ),
    "vectors": (
        lambda: net_of(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)
        ),
        (5,),
    ),
    "3-D": (
        lambda: net_of(
            nn.Conv3d(1, 4, 2),
            nn.BatchNorm3d(4),
            nn.ReLU6(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        (1, 5, 6, 4),
    ),
    "normalised first": (
        lambda: net_of(
            nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3)
        ),
        (3, 8, 9),
    ),
    "branches": (lambda: Branches().eval(), (2, 5, 5)),
    "ResNet-8": (lambda: resnet8("fashion-mnist").eval(), (1, 28, 28)),
    "ResNet, bottlenecks": (
        lambda: net_of(ResNet("bottleneck", (1, 2), (4, 6), n_classes=5)),
        (3, 40, 32),
    ),
    "MobileNetV2": (lambda: net_of(mobilenet_v2(n_classes=5, width=0.25)), (3, 32, 32)),
}


@pytest.mark.parametrize("placement", ["academic", "deployable"])
@pytest.mark.parametrize("name", NETS)
def test_plain_data_say_what_the_simulated_network_computes(name, placement):
    make, shape = NETS[name]
    net = make()
    X = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    graph, module = round_to_nearest(net, X, n_bits_w=4, n_bits_a=8, placement=placement)
    with torch.no_grad():
        simulated, exact = module(X).double(), net(X).double()
    ours = execute(graph, X)
    # floats of 32 bits may fall on the other side of a tie, here and there
    close = (ours - simulated).abs() <= 1e-4 * exact.abs().max()
    assert close.double().mean() > 0.9
    assert (ours - simulated).abs().max() <= 0.05 * exact.abs().max()
    assert (ours - exact).square().sum() < 0.2 * exact.square().sum()


@pytest.mark.parametrize("name", NETS)
def test_deployable_layers_read_codes_and_their_weights_fit_int8(name):
    make, shape = NETS[name]
    X = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    graph, _ = round_to_nearest(make(), X, n_bits_w=5, n_bits_a=4)
    assert graph.nodes[0].activation.n_bits == 8
    for node in graph.nodes:
        if node.weight is None:
            continue
        grid = graph.grid_read(node.inputs[0])
        assert grid is not None, node.name
        centred = node.weight.centred
        assert centred.min() >= -127
        assert centred.max() <= 127
    assert graph.nodes[-1].activation is None


def test_joined_tensors_share_a_grid_and_a_shortcut_has_none_of_its_own():
    graph, _ = round_to_nearest(Branches().eval(), torch.randn(8, 2, 5, 5))
    (joined,) = [node for node in graph.nodes if node.op == "concat"]
    assert len({graph.grid_read(name) for name in joined.inputs}) == 1
    assert graph.grid_read(joined.name) is not None
    student = build_student(trace(resnet8("fashion-mnist")), "academic", Bits(4, 4))
    for node in student.graph.nodes:
        readers = [user for user in node.users if user.name.startswith("quant_")]
        assert not readers or len(node.users) == 1  # all read the quantised tensor


def test_bits_are_those_of_the_setting():
    X = torch.randn(4, 1, 28, 28)
    graph, _ = round_to_nearest(
        resnet8("fashion-mnist"), X, n_bits_w=2, n_bits_a=3, placement="academic"
    )
    layers = [node for node in graph.nodes if node.weight is not None]
    assert [node.weight.n_bits for node in layers] == [8] + [2] * (len(layers) - 2) + [8]
    read = [graph.grid_read(node.inputs[0]) for node in layers]
    assert read[0] is None
    assert [grid.n_bits for grid in read[1:]] == [8] + [3] * (len(layers) - 3) + [8]


def test_folding_a_negative_scale_mirrors_codes_exactly():
    rng = np.random.default_rng(0)
    for n_bits in (2, 4, 8):
        top = 2**n_bits - 1
        codes = rng.integers(0, top + 1, (6, 3, 3))
        zero, step = rng.integers(0, top + 1, 6), 2.0 ** rng.integers(-4, 2, 6)
        scale, shift = np.array([-2.0, 2, -0.5, 0, 4, -1]), rng.integers(-4, 4, 6).astype(float)
        bias = rng.integers(-4, 4, 6).astype(float)
        new_codes, new_step, new_zero, new_bias = fold_norm(
            codes, step, zero, bias, n_bits, scale, shift
        )
        wide = (-1, 1, 1)
        before = step.reshape(wide) * (codes - zero.reshape(wide)) * scale.reshape(wide)
        after = new_step.reshape(wide) * (new_codes - new_zero.reshape(wide))
        assert np.array_equal(before, after)
        assert np.array_equal(new_bias, bias * scale + shift)
        assert (new_step > 0).all()
        assert new_codes.min() >= 0
        assert new_codes.max() <= top


# --- units --------------------------------------------------------------------------------------------


def test_blocks_are_found_in_the_graph_of_known_architectures():
    kinds = [unit.kind for unit in find_units(trace(resnet18()))]
    assert kinds == ["layer"] + ["residual"] * 8 + ["layer"]
    units = find_units(trace(mobilenet_v2()))
    counts = {kind: sum(unit.kind == kind for unit in units) for kind in {u.kind for u in units}}
    # 17 blocks, 10 of them with a sum, the first without an expansion; stem, last convolution, classifier
    assert counts == {"residual": 10, "inverted-residual": 6, "depthwise-separable": 1, "layer": 3}


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_every_layer_is_in_one_unit(small_net, granularity):
    for net in (small_net, resnet18(), mobilenet_v2(), Branches()):
        units = find_units(trace(net), granularity)
        layers = [name for unit in units for name in unit.layers]
        expected = [n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert sorted(layers) == sorted(expected)
        if granularity == "layer":
            assert all(len(unit.layers) == 1 for unit in units)


class LongSkip(nn.Module):
    """A residual block inside the reach of a longer one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))

    def forward(self, x):
        y = self.a(x)
        y = (y + self.b(y)).relu()
        return (x + self.c(y)).flatten(1)


def test_of_blocks_inside_one_another_the_inner_is_a_unit():
    units = find_units(trace(LongSkip()))
    assert [(unit.kind, unit.layers) for unit in units] == [
        ("layer", ("a",)),
        ("residual", ("b",)),
        ("layer", ("c",)),
    ]


# --- tracing ------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Something that cannot be quantised, in a part named `inner`."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.layer = inner, nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.inner(x))


class Decides(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return F.linear(x, self.weight)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Odd(Decides()), "in module 'inner'"),
        (lambda: Odd(Functional()), "calls linear on weights of its own"),
        (lambda: Odd(Twice()), "module 'inner.layer' is called twice"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(1, 1, 3)), "'0' is a ConvTranspose2d"),
        (lambda: nn.Sequential(nn.ReLU()), "no convolution or linear layer"),
    ],
)
def test_what_cannot_be_quantised_is_refused_with_its_place(model, message):
    with pytest.raises(ValueError, match=message):
        trace(model())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_refused(kind):
    with pytest.raises(TypeError, match="must hold 32-bit floats"):
        trace(nn.Linear(2, 2).to(kind))


class Shuffle(nn.Module):
    """Computes with sizes, as ShuffleNet does."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4 * 6, 2)

    def forward(self, x):
        n, c, h, w = x.size()
        x = self.conv(x).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.view(x.shape[0], -1))


def test_computations_with_sizes_are_replaced_by_their_results():
    net = Shuffle().eval()
    traced = trace(net)
    fix_shapes(traced, (4, 2, 3))
    X = torch.randn(5, 4, 2, 3)
    assert torch.equal(traced(X), net(X))
    assert not any(node.target == "size" for node in traced.graph.nodes)
    with pytest.raises(ValueError, match="does not take records of shape"):
        fix_shapes(trace(net), (4, 2, 4))


def test_tracing_leaves_the_network_alone_and_computes_the_same(small_net, digits):
    X = torch.from_numpy(digits[0][:20])
    before = {name: t.clone() for name, t in small_net.state_dict().items()}
    traced = trace(small_net)
    with torch.no_grad():
        torch.testing.assert_close(traced(X), small_net(X))
        for parameter in traced.parameters():
            parameter.zero_()
    assert small_net.blocks[0].relu.inplace
    for name, t in small_net.state_dict().items():
        assert torch.equal(t, before[name])


def test_an_operation_without_an_integer_form_is_named():
    net = net_of(nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="is a Sigmoid, for which no integer form is known"):
        round_to_nearest(net, torch.randn(4, 1, 4, 4))


def test_a_network_that_was_not_fitted_has_no_plain_data():
    student = build_student(trace(resnet8("fashion-mnist")), "academic", Bits())
    with pytest.raises(ValueError, match="fit first"):
        lower(student, (1, 28, 28), "academic")
