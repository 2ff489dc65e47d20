"""Frames that follow one another: those of a video, or pictures whose names end in numbers."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, pairwise, zip_longest
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from basicsr.engine.testing.evaluate import name_of
from basicsr.errors import UserError, counted
from basicsr.utils.video import examine, read_frames


@dataclass(frozen=True)
class Frame:
    """One picture of a clip.

    number: frames whose numbers differ by the clip's step follow one another.
    lq, gt: (C, H, W) float32 in [0, 1], as the network takes and gives it; gt None where there is no ground truth.
    """

    name: str
    number: int
    lq: torch.Tensor
    gt: torch.Tensor | None


@dataclass(frozen=True)
class Clip:
    """frames: makes an iterator of the frames in order. step: the difference of the numbers of two that follow one another."""

    name: str
    length: int
    step: int
    has_gt: bool
    frames: Callable[[], Iterator[Frame]]


def clips_of(dataset: Dataset, most: int | None) -> list[Clip]:
    """The clips of a data set: pictures whose names differ in their last number alone, such as `000_00000009` or `001/12`.

    Args:
        most: only the first so many frames of each.

    Raises:
        UserError: no two pictures follow one another.
    """
    found = defaultdict(list)
    for index in range(len(dataset)):
        name = name_of(dataset, index)
        match = re.fullmatch(r"(.*?)[-_. /]*(\d+)", name)
        found[match[1] if match else name].append((int(match[2]) if match else 0, index))
    clips = []
    for name, numbered in sorted(found.items()):
        numbers = sorted(numbered)[:most]
        steps = [b - a for (a, _), (b, _) in pairwise(numbers) if b > a]
        if steps:
            frames = partial(_read, dataset, numbers)
            clips.append(Clip(name or "clip", len(numbers), min(steps), getattr(dataset, "has_gt", True), frames))
    if not clips:
        raise UserError("no two pictures follow one another: the names of a clip's frames differ in their last number alone.")
    return clips


def clips_in(lq: Sequence[Path], gt: Sequence[Path], most: int | None, *, grey: bool = False) -> list[Clip]:
    """The clips of video files, in RGB or made grey; the first ground truth belongs to the first.

    Raises:
        UserError: a file that is no video or cannot be read; another number of ground truths, or of their frames.
    """
    if gt and len(gt) != len(lq):
        raise UserError(f"--gt and --lq: {len(gt)} and {len(lq)} videos are no pairs; name as many of each.")
    clips, alike = [], Counter(file.stem for file in lq)
    for file, truth in zip_longest(lq, gt):
        length = examine(file).frames
        if truth is not None and (other := examine(truth).frames) != length:
            raise UserError(f"{truth} has {counted(other, 'frame')}, {file} {length}: cut them to the same frames.")
        length = min(length, most or length)
        if length < 2:
            raise UserError(f"{file}: has one frame; flicker is between two.")
        name = file.stem if alike[file.stem] == 1 else file.with_suffix("").as_posix().strip("/")
        clips.append(Clip(name, length, 1, truth is not None, partial(_decode, name, file, truth, length, grey)))
    return clips


def _read(dataset: Dataset, numbers: Sequence[tuple[int, int]]) -> Iterator[Frame]:
    for number, index in numbers:
        sample = dataset[index]
        yield Frame(sample["name"], number, sample["lq"], sample.get("gt"))


def _decode(name: str, file: Path, truth: Path | None, length: int, grey: bool) -> Iterator[Frame]:
    truths = read_frames(truth) if truth is not None else iter(lambda: None, 0)
    for number, lq, gt in islice(zip(count(1), read_frames(file), truths, strict=False), length):
        yield Frame(f"{name}_{number:06d}", number, _tensor(lq, grey), None if gt is None else _tensor(gt, grey))


def _tensor(image: np.ndarray, grey: bool) -> torch.Tensor:
    """(3, H, W) of (H, W, 3) float32 RGB, or (1, H, W)."""
    image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None] if grey else image
    return torch.from_numpy(image.transpose(2, 0, 1).copy())
