"""The kernels against float64 formulas of an independent source, and the nets on them.

On a machine with a GPU they run there; elsewhere Triton's kernels run in its interpreter, which conftest.py asks for.
"""

import importlib.util
import logging
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_NETS
from torch import Tensor, nn

from basicsr import kernels
from basicsr.archs import blocks, build_network
from basicsr.archs.blocks import SAM
from basicsr.archs.local_arch import LocalAttention
from basicsr.archs.mprnet_arch import CAB, COLUMNS, ROWS, DownSample, join, split
from basicsr.archs.nafnet_arch import LayerNorm2d
from basicsr.archs.restormer_arch import Attention, FeedForward, LayerNorm
from basicsr.kernels import (
    Cells,
    Side,
    activated,
    attention_matrices,
    blended,
    box_mean,
    channel_layer_norm,
    channel_mean,
    channel_mean_layer,
    choice,
    convolved,
    depthwise,
    doubled,
    excited,
    gated,
    gram,
    local_norm,
    mixed,
    pointwise,
    use_triton,
)
from basicsr.kernels.halves import halves_gradient
from basicsr.models import prepare_for_inference
from basicsr.tlc import local_channel_attention, local_instance_norm, local_mean

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NO_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install triton")
WAYS = [pytest.param(True, id="triton", marks=NO_TRITON), pytest.param(False, id="torch")]
OPERATIONS = [
    "activation",
    "attention",
    "box_mean",
    "channel_mean",
    "depthwise",
    "enlarge",
    "excitation",
    "gate",
    "gate_gradient",
    "gram",
    "halves",
    "layer_norm",
    "layer_norm_gradient",
    "local_norm",
    "pointwise",
]
TYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 2**-7}  # Triton's interpreter cuts bfloat16 off
ALL = DEVICE == "cuda"  # the interpreter takes some milliseconds for what a program does: not every combination there
VARIANTS = [(name, suffix) for name in sorted(SMALL_NETS) for suffix in ("", "Local")]


def contiguous(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def sliced(x: Tensor) -> Tensor:
    """The same values, between others in memory."""
    n, c, h, w = x.shape
    wider = torch.full((n, c + 2, h + 1, w + 3), torch.nan, dtype=x.dtype, device=x.device)
    wider[:, 1:-1, 1:, 2:-1] = x
    return wider[:, 1:-1, 1:, 2:-1]


def half_of_channels(x: Tensor) -> Tensor:
    """channels_last, with other channels in between, as `chunk` leaves them."""
    return channels_last(torch.cat([x, torch.full_like(x, torch.nan)], dim=1))[:, : x.shape[1]]


LAYOUTS = [contiguous, channels_last, sliced, half_of_channels]
KINDS = list(product(TYPES, LAYOUTS) if ALL else zip([*TYPES, torch.float32], LAYOUTS, strict=True))


def random(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(DEVICE, dtype)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def assert_near(out: Tensor, want: Tensor, dtype: torch.dtype, *, of: float | None = None) -> None:
    """Within the rounding of a type, relative to the largest value, or to `of`."""
    assert out.shape == want.shape
    assert out.isfinite().all()
    assert (out.double() - want).abs().max() <= ROUNDING[dtype] * (want.abs().max() if of is None else of)


def norm_formula(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    x, weight = x.double(), weight.double()[:, None, None]
    centred = x - x.mean(1, keepdim=True)
    scale = 1 / (centred.square().mean(1, keepdim=True) + eps).sqrt()
    return x * scale * weight if bias is None else centred * scale * weight + bias.double()[:, None, None]


@NO_TRITON
@pytest.mark.parametrize(("dtype", "layout"), KINDS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_norm(with_bias, dtype, layout):
    weight, bias = random(7, seed=1), random(7, seed=2) if with_bias else None
    for shape in ((3, 7, 5, 6), (1, 7, 1, 1)):
        x = layout(random(*shape, dtype=dtype))
        with use_triton(True):
            out = channel_layer_norm(x, weight, bias, 1e-5)
        assert out.dtype == dtype
        assert_near(out, norm_formula(x, weight, bias, 1e-5), dtype)


@NO_TRITON
@pytest.mark.parametrize("channels", [1, 48, 130])
def test_layer_norm_of_large_values(channels):
    """Far from zero, and flat: 10,000 with a deviation of 1."""
    x, weight, bias = 1e4 + random(1, channels, 3, 5), random(channels, seed=1), random(channels, seed=2)
    with use_triton(True):
        out = channel_layer_norm(x, weight.bfloat16(), bias.bfloat16(), 1e-6)
    want = norm_formula(x, weight.bfloat16(), bias.bfloat16(), 1e-6)
    torch.testing.assert_close(out.double(), want, rtol=0, atol=0.01)  # the mean of such values is rounded by 0.001


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(("dtype", "layout"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (4, 3), (7, 6), (6, 1)])
def test_gates(size, dtype, layout, triton):
    """With borders replicated, the odd row or column at the end, and the widest type of all."""
    x, gate = layout(random(3, 5, 7, 6, dtype=dtype, scale=100)), layout(random(3, 5, *size, seed=1, dtype=dtype))
    added = random(3, 5, 7, 6, seed=2, scale=100)
    rows = (torch.arange(7) - (7 - size[0]) // 2).clamp(0, size[0] - 1)
    columns = (torch.arange(6) - (6 - size[1]) // 2).clamp(0, size[1] - 1)
    product = x.double() * gate.double()[:, :, rows][..., columns]
    with use_triton(triton):
        assert_near(gated(x, gate), product, dtype)
        assert gated(x, gate).dtype == dtype
        assert_near(gated(x, gate, layout(added)), product + added.double(), torch.float32)
        assert_near(gated(x, gate, layout(added).to(dtype)), product + added.to(dtype).double(), dtype)
        assert gated(x, gate, added).dtype == torch.float32
        one = random(1, 5, 1, 1, seed=3)
        assert_near(gated(x, one, added), x.double() * one.double() + added.double(), torch.float32)
        open_ = 100 * gate.double().sigmoid()[:, :, rows][..., columns]  # of values of 100
        assert_near(gated(torch.full_like(x, 100), gate, sigmoid=True), open_, dtype)
        wide = channels_last(torch.zeros(3, 9, 7, 6, dtype=dtype, device=DEVICE))
        assert gated(x, gate, layout(added).to(dtype), out=wide[:, 2:7]).data_ptr() == wide[:, 2:7].data_ptr()
        assert_near(wide[:, 2:7], product + added.to(dtype).double(), dtype)
        assert not wide[:, :2].any()
        assert not wide[:, 7:].any()


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(("dtype", "layout"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (4, 3), (6, 1)])
def test_excitations(size, dtype, layout, triton):
    """Of few channels and of more than a step takes, in place, and into some channels of a map."""
    for squeezed_channels, channels, bias in ((3, 5, True), (18, 70, False)):
        conv = filled(nn.Conv2d(squeezed_channels, channels, 1, bias=bias), dtype)
        x, added = (channels_last(random(3, channels, 7, 6, seed=seed, dtype=dtype)) for seed in (0, 1))
        squeezed = layout(random(3, squeezed_channels, *size, seed=2, dtype=dtype))
        rows = (torch.arange(7) - (7 - size[0]) // 2).clamp(0, size[0] - 1)
        columns = (torch.arange(6) - (6 - size[1]) // 2).clamp(0, size[1] - 1)
        gate = torch.einsum("nshw,cs->nchw", squeezed.double().relu(), conv.weight.double().flatten(1))
        gate = (gate + (conv.bias.double()[:, None, None] if bias else 0)).sigmoid()[:, :, rows][..., columns]
        want = x.double() * gate + added.double()
        with use_triton(triton):
            assert_near(excited(x, squeezed, conv, added), want, dtype)
            wide = channels_last(torch.zeros(3, channels + 4, 7, 6, dtype=dtype, device=DEVICE))
            excited(x, squeezed, conv, added, out=wide[:, 2:-2])
            assert_near(wide[:, 2:-2], want, dtype)
            assert excited(x, squeezed, conv, added, out=x) is x
            assert_near(x, want, dtype)
        assert not wide[:, :2].any()
        assert not wide[:, -2:].any()


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(("dtype", "layout"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 6)])
def test_activations(size, dtype, layout, triton):
    """Bias, leaky ReLU or PReLU, the addition of maps and of their biases; rounded once, and where it is wanted."""
    x, y, z = (layout(random(3, 5, *size, seed=seed, dtype=dtype)) for seed in range(3))
    biases = [random(5, seed=seed, dtype=dtype) for seed in (3, 4, 5)]
    slope = random(1, seed=6, dtype=dtype)
    wide_x, wide_y, wide_z, *wide_biases = (t.double() for t in (x, y, z, *(bias.view(-1, 1, 1) for bias in biases)))
    biased = wide_x + wide_biases[0]
    rounding = dtype if triton else {torch.float32: torch.float32}.get(dtype, torch.bfloat16)  # torch rounds each step
    with use_triton(triton):
        assert_near(activated(x.clone()), wide_x, dtype)
        assert_near(activated(x.clone(), biases[0]), biased, rounding)
        leaky = torch.where(biased > 0, biased, 0.2 * biased)
        assert_near(activated(x.clone(), biases[0], 0.2, [(y, biases[1])]), leaky + wide_y + wide_biases[1], rounding)
        parametric = torch.where(wide_x > 0, wide_x, float(slope) * wide_x)
        assert_near(activated(x.clone(), None, slope), parametric, rounding)
        added = iter([(y, None), (z, biases[2])])
        assert_near(activated(x.clone(), None, slope, added), parametric + wide_y + wide_z + wide_biases[2], rounding)
        image = random(3, 5, *size, seed=7)
        out = activated(x.clone(), biases[0], added=[(image, None)])
        assert out.dtype == torch.float32
        assert_near(out, biased + image.double(), torch.float32 if triton else rounding)
        wide = channels_last(torch.zeros(3, 9, *size, dtype=dtype, device=DEVICE))
        activated(x.clone(), biases[0], 0.2, out=wide[:, 3:8])
        assert_near(wide[:, 3:8], leaky, rounding)
        assert not wide[:, :3].any()
        assert not wide[:, 8:].any()


@NO_TRITON
def test_activations_take_the_map_s_memory():
    x = random(1, 5, 4, 3)
    with use_triton(True):
        assert activated(x, x[0, :, 0, 0].clone(), 0.1).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_convolutions_without_their_bias(padding_mode, triton):
    x = random(2, 3, 5, 6)
    layers = [
        nn.Conv2d(3, 4, 3, padding=1, stride=2, padding_mode=padding_mode),
        nn.ConvTranspose2d(3, 4, 2, stride=2),
        nn.Conv2d(3, 4, 1, bias=False),
    ]
    for layer in (layer.to(DEVICE) for layer in layers):
        with use_triton(triton):
            out, bias = convolved(layer, x)
        assert bias is layer.bias
        torch.testing.assert_close(activated(out, bias), layer(x), rtol=1e-5, atol=1e-5)
        assert convolved(layer.to(DEVICE), x)[1] is None or DEVICE == "cuda"


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(("dtype", "layout"), KINDS)
def test_channel_means(dtype, layout, triton):
    for shape in ((3, 5, 7, 6), (1, 130, 1, 1), (2, 33, 40, 50)):
        x = layout(random(*shape, dtype=dtype, scale=10) + 100)
        with use_triton(triton):
            out = channel_mean(x)
        assert out.dtype == dtype
        means = x.double().mean((-2, -1), keepdim=True)
        assert_near(out, means, dtype)
        conv = filled(nn.Conv2d(shape[1], 40, 1, bias=shape[0] == 3), dtype)
        wanted = torch.einsum("kc,nc->nk", conv.weight.double().flatten(1), means.flatten(1))[..., None, None]
        wanted = wanted + (conv.bias.double()[:, None, None] if conv.bias is not None else 0)
        with use_triton(triton):
            out = channel_mean_layer(x, conv)
        assert out.dtype == dtype
        assert_near(out, wanted, dtype, of=100 * float(conv.weight.double().abs().flatten(1).sum(1).max()))


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(("dtype", "layout"), KINDS)
def test_local_norms(dtype, layout, triton):
    """Of windows inside the map, as large as it, and of one pixel; in a corner values of 1,000 times the rest's."""
    weight, bias = random(5, seed=1, dtype=dtype), random(5, seed=2, dtype=dtype)
    for shape, window in (((3, 5, 9, 12), (4, 3)), ((1, 5, 9, 12), (20, 5)), ((1, 5, 3, 4), (3, 9)), ((1, 5, 1, 1), (1, 1))):
        x = random(*shape, dtype=dtype)
        x[..., :2, :2] *= 1000
        wanted = local_instance_norm(x.double(), window, weight.double(), bias.double(), 1e-5)
        with use_triton(triton):
            out = local_norm(layout(x), window, weight, bias, 1e-5)
            plain = local_norm(layout(x), window, None, None, 1e-5)
        assert out.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else ROUNDING[dtype]
        torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=5 * tolerance)
        wanted = local_instance_norm(x.double(), window, None, None, 1e-5)
        torch.testing.assert_close(plain.double(), wanted, rtol=tolerance, atol=5 * tolerance)


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(("dtype", "layout"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 7)])
def test_enlargements(size, dtype, layout, triton):
    height, width = size
    x, added = layout(random(3, 5, *size, dtype=dtype)), layout(random(3, 5, 2 * height, 2 * width, seed=1, dtype=dtype))
    wanted = F.interpolate(x.double(), scale_factor=2, mode="bilinear", align_corners=False)
    with use_triton(triton):
        assert_near(doubled(x), wanted, dtype)
        out = doubled(x, added.clone())
    assert out.dtype == dtype
    assert_near(out, wanted + added.double(), dtype if triton else {torch.float32: dtype}.get(dtype, torch.bfloat16))


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(("dtype", "layout"), KINDS)
def test_box_means(dtype, layout, triton):
    x = layout(random(3, 5, 5, 6, dtype=dtype))
    with use_triton(triton):
        out = box_mean(x, (3, 4))
    assert out.dtype == dtype
    assert_near(out, F.avg_pool2d(x.double(), (3, 4), stride=1), dtype, of=float(x.double().abs().max()))


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (2, 3)])
def test_reductions(size):
    """MPRNet's, of which a GPU makes one convolution; odd sizes are rounded down."""
    layer = DownSample(5, 7).to(DEVICE, torch.float64)
    x = channels_last(random(3, 5, *size, dtype=torch.float64))
    wanted = layer.down[1](F.avg_pool2d(x, 2))
    with use_triton(True):
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-14)
    torch.testing.assert_close(layer.down(x), wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("triton", [*WAYS, None])
def test_features_lie_where_they_are_wanted(triton):
    """MPRNet's, of two stages in one map; also without any GPU."""
    x, image = channels_last(random(2, 6, 5, 4)), channels_last(random(2, 3, 5, 4, seed=1))
    block, sam = CAB(6, 3, 3, False, nn.PReLU()).to(DEVICE), SAM(6, 3, 1, False).to(DEVICE)
    both = channels_last(torch.zeros(2, 12, 5, 4, device=DEVICE))
    first, second = both.chunk(2, dim=1)
    with use_triton(triton):
        wanted = torch.cat([block(x), sam(x, image)[0]], 1)
        for found, place in ((block(x, out=first), first), (sam(x, image, out=second)[0], second)):
            assert found.data_ptr() == place.data_ptr()
    assert torch.equal(both, wanted)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("dim", [ROWS, COLUMNS])
def test_halves_are_joined(dim, images, layout):
    """MPRNet's; of one image, whose rows follow on one another in memory, without a copy."""
    x = layout(random(images, 3, 6, 8))
    halves = split(x, dim)
    with use_triton(True):
        joined = join(halves, dim)
    assert torch.equal(joined, x)
    shared = joined.data_ptr() == halves.data_ptr()
    assert shared == (dim == ROWS and images == 1 and layout == channels_last)


HALVES = [torch.float16, torch.bfloat16]


def filled(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """On the device, with parameters of which none is zero or one."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = random(*parameter.shape, seed=number + 5)
    return module.to(DEVICE, dtype)


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 3), (17, 40), (130, 70)])
@pytest.mark.parametrize("norm", [None, LayerNorm2d, lambda c: LayerNorm(c, False)], ids=["plain", "norm", "bias-free"])
def test_pointwise(norm, inputs, outputs, dtype, triton):
    """A product with all that may stand around it."""
    conv = filled(nn.Conv2d(inputs, outputs, 1), dtype)
    norm = norm and filled(norm(inputs), dtype)
    x, added = (channels_last(random(2, c, 7, 6, seed=c, dtype=dtype)) for c in (inputs, outputs))
    scale = random(outputs, seed=3, dtype=dtype).view(1, -1, 1, 1)
    want = x if norm is None else norm_formula(x, norm.weight, norm.bias, norm.eps).to(dtype)
    want = torch.einsum("nchw,kc->nkhw", want.double(), conv.weight.double().flatten(1)) + conv.bias.double()[:, None, None]
    with use_triton(triton):
        assert_near(pointwise(x, conv, norm=norm), want, dtype, of=20 * inputs**0.5)
        positive = torch.einsum("nchw,kc->nkhw", x.double().relu(), conv.weight.double().flatten(1))
        positive = positive + conv.bias.double()[:, None, None]
        assert_near(pointwise(x, conv, relu=True), positive, dtype, of=20 * inputs**0.5)
        out = pointwise(x, conv, norm=norm, scale=scale, added=added)
    assert_near(out, want * scale.double() + added.double(), dtype, of=40 * inputs**0.5)
    assert out.dtype == dtype


def odd_strides(c: int, h: int, w: int) -> tuple[int, ...]:
    """Of a dense map, channels last, with 1 for dimensions of one element."""
    return h * w * c, 1, w * c if h > 1 else 1, c if w > 1 else 1


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1)])
def test_pointwise_of_single_rows_and_pixels(size, triton):
    """Strides of dimensions of one element say nothing; here they are what no address may be made of."""
    conv = filled(nn.Conv2d(20, 9, 1), torch.float16)
    x, added = (
        random(3, *size, c, seed=c, dtype=torch.float16).as_strided((3, c, *size), odd_strides(c, *size)) for c in (20, 9)
    )
    want = torch.einsum("nchw,kc->nkhw", x.double(), conv.weight.double().flatten(1)) + conv.bias.double()[:, None, None]
    with use_triton(triton):
        assert_near(pointwise(x, conv, added=added), want + added.double(), torch.float16, of=40)


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("size", [(1, 1), (4, 3), (7, 6)])
def test_pointwise_of_gated_maps(size, triton):
    conv = filled(nn.Conv2d(20, 9, 1, bias=False), torch.float16)
    x, gate = channels_last(random(3, 20, 7, 6, dtype=torch.float16)), random(3, 20, *size, seed=1, dtype=torch.float16)
    weight = conv.weight.double().flatten(1)
    with use_triton(triton):
        out, halved = pointwise(x, conv, gate=gate), pointwise(channels_last(torch.cat([x, x.flip(-1)], 1)), conv, halves=True)
        gates = gated(torch.ones_like(x), gate)
    assert_near(out, torch.einsum("nchw,kc->nkhw", (x * gates).double(), weight), torch.float16, of=40)
    assert_near(halved, torch.einsum("nchw,kc->nkhw", (x * x.flip(-1)).double(), weight), torch.float16, of=40)


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("gate", [None, "gelu", "product"])
def test_depthwise(gate, dtype, triton):
    """Maps smaller and larger than what a program works on; with bias and without; also a part of the result."""
    for shape, bias in (((1, 2, 1, 1), True), ((3, 6, 1, 5), False), ((2, 70, 5, 19), True), ((1, 4, 37, 3), False)):
        conv = filled(nn.Conv2d(shape[1], shape[1], 3, padding=1, groups=shape[1], bias=bias), dtype)
        x = channels_last(random(*shape, dtype=dtype))
        want = F.conv2d(x.double(), conv.weight.double(), conv.bias.double() if bias else None, padding=1, groups=shape[1])
        first, second = want.chunk(2, dim=1)
        want = want if gate is None else (F.gelu(first) if gate == "gelu" else first) * second
        with use_triton(triton):
            out = depthwise(x, conv, gate)
            assert torch.equal(depthwise(x, conv, gate, (..., slice(1, None), slice(2, 4))), out[..., 1:, 2:4])
        assert out.dtype == dtype
        assert_near(out, want, dtype, of=4 * float(want.abs().max()) + 4)


CELLS = Cells(((0, 3), (3, 4), (4, 7)), ((0, 2), (2, 11)), ((0, 2), (1, 3)), ((0, 2),))


def attention_formula(q: Tensor, k: Tensor, temperature: Tensor, project: Tensor) -> Tensor:
    q, k = (F.normalize(x.double().flatten(-2), dim=-1) for x in (q, k))
    attention = (q @ k.transpose(-2, -1) * temperature.double()).softmax(-1)
    return torch.cat([w @ a for w, a in zip(project.double().chunk(q.shape[1], 1), attention.unbind(1), strict=True)], -1)


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(("heads", "channels"), [(1, 3), (2, 17), (1, 66)])
def test_attention(heads, channels, triton):
    """Its matrices over the map, and the means of those of the windows that cover a cell; and what they make of the values."""
    q, k, v = (channels_last(random(2, heads * channels, 7, 11, seed=i)).unflatten(1, (heads, -1)) for i in range(3))
    temperature, project = random(heads, 1, 1, seed=4), random(5, heads * channels, seed=5)
    whole = attention_formula(q, k, temperature, project)
    windows = [attention_formula(q[..., a:b, :], k[..., a:b, :], temperature, project) for a, b in ((0, 4), (3, 7))]
    means = torch.stack([windows[0], windows[0], sum(windows) / 2, sum(windows) / 2, windows[1], windows[1]])
    bias, added = random(5, seed=6), channels_last(random(2, 5, 7, 11, seed=7))
    single = torch.tensor(1.7, device=DEVICE)  # one temperature for all heads
    with use_triton(triton):
        torch.testing.assert_close(attention_matrices(q, k, temperature, project).double(), whole, rtol=1e-4, atol=1e-5)
        same = attention_formula(q, k, single, project)
        torch.testing.assert_close(attention_matrices(q, k, single, project).double(), same, rtol=1e-4, atol=1e-5)
        of_cells = attention_matrices(q, k, temperature, project, CELLS)
        torch.testing.assert_close(of_cells.double(), means, rtol=1e-4, atol=1e-5)
        values = v.flatten(1, 2).to(torch.float16)
        out = mixed(values, of_cells, bias.to(torch.float16), added.to(torch.float16), CELLS)
        once = mixed(values, whole)
    want = torch.empty(2, 5, 7, 11, dtype=torch.float64, device=DEVICE)
    for matrix, region in zip(means, CELLS.regions(), strict=True):
        want[region] = torch.einsum("nkc,nchw->nkhw", matrix, values.double()[region])
    assert_near(out, want + bias.double()[:, None, None] + added.double(), torch.float16, of=20 * channels**0.5)
    assert_near(once, torch.einsum("nkc,nchw->nkhw", whole, values.double()), torch.float16, of=20 * channels**0.5)


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("window", [(5, 6), (50, 2), (2, 60), (50, 60), (1, 1), (2, 1)])
def test_box_means_of_windows_up_to_the_map(window, triton):
    x = random(1, 3, 5, 6)
    with use_triton(triton):
        out = box_mean(x, window)
    assert_near(out, F.avg_pool2d(x.double(), (min(window[0], 5), min(window[1], 6)), stride=1), torch.float32, of=3)


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(
    ("shape", "window"),
    [((1, 3, 1, 1), (1, 1)), ((1, 130, 3, 5), (2, 2)), ((1, 1, 2, 201), (2, 70)), *([((1, 96, 150, 203), (48, 65))] * ALL)],
)
def test_box_means_of_large_maps(shape, window, triton):
    """More neighbours than a program takes, walks of several segments, a single pixel; large values and float64, too."""
    x = random(*shape, scale=1e4)
    with use_triton(triton):
        assert_near(box_mean(x, window), F.avg_pool2d(x.double(), window, stride=1), torch.float32, of=3e4)
        wide = box_mean(x.double(), window)
    torch.testing.assert_close(wide, F.avg_pool2d(x.double(), window, stride=1), rtol=1e-14, atol=1e-10)


@pytest.mark.parametrize("triton", WAYS)
def test_box_means_of_flat_maps_are_exact(triton):
    x = torch.full((1, 2, 9, 12), 12.3, device=DEVICE).bfloat16()
    with use_triton(triton):
        assert (box_mean(x, (3, 4)) == x[..., :1, :1]).all()


def as_given(x: Tensor) -> Tensor:
    return x


def channels_inside(x: Tensor) -> Tensor:
    """(N, heads, C, H, W) with channels as neighbours in memory, as Restormer has q and k."""
    return x.movedim(2, -1).contiguous().movedim(-1, 2)


def region(x: Tensor) -> Tensor:
    return F.pad(x, (2, 1, 1, 3), value=torch.nan)[..., 1:-3, 2:-1]


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("layout", [as_given, channels_inside, region])
@pytest.mark.parametrize("dtype", TYPES)
def test_gram(dtype, layout, triton):
    for shape in ((3, 2, 5, 7, 6), (1, 1, 70, 3, 3), (1, 1, 16, 40, 40), (1, 1, 3, 1, 1)):
        q, k = (layout(random(*shape, seed=seed, dtype=dtype)) for seed in (0, 1))
        with use_triton(triton):
            qk, qq, kk = gram(q, k)
        wide_q, wide_k = q.double().flatten(-2), k.double().flatten(-2)
        for out, want in ((qk, wide_q @ wide_k.mT), (qq, wide_q.square().sum(-1)), (kk, wide_k.square().sum(-1))):
            assert out.dtype == torch.float32
            torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("triton", WAYS)
def test_gram_of_large_values(triton):
    """Beyond what half precision holds."""
    q, k = (random(1, 1, 4, 8, 8, seed=seed, scale=1e4, dtype=torch.float16) for seed in (0, 1))
    with use_triton(triton):
        qk, qq, _ = gram(q, k)
    assert_near(qk, q.double().flatten(-2) @ k.double().flatten(-2).mT, torch.float32)
    assert_near(qq, q.double().flatten(-2).square().sum(-1), torch.float32)


def small_net(name: str, suffix: str) -> nn.Module:
    torch.manual_seed(0)
    tlc = {"train_size": 16, "base_size": 14} if suffix else {}
    net = build_network({"type": name + suffix, **SMALL_NETS[name], **tlc}).eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases and scales that begin at zero, too
    return net


@pytest.mark.filterwarnings("ignore:.*norms see maps of half:UserWarning")
@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize(("name", "suffix"), VARIANTS)
def test_nets(name, suffix, triton):
    image = random(1, 3, 16, 23).sigmoid()  # windows of 14, and less: in both directions several
    with torch.inference_mode():
        wanted = small_net(name, suffix).double()(image.cpu().double())
        wanted = wanted[-1] if isinstance(wanted, list) else wanted
    for precision, tolerance in [("fp32", 2e-5), ("bf16", 0.05)] if ALL or not triton else [("fp32", 2e-5)]:
        run = prepare_for_inference(small_net(name, suffix), device=DEVICE, precision=precision)
        with use_triton(triton):
            out = run(image).cpu()
        assert (out - wanted).abs().max() < tolerance * max(1, wanted.abs().max())


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("blended", [False, True])
def test_local_attention(blended, triton):
    """On their own, and in Restormer, whose map is projected as a whole then."""
    q, k, v = (random(1, 2, 3, 9, 11, seed=seed, dtype=torch.float64) for seed in range(3))
    wanted = local_channel_attention(q, k, v, 2.0, (5, 6), blended=blended)
    torch.manual_seed(0)
    layer = LocalAttention(Attention(4, 2, True).to(DEVICE), (5, 6), blended).eval()
    x = random(1, 4, 9, 11)
    wanted_layer = layer.double()(x.double(), nn.Identity())
    with use_triton(triton):
        assert_near(
            local_channel_attention(*(y.float() for y in (q, k, v)), 2.0, (5, 6), blended=blended), wanted, torch.float32
        )
        assert_near(layer.float()(x, nn.Identity()), wanted_layer, torch.float32)


@pytest.mark.parametrize("triton", WAYS)
def test_cells_of_sizes_that_differ_much(triton):
    """One has two chunks of pixels and twenty blocks, the other one of them and two."""
    cells = Cells(((0, 2), (2, 34)), ((0, 40),), ((0, 1), (1, 2)), ((0, 1),))
    q, k = (random(1, 1, 3, 34, 40, seed=seed, dtype=torch.float16) for seed in range(2))
    v, matrices = channels_last(random(1, 3, 34, 40, seed=2, dtype=torch.float16)), random(2, 1, 3, 3, seed=3)
    with use_triton(triton):
        sums, products = gram(q, k, cells), mixed(v, matrices, cells=cells)
    for number, region in enumerate(cells.regions()):
        of_q, of_k = (x[region].double().flatten(-2) for x in (q, k))
        for found, want in zip(sums, (of_q @ of_k.mT, of_q.square().sum(-1), of_k.square().sum(-1)), strict=True):
            assert_near(found[number], want, torch.float32, of=float(of_q.square().sum()))
        want = torch.einsum("nkc,nchw->nkhw", matrices[number].half().double(), v[region].double())
        assert_near(products[region], want, torch.float16)


def hats(centres: tuple[float, ...], size: int) -> Tensor:
    """(windows, size) float64: one at a window's centre, nothing at the next one's, and one between it and the map's border."""
    place, lines = torch.arange(size, dtype=torch.float64, device=DEVICE), []
    for i, centre in enumerate(centres):
        line = torch.ones_like(place)
        if i > 0:
            line = torch.minimum(line, (place - centres[i - 1]) / (centre - centres[i - 1]))
        if i + 1 < len(centres):
            line = torch.minimum(line, (centres[i + 1] - place) / (centres[i + 1] - centre))
        lines.append(line.clamp(min=0))
    return torch.stack(lines)


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("plain", [True, False])
def test_blended_products(plain, dtype, triton):
    """Of three rows of windows of 5, of which the last is one row away, and one column, or three."""
    rows = Side(((0, 2), (2, 4), (4, 5), (5, 7)), ((0, 0), (0, 1), (1, 2), (2, 2)), (2, 4, 5))
    one, three = Side(((0, 6),), ((0, 0),), (2.5,)), Side(((0, 2), (2, 3), (3, 4), (4, 6)), rows.around, (1.5, 2.5, 3.5))
    columns = one if plain else three
    x = channels_last(random(2, 5, 7, 6, dtype=dtype))
    matrices = random(3 * len(columns.centres), 2, 4, 5, seed=1)
    bias, added = (
        (None, None) if plain else (random(4, seed=2, dtype=dtype), channels_last(random(2, 4, 7, 6, seed=3, dtype=dtype)))
    )
    parts = matrices.to(dtype).double().unflatten(0, (3, -1))
    wanted = torch.einsum("ijnkc,nchw,ih,jw->nkhw", parts, x.double(), hats(rows.centres, 7), hats(columns.centres, 6))
    if not plain:
        wanted = wanted + bias.double().view(1, -1, 1, 1) + added.double()
    with use_triton(triton):
        found = blended(x, matrices, rows, columns, bias, added)
    assert found.dtype == dtype
    assert_near(found, wanted, dtype, of=4 * wanted.abs().max())  # four roundings


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("local", [False, True])
def test_restormer_s_parts_in_strips(local, triton, monkeypatch):
    """Of a map that is too large for the card to be worked on in one piece."""
    monkeypatch.setattr(blocks, "_LARGE_TILE", 1)
    torch.manual_seed(0)
    attention, feed_forward = Attention(4, 2, True).to(DEVICE).eval(), FeedForward(4, 2, True).to(DEVICE).eval()
    layer = LocalAttention(attention, (15, 9)).eval() if local else attention
    x, norm = random(1, 4, 37, 11), LayerNorm(4, False).to(DEVICE)
    for part in (layer, feed_forward):
        wanted = part.double()(channels_last(x.double()), norm.double())
        with use_triton(triton):
            assert_near(part.float()(channels_last(x), norm.float()), wanted, torch.float32)


@pytest.mark.parametrize("triton", WAYS)
@pytest.mark.parametrize("max_stride", [None, (2, 2)])
def test_local_means_of_a_map_without_batch(max_stride, triton):
    x = random(3, 8, 10, dtype=torch.bfloat16)
    wanted = local_mean(x.double(), (4, 5), max_stride)
    with use_triton(triton):
        out = local_mean(x, (4, 5), max_stride)
    assert out.dtype == torch.bfloat16
    assert_near(out, wanted, torch.bfloat16)


def far_apart(x: Tensor, dim: int) -> Tensor:
    """Its parts along `dim` begin 2^30 elements from one another; what lies between is never touched, nor there."""
    strides = list(x.stride())
    strides[dim] = 1 << 30
    try:
        memory = torch.empty((x.shape[dim] - 1 << 30) + x.numel(), dtype=x.dtype, device=DEVICE)
    except RuntimeError:
        pytest.skip("the machine does not lend so much memory")
    return memory.as_strided(x.shape, strides).copy_(x)


@NO_TRITON
@pytest.mark.parametrize("operation", ["gated", "pointwise", "gate of pointwise", "layer norm", "gram", "excited", "halves"])
def test_maps_of_more_than_2_31_elements(operation):
    """Positions in them do not fit in 32 bits."""
    x, conv = random(1, 3, 5, 3, dtype=torch.float16), nn.Conv2d(3, 3, 1).to(DEVICE, torch.float16)
    last, norm = channels_last(x), torch.ones(3, device=DEVICE)
    run, given, dim = {
        "gated": (lambda far: gated(x, far), x, 1),
        "pointwise": (lambda far: pointwise(far, conv), last[:, :, :1], 3),
        "gate of pointwise": (lambda far: pointwise(last, conv, gate=far), x, 1),
        "layer norm": (lambda far: channel_layer_norm(far, norm, norm, 1e-5), x, 1),
        "gram": (lambda far: gram(far[:, None], far[:, None])[0], x, 1),
        "excited": (lambda far: excited(last, far, conv, last), x, 1),
        "halves": (lambda far: halves_gradient(far, x[:, :2], gelu=True), torch.cat([x, x[:, :1]], 1), 1),
    }[operation]
    with use_triton(True):
        torch.testing.assert_close(run(far_apart(given, dim)), run(given), rtol=0, atol=0)


def test_they_leave_alone_what_is_no_plain_prediction():
    """Autograd, tracing, shapes without values, subclasses; and without a GPU or `use_triton` everything."""
    x = torch.ones(1, 2, 3, 4)
    assert not kernels.accelerates(x)
    with use_triton(True):
        assert kernels.accelerates(x)
        assert not kernels.accelerates(x.to("meta"))
        assert not kernels.accelerates(x.as_subclass(type("Marked", (Tensor,), {})))
        with torch.enable_grad():
            assert not kernels.accelerates(x)
        seen = []
        torch.jit.trace(lambda y: seen.append(kernels.accelerates(y)) or y, x, check_trace=False)
        torch.export.export(Watch(seen.append), (x,), strict=False)
    assert len(seen) >= 2  # one of them may look twice
    assert not any(seen)
    assert not kernels.accelerates(x)


class Watch(nn.Module):
    def __init__(self, see: Callable[[bool], None]) -> None:
        super().__init__()
        self.see = see

    def forward(self, x: Tensor) -> Tensor:
        self.see(kernels.accelerates(x))
        return x + 1


@NO_TRITON
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kernel_is_trusted_once_it_agrees(operation, dtype):
    assert choice.agrees(operation, torch.device(DEVICE), dtype)


@NO_TRITON
@pytest.mark.parametrize(
    ("fault", "says"), [(lambda out: out + 1, "is off by"), (lambda out: out * torch.nan, "is off by nan")]
)
def test_a_kernel_that_is_wrong_is_not_trusted(monkeypatch, caplog, fault, says):
    module = importlib.import_module("basicsr.kernels.gate_triton")
    right = module.launch
    monkeypatch.setattr(module, "launch", lambda *args: fault(right(*args)))
    monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
    assert not choice.agrees("gate", torch.device(DEVICE), torch.float32)
    assert says in caplog.text


@NO_TRITON
def test_a_kernel_that_cannot_be_built_is_not_trusted(monkeypatch, caplog):
    class CompilationError(Exception):
        """Triton's is no RuntimeError either."""

    def launch(*args: object) -> Tensor:
        raise CompilationError("at 7:4")

    monkeypatch.setattr(importlib.import_module("basicsr.kernels.box_mean_triton"), "launch", launch)
    monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
    assert not choice.agrees("box_mean", torch.device(DEVICE), torch.float16)
    assert "cannot run (CompilationError: at 7:4)" in caplog.text


def test_sums_in_double_precision_stay_double():
    q, k = (random(1, 1, 4, 30, 30, seed=seed, dtype=torch.float64) for seed in range(2))
    with use_triton(True):
        products, *_ = gram(q, k)
    assert products.dtype == torch.float64
    torch.testing.assert_close(products, torch.einsum("nkchw,nkdhw->nkcd", q, k))
