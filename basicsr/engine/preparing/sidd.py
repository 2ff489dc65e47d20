"""Cut SIDD's training pictures (SIDD-Medium, sRGB) into the crops that networks are trained on.

<input>[/Data]/<scene>/*_NOISY_SRGB_*.PNG and *_GT_SRGB_*.PNG become <output>/train/{input_crops,gt_crops}/<name>_s001.png and
so on, the name without the word that tells them apart: 512x512 every 384 pixels, the last one flush with the border. Safe to
run twice.
"""

from collections.abc import Iterator
from pathlib import Path

from basicsr.engine.preparing.archives import Pair, contents, images, no_links, pair_up, subfolder
from basicsr.engine.preparing.crops import Job, boxes, numbered, write_crops
from basicsr.errors import UserError, first_ten
from basicsr.utils.image import image_size

EXPECTED = 320
CROP, STEP = 512, 384


def pairs(root: Path) -> list[Pair]:
    files = images(subfolder(root, "Data") or root)
    sides = [{path.stem.replace(word, ""): path for path in files if word in path.stem} for word in ("_NOISY", "_GT")]
    if not any(sides):
        raise UserError(f"--input: {root} holds no *_NOISY_SRGB_*.PNG, but {contents(root)}; give the folder SIDD_Medium_Srgb.")
    return pair_up(*sides)


def prepare(root: Path, output: Path, *, link: bool = False, workers: int | None = None) -> Iterator[str]:
    """As `gopro.prepare`; raises UserError with `link`."""
    no_links(link)
    found = pairs(root)
    sizes = {pair.name: {image_size(pair.degraded), image_size(pair.sharp)} for pair in found}
    if wrong := [name for name, both in sizes.items() if len(both) > 1 or min(min(both)) < CROP]:
        raise UserError(f"--input: of two sizes, or smaller than {CROP}: {first_ten(wrong)}; unpack the archive again.")
    for side, folder in (("degraded", "input_crops"), ("sharp", "gt_crops")):
        place = output / "train" / folder
        jobs = [
            Job(getattr(pair, side), numbered(place, pair.name, boxes(min(sizes[pair.name]), CROP, STEP))) for pair in found
        ]
        line = write_crops(jobs, place, {"crop_size": CROP, "step": STEP}, workers)
        yield line if len(found) == EXPECTED else f"{line} (of {len(found)} pictures; the published set has {EXPECTED})"
