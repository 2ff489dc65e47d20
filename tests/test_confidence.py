"""How sure the gain of TLC is, against the definitions written out."""

import json
import math

import numpy as np
import pytest
from conftest import PSNR_AND_SSIM, SMALL_NETS, make_pairs, write_yaml

from basicsr.engine.testing.confidence import RESAMPLES, confidence


def test_the_interval_is_that_of_the_means_of_images_drawn_again():
    gains = list(np.random.default_rng(1).normal(0.3, 0.5, 40))
    rng = np.random.default_rng(2)
    drawn = np.sort([np.mean(rng.choice(gains, len(gains))) for _ in range(RESAMPLES)])
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = confidence(gains)
    # Percentiles of as many draws of another generator scatter by about a hundredth of the width.
    assert found.interval == pytest.approx((low, high), abs=0.04 * (high - low))
    assert found.interval[0] < np.mean(gains) < found.interval[1]
    assert found == confidence(gains)


def test_the_interval_covers_the_mean_in_about_19_of_20_sets():
    rng = np.random.default_rng(3)
    sets = [rng.normal(0.2, 1.0, 30) for _ in range(100)]
    covered = sum(low <= 0.2 <= high for low, high in (confidence(list(one)).interval for one in sets))
    assert 86 <= covered <= 99


@pytest.mark.parametrize(("better", "worse", "equal"), [(11, 1, 0), (5, 5, 2), (0, 7, 1), (3, 0, 0)])
def test_the_sign_test_is_the_binomial_one(better, worse, equal):
    found = confidence([0.1] * better + [-0.2] * worse + [0.0] * equal)
    n, k = better + worse, max(better, worse)
    tail = sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
    assert (found.better, found.worse, found.images) == (better, worse, better + worse + equal)
    assert found.p == pytest.approx(min(1, 2 * tail))


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.1] * 5, "too few images to tell"),  # p is .0625 at the least
        ([0.1] * 6, "significant"),
        ([0.1] * 7 + [-0.1], "not significant"),
        ([0.1] * 9 + [-0.1], "significant"),
        ([-0.1] * 6, "significantly worse"),
        ([0.0] * 50, "not significant"),
    ],
)
def test_the_sign_test_in_words(gains, verdict):
    assert confidence(gains).verdict == verdict


def test_few_images_and_infinite_gains():
    assert confidence([0.4]).interval is None
    assert confidence([0.0, 0.0]) == confidence([0.0, 0.0])
    assert confidence([0.0, 0.0]).p == 1
    assert confidence([0.0, 0.0]).interval == (0, 0)
    found = confidence([math.inf, 0.5, 0.5])
    assert found.interval == (0.5, 0.5)
    assert (found.better, found.images) == (3, 3)


def test_every_report_says_it(root, run):
    make_pairs(root / "datasets/Set")
    options = {
        "name": "run",
        "num_gpu": 0,
        "datasets": {"test": {"name": "Set", "dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}},
        "network_g": {"type": "NAFNet", **SMALL_NETS["NAFNet"]},
        "val": {"metrics": PSNR_AND_SSIM},
    }
    result = run("test", "-opt", write_yaml(root / "opt.yml", options), "--tlc", "both")
    assert result.code == 0
    folder = root / "results/run"
    sure = json.loads((folder / "report.json").read_text())["gain_confidence"]["Set"]
    gains = [
        b["metrics"]["psnr"] - a["metrics"]["psnr"]
        for a, b in zip(*(run["images"] for run in json.loads((folder / "report.json").read_text())["runs"]), strict=True)
    ]
    assert sure["psnr"]["better"] == sum(gain > 0 for gain in gains)
    assert sure["psnr"]["interval"][0] <= np.mean(gains) <= sure["psnr"]["interval"][1]
    for text in (result.out + result.err, (folder / "table.md").read_text(), (folder / "table.tex").read_text()):
        assert "gain of TLC on Set, psnr: " in text
        assert "of 3 images gain" in text
