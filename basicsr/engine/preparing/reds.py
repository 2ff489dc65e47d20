"""Bring the REDS archives (blur with JPEG artefacts, and sharp) into the toolbox's layout.

<input>/val/val_blur_jpeg/000/00000009.jpg and <input>/val/val_sharp/000/00000009.png become
<output>/val/{blur_300,sharp_300}/000_00000009.*, and the two folders also LMDBs of their names: REDS-val-300, the frames whose
number ends in 9. <input>/train/{train_blur_jpeg,train_sharp} become <output>/train/{blur_jpeg,sharp}, all frames.
Safe to run twice.
"""

from collections.abc import Iterator
from pathlib import Path

from basicsr.data.packing import write_lmdb
from basicsr.engine.preparing.archives import Pair, contents, images, pair_up, place, subfolder
from basicsr.errors import UserError

EXPECTED = {"train": 24000, "val": 300}
FOLDERS = {"train": ("blur_jpeg", "sharp"), "val": ("blur_300", "sharp_300")}


def flat(folder: Path, last_digit: str) -> dict[str, Path]:
    """000/00000009.png under the name 000_00000009, for frames whose number ends in `last_digit`."""
    frames = [path for path in images(folder) if path.stem.endswith(last_digit)]
    return {"_".join(path.relative_to(folder).with_suffix("").parts): path for path in frames}


def pairs(root: Path, split: str) -> list[Pair]:
    """The frames of 'train' or 'val'; none when the archive lacks the split."""
    places = [root, *filter(None, [subfolder(root, split)])]
    sides = [f"{split}_blur_jpeg", f"{split}_sharp"]
    found = [next((folder for place in places if (folder := subfolder(place, side))), None) for side in sides]
    if not any(found):
        return []
    if not all(found):
        present, absent = found[0] or found[1], sides[found.index(None)]
        raise UserError(f"--input: {present} is there, but {absent} is not; unpack both archives into {root}.")
    return pair_up(*(flat(folder, "9" if split == "val" else "") for folder in found))


def prepare(root: Path, output: Path, *, link: bool = False, workers: int | None = None) -> Iterator[str]:
    """As `gopro.prepare`."""
    frames = {split: found for split in EXPECTED if (found := pairs(root, split))}
    if not frames:
        raise UserError(
            f"--input: {root} holds neither val/val_blur_jpeg nor train/train_blur_jpeg, but {contents(root)}; "
            "give the folder into which the archives were unpacked."
        )
    for split, found in frames.items():
        folders = [output / split / side for side in FOLDERS[split]]
        yield place(found, *folders, expected=EXPECTED[split], link=link, workers=workers)
        if split == "val":  # the published YAML files read LMDBs
            for folder in folders:
                packed = folder.with_name(f"{folder.name}.lmdb")
                yield f"{write_lmdb(folder, packed, workers=workers)} images in {packed}"
