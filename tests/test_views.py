"""Networks for other images than RGB on photographs: grey ones, and those of the two views of a dual-pixel camera."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SMALL_NETS, film, picture, smooth, write
from PIL import Image

from basicsr.archs import build_network
from basicsr.options import parse
from basicsr.utils.checkpoint import save_torch

GREY = {"inp_channels": 1, "out_channels": 1, "LayerNorm_type": "BiasFree"}
TWO = {"inp_channels": 6, "dual_pixel_task": True}


def weights(root, words: dict) -> torch.nn.Module:
    """A small Restormer, and its weights as w.pth."""
    torch.manual_seed(3)
    net = build_network({"type": "Restormer", **SMALL_NETS["Restormer"], **words}).eval()
    save_torch(root / "w.pth", {"params": net.state_dict()})
    return net


def by_hand(net: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """(H, W, C) in [0, 1] -> uint8."""
    with torch.no_grad():
        out = net(torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None])[0]
    return (out.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.fixture(autouse=True)
def _options(root):
    (root / "options/demo").mkdir(parents=True)
    shutil.copy(REPOSITORY / "options/demo/demo.yml", root / "options/demo")


def restore(run, *args: object):
    return run("restore", "--weights", "w.pth", "--tlc", "off", *args)


def close(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_a_grey_picture_stays_grey(root, run):
    net = weights(root, GREY)
    write(root / "g.png", grey := picture(1)[..., 0])
    outcome = restore(run, "g.png", "--output", "out.png")
    assert outcome.code == 0, outcome
    assert "made grey" not in outcome.out
    close(cv2.imread(str(root / "out.png"), cv2.IMREAD_UNCHANGED)[..., None], by_hand(net, grey[..., None] / 255))


def test_a_colour_picture_is_made_grey_and_that_is_said(root, run):
    net = weights(root, GREY)
    write(root / "c.png", colour := picture(2))
    write(root / "t.png", truth := picture(3))
    outcome = restore(run, "c.png", "--output", "out.png", "--target", "t.png")
    assert outcome.code == 0, outcome
    assert "c.png has colours, and is made grey: Restormer restores grey pictures." in outcome.out
    luma = colour @ np.array([0.299, 0.587, 0.114])
    out = cv2.imread(str(root / "out.png"), cv2.IMREAD_UNCHANGED)
    close(out[..., None], by_hand(net, luma[..., None] / 255))
    grey_truth = np.rint(truth @ np.array([0.299, 0.587, 0.114]))
    psnr = 10 * np.log10(255**2 / ((out - grey_truth) ** 2).mean())
    assert f"Restormer {psnr:.2f} dB" in outcome.out


@pytest.mark.parametrize("tiles", [(), ("--force_yml", "val:tile=24", "val:tile_overlap=8")])
def test_two_views(root, run, tiles):
    net = weights(root, TWO)
    left, right = picture(4, dtype=np.uint16), picture(5, dtype=np.uint16)
    write(root / "L.png", left)
    write(root / "R.png", right)
    outcome = restore(run, "--input", "L.png", "--input2", "R.png", "--output", "out.png", *tiles)
    assert outcome.code == 0, outcome
    out = cv2.imread(str(root / "out.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert (out.dtype, out.shape) == (np.uint16, (24, 32, 3))
    if not tiles:
        close(np.rint(out / 257), by_hand(net, np.dstack([left, right]) / 65535))


def test_two_folders_of_views(root, run):
    net = weights(root, TWO)
    for number in range(2):
        write(root / f"left/{number}.png", picture(number))
        write(root / f"right/{number}.png", picture(number + 10))
    outcome = restore(run, "left", "--input2", "right", "--output", "out", "--compare")
    assert outcome.code == 0, outcome
    for number in range(2):
        both = np.dstack([picture(number), picture(number + 10)]) / 255
        close(np.asarray(Image.open(root / f"out/{number}.png")), by_hand(net, both))
        assert (root / f"out/{number}_compare.png").is_file()


@pytest.mark.parametrize(
    ("words", "args", "says"),
    [
        (TWO, ["L.png"], "Restormer takes two views of a photograph (6 channels): name the second with --input2"),
        (TWO, ["L.png", "--input2", "nowhere.png"], "--input2 nowhere.png: does not exist; name the second view"),
        (TWO, ["L.png", "--input2", "empty"], "--input2 empty: has no picture called L; name the second view"),
        (TWO, ["L.png", "--input2", "small.png"], "small.png: the two views must be of one size, but have 32x24 and 16x16"),
        (TWO, ["L.png", "--input2", "L.png", "--output", "L.png"], "would replace the input"),
        (GREY, ["L.png", "--input2", "L.png"], "--input2 L.png: Restormer takes one picture, of 1 channel; leave it out"),
        ({}, ["L.png", "--input2", "L.png"], "--input2 L.png: Restormer takes one picture, of 3 channels; leave it out"),
        ({"inp_channels": 4, "dual_pixel_task": True}, ["L.png"], "network_g: Restormer takes images of 4 channels, but photo"),
        ({"out_channels": 2, "dual_pixel_task": True}, ["L.png"], "network_g: Restormer gives images of 2 channels, but photo"),
    ],
)
def test_what_does_not_fit_is_said(words, args, says, root, run):
    weights(root, words)
    write(root / "L.png", picture(6))
    write(root / "small.png", picture(7, 16, 16))
    (root / "empty").mkdir()
    outcome = restore(run, *args)
    assert outcome.code == 2, outcome
    assert says in outcome.err
    assert not (root / "L_restored.png").exists()


def test_videos_in_colour_are_made_grey_and_have_no_two_views(root, run):
    pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    film(root / "x.mp4", [smooth(0)] * 2)
    weights(root, GREY)
    outcome = restore(run, "x.mp4", "--output", "y.mp4")
    assert outcome.code == 0, outcome
    assert outcome.out.count("x.mp4 has colours, and is made grey: Restormer restores grey pictures.") == 1
    weights(root, TWO)
    outcome = restore(run, "x.mp4", "--output", "z.mp4")
    assert outcome.code == 2
    assert "two views of a photograph (6 channels), which videos have not: leave them out" in outcome.err


@pytest.mark.parametrize(("words", "channels"), [(GREY, 1), (TWO, 6)])
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_exported_networks_know_their_channels(words, channels, kind, root, run):
    pytest.importorskip("onnxruntime")
    net = weights(root, words)
    suffix = {"onnx": "onnx", "torchscript": "pt"}[kind]
    outcome = run("export", "--weights", "w.pth", "--tlc", "off", "--format", kind, "--output", f"x.{suffix}")
    assert outcome.code == 0, outcome
    write(root / "L.png", left := picture(8))
    write(root / "R.png", right := picture(9))
    views = ("--input2", "R.png") if channels == 6 else ()
    outcome = run("restore", "L.png", *views, "--weights", f"x.{suffix}", "--output", "out.png")
    assert outcome.code == 0, outcome
    seen = np.dstack([left, right]) if channels == 6 else (left @ np.array([0.299, 0.587, 0.114]))[..., None]
    out = cv2.imread(str(root / "out.png"), cv2.IMREAD_UNCHANGED)
    close(out[..., None] if out.ndim == 2 else out[..., ::-1], by_hand(net, seen / 255))


@pytest.mark.parametrize("words", [GREY, TWO])
def test_tlc_converts_them(words):
    options = {"type": "RestormerLocal", **SMALL_NETS["Restormer"], **words, "train_size": 16, "base_size": 24}
    net = build_network(parse({"name": "x", "network_g": options}, "x").network_g.as_dict()).eval()
    plain = build_network({"type": "Restormer", **SMALL_NETS["Restormer"], **words}).eval()
    plain.load_state_dict(net.state_dict())
    small, large = (torch.rand(1, words["inp_channels"], side, side) for side in (24, 40))
    with torch.no_grad():
        torch.testing.assert_close(net(small), plain(small), rtol=0, atol=1e-5)  # the window covers it
        assert (net(large) - plain(large)).abs().max() > 1e-5
