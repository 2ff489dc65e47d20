"""A test run that was cut short is gone on with: what is measured is not measured again, and the report is the whole one's."""

import json

import pytest
import torch
from conftest import SMALL_NETS, make_pairs, write_yaml

from basicsr.archs import build_network
from basicsr.engine.testing import evaluate as evaluation

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def seen(monkeypatch) -> list[int]:
    """The number of runs of the network; with `seen.stop` it ends after so many."""

    class Seen(list):
        stop = None

    seen, timed = Seen(), evaluation.timed

    def counted(predict, lq):
        if seen.stop is not None and len(seen) >= seen.stop:
            raise KeyboardInterrupt
        seen.append(lq.shape)
        return timed(predict, lq)

    monkeypatch.setattr(evaluation, "timed", counted)
    return seen


@pytest.fixture
def opt(root, test_options) -> dict:
    make_pairs(root / "datasets/Set", names=NAMES)
    torch.manual_seed(0)
    torch.save({"params": build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).state_dict()}, root / "net.pth")
    return {**test_options, "path": {"pretrain_network_g": "net.pth"}}


def figures(root) -> list:
    report = json.loads((root / "results/run/report.json").read_text())
    return [
        [run["network"], [{**image, "seconds": 0, "cold": 0} for image in run["images"]], run["metrics"]]
        for run in report["runs"]
    ]


@pytest.mark.parametrize("stop", [1, 3, 6, 9])
def test_what_is_measured_is_not_measured_again(stop, opt, root, run, seen):
    file = write_yaml(root / "opt.yml", {**opt, "val": {**opt["val"], "save_img": True}})
    assert run("test", "-opt", file, "--tlc", "both").code == 0
    whole = figures(root)
    assert len(seen) == 10
    seen.clear()
    seen.stop = stop
    assert run("test", "-opt", file, "--tlc", "both").code == 130
    seen.stop = None
    outcome = run("test", "-opt", file, "--tlc", "both", "--resume")
    assert outcome.code == 0, outcome.err
    assert len(seen) <= 10 + 2  # what was under way, in the network and in the measurement, is done twice at most
    assert figures(root) == whole
    assert len(list((root / "results/run/visualization").rglob("*.png"))) == 10
    assert len([path for path in (root / "results").iterdir() if path.name.startswith("run")]) == 2  # the first one, aside
    seen.clear()
    assert run("test", "-opt", file, "--tlc", "both", "--resume").code == 0
    assert not seen
    assert figures(root) == whole


def test_other_weights_or_options_are_another_run(opt, root, run, seen):
    file = write_yaml(root / "opt.yml", opt)
    assert run("test", "-opt", file, "--max_images", "2").code == 0
    outcome = run("test", "-opt", file, "--resume", "--force_yml", "val:self_ensemble=true")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "--resume: results/run was measured with other weights, options or data; leave --resume out" in outcome.err
    seen.clear()
    assert run("test", "-opt", file, "--resume").code == 0  # all images, after two
    assert len(seen) == 3


def test_a_line_that_was_cut_short(opt, root, run, seen):
    file = write_yaml(root / "opt.yml", opt)
    assert run("test", "-opt", file).code == 0
    whole = figures(root)
    (journal,) = (root / "results/run").glob("progress-*.jsonl")
    journal.write_bytes(journal.read_bytes()[:-20])
    seen.clear()
    assert run("test", "-opt", file, "--resume").code == 0
    assert len(seen) == 1
    assert figures(root) == whole
    seen.clear()
    assert run("test", "-opt", file, "--resume").code == 0
    assert not seen


def test_with_nothing_to_go_on_from(opt, root, run, seen):
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", opt), "--resume")
    assert outcome.code == 0
    assert "Going on after 0 images, done before." in outcome.out
    assert len(seen) == 5
    outcome = run("test", "-opt", root / "opt.yml", "--resume", "--force_yml", "path:pretrain_network_g=null")
    assert outcome.code == 2
    assert "--resume: the network has random weights" in outcome.err
