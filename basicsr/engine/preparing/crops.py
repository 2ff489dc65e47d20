"""Images cut into overlapping crops, so that training reads small files."""

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from basicsr.data.storage import FolderStorage
from basicsr.errors import UserError, first_ten
from basicsr.utils.files import write_bytes
from basicsr.utils.image import WHOLE, image_size, look_at, read_image_and_format, write_image
from basicsr.utils.owner import owned
from basicsr.utils.parallel import in_parallel

logger = logging.getLogger("basicsr")
SETTINGS_FILE = "extract_subimages.json"


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Job(NamedTuple):
    """An image and the files for its crops."""

    source: Path
    crops: dict[Path, Box]


def starts(size: int, crop: int, step: int) -> list[int]:
    """First rows of the crops; the last one is flush with the border."""
    return [*range(0, size - crop, step), size - crop]


def boxes(size: tuple[int, int], crop: int, step: int) -> list[Box]:
    """The crops of an image of this height and width, from the top left, row by row."""
    height, width = size
    return [Box(y, x, crop, crop) for y in starts(height, crop, step) for x in starts(width, crop, step)]


def numbered(folder: Path, name: str, parts: Iterable[Box]) -> dict[Path, Box]:
    """The files <name>_s001.png and so on of an image's crops."""
    return {folder / f"{name}_s{number:03d}.png": box for number, box in enumerate(parts, start=1)}


def cut(job: Job) -> int:
    """Cut an image unless all its crops are there; returns the number of crops written."""
    if _is_done(job):
        return 0
    image, fmt = read_image_and_format(job.source)
    for target, (top, left, height, width) in job.crops.items():
        write_image(target, image[top : top + height, left : left + width], replace(fmt, alpha=None))
    return len(job.crops)


def _is_done(job: Job) -> bool:
    try:
        status = job.source.stat()
        changed = max(status.st_mtime_ns, status.st_ctime_ns)  # the second changes when an old file takes its place
        return all(t.stat().st_mtime_ns > changed and image_size(t) == box[2:] for t, box in job.crops.items())
    except (FileNotFoundError, UserError):  # not there, or not whole
        return False


def refuse_other_settings(output: Path, settings: dict[str, object]) -> None:
    """Raises UserError when the folder holds crops of other settings, which must not mix with these."""
    record = output / SETTINGS_FILE
    same = record.exists() and record.read_bytes() == _as_text(settings)
    if not same and (record.exists() or _crops_in(output)):
        raise UserError(
            f"{output}: was made with other settings (see {SETTINGS_FILE}) or by other means; "
            "use --overwrite, which removes its crops, or another folder."
        )


def extract(
    source: Path,
    output: Path,
    crop: int,
    step: int,
    workers: int | None = None,
    *,
    overwrite: bool = False,
    origin: dict[str, object] | None = None,
) -> str:
    """Cut every image of a folder.

    Args:
        overwrite: remove the folder's crops first, whatever their settings.
        origin: further settings that the crops depend on, to be compared in the next run.

    Returns:
        A line that tells what was done.

    Raises:
        UserError: damaged images or ones smaller than a crop, crops of other settings; nothing has been written then.
    """
    settings = {"crop_size": crop, "step": step, **(origin or {})}
    return write_crops(_plan(source, output, crop, step), output, settings, workers, overwrite=overwrite)


def write_crops(
    jobs: list[Job], output: Path, settings: dict[str, object], workers: int | None, *, overwrite: bool = False
) -> str:
    """Cut images into a folder, whose crops are of these settings then, and no others; see `extract`."""
    with owned(output):
        targets = {target for job in jobs for target in job.crops}
        if not overwrite:
            refuse_other_settings(output, settings)
        # Also crops that an image had when it was larger: their numbers would stay, of another place.
        cut_here = {target.parent / target.name.rpartition("_s")[0] for target in targets}
        for path in _crops_in(output):
            if overwrite or (path not in targets and path.parent / path.name.rpartition("_s")[0] in cut_here):
                path.unlink()
        write_bytes(output / SETTINGS_FILE, _as_text(settings))
        results = in_parallel(cut, jobs, workers, worth=10)
        new = sum(tqdm(results, total=len(jobs), unit="image", desc=output.name))
        return f"{len(targets)} crops in {output}: {new} cut now, {len(targets) - new} were there already"


def _as_text(settings: dict[str, object]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()


def _plan(source: Path, output: Path, crop: int, step: int) -> list[Job]:
    if output.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"--output: {output} lies in the input folder, where its crops would be cut again; give another folder."
        )
    jobs, small, paged, deep = [], [], [], []
    for name, path in FolderStorage(source, "--input").files.items():
        (height, width), pages, _, dtype = look_at(path)
        paged += [name] if pages > 1 else []
        deep += [name] if dtype is not None and dtype not in WHOLE else []
        if min(height, width) < crop:
            small.append(name)
            continue
        jobs.append(Job(path, numbered(output, name, boxes((height, width), crop, step))))
    if small:
        raise UserError(f"{source}: smaller than a crop of {crop}: {first_ten(small)}; remove them or cut smaller crops.")
    if paged:
        logger.warning("of files with several pages or frames the first one is cut alone: %s.", first_ten(paged))
    if deep:
        logger.warning("crops are PNG files of 16 bits, which is less than these pictures hold: %s.", first_ten(deep))
    return jobs


def _crops_in(output: Path) -> list[Path]:
    return [path for path in output.rglob("*.png") if re.fullmatch(r"[^.].*_s\d{3,}", path.stem)]
