"""scripts/compare_ways.py: the measure of seams on errors made by hand, and the command on a tiny net and pictures."""

import json
import math
import re

import numpy as np
import pytest
import torch
from conftest import PSNR_AND_SSIM, REPOSITORY, SMALL_NETS, make_pairs, write_yaml
from PIL import Image
from test_evidence import README, table_rows

from basicsr.archs import build_network
from basicsr.options import load
from basicsr.sections import ValOptions

PATCH, WINDOW, SPREAD = 16, 16, 0.02
NET = {"type": "RestormerLocal", **SMALL_NETS["Restormer"], "train_size": [1, 3, PATCH, PATCH], "base_size": WINDOW}


@pytest.fixture
def ways(script):
    return script("compare_ways")


@pytest.fixture
def options(root, test_options):
    """A file of a net whose weights do something, three pictures, and a page with markers."""
    make_pairs(root / "datasets/Set", height=40, width=48)
    torch.manual_seed(0)
    weights = build_network({"type": "Restormer", **SMALL_NETS["Restormer"]}).state_dict()
    torch.save({"params": {key: value + SPREAD * torch.randn_like(value) for key, value in weights.items()}}, root / "w.pth")
    (root / "docs").mkdir()
    (root / "docs/comparison.md").write_text(README)
    opt = {**test_options, "network_g": NET, "path": {"pretrain_network_g": "w.pth"}, "val": {"metrics": PSNR_AND_SSIM}}
    return write_yaml(root / "opt.yml", opt)


# ---- seams


def error_of_patches(step: float, ramp: int = 1) -> np.ndarray:
    """Noise, and in every second column of patches of 64 a different brightness, which begins within `ramp` pixels."""
    noise = np.random.default_rng(0).normal(0, 0.02, (256, 384))
    columns = (np.arange(384) // 64 % 2).astype(float)
    return noise + step * np.convolve(np.pad(columns, ramp, "edge"), np.ones(ramp) / ramp, "same")[ramp:-ramp]


LINES = (set(), set(range(64, 384, 64)))


def test_a_step_where_patches_meet_is_a_seam(ways):
    """Jumps of the noise, averaged over 32 pixels, have a sigma of 0.02 * sqrt(2 / 32) = 0.005, and a magnitude of 0.004."""
    assert ways.seam(error_of_patches(0), LINES) == pytest.approx(1, abs=0.15)
    assert ways.seam(error_of_patches(0.01), LINES) == pytest.approx(2.5, rel=0.25)
    assert ways.seam(error_of_patches(0.04), LINES) == pytest.approx(10, rel=0.15)
    assert ways.seam(error_of_patches(-0.04).T, LINES[::-1]) == pytest.approx(10, rel=0.15)


def test_a_step_elsewhere_or_a_ramp_is_no_seam(ways):
    between = (set(), {column + 20 for column in LINES[1]})
    assert ways.seam(error_of_patches(0.04), between) == pytest.approx(1, abs=0.15)
    assert ways.seam(error_of_patches(0.04, ramp=33), LINES) < 1.2
    assert math.isnan(ways.seam(error_of_patches(0.04), (set(), set())))


@pytest.mark.parametrize(
    ("val", "rows", "columns"),
    [
        ({}, [], []),
        ({"grids": True, "crop_size": 16}, [12, 16, 24, 28], [16, 32]),  # from 0, 12, 24; from 0, 16, 32
        ({"tile": 24, "tile_overlap": 8}, [16, 24], [16, 24, 40]),  # from 0, 16; from 0, 16, 24
        ({"tile": 64}, [], []),
        ({"tile": 44, "tile_overlap": 8, "self_ensemble": True}, [], [4, 44]),
    ],
)
def test_lines_are_where_parts_begin_or_end(ways, val, rows, columns):
    assert ways.lines_of(ValOptions(**val), 40, 48) == (set(rows), set(columns))


# ---- the command


def test_the_table_says_what_test_py_reports(root, run, ways, options):
    words = ("--images", "3", "--tile", "32", "--tile_overlap", "8", "--output", "docs/comparison")
    outcome = run("compare_ways", "-opt", options, *words)
    assert outcome.code == 0, outcome
    page = (root / "docs/comparison.md").read_text()
    assert page.startswith(README.partition("old numbers")[0])
    assert page.endswith(README.partition("old numbers")[2])
    assert "photographs a, b, c; tiles overlap by 8 pixels" in page
    with Image.open(root / "docs/comparison.jpg") as image:
        assert image.format == "JPEG"
        assert len(image.convert("RGB").getcolors(1 << 24)) > 1000
    assert "](comparison.jpg)" in page

    rows = table_rows(page)
    found = []
    for more in ([], ["val:tile=32", "val:tile_overlap=8"], ["val:grids=true", f"val:crop_size={PATCH}"]):
        assert run("test", "-opt", options, "--tlc", "both", "--force_yml", "val:save_img=false", *more).code == 0
        plain, with_tlc = json.loads((root / "results/run/report.json").read_text())["runs"]
        found.append((plain["metrics"], with_tlc["metrics"]))
    assert run("test", "-opt", options, "--force_yml", "val:save_img=false", "network_g:attention=blended").code == 0
    (blended,) = json.loads((root / "results/run/report.json").read_text())["runs"]
    (whole, local), (tiled, both), (patched, _) = found
    expected = {
        "input": plain["input_metrics"],
        "whole picture": whole,
        "patches of 16": patched,
        "tiles of 32": tiled,
        "**TLC**, window 16": local,
        "TLC on tiles": both,
        "**TLC**, blended windows": blended["metrics"],
    }
    shown = {row["way"]: row["PSNR / SSIM"] for row in rows}
    assert shown == {way: f"{m['psnr']:.2f} / {m['ssim']:.4f}".replace(" 0.", " .") for way, m in expected.items()}
    assert len(set(shown.values())) == 7, "some ways are alike, so that this test cannot tell them apart"
    assert rows[0]["network, task"] == "Restormer, set"
    measured = {row["way"]: row for row in rows[1:]}
    memory = {way: int(row["memory"].removesuffix(" MiB")) for way, row in measured.items()}
    assert all(float(row["seconds"]) >= 0 for row in measured.values())
    assert memory["tiles of 32"] <= memory["whole picture"]
    for row in measured.values():
        assert [float(row[f]) > 0.3 for f in ("seams of patches", "of tiles", "of windows")] == [True] * 3


@pytest.mark.parametrize(("words", "page"), [(("--output", "mine/page"), "mine/page"), ((), "results/comparison")])
def test_a_page_of_ones_own(root, run, ways, options, monkeypatch, words, page):
    """The tracked page is written where it is named, only."""
    monkeypatch.setattr(ways, "draw", lambda *_: b"")  # takes seconds
    outcome = run("compare_ways", "-opt", options, "--images", "b", *words)  # tiles larger than the picture
    assert outcome.code == 0, outcome
    assert all((root / f"{page}{suffix}").is_file() for suffix in (".jpg", ".md"))
    assert not (root / "docs/comparison.jpg").exists()
    assert (root / "docs/comparison.md").read_text() == README
    rows = {row["way"]: row for row in table_rows((root / f"{page}.md").read_text())}
    assert {row["of tiles"] for row in rows.values()} == {"", "-"}
    assert rows["tiles of 256"]["PSNR / SSIM"] == rows["whole picture"]["PSNR / SSIM"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--images", "bb"), "run has no such picture. Did you mean `b`?"),
        (("--images", "0"), "--images 0: run has no such picture."),
        (("--tile", "0"), "--tile 0: must be a positive number"),
        (("--tile", "32", "--tile_overlap", "32"), "tile_overlap (32) must be smaller than tile (32)"),
        (("--output", "notes"), "notes.md: put the lines <!-- evidence:begin --> and"),
        (("--force_yml", "path:pretrain_network_g=null"), "pretrain_network_g is empty"),
        (("--force_yml", "val:metrics:ssim=null"), "val.metrics has no `ssim`"),
    ],
)
def test_mistakes(root, run, options, args, says):
    (root / "notes.md").write_text("no markers")
    outcome = run("compare_ways", "-opt", options, *args)
    assert outcome.code == 2, outcome
    assert says in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not list(root.rglob("*.jpg"))


def test_a_page_without_markers_is_refused_before_any_work(root, run, options):
    (root / "docs/comparison.md").write_text("no markers\n")
    outcome = run("compare_ways", "-opt", "absent.yml", "--output", "docs/comparison")
    assert outcome.code == 2
    assert "docs/comparison.md: put the lines" in outcome.err


def test_the_shipped_page(root, ways):
    """It has a table of what the command measures by default, and its YAML is valid."""
    text = (REPOSITORY / "docs/comparison.md").read_text(encoding="utf-8")
    block = text.partition("<!-- evidence:begin -->")[2].partition("<!-- evidence:end -->")[0]
    assert [row["way"] for row in table_rows(block)].count("TLC on tiles") == len(ways.FILES)
    assert (REPOSITORY / "docs" / re.search(r"!\[.*\]\((.*)\)", block)[1]).is_file()
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        (root / "example.yml").write_text(f"name: x\n{example}")
        load(root / "example.yml")
