"""A run's folders have one owner at a time; what recovery falls back on."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, make_pairs, write_yaml

from basicsr.errors import UserError
from basicsr.utils.owner import owned

HOLD = """
    import sys, time
    from pathlib import Path
    from basicsr.utils.owner import owned
    with owned(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder until it is killed."""
    started = []

    def hold(folder: Path) -> subprocess.Popen:
        code = textwrap.dedent(HOLD)
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def data(root) -> Path:
    return make_pairs(root / "datasets/Set", names=("a", "b"))


def test_a_folder_is_held_by_one(tmp_path, holder):
    folder = tmp_path / "experiments" / "run"
    process = holder(folder)
    says = rf"run: is being written by process {process.pid} on {re.escape(socket.gethostname())} since 20\d\d-.*; wait for it"
    with pytest.raises(UserError, match=says), owned(folder):
        raise AssertionError
    with owned(folder.with_name("another")):
        pass
    process.kill()  # of a dead process nothing is left that anybody has to remove
    process.wait()
    with owned(folder):
        folder.mkdir()
        folder.rename(folder.with_name("archived"))
    assert [path.name for path in folder.parent.iterdir()] == ["archived"]


def test_nothing_is_left_where_nothing_was(tmp_path):
    with pytest.raises(ZeroDivisionError), owned(tmp_path / "experiments" / "run"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_names_as_long_as_names_can_be(tmp_path):
    with owned(tmp_path / ("n" * 255)), pytest.raises(UserError, match="is being written"), owned(tmp_path / ("n" * 255)):
        raise AssertionError


def test_no_writing_there(tmp_path):
    (tmp_path / "experiments").touch()
    with pytest.raises(UserError, match=r"run: cannot be written"), owned(tmp_path / "experiments" / "run"):
        raise AssertionError


@pytest.mark.parametrize("words", [("train", "-opt", "train.yml"), ("train", "-opt", "train.yml", "--auto_resume")])
def test_a_second_training_of_one_name_is_refused(words, data, root, train_options, run, holder):
    write_yaml(root / "train.yml", train_options)
    assert run("train", "-opt", "train.yml").code == 0
    before = {path: path.read_bytes() for path in (root / "experiments").rglob("*") if path.is_file()}
    process = holder(root / "experiments/run")
    outcome = run(*words)
    assert outcome.code == 2
    assert f"experiments/run: is being written by process {process.pid}" in outcome.err
    assert all(path.read_bytes() == content for path, content in before.items())
    assert run("train", "-opt", "train.yml", "--dry_run").code == 0


def test_a_second_test_of_one_name_is_refused(data, root, test_options, run, holder):
    write_yaml(root / "test.yml", test_options)
    process = holder(root / "results/run")
    outcome = run("test", "-opt", "test.yml")
    assert outcome.code == 2
    assert f"results/run: is being written by process {process.pid}" in outcome.err
    process.kill()
    process.wait()
    assert run("test", "-opt", "test.yml").code == 0
    assert json.loads((root / "results/run/report.json").read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_two_trainings_started_together(data, root, train_options, run):
    """One trains, the other says so; the metrics are those of one run."""
    train_options["train"]["total_iter"] = 40
    write_yaml(root / "opt.yml", train_options)
    code = "import sys; from basicsr import options; from pathlib import Path; options.ROOT = Path.cwd(); sys.argv[0] = 'tlc'; "
    code += "from basicsr.commands import main; from basicsr.utils.log import run_entry_point; sys.exit(run_entry_point(main))"
    words = [sys.executable, "-c", code, "train", "-opt", "opt.yml"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(words, cwd=root, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (root / "experiments/run").is_dir() and first.poll() is None:
        time.sleep(0.05)
    second = run("train", "-opt", "opt.yml")
    said = first.communicate()
    assert first.returncode == 0, said
    assert second.code in (0, 2)  # the first may have ended already
    if second.code == 2:
        assert f"is being written by process {first.pid}" in second.err
        rows = (root / "experiments/run/metrics.csv").read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == list(range(2, 41, 2))


def test_all_folders_of_a_run_move_together(data, root, train_options, run):
    train_options["logger"]["use_tb_logger"] = True
    write_yaml(root / "opt.yml", train_options)
    for _ in range(2):
        assert run("train", "-opt", "opt.yml").code == 0
    (experiments,) = (root / "experiments").glob("run_archived_*")
    (board,) = (root / "tb_logger").glob("run_archived_*")
    assert experiments.name == board.name
    assert len(list((root / "tb_logger/run").iterdir())) == len(list(board.iterdir())) == 1


# What recovery falls back on.


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("damaged", "left"),
    [
        (["training_states/latest.state"], 6),
        (["training_states/latest.state", "training_states/6.state"], 3),
        (["models/net_g_6.pth"], 3),
    ],
)
def test_the_newest_whole_state_is_gone_on_from(damaged, left, data, root, train_options, run):
    file = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", file).code == 0
    whole = torch.load(root / "experiments/run/models/net_g_6.pth", weights_only=True)["params"]
    states = root / "experiments/run/training_states"
    latest = states / "latest.state"
    latest_bytes = latest.read_bytes()
    latest.unlink()  # it is another name for a file that is to stay
    latest.write_bytes(latest_bytes)
    for name in damaged:
        cut(root / "experiments/run" / name)
    outcome = run("train", "-opt", file, "--auto_resume")
    assert outcome.code == 0, outcome.err
    assert f"{damaged[0]}, or the weights that belong to it, is damaged or not there" in outcome.out or left == 3
    assert f"Resumed from experiments/run/training_states/{left}.state at iteration {left}." in outcome.out
    again = torch.load(root / "experiments/run/models/net_g_6.pth", weights_only=True)["params"]
    assert all(torch.equal(again[key], whole[key]) for key in whole)


def test_without_a_whole_state_it_is_said(data, root, train_options, run):
    file = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", file).code == 0
    states = root / "experiments/run/training_states"
    shutil.copy(states / "3.state", root / "kept.state")
    for state in states.glob("*.state"):
        cut(state)
    outcome = run("train", "-opt", file, "--auto_resume")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "6.state" in outcome.err
    assert "start anew without it" in outcome.err
    shutil.copy(root / "kept.state", states / "3.state")
    outcome = run("train", "-opt", file, "--force_yml", f"path:resume_state={states / '6.state'}")
    assert outcome.code == 2
    assert "training_states/3.state is whole: name it in path.resume_state" in outcome.err


def test_nothing_to_go_on_from_is_said(data, root, train_options, run):
    file = write_yaml(root / "opt.yml", train_options)
    outcome = run("train", "-opt", file, "--auto_resume")
    assert outcome.code == 0
    assert "experiments/run/training_states holds no state, so the run starts at iteration 0." in outcome.out
