"""Cut the images of folders into overlapping crops, so that training reads small files.

    python scripts/data_preparation/extract_subimages.py --input GoPro/train/input --output GoPro/train/input_crops

The published recipes cut 512x512 every 256 pixels, the last crop flush with the border: 8 per 720p frame.
Crops are PNG files called <name>_s001.png, <name>_s002.png, ...; run it on the degraded and the sharp folder alike. A second
run cuts what is missing or older than its image; the settings lie beside the crops in `extract_subimages.json`.
"""

import argparse
import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tqdm import tqdm

from basicsr.data.storage import FolderStorage
from basicsr.errors import UserError, first_ten
from basicsr.utils.image import image_size, read_image_and_format, write_bytes, write_image
from basicsr.utils.log import run_entry_point
from basicsr.utils.parallel import in_parallel

SETTINGS_FILE = "extract_subimages.json"


class Job(NamedTuple):
    """An image and the files for its crops, from the top left, row by row."""

    source: Path
    targets: list[Path]


def starts(size: int, crop: int, step: int) -> list[int]:
    """First rows of the crops; the last one is flush with the border."""
    return [*range(0, size - crop, step), size - crop]


def cut(job: Job, crop: int, step: int) -> int:
    """Cut an image unless all its crops are there; returns the number of crops written."""
    if _is_done(job, crop):
        return 0
    image, fmt = read_image_and_format(job.source)
    places = [(y, x) for y in starts(image.shape[0], crop, step) for x in starts(image.shape[1], crop, step)]
    for target, (y, x) in zip(job.targets, places, strict=True):
        write_image(target, image[y : y + crop, x : x + crop], replace(fmt, alpha=None))
    return len(places)


def _is_done(job: Job, crop: int) -> bool:
    try:
        status = job.source.stat()
        changed = max(status.st_mtime_ns, status.st_ctime_ns)  # the second changes when an old file takes its place
        return all(t.stat().st_mtime_ns > changed and image_size(t) == (crop, crop) for t in job.targets)
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
    jobs = _plan(source, output, crop, step)
    targets = {target for job in jobs for target in job.targets}
    if not overwrite:
        refuse_other_settings(output, settings)
    # Also crops that an image had when it was larger: their numbers would stay, of another place.
    cut_here = {target.parent / target.name.rpartition("_s")[0] for target in targets}
    for path in _crops_in(output):
        if overwrite or (path not in targets and path.parent / path.name.rpartition("_s")[0] in cut_here):
            path.unlink()
    write_bytes(output / SETTINGS_FILE, _as_text(settings))
    results = in_parallel(partial(cut, crop=crop, step=step), jobs, workers, worth=10)
    new = sum(tqdm(results, total=len(jobs), unit="image", desc=output.name))
    return f"{len(targets)} crops in {output}: {new} cut now, {len(targets) - new} were there already"


def _as_text(settings: dict[str, object]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()


def _plan(source: Path, output: Path, crop: int, step: int) -> list[Job]:
    if output.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"--output: {output} lies in the input folder, where its crops would be cut again; give another folder."
        )
    jobs, small = [], []
    for name, path in FolderStorage(source, "--input").files.items():
        height, width = image_size(path)
        if min(height, width) < crop:
            small.append(name)
            continue
        count = len(starts(height, crop, step)) * len(starts(width, crop, step))
        jobs.append(Job(path, [output / f"{name}_s{number:03d}.png" for number in range(1, count + 1)]))
    if small:
        raise UserError(f"{source}: smaller than a crop of {crop}: {first_ten(small)}; remove them or cut smaller crops.")
    return jobs


def _crops_in(output: Path) -> list[Path]:
    return [path for path in output.rglob("*.png") if re.fullmatch(r"[^.].*_s\d{3,}", path.stem)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="folder of images")
    parser.add_argument("--output", required=True, type=Path, help="folder for the crops")
    parser.add_argument("--crop_size", type=int, default=512)
    parser.add_argument("--step", type=int, default=256)
    parser.add_argument("--workers", type=int, default=None, help="processes; all cores by default")
    parser.add_argument("--overwrite", action="store_true", help="remove the crops that are there, also of other settings")
    args = parser.parse_args()
    if args.crop_size < 1 or args.step < 1 or (args.workers is not None and args.workers < 1):
        raise UserError("--crop_size, --step and --workers must be positive.")
    print(extract(args.input, args.output, args.crop_size, args.step, args.workers, overwrite=args.overwrite))
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
