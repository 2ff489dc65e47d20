"""A video, restored frame by frame by one network."""

import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from basicsr.engine.restoring import pictures, views
from basicsr.engine.restoring.jobs import Job
from basicsr.models.inference import Predict
from basicsr.options import display
from basicsr.utils.video import Video, examine, remarks, rewrite

logger = logging.getLogger("basicsr")


class _OtherNetwork(Exception):
    """A frame that the network cannot be trusted with."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def restore_video(
    job: Job, predictors: dict[str, Predict], wanted: str, channels: int, *, compare: bool, safe: bool, remedy: str
) -> list[Path]:
    """The files that were written.

    Args: as `run_demo`. channels: that the networks take. compare: the frame in the middle. safe: where a frame cannot be
        right, the whole video is restored without TLC, since one that changes networks would flicker.
    """
    video = examine(job.source)
    for remark in remarks(video, job.target):
        logger.warning("%s: %s.", job.label, remark)
    if channels == views.GREY and not video.grey:
        views.say_made_grey(job.label, wanted)
    replaced, middle = job.target.exists(), video.frames // 2 if compare else None
    while True:
        try:
            changes, shown = _write(job, video, predictors, wanted, middle=middle, remedy=remedy if safe else None)
            break
        except _OtherNetwork as other:
            wanted = other.name
    logger.info("%s%s", display(job.target), " (in place of what was there)" if replaced else "")
    pictures.warn_of_nothing(job.label, np.array(changes), wanted)
    if compare:
        pictures.compare(job.panels(job.target), shown, {}, None)
    return [job.target]


def _write(
    job: Job, video: Video, predictors: dict[str, Predict], wanted: str, *, middle: int | None, remedy: str | None
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Mean changes of the frames, and what all networks make of the one whose number is `middle`.

    remedy: see `safe_name`; None: the frames are not looked at.

    Raises:
        _OtherNetwork: what `wanted` makes of a frame cannot be right.
    """
    changes, shown = [], {}
    with tqdm(total=video.frames, desc=job.label, unit="frame", leave=False) as bar:

        def restore(image: np.ndarray) -> np.ndarray:
            number = len(changes)
            restored = {n: pictures.run(predict, image) for n, predict in predictors.items() if n == wanted or number == middle}
            if remedy is not None:
                label = f"{job.label}, frame {number + 1}"
                name = pictures.safe_name(label, predictors, wanted, image, restored, remedy)
                if name != wanted:
                    raise _OtherNetwork(name)
            if video.grey:
                restored = {name: np.repeat(x.mean(2, keepdims=True), 3, axis=2) for name, x in restored.items()}
            if number == middle:
                shown.update({"input": image, **restored})
            changes.append(float(np.abs(restored[wanted] - image).mean()))
            bar.update()
            return restored[wanted]

        rewrite(video, job.target, restore)
    return changes, shown
