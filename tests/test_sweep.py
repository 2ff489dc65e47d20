"""tlc sweep: the figures are those of test.py, the best window is found, and what was measured is kept."""

import csv
import json

import pytest
import torch
from conftest import SMALL_NETS, make_pairs, write_yaml
from PIL import Image

from basicsr.archs import build_network
from basicsr.engine.testing import sweep as engine
from basicsr.options import load

PATCH = 16
NET = {"type": "NAFNet", **SMALL_NETS["NAFNet"]}


@pytest.fixture
def options(root, test_options) -> dict:
    """Options of a small net with weights that do something, on three pictures."""
    make_pairs(root / "datasets/Set", height=40, width=48)
    torch.manual_seed(0)
    weights = {key: value + 0.2 * torch.randn_like(value) for key, value in build_network(NET).state_dict().items()}
    torch.save({"params": weights}, root / "w.pth")
    metrics = {**test_options["val"]["metrics"], "ssim": {"type": "calculate_ssim", "crop_border": 0}}
    return {**test_options, "network_g": NET, "path": {"pretrain_network_g": "w.pth"}, "val": {"metrics": metrics}}


def local(opt: dict, base_size: int = 24) -> dict:
    return {**opt, "network_g": {**NET, "type": "NAFNetLocal", "train_size": PATCH, "base_size": base_size}}


def swept(root, name: str = "run") -> dict:
    return json.loads((root / f"results/sweep_{name}/sweep.json").read_text())


def test_the_figures_are_those_of_test_py(root, run, options):
    outcome = run("sweep", "-opt", write_yaml(root / "opt.yml", local(options)))
    assert outcome.code == 0, outcome
    found = swept(root)
    assert [w["base_size"] for w in found["windows"]] == ["global", 16, 24, 32, 48, 64]
    assert (found["patch"], found["images"], found["dataset"], found["network"]) == (PATCH, 3, "Set", "NAFNet")
    for base in (16, 32):
        opt = write_yaml(root / "opt.yml", local(options, base))
        assert run("test", "-opt", opt, "--tlc", "both").code == 0
        runs = json.loads((root / "results/run/report.json").read_text())["runs"]
        window = next(w for w in found["windows"] if w["base_size"] == base)
        assert window["metrics"] == pytest.approx(runs[1]["metrics"], abs=1e-9)
        assert found["windows"][0]["metrics"] == pytest.approx(runs[0]["metrics"], abs=1e-9)
        gains = [b["metrics"]["psnr"] - a["metrics"]["psnr"] for a, b in zip(*(r["images"] for r in runs), strict=True)]
        assert window["gain"] == pytest.approx(sum(gains) / 3, abs=1e-9)
        assert window["gaining"] == sum(gain > 0 for gain in gains)


def test_the_best_is_marked_and_drawn(root, run, options):
    outcome = run("sweep", "-opt", write_yaml(root / "opt.yml", local(options)), "--base_sizes", "48", "16", "64", "16")
    rows = list(csv.DictReader((root / "results/sweep_run/sweep.csv").open()))
    psnr = {}
    for row in rows:
        psnr.setdefault(row["base_size"], []).append(float(row["psnr"]))
    assert list(psnr) == ["global", "16", "48", "64"]
    assert all(len(values) == 3 for values in psnr.values())
    best = max(psnr, key=lambda base: sum(psnr[base]))
    assert str(swept(root)["best"]) == best
    (marked,) = [line for line in outcome.out.splitlines() if line.endswith("<- best")]
    assert marked.split()[0] == best
    (covered,) = [line for line in outcome.out.splitlines() if line.split()[:1] == ["64"]]
    assert "3/3" in covered  # a window of 64 holds a picture of 40x48, and changes nothing
    assert swept(root)["windows"][3]["gain"] == pytest.approx(0, abs=2e-3)
    with Image.open(root / "results/sweep_run/sweep.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    assert "chosen on the test set, it is tuned on the test set" in outcome.out


def test_on_validation_images_nothing_is_to_be_said(root, run, options):
    options["datasets"] = {"val": options["datasets"]["test"]}
    more = ("--base_sizes", "16", "--max_images", "1", "--output", str(root / "here"))
    outcome = run("sweep", "-opt", write_yaml(root / "opt.yml", local(options)), *more)
    assert outcome.code == 0, outcome
    assert "tuned on the test set" not in outcome.out
    found = json.loads((root / "here/sweep.json").read_text())
    assert found["images"] == 1
    assert not (root / "results").exists()


def test_a_plain_file_and_its_patch(root, run, options):
    plain, more = write_yaml(root / "plain.yml", options), ("--base_sizes", "16", "32")
    outcome = run("sweep", "-opt", plain, "--train_size", str(PATCH), *more)
    assert outcome.code == 0, outcome
    assert "assumed" not in outcome.out
    of_plain = swept(root)["windows"]
    assert run("sweep", "-opt", write_yaml(root / "opt.yml", local(options)), *more).code == 0
    assert [w["metrics"] for w in swept(root)["windows"]] == [w["metrics"] for w in of_plain]
    outcome = run("sweep", "-opt", plain, *more)
    assert "Trained on patches of 256 (assumed, as nothing says it: --train-size N)." in outcome.out


def test_lower_may_be_better(root, run, options, forget_own_code):
    (root / "distance.py").write_text(
        "def distance(img1, img2):\n    return ((img1.astype(float) - img2) ** 2).mean()\ndistance.higher_is_better = False\n"
    )
    options["val"]["metrics"] = {"distance": {"type": "distance:distance"}, **options["val"]["metrics"]}
    outcome = run("sweep", "-opt", write_yaml(root / "opt.yml", local(options)))
    assert outcome.code == 0, outcome
    windows = swept(root)["windows"]
    assert len({w["metrics"]["distance"] for w in windows}) > 3
    assert swept(root)["best"] == min(windows, key=lambda w: w["metrics"]["distance"])["base_size"]
    for window in windows:
        below = window["metrics"]["distance"] < windows[0]["metrics"]["distance"]
        assert (window["gain"] > 0) == below  # more gain is better, whatever the metric
        assert window["gaining"] > 0 or not below


def test_what_was_measured_before_ctrl_c_is_there(root, run, options, monkeypatch):
    evaluate, calls = engine.evaluate, []

    def until_the_fourth(*args, **kwargs):
        calls.append(kwargs["label"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(engine, "evaluate", until_the_fourth)
    assert run("sweep", "-opt", write_yaml(root / "opt.yml", local(options))).code == 130
    assert [w["base_size"] for w in swept(root)["windows"]] == ["global", 16, 24]
    assert sorted(file.name for file in (root / "results/sweep_run").iterdir()) == ["sweep.csv", "sweep.json", "sweep.png"]


@pytest.mark.parametrize(
    ("change", "args", "says"),
    [
        ({}, ("--base_sizes", "0"), "--windows: '0' is no whole number of 1 or more"),
        ({}, ("--train_size", "-4"), "--train-size: '-4' is no whole number"),
        ({}, ("--max_images", "0"), "--max_images: '0'"),
        ({}, ("--output", "opt.yml"), "--output opt.yml: is a file; name a folder"),
        ({"datasets": {}}, (), "`datasets` names no images"),
        ({"val": {}}, (), "val.metrics is empty"),
        ({"path": {"pretrain_network_g": "none.pth"}}, (), "none.pth do not exist"),
        ({"network_g": {"type": "still:Still"}}, (), "TLC finds nothing to convert in still:Still"),
    ],
)
def test_mistakes(root, run, options, forget_own_code, change, args, says):
    (root / "still.py").write_text(
        "from torch import nn\nclass Still(nn.Identity):\n    def __init__(self):\n        super().__init__()\n"
    )
    outcome = run("sweep", "-opt", write_yaml(root / "opt.yml", {**local(options), **change}), *args)
    assert outcome.code == 2, outcome
    assert says in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (root / "results").exists()


def test_other_options_of_tlc_stay_as_the_file_says(root):
    network = {"type": "RestormerLocal", **SMALL_NETS["Restormer"], "train_size": [1, 3, 32, 32], "base_size": 48}
    opt = {"name": "x", "num_gpu": 0, "network_g": {**network, "attention": "blended"}}
    file = write_yaml(root / "x.yml", opt)
    for train_size in (None, 32):
        windows = engine.windows_of(load(file), train_size)
        assert windows.network_g(64)["tlc"]["attention"] == "blended"
    published = load(write_yaml(root / "y.yml", opt | {"network_g": network}))
    assert "attention" not in engine.windows_of(published).network_g(64)["tlc"]
