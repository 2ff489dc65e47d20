"""tlc benchmark at a size that takes seconds."""

import json
import os
import signal
import sys

import cv2
import pytest

from basicsr.engine.benchmark import measure


def test_a_net_is_measured(run, root):
    end = run("benchmark", "--nets", "NAFNet", "--sizes", "64x48", "--device", "cpu", "--threads", "1", "--seconds", "1")
    assert end.code == 0, end.out
    document = json.loads((root / "results" / "benchmark.json").read_text())
    (result,) = document["results"]
    assert result["case"]["plain"]["type"] == "NAFNet"
    assert result["case"]["size"] == [64, 48]
    assert result["plain"]["seconds"] > 0
    assert result["local"]["seconds"] > 0
    assert result["ratio"] == pytest.approx(result["local"]["seconds"] / result["plain"]["seconds"])
    assert result["gmacs"] == pytest.approx(16 * 64 * 48 / 256**2, rel=0.1)  # 16 GMACs at 256x256, the paper says
    assert 0 < result["share"] < 2
    assert cv2.imread(str(root / "results" / "benchmark.png")) is not None
    assert "NAFNet    64x48" in end.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nets", "NAFnet"], "Did you mean `NAFNet`?"),
        (["--precisions", "tf32", "--device", "cpu"], "precision tf32: this cpu has no TF32"),
        (["--sizes", "big"], "'big' is not WIDTHxHEIGHT"),
        (["--threads", "0"], "'0' is no whole number of 1 or more"),
        (["--sizes", "8x8"], "8x8: sides of 16 pixels or more"),
    ],
)
def test_mistakes(words, message, run):
    end = run("benchmark", *words)
    assert end.code == 2
    assert message in end.out + end.err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_neither_variant_pays_for_what_both_need(run, root):
    """At a size that the window covers, both do the same, and need the same memory, whichever comes first."""
    words = ["--sizes", "128x128", "--device", "cpu", "--threads", "1", "--seconds", "0.1", "--train-size", "256"]
    assert run("benchmark", "--nets", "HINet", *words).code == 0
    (result,) = json.loads((root / "results" / "benchmark.json").read_text())["results"]
    assert len(result["plain"]["runs"]) == len(result["local"]["runs"]) == 2
    assert result["plain"]["seconds"] == result["plain"]["runs"][1]
    plain, local = (result[variant]["memory"] for variant in ("plain", "local"))
    assert plain == pytest.approx(local, rel=0.15, abs=0.01)


def _killed(case: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_killed_measurement_is_a_row_of_the_table(run, root, monkeypatch):
    """Linux kills a process that takes too much memory; the other cases still get their turn."""
    monkeypatch.setattr(measure, "measure", _killed)
    end = run("benchmark", "--nets", "NAFNet", "--sizes", "32x32", "--device", "cpu")
    assert end.code == 0, end.out
    assert "out of memory" in end.out
    (result,) = json.loads((root / "results" / "benchmark.json").read_text())["results"]
    assert result["plain"] is None
    assert result["gmacs"] > 0


def test_precision_and_layout_are_passed_on(run, root):
    words = ["--nets", "NAFNet", "--sizes", "32x32", "--device", "cpu", "--threads", "1", "--seconds", "0.1"]
    assert run("benchmark", *words, "--precisions", "auto", "--channels_last", "false").code == 0
    (result,) = json.loads((root / "results" / "benchmark.json").read_text())["results"]
    assert result["case"]["channels_last"] is False
    assert result["case"]["precision"] in ("fp32", "bf16")
