"""The nets and the layer in front of them, against plain torch and numpy."""

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nets import MLP, ConvNet, __all__
from src.nets.mlp import Columns
from src.nets.net import ACTIVATIONS, Net, init_
from src.nets.normalize import Normalize

RESNET18 = {
    "widths": (64, 128, 256, 512),
    "depths": 2,
    "strides": (1, 2, 2, 2),
    "stem_width": 64,
}
SIGNAL = {"widths": (25, 25), "stem_width": 25, "stem_kernel": 5, "block": "plain"}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def num_params(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def with_weights_of(net: nn.Module, reference: nn.Module) -> nn.Module:
    """Copies tensor by tensor, in the order of the layers, as the names differ."""
    ours, theirs = list(net.state_dict().values()), list(reference.state_dict().values())
    assert [t.shape for t in ours] == [t.shape for t in theirs]
    for a, b in zip(ours, theirs, strict=True):
        b.copy_(a)
    return reference


def shuffled(net: nn.Module) -> nn.Module:
    """Gives every parameter and running statistic a random value, so that none hides a mistake."""
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value))
    return net


def test_registry():
    assert __all__ == ["MLP", "ConvNet"]
    assert issubclass(MLP, Net)
    assert issubclass(ConvNet, Net)


# --- Normalize


@pytest.mark.parametrize("in_shape", [(4,), (3, 7), (3, 5, 6)])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
def test_normalize_is_numpys(in_shape: tuple[int, ...], dtype: str):
    rng = np.random.default_rng(0)
    x = (rng.random((64, *in_shape)) * 255).astype(dtype)
    axes = tuple(i for i in range(x.ndim) if i != 1)
    mean, std = x.mean(axes, dtype=np.float64), x.std(axes, dtype=np.float64)
    layer = Normalize(in_shape, mean.tolist(), std.tolist())
    shape = (-1,) + (1,) * (len(in_shape) - 1)
    expected = (x.astype(np.float64) - mean.reshape(shape)) / std.reshape(shape)
    out = layer(torch.from_numpy(x))
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_normalize_keeps_the_digits_of_times(dtype: torch.dtype):
    x = (1_700_000_000 + torch.arange(-3, 4, dtype=torch.float64)[:, None]).to(dtype)
    layer = Normalize((1,), [1.7e9], [2.0])
    assert layer(x).flatten().tolist() == [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]


def test_normalize_huge_offset_and_small_deviation():
    x = 1e6 + 1e-3 * np.random.default_rng(0).standard_normal((1000, 1))
    wide = x.astype(np.longdouble)
    layer = Normalize((1,), [x.mean()], [x.std()])
    expected = (wide - np.longdouble(x.mean())) / np.longdouble(x.std())
    np.testing.assert_allclose(layer(torch.from_numpy(x)).numpy(), expected, rtol=2e-7, atol=0)


def test_normalize_nan_is_the_mean_and_codes_and_infinity_pass():
    layer = Normalize((3,), [5.0, 0.0, 7.0], [2.0, 1.0, 1.0])  # the last is a constant
    x = torch.tensor([[torch.nan, 1234.0, 7.0], [9.0, torch.nan, torch.inf]])
    assert layer(x).tolist() == [[0.0, 1234.0, 0.0], [2.0, 0.0, torch.inf]]


def test_normalize_round_trip():
    layer = nn.Sequential(Normalize((2,), [1 / 3, 1e9 + 0.1], [0.7, 1e-3]), nn.Linear(2, 1))
    loaded = nn.Sequential(Normalize((2,), [0, 0], [1, 1]), nn.Linear(2, 1))
    loaded.load_state_dict(layer.state_dict())
    x = torch.rand(5, 2, dtype=torch.float64) + 1e9
    assert torch.equal(loaded(x), layer(x))
    assert torch.equal(copy.deepcopy(loaded)(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_of_the_model_leaves_statistics_and_codes(dtype: torch.dtype):
    normalize = Normalize((2,), [1e9 + 0.3, 0], [0.7, 1])
    model = nn.Sequential(normalize, MLP((2,), 3, (0, 5000), hidden_dims=(8,)))
    x = torch.tensor([[1e9, 4097.0], [1e9 + 1, 257.0]], dtype=torch.float64)
    before = model(x)
    for _ in range(2):  # as Lightning does, and again: nothing is lost on the way
        model.to(dtype)
        assert model[0].mean.tolist() == [1e9 + 0.3, 0]
        assert model[0].mean.dtype == torch.float64
        assert model[1].head.weight.dtype == dtype
    assert model[0](x).dtype == torch.float32
    assert model[0](x)[:, 1].tolist() == [4097, 257]
    assert model(x).dtype == dtype
    torch.testing.assert_close(model(x).float(), before, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_normalize_under_autocast(dtype: torch.dtype):
    model = nn.Sequential(Normalize((1, 8), [1000], [0.5]), ConvNet((1, 8), 3, **SIGNAL)).eval()
    x = 1000 + torch.rand(4, 1, 8)
    expected = (x - 1000) / 0.5
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(model[0](x), expected)
        assert model(x).dtype == dtype


def test_statistics_follow_the_device():
    with torch.device("meta"):  # Lightning builds layers under the device; MPS has no float64
        assert Normalize((2,), [0, 0], [1, 1]).mean.device.type == "cpu"
    layer = Normalize((2,), [0, 0], [1, 1]).to("meta")
    assert layer.mean.device.type == layer.std.device.type == "meta"
    assert layer.mean.dtype == torch.float64


# --- MLP


def test_mlp_is_plain_torch():
    net = shuffled(MLP((2, 5), 3, hidden_dims=(16, 8, 4), activation=("relu", "tanh", "gelu")))
    reference = nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(10, 16), nn.ReLU()),
        *(nn.Linear(16, 8), nn.Tanh()),
        *(nn.Linear(8, 4), nn.GELU()),
        nn.Linear(4, 3),
    )
    x = torch.randn(7, 2, 5)
    assert num_params(net) == num_params(reference) == 176 + 136 + 36 + 15
    assert torch.equal(net(x), with_weights_of(net, reference)(x))


@pytest.mark.parametrize(("norm", "layer"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_mlp_norms_are_plain_torch(norm: str, layer: Callable[[int], nn.Module]):
    net = shuffled(MLP((6,), 2, hidden_dims=[8, 4], norm=norm, dropout=0.5))
    reference = nn.Sequential(
        *(nn.Linear(6, 8, bias=False), layer(8), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(8, 4, bias=False), layer(4), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(4, 2),
    )
    with_weights_of(net, reference)
    x = torch.randn(9, 6)
    for training in (True, False):
        torch.manual_seed(0)
        out = net.train(training)(x)
        torch.manual_seed(0)
        assert torch.equal(out, reference.train(training)(x))


def test_mlp_without_hidden_layers_is_linear():
    net = MLP((3, 2, 2), 4, hidden_dims=())
    x = torch.randn(5, 3, 2, 2)
    assert torch.equal(net(x), F.linear(x.flatten(1), net.head.weight, net.head.bias))
    assert num_params(net) == 12 * 4 + 4


def test_each_activation_is_its_own():
    x = torch.linspace(-2, 2, 9)[:, None]
    curves = set()
    for name in ACTIVATIONS:
        net = MLP((1,), 1, hidden_dims=(1,), activation=name)
        nn.init.ones_(net.hidden[0].weight)
        curves.add(tuple(net.hidden(x).flatten().tolist()))
    assert len(curves) == len(ACTIVATIONS)


def test_onehot_by_hand():
    net = MLP((4,), 2, (3, 0, 2, 0), hidden_dims=(), categorical="onehot")
    x = torch.tensor([[2, 0.5, 1, -1.5], [0, 7.0, 0, 8.0], [1, 0.0, 1, 0.0]])
    encoded = [
        [0.5, -1.5, 0, 0, 1, 0, 1],
        [7.0, 8.00, 1, 0, 0, 1, 0],
        [0.0, 0.00, 0, 1, 0, 0, 1],
    ]
    assert net.inputs(x).tolist() == encoded
    assert torch.equal(net(x), net.head(torch.tensor(encoded)))


def test_embeddings_by_hand():
    net = MLP((3,), 2, (5, 0, 1000), hidden_dims=(4,))
    first, second = (table.weight for table in net.inputs.encoders)
    assert (tuple(first.shape), tuple(second.shape)) == ((5, 4), (1000, 50))
    assert first[0].count_nonzero() == second[0].count_nonzero() == 0
    x = torch.tensor([[4, 0.25, 999], [0, -3.0, 1]])
    encoded = torch.cat([x[:, 1:2], first[[4, 0]], second[[999, 1]]], 1)
    assert torch.equal(net.inputs(x), encoded)
    assert torch.equal(net(x), net.head(net.hidden(encoded)))


@pytest.mark.parametrize("categorical", ["embedding", "onehot"])
def test_unknown_codes_are_code_0(categorical: str):
    net = MLP((2,), 2, (4, 300), hidden_dims=(4,), categorical=categorical)
    known = torch.tensor([[0.0, 0.0]])
    for code in (-1, 4, 1e9, 1e30, torch.inf, -torch.inf, torch.nan):
        assert torch.equal(net(torch.tensor([[code, 0.0]])), net(known))
    assert not torch.equal(net(torch.tensor([[3.0, 0.0]])), net(known))
    assert not torch.equal(net(torch.tensor([[0.0, 299.0]])), net(known))
    assert torch.equal(net(torch.tensor([[0.0, 300.0]])), net(known))


def test_checkpoints_hold_parameters_only():
    assert len(Columns((2, 0, 3), embed=False).state_dict()) == 0
    net = MLP((3,), 2, (2, 0, 3))
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


# --- ConvNet


class ReferenceBlock(nn.Module):
    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_dim != dim:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_dim, dim, 1, stride, bias=False), nn.BatchNorm2d(dim)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def test_resnet18_is_plain_torch():
    net = ConvNet((3, 32, 32), 10, **RESNET18)
    stages = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    stages += [(128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    reference = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(ReferenceBlock(*stage) for stage in stages),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)),
    )
    assert num_params(net) == num_params(reference) == 11_173_962
    for name, value in net.named_parameters():  # the branches, too, must count
        if value.ndim == 1 and "weight" in name:
            nn.init.uniform_(value, 0.2, 0.4)
    with_weights_of(net, reference)
    x = torch.randn(2, 3, 32, 32)
    for training in (True, False):
        out, expected = net.train(training)(x), reference.train(training)(x)
        assert out.shape == (2, 10)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(net.stages[0][0][1].running_var, reference[1].running_var)


def test_small_signal_net_is_plain_torch():
    net = shuffled(ConvNet((1, 40), 10, **SIGNAL, activation="silu"))
    reference = nn.Sequential(
        *(nn.Conv1d(1, 25, 5, 1, 2, bias=False), nn.BatchNorm1d(25), nn.SiLU()),
        *(nn.Conv1d(25, 25, 3, 2, 1, bias=False), nn.BatchNorm1d(25), nn.SiLU()),
        *(nn.Conv1d(25, 25, 3, 2, 1, bias=False), nn.BatchNorm1d(25), nn.SiLU()),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(25, 10)),
    )
    assert num_params(net) == num_params(reference) == 4285
    with_weights_of(net, reference)
    x = torch.randn(6, 1, 40)
    for training in (True, False):
        out, expected = net.train(training)(x), reference.train(training)(x)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_each_stage_has_its_options():
    net = ConvNet(
        (2, 16, 16),
        5,
        widths=(4, 6),
        depths=(2, 1),
        kernel=(5, 3),
        strides=(1, 2),
        block=("plain", "residual"),
        stem_width=3,
        stem_kernel=7,
        stem_stride=2,
    )
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    shapes = [(*m.weight.shape[:3], m.stride[0]) for m in convs]
    assert shapes == [
        *((3, 2, 7, 2), (4, 3, 5, 1), (4, 4, 5, 1)),
        *((6, 4, 3, 2), (6, 6, 3, 1), (6, 4, 1, 2)),
    ]
    assert net(torch.randn(2, 2, 16, 16)).shape == (2, 5)


def test_a_maximum_may_stand_for_a_stride():
    options = {"widths": (4, 6), "depths": (1, 2), "block": ("residual", "plain"), "stem_stride": 3}
    net = ConvNet((2, 13, 13), 5, down="max", **options).eval()
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert {conv.stride for conv in convs} == {(1, 1)}
    pools = [m for m in net.modules() if isinstance(m, nn.MaxPool2d)]
    assert [pool.kernel_size for pool in pools] == [3, 2, 2, 2]
    sizes = []
    for stage in net.stages:
        stage.register_forward_hook(lambda *args: sizes.append(args[2].shape[-1]))
    x = torch.randn(2, 2, 13, 13)
    assert net(x).shape == (2, 5)
    assert sizes == [5, 3, 2, 2], "rounded up, as a stride does"
    conv, _, norm = net.stages[0][0]
    expected = norm(nn.functional.max_pool2d(conv(x), 3, ceil_mode=True)).relu()
    torch.testing.assert_close(net.stages[0](x), expected)


def test_channels_last_changes_the_memory_alone():
    seeded = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        seeded.append(ConvNet((3, 8, 8), 10, widths=(16, 32), channels_last=channels_last))
    first, last = seeded
    for one, other in zip(first.state_dict().values(), last.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert last.stages[0][0][0].weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(first(x), last(x), rtol=1e-5, atol=1e-6)
    seen = []
    last.stages.register_forward_hook(lambda *args: seen.append(args[2]))
    last(x)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    ConvNet((3, 8), 10, channels_last=True)(torch.randn(2, 3, 8))  # signals have no such memory


@pytest.mark.parametrize(
    ("dim", "groups"), [(1, 1), (8, 1), (16, 1), (24, 1), (37, 1), (40, 2), (64, 4), (512, 32)]
)
def test_groups_have_16_channels_or_more(dim: int, groups: int):
    net = ConvNet((1, 9), 2, widths=(), stem_width=dim, norm="group")
    assert net.stages[0][0][1].num_groups == groups


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("in_shape", [(1, 1), (3, 2, 1), (2, 7), (1, 5, 9)])
def test_every_size_of_input_works(in_shape: tuple[int, ...], norm: str):
    net = ConvNet(in_shape, 3, kernel=(3, 7, 1), norm=norm, stem_kernel=9)
    assert net(torch.randn(2, *in_shape)).shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_convnet_reads_float32_in_any_precision(dtype: torch.dtype):
    net = ConvNet((1, 40), 3, **SIGNAL).eval()
    x = torch.randn(4, 1, 40)
    expected = net(x)
    out = net.to(dtype)(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_residual_branches_start_at_0(norm: str):
    net = ConvNet((4, 8), 3, widths=(4, 4), strides=1, stem_width=4, norm=norm)
    x = torch.randn(2, 4, 8).abs()
    assert torch.equal(net.stages[1:](x), x)
    net(x).sum().backward()
    last = net.stages[1].branch[2][1].weight
    assert last.grad.count_nonzero() > 0  # it starts there, but moves


# --- Initialisation


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh", "gelu", "silu", "selu", "elu"])
def test_signals_keep_their_size_through_ten_layers(name: str):
    net = MLP((64,), 10, hidden_dims=(256,) * 10, activation=name)
    x, sizes = torch.randn(512, 64), []
    for layer in net.hidden:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            sizes.append(x.square().mean().item())
    assert len(sizes) == 10
    assert min(sizes) > 0.5
    assert max(sizes) < 2
    assert net.head(x).square().mean().item() == pytest.approx(0.01, rel=0.5)


def test_the_stem_reads_no_activation():
    net = ConvNet((64, 20), 2, widths=(64,), stem_width=1024, block="plain")
    stem, plain = (stage[0][0].weight for stage in net.stages)
    assert stem.var().item() * stem[0].numel() == pytest.approx(1.0, rel=0.02)
    assert plain.var().item() * plain[0].numel() == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(
    ("after", "variance"),
    [("identity", 1.0), ("relu", 2.0), ("leaky_relu", 2 / 1.0001), ("selu", 1.0)],
)
def test_known_initialisations(after: str, variance: float):
    linear, conv = init_(nn.Linear(500, 1000), after), init_(nn.Conv1d(100, 1000, 5), after)
    for layer in (linear, conv):
        assert layer.weight.var().item() * 500 == pytest.approx(variance, rel=0.01)
        assert layer.bias.count_nonzero() == 0


# --- Both


@pytest.mark.parametrize(
    ("in_shape", "net"),
    [
        ((20,), MLP((20,), 4)),
        ((20,), MLP((20,), 4, norm="batch", activation="tanh")),
        ((20,), MLP((20,), 4, (9,) * 5 + (0,) * 15, categorical="onehot")),
        ((1, 40), ConvNet((1, 40), 4, **SIGNAL)),
        ((3, 8, 8), ConvNet((3, 8, 8), 4, widths=(8, 16), norm="group")),
    ],
)
def test_one_batch_is_memorised(in_shape: tuple[int, ...], net: Net):
    x, y = 3 * torch.randn(16, *in_shape), torch.randint(4, (16,))
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("dtype", "net"),
    [
        (torch.float32, MLP((6,), 3)),
        (torch.float64, MLP((6,), 3, (0, 4, 0, 0, 9, 0), norm="layer", dropout=0.1)),
        (torch.float32, MLP((6,), 3, (0, 4, 0, 0, 9, 0), categorical="onehot")),
        (torch.uint8, ConvNet((3, 8, 8), 3, widths=(4, 8))),
        (torch.float32, ConvNet((1, 40), 3, **SIGNAL, norm="group")),
    ],
)
def test_export_with_any_batch_size(dtype: torch.dtype, net: Net):
    in_shape = {MLP: (6,)}.get(type(net)) or ((3, 8, 8) if dtype == torch.uint8 else (1, 40))
    channels = in_shape[0]
    model = nn.Sequential(Normalize(in_shape, [1.0] * channels, [2.0] * channels), net).eval()
    rows = (torch.rand(5, *in_shape) * 9).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.export.export(model, (rows[:3],), dynamic_shapes=({0: batch},))
    for size in (1, 5):
        out = program.module()(rows[:size])
        torch.testing.assert_close(out, model(rows[:size]), rtol=1e-5, atol=1e-6)


def test_compiles_to_one_graph():
    model = nn.Sequential(Normalize((3,), [1, 0, 1], [2, 1, 2]), MLP((3,), 2, (0, 4, 0)))
    x = torch.tensor([[0.5, 3.0, torch.nan], [1.0, 9.0, 2.0]])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), model(x))


NAMES = "relu, leaky_relu, elu, selu, gelu, silu, tanh, sigmoid, identity"


@pytest.mark.parametrize(
    ("net", "in_shape", "options", "line"),
    [
        (
            *(MLP, (3,), {"hidden_dims": (8, 0)}),
            "`model.net.hidden_dims` has 0: it must be a positive number",
        ),
        (
            *(MLP, (3,), {"activation": "swish"}),
            f"`model.net.activation` has 'swish', which is none of {NAMES}",
        ),
        (
            *(MLP, (3,), {"hidden_dims": (8, 8, 8), "activation": ("relu", "relu")}),
            "`model.net.activation` is a list of 2, not of 3: "
            "give one value for all layers, or one for each",
        ),
        (
            *(MLP, (3,), {"dropout": 1.0}),
            "`model.net.dropout` is 1, not in [0, 1)",
        ),
        (
            *(MLP, (3,), {"dropout": -0.5}),
            "`model.net.dropout` is -0.5, not in [0, 1)",
        ),
        (
            *(ConvNet, (13,), {}),
            "`model.net` ConvNet takes signals (C, L) and images (C, H, W), "
            "not rows of shape (13,): use MLP",
        ),
        (
            *(ConvNet, (1, 8), {"kernel": (3, 4, 3)}),
            "`model.net.kernel` has 4: it must be a positive odd number",
        ),
        (
            *(ConvNet, (1, 8), {"stem_kernel": -1}),
            "`model.net.stem_kernel` has -1: it must be a positive odd number",
        ),
        (
            *(ConvNet, (1, 8), {"stem_width": 0}),
            "`model.net.stem_width` has 0: it must be a positive number",
        ),
        (
            *(ConvNet, (1, 8), {"depths": (1,)}),
            "`model.net.depths` is a list of 1, not of 3: "
            "give one value for all layers, or one for each",
        ),
        (
            *(ConvNet, (1, 8), {"activation": "ReLU"}),
            f"`model.net.activation` has 'ReLU', which is none of {NAMES}",
        ),
    ],
)
def test_wrong_options_give_one_line(
    net: type[Net], in_shape: tuple[int, ...], options: dict, line: str
):
    with pytest.raises(ValueError) as error:
        net(in_shape, 2, (), **options)
    assert str(error.value) == line


class Model:
    """What takes a net in a config."""

    def __init__(self, net: Callable[[tuple[int, ...], int, tuple[int, ...]], Net]):
        self.net = net


def parse(*args: str) -> Net:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Model, "model")
    config = parser.parse_args(args)
    again = parser.parse_string(parser.dump(config))  # as a run's config.yaml is read again
    assert again.model == config.model
    return parser.instantiate(again).model.net((1, 16), 3, ())


def test_options_on_a_command_line():
    net = parse(
        *("--model.net", "MLP"),
        *("--model.net.hidden_dims", "[256,128]"),
        *("--model.net.activation", "[relu,gelu]"),
    )
    kinds = [nn.Linear, nn.Identity, nn.ReLU, nn.Identity, nn.Linear, nn.Identity, nn.GELU]
    assert [type(layer) for layer in net.hidden] == [*kinds, nn.Identity]
    assert net.head.in_features == 128
    assert len(parse("--model.net", "MLP", "--model.net.hidden_dims=[]").hidden) == 0
    assert parse("--model.net=MLP", "--model.net.activation=gelu").head.in_features == 64
    net = parse(
        *("--model.net", "ConvNet"),
        *("--model.net.widths", "[8,16]", "--model.net.depths", "[2,1]"),
        *("--model.net.block", "[plain,residual]", "--model.net.kernel", "5"),
    )
    assert len(net.stages) == 4
    assert net(torch.randn(2, 1, 16)).shape == (2, 3)


@pytest.mark.parametrize(
    "args",
    [
        ("MLP", "hidden_dims=[256.5]"),
        ("MLP", "hidden_dims=64"),
        ("MLP", "norm=group"),
        ("ConvNet", "widths=[8,1.5]"),
        ("ConvNet", "block=plan"),
        ("ConvNet", "norm=none"),
    ],
)
def test_wrong_types_are_refused_by_the_parser(args: tuple[str, str]):
    from jsonargparse import ArgumentError

    with pytest.raises(ArgumentError):
        parse(f"--model.net={args[0]}", f"--model.net.{args[1]}")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_gives_the_numbers_of_the_cpu():
    normalize = Normalize((3, 8, 8), [100.0] * 3, [50.0] * 3)
    model = nn.Sequential(normalize, ConvNet((3, 8, 8), 4)).eval()
    x = torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8)
    expected = model(x)
    torch.testing.assert_close(model.cuda()(x.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
    assert model[0].mean.dtype == torch.float64
