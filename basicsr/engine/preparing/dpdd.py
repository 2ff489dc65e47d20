"""Cut DPDD's training and validation pictures: the two views of a dual-pixel camera, the ordinary picture, and the sharp one.

<input>/train[/train]/{inputL,inputR,inputC,target}/*, paired by position in natural order, become
<output>/train/{inputL,inputR,inputC,target}_crops/<name of inputC's file>_s001.png and so on: 512x512 every 204 pixels, the
last one flush with the border, without the 30 % of a scene that are least sharp. <input>/val likewise, 256x256 from the
centre. 16 bits stay 16 bits. Safe to run twice.

How sharp a crop is: of its ground truth, grey, the sums of gradient magnitudes by Sobel kernels of 3, 7, 11 and 15 pixels,
each scaled to [0, 1] over the crops of the scene, and multiplied.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from basicsr.data.pairs import natural_order
from basicsr.engine.preparing.archives import contents, images, no_links, subfolder
from basicsr.engine.preparing.crops import Box, Job, boxes, numbered, write_crops
from basicsr.errors import UserError, first_ten
from basicsr.utils.image import image_size, read_image
from basicsr.utils.parallel import in_parallel

SIDES = ("inputL", "inputR", "inputC", "target")
CROP, STEP, CENTRE = 512, 204, 256
DROPPED = 0.3
KERNELS = (3, 7, 11, 15)
Scene = dict[str, Path]  # by side


def scenes(root: Path, split: str) -> list[Scene]:
    """The pictures of 'train' or 'val'; none when the archive lacks the split."""
    folder = subfolder(root, split)
    folder = folder and (subfolder(folder, split) or folder)
    if folder is None:
        return []
    if absent := [side for side in SIDES if subfolder(folder, side) is None]:
        raise UserError(f"--input: {folder} lacks {', '.join(absent)}; it holds {contents(folder)}.")
    sides = [sorted(images(subfolder(folder, side)), key=lambda path: natural_order(path.name)) for side in SIDES]
    if len({len(files) for files in sides}) > 1:
        counts = ", ".join(f"{side} {len(files)}" for side, files in zip(SIDES, sides, strict=True))
        raise UserError(f"--input: {folder} holds different numbers of pictures: {counts}; unpack the archive again.")
    found = [dict(zip(SIDES, files, strict=True)) for files in zip(*sides, strict=True)]
    least = CROP if split == "train" else CENTRE
    sizes = [{image_size(path) for path in scene.values()} for scene in found]
    if wrong := [s["inputC"].name for s, size in zip(found, sizes, strict=True) if len(size) > 1 or min(min(size)) < least]:
        raise UserError(f"--input: of several sizes, or smaller than {least}: {first_ten(wrong)}; unpack the archive again.")
    return found


def sharpness(crops: list[np.ndarray]) -> np.ndarray:
    """Of each of a scene's crops, (H, W) grey: from 0 to 1."""
    score = np.ones(len(crops))
    for kernel in KERNELS:
        gradients = [[cv2.Sobel(crop, cv2.CV_64F, *axis, ksize=kernel) for axis in ((1, 0), (0, 1))] for crop in crops]
        sums = np.array([np.hypot(*both).sum() for both in gradients])
        span = np.ptp(sums)
        score *= (sums - sums.min()) / span if span else 0
    return score


def sharp_boxes(target: Path) -> list[Box]:
    """The crops of a scene that are kept, in their order."""
    grey = cv2.cvtColor(read_image(target), cv2.COLOR_RGB2GRAY)
    parts = boxes(grey.shape, CROP, STEP)
    score = sharpness([grey[y : y + height, x : x + width] for y, x, height, width in parts])
    dropped = set(np.argsort(score, kind="stable")[: int(DROPPED * len(parts))].tolist())
    return [box for number, box in enumerate(parts) if number not in dropped]


def centre(target: Path) -> list[Box]:
    height, width = image_size(target)
    return [Box((height - CENTRE) // 2, (width - CENTRE) // 2, CENTRE, CENTRE)]


def prepare(root: Path, output: Path, *, link: bool = False, workers: int | None = None) -> Iterator[str]:
    """As `gopro.prepare`; raises UserError with `link`."""
    no_links(link)
    splits = {split: found for split in ("train", "val") if (found := scenes(root, split))}
    if not splits:
        raise UserError(f"--input: {root} holds neither train nor val, but {contents(root)}; give the folder DPDD.")
    for split, found in splits.items():
        ways = {
            "train": (sharp_boxes, {"crop_size": CROP, "step": STEP, "dropped": DROPPED}),
            "val": (centre, {"crop_size": CENTRE}),
        }
        choose, settings = ways[split]
        targets = [scene["target"] for scene in found]
        parts = list(tqdm(in_parallel(choose, targets, workers, worth=10), total=len(found), desc="looking", unit="scene"))
        for side in SIDES:
            place = output / split / f"{side}_crops"
            jobs = [
                Job(scene[side], numbered(place, scene["inputC"].stem, kept)) for scene, kept in zip(found, parts, strict=True)
            ]
            yield write_crops(jobs, place, settings, workers)
