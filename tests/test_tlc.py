"""TLC against F.avg_pool2d, F.instance_norm, windows gone through one by one, and float64; what the converter promises."""

import copy
import functools
import importlib
import inspect
import json
import math
import pickle
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_NETS
from torch import Tensor, nn

import basicsr.tlc
from basicsr.archs import ARCHS, build_network
from basicsr.archs.local_arch import LocalAttention
from basicsr.archs.restormer_arch import Attention
from basicsr.tlc import convert, local_channel_attention, local_instance_norm, local_mean, rule, window_starts
from basicsr.tlc.local import functional
from basicsr.tlc.local.layers import LocalAvgPool2d, LocalInstanceNorm2d

SMALL = {
    "HINet": {"wf": 4, "depth": 3},
    "MPRNet": {"n_feat": 8, "scale_unetfeats": 4, "scale_orsnetfeats": 4, "num_cab": 1},
    "NAFNet": {"width": 4, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
    "Restormer": {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1},
}
NAMES = ARCHS.names()
SIZE = {"train_size": (1, 3, 32, 32)}


def small(name: str, **more: object) -> nn.Module:
    """A small net in eval mode; weights are random everywhere, for NAFNet starts as the identity."""
    torch.manual_seed(0)
    net = build_network({"type": name, **SMALL.get(name, {}), **more}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = math.prod(parameter.shape[1:])
            parameter.normal_(1 if parameter.ndim == 1 else 0, 0.1 if fan_in == 1 else fan_in**-0.5)
    return net


@functools.cache
def _converted(name: str) -> nn.Module:
    return convert(small(name), **SIZE)


def converted(name: str) -> nn.Module:
    """`small(name)`, local with windows of 48 for patches of 32."""
    return copy.deepcopy(_converted(name))


def last(output: Tensor | list[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else output[-1]


def run(net: nn.Module, x: Tensor) -> Tensor:
    """The final output, without gradients."""
    with torch.inference_mode():
        return last(net(x)).clone()


def close(got: Tensor, want: Tensor, tolerance: float) -> None:
    """Equal up to `tolerance`, relative to the largest value."""
    assert got.shape == want.shape
    error, largest = (got.double() - want.double()).abs().max().item(), want.double().abs().max().item()
    assert error <= tolerance * largest


# Local means ---------------------------------------------------------------------------------------------------------


def padded(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Replicate padding as tlc.md words it: (W-w)//2 columns on the left, (W-w+1)//2 on the right, rows alike."""
    (h, w), (height, width) = x.shape[-2:], size
    rows = torch.arange(-((height - h) // 2), h + (height - h + 1) // 2).clamp(0, h - 1)
    columns = torch.arange(-((width - w) // 2), w + (width - w + 1) // 2).clamp(0, w - 1)
    return x[..., rows, :][..., columns]


def windows_of(x: Tensor, window: tuple[int, int]) -> Tensor:
    """(..., H, W) -> float64 (..., H-k1+1, W-k2+1, k1*k2): the pixels of every window inside the map."""
    k1, k2 = min(window[0], x.shape[-2]), min(window[1], x.shape[-1])
    return x.double().unfold(-2, k1, 1).unfold(-2, k2, 1).flatten(-2)


def reference_mean(x: Tensor, window: tuple[int, int]) -> Tensor:
    k = min(window[0], x.shape[-2]), min(window[1], x.shape[-1])
    return padded(F.avg_pool2d(x.double(), k, stride=1), x.shape[-2:])


def reference_fast_mean(x: Tensor, window: tuple[int, int], caps: tuple[int, int]) -> Tensor:
    """`fast_imp` as tlc.md defines it, with the two-dimensional prefix sum. A single row, where it divides by zero, stays."""
    x = x.double()
    size = x.shape[-2:]
    if window[0] >= size[0] and window[1] >= size[1]:
        return x.mean((-2, -1), keepdim=True).expand_as(x)
    r = [min(next(r for r in (5, 4, 3, 2, 1) if n % r == 0), cap) for n, cap in zip(size, caps, strict=True)]
    y = x[..., :: r[0], :: r[1]]
    y = y.repeat_interleave(2, -2) if y.shape[-2] == 1 else y
    y = y.repeat_interleave(2, -1) if y.shape[-1] == 1 else y
    h, w = y.shape[-2:]
    k1, k2 = min(h - 1, max(1, window[0] // r[0])), min(w - 1, max(1, window[1] // r[1]))
    s = y.cumsum(-2).cumsum(-1)
    out = torch.stack(
        [
            torch.stack(
                [s[..., i + k1, j + k2] - s[..., i, j + k2] - s[..., i + k1, j] + s[..., i, j] for j in range(w - k2)], -1
            )
            for i in range(h - k1)
        ],
        -2,
    )
    out = (out / (k1 * k2)).repeat_interleave(r[0], -2).repeat_interleave(r[1], -1)
    return padded(out, size)


WINDOWS = [
    ((7, 9), (3, 3)),
    ((8, 8), (4, 4)),
    ((7, 10), (4, 3)),
    ((9, 6), (1, 1)),
    ((9, 7), (1, 5)),
    ((12, 5), (20, 3)),
    ((5, 12), (2, 99)),
    ((16, 16), (15, 16)),
    ((1, 13), (1, 4)),
    ((13, 1), (6, 1)),
    ((6, 6), (6, 6)),
    ((6, 7), (9, 9)),
    ((1, 1), (1, 1)),
    ((1, 1), (3, 3)),
    ((37, 41), (24, 18)),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("size", "window"), WINDOWS)
def test_local_mean_is_average_pooling_with_replicated_borders(size: tuple, window: tuple, dtype: torch.dtype):
    torch.manual_seed(0)
    x = (3 + torch.randn(2, 3, *size)).to(dtype)
    got = local_mean(x, window)
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps
    want = reference_mean(x, window)
    assert ((got.double() - want).abs() <= 4 * eps * want.abs() + 8 * eps).all()
    assert got.shape == (x.shape if size[0] > window[0] or size[1] > window[1] else (2, 3, 1, 1))
    assert torch.equal(local_mean(x[0], window), got[0])


def test_local_mean_does_not_overflow():
    half, single = torch.full((1, 2, 40, 30), 6e4).half(), torch.full((1, 2, 40, 30), 1e35)
    for x, window in ((half, (24, 24)), (half, (99, 99)), (single, (24, 24))):
        torch.testing.assert_close(local_mean(x, window).expand_as(x), x)


def test_local_mean_of_a_small_signal_on_a_large_level():
    """Prefix sums in float32, of up to 1e9 here, would be off by 0.1."""
    torch.manual_seed(0)
    x = 1e4 + torch.randn(1, 1, 300, 400)
    got, want = local_mean(x, (24, 24)).double(), reference_mean(x, (24, 24))
    assert (got - want).abs().max() < 4e-3  # the spacing of float32 at 1e4 is 1e-3


@pytest.mark.parametrize("chunk", [1, 50, 150])
def test_channels_in_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, 7)
    monkeypatch.setattr(functional, "_CHUNK", chunk)
    torch.testing.assert_close(local_mean(x, (3, 4)).double(), reference_mean(x, (3, 4)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(local_mean(x[0], (3, 4)).double(), reference_mean(x[0], (3, 4)), rtol=1e-6, atol=1e-6)
    want = reference_norm(x, (3, 4))
    torch.testing.assert_close(local_instance_norm(x, (3, 4), None, None, 1e-5).double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("caps", [(5, 5), (2, 3), (1, 1), (4, 5)])
@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((20, 30), (8, 9)),
        ((20, 30), (99, 7)),
        ((17, 19), (8, 6)),
        ((15, 8), (15, 5)),
        ((12, 14), (5, 13)),
        ((1, 25), (1, 10)),
        ((25, 1), (10, 5)),
        ((5, 40), (5, 12)),
        ((4, 9), (9, 9)),
        ((7, 1), (3, 1)),
    ],
)
def test_fast_mean_is_the_published_approximation(size: tuple, window: tuple, caps: tuple):
    torch.manual_seed(0)
    x = 1 + torch.randn(2, 2, *size)
    got = local_mean(x, window, caps).expand_as(x)
    torch.testing.assert_close(got.double(), reference_fast_mean(x, window, caps), rtol=1e-6, atol=1e-6)


# Local instance norm -------------------------------------------------------------------------------------------------


def reference_norm(x: Tensor, window: tuple[int, int], eps: float = 1e-5) -> Tensor:
    """Two passes over every window: its mean, then the mean of its squared deviations."""
    pixels = windows_of(x, window)
    mean = pixels.mean(-1)
    variance = (pixels - mean[..., None]).square().mean(-1)
    size = x.shape[-2:]
    return (x.double() - padded(mean, size)) / (padded(variance, size) + eps).sqrt()


def maps(kind: str) -> Tensor:
    """(2, 3, 30, 41) test maps."""
    torch.manual_seed(0)
    noise = torch.randn(2, 3, 30, 41)
    if kind == "half black, half white":
        return (torch.arange(41) > 20).float().expand_as(noise).contiguous()
    if kind == "one bright pixel":
        return torch.zeros_like(noise).index_fill(-1, torch.tensor([7]), 255.0)
    if kind == "steps":
        return 1e4 * (torch.arange(41) // 10) + noise
    mean, deviation = {
        "plain": (0, 1),
        "offset": (1e4, 1),
        "large": (0, 1e4),
        "large offset": (1e6, 1e2),
        "huge offset": (1e7, 10),
        "small offset": (10, 1e-3),
        "tiny": (0, 1e-4),
    }[kind]
    return mean + deviation * noise


KINDS = [
    "plain",
    "offset",
    "large",
    "large offset",
    "huge offset",
    "small offset",
    "tiny",
    "half black, half white",
    "one bright pixel",
    "steps",
]


@pytest.mark.parametrize("window", [(24, 24), (5, 8), (12, 99), (30, 41), (1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_local_instance_norm_in_float32(kind: str, window: tuple):
    x = maps(kind)
    got = local_instance_norm(x, window, None, None, 1e-5)
    want = reference_norm(x, window)
    assert got.dtype == x.dtype
    assert ((got.double() - want).abs() <= 1e-5 * want.abs().clamp(min=1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, 5.3, 12.3, 100.0])
def test_flat_maps_become_the_bias(value: float, dtype: torch.dtype):
    """Where the published code gives NaN."""
    x = torch.full((1, 2, 45, 80), value, dtype=dtype)
    weight, bias = torch.tensor([2.0, 3.0], dtype=dtype), torch.tensor([0.5, -1.0], dtype=dtype)
    got = local_instance_norm(x, (24, 24), weight, bias, 1e-5)
    torch.testing.assert_close(got, bias.view(1, 2, 1, 1).expand_as(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [None, (5, 5)])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 6e4), (torch.bfloat16, 3e38), (torch.float32, 3e38)])
def test_finite_for_the_largest_values(dtype: torch.dtype, scale: float, stride: tuple | None):
    torch.manual_seed(0)
    noisy = (scale * (2 * torch.rand(1, 2, 40, 50) - 1)).to(dtype)
    pixel = torch.zeros_like(noisy).index_fill(-1, torch.tensor([23]), scale)
    halves = torch.where(torch.arange(50) < 20, -scale, scale).to(dtype).expand_as(noisy)
    for x in (noisy, pixel, halves, torch.full_like(noisy, scale)):
        assert local_instance_norm(x, (24, 24), None, None, 1e-5, stride).isfinite().all()
    if stride is None:
        got, want = local_instance_norm(noisy, (24, 24), None, None, 1e-5), reference_norm(noisy, (24, 24))
        torch.testing.assert_close(got.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_fast_norm_uses_the_fast_means():
    x = maps("plain") + 3
    mean = reference_fast_mean(x, (9, 12), (5, 5))
    variance = reference_fast_mean(x.double() ** 2, (9, 12), (5, 5)) - mean**2
    want = (x.double() - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(local_instance_norm(x, (9, 12), None, None, 1e-5, (5, 5)).double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_a_covering_window_is_instance_norm(affine: bool, eps: float):
    x = maps("plain")
    norm = nn.InstanceNorm2d(3, affine=affine, eps=eps)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    want = F.instance_norm(x.double(), weight=norm.double().weight, bias=norm.bias, eps=eps)
    local = LocalInstanceNorm2d(norm.float(), (30, 50)).eval()
    torch.testing.assert_close(local(x).double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(local(x[0]).double(), want[0], rtol=1e-5, atol=1e-5)


# Local channel attention ---------------------------------------------------------------------------------------------


def reference_starts(size: int, window: int) -> list[int]:
    """The window starts, word by word of tlc.md."""
    window = min(window, size)
    n = (size - 1) // window + 1
    step = window if n == 1 else math.ceil((size - window) / (n - 1) - 1e-8)
    starts = []
    while True:
        start = len(starts) * step
        if start >= size - window:
            return [*starts, size - window]
        starts.append(start)


def test_window_starts():
    for size in range(1, 70):
        for window in range(1, 75):
            assert window_starts(size, window) == reference_starts(size, window)
    assert window_starts(720, 384) == [0, 336]
    assert window_starts(1280, 384) == [0, 299, 598, 896]


def reference_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, window: tuple[int, int]) -> Tensor:
    """Attention in one window after the other, summed up and divided by how many cover a pixel; float64."""
    q, k, v, temperature = (x.double() for x in (q, k, v, temperature))
    height, width = q.shape[-2:]
    k1, k2 = min(window[0], height), min(window[1], width)
    total, count = torch.zeros_like(v), torch.zeros_like(v)
    for top in reference_starts(height, k1):
        for left in reference_starts(width, k2):
            place = (..., slice(top, top + k1), slice(left, left + k2))
            a, b, c = (x[place].flatten(-2) for x in (q, k, v))
            a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
            attention = (a @ b.transpose(-2, -1) * temperature).softmax(-1)
            total[place] += (attention @ c).view(v[place].shape)
            count[place] += 1
    assert count.min() >= 1
    return (total / count).flatten(1, 2)


def qkv(n: int, heads: int, c: int, h: int, w: int, scale: float = 1) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    level = torch.linspace(-1, 1, h * w).view(h, w)  # windows differ from one another
    q, k, v = (scale * (torch.randn(n, heads, c, h, w) + level) for _ in range(3))
    return q, k, v, 0.5 + torch.rand(heads, 1, 1)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((1, 1, 2, 5, 7), (5, 7)),
        ((1, 2, 3, 6, 5), (9, 9)),
        ((2, 2, 3, 9, 11), (4, 5)),
        ((3, 4, 2, 8, 8), (4, 4)),
        ((2, 1, 4, 10, 6), (7, 99)),
        ((1, 3, 2, 13, 17), (5, 6)),
        ((2, 2, 2, 5, 4), (1, 1)),
        ((1, 2, 3, 7, 1), (3, 1)),
        ((1, 1, 1, 1, 1), (1, 1)),
    ],
)
@pytest.mark.parametrize("projected", [True, False])
def test_attention_is_that_of_every_window_averaged(shape: tuple, window: tuple, projected: bool):
    q, k, v, temperature = qkv(*shape)
    want = reference_attention(q, k, v, temperature, window)
    weight = torch.randn(5, want.shape[1]) if projected else None
    if weight is not None:
        want = F.conv2d(want, weight.double()[..., None, None])
    got = local_channel_attention(q, k, v, temperature, window, weight)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    exact = local_channel_attention(
        *(x.double() for x in (q, k, v, temperature)), window, None if weight is None else weight.double()
    )
    torch.testing.assert_close(exact, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 500.0), (torch.bfloat16, 1e15)])
@pytest.mark.parametrize("projected", [True, False])
def test_attention_of_large_half_values(dtype: torch.dtype, scale: float, projected: bool):
    """A sum of squares over a window would overflow in half precision."""
    q, k, v, temperature = (x.to(dtype) for x in qkv(2, 2, 4, 24, 30, scale))
    want = reference_attention(q, k, v, temperature, (16, 16))
    weight = (torch.randn(8, 8) / 8).to(dtype) if projected else None
    if weight is not None:
        want = F.conv2d(want, weight.double()[..., None, None])
    got = local_channel_attention(q, k, v, temperature, (16, 16), weight)
    assert got.dtype == dtype
    close(got, want, 4 * torch.finfo(dtype).eps)


def test_attention_of_an_empty_channel():
    """F.normalize leaves zeros; their gradient is finite."""
    q, k, v, temperature = qkv(1, 2, 3, 6, 8)
    q[:, 0, 1] = 0
    want = reference_attention(q, k, v, temperature, (4, 4))
    q.requires_grad_()
    got = local_channel_attention(q, k, v, temperature, (4, 4))
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    got.sum().backward()
    assert q.grad.isfinite().all()


def test_attention_keeps_its_precision_under_autocast():
    q, k, v, temperature = qkv(1, 2, 4, 9, 11)
    weight = torch.randn(8, 8)
    want = local_channel_attention(q, k, v, temperature, (4, 5), weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(local_channel_attention(q, k, v, temperature, (4, 5), weight), want)
        half = local_channel_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), temperature, (4, 5), weight)
    assert half.dtype == torch.bfloat16
    close(half, want, 0.03)


def test_attention_layer_runs_on_the_meta_device():
    """As the dry run of a larger net does, and every counter of operations."""
    layer = LocalAttention(Attention(4, 2, bias=False), (4, 4)).eval().to("meta")
    assert layer(torch.empty(1, 4, 8, 8, device="meta")).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("bias", [True, False])
def test_attention_layer(bias: bool):
    torch.manual_seed(0)
    attention = Attention(6, 3, bias).eval()
    x = torch.randn(2, 6, 11, 9)
    q, k, v = attention.qkv_dwconv(attention.qkv(x)).view(2, 3, 3, 2, 11, 9).unbind(1)
    want = attention.double().project_out(reference_attention(q, k, v, attention.temperature, (4, 5)))
    got = LocalAttention(attention.float(), (4, 5)).eval()(x)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


# The converter: nets of the registry ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_parameters_stay_the_same_objects_under_the_same_keys(name: str):
    net = small(name)
    parameters, keys = dict(net.named_parameters(remove_duplicate=False)), list(net.state_dict())
    for parameter in list(parameters.values())[::3]:
        parameter.requires_grad_(False)
    grads = {key: parameter.requires_grad for key, parameter in parameters.items()}
    assert convert(net, **SIZE) is net
    after = dict(net.named_parameters(remove_duplicate=False))
    assert list(net.state_dict()) == keys
    assert list(after) == list(parameters)
    assert all(after[key] is parameters[key] for key in parameters)
    assert {key: parameter.requires_grad for key, parameter in after.items()} == grads


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_single_runs_and_no_state_stays(name: str):
    net = converted(name)
    images, other = torch.rand(3, 3, 64, 88), torch.rand(1, 3, 40, 120)
    before = run(net, images)
    singles = torch.cat([run(net, image[None]) for image in images])
    close(before, singles, 2e-5)
    run(net, other)
    assert torch.equal(run(net, images), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_window_that_covers_the_image_changes_nothing(name: str):
    net, image = small(name), torch.rand(2, 3, 43, 61)
    want = run(net, image)
    close(run(convert(net, **SIZE, base_size=64), image), want, 1e-5)
    assert (run(converted(name), image) - want).abs().max() > 1e-3 * want.std()


def test_report_covers_where_maps_are_not_in_proportion():
    """A convolution without padding: the map of an image of 128 has 126 rows, and the window 124 * 2 // 2."""

    class Net(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self[0](x)
            return y * y.mean((2, 3), keepdim=True)

    net, image = Net(nn.Conv2d(3, 4, 3)).double(), torch.rand(1, 3, 128, 128, dtype=torch.float64)
    want = net(image)
    convert(net, train_size=64, base_size=128).eval()
    assert net.tlc_report.converted[0].window == (124, 124)
    assert not torch.allclose(net(image), want)
    assert not net.tlc_report.covers((128, 128))


@pytest.mark.parametrize("name", NAMES)
def test_report_covers_only_images_that_stay_the_same(name: str):
    for train, base in ((32, 48), (32, 42)):  # 42 is padded to 44 or 48
        net, image = small(name), torch.rand(1, 3, base, base)
        want = run(net, image)
        convert(net, train_size=(1, 3, train, train), base_size=base)
        assert not net.tlc_report.covers((base + 1, base))
        assert not net.tlc_report.covers((base, base + 1))
        if net.tlc_report.covers((base, base)):
            close(run(net, image), want, 1e-4)
    assert net.tlc_report.covers((24, 24))


@pytest.mark.parametrize("name", NAMES)
def test_training_mode_is_the_plain_net(name: str):
    plain, net = small(name).train(), converted(name).train()
    image = torch.rand(2, 3, 48, 64)
    want, got = last(plain(image)), last(net(image))
    close(got.detach(), want.detach(), 1e-5)
    want.square().mean().backward()
    got.square().mean().backward()
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4 * float(b.grad.abs().max()) + 1e-7)
    assert (run(net.eval(), image) - want).abs().max() > 1e-3 * want.std()


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles(name: str):
    net, image = converted(name), torch.rand(1, 3, 64, 72)
    want = run(net, image)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(run(other, image), want)
        assert other.tlc_report == net.tlc_report
        with pytest.raises(ValueError, match="before"):
            convert(other, **SIZE)


@pytest.mark.parametrize("name", NAMES)
def test_converting_twice_is_refused(name: str):
    net = converted(name)
    layers = list(net.modules())
    with pytest.raises(ValueError, match="before"):
        convert(net, **SIZE, base_size=99)
    assert list(net.modules()) == layers
    assert net.tlc_report.base_size == (48, 48)


@pytest.mark.parametrize("name", ["HINet", "NAFNet", "Restormer"])
def test_a_part_of_a_larger_net_may_be_converted_already(name: str):
    """Its layers are local: they keep their windows, and are neither converted nor called global."""
    inner = converted(name)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner
            self.norm = nn.InstanceNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(last(self.inner(x)))

    net = convert(Outer(), train_size=(1, 3, 64, 64))
    assert [c.path for c in net.tlc_report.converted] == ["norm"]
    assert inner.tlc_report.train_size == (32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_windows_grow_with_the_training_size(name: str):
    """The patch of `converted` twice as high and four times as wide; 1.5 times the patch is the default window."""
    report, other = converted(name).tlc_report, convert(small(name), train_size=(2, 3, 64, 128)).tlc_report
    assert (report.base_size, other.base_size) == ((48, 48), (96, 192))
    assert [c.path for c in other.converted] == [c.path for c in report.converted]
    for a, b in zip(report.converted, other.converted, strict=True):
        assert b.size == (2 * a.size[0], 4 * a.size[1])
        assert b.window == (2 * a.window[0], 4 * a.window[1])
        assert a.window == (a.size[0] * 3 // 2, a.size[1] * 3 // 2)


@pytest.mark.parametrize("name", NAMES)
def test_report_has_a_row_for_every_layer(name: str):
    report = converted(name).tlc_report
    assert len(report.converted) == len({c.path for c in report.converted}) > 0
    lines = str(report).splitlines()[2:]  # those for layers that are alike begin with their number
    assert sum(int(line.partition(":")[0]) if line[0].isdigit() else 1 for line in lines) == len(report.converted)
    assert all(line.split("  ")[0].split()[-1] in {c.path for c in report.converted} for line in lines)


def test_windows_are_rounded_down_and_never_empty():
    net = nn.Sequential(nn.AvgPool2d(8), nn.InstanceNorm2d(3))
    assert convert(copy.deepcopy(net), **SIZE, base_size=(63, 5)).tlc_report.converted[0].window == (7, 1)


def test_half_the_training_size_gives_half_the_windows():
    net = nn.Sequential(nn.AvgPool2d(4), nn.InstanceNorm2d(3))
    for train, window in ((256, 96), (128, 48)):
        report = convert(copy.deepcopy(net), train_size=(1, 3, train, train)).tlc_report
        assert [c.window for c in report.converted] == [(window, window)]


def published_window(name: str, path: str) -> tuple[int, int]:
    """The windows of tlc.md for base 384 and patches of 256."""
    if name == "HINet":
        return {"3": (48, 48), "4": (24, 24)}[path.split(".")[1]]
    if name == "Restormer":
        level = {"latent": 4, "refinement": 1}.get(path.split(".")[0]) or int(path.split(".")[0][-1])
        return (768 >> level, 768 >> level)
    if name == "NAFNet":
        part, index = path.split(".")[:2]
        level = {"encoders": int(index), "decoders": 3 - int(index), "middle_blks": 4}[part]
        return (384 >> level, 384 >> level)
    level = 1
    if "coder" in path:
        level = int(path.split(".")[1].removeprefix("skip_attn").removeprefix("encoder_level").removeprefix("decoder_level"))
    whole = {
        "shallow_feat1": (192, 192),
        "shallow_feat2": (192, 384),
        "shallow_feat3": (384, 384),
        "stage1_encoder": (192, 192),
        "stage1_decoder": (192, 384),
        "stage2_encoder": (192, 384),
        "stage2_decoder": (384, 384),
        "stage3_orsnet": (384, 384),
    }[path.split(".")[0]]
    return (whole[0] >> (level - 1), whole[1] >> (level - 1))


@pytest.mark.parametrize(
    ("name", "keys", "layers"), [("HINet", 186, 4), ("MPRNet", 316, 55), ("Restormer", 494, 44), ("NAFNet", 664, 36)]
)
def test_windows_of_the_published_nets(name: str, keys: int, layers: int):
    with torch.device("meta"):
        net = build_network({"type": name, **({"hin_position_left": 3} if name == "HINet" else {})})
    report = convert(net).tlc_report
    assert report.base_size == (384, 384)
    assert len(net.state_dict()) == keys
    assert len(report.converted) == layers
    assert report.left_alone == ()
    for layer in report.converted:
        assert layer.window == published_window(name, layer.path), layer.path


def test_fast_strides_are_capped_by_the_layers_scale():
    net = convert(small("MPRNet"), train_size=(1, 3, 256, 256), fast_imp=True)
    strides = {c.path: net.get_submodule(c.path).avg_pool.max_stride for c in net.tlc_report.converted}
    assert strides["stage3_orsnet.orb1.body.0.CA"] == (5, 5)
    assert strides["stage1_decoder.decoder_level1.0.CA"] == (2, 5)
    assert strides["stage2_decoder.decoder_level2.0.CA"] == (2, 2)
    assert strides["stage1_encoder.encoder_level3.0.CA"] == (1, 1)


def test_fast_imp_says_that_attention_is_exact():
    net, exact = small("Restormer"), converted("Restormer")
    with pytest.warns(UserWarning, match="attention"):
        convert(net, **SIZE, fast_imp=True)
    assert all("exact" in layer.note for layer in net.tlc_report.converted)
    image = torch.rand(1, 3, 64, 72)
    assert torch.equal(run(net, image), run(exact, image))


@pytest.mark.parametrize("name", ["HINet", "MPRNet", "NAFNet"])
def test_fast_imp_is_silent_without_attention(name: str):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="fast_imp")
        net = convert(small(name), **SIZE, fast_imp=True)
    assert not any(layer.note for layer in net.tlc_report.converted)
    image = torch.rand(1, 3, 100, 120)
    assert not torch.equal(run(net, image), run(converted(name), image))


@pytest.mark.parametrize("module", [nn.AdaptiveAvgPool2d(1), nn.InstanceNorm2d(4, affine=True), Attention(4, 2, True)])
def test_layers_keep_the_precision_of_those_they_replace_under_autocast(module: nn.Module):
    local = convert(copy.deepcopy(module).eval(), train_size=(1, 4, 8, 8))
    x = torch.rand(1, 4, 16, 16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        x = nn.Conv2d(4, 4, 1)(x)
        assert local(x).dtype == module(x).dtype


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast(name: str):
    local, image = converted(name), torch.rand(1, 3, 64, 72)
    want = run(local, image)
    with torch.autocast("cpu", torch.bfloat16):
        got = run(local, image)
    assert (got.double() - want).abs().mean() < 0.1 * want.std()


# The converter: nets that bring what nets out there have -------------------------------------------------------------


class Net(nn.Module):
    """A module under test at the path `gate`, behind a convolution."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.conv(x))


class Median(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.flatten(2).median(2).values[..., None, None]  # global


class Extremes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.logsumexp((2, 3), keepdim=True)  # global


class ChannelDistances(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        scores = torch.cdist(flat, flat)  # global
        return (scores.softmax(-1) @ flat).view(x.shape)


@pytest.mark.parametrize("kind", [Median, Extremes, ChannelDistances])
def test_functional_global_operations_are_listed(kind: type[nn.Module]):
    net = convert(Net(kind()), **SIZE)
    lines, start = inspect.getsourcelines(kind)
    line = start + next(i for i, text in enumerate(lines) if "# global" in text)
    assert [(x.path, x.where) for x in net.tlc_report.left_alone] == [("gate", f"{__file__}:{line}")]
    assert net.tlc_report.left_alone[0].reason
    assert f"{Path(__file__).name}:{line}" in str(net.tlc_report)
    assert net(torch.rand(1, 3, 80, 80)).shape == (1, 4, 80, 80)


def test_a_global_layer_of_torch_is_listed_with_the_line_that_calls_it():
    net = convert(Net(nn.Softmax(-1)), **SIZE)
    lines, start = inspect.getsourcelines(Net)
    line = start + next(i for i, text in enumerate(lines) if "self.gate(" in text)
    assert [(x.path, x.where) for x in net.tlc_report.left_alone] == [("gate", f"{__file__}:{line}")]
    assert "softmax" in net.tlc_report.left_alone[0].operation


def test_no_line_is_named_where_none_of_the_users_is_involved():
    net = convert(nn.Sequential(nn.Softmax(-1)), **SIZE)
    assert [(x.path, x.where) for x in net.tlc_report.left_alone] == [("0", "")]


def test_a_global_operation_of_the_net_itself_is_listed():
    net = convert(Median(), **SIZE)
    assert len(net.tlc_report.left_alone) == 1
    assert "itself" in net.tlc_report.left_alone[0].path


class PooledVector(nn.Module):
    """What it flattens must stay a vector, and its branches cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        if x.shape[-1] < 8:
            return x
        return x * self.linear(self.pool(x).view(n, c)).view(n, c, 1, 1)


class PickedCorner(PooledVector):
    """A map in place of the 1x1 output would be taken for one of its corners."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < 8:
            return x
        return x * self.linear(self.pool(x)[:, :, 0, 0])[..., None, None]


class PooledFurther(PooledVector):
    """The vector is made behind layers that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < 8:
            return x
        return x * self.linear(self.norm(self.pool(x)).relu().flatten(1))[..., None, None]


@pytest.mark.parametrize("kind", [PooledVector, PickedCorner, PooledFurther])
def test_a_pool_that_is_flattened_is_left_alone(kind: type[nn.Module]):
    torch.manual_seed(0)
    net = Net(kind()).eval()
    image = torch.rand(2, 3, 80, 96)
    want = run(net, image)
    report = convert(net, **SIZE).tlc_report
    assert torch.equal(run(net, image), want)
    assert report.converted == ()
    assert [x.path for x in report.left_alone] == ["gate.pool"]
    assert "cannot follow" in report.left_alone[0].reason


class OtherSize(nn.Module):
    """PAN (Li et al., BMVC 2018): the pooled map is half as large as the one that it gates."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), norm=nn.BatchNorm2d(4)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pool(F.max_pool2d(x, 2)).sigmoid()


def test_a_pool_whose_output_meets_a_larger_map_is_left_alone():
    net = Net(OtherSize()).eval()
    image = torch.rand(2, 3, 80, 96)
    want = run(net, image)
    report = convert(net, **SIZE).tlc_report
    assert torch.equal(run(net, image), want)
    assert [x.path for x in report.left_alone] == ["gate.pool.pool"]
    assert "another size" in report.left_alone[0].reason


class ChannelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)
        return x - x.mean(1, keepdim=True) + x.amax(1, keepdim=True)


class WindowAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = torch.roll(x, (2, 2), (2, 3))
        t = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        t = F.scaled_dot_product_attention(t, t, t) + (t @ t.transpose(1, 2)).softmax(-1) @ t
        return t.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


class Constants(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.new_zeros(1, 4, 1, 1) + x.new_full((1,), 2.0) + torch.zeros(4, 1, 1, device=x.device)


class Corner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x[:, :, :1, :1] + x[..., 3, 5][..., None, None]


class Resized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        small = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
        return F.interpolate(small, size=(h, w), mode="bicubic") + F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)


LOCAL = {
    "convolutions": nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.PReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2)),
    "norm over channels": ChannelNorm(),
    "pixel shuffle": nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(16, 16, 1), nn.PixelShuffle(2)),
    "bilinear": nn.Sequential(nn.Upsample(scale_factor=0.5, mode="bilinear"), nn.Upsample(scale_factor=2, mode="bilinear")),
    "resized": Resized(),
    "batch norm": nn.BatchNorm2d(4),
    "max pool": nn.Sequential(nn.MaxPool2d(2), nn.ReflectionPad2d(1), nn.Dropout(0.5)),
    "window attention": WindowAttention(),
    "constants": Constants(),
    "a corner": Corner(),
}


@pytest.mark.parametrize("kind", LOCAL)
def test_local_operations_are_not_reported(kind: str):
    report = convert(Net(copy.deepcopy(LOCAL[kind])), **SIZE).tlc_report
    assert report.converted == ()
    assert report.left_alone == ()


class Several(nn.Module):
    """A norm that is fine, then one that sees two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.InstanceNorm2d(3, affine=True)
        self.twice = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fine(x) * self.twice(x) * self.twice(x[..., ::2, ::2])


class Failing(nn.Module):
    """Takes one channel count only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(3, affine=True)
        self.conv = nn.Conv2d(3, 3, 1)
        self.register_buffer("table", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


def traces(net: nn.Module, without: tuple[str, ...] = ()) -> dict:
    """What conversion must not touch: modules, modes, hooks, tensors and their devices."""
    modules = {path: module for path, module in net.named_modules(remove_duplicate=False) if path not in without}
    return {
        "modules": modules,
        "training": {path: module.training for path, module in modules.items()},
        "hooks": {path: (dict(module._forward_hooks), dict(module._forward_pre_hooks)) for path, module in modules.items()},
        "attributes": {path: sorted(vars(module)) for path, module in modules.items() if path},
        "tensors": {k: (id(v), v.device.type, v._version) for k, v in net.state_dict(keep_vars=True).items()},
    }


def with_mixed_modes(net: nn.Module) -> nn.Module:
    for index, module in enumerate(net.modules()):
        module.training = index % 3 != 0
    next(iter(net.children())).register_forward_hook(lambda module, inputs, output: None)
    return net


def test_conversion_leaves_the_rest_untouched():
    class Mixed(Failing):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Dropout())

        def forward(self, x: Tensor) -> Tensor:
            return self.more(self.norm(self.conv(x)) * self.table.view(3, 1, 1))

    net = with_mixed_modes(Mixed())
    net.norm.training = True
    before = traces(net, without=("norm",))
    convert(net, **SIZE)
    assert isinstance(net.norm, LocalInstanceNorm2d)
    assert net.norm.training
    assert traces(net, without=("norm",)) == before


def test_a_refusal_leaves_the_net_unharmed():
    net = with_mixed_modes(Failing())
    before, image = traces(net), torch.rand(1, 3, 80, 80)
    want = run(net, image)
    with pytest.raises(ValueError, match="train_size"):
        convert(net, train_size=(1, 5, 32, 32))
    assert traces(net) == before
    assert not hasattr(net, "tlc_report")
    assert torch.equal(run(net, image), want)


def test_a_module_of_several_sizes_is_named():
    report = convert(Several(), **SIZE).tlc_report
    assert [row.path for row in report.converted] == ["fine"]
    assert [(row.path, row.operation) for row in report.left_alone] == [("twice.pool", "AdaptiveAvgPool2d")]
    assert "16x16, 32x32" in report.left_alone[0].reason


def test_a_failing_dry_run_gives_its_reason():
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("three channels, please")

    with pytest.raises(ValueError, match=r"Picky .*\(1, 5, 32, 32\).*three channels, please.*train_size"):
        convert(Picky(), train_size=(1, 5, 32, 32))


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ({"train_size": (256,)}, "train_size"),
        ({"train_size": (3, 256, 256)}, "train_size"),
        ({"train_size": (1, 3, 0, 32)}, "train_size"),
        ({"train_size": -256}, "train_size"),
        ({"train_size": "large"}, "train_size"),
        ({"base_size": 0}, "base_size"),
        ({"base_size": (1, 2, 3)}, "base_size"),
    ],
)
def test_bad_sizes(sizes: dict, name: str):
    with pytest.raises(ValueError, match=f"^{name}"):
        convert(Failing(), **sizes)


@pytest.mark.parametrize("train_size", [32, (32, 32), [32, 32], (1, 3, 32, 32), np.int64(32), torch.Size([32, 32])])
def test_the_training_size_is_one_number_two_or_four(train_size: object):
    report = convert(Failing(), train_size=train_size).tlc_report
    assert (report.train_size, report.base_size) == ((32, 32), (48, 48))
    assert report.converted[0].size == (32, 32)


class Grey(nn.Module):
    """One channel; `told` says so, or the first layer does, before which pixels may be rearranged."""

    def __init__(self, *layers: nn.Module, told: int | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        if told is not None:
            self.in_channels = told

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(
    ("net", "channels"),
    [
        (Grey(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4)), 1),
        (Grey(nn.InstanceNorm2d(2), nn.Conv2d(2, 4, 3)), 2),
        (Grey(nn.Conv2d(6, 4, 3, groups=2), nn.InstanceNorm2d(4)), 6),
        (Grey(nn.PixelUnshuffle(2), nn.Conv2d(20, 4, 3), nn.InstanceNorm2d(4), told=5), 5),
        (Grey(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3), nn.InstanceNorm2d(4)), 3),
        (Grey(nn.InstanceNorm2d(3)), 3),
    ],
)
def test_channels_that_are_not_given_are_the_nets(net: nn.Module, channels: int):
    seen = []
    net.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[:2])))
    assert convert(net, train_size=16).tlc_report.converted
    assert seen[-1] == (1, channels)


def test_channels_that_no_net_takes_are_an_error_of_the_first_try():
    net = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(20, 4, 3), nn.InstanceNorm2d(4))
    with pytest.raises(ValueError, match=r"\(1, 20, 16, 16\).*give train_size as the \(N, C, H, W\)"):
        convert(net, train_size=16)
    assert convert(net, train_size=(1, 5, 16, 16)).tlc_report.converted


def test_modes_of_adopted_layers_stay():
    net = small("Restormer").train()
    net.latent[0].attn.qkv.eval()  # a frozen part
    convert(net, **SIZE)
    assert isinstance(net.latent[0].attn, LocalAttention)
    assert not net.latent[0].attn.qkv.training
    assert net.latent[0].attn.qkv_dwconv.training


def test_buffers_and_shared_tensors():
    class Buffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("step", torch.tensor(3))
            self.register_buffer("mean", torch.rand(3, 1, 1), persistent=False)
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.two.weight = self.one.weight
            self.norm = nn.BatchNorm2d(3)
            self.local = nn.InstanceNorm2d(3, affine=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.local(self.norm(self.two(self.one(x - self.mean))) * self.step)

    net = Buffers()
    buffers = {key: value.clone() for key, value in net.named_buffers()}
    convert(net, **SIZE)
    assert net.two.weight is net.one.weight
    assert [c.path for c in net.tlc_report.converted] == ["local"]
    assert {key: value.device.type for key, value in net.named_buffers()} == dict.fromkeys(buffers, "cpu")
    for key, value in net.named_buffers():
        assert torch.equal(value, buffers[key])


class PlainTensor(nn.Module):
    """SwinIR keeps the data set's mean as a plain tensor and moves it to the image in `forward`."""

    def __init__(self, moves: bool) -> None:
        super().__init__()
        self.mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
        self.norm = nn.InstanceNorm2d(3)
        self.moves = moves

    def forward(self, x: Tensor) -> Tensor:
        if self.moves:
            self.mean = self.mean.type_as(x)
        return self.norm(x - self.mean) + self.mean


@pytest.mark.parametrize("moves", [True, False])
def test_tensors_that_are_neither_parameters_nor_buffers(moves: bool):
    net = convert(PlainTensor(moves).eval(), **SIZE)
    assert [c.path for c in net.tlc_report.converted] == ["norm"]
    assert net.mean.device.type == "cpu"
    assert run(net, torch.rand(1, 3, 80, 80)).isfinite().all()


def test_unused_modules_are_reported():
    class Unused(Failing):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.AdaptiveAvgPool2d(1)

    report = convert(Unused(), **SIZE).tlc_report
    assert [c.path for c in report.converted] == ["norm"]
    assert [(x.path, x.operation) for x in report.left_alone] == [("spare", "AdaptiveAvgPool2d")]
    assert "did not run" in report.left_alone[0].reason


def test_modules_that_are_no_global_operation_are_left_alone_with_the_reason():
    net = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), nn.AdaptiveAvgPool2d(7))
    report = convert(net, **SIZE).tlc_report
    assert report.converted == ()
    assert {x.path: x.reason for x in report.left_alone}.keys() == {"0", "1"}
    assert "running statistics" in report.left_alone[0].reason
    assert "7" in report.left_alone[1].reason


def test_modules_called_with_keywords():
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(input=x)

    assert [c.path for c in convert(Keyword(), **SIZE).tlc_report.converted] == ["norm"]


def test_a_shared_module_is_converted_once_under_all_its_names():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.InstanceNorm2d(3, affine=True)
            self.two = nn.Sequential(self.one, nn.Conv2d(3, 3, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    net = Shared().eval()
    keys = list(net.state_dict())
    report = convert(net, **SIZE).tlc_report
    assert isinstance(net.one, LocalInstanceNorm2d)
    assert net.two[0] is net.one
    assert [c.path for c in report.converted] == ["one"]
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize(
    ("module", "kind"), [(nn.AdaptiveAvgPool2d(1), LocalAvgPool2d), (nn.InstanceNorm2d(3), LocalInstanceNorm2d)]
)
def test_the_net_itself_may_be_the_layer(module: nn.Module, kind: type[nn.Module]):
    net = convert(copy.deepcopy(module).eval(), **SIZE)
    assert isinstance(net, kind)
    assert [c.window for c in net.tlc_report.converted] == [(48, 48)]
    assert kind.__name__ in str(net.tlc_report)
    x = torch.rand(1, 3, 60, 70)
    want = reference_mean(x, (48, 48)) if kind is LocalAvgPool2d else reference_norm(x, (48, 48))
    torch.testing.assert_close(net(x).double(), want, rtol=1e-5, atol=1e-5)


def test_list_spellings_of_a_global_pool():
    net = convert(nn.Sequential(OrderedDict(a=nn.AdaptiveAvgPool2d((1, 1)))), **SIZE)
    other = convert(nn.Sequential(OrderedDict(a=nn.AdaptiveAvgPool2d([1, 1]))), **SIZE)
    assert isinstance(net.a, LocalAvgPool2d)
    assert isinstance(other.a, LocalAvgPool2d)


# Rules ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch):
    """Rules that a test registers end with it."""
    module = importlib.import_module("basicsr.tlc.rules")
    monkeypatch.setattr(module, "_RULES", dict(module._RULES))


class Gate(nn.Module):
    """A user's global layer, with a pool and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale * x.mean((2, 3), keepdim=True)


class LocalGate(nn.Module):
    def __init__(self, gate: nn.Module, window: tuple[int, int]) -> None:
        super().__init__()
        self.scale = gate.scale
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale * local_mean(x, self.window)


def test_a_users_rule():
    sites = []

    @rule(Gate)
    def local_gate(module: Gate, site: basicsr.tlc.Site) -> nn.Module:
        sites.append(site)
        return LocalGate(module, site.window)

    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(pool=nn.AvgPool2d(2), gate=Gate())).eval()
    scale = net.gate.scale
    with pytest.warns(UserWarning, match="fast_imp"):
        convert(net, **SIZE, base_size=(32, 40), fast_imp=True)
    assert sites == [basicsr.tlc.Site(path="gate", size=(16, 16), window=(16, 20), max_stride=None)]
    assert net.gate.scale is scale
    assert net.tlc_report.left_alone == ()
    x = torch.rand(1, 3, 60, 70)
    y = F.avg_pool2d(x, 2)
    torch.testing.assert_close(net(x).double(), y.double() * scale.double() * reference_mean(y, (16, 20)), rtol=1e-5, atol=1e-6)


def test_a_users_rule_for_the_approximation():
    sites = []

    @rule(Gate, fast=True)
    def local_gate(module: Gate, site: basicsr.tlc.Site) -> nn.Module:
        sites.append(site)
        return LocalGate(module, site.window)

    convert(nn.Sequential(nn.AvgPool2d(2), Gate()), train_size=(1, 3, 32, 64), fast_imp=True)
    assert sites[0].max_stride == (2, 2)
    convert(nn.Sequential(nn.AvgPool2d(2), Gate()), **SIZE)
    assert sites[1].max_stride is None


def test_a_users_rule_that_declines():
    @rule(Gate)
    def local_gate(module: Gate, site: basicsr.tlc.Site) -> str:
        return f"a window of {site.window} is of no use"

    net = nn.Sequential(Gate())
    gate = net[0]
    report = convert(net, **SIZE).tlc_report
    assert net[0] is gate
    assert [(x.path, x.operation, x.reason) for x in report.left_alone] == [("0", "Gate", "a window of (48, 48) is of no use")]


def test_the_nearest_class_has_the_rule():
    class MyNorm(nn.InstanceNorm2d):
        pass

    class Special(MyNorm):
        pass

    class MoreSpecial(Special):
        pass

    @rule(Special)
    def decline(module: Special, site: basicsr.tlc.Site) -> str:
        return "special"

    report = convert(nn.Sequential(MyNorm(3), Special(3), MoreSpecial(3)), **SIZE).tlc_report
    assert [c.path for c in report.converted] == ["0"]
    assert [(x.path, x.reason) for x in report.left_alone] == [("1", "special"), ("2", "special")]


def test_a_second_rule_for_a_class_is_refused():
    with pytest.raises(ValueError, match="AdaptiveAvgPool2d"):
        rule(nn.AdaptiveAvgPool2d)(lambda module, site: "no")


@pytest.mark.parametrize("depth", [1, 2])
def test_a_rule_answers_for_what_is_inside(depth: int):
    """A pool inside a layer that a rule replaces as a whole is that rule's business."""

    class Outer(Gate):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1) if depth == 1 else nn.Sequential(nn.AdaptiveAvgPool2d(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale * self.pool(x)

    @rule(Outer)
    def local_outer(module: Outer, site: basicsr.tlc.Site) -> nn.Module:
        return LocalGate(module, site.window)

    net = convert(nn.Sequential(Outer()).eval(), **SIZE)
    assert [c.path for c in net.tlc_report.converted] == ["0"]
    assert net.tlc_report.left_alone == ()
    assert list(net[0].children()) == []


# The report ----------------------------------------------------------------------------------------------------------


def test_report_as_data_and_as_text():
    net = nn.Sequential(
        OrderedDict(norm=nn.InstanceNorm2d(3), smaller=nn.AvgPool2d(2), gate=Median(), pool=nn.AdaptiveAvgPool2d(1))
    )
    report = convert(net, train_size=(1, 3, 64, 64), base_size=(96, 128), fast_imp=True).tlc_report
    data = json.loads(json.dumps(report.as_dict()))
    assert data["train_size"] == [64, 64]
    assert data["base_size"] == [96, 128]
    assert data["fast_imp"] is True
    assert [(row["path"], row["before"], row["after"], row["size"], row["window"]) for row in data["converted"]] == [
        ("norm", "InstanceNorm2d", "LocalInstanceNorm2d", [64, 64], [96, 128]),
        ("pool", "AdaptiveAvgPool2d", "LocalAvgPool2d", [32, 32], [48, 64]),
    ]
    assert [row["path"] for row in data["left_alone"]] == ["gate"]
    lines = str(report).splitlines()
    assert "64x64" in lines[0]
    assert "96x128" in lines[0]
    assert "fast_imp" in lines[0]
    for cells in (["norm", "LocalInstanceNorm2d", "96x128"], ["pool", "LocalAvgPool2d", "32x32", "48x64"], ["gate", "median"]):
        (line,) = [line for line in lines if line.split()[:1] == cells[:1]]
        assert set(cells) <= set(line.split())


def test_report_of_a_net_without_global_operations():
    report = convert(nn.Sequential(nn.Conv2d(3, 3, 1)), **SIZE).tlc_report
    assert report.as_dict()["converted"] == report.as_dict()["left_alone"] == ()
    assert "0 layers" in str(report)


def test_tlc_needs_nothing_but_torch():
    for path in Path(basicsr.tlc.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert "torch.jit.script" not in text
        for line in text.splitlines():
            if line.startswith(("import ", "from ")):
                name = line.split()[1]
                assert name.startswith("basicsr.tlc") or name.split(".")[0] in {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_conversion_is_the_same_in_every_mode(mode):
    def made() -> nn.Module:
        torch.manual_seed(0)
        return build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).eval()

    outside = convert(made(), train_size=16, base_size=20)
    with mode():
        inside = convert(made(), train_size=16, base_size=20)
    assert inside.tlc_report == outside.tlc_report
    assert len(outside.tlc_report.converted) == 5


@pytest.mark.parametrize("name", SMALL_NETS)
def test_a_window_below_the_training_patch_converts_as_much(name):
    """What a rule makes of a module then gives a map in training's size, where the module gives one pixel."""
    small, large = (
        build_network({"type": f"{name}Local", **SMALL_NETS[name], "train_size": 64, "base_size": side}).tlc_report.converted
        for side in (32, 96)
    )
    assert [row.path for row in small] == [row.path for row in large]
    assert small
