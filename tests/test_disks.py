"""A disk that is full or read-only, wherever something is written: one sentence that names the file, nothing half-written."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
import torch
from conftest import REPOSITORY, SMALL_NETS, Outcome, make_pairs, picture, write, write_yaml

from basicsr import options
from basicsr.archs import build_network
from basicsr.data import packing
from basicsr.engine.training.state import Progress
from basicsr.engine.training.watch import Watch
from basicsr.errors import DiskError, UserError
from basicsr.utils.checkpoint import read_torch
from basicsr.utils.files import append, remove_unfinished, require_writable, temporary_beside, write_bytes
from basicsr.utils.log import log_to_file, setup_logging

SIZE = 4 << 20  # bytes of the disk


@dataclass(frozen=True)
class Run:
    """A command that writes.

    room: bytes that are left when it begins: enough to begin with, too few to end.
    named: the file or folder that cannot be written then. refused: what is named on a read-only disk.
    earlier: commands before it, whose results are not to be touched.
    """

    words: tuple[str, ...]
    room: int
    named: str
    refused: str
    earlier: tuple[tuple[str, ...], ...] = ()


TRAIN, TEST = ("train", "-opt", "train.yml"), ("test", "-opt", "test.yml")
CROPS = ("--output", "out/crops", "--crop_size", "24", "--step", "8", "--workers", "1")
NOISE = ("--output", "out/noisy", "--kind", "noise", "--workers", "1")
RESTORED = ("--output", "out/restored", "-opt", "test.yml")
RUNS = {
    "train": Run(TRAIN, 40_000, "experiments/run/models/net_g_2.pth", "experiments/run"),
    "train, its table": Run(TRAIN, 12_000, "experiments/run/metrics.csv", "experiments/run"),
    "train, going on": Run(
        (*TRAIN, "--auto_resume", "--force_yml", "train:total_iter=8"),
        12_000,
        "experiments/run/models/net_g_6.pth",
        "experiments/run",
        earlier=(TRAIN,),
    ),
    "test": Run(TEST, 12_000, "results/run/progress-0.jsonl", "results/run"),
    "test, going on": Run(
        (*TEST, "--resume"), 12_000, "results/run/report.json", "results/run", earlier=((*TEST, "--max_images", "1"),)
    ),
    "lmdb": Run(("lmdb", "--input", "photos", "--output", "out/x.lmdb", "--workers", "1"), 40_000, "out/x.lmdb", "out/x.lmdb"),
    "crops": Run(
        ("crops", "--input", "photos", *CROPS), 12_000, "out/crops/2_s00", "out/crops", (("crops", "--input", "first", *CROPS),)
    ),
    "degrade": Run(
        ("degrade", "--input", "photos", *NOISE), 12_000, "out/noisy/", "out/noisy", (("degrade", "--input", "first", *NOISE),)
    ),
    "restore": Run(
        ("restore", "photos", *RESTORED, "--resume"),
        12_000,
        "out/restored/",
        "out/restored",
        (("restore", "first", *RESTORED),),
    ),
    "restore, one": Run(("restore", "photos/0.png", "--output", "out/0.tif", "-opt", "test.yml"), 4_000, "out/0.tif", "out"),
    "compare": Run(
        ("restore", "photos/0.png", "--output", "out/0.png", "-opt", "test.yml", "--compare"),
        12_000,
        "out/0_compare.png",
        "out",
    ),
    "export": Run(
        ("export", "-opt", "test.yml", "--format", "torchscript", "--output", "out/net.pt", "--sizes", "16x16"),
        12_000,
        "out/net.pt",
        "out",
    ),
    "weights": Run(
        ("weights", "convert", "net.pth", "out/net.safetensors"), 8_000, "out/net.safetensors", "out/net.safetensors"
    ),
    "weights, back": Run(
        ("weights", "convert", "out/first.safetensors", "out/net.pth"),
        8_000,
        "out/net.pth",
        "out/net.pth",
        (("weights", "convert", "net.pth", "out/first.safetensors"),),
    ),
    "sweep": Run(
        ("sweep", "-opt", "sweep.yml", "--windows", "16", "--train-size", "16", "--output", "out/sweep"),
        12_000,
        "out/sweep/sweep.png",
        "out/sweep",
    ),
    "pairs": Run(
        ("pairs", "--input", "photos", "--output", "out/pairs", "--val", "1", "--crop", "24", "--workers", "1"),
        12_000,
        "out/pairs/train/input_noise/",
        "out/pairs/train/input_noise",
    ),
    "init": Run(
        ("init", "test", "--gt", "datasets/Set/target", "--weights", "net.pth", "--output", "out/mine.yml"),
        0,
        "out/mine.yml",
        "out/mine.yml",
    ),
    "check-data": Run(
        ("check-data", "--gt", "datasets/Set/target", "--lq", "photos", "--csv", "out/problems.csv", "--workers", "1"),
        0,
        "out/problems.csv",
        "out",
    ),
}


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Iterator[Path]:
    """A small disk of its own, on which everything lies."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", place], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no small disk can be made here: {error}")
    if made.returncode:
        pytest.skip(f"no small disk can be made here: {made.stderr.strip()}")
    monkeypatch.setattr(options, "ROOT", place)
    monkeypatch.setattr(packing, "BATCH", 10_000)
    monkeypatch.setenv("TLC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(place)
    yield place
    monkeypatch.undo()
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def inputs(disk, train_options, test_options) -> Path:
    """What the commands read."""
    make_pairs(disk / "datasets/Set", names=tuple("ab"))
    for number in range(6):
        for folder in ("photos", "first")[: 2 if number < 2 else 1]:
            write(disk / f"{folder}/{number}.png", picture(number, 40, 48))
    torch.manual_seed(0)
    torch.save({"params": build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).state_dict()}, disk / "net.pth")
    test_options |= {"path": {"pretrain_network_g": "net.pth"}}
    write_yaml(disk / "test.yml", {**test_options, "val": {**test_options["val"], "save_img": True}})
    write_yaml(disk / "sweep.yml", test_options)
    train_options["train"]["total_iter"] = 4
    train_options["logger"]["save_checkpoint_freq"] = 2
    write_yaml(disk / "train.yml", train_options)
    (disk / "out").mkdir()
    return disk


@pytest.fixture
def before(request, inputs, run) -> dict[str, bytes]:
    """All files when the command begins, by path."""
    for words in RUNS[request.getfixturevalue("name")].earlier:
        outcome = run(*words)
        assert outcome.code == 0, outcome
    for handler in logging.getLogger("basicsr").handlers:
        handler.close()  # the log of that run: what is written cannot be mounted for reading alone
    return contents(inputs)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(disk: Path, room: int) -> None:
    """Until so many bytes are left."""
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - room))


def assert_refused(outcome: Outcome, named: str) -> None:
    """One sentence that names the file and says what to do; exit code 2."""
    assert outcome.code == 2, outcome
    errors = [line for line in outcome.err.splitlines() if "error:" in line]
    assert len(errors) == 1, outcome
    assert re.match(rf"error: (\S*/)?{re.escape(named)}\S*: cannot be written \([^)]+\); \w+ ", errors[0])
    assert "Traceback" not in outcome.out + outcome.err


def assert_whole(files: dict[str, bytes], disk: Path) -> None:
    """Each of the files can be read to its end; nothing but an LMDB's is left unfinished."""
    for name in files:
        path = disk / name
        if path.suffix == ".png":
            assert cv2.imread(name) is not None, name
        elif path.suffix in (".pth", ".state", ".safetensors"):
            read_torch(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            growing = path.suffix in (".log", ".csv", ".jsonl") or path.name.startswith("events.out")
            assert growing or name == "filler" or name.startswith("out/.x.lmdb.tmp/"), name


@pytest.mark.parametrize("name", RUNS)
def test_a_full_disk(name, before, disk, run):
    case = RUNS[name]
    fill(disk, case.room)
    assert_refused(run(*case.words), case.named)
    after = contents(disk)
    growing = (".log", ".csv", ".jsonl")
    assert {file: data for file, data in before.items() if not file.endswith(growing)}.items() <= after.items()
    assert_whole({file: data for file, data in after.items() if file not in before}, disk)
    (disk / "filler").unlink()
    assert run(*case.words).code == (2 if name == "check-data" else 0)


@pytest.mark.parametrize("name", RUNS)
def test_a_read_only_disk(name, before, disk, run):
    case = RUNS[name]
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert_refused(run(*case.words), case.refused)
    assert contents(disk) == before


def test_a_benchmark_is_refused_before_it_measures(inputs, run):
    subprocess.run(["mount", "-o", "remount,ro", inputs], check=True)
    assert_refused(run("benchmark", "-opt", "test.yml", "--train-size", "16", "--output", "out/bench"), "out")


def test_the_board_is_on_a_full_disk(disk, tmp_path):
    """TensorBoard writes in a thread of its own."""
    watch = Watch(Progress(), folder=tmp_path / "run", name="run", total_iter=9, metrics=[], board=disk / "tb")
    fill(disk, 0)
    figures = dict.fromkeys(("loss", "psnr", "grad_norm", "lr", "skipped", "it_per_s", "data_wait"), 1.0)
    setup_logging()

    def write() -> None:
        for iteration in range(2000):
            watch.training(iteration, 0, figures)

    with pytest.raises(DiskError, match=r"disk/tb: cannot be written \(No space left on device\); make room there"):
        write()
    with pytest.raises(DiskError):
        watch.close()


def test_a_log_that_cannot_be_written_ends_no_work(disk, capsys):
    setup_logging()
    log_to_file(disk / "run.log")
    fill(disk, 0)
    logger = logging.getLogger("basicsr")
    for number in range(300):  # some still fit into what the file has of the disk
        logger.info("line %d", number)
    out, err = capsys.readouterr()
    assert out.count("run.log: cannot be written ([Errno 28] No space left on device)") == 1
    assert out.count("line ") == 300
    assert "Traceback" not in out + err


def test_a_line_is_appended_whole_or_not_at_all(disk):
    write_bytes(disk / "table.csv", b"first\n")
    fill(disk, 0)
    with pytest.raises(DiskError, match=r"table.csv: cannot be written"):
        append(disk / "table.csv", "x" * 10_000 + "\n")  # the file's page takes 4 kB of it
    assert (disk / "table.csv").read_bytes() == b"first\n"


def test_a_file_larger_than_the_shell_allows(tmp_path):
    """`ulimit -f`"""
    code = "import sys; from basicsr.utils.log import run_entry_point; from basicsr.utils.files import write_bytes\n"
    code += "sys.exit(run_entry_point(lambda: write_bytes('x.bin', bytes(100_000))))"
    words = ["sh", "-c", 'ulimit -f 8; exec "$0" -c "$1"', sys.executable, code]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), "x.bin")
    assert "raise `ulimit -f`" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_what_is_said_goes_to_a_full_disk():
    """`tlc list > file`"""
    code = "import sys; from basicsr.utils.log import run_entry_point; sys.exit(run_entry_point(lambda: print('words')))"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, env=env, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: standard output: cannot be written (No space left on device); make room there.\n"


def test_a_folder_of_somebody_else(tmp_path, monkeypatch):
    """To root everything is allowed, so it is asked as somebody else."""
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "access", lambda *_: False)
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"made: cannot be written \(Permission denied\); allow this user to write there, or"):
        require_writable(tmp_path / "made")


# What killed processes leave.


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    """Where one is alone all of it, also below; else what a process left that is no more. Other files are left."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = temporary_beside(tmp_path / "a.png")
    left = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    elsewhere = left.with_name(".00000000-1-0.tmp")  # another computer's
    below = tmp_path / "sub" / left.name
    others = [tmp_path / ".vim.tmp", tmp_path / ".x.lmdb.tmp", tmp_path / "a.png"]
    below.parent.mkdir()
    for file in (mine, left, elsewhere, below, *others):
        file.touch()
    remove_unfinished(tmp_path)
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == {mine, elsewhere, below, *others}
    remove_unfinished(tmp_path, alone=True)
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == set(others)
