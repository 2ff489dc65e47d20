"""Two processes do what one does: started by torchrun and by slurm's variables, on CPUs through gloo."""

import contextlib
import csv
import importlib
import io
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, make_pairs, write_yaml

from basicsr import options
from basicsr.errors import UserError
from basicsr.utils import dist
from basicsr.utils.log import run_entry_point

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
NAMES = tuple("abcde")  # an odd number: one process has one image more

# Runs entry points one after another: `train -opt a.yml + test -opt b.yml`; relative paths start at the current folder. The
# processes join one another once, which is what makes the first of them alone speak.
LAUNCHER = """
import os, sys
from itertools import groupby
from pathlib import Path
from basicsr import options
options.ROOT = Path.cwd()
import basicsr.test, basicsr.train
from basicsr.utils import dist
from basicsr.utils.log import run_entry_point
FAULT
stop, dist.stop = dist.stop, lambda: None
for more, words in groupby(sys.argv[1:], lambda word: word != "+"):
    if more:
        name, *sys.argv[1:] = words
        code = run_entry_point({"train": basicsr.train, "test": basicsr.test}[name].main)
        if dist.is_main():
            print(f"{name} ended with {code}", flush=True)
        else:
            sys.stdout = open(os.devnull, "w")
stop()
sys.exit(code)
"""
FAULT = """
if os.environ["RANK"] == "1":
    def broken(self, *_arguments):
        raise ZeroDivisionError("only in process 1")
    from basicsr.data.paired_image_dataset import PairedImageDataset
    PairedImageDataset.patch = broken
"""
# A metric of the whole set: how far the mean colours of all restored images are from the first image's.
OF_SET = """
import numpy as np

def colours(img1, img2):
    return img1.mean((0, 1))

colours.of_set = lambda arrays: float(np.abs(np.stack(arrays) - arrays[0]).sum())
"""


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in VARIABLES and not key.startswith("SLURM")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **more}


def torchrun(root: Path, *args: str, fault: str = "") -> subprocess.CompletedProcess:
    """LAUNCHER in two processes under torchrun, in `root`."""
    script = root / "launcher.py"
    script.write_text(LAUNCHER.replace("FAULT", fault))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    return subprocess.run([*words, *args], cwd=root, env=environment(), capture_output=True, text=True, timeout=400)


def one_process(root: Path, entry: str, *args: str) -> str:
    """An entry point in this process; returns what it wrote to the screen."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        logger = logging.getLogger("basicsr")
        for name in ("handlers", "level", "propagate"):
            patch.setattr(logger, name, getattr(logger, name))
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        patch.setattr(options, "ROOT", root)
        patch.chdir(root)
        module = importlib.import_module(f"basicsr.{entry}")
        patch.setattr(sys, "argv", [entry, *args])
        code = run_entry_point(module.main)
    assert code == 0, out.getvalue()
    return out.getvalue()


def training(name: str) -> dict:
    """Global batch 4 of progressive sizes, EMA, validation with pictures."""
    pairs = {"dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}
    return {
        "name": name,
        "num_gpu": 0,
        "datasets": {
            "train": {
                **pairs,
                "use_flip": True,
                "use_rot": True,
                "progressive": [
                    {"iters": 5, "gt_size": 8, "batch_size": 8, "batch_size_per_gpu": 2},
                    {"iters": 3, "gt_size": 16, "batch_size": 4, "batch_size_per_gpu": 2},
                ],
            },
            "val": pairs,
        },
        "network_g": {"type": "NAFNet", "width": 4, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1]},
        "train": {
            "total_iter": 8,
            "ema_decay": 0.7,
            "optim_g": {"type": "AdamW", "lr": 1e-3},
            "scheduler": {"type": "TrueCosineAnnealingLR", "T_max": 8},
            "pixel_opt": {"type": "PSNRLoss"},
        },
        "val": {
            "val_freq": 4,
            "save_img": True,
            "metrics": {
                "psnr": {"type": "calculate_psnr", "crop_border": 0},
                "ssim": {"type": "calculate_ssim", "crop_border": 0},
            },
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 8, "use_tb_logger": False},
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("distributed")
    make_pairs(root / "datasets/Set", names=NAMES)
    (root / "of_set.py").write_text(OF_SET)
    return root


def evaluation(name: str) -> dict:
    """Plain and local, with the weights of the training by one process."""
    opt = training(name)
    opt["datasets"] = {"test": {**opt["datasets"]["val"], "name": "Set"}}
    opt["path"] = {"pretrain_network_g": "experiments/by1/models/net_g_8.pth"}
    opt["network_g"] |= {"tlc": {"train_size": 16, "base_size": 20}}
    opt["val"]["val_freq"] = None
    opt["val"]["metrics"] = {**opt["val"]["metrics"], "colours": {"type": "of_set:colours"}}
    return opt


def mistaken(name: str) -> dict:
    """A batch that nobody can share out."""
    opt = training(name)
    opt["datasets"]["train"]["progressive"][0]["batch_size"] = 3
    return opt


@dataclass(frozen=True)
class Runs:
    """What the training and the test wrote to the screen by number of processes, the dry run of two, and how these end."""

    root: Path
    trained: dict[int, str]
    tested: dict[int, str]
    tried: str
    end: subprocess.CompletedProcess

    def training(self, processes: int) -> Path:
        return self.root / f"experiments/by{processes}"

    def results(self, processes: int) -> Path:
        return self.root / f"results/test{processes}"


@pytest.fixture(scope="module")
def runs(place) -> Runs:
    """The same training and test by one process and by two; the two then try one, and start one with a mistake."""
    for name, make in (
        ("by1", training),
        ("by2", training),
        ("test1", evaluation),
        ("test2", evaluation),
        ("mistake", mistaken),
    ):
        write_yaml(place / f"{name}.yml", make(name))
    both = ("--tlc", "both")
    by1 = one_process(place, "train", "-opt", "by1.yml")
    test1 = one_process(place, "test", "-opt", "test1.yml", *both)
    commands = (
        ("train", "-opt", "by2.yml"),
        ("test", "-opt", "test2.yml", *both),
        ("train", "-opt", "by2.yml", "--dry_run"),
        ("train", "-opt", "mistake.yml"),
    )
    end = torchrun(place, *" + ".join(map(" ".join, commands)).split())
    by2, test2, tried, _ = re.split(r"(?:train|test) ended with 0\n", end.stdout)
    return Runs(place, {1: by1, 2: by2}, {1: test1, 2: test2}, tried, end)


def table(folder: Path, name: str = "metrics.csv") -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def test_one_process_speaks(runs):
    for processes in (1, 2):
        assert runs.trained[processes].count("Finished: ") == 1
        assert runs.trained[processes].count("iter 8/8") == 1
        assert runs.tested[processes].count("Report: ") == 1
        assert runs.tested[processes].count("\n  gain of TLC") == 1  # the table's row; sentences follow


def test_two_processes_train_as_one(runs):
    """The same losses, gradients, learning rates, epochs; not the same by chance: the losses change from step to step."""
    one, two = (table(runs.training(n)) for n in (1, 2))
    assert [row["iter"] for row in one] == [row["iter"] for row in two] == list("1234456788")
    steps = [(a, b) for a, b in zip(one, two, strict=True) if a["loss"]]
    assert len(steps) == 8
    assert len({a["loss"] for a, _ in steps}) == 8
    for a, b in steps:
        assert float(b["loss"]) == pytest.approx(float(a["loss"]), rel=1e-5)
        assert float(b["psnr"]) == pytest.approx(float(a["psnr"]), rel=1e-5)
        assert float(b["grad_norm"]) == pytest.approx(float(a["grad_norm"]), rel=1e-3)
        assert (b["lr"], b["epoch"]) == (a["lr"], a["epoch"])


def test_two_processes_validate_alike(runs):
    """Up to the rounding to 8 bits, for the weights differ in their last digits; with equal weights, see below."""
    rows = [[row for row in table(runs.training(n)) if row["val_psnr"]] for n in (1, 2)]
    assert len(rows[0]) == 2
    for a, b in zip(*rows, strict=True):
        for metric in ("val_psnr", "val_ssim"):
            assert float(b[metric]) == pytest.approx(float(a[metric]), rel=1e-3)
    pictures = [sorted(str(p.relative_to(runs.training(n))) for p in runs.training(n).rglob("*.png")) for n in (1, 2)]
    assert pictures[0] == pictures[1]
    assert {f"visualization/8/{name}.png" for name in NAMES} <= set(pictures[1])


def test_two_processes_have_the_weights_of_one(runs):
    one, two = (torch.load(runs.training(n) / "models/net_g_8.pth", weights_only=True) for n in (1, 2))
    assert list(two) == ["params", "params_ema", "metadata"]  # without the prefix of any wrapper
    assert one.pop("metadata") == two.pop("metadata")
    for key in one:
        assert one[key].keys() == two[key].keys()
        for name, value in one[key].items():
            torch.testing.assert_close(two[key][name], value, rtol=1e-3, atol=2e-5)
    states = [torch.load(runs.training(n) / "training_states/8.state", weights_only=True) for n in (1, 2)]
    assert [state["seen"] for state in states] == [5 * 8 + 3 * 4] * 2
    assert states[0]["best"]["iter"] == states[1]["best"]["iter"]


def test_a_run_of_two_goes_on_with_one(runs, place):
    """The last validation of two processes, done again by one with the same weights; then a step more."""
    folder = place / "experiments/again"
    shutil.copytree(runs.training(2), folder)
    state = torch.load(folder / "training_states/8.state", weights_only=True)
    torch.save({**state, "validate": True}, folder / "training_states/8.state")
    (folder / "training_states/latest.state").unlink()
    opt = training("again")
    opt["train"]["total_iter"] = 9
    opt["datasets"]["train"]["progressive"][1]["iters"] = 4
    out = one_process(place, "train", "-opt", str(write_yaml(place / "again.yml", opt)), "--auto_resume")
    assert "at iteration 8" in out
    assert "iter 8, validation psnr" in out
    before, after = (table(path) for path in (runs.training(2), folder))
    assert [row["iter"] for row in after] == [*(row["iter"] for row in before), "9", "9"]
    for metric in ("val_psnr", "val_ssim"):
        assert float(after[len(before) - 1][metric]) == pytest.approx(float(before[-1][metric]), rel=1e-6)
    assert (folder / "models/net_g_9.pth").is_file()


def test_two_processes_test_as_one(runs):
    one, two = (table(runs.results(n), "images.csv") for n in (1, 2))
    assert [row["image"] for row in two] == [*NAMES, *NAMES]  # each once for each network, in order
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in two] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in one
    ]
    assert len({row["psnr"] for row in two[:5]}) == 5
    assert [row["psnr"] for row in two[:5]] != [row["psnr"] for row in two[5:]]
    reports = [json.loads((runs.results(n) / "report.json").read_text()) for n in (1, 2)]
    for report in reports:
        del report["created"], report["name"], report["config"]["name"]
        for run in report["runs"]:
            assert run.pop("seconds_per_image") > 0
            assert all(image.pop("seconds") > 0 for image in run["images"])
    assert reports[0] == reports[1]
    assert all(run["metrics"]["colours"] > 0 for run in reports[1]["runs"])  # of all images, whichever process had them
    for name in NAMES:
        for network in ("NAFNet", "NAFNetLocal"):
            file = f"visualization/test/{network}/{name}.png"
            assert (runs.results(1) / file).read_bytes() == (runs.results(2) / file).read_bytes()


def test_two_processes_plan_as_two(runs):
    assert runs.tried.count("8 = 2 x 2 x 2") == 1


def test_an_exception_in_one_process_shows_its_own_traceback(place):
    write_yaml(place / "fault.yml", training("fault"))
    done = torchrun(place, "train", "-opt", "fault.yml", fault=FAULT)
    assert done.returncode != 0
    assert "ZeroDivisionError: only in process 1" in done.stderr
    assert "in broken" in done.stderr  # the traceback's line
    assert "rank      : 1" in done.stderr.split("Root Cause")[1]


def test_a_mistake_is_said_once(runs):
    """All processes find it; the first one says it, all end."""
    assert runs.end.returncode != 0
    lines = [line for line in runs.end.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1, runs.end.stderr
    assert "a global batch of 3 cannot be shared out to 2 processes that take 2 at once" in lines[0]
    assert "start a number of processes that divides it" in lines[0]
    assert not (runs.root / "experiments/mistake").exists()


# Slurm; test_peers.py starts two processes by it.


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def no_launcher(monkeypatch) -> None:
    """Whatever started the tests. What `dist.start` sets is undone, too."""
    for name in (*VARIABLES, *(key for key in os.environ if key.startswith("SLURM"))):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def slurm(monkeypatch, no_launcher) -> Iterator[None]:
    """The variables of the second of four tasks; joining the others is left out."""
    values = {"SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    joined = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **_: joined.append(args))
    monkeypatch.setattr(dist, "is_main", lambda: True)
    yield
    assert len(joined) <= 1


@pytest.mark.parametrize(
    ("variable", "nodes", "address"),
    [
        ("SLURM_NODELIST", "node7", "node7"),
        ("SLURM_STEP_NODELIST", "gpu[03-04]", "gpu03"),
        ("SLURM_NODELIST", "a1,a2", "a1"),
        (None, None, "127.0.0.1"),
    ],
)
def test_slurms_variables(variable, nodes, address, slurm, tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\ncase "$3" in "gpu[03-04]") echo gpu03; echo gpu04;; a1,a2) echo a1; echo a2;; esac\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if variable:
        monkeypatch.setenv(variable, nodes)
    dist.start("slurm")
    found = {name: os.environ[name] for name in VARIABLES}
    assert found.pop("MASTER_PORT").isdigit()
    assert found == {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": address}


def test_ones_own_address_is_left(slurm, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.7")
    monkeypatch.setenv("MASTER_PORT", "12345")
    monkeypatch.setenv("SLURM_NODELIST", "gpu[03-04]")  # nobody asks scontrol
    dist.start("slurm")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("10.0.0.7", "12345")


def test_slurm_without_scontrol(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_NODELIST", "gpu[03-04]")
    with pytest.raises(UserError, match=r"scontrol cannot name the nodes gpu\[03-04\]; set MASTER_ADDR"):
        dist.start("slurm")


# The command line.


@pytest.mark.parametrize(
    ("launcher", "words"), [("slurm", "SLURM_NTASKS is not set; start it with srun"), ("pytorch", "start it with `torchrun")]
)
@pytest.mark.parametrize("entry", ["train", "test"])
def test_a_launcher_that_is_not_there(entry, launcher, words, no_launcher, root, train_options, run):
    file = write_yaml(root / "opt.yml", train_options)
    outcome = run(entry, "-opt", file, "--launcher", launcher)
    assert outcome.code == 2
    assert outcome.err.count("error:") == 1
    assert f"--launcher {launcher}: " in outcome.err
    assert words in outcome.err


@pytest.mark.parametrize("entry", ["train", "test"])
@pytest.mark.parametrize("words", [["--local_rank", "0"], ["--local-rank", "0"], ["--local_rank=0"], ["--local-rank=0"]])
def test_both_spellings_of_local_rank(words, entry, no_launcher, monkeypatch, root, train_options, test_options, run):
    make_pairs(root / "datasets/Set")
    seen = []
    monkeypatch.setattr(dist, "start", lambda *args: seen.append(args))
    extra = ["--dry_run"] if entry == "train" else []
    file = write_yaml(root / "opt.yml", train_options if entry == "train" else test_options)
    assert run(entry, "-opt", file, *words, *extra).code == 0
    assert seen == [(None, 0)]


def test_the_flag_stands_in_for_the_variable(no_launcher):
    dist.start(None, 3)
    assert os.environ["LOCAL_RANK"] == "3"
    dist.start(None, 2)
    assert os.environ["LOCAL_RANK"] == "3"  # the variable wins


def test_one_process_needs_no_launcher(no_launcher):
    dist.start("none")
    assert (dist.rank(), dist.world_size(), dist.is_main()) == (0, 1, True)
    assert dist.gather({"a": 1}) == [{"a": 1}]
    assert dist.any_true(True)
    assert not dist.any_true(False)
    with pytest.raises(UserError, match="wrong"):
        dist.together(lambda: (_ for _ in ()).throw(UserError("wrong")))
    dist.stop()
