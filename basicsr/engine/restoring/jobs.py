"""Which photograph or video is restored into which file: folders and patterns keep their tree."""

import glob
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from basicsr.errors import UserError
from basicsr.options import display
from basicsr.utils.image import SUFFIXES, ImageFormat, cannot_hold, is_image, is_written, look_at, scan
from basicsr.utils.video import VIDEOS, WRITTEN_VIDEOS, is_video

logger = logging.getLogger("basicsr")
_WILD = set("*?[")


@dataclass(frozen=True)
class Job:
    """label: in messages. mark: what tells its comparison's name from another one's. second: see `run_demo`."""

    source: Path
    target: Path  # where the restored image goes
    truth: Path | None  # the ground truth, where one exists
    label: str
    mark: str = ""
    second: Path | None = None

    def panels(self, target: Path, number: str = "") -> Path:
        """The file of the comparison beside a target of this job."""
        return target.with_name(f"{target.stem}{self.mark}{number}_compare.png")


class _Found(NamedTuple):
    """A photograph, and its place under the folder or pattern that named it."""

    file: Path
    place: Path


def plan(sources: list[Path], output: Path | None, truth: Path | None, second: Path | None = None) -> list[Job]:
    """Which file goes where. Raises UserError before anything is read when that cannot be.

    Args: see `run_demo`.
    """
    found = {source: _images(source, output) for source in sources}
    every = [one for images in found.values() for one in images]
    if output is None:
        targets = _beside(found)
    elif len(every) == 1 and (is_image(output) or is_video(output)) and not output.is_dir():
        targets = [_of_one_kind(every[0].file, output)]
    elif (is_image(output) or is_video(output)) and not output.is_dir():
        raise UserError(f"{output}: {len(every)} files do not fit into one; name a folder.")
    elif len(every) == 1 and output.suffix and sources[0].is_file() and not output.is_dir():
        raise UserError(f"{output}: `{output.suffix}` is no image suffix; use one of {', '.join(SUFFIXES)}, or name a folder.")
    elif output.is_file():
        raise UserError(f"{output}: is a file without an image's suffix; name a folder or a file such as {output}.png.")
    else:
        targets = [output / _written(one.place) for one in every]
    jobs = [
        Job(one.file, target, _truth_of(one, truth), one.place.as_posix(), second=_second_of(one, second))
        for one, target in zip(every, targets, strict=True)
    ]
    jobs.sort(key=lambda job: is_video(job.source))  # photographs first: they take less
    _refuse_conflicts(jobs)
    for job in jobs:
        _refuse_what_does_not_fit(job)
    return _with_marks(jobs)


def _of_one_kind(file: Path, output: Path) -> Path:
    """The output of a file; UserError where only one of both is a video, or where such a video is not written."""
    if is_video(file) and output.suffix.lower() not in WRITTEN_VIDEOS:
        kinds = ", ".join(WRITTEN_VIDEOS)
        raise UserError(f"{output}: {file} is a video, and written as one of {kinds}; name such a file, or a folder.")
    if is_video(output) and not is_video(file):
        raise UserError(
            f"{output}: {file} is no video; name a picture, such as {output.with_suffix('.png').name}, or a folder."
        )
    return output


def _refuse_conflicts(jobs: list[Job]) -> None:
    sources: dict[Path, Path] = {}
    for job in jobs:
        if (other := sources.setdefault(job.target, job.source)) != job.source:
            raise UserError(f"{other} and {job.source} have the same name: both would become {job.target}; restore them apart.")
    read = _read_by(jobs)
    for job in jobs:
        if job.target.resolve() in read:
            raise UserError(f"{job.source}: the output {job.target} would replace the input; name another output.")


def _read_by(jobs: Iterable[Job]) -> set[Path]:
    return {path.resolve() for job in jobs for path in (job.source, job.truth, job.second) if path is not None}


def _refuse_what_does_not_fit(job: Job) -> None:
    """Before the work rather than after it."""
    if job.target.exists() and not job.target.is_file():
        raise UserError(f"{job.target}: is there already and is no file; name another output.")
    if is_video(job.source):
        return
    try:
        look = look_at(job.source)
    except UserError:  # said in its turn
        return
    colours = None if look.grey is None else ImageFormat(np.dtype(np.uint8), look.grey)
    if reason := cannot_hold(job.target, look.size, colours):
        raise UserError(f"{job.target}: {reason}.")


def _with_marks(jobs: list[Job]) -> list[Job]:
    """Comparisons that would have the name of another one, or of a picture, are told apart by the suffixes."""
    often = Counter(job.panels(job.target) for job in jobs)
    taken = {job.target.resolve() for job in jobs} | _read_by(jobs)
    marked = []
    for job in jobs:
        if often[job.panels(job.target)] > 1:
            job = replace(job, mark=f"_{job.target.suffix[1:]}")
        while job.panels(job.target).resolve() in taken:
            job = replace(job, mark=f"{job.mark}_")
        taken.add(job.panels(job.target).resolve())
        marked.append(job)
    return marked


def _beside(found: dict[Path, list[_Found]]) -> list[Path]:
    """Where photographs go when nothing is said: from a folder into another one, else beside themselves."""
    files = [one.file for images in found.values() for one in images]
    often = Counter(file.with_suffix("") for file in dict.fromkeys(files))
    targets = []
    for source, images in found.items():
        for file, place in images:
            if source.is_dir():
                folder = source.resolve()
                targets.append(folder.with_name(f"{folder.name}_restored") / _written(place))
            else:
                mark = f"_{file.suffix[1:]}" if often[file.with_suffix("")] > 1 else ""
                suffix = ".png" if not is_video(file) else _written(file).suffix
                targets.append(file.with_name(f"{file.stem}{mark}_restored{suffix}"))
    return targets


def _written(file: Path) -> Path:
    """Its own name, or that of a PNG or MP4 file where its format is not written."""
    if is_video(file):
        return file if file.suffix.lower() in WRITTEN_VIDEOS else file.with_name(f"{file.name}.mp4")
    return file if is_written(file) else file.with_name(f"{file.name}.png")


def _in_folder(folder: Path) -> tuple[list[Path], str]:
    """Photographs and videos, and a line on what is there."""
    found = scan(folder)
    videos = {reason: [folder / name for name in names] for reason, names in found.left_out.items() if reason in VIDEOS}
    left_out = {reason: names for reason, names in found.left_out.items() if reason not in videos}
    files = sorted([*found.files, *(video for kind in videos.values() for video in kind)])
    count = f", {n} video{'s' * (n != 1)}" if (n := len(files) - len(found.files)) else ""
    pictures, *rest = replace(found, left_out=left_out).summary().split(";", 1)
    return files, ";".join((pictures + count, *rest))


def _images(source: Path, output: Path | None) -> list[_Found]:
    """The photographs and videos of a file, a folder with its sub-folders, or a pattern; not those that were restored there."""
    if source.is_file():
        return [_Found(source, Path(source.name))]
    base = source
    if source.is_dir():
        files, summary = _in_folder(source)
        logger.info("%s: %s", display(source), summary)
    else:
        base = _folder_of(source)
        paths = (Path(path) for path in glob.glob(str(source), recursive=True))
        files = sorted(path for path in paths if is_image(path) or is_video(path))
        if "**" in source.parts:
            files = sorted(set(files) & set(_in_folder(base)[0])) if base.is_dir() else []
    if output is not None and output.resolve() != base.resolve():
        there = output.resolve()
        files = [file for file in files if not file.resolve().is_relative_to(there)]
    if not files:
        kinds = ", ".join((*SUFFIXES, *VIDEOS))
        raise UserError(
            f"{source}: no photograph is there, nor a video (a file, a folder or a pattern such as 'folder/*.jpg'; {kinds})."
        )
    return [_Found(file, file.relative_to(base)) for file in files]


def _folder_of(pattern: Path) -> Path:
    """The folder in which a pattern begins."""
    parts = pattern.parts
    wild = next((number for number, part in enumerate(parts) if _WILD & set(part)), len(parts) - 1)
    return Path(*parts[: min(wild, len(parts) - 1)])


def _truth_of(one: _Found, truth: Path | None) -> Path | None:
    """The ground truth's file, see `_partner`."""
    if truth is not None and is_video(one.file):
        raise UserError(f"--target is for photographs; `tlc flicker --lq {one.file} --gt {truth}` measures a video.")
    if truth is None or truth.is_file():
        return truth
    if not truth.is_dir():
        raise UserError(f"{truth}: the target does not exist; name the sharp file, or a folder of them under the same names.")
    if not (found := _partner(one, truth)):
        logger.warning("%s has no picture called %s, so that there is no PSNR.", display(truth), one.place.with_suffix(""))
    return found


def _second_of(one: _Found, second: Path | None) -> Path | None:
    """The file of the second view; UserError when there is none."""
    if second is None or second.is_file():
        return second
    if found := _partner(one, second) if second.is_dir() else None:
        return found
    missing = f"has no picture called {one.place.with_suffix('')}" if second.is_dir() else "does not exist"
    raise UserError(f"--input2 {second}: {missing}; name the second view, or a folder of them under the names of the first.")


def _partner(one: _Found, folder: Path) -> Path | None:
    """The picture at the same place in a folder, else under the same name there, whatever the suffix."""
    for place in dict.fromkeys((one.place, Path(one.place.name))):
        if (folder / place).is_file():
            return folder / place
        inner = (folder / place).parent
        stems = (path for path in (sorted(inner.iterdir()) if inner.is_dir() else ()) if path.stem == place.stem)
        if found := next((path for path in stems if is_image(path)), None):
            return found
    return None
