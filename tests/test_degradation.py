"""Varying noise and motion blur, measured on flat pictures, dots and photographs; and the script that degrades a folder."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from basicsr import commands
from basicsr.data.degradation import add_varying_motion_blur, add_varying_noise, camera_motion, compress, smooth_field
from basicsr.engine.preparing import degrade
from basicsr.errors import UserError
from basicsr.utils.image import read_image, write_image
from basicsr.utils.log import run_entry_point

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts/data_preparation/degrade.py"
PHOTOS = ROOT / "datasets/Sample/test/target"


def grey(height: int = 192, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), 0.5, np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def block_std(picture: np.ndarray, size: int = 16) -> np.ndarray:
    """Standard deviation of every size x size block, in units of 1/255."""
    h, w = picture.shape[0] // size, picture.shape[1] // size
    blocks = picture[: h * size, : w * size].reshape(h, size, w, size, 3).astype(np.float64)
    return 255 * blocks.std(axis=(1, 3, 4))


# ---- the random field


@pytest.mark.parametrize("size", [{"cells": 4}, {"cell_size": 22.5}])
def test_field_is_uniform_over_its_range(size):
    fields = np.stack([smooth_field(90, 160, rng(seed), **size) for seed in range(200)])
    counts, _ = np.histogram(fields, 10, (0, 1))
    assert fields.min() >= 0
    assert fields.max() <= 1
    np.testing.assert_allclose(counts / fields.size, 0.1, atol=0.02)


def test_field_reaches_both_ends_in_a_whole_picture_only():
    for seed in range(5):
        whole = smooth_field(90, 160, rng(seed))
        assert (whole.min(), whole.max()) == (0, 1)
    ranges = [np.ptp(smooth_field(32, 32, rng(seed), cell_size=100)) for seed in range(50)]
    assert np.median(ranges) < 0.5  # a third of a cell sees a part of the range


def test_field_changes_over_one_cell():
    # White noise smoothed by a Gaussian of half a cell correlates by r = exp(-d^2); the CDF makes it 6/pi asin(r/2).
    fields = np.stack([smooth_field(160, 160, rng(seed), cell_size=20) for seed in range(60)]) - 0.5
    for distance, normal in ((10, np.exp(-0.25)), (20, np.exp(-1)), (60, 0)):
        measured = np.mean(fields[:, distance:] * fields[:, :-distance]) * 12
        assert measured == pytest.approx(6 / np.pi * np.arcsin(normal / 2), abs=0.08)


def test_field_of_a_patch_is_the_same_everywhere():
    fields = np.stack([smooth_field(60, 60, rng(seed), cell_size=30) for seed in range(600)])
    np.testing.assert_allclose(fields.std(axis=0), 12**-0.5, atol=0.03)  # also between the lattice points


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (7, 3)])
def test_small_pictures(shape):
    for function in (add_varying_noise, add_varying_motion_blur):
        out = function(np.full((*shape, 3), 0.5, np.float32), rng())
        assert out.shape == (*shape, 3)
        assert np.isfinite(out).all()


# ---- noise


def test_noise_has_the_strength_of_the_field():
    picture = grey(384, 640)
    measured = block_std(add_varying_noise(picture, rng(3), sigma=(3, 30)) - picture)
    field = smooth_field(384, 640, rng(3)).astype(np.float64)  # the field is what the generator gives first
    variance = (3 * 10**field) ** 2
    expected = np.sqrt(variance.reshape(24, 16, 40, 16).mean(axis=(1, 3)))
    np.testing.assert_allclose(measured, expected, rtol=0.12)  # 768 samples a block: 2.6 % is one standard error
    assert np.mean(measured / expected) == pytest.approx(1, abs=0.005)


def test_noise_uses_the_whole_range_in_each_picture():
    levels = [block_std(add_varying_noise(grey(384, 640), rng(seed), sigma=(3, 30))) for seed in range(6)]
    for level in levels:
        assert level.min() < 4
        assert level.max() > 24
    shares, _ = np.histogram(np.log(levels), np.log([2.5, 3 * 10 ** (1 / 3), 3 * 10 ** (2 / 3), 34]))
    np.testing.assert_allclose(shares / np.size(levels), 1 / 3, atol=0.12)  # log-uniform: a third in each third of the decade


def test_noise_is_white_and_unbiased():
    noise = add_varying_noise(grey(), rng(1), sigma=(5, 20)) - 0.5
    scale = noise.std()
    assert abs(noise.mean()) < 0.01 * scale
    assert abs(np.mean(noise[:, 1:] * noise[:, :-1])) < 0.02 * scale**2
    assert abs(np.mean(noise[..., 0] * noise[..., 1])) < 0.02 * scale**2


@pytest.mark.parametrize("function", [add_varying_noise, add_varying_motion_blur])
def test_result_follows_from_the_generator_and_is_clipped(function):
    picture = rng(9).random((64, 96, 3), np.float32)
    before = picture.copy()
    first, again, other = function(picture, rng(1)), function(picture, rng(1)), function(picture, rng(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.01
    np.testing.assert_array_equal(picture, before)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1


# ---- motion


@pytest.mark.parametrize("seed", range(6))
def test_motion_has_the_wanted_lengths_and_directions(seed):
    motion = camera_motion(720, 1280, rng(seed), length=(0.5, 12))
    half = len(motion) // 2
    path = np.insert(motion, half, 0, axis=0)  # the middle sub-frame is the sharp picture
    steps = np.linalg.norm(np.diff(path, axis=0), axis=-1)
    lengths = steps.sum(axis=0)
    assert lengths.min() == pytest.approx(0.5, abs=1e-3)
    assert lengths.max() == pytest.approx(12, abs=1e-3)
    assert steps.max() < 1.5  # no gaps: the streak of a point is closed
    assert np.abs(path.mean(axis=0)).max() < 0.05  # the middle of the path is the sharp picture's place
    heading = np.unwrap(np.unwrap(np.angle((path[-1] - path[0]) @ [1, 1j]), axis=0), axis=1)
    assert 60 < np.degrees(np.ptp(heading)) < 180  # varies, and turns around no point
    for axis in (1, 2):
        assert np.abs(np.gradient(path, 8, axis=axis)).max() < 0.25  # no folds or tears


def test_motion_of_a_patch_varies_like_a_patch_of_a_photograph():
    def spread(motion):  # of length and of direction
        travel = (motion[-1] - motion[0]) @ [1, 1j]
        heading = np.unwrap(np.unwrap(np.angle(travel), axis=0), axis=1)
        return np.ptp(np.abs(travel)), np.ptp(heading)

    patches = [spread(camera_motion(96, 96, rng(seed), length=(0.5, 12), cell_size=180)) for seed in range(150)]
    photographs = [camera_motion(720, 720, rng(seed), length=(0.5, 12)) for seed in range(150)]
    cuts = [spread(motion[:, 39:51, 39:51]) for motion in photographs]
    np.testing.assert_allclose(np.mean(patches, axis=0), np.mean(cuts, axis=0), rtol=0.15)


# ---- blur


def test_blur_leaves_a_constant_picture_alone():
    for value in (0.0, 0.3, 1.0):
        picture = np.full((90, 160, 3), value, np.float32)
        np.testing.assert_allclose(add_varying_motion_blur(picture, rng(1), noise_sigma=0), picture, atol=1e-5)


def test_no_motion_and_no_noise_change_nothing():
    picture = rng().random((40, 60, 3), np.float32)
    blurred = add_varying_motion_blur(picture, rng(1), length=(0, 0), noise_sigma=0)
    np.testing.assert_allclose(blurred, picture, atol=1e-5)


def test_blur_adds_the_noise_it_names():
    noise = block_std(add_varying_motion_blur(grey(), rng(), noise_sigma=5))
    np.testing.assert_allclose(noise, 5, rtol=0.15)
    assert noise.mean() == pytest.approx(5, rel=0.01)


def test_blur_averages_light():
    stripes = np.repeat((np.arange(200) % 8 < 4).astype(np.float32)[:, None], 200, axis=1)
    stripes = np.maximum(stripes, stripes.T)[..., None].repeat(3, axis=2)  # dark squares on white, so that any direction blurs
    blurred = add_varying_motion_blur(stripes, rng(), length=(12, 12), noise_sigma=0).astype(np.float64)
    assert np.mean(blurred**2.2) == pytest.approx(np.mean(stripes), abs=0.01)
    assert np.mean(blurred) > np.mean(stripes) + 0.05  # an average of gamma values would keep this one instead


def test_dots_stay_in_place_and_become_streaks_of_the_wanted_length():
    """Moments of single dots, in linear light: centre, and variance along the streak, L^2 / 12 for an even straight one."""
    height, width, spacing, low, high = 384, 640, 64, 0.5, 12
    y, x = np.indices((height, width)) % spacing - spacing / 2
    dots = np.exp(-(x**2 + y**2) / (2 * 1.5**2))  # linear light
    picture = np.repeat((dots ** (1 / 2.2)).astype(np.float32)[..., None], 3, axis=2)
    blurred = add_varying_motion_blur(picture, rng(4), length=(low, high), noise_sigma=0)[..., 0].astype(np.float64) ** 2.2
    wanted = low + (high - low) * smooth_field(height // 8, width // 8, rng(4))[4::8, 4::8]
    shape = (height // spacing, spacing, width // spacing, spacing)

    def moment(weight):
        return (blurred * weight).reshape(shape).sum(axis=(1, 3)) / blurred.reshape(shape).sum(axis=(1, 3))

    np.testing.assert_allclose(moment(np.ones_like(blurred)), 1)
    off_x, off_y = moment(x), moment(y)
    assert np.hypot(off_x, off_y).max() < 0.35
    assert abs(off_x.mean()) < 0.05
    assert abs(off_y.mean()) < 0.05
    variance = moment(x**2 + y**2) - off_x**2 - off_y**2 - 2 * 1.5**2
    measured = np.sqrt(12 * np.maximum(variance, 0))
    assert np.corrcoef(measured.ravel(), wanted.ravel())[0, 1] > 0.98
    np.testing.assert_allclose(measured, wanted, atol=1.5)


@pytest.mark.parametrize("name", ["03_casa_mila", "11_street_aguas_claras"])
def test_blurred_photograph_is_aligned_and_blurred_unevenly(name):
    sharp = read_image(PHOTOS / f"{name}.jpg")
    blurred = add_varying_motion_blur(sharp, rng(5), noise_sigma=0)
    (dx, dy), _ = cv2.phaseCorrelate(sharp[..., 1], blurred[..., 1])
    assert np.hypot(dx, dy) < 0.1
    contrast = [block_std(np.diff(picture, axis=1), 64) for picture in (blurred, sharp)]
    textured = contrast[1] > 5
    kept = contrast[0][textured] / contrast[1][textured]
    assert kept.size > 40
    assert kept.min() < 0.4
    assert kept.max() > 0.9


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (add_varying_noise, {"sigma": (60, 3)}),
        (add_varying_noise, {"sigma": (0, 3)}),
        (add_varying_noise, {"sigma": (3, float("nan"))}),
        (add_varying_noise, {"cells": 0}),
        (add_varying_noise, {"cell_size": -1}),
        (add_varying_noise, {"grey": 1.5}),
        (add_varying_noise, {"chroma": -0.1}),
        (add_varying_noise, {"grey": 0.6, "chroma": 0.6}),
        (add_varying_noise, {"jpeg": float("nan")}),
        (add_varying_motion_blur, {"jpeg": 2}),
        (add_varying_motion_blur, {"quality": (90, 80), "jpeg": 1}),
        (add_varying_noise, {"quality": (0, 80), "jpeg": 1}),
        (add_varying_noise, {"quality": (50, 101), "jpeg": 1}),
        (add_varying_motion_blur, {"length": (12, 0.5)}),
        (add_varying_motion_blur, {"length": (-1, 3)}),
        (add_varying_motion_blur, {"length": (1, float("inf"))}),
        (add_varying_motion_blur, {"noise_sigma": -2}),
    ],
)
def test_senseless_settings_are_refused(function, options):
    with pytest.raises(UserError, match=next(iter(options))):
        function(grey(16, 16), rng(), **options)


# ---- what real files have


def colour_part(noise: np.ndarray) -> np.ndarray:
    return noise - (noise @ np.array([0.299, 0.587, 0.114]))[..., None]


def test_grey_noise_is_the_same_in_all_colours_and_as_strong():
    noise = 255 * (add_varying_noise(grey(), rng(), sigma=(20, 20), grey=1) - 0.5)
    assert np.ptp(noise, axis=2).max() < 1e-4
    assert noise[..., 0].std() == pytest.approx(20, rel=0.02)


def test_smooth_colours_leave_the_brightness_as_noisy_as_it_was():
    white, smooth = (add_varying_noise(grey(), rng(), sigma=(20, 20), chroma=chance) - 0.5 for chance in (0, 1))
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(smooth @ luma, white @ luma, atol=1e-5)
    colours = colour_part(smooth)
    assert colours.std() < 0.6 * colour_part(white).std()
    neighbours = (colours[:, 1:] * colours[:, :-1]).mean() / colours.var()
    assert neighbours > 0.3  # of white noise: 0


def test_kinds_of_noise_come_as_often_as_they_are_asked_for():
    made = [add_varying_noise(grey(24, 24), rng(seed), sigma=(20, 20), grey=0.25, chroma=0.5) - 0.5 for seed in range(400)]
    ratio = np.array([colour_part(noise).std() / noise.std() for noise in made])  # white: 0.74
    assert np.mean(ratio < 0.01) == pytest.approx(0.25, abs=0.06)
    assert np.mean((ratio > 0.01) & (ratio < 0.65)) == pytest.approx(0.5, abs=0.07)


def test_jpeg_is_that_of_pillow():
    picture = np.rint(255 * read_image(PHOTOS / "02_colosseum.jpg")[:203, :301])
    file = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(file, "jpeg", quality=80, subsampling="4:2:0")
    expected = np.asarray(Image.open(file), np.float32)
    ours = 255 * compress(picture.astype(np.float32) / 255, rng(), jpeg=1, quality=(80, 80))
    assert np.abs(ours - expected).mean() < 0.3
    assert np.abs(expected - picture).mean() > 2


def test_a_patch_lies_anywhere_in_the_grid_of_jpeg():
    """Blocks of a gentle slope are flat at a low quality: where they meet shows the grid."""
    picture = np.broadcast_to(np.linspace(0.3, 0.7, 96, dtype=np.float32)[None, :, None], (96, 96, 3))

    def grid(seed: int, patch: bool) -> int:
        out = compress(picture, rng(seed), jpeg=1, quality=(10, 10), patch=patch)[..., 1]
        jumps = np.abs(np.diff(out, axis=1)).mean(0)
        return int(np.argmax([jumps[offset::8].mean() for offset in range(8)]))

    assert {grid(seed, False) for seed in range(12)} == {7}
    assert len({grid(seed, True) for seed in range(40)}) == 8


def test_only_some_pictures_are_compressed():
    made = [add_varying_motion_blur(grey(16, 16), rng(seed), jpeg=0.5) for seed in range(200)]
    whole_levels = [np.abs(255 * picture - np.rint(255 * picture)).max() < 1e-3 for picture in made]
    assert np.mean(whole_levels) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("function", [add_varying_noise, add_varying_motion_blur])
def test_what_is_off_changes_nothing(function):
    """The pictures of before these options existed: their generators draw the same numbers."""
    off = dict.fromkeys(("grey", "chroma", "jpeg") if function is add_varying_noise else ("jpeg",), 0)
    first, second = rng(), rng()
    np.testing.assert_array_equal(function(grey(40, 40), first), function(grey(40, 40), second, **off))
    assert first.random() == second.random()


# ---- the script


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "sharp"
    for path in sorted(PHOTOS.glob("0[1-4]*.jpg")):
        write_image(folder / path.name, cv2.resize(read_image(path), (128, 72), interpolation=cv2.INTER_AREA))
    return folder


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def command(photos: Path, output: Path, *more: object, kind: str = "noise") -> list[str]:
    return [str(a) for a in ("--input", photos, "--output", output, "--kind", kind, *more)]


@pytest.mark.parametrize("kind", ["noise", "blur"])
def test_picture_depends_on_seed_and_name_alone(photos, tmp_path, kind):
    def run(output: str, **options) -> dict[str, bytes]:
        assert degrade.degrade_folder(photos, tmp_path / output, kind=kind, workers=1, progress=False, **options) == {}
        return results(tmp_path / output)

    everything, other_seed = run("all"), run("seed", seed=1)
    assert len(everything) == 4
    assert all(everything[name] != other_seed[name] for name in everything)
    for path in photos.glob("0[13]*"):
        path.unlink()
    assert run("half") == {name: data for name, data in everything.items() if name[1] in "24"}
    (photos / "02_colosseum.jpg").rename(photos / "2.jpg")
    assert run("renamed")["2.png"] != everything["02_colosseum.png"]


def test_command_line_with_workers_beside_another_basicsr(photos, tmp_path):
    """From another folder, with relative paths and a foreign package called basicsr on the path."""
    foreign = tmp_path / "foreign/basicsr"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("raise ImportError('the wrong basicsr')\n")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *command(Path("sharp"), Path("out"), "--workers", 2)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(foreign.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    degrade.degrade_folder(photos, tmp_path / "one", kind="noise", workers=1, progress=False)
    assert results(tmp_path / "out") == results(tmp_path / "one")
    assert len(results(tmp_path / "one")) == 4
    assert cv2.imread(str(tmp_path / "out/01_beacon_street.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint8


def main(arguments: list[str]) -> int:
    """`tlc degrade`, in this process."""
    return run_entry_point(lambda: commands.run(["degrade", *arguments]))


def test_second_run_does_what_is_left(photos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = command(photos, out, "--workers", 1)
    assert main(arguments) == 0
    first = results(out)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    (out / "03_casa_mila.png").unlink()
    assert main([*arguments, "--cells", "4", "--sigma", "3", "60"]) == 0  # the defaults, spelled out
    assert results(out) == first
    unchanged = [path.name for path in out.glob("*.png") if path.stat().st_mtime_ns == times[path.name]]
    assert sorted(unchanged) == sorted(set(first) - {"03_casa_mila.png"})
    assert "4/4" in capsys.readouterr().err


def test_settings_are_never_mixed(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(photos, out, "--workers", 1)) == 0
    first = results(out)
    capsys.readouterr()
    for change in (["--seed", "1"], ["--sigma", "3", "50"], ["--cells", "5"]):
        assert main(command(photos, out, *change)) == 2
        assert "--overwrite or another folder" in capsys.readouterr().err
    assert main(command(photos, out, kind="blur")) == 2
    assert results(out) == first
    assert main(command(photos, out, "--workers", 1, "--overwrite", "--seed", "1")) == 0
    assert json.loads((out / "degrade.json").read_text())["seed"] == 1
    assert all(data != first[name] for name, data in results(out).items())
    (photos / "01_beacon_street.jpg").unlink()  # its picture would stay, and be of other settings than the record says
    assert main(command(photos, out, "--overwrite")) == 2
    assert "01_beacon_street.png" in capsys.readouterr().err


def test_what_is_off_is_not_recorded(photos, tmp_path):
    """Folders that were made before these options existed are known, and those made with them told apart."""
    out = tmp_path / "out"
    assert main(command(photos, out, "--workers", 1, "--jpeg", 0)) == 0
    record = {"kind": "noise", "seed": 0, "options": {"sigma": [3.0, 60.0], "cells": 4.0}}
    assert json.loads((out / "degrade.json").read_text()) == record
    real = ("--grey", 0.25, "--chroma", 0.25, "--jpeg", 0.5)
    assert main(command(photos, out, "--workers", 1, *real)) == 2
    assert main(command(photos, out, "--workers", 1, "--overwrite", *real)) == 0
    more = {"grey": 0.25, "chroma": 0.25, "jpeg": 0.5, "quality": [75.0, 98.0]}
    assert json.loads((out / "degrade.json").read_text())["options"] == record["options"] | more


def test_folder_without_a_record_is_refused(photos, tmp_path):
    write_image(tmp_path / "out/01_beacon_street.png", grey(8, 8))
    assert main(command(photos, tmp_path / "out")) == 2


def test_bad_pictures_do_not_stop_the_rest(photos, tmp_path, capsys):
    (photos / "bad.jpg").write_text("no picture")
    whole = (photos / "02_colosseum.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    arguments = command(photos, tmp_path / "out", "--workers", 1)
    for _ in range(2):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert "bad.jpg" in error
        assert "cut.jpg" in error
        assert "Traceback" not in error
        assert len(results(tmp_path / "out")) == 4
    (photos / "bad.jpg").unlink()
    (photos / "cut.jpg").write_bytes(whole)
    assert main(arguments) == 0
    assert len(results(tmp_path / "out")) == 5


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--length", "1", "5"], "--length does not belong to kind `noise`"),
        (["--noise_sigma", "1"], "--noise_sigma does not belong"),
        (["--sigma", "60", "3"], "lower one first"),
        (["--sigma", "-3", "3"], "positive"),
        (["--cells", "0"], "cells: 0"),
        (["--quality", "80", "90"], "without --jpeg"),
        (["--jpeg", "1", "--quality", "0", "90"], "quality: 0 90"),
        (["--workers", "0"], "--workers: '0'"),
        (["--seed", "-1"], "seed: -1"),
        (["--seed", "x"], "--seed"),
        (["--sed", "1"], "--sed"),
        (["--input", "/no/such/folder"], "/no/such/folder"),
        (["--kind", "rain"], "rain"),
    ],
)
def test_mistakes_are_one_sentence(photos, tmp_path, capsys, more, says):
    assert main(command(photos, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sigma_does_not_belong_to_blur(photos, tmp_path, capsys):
    assert main(command(photos, tmp_path / "out", "--sigma", 3, 60, kind="blur")) == 2
    assert "--sigma does not belong to kind `blur`" in capsys.readouterr().err


def test_folders_that_cannot_be_used(photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(command(tmp_path / "empty", tmp_path / "out")) == 2
    assert ".png, .jpg" in capsys.readouterr().err
    assert main(command(photos, photos)) == 2
    assert main(command(photos, photos / "01_beacon_street.jpg")) == 2
    write_image(photos / "01_beacon_street.png", grey(8, 8))  # would be written to the same PNG as the .jpg
    assert main(command(photos, tmp_path / "out")) == 2
    assert "01_beacon_street" in capsys.readouterr().err
