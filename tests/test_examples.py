"""examples/my_arch/README.md, followed to the letter: every command of the page, on small pictures and for few iterations."""

import json
import re
import shlex
import shutil

import cv2
import pytest
from conftest import REPOSITORY, write

PAGE = REPOSITORY / "examples/my_arch/README.md"
# What makes a command quick; everything else is as on the page.
QUICK = {
    "pairs": ["--crop", "80", "--val_crop", "96", "--workers", "1"],
    "train": [
        "--force_yml",
        "train:total_iter=4",
        "train:scheduler:T_max=4",
        "val:val_freq=2",
        "datasets:train:batch_size_per_gpu=2",
    ],
    "sweep": ["--max_images", "2"],
}


def blocks(language: str) -> list[str]:
    """The page's blocks of code in a language; commands have none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def commands() -> list[list[str]]:
    """The words of every command on the page; a backslash goes on in the next line."""
    return [shlex.split(line) for block in blocks("") for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
def place(root, forget_own_code):
    """A repository with the example and with a piece of each of the bundled photographs."""
    shutil.copytree(REPOSITORY / "examples", root / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for file in sorted((REPOSITORY / "datasets/Sample/test/target").iterdir()):
        piece = cv2.imread(str(file))[300:396, 500:620]
        write(root / "datasets/Sample/test/target" / file.name, piece[..., ::-1])
    return root


def test_the_page_can_be_followed(place, run, forget_own_code):
    reports = {}
    for program, name, *args in commands():
        assert program == "tlc"
        forget_own_code()  # each command is a process of its own
        outcome = run(name, *args, *QUICK.get(name, []))
        assert outcome.code == 0, (name, outcome)
        assert "random initial weights" not in outcome.out
        if name == "test":
            reports[tuple(args)] = json.loads((place / "results/my_arch-test/report.json").read_text())

    for file in ("net_g_best.pth", "net_g_latest.pth"):
        assert (place / "experiments/my_arch/models" / file).is_file()
    by_suffix, by_reference = reports.values()
    plain, local = by_suffix["runs"]
    assert (plain["network"], local["network"]) == ("MyNet", "MyNetLocal")
    assert plain["metrics"]["psnr"] != local["metrics"]["psnr"]
    assert [run["metrics"] for run in by_reference["runs"]] == [plain["metrics"], local["metrics"]]  # two spellings of one net
    swept = json.loads((place / "results/sweep_my_arch-test/sweep.json").read_text())
    assert [window["base_size"] for window in swept["windows"]] == ["global", 64, 96, 128, 192, 256]
    assert len(list((place / "results/my_arch").glob("*_compare.png"))) == len(local["images"])


def test_the_page_shows_the_shipped_net():
    (shown,) = blocks("python")
    assert shown in (PAGE.parent / "my_arch.py").read_text(encoding="utf-8")
