"""Bring the HIDE archive's test set into the toolbox's layout.

<input>/test/{test-close-ups,test-long-shot}/x.png and <input>/GT/x.png become <output>/test/{input,target}/x.png. The training
set is left out: networks are trained on GoPro and tested on HIDE. Safe to run twice.
"""

from collections.abc import Iterator
from pathlib import Path

from basicsr.engine.preparing.archives import Pair, by_name, contents, images, pair_up, place, subfolder
from basicsr.errors import UserError

EXPECTED = 2025
PARTS = ("test-close-ups", "test-long-shot")
TRUTH = ("GT", "ground_truth", "target", "sharp")


def pairs(root: Path) -> list[Pair]:
    test = root if subfolder(root, *PARTS) else subfolder(root, "test")
    if test is None:
        raise UserError(f"--input: {root} holds no folder test, but {contents(root)}; give the folder that holds test and GT.")
    truth = next((found for place in (root, test, root.parent) if (found := subfolder(place, *TRUTH))), None)
    if truth is None:
        raise UserError(f"--input: {root} holds no folder GT, but {contents(root)}; give the folder that holds test and GT.")
    parts = [folder for part in PARTS if (folder := subfolder(test, part))] or [test]
    degraded = by_name([path for part in parts for path in images(part) if not path.is_relative_to(truth)])
    if not degraded:
        raise UserError(f"--input: {test} holds no images.")
    # GT holds the training set's frames, too, perhaps in a folder of their own.
    sharp = by_name([path for path in images(truth) if path.stem in degraded])
    return pair_up(degraded, sharp, spare_sharp=True)


def prepare(root: Path, output: Path, *, link: bool = False, workers: int | None = None) -> Iterator[str]:
    """As `gopro.prepare`."""
    yield place(pairs(root), output / "test/input", output / "test/target", expected=EXPECTED, link=link, workers=workers)
