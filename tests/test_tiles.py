"""Work in tiles gives what work on whole maps gives, in less memory; `prepare_for_inference` and `tile: auto`."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY, SMALL_NETS
from torch import Tensor, nn

from basicsr.archs import blocks, build_network
from basicsr.archs.blocks import by_tiles, run_blocks
from basicsr.archs.restormer_arch import Attention, FeedForward
from basicsr.kernels import use_triton
from basicsr.models import prepare_for_inference
from basicsr.models.inference import auto_tiled, largest_tile
from basicsr.models.memory import prediction_bytes


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16 pixels, whatever the width."""
    monkeypatch.setattr(blocks, "_CPU_TILE", 1)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(16, 16), (33, 70), (5, 100), (17, 16)])
def test_a_convolution_in_tiles(size, layout, small_tiles):
    weight = random(4, 3, 5, 5)
    x = random(2, 3, *size, seed=1).contiguous(memory_format=layout)
    seen = []

    def convolve(part: Tensor, inner: tuple) -> Tensor:
        seen.append(part.shape[-2:])
        return F.conv2d(part, weight, padding=2)[inner]

    with torch.no_grad():
        out = by_tiles(convolve, x, channels=4, halo=2)
    torch.testing.assert_close(out, F.conv2d(x, weight, padding=2), atol=1e-10, rtol=0)
    assert out.is_contiguous(memory_format=layout)
    assert max(h for h, _ in seen) <= 20
    assert max(w for _, w in seen) <= 20


@pytest.mark.parametrize("grad", [True, False])
def test_a_region_sees_what_is_around_it(grad, small_tiles):
    weight, x = random(1, 1, 3, 3), random(1, 1, 40, 50)
    with torch.set_grad_enabled(grad):
        part = by_tiles(
            lambda t, inner: F.conv2d(t, weight, padding=1)[inner], x, channels=1, halo=1, region=(slice(7, 31), slice(20, 50))
        )
    torch.testing.assert_close(part, F.conv2d(x, weight, padding=1)[..., 7:31, 20:50], atol=1e-12, rtol=0)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (20, 21), (40, 50), (3, 50)])
def test_smaller_maps_are_replicated_at_their_borders(size, grad, small_tiles):
    x, gate = random(1, 2, 40, 50), random(1, 2, *size, seed=1)
    top, left = (40 - size[0]) // 2, (50 - size[1]) // 2
    rows = (torch.arange(40) - top).clamp(0, size[0] - 1)
    columns = (torch.arange(50) - left).clamp(0, size[1] - 1)
    with torch.set_grad_enabled(grad):
        out = by_tiles(lambda a, b, inner: a * b, x, gate, channels=2)
    torch.testing.assert_close(out, x * gate[..., rows, :][..., columns])


def test_results_may_take_the_place_of_a_map(small_tiles):
    x, y = random(1, 2, 40, 50), random(1, 2, 40, 50, seed=1)
    expected = x * y + 1
    with torch.no_grad():
        out = by_tiles(lambda a, b, inner: a * b + 1, x, y, channels=2, out=y)
    assert out is y
    torch.testing.assert_close(out, expected)


def test_a_gpu_takes_whole_rows(monkeypatch):
    """Which follow on one another in memory; its tiles may be as large as its memory allows."""
    monkeypatch.setattr(blocks, "_LARGE_TILE", 20 * 50 * 4 * 8)
    x, weight, seen = random(1, 3, 40, 50), random(4, 3, 3, 3, seed=1), []

    def convolve(part: Tensor, inner: tuple) -> Tensor:
        seen.append(tuple(part.shape[-2:]))
        return F.conv2d(part, weight, padding=1)[inner]

    with torch.no_grad(), use_triton(False):
        out = by_tiles(convolve, x, channels=4, halo=1)
    torch.testing.assert_close(out, F.conv2d(x, weight, padding=1), atol=1e-12, rtol=0)
    assert seen == [(21, 50), (21, 50)]


@pytest.mark.parametrize(
    ("memory", "dtype", "triton", "most"),
    [
        (80 << 30, torch.bfloat16, True, 5 << 29),
        (80 << 30, torch.bfloat16, False, (1 << 31) - 1),  # torch's convolutions count in 32 bits
        (80 << 30, torch.float32, True, 5 << 28),
        (24 << 30, torch.bfloat16, False, 1 << 30),
        (8 << 30, torch.bfloat16, True, 1 << 29),
    ],
)
def test_the_widest_map_on_a_gpu_follows_its_memory(memory, dtype, triton, most, monkeypatch):
    monkeypatch.setattr(blocks, "_memory", lambda device: memory)
    monkeypatch.setattr(blocks, "triton_version", lambda operation, x: triton)
    x = SimpleNamespace(is_cuda=True, device=torch.device("cuda"), dtype=dtype, stride=lambda dim: 1)
    assert blocks._most(x) == most


def naive_attention(net: Attention, x: Tensor) -> Tensor:
    """MDTA as the paper writes it (equation 1), on the whole map."""
    n, c, h, w = x.shape
    q, k, v = net.qkv_dwconv(net.qkv(x)).chunk(3, dim=1)
    q, k, v = (y.reshape(n, net.num_heads, c // net.num_heads, h * w) for y in (q, k, v))
    q, k = (y / y.norm(dim=-1, keepdim=True) for y in (q, k))
    return net.project_out(((q @ k.mT * net.temperature).softmax(-1) @ v).reshape(n, c, h, w))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_attention_is_the_papers(grad, bias, small_tiles):
    torch.manual_seed(0)
    net = Attention(8, 2, bias).double()
    nn.init.uniform_(net.temperature, 1, 3)
    x = random(2, 8, 37, 50).contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(net(x), naive_attention(net, x), atol=1e-10, rtol=0)
        norm = nn.GroupNorm(1, 8).double().requires_grad_(False)
        norm.forward = lambda part: part * 2 + 1  # what a norm over channels is: a function of single pixels
        torch.testing.assert_close(net(x, norm), x + naive_attention(net, x * 2 + 1), atol=1e-10, rtol=0)


@pytest.mark.parametrize("grad", [True, False])
def test_feed_forward_is_the_papers(grad, small_tiles):
    torch.manual_seed(0)
    net = FeedForward(8, 2.66, True).double()
    x = random(2, 8, 37, 50)
    gate, value = net.dwconv(net.project_in(x)).chunk(2, dim=1)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(net(x), net.project_out(F.gelu(gate) * value), atol=1e-10, rtol=0)


@pytest.mark.parametrize("local", ["", "Local"])
@pytest.mark.parametrize("name", SMALL_NETS)
def test_nets_are_the_same_in_tiles_and_whole(name, local, small_tiles):
    torch.manual_seed(0)
    more = {"train_size": 32, "base_size": 40} if local else {}
    net = build_network({"type": name + local, **SMALL_NETS[name], **more}).double().eval()
    for parameter in net.parameters():  # NAFNet's scales start at zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    image = random(2, 3, 72, 100).sigmoid()
    whole = net(image)  # autograd is on
    with torch.inference_mode():
        tiled = net(image)
    for a, b in zip(*((out if isinstance(out, list) else [out]) for out in (whole, tiled)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    sum(stage.square().sum() for stage in (whole if isinstance(whole, list) else [whole])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_whole_map_never_has_the_width_of_the_feed_forward(monkeypatch):
    """The widest whole map of a Restormer has 2 * dim channels at full resolution; the feed-forward's has ten times as many."""
    monkeypatch.setattr(blocks, "_CPU_TILE", 1 << 12)
    net = build_network({"type": "Restormer", **SMALL_NETS["Restormer"], "dim": 8, "ffn_expansion_factor": 10})
    predict = prepare_for_inference(net, precision="fp32")
    small, large = (prediction_bytes(predict, torch.zeros(1, 3, side, side)) for side in (128, 256))
    assert (large - small) / (256**2 - 128**2) < 5 * 4 * 16  # five maps of 16 channels in float32


def test_blocks_run_in_turn():
    assert run_blocks([nn.Identity(), nn.Flatten(0)], torch.zeros(2, 3)).shape == (6,)


# ---- prepare_for_inference


@pytest.mark.parametrize("name", SMALL_NETS)
def test_prepared_nets_give_the_final_stage_in_float32(name):
    torch.manual_seed(0)
    net = build_network({"type": name, **SMALL_NETS[name]}).train()
    image = torch.rand(1, 3, 40, 36)
    predict = prepare_for_inference(net, precision="fp32")
    out = predict(image)
    assert not net.training
    assert out.dtype == torch.float32
    assert not out.requires_grad
    expected = net(image)
    torch.testing.assert_close(out, (expected[-1] if isinstance(expected, list) else expected).detach(), atol=1e-5, rtol=0)
    half = prepare_for_inference(net, precision="bf16")(image)
    assert half.dtype == torch.float32
    error = (half - out).abs().max().item()
    assert 0 < error < 0.05


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"'fp8'.*auto, fp32, tf32, bf16, fp16"):
        prepare_for_inference(nn.Conv2d(3, 3, 1), precision="fp8")


# ---- tile: auto


class Wide:
    """Makes `maps` maps of its input's size at once, and notes the sizes it was given."""

    def __init__(self, maps: int) -> None:
        self.maps, self.sizes = maps, []

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        return torch.cat([x] * self.maps).mean(0, keepdim=True)


def test_prediction_bytes_is_the_peak():
    def predict(x: Tensor) -> Tensor:
        a = x + 1  # 1 map
        b = a + 1  # 2
        del a
        return b.repeat(3, 1, 1, 1).sum(0, keepdim=True)  # b and 3 more, then the sum

    assert prediction_bytes(predict, torch.zeros(1, 1, 100, 100)) == 5 * 40000


@pytest.mark.parametrize("maps", [10, 100])
def test_the_largest_tile_fits_and_twice_as_many_pixels_do_not(maps):
    image, free = torch.zeros(1, 3, 2000, 3000), 50_000_000
    side = largest_tile(Wide(maps), image, free)
    assert prediction_bytes(Wide(maps), image.new_zeros(1, 3, side, side)) < free
    larger = math.ceil(side * math.sqrt(2))
    assert prediction_bytes(Wide(maps), image.new_zeros(1, 3, larger, larger)) > free


def test_tile_auto_heeds_free_memory():
    image, predict = torch.rand(1, 3, 600, 800), Wide(20)
    out = auto_tiled(predict, image, 32, free=30_000_000)
    torch.testing.assert_close(out, image, atol=1e-6, rtol=0)
    tiles = {size for size in predict.sizes if size not in [(128, 128), (256, 256)]}  # without the sample runs
    assert len(tiles) == 1
    assert max(max(tiles)) < 600
    plenty = Wide(20)
    auto_tiled(plenty, image, 32, free=10**12)
    assert plenty.sizes[-1] == (600, 800)


# ---- the C library's memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
@pytest.mark.parametrize(("variables", "expected"), [({}, "1"), ({"MALLOC_ARENA_MAX": "2"}, "None")])
def test_huge_pages_unless_the_user_has_settings_of_his_own(variables, expected):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "THP_MEM_ALLOC_ENABLE"}
    script = "import os, basicsr; print(os.environ.get('THP_MEM_ALLOC_ENABLE'))"
    out = subprocess.run(
        [sys.executable, "-c", script], env={**clean, **variables}, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == expected
