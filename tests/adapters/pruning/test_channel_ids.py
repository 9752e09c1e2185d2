"""Channel groups hold what must go together, and nothing else, whatever way the channels take through the network."""

from collections import Counter

import pytest

torch = pytest.importorskip("torch")

from statml.adapters.pruning import find_groups  # noqa: E402
from statml.adapters.pruning.channel_units import Units  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import prune  # noqa: E402


class Net(nn.Module):
    """Layers by name, and a forward pass given as a function."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def residual():
    def forward(net, x):
        x = F.relu(net.norm1(net.stem(x)))
        x = F.relu(x + net.norm3(net.second(F.relu(net.norm2(net.first(x))))))
        return net.head(x.mean((2, 3)))

    return Net(
        forward,
        stem=nn.Conv2d(1, 4, 3, padding=1),
        norm1=nn.BatchNorm2d(4),
        first=nn.Conv2d(4, 6, 3, padding=1, bias=False),
        norm2=nn.BatchNorm2d(6),
        second=nn.Conv2d(6, 4, 3, padding=1),
        norm3=nn.BatchNorm2d(4),
        head=nn.Linear(4, 2),
    ), torch.randn(2, 1, 6, 6)


def concatenation_gate_depthwise():
    """Concatenation, depthwise and pointwise convolution, squeeze and excite, spatial flatten."""

    def forward(net, x):
        a = F.relu(net.conv(x))
        b = net.pointwise(F.silu(net.depthwise(a)))
        gate = torch.sigmoid(net.excite(F.relu(net.squeeze(b.mean((2, 3))))))
        x = torch.cat([a, b * gate[:, :, None, None]], 1)
        return net.head(F.adaptive_avg_pool2d(x, 2).flatten(1))

    return Net(
        forward,
        conv=nn.Conv2d(1, 4, 3),
        depthwise=nn.Conv2d(4, 4, 3, padding=1, groups=4),
        pointwise=nn.Conv2d(4, 5, 1),
        squeeze=nn.Linear(5, 2),
        excite=nn.Linear(2, 5),
        head=nn.Linear(36, 3),
    ), torch.randn(2, 1, 8, 8)


def shuffled():
    """Pixel shuffle, PReLU, a transposed convolution and one attention map for all channels."""

    def forward(net, x):
        x = net.up(net.slope(net.second(F.pixel_shuffle(net.first(x), 2))))
        return net.head(x * torch.sigmoid(net.map(x))).mean((2, 3))

    return Net(
        forward,
        first=nn.Conv2d(1, 12, 3),
        second=nn.Conv2d(3, 4, 3),
        slope=nn.PReLU(4),
        up=nn.ConvTranspose2d(4, 5, 2, stride=2),
        map=nn.Conv2d(5, 1, 1),
        head=nn.Conv2d(5, 2, 1),
    ), torch.randn(2, 1, 6, 6)


def fused_attention():
    def forward(net, x):
        x = net.embed(x)
        batch, length, width = x.shape
        q, k, v = (
            net.qkv(x).reshape(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        )
        weights = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, length, -1)
        return net.head((x + net.proj(mixed)).mean(1))

    return Net(
        forward,
        embed=nn.Linear(3, 8),
        qkv=nn.Linear(8, 24),
        proj=nn.Linear(8, 8),
        head=nn.Linear(8, 2),
    ), torch.randn(2, 5, 3)


CASES = [residual, concatenation_gate_depthwise, shuffled, fused_attention]


def sizes(groups):
    return Counter((len(g.outputs), len(g.inputs)) for g in groups if g.kept_because is None)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.__name__)
def grouped(request):
    torch.manual_seed(0)
    net, x = request.param()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.weight, 0.5, 2)
    return net.eval(), x, find_groups(net, x)


def test_a_group_with_zero_outputs_is_read_by_nobody(grouped):
    # what defines a group: with its outputs at zero, the weights that read it do not matter
    net, x, groups = grouped
    tensors = dict(net.named_parameters())
    start = {name: p.detach().clone() for name, p in tensors.items()}
    with torch.no_grad():
        for group in groups:
            if group.kept_because is not None:
                continue
            for name, dim, index in group.outputs:
                if name in tensors:
                    tensors[name].select(dim, index).zero_()
            zeroed = net(x)
            for name, dim, index in group.inputs:
                tensors[name].select(dim, index).normal_()
            torch.testing.assert_close(net(x), zeroed, rtol=0, atol=0)
            net.load_state_dict(start, strict=False)


def test_every_slice_of_every_parameter_is_in_one_group_at_most(grouped):
    _, _, groups = grouped
    taken = Counter(slot for group in groups for slot in group.slots)
    assert max(taken.values()) == 1


def test_groups_leave_the_module_alone(grouped):
    net, x, _ = grouped
    before = {name: t.clone() for name, t in net.state_dict().items()}
    net.train()
    find_groups(net, x[:1])  # one record will do
    assert net.training
    net.eval()
    for name, t in net.state_dict().items():
        torch.testing.assert_close(t, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        # the channels of the stream: 6 slices of the stem's block, 6 of the second; read by first and head
        (residual, {(12, 2): 4, (5, 1): 6}),
        # conv with depthwise, and pointwise with excite: read by one layer and, in 2 x 2 places, by head
        (concatenation_gate_depthwise, {(4, 5): 9, (2, 1): 2}),
        # a channel after the shuffle is four before it; the map reads all channels and is one for all
        (shuffled, {(8, 1): 3, (3, 1): 4, (2, 2): 5}),
        # a head is 4 units of each of q, k and v, weights and biases; a channel is the embedding's and the projection's
        (fused_attention, {(24, 4): 2, (4, 2): 8}),
    ],
)
def test_groups_have_the_slices_counted_by_hand(case, expected):
    net, x = case()
    assert sizes(find_groups(net, x)) == expected


def test_the_channels_of_a_grouped_convolution_go_by_their_place():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 1), nn.Conv2d(6, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 1)
    )
    groups = find_groups(net, torch.randn(2, 1, 1, 1))
    assert groups[0].outputs == (
        ("0.weight", 0, 0),
        ("0.weight", 0, 3),
        ("0.bias", 0, 0),
        ("0.bias", 0, 3),
    )
    assert groups[0].inputs == (("1.weight", 1, 0),)
    assert groups[3].outputs == (
        ("1.weight", 0, 0),
        ("1.weight", 0, 2),
        ("1.bias", 0, 0),
        ("1.bias", 0, 2),
    )
    assert groups[3].inputs == (("3.weight", 1, 0), ("3.weight", 1, 2))


def test_channels_that_are_shuffled_between_groups_are_still_found():
    def forward(net, x):
        x = net.first(x)
        x = x.view(x.shape[0], 2, 3, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return net.head(net.second(x)).mean((2, 3))

    net = Net(
        forward,
        first=nn.Conv2d(1, 6, 1),
        second=nn.Conv2d(6, 6, 1, groups=2),
        head=nn.Conv2d(6, 1, 1),
    )
    groups = find_groups(net, torch.randn(2, 1, 2, 2))
    assert {g.kept_because for g in groups} == {None, "it is an output of the network"}


def test_what_cannot_be_removed_says_why():
    def forward(net, x):
        x = net.norm(net.first(x))
        x = net.second(x)
        return net.head(x.cumprod(1).sort(1).values)

    net = Net(
        forward,
        first=nn.Linear(3, 4),
        norm=nn.LayerNorm(4),
        second=nn.Linear(4, 5),
        head=nn.Linear(5, 2),
    )
    reasons = Counter(g.kept_because for g in find_groups(net, torch.randn(2, 3)))
    assert reasons == {
        "layer_norm normalises over all units": 4,
        "cumprod is an operation that cannot be followed": 5,
        "it is an output of the network": 2,
    }


def test_a_weight_that_is_computed_is_left_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    torch.nn.utils.parametrizations.weight_norm(net[2])
    groups = find_groups(net, torch.randn(2, 3))
    assert all(g.kept_because is not None for g in groups)


def test_a_shared_layer_joins_the_units_of_both_uses():
    def forward(net, x):
        return net.head(F.relu(net.inner(F.relu(net.inner(F.relu(net.first(x)))))))

    net = Net(forward, first=nn.Linear(3, 4), inner=nn.Linear(4, 4), head=nn.Linear(4, 1))
    groups = [g for g in find_groups(net, torch.randn(2, 3)) if g.kept_because is None]
    assert sizes(groups) == {(4, 2): 4}  # first and inner make it, inner and head read it


def test_an_embedding_is_pruned_by_column():
    net = nn.Sequential(
        nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    groups = find_groups(net, torch.randint(7, (2, 3)))
    assert groups[0].outputs == (("0.weight", 1, 0),)
    assert groups[0].inputs == tuple(("2.weight", 1, 4 * k) for k in range(3))


def test_a_position_code_and_a_gate_belong_to_the_channels_they_meet():
    def forward(net, x):
        return net.head((net.first(x) + net.position) * torch.sigmoid(net.gate))

    net = Net(forward, first=nn.Linear(3, 4), head=nn.Linear(4, 2))
    net.position, net.gate = nn.Parameter(torch.randn(1, 5, 4)), nn.Parameter(torch.randn(4))
    groups = find_groups(net, torch.randn(2, 5, 3))
    assert ("position", 2, 0) in groups[0].outputs
    assert ("gate", 0, 0) in groups[0].outputs


def test_bad_input_is_named():
    net = nn.Linear(3, 2)
    with pytest.raises(TypeError, match="x must be a Tensor or a tuple of Tensors, got list"):
        find_groups(net, [[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="at least one record"):
        find_groups(net, torch.zeros(0, 3))
    with pytest.raises(TypeError, match="module must be a torch Module, got function"):
        find_groups(lambda x: x, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="cannot trace"):
        find_groups(Net(lambda net, x: x if float(x.sum()) > 0 else -x), torch.zeros(2, 3))
    prune.l1_unstructured(net, "weight", 0.5)
    with pytest.raises(ValueError, match=r"torch\.nn\.utils\.prune\.remove"):
        find_groups(net, torch.zeros(2, 3))


def test_units_that_are_joined_to_what_is_fixed_are_kept():
    units = Units()
    a = units.new(4)
    units.join(a[:2], a[2:], "first reason")
    assert units.roots(a).tolist() == [1, 2, 1, 2]
    units.join(a[2:3], torch.zeros(1, dtype=torch.int64), "meets the input")
    assert units.kept() == {1: "meets the input"}
