"""SIGKILL at random moments of long work: run again, it loses nothing, does nothing twice and leaves nothing half-written."""

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SMALL_NETS, make_pairs, picture, write, write_yaml

from basicsr import commands, options
from basicsr.archs import build_network
from basicsr.data import packing
from basicsr.engine.preparing import crops  # noqa: F401 - so that the processes below need not import it
from basicsr.engine.restoring import run_demo  # noqa: F401
from basicsr.engine.testing import run_test  # noqa: F401
from basicsr.engine.training import fit  # noqa: F401

KILLS = int(os.environ.get("KILLS", 1))  # of each kind of work
SEED = int(os.environ.get("KILL_SEED", np.random.SeedSequence().entropy % 10**6))
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")


def command(root: str, cache: str, words: list[str]) -> None:
    """A process of its own: `tlc` in a folder; what it says comes to stand in root/said.txt."""
    os.chdir(root)
    options.ROOT, packing.BATCH = Path(root), 20_000  # an LMDB is written some images at a time
    os.environ["TLC_CACHE"] = cache
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as on the command line
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.argv = ["tlc", *words]
    code = commands.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@pytest.fixture
def start(root) -> Iterator[Callable[..., multiprocessing.Process]]:
    """start("lmdb", ...): `command`, from a server that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_kills", "torch._dynamo"])
    started = []

    def call(*words: str) -> multiprocessing.Process:
        started.append(context.Process(target=command, args=(str(root), str(root / "cache"), list(words))))
        started[-1].start()
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.join()


@dataclass(frozen=True)
class Work:
    """A command that takes long.

    words: of the command line. again: what is said as well when it is to go on.
    place: the folder in which all that it writes comes to lie. contents: what must be equal in it, by name.
    twice: how many finished pictures are written again at most, those of the step that was under way.
    goes_on: what a run says that finds the place as it is.
    """

    words: tuple[str, ...]
    place: str
    contents: Callable[[Path], dict[str, object]]
    again: tuple[str, ...] = ()
    twice: int = 0
    goes_on: Callable[[Path], str] = lambda _place: ""


def pictures(folder: Path) -> dict[str, object]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def without(value: object, *keys: str) -> object:
    """Without these keys, at any depth; tensors as bytes, so that NaN is NaN."""
    if isinstance(value, dict):
        return {key: without(one, *keys) for key, one in value.items() if key not in keys}
    if isinstance(value, (list, tuple)):
        return [without(one, *keys) for one in value]
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value)


def training(place: Path) -> dict[str, object]:
    """Weights and states bit by bit, but for the learning rate, which is set anew for every step; the latest can be read; the
    whole lines of metrics.csv.
    """
    files = {str(path.relative_to(place)): path for kind in ("*.pth", "*.state") for path in place.rglob(kind)}
    read = {name: without(torch.load(path, weights_only=True), "lr") for name, path in files.items()}
    found = {name: value for name, value in read.items() if "latest" not in name and "best" not in name}
    found |= {name: value for name, value in pictures(place).items() if "curves" not in name}
    return found | {f"row {number}": row for number, row in enumerate(rows(place / "run/metrics.csv"))}


def rows(table: Path) -> list[dict[str, str]]:
    """The whole lines of a table, but for what took how long; none where there is no table."""
    lines = table.read_text().rpartition("\n")[0].splitlines() if table.exists() else []
    return [{k: v for k, v in row.items() if k not in ("it_per_s", "data_wait", "seconds")} for row in csv.DictReader(lines)]


def results(place: Path) -> dict[str, object]:
    found = pictures(place)
    if (place / "run/report.json").exists():
        found["report"] = without(
            json.loads((place / "run/report.json").read_text()), "created", "seconds", "seconds_per_image"
        )
    return found | {f"row {number}": row for number, row in enumerate(rows(place / "run/images.csv"))}


def entries(folder: Path) -> dict[str, object]:
    """Of an LMDB, read with lmdb alone."""
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as transaction:
        return {key.decode(): value for key, value in transaction.cursor()}


def packed(place: Path) -> dict[str, object]:
    root = place / "x.lmdb"
    return entries(root) | {"meta_info": (root / "meta_info.txt").read_text()} if root.exists() else {}


def newest_state(place: Path) -> str:
    states = [int(file.stem) for file in place.glob("run/training_states/[0-9]*.state")]
    return f"Resumed from experiments/run/training_states/{max(states)}.state at iteration {max(states)}." if states else ""


def unfinished_lmdb(place: Path) -> str:
    grown = place / ".x.lmdb.tmp"
    count = len(entries(grown)) if (grown / "data.mdb").exists() and (grown / "data.mdb").stat().st_size else 0
    return f"{count} of 60 images are packed" if count else ""


WORK = {
    "training": Work(("train", "-opt", "train.yml", "--auto_resume"), "experiments", training, twice=2, goes_on=newest_state),
    "evaluation": Work(("test", "-opt", "test.yml", "--tlc", "both"), "results", results, again=("--resume",), twice=2),
    "lmdb": Work(("lmdb", "--input", "noise", "--output", "packed/x.lmdb"), "packed", packed, goes_on=unfinished_lmdb),
    "crops": Work(
        ("crops", "--input", "photos", "--output", "cut/crops", "--crop_size", "24", "--step", "8", "--workers", "1"),
        "cut",
        pictures,
        twice=12,  # of a photograph
    ),
    "restoration": Work(
        ("restore", "photos", "--output", "restored/out", "-opt", "test.yml"),
        "restored",
        pictures,
        again=("--resume",),
        twice=1,
    ),
}


@pytest.fixture
def inputs(root, train_options, test_options) -> Path:
    """What the commands need."""
    make_pairs(root / "datasets/Set", names=tuple("abcdefgh"))
    for number in range(16):
        write(root / f"photos/{number % 3}/{number:02d}.png", picture(number, 40, 48))
    for number in range(60):  # 12 kB each, which do not compress
        write(root / f"noise/{number:03d}.png", np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8))
    torch.manual_seed(0)
    torch.save({"params": build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).state_dict()}, root / "net.pth")
    test_options |= {"path": {"pretrain_network_g": "net.pth"}}
    test_options["val"] = {**test_options["val"], "save_img": True}
    test_options["val"]["metrics"]["ssim"] = {"type": "calculate_ssim", "crop_border": 0}
    write_yaml(root / "test.yml", test_options)
    train_options["datasets"]["val"] = {key: train_options["datasets"]["train"][key] for key in ("dataroot_gt", "dataroot_lq")}
    train_options["datasets"]["train"] |= {"batch_size": 4, "num_worker_per_gpu": 2}
    train_options["train"] |= {"total_iter": 24, "ema_decay": 0.9}
    train_options["train"]["scheduler"]["T_max"] = 24
    train_options["val"] = {**train_options["val"], "val_freq": 12, "max_images": 2, "save_img": True}
    train_options["logger"] = {"print_freq": 3, "save_checkpoint_freq": 4, "keep_checkpoints": "all", "use_tb_logger": False}
    write_yaml(root / "train.yml", train_options)
    return root


def names(folder: Path) -> list[str]:
    # What a training leaves that was killed before its first state is moved aside by the next.
    return sorted(name for path in folder.rglob("*") if "_archived_" not in (name := str(path.relative_to(folder))))


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    """The pictures, and what tells whether they were written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*.png") if path.stem != "curves"}


@pytest.mark.parametrize("kind", WORK)
def test_killed_at_random_moments(kind, inputs, start):
    """KILLS times SIGKILL; set KILLS for more, KILL_SEED for the same moments again."""
    work, place, whole = WORK[kind], inputs / WORK[kind].place, inputs / "whole"
    print(f"KILL_SEED={SEED}")
    moments = random.Random(f"{SEED} {kind}")

    def clean() -> None:
        for folder in (place, inputs / "cache"):
            shutil.rmtree(folder, ignore_errors=True)

    began = time.monotonic()
    process = start(*work.words)
    process.join(300)
    assert process.exitcode == 0, (inputs / "said.txt").read_text()
    seconds = time.monotonic() - began
    place.rename(whole)
    clean()
    expected, wanted = names(whole), work.contents(whole)
    killed, before, says = 0, {}, ""
    while True:
        process = start(*work.words, *work.again)
        process.join(moments.uniform(0, seconds) if killed < KILLS else 300)
        process.kill()
        process.join()
        said = (inputs / "said.txt").read_text()
        died = process.exitcode == -signal.SIGKILL and killed < KILLS
        assert died or process.exitcode == 0, said
        now, found = written(place), work.contents(place)
        again = [str(path) for path, mark in before.items() if now.get(path) != mark]
        assert len(again) <= work.twice, again
        assert found == {name: wanted[name] for name in found}  # nothing is torn
        if died:
            killed, before, says = killed + 1, now, work.goes_on(place)
            continue
        assert says in said
        assert found.keys() == wanted.keys()
        assert names(place) == expected
        if killed == KILLS:
            break
        clean()
        before, says = {}, ""


# Workers of a process that was killed.


def test_worker_processes_end_with_their_parent():
    """Else they would wait for ever, or write what another run has begun to write anew."""
    item = r"import os, time; os.write(1, b'%d\n' % os.getpid()); time.sleep(600)"  # whole lines, where both write at once
    code = (
        f"from basicsr.utils.parallel import in_parallel\nif __name__ == '__main__': list(in_parallel(exec, [{item!r}] * 2, 2))"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, text=True
    )
    workers = {int(parent.stdout.readline()) for _ in range(2)}
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == ""  # comes when the last of them has closed it
    assert len(workers) == 2


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
def test_data_workers_let_go_of_the_folder(inputs, start):
    """They are copies of the process that was killed, its lock included; at once another one may go on."""
    process = start("train", "-opt", "train.yml", "--force_yml", "train:total_iter=100000")
    until = time.monotonic() + 300
    while not list(inputs.glob("experiments/run/training_states/*.state")) and time.monotonic() < until:
        time.sleep(0.02)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()
    process.join()
    assert len(workers) == 2
    until = time.monotonic() + 3  # torch takes five seconds to notice
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < until:
        time.sleep(0.02)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
