"""Metrics of the whole set, such as FID: figures without a mean, in reports, sweeps, trainings, and after a resume."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL_NETS, make_pairs, write_yaml

from basicsr.archs import build_network
from basicsr.engine.testing import evaluate as evaluation

NAMES = ("a", "b", "c", "d")
# The distance of the mean colours of two sets, and a metric that fails at the end.
OWN = """
import numpy as np

def colour(img1, img2):
    return np.stack([img1, img2]).mean((1, 2))

def distance(arrays):
    mean = np.mean(arrays, axis=0, dtype=np.float64)
    return np.sqrt(((mean[0] - mean[1]) ** 2).sum())

colour.of_set = distance
colour.higher_is_better = False
colour.protocol = lambda **options: "distance of mean colours"
colour.enough = 10

def fails(img1, img2):
    return np.zeros(2)

def no_figure(arrays):
    raise RuntimeError("singular")

fails.of_set = no_figure
fails.higher_is_better = False
"""


@pytest.fixture
def opt(root, forget_own_code, test_options) -> dict:
    (root / "own_set.py").write_text(OWN, encoding="utf-8")
    make_pairs(root / "datasets/Set", names=NAMES)
    torch.manual_seed(0)
    net = build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]})
    for parameter in net.parameters():  # the net's own first ones make the identity of it
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save({"params": net.state_dict()}, root / "net.pth")
    metrics = {"colour": {"type": "own_set:colour"}, **test_options["val"]["metrics"]}
    val = {**test_options["val"], "metrics": metrics, "save_img": True}
    network = {**test_options["network_g"], "tlc": {"train_size": 16, "base_size": 16}}
    return {**test_options, "network_g": network, "path": {"pretrain_network_g": "net.pth"}, "val": val}


def distance(folders: list, names: tuple[str, ...] = NAMES) -> float:
    """Of the mean colours, from the pictures on the disk."""
    means = [np.mean([cv2.imread(str(folder / f"{name}.png")).mean((0, 1)) for name in names], axis=0) for folder in folders]
    return float(np.linalg.norm(means[0] - means[1]))


def read(root) -> dict:
    return json.loads((root / "results/run/report.json").read_text())


def test_a_figure_of_the_set_is_in_reports_and_tables_and_in_no_image(opt, root, run):
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", {**opt, "expected_plain": {"colour": 1.0}}), "--tlc", "both")
    assert outcome.code == 0, outcome
    folder, data = root / "results/run", root / "datasets/Set"
    report = read(root)
    plain, local = report["runs"]
    for one in report["runs"]:
        shown = folder / "visualization/test" / one["network"]
        assert one["metrics"]["colour"] == pytest.approx(distance([shown, data / "target"]), rel=1e-4)
        assert one["input_metrics"]["colour"] == pytest.approx(distance([data / "input", data / "target"]), rel=1e-4)
        assert all(set(image["metrics"]) == set(image["input_metrics"]) == {"psnr"} for image in one["images"])
    assert plain["metrics"]["colour"] != local["metrics"]["colour"]
    gain = plain["metrics"]["colour"] - local["metrics"]["colour"]  # less is better
    assert report["gain"]["Set"]["colour"] == pytest.approx(gain)
    assert set(report["gain_confidence"]["Set"]) == {"psnr"}
    assert report["expected"]["NAFNet"]["colour"]["difference"] == pytest.approx(plain["metrics"]["colour"] - 1)
    header, *rows = csv.reader((folder / "images.csv").open())
    assert "psnr" in header
    assert not [word for word in header if "colour" in word]
    assert {len(row) for row in rows} == {len(header)}
    for text in (outcome.out, (folder / "table.md").read_text(), (folder / "table.tex").read_text()):
        assert "colour: distance of mean colours, lower is better" in text
        for value in (plain["metrics"]["colour"], local["metrics"]["colour"]):
            assert f"{value:.2f}" in text
    assert f"{plain['input_metrics']['colour']:.4f}" in outcome.out
    assert "datasets.test: colour is biased for fewer than 10 images, and these are 4: compare it" in outcome.out + outcome.err


@pytest.mark.parametrize("stop", [2, 6])
def test_a_run_that_is_gone_on_with_has_the_figure_of_all_images(stop, opt, root, run, monkeypatch):
    file = write_yaml(root / "opt.yml", {**opt, "val": {**opt["val"], "save_img": False}})
    assert run("test", "-opt", file, "--tlc", "both").code == 0
    whole = read(root)
    timed, seen = evaluation.timed, []

    def stopped(predict, lq):
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(lq)
        return timed(predict, lq)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "timed", stopped)
        assert run("test", "-opt", file, "--tlc", "both").code == 130
    assert run("test", "-opt", file, "--tlc", "both", "--resume").code == 0
    gone_on = read(root)
    for field in ("metrics", "input_metrics"):
        assert [one[field] for one in gone_on["runs"]] == [one[field] for one in whole["runs"]]


def test_nothing_but_a_figure_of_the_set(opt, root, run):
    only = {"colour": opt["val"]["metrics"]["colour"]}
    outcome = run(
        "test", "-opt", write_yaml(root / "opt.yml", {**opt, "val": {**opt["val"], "metrics": only}}), "--tlc", "both"
    )
    assert outcome.code == 0, outcome
    assert set(read(root)["gain"]["Set"]) == {"colour"}
    assert read(root)["gain_confidence"]["Set"] == {}


def test_sets_of_other_images_have_no_gain(opt, root, run, monkeypatch):
    timed, seen = evaluation.timed, []

    def broken(predict, lq):
        restored, seconds = timed(predict, lq)
        seen.append(lq)
        return (restored * np.nan if len(seen) == 2 else restored), seconds

    monkeypatch.setattr(evaluation, "timed", broken)
    assert run("test", "-opt", write_yaml(root / "opt.yml", opt), "--tlc", "both").code == 1
    report, folder = read(root), root / "results/run/visualization/test"
    assert report["gain"]["Set"]["colour"] is None
    assert report["gain"]["Set"]["psnr"] is not None
    measured = distance([folder / "NAFNet", root / "datasets/Set/target"], ("a", "c", "d"))
    assert report["runs"][0]["metrics"]["colour"] == pytest.approx(measured, rel=1e-4)


def test_a_set_of_which_no_figure_can_be_made_keeps_the_others(opt, root, run):
    metrics = {**opt["val"]["metrics"], "fails": {"type": "own_set:fails"}}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", {**opt, "val": {**opt["val"], "metrics": metrics}}))
    assert outcome.code == 0, outcome
    assert "fails of 4 images: singular" in outcome.err + outcome.out
    values = read(root)["runs"][0]["metrics"]
    assert values["fails"] is None
    assert values["psnr"] is not None


def test_one_image_is_no_set(opt, root, run):
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", opt), "--max_images", "1")
    assert outcome.code == 2
    assert "datasets.test: colour is of a set of images, and here is one" in outcome.err
    assert not (root / "results").exists()


def test_a_sweep_shows_it_and_goes_by_a_metric_of_images(opt, root, run):
    words = ("--train_size", "16", "--base_sizes", "16", "24")
    outcome = run("sweep", "-opt", write_yaml(root / "opt.yml", opt), *words)
    assert outcome.code == 0, outcome
    report = json.loads((root / "results/sweep_run/sweep.json").read_text())
    assert report["metric"] == "psnr"
    assert all(set(window["metrics"]) == {"colour", "psnr"} for window in report["windows"])
    assert len({window["metrics"]["colour"] for window in report["windows"]}) > 1
    assert "colour" not in (root / "results/sweep_run/sweep.csv").read_text()
    only = {**opt["val"], "metrics": {"colour": opt["val"]["metrics"]["colour"]}}
    outcome = run("sweep", "-opt", write_yaml(root / "opt.yml", {**opt, "val": only}), *words)
    assert outcome.code == 2
    assert "val.metrics: colour is of the whole set, but windows are compared image by image" in outcome.err


def test_a_training_is_validated_by_it(opt, root, run, train_options):
    train_options["datasets"]["val"] = {"name": "Val", **opt["datasets"]["test"]}
    train_options["val"] = {**train_options["val"], "metrics": opt["val"]["metrics"]}
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options))
    assert outcome.code == 0, outcome
    assert "validation colour: " in outcome.out + outcome.err
    rows = list(csv.DictReader(next((root / "experiments").rglob("metrics.csv")).open()))
    assert any(float(row["val_colour"] or 0) > 0 for row in rows)
