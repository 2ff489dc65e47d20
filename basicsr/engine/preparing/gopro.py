"""Bring the GoPro archive (GOPRO_Large) into the toolbox's layout.

<input>/{train,test}/<clip>/{blur,sharp}/000001.png become <output>/{train,test}/{input,target}/<clip>-000001.png. `blur_gamma`
is left out: papers use `blur`. A folder `train` or `test` alone is taken, too. Safe to run twice.
"""

from collections.abc import Iterator
from pathlib import Path

from basicsr.engine.preparing.archives import Pair, by_name, contents, images, pair_up, place, subfolder
from basicsr.errors import UserError, first_ten

EXPECTED = {"train": 2103, "test": 1111}


def splits(root: Path) -> dict[str, Path]:
    """'train' and 'test', as far as they are there, to their folders."""
    found = {split: folder for split in EXPECTED if (folder := subfolder(root, split))}
    if not found and root.name.lower() in EXPECTED:
        found = {root.resolve().name.lower(): root}
    if not found:
        raise UserError(f"--input: {root} holds neither train nor test, but {contents(root)}; give the folder GOPRO_Large.")
    return found


def pairs(split: Path) -> list[Pair]:
    clips = sorted(path for path in split.iterdir() if path.is_dir())
    if bare := [clip.name for clip in clips if not (subfolder(clip, "blur") and subfolder(clip, "sharp"))]:
        raise UserError(f"--input: clips of {split} without the folders blur and sharp: {first_ten(bare)}.")
    found = []
    for clip in clips:
        sides = (by_name(images(subfolder(clip, side))) for side in ("blur", "sharp"))
        found += pair_up(*sides, prefix=f"{clip.name}-")
    if not found:
        raise UserError(f"--input: {split} holds no clips with frames.")
    return found


def prepare(root: Path, output: Path, *, link: bool = False, workers: int | None = None) -> Iterator[str]:
    """Place all frames of an archive; yields a line for each part that is done.

    Args:
        root: the unpacked archive. link: link the files instead of copying them. workers: processes; None: one a core.

    Raises:
        UserError: an archive of another layout, damaged frames; all is found before anything is written.
    """
    frames = {split: pairs(folder) for split, folder in splits(root).items()}
    for split, found in frames.items():
        degraded, sharp = output / split / "input", output / split / "target"
        yield place(found, degraded, sharp, expected=EXPECTED[split], link=link, workers=workers)
