"""`compact` removes what makes no difference, all of it, and nothing else."""

import copy

import pytest

torch = pytest.importorskip("torch")

from statml.adapters.pruning import compact, find_groups  # noqa: E402
from statml.adapters.pruning.channel_ids import propagate  # noqa: E402
from statml.adapters.pruning.compaction import dead_units, disagreement  # noqa: E402
from torch import fx, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

EXACT = 1e-6  # the bound of the contract; outputs are of order one


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return F.relu(x + self.layers(x))


class Residual(nn.Module):
    def __init__(self, width=16, n_blocks=2):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(Block(width) for _ in range(n_blocks)))
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Dense(nn.Module):
    """Concatenation, grouped, depthwise and pointwise convolutions, squeeze and excite, flatten, dropout."""

    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
        self.pointwise = nn.Conv2d(2 * width, width, 1)
        self.squeeze, self.excite = nn.Linear(width, 4), nn.Linear(4, width)
        self.grouped = nn.Conv2d(2 * width, 2 * width, 3, groups=4)
        self.hidden, self.head = nn.Linear(8 * width, 24), nn.Linear(24, 5)

    def forward(self, x):
        a = F.relu(self.norm(self.first(x)))
        b = self.pointwise(F.hardswish(self.depthwise(a)))
        b = b * torch.sigmoid(self.excite(F.relu(self.squeeze(b.mean((2, 3))))))[:, :, None, None]
        x = F.adaptive_avg_pool2d(F.relu(self.grouped(torch.cat([a, b], 1))), 2).flatten(1)
        return self.head(F.dropout(F.relu(self.hidden(x)), training=self.training))


class Decoder(nn.Module):
    """From a vector to an image and through a pixel shuffle."""

    def __init__(self):
        super().__init__()
        self.first, self.up = nn.Linear(6, 8), nn.ConvTranspose2d(8, 12, 2, stride=2)
        self.slope, self.second = nn.PReLU(12), nn.Conv2d(3, 8, 3)
        self.norm, self.head = nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.slope(self.up(self.first(x)[:, :, None, None].expand(-1, -1, 3, 3)))
        return self.head(self.norm(self.second(F.pixel_shuffle(x, 2))))


class Transformer(nn.Module):
    def __init__(self, need_weights=False):
        super().__init__()
        self.need_weights = need_weights
        self.embed, self.position = nn.Linear(6, 16), nn.Parameter(torch.randn(1, 5, 16))
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=self.need_weights)[0]
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class FusedAttention(nn.Module):
    """Attention written out, with the sizes of its heads in its code."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv = nn.Linear(6, 16), nn.Linear(16, 48)
        self.proj, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        qkv = self.qkv(x).reshape(x.shape[0], -1, 3, 4, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.head((x + self.proj(y.transpose(1, 2).reshape(x.shape[0], -1, 16))).mean(1))


class FixedSizes(nn.Module):
    """A view, a split and a slice with numbers in them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Linear(8 * 16, 12)
        self.head = nn.Linear(4 + 6, 2)

    def forward(self, x):
        x = self.second(F.relu(self.first(x)).view(-1, 8 * 16))
        a, b, c = x.split([4, 4, 4], 1)
        return self.head(torch.cat([torch.tanh(a) * b, c, x[:, 4:6]], 1))


IMAGE, SEQUENCE = torch.Size([1, 8, 8]), torch.Size([5, 6])
NETS = {
    "residual": (Residual, IMAGE, Residual),
    "dense": (Dense, IMAGE, Dense),
    "decoder": (Decoder, (6,), Decoder),
    "transformer": (Transformer, SEQUENCE, fx.GraphModule),
    "transformer with weights": (lambda: Transformer(True), SEQUENCE, fx.GraphModule),
    "fused attention": (FusedAttention, SEQUENCE, fx.GraphModule),
    "fixed sizes": (FixedSizes, torch.Size([1, 6, 6]), fx.GraphModule),
}


def build(name, seed=0):
    """A network with all numbers away from their defaults, and an input."""
    torch.manual_seed(seed)
    factory, shape, _ = NETS[name]
    net = factory()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return net.eval(), torch.randn(7, *shape)


def remove_half(net, groups, seed=0):
    """Set the outputs of every other removable group to zero; returns how many parameters these groups hold."""
    tensors = dict(net.named_parameters())
    gone = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in tensors.items()}
    with torch.no_grad():
        for group in [g for g in groups if g.kept_because is None][seed::2]:
            for name, dim, index in group.slots:
                if name in tensors:
                    gone[name].select(dim, index).fill_(True)
            for name, dim, index in group.outputs:
                if name in tensors:
                    tensors[name].select(dim, index).zero_()
    return sum(int(g.sum()) for g in gone.values())


def n_parameters(net):
    return sum(p.numel() for p in net.parameters())


def largest_difference(net, small, x):
    with torch.no_grad():
        return (net.eval()(x) - small.eval()(x)).abs().max().item()


@pytest.mark.parametrize("name", NETS)
def test_half_of_the_channels_go_and_the_output_stays(name):
    net, x = build(name)
    removed = remove_half(net, find_groups(net, x))
    before = copy.deepcopy(net.state_dict())
    small = compact(net, x)
    assert isinstance(small, NETS[name][2])
    # every parameter of these groups is gone, or units that they fed alone as well
    assert n_parameters(small) <= n_parameters(net) - removed
    assert removed > 0.3 * n_parameters(net)
    other_batch = torch.randn(3, *x.shape[1:])
    assert largest_difference(net, small, x) < EXACT
    assert largest_difference(net, small, other_batch) < EXACT
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_a_network_without_dead_units_is_copied():
    net, x = build("residual")
    same = compact(net.train(), x)
    assert same is not net
    assert same.training
    assert largest_difference(net, same, x) == 0
    assert n_parameters(same) == n_parameters(net)


def test_zeros_scattered_over_weights_are_enough():
    # unstructured pruning, in which some units happened to lose all that comes in, or all that goes out
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 3))
    with torch.no_grad():
        net[0].weight[0:2] = 0  # constant relu(bias), into the next bias
        net[2].weight[:, 2:5] = 0  # read by nobody
        net[4].weight[:, 0] = 0  # not read in the end, so that unit 5 is not read either
        net[2].weight[1:, 5] = 0
        net[2].weight[1] = 0  # constant
    x = torch.randn(20, 6)
    small = compact(net, x)
    assert [tuple(p.shape) for p in small.parameters()] == [
        (4, 6),
        (4,),
        (7, 4),
        (7,),
        (3, 7),
        (3,),
    ]
    assert largest_difference(net, small, x) < EXACT


def test_a_constant_goes_into_a_bias_that_was_not_there():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False))
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[0].bias[:2] = 1.5
    x = torch.randn(5, 4)
    small = compact(net, x)
    assert small[2].in_features == 4
    torch.testing.assert_close(small[2].bias.detach(), 1.5 * net[2].weight[:, :2].sum(1).detach())
    assert largest_difference(net, small, x) < EXACT


@pytest.mark.parametrize(("padding", "n_left"), [(0, 3), (1, 5)])
def test_a_constant_channel_stays_where_the_border_sees_less_of_it(padding, n_left):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=padding))
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[0].bias[:3] = torch.tensor([1.0, 2.0, -1.0])  # the last is zero after the ReLU
    x = torch.randn(4, 1, 8, 8)
    small = compact(net, x)
    assert small[0].out_channels == n_left
    assert largest_difference(net, small, x) < EXACT


def test_a_shift_that_is_left_keeps_the_channel_and_the_output():
    # zeroing the convolution alone leaves the offset of the batch normalisation
    net, x = build("residual")
    with torch.no_grad():
        net.blocks[0].layers[0].weight[:8] = 0
        net.blocks[0].layers[1].bias[
            :4
        ] = -1.0  # below zero for every input: nothing after the ReLU
        net.blocks[0].layers[1].bias[4:8] = 1e3
    small = compact(net, x)
    left = small.blocks[0].layers[0].out_channels
    assert 12 <= left < 16
    assert disagreement(net, small, (x,)) is None


def test_a_layer_keeps_one_unit_when_all_are_dead():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        net[0].weight.zero_()
    x = torch.randn(3, 1, 4, 4)
    small = compact(net, x)
    assert small[0].out_channels == 1
    assert largest_difference(net, small, x) < EXACT


def test_channels_of_layer_and_group_normalisation_stay():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
    )
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight[:3] = 0
            layer.bias[:3] = 0
    x = torch.randn(3, 1, 4, 4)
    small = compact(net, x)
    assert (small[0].out_channels, small[2].out_channels) == (8, 3)
    assert largest_difference(net, small, x) < EXACT


def test_a_shared_layer_stays_shared():
    torch.manual_seed(0)
    inner = nn.Linear(8, 8)
    net = nn.Sequential(
        nn.Linear(3, 8), nn.ReLU(), inner, nn.ReLU(), inner, nn.ReLU(), nn.Linear(8, 2)
    )
    with torch.no_grad():
        for layer in (net[0], inner):
            layer.weight[:3] = 0
            layer.bias[:3] = 0
    x = torch.randn(4, 3)
    small = compact(net, x)
    assert small[2].weight is small[4].weight
    assert small[2].weight.shape == (5, 5)
    assert largest_difference(net, small, x) < EXACT


def test_the_compact_network_can_be_trained_on():
    net, x = build("dense")
    net.first.weight.requires_grad_(False)
    remove_half(net, find_groups(net, x))
    small = compact(net.train(), x)
    small(x).square().sum().backward()
    assert small.training
    assert small.first.weight.grad is None
    assert small.grouped.weight.grad.shape == small.grouped.weight.shape


def test_what_is_dead_does_not_depend_on_the_example():
    net, x = build("dense")
    remove_half(net, find_groups(net, x))
    shapes = [
        [p.shape for p in compact(net, example).parameters()]
        for example in (x, torch.zeros_like(x[:1]))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["residual", "dense", "decoder"])
def test_removed_and_remaining_units_are_those_counted_in_float64(name):
    # an independent check of deadness: a unit is dead where no gradient reaches the output through its slices
    net, x = build(name, seed=1)
    groups = find_groups(net, x)
    remove_half(net, groups)
    run = propagate(net, x)
    dead, _ = dead_units(run)
    net.double()
    inputs = torch.randn(16, *x.shape[1:], dtype=torch.float64)
    net(inputs).square().sum().backward()
    gradient = {name: p.grad for name, p in net.named_parameters()}
    n_dead = 0
    for (parameter, dim), ids in run.parameters.slots.items():
        if (parameter, dim) in run.parameters.readers:
            for index in dead[run.units.roots(ids)].nonzero()[0]:
                # the activation is zero: its readers get no gradient
                assert not gradient[parameter].select(dim, index).any()
                n_dead += 1
    assert n_dead > 0


def test_code_that_fixes_even_the_batch_is_refused_with_the_reason():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(F.relu(self.first(x)).view(len(x), 8))

    net = Stubborn()
    with torch.no_grad():
        net.first.weight[:4] = 0
        net.first.bias[:4] = 0
    with pytest.raises(ValueError, match=r"Stubborn cannot be made smaller.*x\.shape\[0\]"):
        compact(net, torch.randn(5, 3))


def test_disagreement_is_said_in_numbers():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        b.weight.copy_(a.weight)
        b.bias.copy_(a.bias + torch.tensor([0.0, 0.5]))
    x = (torch.zeros(3, 2),)
    assert disagreement(a, b, x) == "the largest difference of an output is 0.5"
    assert disagreement(a, copy.deepcopy(a), x) is None
    assert "shapes [(3, 4)], not [(3, 2)]" in disagreement(a, nn.Linear(2, 4), x)
    with torch.no_grad():
        b.bias.fill_(float("nan"))
    assert disagreement(a, b, x) == "the largest difference of an output is nan"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", NETS)
def test_random_zeros_never_change_the_output(name, seed):
    # scattered zeros and rows of zeros, so that units die in every way; no biases in every second network, in which a
    # row of zeros is a zero for certain, whereas a constant may have to stay
    net, x = build(name, seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                rows = torch.rand(len(parameter), *[1] * (parameter.ndim - 1)) < 0.3
                parameter.masked_fill_(rows | (torch.rand_like(parameter) < 0.9), 0.0)
            elif seed % 2:
                parameter.zero_()
    small = compact(net, x)
    assert n_parameters(small) <= n_parameters(net) - (seed % 2)
    scale = max(1.0, net(x).abs().max().item())
    assert largest_difference(net, small, x) < EXACT * scale
