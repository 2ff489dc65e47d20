"""Bring Rain13K and its five test sets into the toolbox's layout.

<input>/train/{input,target} (or train/Rain13K/…, or Rain13K/…) become <output>/train/{input,target}, and
<input>/test/<set>/{input,target} become <output>/test/<set>/{input,target}. Left out are a second copy of a picture, such as
`926_10(1).jpg` in early copies of Test2800, and pairs of different sizes, of which Rain13K has one. Safe to run twice.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from basicsr.engine.preparing.archives import Pair, by_name, contents, images, pair_up, place, subfolder
from basicsr.errors import UserError, first_ten
from basicsr.utils.image import image_size

EXPECTED = {"train": 13711, "Test100": 98, "Rain100H": 100, "Rain100L": 100, "Test2800": 2800, "Test1200": 1200}
logger = logging.getLogger("basicsr")


def pairs(folder: Path) -> list[Pair]:
    """Of a folder with input and target."""
    sides = [[path for path in images(folder / side) if not _is_copy(path)] for side in ("input", "target")]
    found = pair_up(*map(by_name, sides))
    unequal = [pair.name for pair in found if image_size(pair.degraded) != image_size(pair.sharp)]
    if unequal:
        logger.warning("%s: pairs of different sizes are left out: %s.", folder, first_ten(unequal))
    return [pair for pair in found if pair.name not in unequal]


def _is_copy(path: Path) -> bool:
    """Whether it is `x(1).jpg` beside `x.jpg`."""
    original = path.with_name(re.sub(r"\(\d+\)$", "", path.stem) + path.suffix)
    if original == path or not original.is_file():
        return False
    logger.warning("%s is left out: it is a second %s.", path, original.name)
    return True


def prepare(root: Path, output: Path, *, link: bool = False, workers: int | None = None) -> Iterator[str]:
    """As `gopro.prepare`."""
    train, test = subfolder(root, "train") or root, subfolder(root, "test") or root
    train = subfolder(train, "Rain13K") or train
    places = {"train": train} | {name: folder for name in EXPECTED if name != "train" and (folder := subfolder(test, name))}
    places = {name: folder for name, folder in places.items() if (folder / "input").is_dir() and (folder / "target").is_dir()}
    if not places:
        raise UserError(f"--input: {root} holds neither train nor test with input and target, but {contents(root)}.")
    found = {name: pairs(folder) for name, folder in places.items()}
    for name, pictures in found.items():
        folder = output / ("train" if name == "train" else f"test/{name}")
        yield place(pictures, folder / "input", folder / "target", expected=EXPECTED[name], link=link, workers=workers)
