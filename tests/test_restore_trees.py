"""tlc restore on folder trees and patterns, and on names that differ in their suffix alone."""

from pathlib import Path

import pytest
from conftest import picture, write, write_yaml

NET = """
import torch
from torch import nn
from basicsr.archs import ARCHS

@ARCHS.register
class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x):
        return x * self.scale
"""
TREE = ("clipA/000.png", "clipA/001.png", "clipB/000.png", "top.png")


@pytest.fixture
def restore(root, run, forget_own_code):
    (root / "own.py").write_text(NET, encoding="utf-8")
    opt = write_yaml(root / "opt.yml", {"name": "x", "num_gpu": 0, "custom_modules": ["own.py"], "network_g": {"type": "Half"}})
    for seed, name in enumerate(TREE):
        write(root / "photos" / name, picture(seed))
    write(root / "photos/.ipynb_checkpoints/000-checkpoint.png", picture(9))
    return lambda *words: run("restore", "-opt", opt, *words)


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_mirrored(restore, root):
    outcome = restore("photos", "--output", "out")
    assert outcome.code == 0, outcome
    assert tree(root / "out") == list(TREE)
    assert restore("photos").code == 0
    assert tree(root / "photos_restored") == list(TREE)
    # Each is its own picture's result.
    for name in TREE:
        assert (root / "out" / name).read_bytes() == (root / "photos_restored" / name).read_bytes()
    assert len({(root / "out" / name).read_bytes() for name in TREE}) == 4


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("photos/**/*.png", list(TREE)),
        ("photos/*/000.png", ["clipA/000.png", "clipB/000.png"]),
        ("photos/clip[AB]/*.png", list(TREE[:3])),
        ("photos/clipA/*.png", ["000.png", "001.png"]),
    ],
)
def test_a_pattern_is_mirrored(pattern, places, restore, root):
    outcome = restore(pattern, "--output", "out")
    assert outcome.code == 0, outcome
    assert tree(root / "out") == places


def test_results_inside_of_the_folder_are_not_restored_again(restore, root):
    for _ in range(2):
        outcome = restore("photos", "--output", "photos/out")
        assert outcome.code == 0, outcome
    assert tree(root / "photos/out") == list(TREE)


def test_truths_lie_in_the_same_tree_or_in_none(restore, root):
    for name in TREE:
        write(root / "sharp" / name, picture(20))
    outcome = restore("photos", "--output", "out", "--target", "sharp")
    assert outcome.code == 0, outcome
    for name in TREE:
        assert f"PSNR of {name}: input " in outcome.out
    write(root / "flat/001.jpg", picture(21))
    outcome = restore("photos", "--output", "out", "--target", "flat")
    assert "PSNR of clipA/001.png: input " in outcome.out
    assert "flat has no picture called clipB/000, so that there is no PSNR." in outcome.out


def test_what_fails_is_named_by_its_place(restore, root):
    (root / "photos/clipB/000.png").write_bytes(b"")
    outcome = restore("photos", "--output", "out")
    assert outcome.code == 1
    assert "1 of 4 files failed: clipB/000.png" in outcome.out
    assert tree(root / "out") == [name for name in TREE if name != "clipB/000.png"]


def test_names_that_differ_in_their_suffix(restore, root):
    write(root / "two/a.jpg", picture(1))
    write(root / "two/a.png", picture(2))
    outcome = restore("two", "--output", "out", "--compare")
    assert outcome.code == 0, outcome
    assert tree(root / "out") == ["a.jpg", "a.png", "a_jpg_compare.png", "a_png_compare.png"]
    assert restore("two/a.jpg", "two/a.png", "--compare").code == 0
    made = ["a_jpg_restored.png", "a_jpg_restored_compare.png", "a_png_restored.png", "a_png_restored_compare.png"]
    assert tree(root / "two") == sorted(["a.jpg", "a.png", *made])


def test_a_comparison_takes_no_pictures_name(restore, root):
    write(root / "two/a.png", picture(1))
    write(root / "two/a_compare.png", picture(2))
    outcome = restore("two", "--output", "out", "--compare")
    assert outcome.code == 0, outcome
    assert tree(root / "out") == ["a.png", "a__compare.png", "a_compare.png", "a_compare_compare.png"]
    half = restore("two/a_compare.png", "--output", "half.png")
    assert half.code == 0
    assert (root / "out/a_compare.png").read_bytes() == (root / "half.png").read_bytes()


def test_two_folders_with_the_same_places(restore, root):
    write(root / "other/clipA/000.png", picture(8))
    outcome = restore("photos", "other", "--output", "out")
    assert outcome.code == 2
    assert "have the same name: both would become out/clipA/000.png" in outcome.err
    assert not (root / "out").exists()
