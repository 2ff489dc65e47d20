"""A data set looked at file by file: every image is decoded to its last pixel, unlike in the quick look before a training.

Reported are missing partners, empty, unreadable and damaged files, pairs of different size or format, images smaller than the
crop, duplicates, degraded images equal to their ground truth and pairs so unlike that they cannot belong together.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from basicsr.data.image_dataset import open_images
from basicsr.data.pairs import filename_template, name_of_pairs
from basicsr.data.storage import Storage, match_names, open_storage
from basicsr.errors import UserError
from basicsr.options import Options, display, resolve
from basicsr.sections import DatasetOptions
from basicsr.utils.image import ImageFormat, as_float, decode_raw
from basicsr.utils.parallel import in_parallel


class Problem(NamedTuple):
    data_set: str
    problem: str
    file: str
    detail: str


@dataclass(frozen=True)
class DataSet:
    """What is to be checked: one side or two."""

    name: str
    gt: Storage | None
    lq: Storage | None
    filename_tmpl: str = "{}"
    crop: int | None = None
    min_psnr: float = 8.0


@dataclass
class Look:
    """What a worker process found in one pair."""

    problems: list[Problem] = field(default_factory=list)
    files: dict[str, tuple[str, str]] = field(default_factory=dict)  # side -> (digest of the file, where it lies)
    sizes: set[str] = field(default_factory=set)
    bytes: int = 0


class Image(NamedTuple):
    pixels: np.ndarray  # (H, W, 3), as the file has them
    format: ImageFormat


def look_at(names: tuple[str | None, str | None], data: DataSet) -> Look:
    """Decode the images of a pair and compare them; `names` are those of ground truth and degraded image, None if alone."""
    look = Look()
    images = {}
    for side, storage, name in zip(("gt", "lq"), (data.gt, data.lq), names, strict=True):
        if name is None:
            continue
        image = _decode(data, side, storage, name, look)
        if image is not None:
            images[side] = image
            look.sizes.add(_size(image))
            if data.crop and min(image.pixels.shape[:2]) < data.crop:
                detail = f"{_size(image)}, less than {data.crop}"
                look.problems.append(Problem(data.name, "smaller than the crop", storage.label(name), detail))
    if len(images) == 2:
        where = data.lq.label(names[1])
        look.problems += [Problem(data.name, kind, where, detail) for kind, detail in _compare(**images, data=data)]
    return look


def _decode(data: DataSet, side: str, storage: Storage, name: str, look: Look) -> Image | None:
    """The image, or None and an entry in `look` when it is empty or cannot be decoded."""
    where = storage.label(name)
    content = None
    try:
        content = storage.read_bytes(name)
        image = Image(*decode_raw(content, where, storage.value_range))
        listed = storage.size(name)
    except UserError as error:
        fault = str(error).removeprefix(f"{where}: ").split("; ")[0].rstrip(".")
        kind = "empty file" if content == b"" else "damaged" if fault.startswith("is damaged") else "unreadable"
        look.problems.append(Problem(data.name, kind, where, fault))
        return None
    finally:
        if content:
            look.bytes += len(content)
            look.files[side] = hashlib.sha256(content).hexdigest(), where
    if image.format.pages > 1:
        detail = f"{image.format.pages} pages, of which a data set takes the first"
        look.problems.append(Problem(data.name, "several pages", where, detail))
    if listed != image.pixels.shape[:2]:
        detail = f"{_size(image)}, but {listed[1]}x{listed[0]} in the file's header or the LMDB's list"
        look.problems.append(Problem(data.name, "wrong size", where, detail))
    return image


def _compare(gt: Image, lq: Image, data: DataSet) -> Iterator[tuple[str, str]]:
    """Problem and detail, for all that is wrong with a pair."""
    if gt.pixels.shape != lq.pixels.shape:
        yield "different sizes", f"{_size(lq)}, its ground truth {_size(gt)}"
        return
    if _format(gt) != _format(lq):
        yield "different formats", f"{_format(lq)}, its ground truth {_format(gt)}"
    difference = as_float(gt.pixels) - as_float(lq.pixels)
    error = float(np.mean(np.square(difference), dtype=np.float64))
    if error == 0:
        yield "equal to its ground truth", "every pixel"
    elif (psnr := -10 * np.log10(error)) < data.min_psnr:
        yield "unlike its ground truth", f"PSNR {psnr:.2f} dB, less than {data.min_psnr:g}: probably another picture"


def _size(image: Image) -> str:
    return f"{image.pixels.shape[1]}x{image.pixels.shape[0]}"


def _format(image: Image) -> str:
    colours = "grey" if image.format.grey else "colour"
    return f"{8 * image.format.dtype.itemsize}-bit {colours}{' with alpha' if image.format.alpha is not None else ''}"


def check(data: DataSet, workers: int | None) -> tuple[list[Problem], str]:
    """All problems of a data set, in order of name, and a summary."""
    if data.gt and data.lq:
        pairs, alone_gt, alone_lq = match_names(data.gt.names(), data.lq.names(), data.filename_tmpl)
        jobs = [*pairs, *((name, None) for name in alone_gt), *((None, name) for name in alone_lq)]
        problems = [Problem(data.name, "no degraded image", data.gt.label(n), f"none in {_root(data.lq)}") for n in alone_gt]
        problems += [Problem(data.name, "no ground truth", data.lq.label(n), f"none in {_root(data.gt)}") for n in alone_lq]
    else:
        jobs = [(name, None) for name in data.gt.names()] if data.gt else [(None, name) for name in data.lq.names()]
        pairs, problems = [], []
    looks = in_parallel(partial(look_at, data=data), jobs, workers, worth=50)
    looks = list(tqdm(looks, total=len(jobs), unit="pair" if pairs else "image", desc=data.name))
    problems += [problem for look in looks for problem in look.problems] + _duplicates(data, looks)
    return problems, _summary(data, looks, len(pairs), len(problems))


def _duplicates(data: DataSet, looks: list[Look]) -> list[Problem]:
    """Files with the same bytes as an earlier one of their side."""
    first, found = {}, []
    for look in looks:
        for side, (digest, where) in look.files.items():
            original = first.setdefault((side, digest), where)
            if original != where:
                found.append(Problem(data.name, "duplicate", where, f"the same file as {original}"))
    return found


def _summary(data: DataSet, looks: list[Look], pairs: int, problems: int) -> str:
    files = sum(len(look.files) for look in looks)
    sizes = Counter(size for look in looks for size in look.sizes)
    common = ", ".join(f"{size} ({count:,})" for size, count in sizes.most_common(5))
    more = f", {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
    gigabytes = sum(look.bytes for look in looks) / 1e9
    held = f"{pairs:,} pairs, " if data.gt and data.lq else ""
    return f"{data.name}: {held}{files:,} files, {gigabytes:.3g} GB; sizes: {common}{more}; problems: {problems or 'none'}"


def _root(storage: Storage) -> str:
    return display(storage.root)


def named_in(opt: Options, *, crop: int | None, min_psnr: float) -> tuple[list[DataSet], list[Problem]]:
    """The data sets of an options file, and a problem for each that cannot be opened. crop: None: as in the file."""
    sets, problems = [], []
    for phase, dataset in opt.datasets.items():
        name, words = dataset.name or phase, dataset.arguments
        roots = {side: words[f"dataroot_{side}"] for side in ("gt", "lq") if words.get(f"dataroot_{side}")}
        storages: dict[str, Storage | None] = {"gt": None, "lq": None}
        for side, root in roots.items():
            try:
                storages[side] = open_images(resolve(root), words.get("io_backend"), f"datasets.{phase}.dataroot_{side}")
            except UserError as error:
                problems.append(Problem(name, "cannot be opened", str(root), str(error)))
        if all(storages[side] for side in roots):
            template = words.get("filename_tmpl", "{}")
            sets.append(
                DataSet(name, **storages, filename_tmpl=template, crop=crop or _largest_crop(dataset), min_psnr=min_psnr)
            )
    return sets, problems


def _largest_crop(opt: DatasetOptions) -> int | None:
    sizes = [opt.arguments.get("gt_size"), *(stage.gt_size for stage in opt.progressive or ())]
    return max(filter(None, sizes), default=None)


def in_folders(gt: Path | None, lq: Path | None, *, filename_tmpl: str | None, crop: int | None, min_psnr: float) -> DataSet:
    """The data set of one or two folders, or LMDBs called name.lmdb. filename_tmpl: None: found from the names."""
    if not (gt or lq):
        raise UserError("nothing to check: give --gt and --lq, or -opt FILE.yml.")
    if filename_tmpl is not None and "{}" not in filename_tmpl:
        raise UserError(f"--filename_tmpl is {filename_tmpl!r}, but must hold {{}}, which stands for the other's name.")
    storages = {
        side: open_storage(root, "lmdb" if root.suffix == ".lmdb" else "disk", where=f"--{side}") if root else None
        for side, root in {"gt": gt, "lq": lq}.items()
    }
    if filename_tmpl is None:
        filename_tmpl = filename_template(*(storage.names() for storage in storages.values())) if gt and lq else "{}"
    name = name_of_pairs((gt or lq).absolute(), (lq or gt).absolute())
    return DataSet(name, **storages, filename_tmpl=filename_tmpl, crop=crop, min_psnr=min_psnr)
