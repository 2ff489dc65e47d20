"""Tests without a file of networks for other images than RGB: of grey pictures, and of a dual-pixel camera's two views."""

import json
from types import SimpleNamespace
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL_NETS, film, picture, smooth, write

from basicsr.archs import build_network
from basicsr.commands.words import PROTOCOLS
from basicsr.data import PairedImageDataset
from basicsr.engine.testing import pairs
from basicsr.engine.training.validation import Validation
from basicsr.engine.weights.published import PUBLISHED
from basicsr.errors import UserError
from basicsr.metrics.protocols import ProtocolName
from basicsr.utils.checkpoint import save_torch

GREY = {"inp_channels": 1, "out_channels": 1, "LayerNorm_type": "BiasFree"}
TWO = {"inp_channels": 6, "dual_pixel_task": True}
TRAINED = ("--train-size", "16")


def weights(root, words: dict) -> torch.nn.Module:
    """A small Restormer, and its weights as w.pth."""
    torch.manual_seed(3)
    net = build_network({"type": "Restormer", **SMALL_NETS["Restormer"], **words}).eval()
    save_torch(root / "w.pth", {"params": net.state_dict()})
    return net


def psnr_by_hand(net: torch.nn.Module, lq: np.ndarray, gt: np.ndarray) -> float:
    """lq: (H, W, C) in [0, 1], gt: (H, W, C) of 0 to 255."""
    with torch.no_grad():
        out = net(torch.from_numpy(lq.astype(np.float32)).permute(2, 0, 1)[None])[0]
    restored = np.rint(out.clamp(0, 1).permute(1, 2, 0).numpy() * 255)
    return 10 * np.log10(255**2 / np.square(restored.astype(float) - gt).mean())


def grey_of(file) -> np.ndarray:
    return cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)[..., None].astype(float)


def views(root) -> None:
    """DPDD's layout, whose names differ, with the tenth picture after the second."""
    for number in (2, 10):
        for offset, folder in ((0, "inputL"), (20, "inputR"), (40, "target")):
            write(root / f"DPDD/test/{folder}/{folder[-1]}_{number}.png", picture(number + offset))


def runs(root, name: str) -> list[dict]:
    return json.loads((root / f"results/{name}/report.json").read_text())["runs"]


def test_colour_pairs_for_a_network_of_grey_pictures(root, run):
    net = weights(root, GREY)
    for side, number in (("gt", 1), ("lq", 2)):
        write(root / side / "a.png", picture(number))
    outcome = run("test", "--weights", "w.pth", "--gt", "gt", "--lq", "lq", "--tlc", "off", "--force_yml", "name=g")
    assert outcome.code == 0, outcome
    assert "one of grey pictures: those in colour are read as grey" in outcome.out
    lines = json.loads((root / "results/g/report.json").read_text())["protocol"].values()
    assert all(line.endswith("(of grey pictures: their one channel)") for line in lines)
    (found,) = runs(root, "g")
    expected = psnr_by_hand(net, grey_of(root / "lq/a.png") / 255, grey_of(root / "gt/a.png"))
    assert found["metrics"]["psnr"] == pytest.approx(expected, abs=2e-3)
    assert 0 < found["metrics"]["ssim"] < 1


def test_the_protocol_is_that_of_the_task_or_the_one_that_is_said(root, run, monkeypatch):
    weights(root, {})
    for side, number in (("gt", 1), ("lq", 2)):
        write(root / side / "a.png", picture(number))

    def lines(*words: str) -> dict[str, str]:
        outcome = run("test", "--weights", "w.pth", "--gt", "gt", "--lq", "lq", "--tlc", "off", *words, "--force_yml", "name=p")
        assert outcome.code == 0, outcome
        return json.loads((root / "results/p/report.json").read_text())["protocol"]

    assert [line.split(":")[0] for line in lines().values()] == ["PSNR, protocol rgb8", "SSIM, protocol rgb8"]
    assert [line.split(":")[0] for line in lines("--protocol", "noise8").values()] == ["PSNR, protocol noise8"]
    rain = next(known for known in PUBLISHED if known.name == "Restormer-Rain13k")
    monkeypatch.setattr(pairs, "recognised", lambda *_: rain)
    assert [line.split(":")[0] for line in lines().values()] == ["PSNR, protocol y8", "SSIM, protocol y8"]
    assert list(lines("--protocol", "dpdd")) == ["psnr", "ssim", "mae"]
    section = pairs.val_as_published("w.pth", {}, measured=False)
    assert section == {"window_size": 8, "save_img": True}  # as Restormer's test of rain pads


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--weights", "w.pth", "--lq", "lq", "--protocol", "y8"), "--protocol y8: nothing is measured without --gt"),
        (("-opt", "o.yml", "--protocol", "y8"), "--protocol y8: -opt says in val.metrics how it is measured"),
        (("--weights", "w.pth", "--gt", "gt", "--lq", "lq", "--protocol", "y9"), "y9"),
    ],
)
def test_protocols_that_cannot_be(words, says, root, run):
    outcome = run("test", *words)
    assert outcome.code == 2
    assert says in outcome.err
    assert get_args(ProtocolName) == PROTOCOLS


def test_grey_pairs_without_truth(root, run):
    weights(root, GREY)
    write(root / "lq/a.png", picture(2))
    outcome = run("test", "--weights", "w.pth", "--lq", "lq", *TRAINED, "--force_yml", "name=g")
    assert outcome.code == 0, outcome
    written = cv2.imread(str(root / "results/g/visualization/test/RestormerLocal/a.png"), cv2.IMREAD_UNCHANGED)
    assert written.shape == (24, 32)


@pytest.mark.parametrize("lq", [("DPDD/test/inputL", "DPDD/test/inputR"), ("DPDD/test",)])
def test_two_views_by_position(lq, root, run):
    net = weights(root, TWO)
    views(root)
    outcome = run(
        "test", "--weights", "w.pth", "--gt", "DPDD/test/target", "--lq", *lq, "--tlc", "off", "--force_yml", "name=d"
    )
    assert outcome.code == 0, outcome
    assert "the names differ; the first picture of each folder belongs together" in outcome.out
    images = {image["name"]: image["metrics"]["psnr"] for image in runs(root, "d")[0]["images"]}
    for number in (2, 10):
        seen = np.dstack([picture(number), picture(number + 20)]) / 255
        assert images[f"t_{number}"] == pytest.approx(psnr_by_hand(net, seen, picture(number + 40)), abs=2e-3)


def test_views_of_which_one_is_missing_are_not_paired_by_position(root, run):
    weights(root, TWO)
    for side, names in (("left", "ab"), ("right", "bc")):
        for name in names:
            write(root / side / f"{name}.png", picture(0))
    outcome = run("test", "--weights", "w.pth", "--lq", "left", "right")
    assert outcome.code == 2
    assert (
        "datasets.test.dataroot_lqL, dataroot_lqR do not match; not in dataroot_lqL: c; not in dataroot_lqR: a;" in outcome.err
    )
    assert "position" not in outcome.err  # which would pair others than those of one name


def test_views_of_which_one_is_missing_by_position(root, run):
    weights(root, TWO)
    views(root)
    (root / "DPDD/test/inputR/R_2.png").unlink()
    outcome = run("test", "--weights", "w.pth", "--lq", "DPDD/test")
    assert outcome.code == 2
    assert "there are: dataroot_lqL 2, dataroot_lqR 1; add what is missing" in outcome.err


def test_views_of_two_sizes(root, run):
    weights(root, TWO)
    write(root / "left/a.png", picture(0))
    write(root / "right/a.png", picture(0, 20, 32))
    outcome = run("test", "--weights", "w.pth", "--lq", "left", "right", *TRAINED)
    assert outcome.code == 2
    assert "datasets.test: left and right view of different sizes: a (32x24 and 32x20)" in outcome.err


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_two_views_without_truth_by_name(dtype, root, run):
    """What is restored has as many bits as the views."""
    net = weights(root, TWO)
    for side, number in (("left", 1), ("right", 2)):
        write(root / side / "a.png", picture(number, dtype=dtype))
    outcome = run("test", "--weights", "w.pth", "--lq", "left", "right", "--train-size", "64", "--force_yml", "name=d")
    assert outcome.code == 0, outcome
    assert "names differ" not in outcome.out
    written = cv2.imread(str(root / "results/d/visualization/test/RestormerLocal/a.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert (written.dtype, written.shape) == (dtype, (24, 32, 3))
    if dtype == np.uint16:
        seen = np.dstack([picture(1, dtype=dtype), picture(2, dtype=dtype)]) / 65535
        with torch.no_grad():
            out = net(torch.from_numpy(seen.astype(np.float32)).permute(2, 0, 1)[None])[0].clamp(0, 1).permute(1, 2, 0)
        assert np.abs(written.astype(int) - 65535 * out.numpy()).max() < 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--gt", "DPDD/test/target", "--lq", "DPDD/test/inputL"),
            "name two folders, --lq LEFT RIGHT, or one that holds inputL",
        ),
        (
            ("--gt", "DPDD/test/target", "DPDD/test/inputL", "--lq", "DPDD/test"),
            "2 and 2 folders do not belong together; name two of --lq, left and right, for each of --gt",
        ),
        (("--gt", "DPDD/test/target", "--lq", "DPDD/test/inputL", "DPDD/test/inputL"), "test/inputL twice: the two views and"),
        (("--gt", "DPDD/test/target", "--lq", "DPDD/test/inputL", "nowhere"), "--lq: the folder"),
        (("--lq", "nowhere"), "--lq: the folder"),
    ],
)
@pytest.mark.parametrize("command", ["test", "flicker"])
def test_what_two_views_need_is_said(command, words, says, root, run):
    weights(root, TWO)
    views(root)
    outcome = run(command, "--weights", "w.pth", *words)
    assert outcome.code == 2, outcome
    assert says in outcome.err
    assert not (root / "results").exists()


@pytest.mark.parametrize(("words", "folders"), [(GREY, ("lq",)), (TWO, ("lq", "right"))])
def test_flicker_of_grey_frames_and_of_two_views(words, folders, root, run):
    weights(root, words)
    for number in range(2):
        write(root / f"gt/{number}.png", picture(1))
        write(root / f"lq/{number}.png", picture(2 + number))
        write(root / f"right/{number}.png", picture(2 + number))
    outcome = run("flicker", "--weights", "w.pth", "--gt", "gt", "--lq", *folders, *TRAINED, "--output", "out")
    assert outcome.code == 0, outcome
    report = json.loads((root / "out/report.json").read_text())
    assert ("of grey pictures" in report["protocol"][-1]) == (words is GREY)
    means = report["means"]
    assert list(means) == ["input", "Restormer", "patches of 16", "RestormerLocal", "ground truth"]
    assert means["ground truth"]["flicker"] == 0
    shown = (grey_of(root / f"lq/{n}.png") if words is GREY else picture(2 + n).astype(float) for n in range(2))
    assert means["input"]["flicker"] == pytest.approx(np.abs(np.subtract(*shown)).mean(), abs=1)  # the truth stands still


def test_windows_are_not_compared_without_truth(root, run):
    weights(root, GREY)
    write(root / "lq/a.png", picture(2))
    outcome = run("sweep", "--weights", "w.pth", "--lq", "lq", *TRAINED)
    assert outcome.code == 2
    assert "val.metrics is empty; name the ground truth, by --gt" in outcome.err


def test_flicker_of_a_video_in_grey(root, run):
    pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    weights(root, GREY)
    film(root / "x.mp4", [smooth(number) for number in range(2)])
    outcome = run("flicker", "--weights", "w.pth", "--lq", "x.mp4", *TRAINED, "--output", "out")
    assert outcome.code == 0, outcome
    assert "frames in colour are made grey" in outcome.out


def test_an_options_file_for_two_views(root, run):
    weights(root, TWO)
    views(root)
    outcome = run("init", "test", "--weights", "w.pth", "--gt", "DPDD/test/target", "--lq", "DPDD/test", "--output", "d.yml")
    assert outcome.code == 0, outcome
    outcome = run("test", "-opt", "d.yml", "--tlc", "off")
    assert outcome.code == 0, outcome
    assert len(runs(root, "d")[0]["images"]) == 2


def test_grey_pairs_have_no_saturation(tmp_path):
    for side in ("gt", "lq"):
        write(tmp_path / side / "a.png", picture(0))
    with pytest.raises(UserError, match="saturation: grey pictures"):
        PairedImageDataset(dataroot_gt=str(tmp_path / "gt"), dataroot_lq=str(tmp_path / "lq"), in_ch=1, saturation=0.2)


@pytest.mark.parametrize("in_ch", [1, 3])
def test_validations_say_of_grey_pictures_that_they_are(in_ch, root):
    write(root / "gt/a.png", picture(1))
    dataset = PairedImageDataset(dataroot_gt=str(root / "gt"), dataroot_lq=str(root / "gt"), in_ch=in_ch)
    metric = SimpleNamespace(protocol="PSNR, protocol rgb8: RGB")
    validation = Validation({"val": dataset}, {"val": "Set"}, {"psnr": metric}, lambda image: image, torch.device("cpu"))
    (line,) = validation.lines({"val": {"psnr": 30.0}})
    assert line.startswith("validation psnr: 30.0000 (PSNR, protocol rgb8: RGB")
    assert ("of grey pictures" in line) == (in_ch == 1)
