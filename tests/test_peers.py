"""One of two processes that train together is killed, hangs or fails: the other says which, and ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import make_pairs, write_yaml
from test_distributed import LAUNCHER, NAMES, environment, free_port, training
from torch.distributed import TCPStore

from basicsr.utils import peers

SHORT = "from basicsr.utils import peers; peers.SILENCE = 15.0"  # still long for a busy machine


@pytest.fixture
def meet(monkeypatch) -> Iterator[Callable[[int], list[peers.Peers]]]:
    """meet(2): so many processes in one, with signs of life twenty times a second."""
    monkeypatch.setattr(peers, "BEAT", 0.05)
    monkeypatch.setattr(peers, "LOOK", 1.0)
    port, met = free_port(), []
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))

    def call(world: int) -> list[peers.Peers]:
        met.extend(peers.Peers(rank, world) for rank in range(world))
        return met

    yield call
    for one in met:
        one.left.set()
    del store


def test_all_are_there(meet):
    assert [one.lost() for one in meet(3)] == [None] * 3


def test_who_fell_silent_is_known(meet):
    first, _, third = everyone = meet(3)
    everyone[1].left.set()
    assert (first.lost(), third.lost()) == (1, 1)


def test_who_ended_because_of_another_is_not_blamed(meet):
    first, second, third = meet(3)
    third.left.set()
    assert second.lost() == 2
    second.left.set()
    assert first.lost() == 2


def test_who_has_done_its_part_is_not_missed(meet):
    first, second = meet(2)
    second.leave()
    assert first.lost() is None


def slurm_job(folder: Path) -> dict[str, str]:
    """srun's variables by hand: two nodes' names in brackets, and a scontrol that resolves them."""
    folder.mkdir()
    (folder / "scontrol").write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames 127.0.0.[1-2]" ] && printf "127.0.0.1\\n127.0.0.2\\n"\n'
    )
    (folder / "scontrol").chmod(0o755)
    nodes = {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.[1-2]"}
    return {**nodes, "MASTER_PORT": str(free_port()), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, *([signal.SIGSTOP] if "KILLS" in os.environ else [])])  # half a minute
def test_the_other_says_which_and_ends(number, tmp_path):
    """Killed: at once, and what was learnt is saved. Hanging: after SILENCE."""
    make_pairs(tmp_path / "datasets/Set", names=NAMES)
    opt = training("run")
    opt["train"]["total_iter"] = 10**6
    opt["datasets"]["train"]["progressive"][1]["iters"] = 10**6 - 5
    opt["val"]["val_freq"] = 10**6
    opt["logger"]["save_checkpoint_freq"] = 10**6
    write_yaml(tmp_path / "opt.yml", opt)
    (tmp_path / "launcher.py").write_text(LAUNCHER.replace("FAULT", SHORT))
    job = slurm_job(tmp_path / "tools")
    words = [sys.executable, "launcher.py", "train", "-opt", "opt.yml", "--launcher", "slurm"]
    first, second = (
        subprocess.Popen(
            words,
            cwd=tmp_path,
            env=environment(**job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
            stdout=(tmp_path / f"said{rank}.txt").open("w"),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    )
    try:
        wait_for_steps(tmp_path / "experiments/run/metrics.csv", first)
        os.kill(second.pid, number)
        began = time.monotonic()
        _, said = first.communicate(timeout=120)
        assert time.monotonic() - began < 60
        assert first.returncode == 2
        assert "error: process 1 of 2 (from 0 on) gives no sign of life" in said
        assert "Traceback" not in said
        assert "iter" in (tmp_path / "said0.txt").read_text()
        assert (tmp_path / "said1.txt").read_text() == ""  # the first one speaks
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    if number == signal.SIGKILL:
        state = torch.load(tmp_path / "experiments/run/training_states/latest.state", weights_only=True)
        assert state["iter"] >= 10


def wait_for_steps(table: Path, process: subprocess.Popen) -> None:
    """Until ten are done."""
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        if table.exists() and len(table.read_text().splitlines()) > 10:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate(timeout=10) if process.poll() is not None else "no steps")
