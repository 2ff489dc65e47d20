"""Cut the training pictures for Gaussian noise: DIV2K, Flickr2K, BSD400 and WED, together DFWB.

<input>/{DIV2K,Flickr2K,WaterlooED,BSD400}/*: pictures with both sides above 800 are cut to 512x512 every 416 pixels, the last
crop flush with the border; the others are taken whole. All come to lie in <output>/<folder>-<name>_s001.png. Safe to run twice.
"""

from collections.abc import Iterator
from pathlib import Path

from basicsr.engine.preparing.archives import contents, images, no_links, subfolder
from basicsr.engine.preparing.crops import Box, Job, boxes, numbered, write_crops
from basicsr.errors import UserError
from basicsr.utils.image import image_size

FOLDERS = {"DIV2K": 800, "Flickr2K": 2650, "WaterlooED": 4744, "BSD400": 400}  # pictures
CROP, STEP, LARGE = 512, 416, 800


def job(file: Path, name: str, output: Path) -> Job:
    size = image_size(file)
    return Job(file, numbered(output, name, boxes(size, CROP, STEP) if min(size) > LARGE else [Box(0, 0, *size)]))


def prepare(root: Path, output: Path, *, link: bool = False, workers: int | None = None) -> Iterator[str]:
    """As `gopro.prepare`; raises UserError with `link`."""
    no_links(link)
    found = {name: folder for name in FOLDERS if (folder := subfolder(root, name))}
    if absent := FOLDERS.keys() - found.keys():
        raise UserError(f"--input: {root} lacks {', '.join(sorted(absent))}; it holds {contents(root)}. Unpack all four there.")
    jobs = []
    for name, folder in found.items():
        files = images(folder)
        jobs += [job(file, f"{name}-{file.stem}", output) for file in files]
        if len(files) != FOLDERS[name]:
            yield f"{folder}: {len(files):,} pictures; the published set has {FOLDERS[name]:,}"
    yield write_crops(jobs, output, {"crop_size": CROP, "step": STEP, "larger_than": LARGE}, workers)
