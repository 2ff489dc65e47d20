"""Tiles, grids, self-ensemble, precision and memory, with stand-ins for networks whose right answer is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY, SMALL_NETS, make_pairs, write_yaml
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.data.degradation import add_varying_noise
from basicsr.engine.build import build_net, way_to_run
from basicsr.errors import UserError
from basicsr.models import prepare_for_inference
from basicsr.models.inference import auto_tiled, grids, self_ensemble, tiled
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.options import load
from basicsr.sections import ValOptions
from basicsr.utils.image import read_image


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """The identity, or another function, that notes the sizes it was given and where (the first pixel's value tells)."""

    def __init__(self, function=lambda x: x) -> None:
        self.function, self.sizes, self.first = function, [], []

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        self.first.append(x[0, :2, 0, 0].round().int().tolist())
        return self.function(x)


def places(height: int, width: int) -> Tensor:
    """Channel 0 is the row of each pixel, channel 1 its column."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x, 0 * x])[None].float()


@pytest.mark.parametrize(("tile", "overlap"), [(16, 0), (16, 4), (16, 15), (20, 7), (64, 32), (7, 3)])
@pytest.mark.parametrize("size", [(40, 56), (16, 16), (41, 16), (5, 90), (17, 33)])
def test_tiles_put_the_image_together_again(size, tile, overlap):
    image = noise(*size)
    recorder = Recorder()
    torch.testing.assert_close(tiled(recorder, image, tile, overlap), image, atol=1e-5, rtol=0)
    assert set(recorder.sizes) == {(min(tile, size[0]), min(tile, size[1]))}


@pytest.mark.parametrize(("tile", "overlap"), [(24, 8), (30, 11)])
def test_tiles_of_a_local_operation_have_no_seams(tile, overlap):
    """A 5 x 5 mean sees 2 pixels beyond: exact wherever the blend's weight of a tile's border pixels is the other tile's."""

    def blur(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)

    smooth = blur(blur(noise(70, 90)))
    out, whole = tiled(blur, smooth, tile, overlap), blur(smooth)
    assert (out - whole).abs().max() < 0.01
    hard = tiled(blur, smooth, tile, 0)
    assert (out - whole).abs().max() < 0.3 * (hard - whole).abs().max()


def test_blending_is_smooth():
    """Tiles that disagree by 1 are joined by a ramp over the overlap, not by a step."""
    calls = iter(range(2))
    out = tiled(lambda x: torch.full_like(x, float(next(calls))), torch.zeros(1, 3, 8, 28), 16, 4)  # columns 0..16 and 12..28
    row = out[0, 0, 0]
    assert row[:12].eq(0).all()
    assert row[16:].eq(1).all()
    assert all(0 < b - a < 0.34 for a, b in pairwise(row[11:17].tolist()))


def test_neighbours_share_the_overlap_at_least():
    recorder = Recorder()
    tiled(recorder, places(50, 100), 20, 6)
    columns = sorted({first[1] for first in recorder.first})
    assert columns[0] == 0
    assert columns[-1] == 80
    assert all(20 - (b - a) >= 6 for a, b in pairwise(columns))


def test_overlap_must_leave_a_step():
    with pytest.raises(UserError, match=r"tile_overlap \(16\) must be smaller than tile \(16\)"):
        tiled(lambda x: x, noise(32, 32), 16, 16)


def published_starts(size: int, crop: int) -> list[int]:
    """The published patch test's own loop."""
    crop = min(crop, size)
    count = (size - 1) // crop + 1
    step = crop if count == 1 else math.ceil((size - crop) / (count - 1) - 1e-8)
    starts, i, last = [], 0, False
    while i < size and not last:
        if i + crop >= size:
            i, last = size - crop, True
        starts.append(i)
        i += step
    return starts


@pytest.mark.parametrize("size", [(72, 128), (26, 25), (25, 25), (10, 60), (51, 76), (100, 101)])
def test_grids_are_the_published_patches(size):
    recorder = Recorder(lambda x: x + torch.rand(1))  # patches that differ, so that the average shows
    torch.manual_seed(0)
    out = grids(recorder, places(*size), 25)
    expected = [[i, j] for i in published_starts(size[0], 25) for j in published_starts(size[1], 25)]
    assert recorder.first == expected
    torch.manual_seed(0)
    total, count = torch.zeros(size), torch.zeros(size)
    h, w = min(25, size[0]), min(25, size[1])
    for i, j in expected:
        total[i : i + h, j : j + w] += torch.rand(1)
        count[i : i + h, j : j + w] += 1
    torch.testing.assert_close(out[0, 2], total / count)


def test_grids_of_a_720p_frame():
    assert published_starts(720, 256) == [0, 232, 464]
    recorder = Recorder()
    grids(recorder, places(720, 1280), 256)
    assert recorder.first == [[i, j] for i in (0, 232, 464) for j in (0, 256, 512, 768, 1024)]


# Self-ensemble.


def test_self_ensemble_of_what_commutes_changes_nothing():
    image = noise(12, 17)
    torch.testing.assert_close(self_ensemble(lambda x: 2 * x, image), 2 * image)


def test_self_ensemble_is_the_mean_over_eight():
    """A shift by a pixel: each of the eight ways turns it into another direction."""
    image = noise(9, 14)
    up, left = image.roll(1, -2), image.roll(1, -1)
    down, right = image.roll(-1, -2), image.roll(-1, -1)
    out = self_ensemble(lambda x: x.roll(1, -1), image)
    torch.testing.assert_close(out, (up + down + left + right) / 4)
    recorder = Recorder()
    self_ensemble(recorder, places(9, 14))
    assert sorted(map(tuple, recorder.first)) == sorted([(0, 0), (0, 13), (8, 0), (8, 13)] * 2)


# Memory.


def limited(pixels: int, error: type[BaseException] = torch.cuda.OutOfMemoryError, text: str = "CUDA out of memory"):
    def function(x: Tensor) -> Tensor:
        if x.shape[-1] * x.shape[-2] > pixels:
            raise error(text)
        return x + 1

    return Recorder(function)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.cuda.OutOfMemoryError, "CUDA out of memory"),
        (RuntimeError, "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"),
        (MemoryError, ""),
    ],
)
def test_auto_halves_the_tile_until_it_fits(error, text, caplog):
    image = noise(300, 400)
    predict = limited(110 * 110, error, text)
    with caplog.at_level("WARNING", "basicsr"):
        torch.testing.assert_close(auto_tiled(predict, image, 32), image + 1)
    assert predict.sizes[:3] == [(300, 400), (200, 200), (100, 100)]
    assert set(predict.sizes[2:]) == {(100, 100)}
    assert [r.getMessage() for r in caplog.records] == [
        f"Out of memory: trying again with tile: {tile}." for tile in (200, 100)
    ]


def test_auto_takes_the_whole_image_when_it_fits():
    predict = limited(10**9)
    auto_tiled(predict, noise(100, 130), 32)
    assert predict.sizes == [(100, 130)]


def test_auto_gives_up_at_small_tiles_and_on_other_errors():
    with pytest.raises(torch.cuda.OutOfMemoryError):
        auto_tiled(limited(0), noise(300, 300), 32)
    with pytest.raises(RuntimeError, match="shapes"):
        auto_tiled(limited(0, RuntimeError, "shapes do not match"), noise(300, 300), 32)


@pytest.mark.parametrize("val", [{}, {"tile": "auto"}, {"tile": 256, "self_ensemble": True}, {"grids": True, "crop_size": 256}])
def test_out_of_memory_gives_advice(val):
    predict = way_to_run(limited(0), ValOptions(**val))
    with pytest.raises(UserError, match=r"out of memory at 400x300; set val.tile: auto .* or val.precision: bf16"):
        predict(noise(300, 400))


def test_other_errors_are_not_called_memory():
    with pytest.raises(UserError, match="the network cannot run on 8x8 pixels: shapes do not match"):
        way_to_run(limited(0, RuntimeError, "shapes do not match"), ValOptions())(noise(8, 8))


@pytest.mark.parametrize(
    ("val", "sizes"),
    [
        ({}, [(40, 60)]),
        ({"tile": 32, "tile_overlap": 4}, [(32, 32)] * 4),
        ({"tile": "auto"}, [(40, 60)]),
        ({"grids": True, "crop_size": 32}, [(32, 32)] * 4),
        ({"grids": False, "crop_size": 32}, [(40, 60)]),
        ({"self_ensemble": True}, [(40, 60), (60, 40)] * 4),
    ],
)
def test_the_options_choose_the_way(val, sizes):
    recorder, image = Recorder(), noise(40, 60)
    torch.testing.assert_close(way_to_run(recorder, ValOptions(**val))(image), image)
    assert sorted(recorder.sizes) == sorted(sizes)


# The model.


class Stages(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        return [x, x * 3]


def test_predict_gives_the_last_stage_unclamped():
    model = ImageRestorationModel(Stages(), device=torch.device("cpu"))
    torch.testing.assert_close(model.predict(torch.ones(1, 3, 4, 4)), torch.full((1, 3, 4, 4), 3.0))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05), ("fp16", 0.01)])
@pytest.mark.parametrize("name", sorted(SMALL_NETS))
def test_precision(name, precision, tolerance):
    """Lower precision: float32 out, close to fp32 and not the same (it is really used)."""
    torch.manual_seed(3)
    net = build_network({"type": f"{name}Local", **SMALL_NETS[name], "train_size": 16, "base_size": 24})
    image = noise(40, 48)
    with torch.inference_mode():
        exact = net.double().eval()(image.double())
    exact = (exact[-1] if isinstance(exact, list) else exact).float()
    out = ImageRestorationModel(net.float(), device=torch.device("cpu"), precision=precision).predict(image)
    assert out.dtype == torch.float32
    error = (out - exact).abs().max()
    assert error < tolerance * exact.abs().max()
    assert precision == "fp32" or error > 1e-4


@pytest.mark.parametrize(
    "val", [{"tile": 16, "tile_overlap": 4}, {"self_ensemble": True}, {"tile": "auto"}, {"precision": "bf16"}]
)
def test_through_the_entry_point(val, root, test_options, run):
    make_pairs(root / "datasets/Set")
    test_options["val"] |= val
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options))
    assert outcome.code == 0, outcome


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_layout_is_that_of_the_maps(channels_last):
    """Of all but the outermost, which have three channels, of an architecture without other wishes."""
    net, seen = build_network({"type": "HINet", **SMALL_NETS["HINet"]}), []
    for level in net.down_path_2:
        level.conv_2.register_forward_hook(lambda module, args, out: seen.append(out.stride(1) == 1))
    prepare_for_inference(net, channels_last=channels_last)(noise(40, 48))
    assert seen == [channels_last] * 3


@pytest.mark.parametrize("name", sorted(SMALL_NETS))
def test_bf16_with_trained_weights_is_close_on_photographs(name):
    """45 dB between the outputs, and 0.05 dB at most against the ground truth: Restormer, trained for long, loses 0.04."""
    opt = load(REPOSITORY / f"options/test/Sample/{name}Local-SampleNoise.yml")
    net = build_net(opt.network_g.as_dict(), opt.path)
    gt = read_image(REPOSITORY / "datasets/Sample/test/target/09_stairs_person.jpg")[64:192, 64:192]
    noisy = add_varying_noise(gt, np.random.default_rng(0))
    image = torch.from_numpy(noisy).permute(2, 0, 1)[None]
    outs = [prepare_for_inference(net, precision=precision)(image) for precision in ("fp32", "bf16")]
    exact, rough = (out[0].permute(1, 2, 0).clamp(0, 1).numpy() for out in outs)

    def psnr(a: np.ndarray, b: np.ndarray) -> float:
        return -10 * math.log10(np.square(a - b).mean())

    assert psnr(rough, exact) > 45
    assert abs(psnr(rough, gt) - psnr(exact, gt)) < 0.05


@pytest.mark.parametrize("size", [(16, 24), (13, 17), (9, 8), (3, 2), (1, 5), (1, 1)])
def test_padding_by_reflection(size):
    """As numpy pads: right and bottom, the edge not repeated, reflected again where the image is smaller than the padding."""
    image, seen = noise(*size), []

    def predict(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return 2 * x

    out = way_to_run(predict, ValOptions(window_size=8))(image)
    below, beside = (-side % 8 for side in size)
    want = np.pad(image.numpy(), ((0, 0), (0, 0), (0, below), (0, beside)), mode="reflect" if min(size) > 1 else "edge")
    if 1 in size and max(size) > 1:
        rows = np.pad(image.numpy(), ((0, 0), (0, 0), (0, below), (0, 0)), mode="edge")
        want = np.pad(rows, ((0, 0), (0, 0), (0, 0), (0, beside)), mode="reflect")
    np.testing.assert_array_equal(seen[0].numpy(), want)
    torch.testing.assert_close(out, 2 * image, rtol=0, atol=0)


@pytest.mark.parametrize(
    "val",
    [{}, {"tile": 16, "tile_overlap": 4}, {"tile": 21, "tile_overlap": 4}, {"grids": True, "crop_size": 20}, {"tile": "auto"}],
)
@pytest.mark.parametrize("ensemble", [False, True])
def test_whatever_the_network_sees_is_padded(val, ensemble):
    image, seen = noise(35, 29), set()

    def predict(x: torch.Tensor) -> torch.Tensor:
        seen.add(tuple(x.shape[-2:]))
        return x

    out = way_to_run(predict, ValOptions(**val, self_ensemble=ensemble, window_size=8))(image)
    torch.testing.assert_close(out, image)
    assert all(side % 8 == 0 for size in seen for side in size)
    seen.clear()
    way_to_run(predict, ValOptions(**val, self_ensemble=ensemble))(image)
    assert any(side % 8 for size in seen for side in size) or val.get("tile") == 16


@pytest.mark.parametrize(
    "val", [{}, {"tile": 16, "tile_overlap": 4}, {"grids": True, "crop_size": 20}, {"self_ensemble": True}]
)
def test_a_network_may_give_fewer_channels_than_it_takes(val):
    """As one of two views does: six in, three out."""
    views = torch.cat([noise(35, 29), noise(35, 29, 1)], 1)
    out = way_to_run(lambda x: (x[:, :3] + x[:, 3:]) / 2, ValOptions(**val))(views)
    torch.testing.assert_close(out, (views[:, :3] + views[:, 3:]) / 2)


@pytest.mark.parametrize(
    ("taken", "given", "says"),
    [
        (1, 1, "the network takes images of 1 channel, but pictures are read as RGB"),
        (4, 4, "the network takes images of 4 channels"),
        (6, 3, "the network takes images of 6 channels"),
        (3, 1, r"the network gives \dx\d pixels and 1 channels for a picture of \dx\d pixels and 3 channels"),
        (3, 3, ""),
    ],
)
@pytest.mark.parametrize("tile", [None, 4])
def test_networks_for_other_than_rgb_that_do_not_say_so(taken, given, says, tile):
    net = torch.nn.Conv2d(taken, given, 3, padding=1)
    predict = way_to_run(net, ValOptions(tile=tile, tile_overlap=2))
    if says:
        with pytest.raises(UserError, match=says):
            predict(noise(8, 8))
    else:
        assert predict(noise(8, 8)).shape == (1, 3, 8, 8)


def test_networks_that_enlarge_are_refused():
    with pytest.raises(UserError, match="gives 16x12 pixels and 3 channels for a picture of 8x6"):
        way_to_run(torch.nn.Upsample(scale_factor=2), ValOptions())(noise(6, 8))
