"""Cut the images of folders into overlapping crops, so that training reads small files.

    python scripts/data_preparation/extract_subimages.py --input GoPro/train/input --output GoPro/train/input_crops

The published recipes cut 512x512 every 256 pixels, the last crop flush with the border: 8 per 720p frame.
Crops are PNG files called <name>_s001.png, <name>_s002.png, ...; run it on the degraded and the sharp folder alike.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
from tqdm import tqdm

from basicsr.data.storage import FolderStorage
from basicsr.errors import UserError, first_ten
from basicsr.utils.image import image_size, read_image_and_format, write_image
from basicsr.utils.log import run_entry_point


def starts(size: int, crop: int, step: int) -> list[int]:
    """First rows of the crops; the last one is flush with the border."""
    return [*range(0, size - crop, step), size - crop]


def cut(item: tuple[str, Path], output: Path, crop: int, step: int) -> int:
    name, path = item
    cv2.setNumThreads(0)
    image, fmt = read_image_and_format(path)
    places = [(y, x) for y in starts(image.shape[0], crop, step) for x in starts(image.shape[1], crop, step)]
    for number, (y, x) in enumerate(places, start=1):
        write_image(output / f"{name}_s{number:03d}.png", image[y : y + crop, x : x + crop], replace(fmt, alpha=None))
    return len(places)


def extract(source: Path, output: Path, crop: int, step: int, workers: int | None = None) -> int:
    """Cut every image of a folder; returns the number of crops."""
    items = list(FolderStorage(source, "--input").files.items())
    small = [name for name, path in items if min(image_size(path)) < crop]
    if small:
        raise UserError(f"{source}: smaller than a crop of {crop}: {first_ten(small)}; remove them or cut smaller crops.")
    work = partial(cut, output=output, crop=crop, step=step)
    with get_context("spawn").Pool(workers) as pool:
        return sum(tqdm(pool.imap_unordered(work, items), total=len(items), unit="image", desc=output.name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="folder of images")
    parser.add_argument("--output", required=True, type=Path, help="folder for the crops")
    parser.add_argument("--crop_size", type=int, default=512)
    parser.add_argument("--step", type=int, default=256)
    parser.add_argument("--workers", type=int, default=None, help="processes; all cores by default")
    args = parser.parse_args()
    if args.crop_size < 1 or args.step < 1 or (args.workers or 1) < 1:
        raise UserError("--crop_size, --step and --workers must be positive.")
    print(f"{extract(args.input, args.output, args.crop_size, args.step, args.workers)} crops in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
