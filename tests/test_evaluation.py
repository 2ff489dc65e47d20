"""What an evaluation does with pictures that are no good and figures that are not finite, on a net that changes nothing."""

import csv
import json

import cv2
import numpy as np
import pytest
from conftest import make_pairs, picture, write, write_yaml
from skimage.metrics import peak_signal_noise_ratio

from basicsr.engine.testing.results import ImageResult, Run, seconds_per_image
from basicsr.engine.testing.tables import table

IDENT = """
import torch
from torch import nn
from basicsr.archs import ARCHS

@ARCHS.register
class Ident(nn.Module):
    def __init__(self, *, fails_below: int = 0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.fails_below = fails_below

    def forward(self, x):
        if min(x.shape[-2:]) < self.fails_below:
            raise RuntimeError("the kernel is larger than the image")
        return x * self.scale

def distance(img1, img2):
    return ((img1.astype(float) - img2) ** 2).mean()
distance.higher_is_better = False

def grumpy(img1, img2):
    if img1.shape[0] < 12:
        raise KeyError("small")
    return 1.0
grumpy.higher_is_better = True

def contrast(img1, img2=None):
    return float(img1.std())
contrast.higher_is_better = True
contrast.needs_gt = False
"""


@pytest.fixture
def ident(root, forget_own_code, test_options) -> dict:
    """Options of a test of Ident on datasets/Set, pictures a, b, c."""
    (root / "own.py").write_text(IDENT, encoding="utf-8")
    make_pairs(root / "datasets/Set")
    return {**test_options, "custom_modules": ["own.py"], "network_g": {"type": "Ident"}}


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def read(root, name: str = "run") -> dict:
    return json.loads((root / f"results/{name}/report.json").read_text(), parse_constant=no_constants)


def psnr(root, name: str, folder: str = "datasets/Set") -> float:
    pair = [cv2.imread(str(root / folder / side / f"{name}.png")) for side in ("target", "input")]
    return peak_signal_noise_ratio(*pair)


def same(root, *names: str) -> None:
    """Make these pictures equal to their ground truth."""
    for name in names:
        (root / f"datasets/Set/input/{name}.png").write_bytes((root / f"datasets/Set/target/{name}.png").read_bytes())


def test_a_picture_that_is_its_truth_leaves_means_finite(ident, root, run):
    same(root, "b")
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident), "--tlc", "both")
    assert outcome.code == 0, outcome
    report = read(root)
    expected = np.mean([psnr(root, "a"), psnr(root, "c")])
    for one in report["runs"]:
        assert one["metrics"]["psnr"] == one["input_metrics"]["psnr"] == pytest.approx(expected)
        assert one["identical"] == one["input_identical"] == {"psnr": 1}
        assert [image["metrics"]["psnr"] is None for image in one["images"]] == [False, True, False]
    assert report["gain"] == {"Set": {"psnr": 0.0}}
    shown = f"{expected:.2f} (1 identical)"
    assert outcome.out.count(shown) == 3  # the input, Ident, IdentLocal
    (line,) = [line for line in outcome.out.splitlines() if line.split()[:1] == ["b"]]
    assert line.split()[1:] == ["inf", "inf", "inf", "+0.0000"]
    folder = root / "results/run"
    assert (folder / "table.md").read_text().count(shown) == 3
    assert (folder / "table.tex").read_text().count(f"${expected:.2f}$ (1 identical)") == 3
    rows = list(csv.DictReader((folder / "images.csv").open()))
    assert [row["psnr"] == "inf" for row in rows] == [False, True, False] * 2


def test_nothing_but_pictures_that_are_their_truth(ident, root, run):
    same(root, "a", "b", "c")
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident), "--tlc", "both")
    assert outcome.code == 0, outcome
    report = read(root)
    assert report["runs"][0]["metrics"] == {"psnr": None}
    assert report["runs"][0]["identical"] == {"psnr": 3}
    assert "- (3 identical)" in outcome.out
    for words in (("sweep", "--train_size", "16", "--base_sizes", "16"),):
        opt = {**ident, "network_g": {"type": "NAFNet", "width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1]}}
        assert run(words[0], "-opt", write_yaml(root / "opt.yml", opt), *words[1:]).code == 0
        json.loads((root / "results/sweep_run/sweep.json").read_text(), parse_constant=no_constants)


def test_the_best_of_a_training_is_a_finite_figure(ident, root, run, curves, train_options, caplog):
    """The net is the identity at first: pictures without a fault have no PSNR, whatever comes later."""
    same(root, "a", "b", "c")
    train_options |= {"custom_modules": ["own.py"], "network_g": {"type": "Ident"}}
    train_options["datasets"]["val"] = {"name": "Same", **ident["datasets"]["test"]}
    train_options["datasets"]["val"]["dataroot_lq"] = "datasets/Set/target"
    train_options["datasets"]["val_2"] = {
        "name": "Other",
        "dataroot_gt": "datasets/Two/target",
        "dataroot_lq": "datasets/Two/input",
    }
    make_pairs(root / "datasets/Two", names=("d", "e"))
    train_options["datasets"]["train"]["dataroot_gt"] = "datasets/Two/target"
    train_options["datasets"]["train"]["dataroot_lq"] = "datasets/Two/input"
    train_options["val"]["val_freq"] = 1
    train_options["train"]["optim_g"]["lr"] = 0.05
    train_options["train"]["scheduler"]["eta_min"] = 0.05
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options))
    assert outcome.code == 0, outcome
    rows = [row for row in csv.DictReader((root / "experiments/run/metrics.csv").open()) if row["val_2_psnr"]]
    assert len(rows) == 6
    figures = [float(row["val_psnr"]) for row in rows if row["val_psnr"]]
    assert all(np.isfinite(figures))
    (last,) = [line for line in outcome.out.splitlines() if line.startswith("Best psnr so far")][-1:]
    assert f"{max(figures):.4f}" in last
    assert "validation on Other, psnr: " in outcome.out


def test_every_validation_set_is_measured_by_its_name(ident, root, run, curves, train_options):
    make_pairs(root / "datasets/Two", names=("d", "e"))
    sets = {
        name: {"dataroot_gt": f"datasets/{name}/target", "dataroot_lq": f"datasets/{name}/input"} for name in ("Set", "Two")
    }
    train_options |= {"custom_modules": ["own.py"], "network_g": {"type": "Ident"}}
    train_options["datasets"] |= {"val": {"name": "First", **sets["Set"]}, "val_2": {"name": "Second", **sets["Two"]}}
    train_options["datasets"]["test_2"] = sets["Two"]
    train_options["val"] |= {"val_freq": 3, "save_img": True}
    train_options["logger"]["use_tb_logger"] = True
    file = write_yaml(root / "opt.yml", train_options)
    dry = run("train", "-opt", file, "--dry_run")
    assert "3 (val) and 2 (val_2) for validation" in dry.out
    outcome = run("train", "-opt", file)
    assert outcome.code == 0, outcome
    for name in ("First", "Second"):
        assert outcome.out.count(f"validation on {name}, psnr: ") == 2
    rows = [row for row in csv.DictReader((root / "experiments/run/metrics.csv").open()) if row["val_psnr"]]
    assert [row["iter"] for row in rows] == ["3", "6"]
    assert float(rows[0]["val_psnr"]) == pytest.approx(np.mean([psnr(root, n) for n in "abc"]), abs=1)
    assert float(rows[0]["val_2_psnr"]) == pytest.approx(np.mean([psnr(root, n, "datasets/Two") for n in "de"]), abs=1)
    assert sorted(p.name for p in (root / "experiments/run/visualization/6").iterdir()) == ["val", "val_2"]
    board = b"".join(p.read_bytes() for p in (root / "tb_logger/run").iterdir())
    assert b"val/psnr" in board
    assert b"val_2/psnr" in board
    assert (root / "experiments/run/curves.png").is_file()


def test_two_sets_of_one_name_are_told_apart(ident, root, run):
    make_pairs(root / "datasets/Two", names=("d",))
    ident["datasets"]["test_2"] = {"name": "Set", "dataroot_gt": "datasets/Two/target", "dataroot_lq": "datasets/Two/input"}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident))
    assert outcome.code == 0, outcome
    assert [(r["dataset"], len(r["images"])) for r in read(root)["runs"]] == [("Set (test)", 3), ("Set (test_2)", 1)]


def small_picture(root) -> None:
    write(root / "datasets/Set/target/d.png", picture(7, 9, 40))
    write(root / "datasets/Set/input/d.png", picture(8, 9, 40))


@pytest.mark.parametrize(
    "metric", [{"type": "calculate_ssim_channelwise"}, {"type": "calculate_psnr", "crop_border": 5}, {"type": "own:grumpy"}]
)
def test_a_picture_too_small_for_a_metric_costs_its_own_figures_alone(metric, ident, root, run):
    small_picture(root)
    ident["val"]["metrics"]["second"] = metric
    ident["val"]["save_img"] = True
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident))
    assert outcome.code == 1, outcome
    assert "Traceback" not in outcome.out + outcome.err
    (one,) = read(root)["runs"]
    assert [image["name"] for image in one["images"]] == ["a", "b", "c"]
    assert list(one["failed"]) == ["d"]
    assert "second" in one["failed"]["d"]
    assert one["metrics"]["psnr"] == pytest.approx(np.mean([psnr(root, n) for n in "abc"]))
    assert "1 of 4 images failed: d (second: " in outcome.out
    if metric["type"] != "own:grumpy":
        assert "datasets.test: d (40x9, but second needs 11x11)" in outcome.out
    assert (root / "results/run/visualization/test/Ident/d.png").is_file()


def test_a_metric_that_suits_no_picture_is_refused_before(ident, root, run):
    ident["val"]["metrics"]["psnr"]["crop_border"] = 12
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident))
    assert outcome.code == 2
    assert "datasets.test: a (32x24, but psnr needs 25x25), b " in outcome.err
    assert not (root / "results").exists()


def test_a_training_finds_it_before_its_first_step(ident, root, run, train_options):
    small_picture(root)
    train_options["datasets"]["val"] = ident["datasets"]["test"]
    train_options["datasets"]["train"] |= {"bad_images": "skip"}
    train_options["val"] |= {"val_freq": 2, "metrics": {"ssim": {"type": "calculate_ssim_channelwise"}}}
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options), "--dry_run")
    assert outcome.code == 2
    assert "datasets.val: d (40x9, but ssim needs 11x11); remove these pictures" in outcome.err


def test_a_net_that_cannot_run_on_a_picture(ident, root, run):
    small_picture(root)
    ident["network_g"]["fails_below"] = 12
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident))
    assert outcome.code == 1, outcome
    assert read(root)["runs"][0]["failed"] == {
        "d": "the network cannot run on 40x9 pixels: the kernel is larger than the image"
    }
    write(root / "photos/d.png", picture(8, 9, 40))
    write(root / "photos/e.png", picture(8, 24, 40))
    demo = {key: ident[key] for key in ("name", "num_gpu", "network_g", "custom_modules")}
    outcome = run("restore", "photos", "-opt", write_yaml(root / "demo.yml", demo), "--output", "out")
    assert outcome.code == 1, outcome
    assert "1 of 2 files failed: d.png" in outcome.out
    assert [p.name for p in (root / "out").iterdir()] == ["e.png"]


def test_lower_is_better_is_said_and_a_gain_is_an_improvement(ident, root, run):
    ident["val"]["metrics"] = {"distance": {"type": "own:distance"}}
    ident["network_g"] = {"type": "NAFNet", "width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1]}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident), "--tlc", "both")
    assert outcome.code == 0, outcome
    report = read(root)
    assert report["lower_is_better"] == ["distance"]
    assert report["protocol"]["distance"].endswith(", lower is better")
    images = [ImageResult("a", (8, 8), {"distance": v}, {"distance": 9.0}, 1.0) for v in (3.0, 2.5)]
    runs = [Run("Net", False, "Set", images[:1]), Run("NetLocal", True, "Set", images[1:])]
    assert "gain of TLC              +0.5000" in table(runs, {"distance": "mean"}, lower=["distance"])
    assert "gain of TLC              -0.5000" in table(runs, {"distance": "mean"})
    for name in ("table.md", "table.tex"):
        assert "lower is better" in (root / "results/run" / name).read_text()


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ({"type": "own:distance", "better": "higher"}, "val.metrics.psnr.better: of own:distance, lower is better"),
        ({"type": "calculate_psnr", "better": "lower"}, "val.metrics.psnr.better: of calculate_psnr, higher is better"),
        ({"type": "calculate_psnr", "better": "up"}, "val.metrics.psnr.better"),
    ],
)
def test_a_direction_that_a_metric_does_not_have(metric, says, ident, root, run):
    ident["val"]["metrics"]["psnr"] = metric
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident))
    assert outcome.code == 2
    assert says in outcome.err


def test_seconds_are_the_median_without_the_first_picture():
    images = [
        ImageResult("x", (8, 8), {}, {}, seconds, cold)
        for seconds, cold in ((30.0, True), (1.0, False), (2.0, False), (9.0, False))
    ]
    assert seconds_per_image(images) == 2.0
    assert seconds_per_image(images[:1]) == 30.0


def test_published_figures_are_compared_on_their_own_pictures(ident, root, run):
    ident |= {"expected": {"psnr": 30.0}, "expected_local": {"psnr": 31.0}, "expected_images": 1111}
    file = write_yaml(root / "opt.yml", ident)
    outcome = run("test", "-opt", file, "--tlc", "both")
    measured = np.mean([psnr(root, name) for name in "abc"])
    for net, figure in (("Ident", 30), ("IdentLocal", 31)):
        assert (
            f"{net} psnr: published {figure} on 1,111 images, measured {measured:.4f} on 3: not to be compared" in outcome.out
        )
    assert read(root)["expected"]["Ident"]["psnr"]["difference"] is None
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident | {"expected_images": 3}), "--tlc", "both")
    assert f"IdentLocal psnr: published 31, measured {measured:.4f}, {measured - 31:+.4f}" in outcome.out
    assert read(root)["expected"]["Ident"]["psnr"]["difference"] == pytest.approx(measured - 30)


def test_without_ground_truth_pictures_are_written(ident, root, run):
    del ident["datasets"]["test"]["dataroot_gt"]
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident))
    assert outcome.code == 0, outcome
    assert "datasets.test has no ground truth: it is not measured by psnr" in outcome.out
    written = root / "results/run/visualization/test/Ident"
    for name in "abc":
        assert np.array_equal(
            cv2.imread(str(written / f"{name}.png")), cv2.imread(str(root / f"datasets/Set/input/{name}.png"))
        )
    assert read(root)["runs"][0]["metrics"] == {}


def test_without_ground_truth_what_needs_none_is_measured(ident, root, run):
    """Beside a set that has it, of which every metric is measured."""
    ident["datasets"]["test_2"] = {"name": "Real", "dataroot_lq": "datasets/Set/input"}
    ident["val"]["metrics"]["contrast"] = {"type": "own:contrast"}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", ident), "--tlc", "both")
    assert outcome.code == 0, outcome
    report = read(root)
    assert [list(one["metrics"]) for one in report["runs"]] == [["psnr", "contrast"]] * 2 + [["contrast"]] * 2
    expected = np.mean([cv2.imread(str(root / f"datasets/Set/input/{name}.png")).std() for name in "abc"])
    assert report["runs"][2]["metrics"]["contrast"] == pytest.approx(expected)
    rows = list(csv.DictReader((root / "results/run/images.csv").open()))
    assert [bool(row["psnr"]) for row in rows] == [True] * 6 + [False] * 6


@pytest.mark.parametrize("val", [{"dataroot_lq": "datasets/Set/input"}])
def test_a_validation_needs_the_truth_that_its_metrics_need(val, ident, root, run, train_options):
    train_options["datasets"]["val"] = val
    train_options["val"]["val_freq"] = 2
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options), "--dry_run")
    assert outcome.code == 2
    assert "datasets.val.dataroot_gt is missing: psnr needs the ground truth" in outcome.err
