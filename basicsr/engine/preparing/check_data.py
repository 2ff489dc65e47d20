"""A data set looked at file by file: every image is decoded to its last pixel, unlike in the quick look before a training.

Reported are missing partners, empty, unreadable and damaged files, pairs of different size or format, images smaller than the
crop, duplicates, degraded images equal to their ground truth and pairs so unlike that they cannot belong together.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from basicsr.data.image_dataset import as_list, open_images
from basicsr.data.pairs import Pairing, folder_names, name_of_pairs, templates
from basicsr.data.storage import Storage
from basicsr.errors import UserError
from basicsr.options import Options, display, resolve
from basicsr.sections import DatasetOptions
from basicsr.utils.image import ImageFormat, as_float, decode_raw
from basicsr.utils.parallel import in_parallel

VIEWS = ("dataroot_lqL", "dataroot_lqR")
MATLAB = ("SIDDBlocksDataset", "DNDDataset")
logger = logging.getLogger("basicsr")


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
    pairing: Pairing = field(default_factory=Pairing)
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
        listed = storage.look(name).size
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
        pairs, alone_gt, alone_lq = data.pairing.match(data.gt.names(), data.lq.names())
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
    for phase, dataset, lq in _sides(opt):
        name, words = f"{dataset.name or phase} {lq.removeprefix('dataroot_lq')}".rstrip(), dataset.arguments
        roots = {side: as_list(words[word]) for side, word in (("gt", "dataroot_gt"), ("lq", lq)) if words.get(word)}
        storages: dict[str, Storage | None] = {"gt": None, "lq": None}
        for side, root in roots.items():
            try:
                folders = folder_names([resolve(str(one)) for one in roots.get("gt", root)])
                places = [str(resolve(str(one))) for one in root]
                storages[side] = open_images(
                    places, words.get("io_backend"), f"datasets.{phase}.{lq if side == 'lq' else 'dataroot_gt'}", folders
                )
            except (UserError, ValueError) as error:
                problems.append(Problem(name, "cannot be opened", ", ".join(map(str, root)), str(error)))
        if not all(storages[side] for side in roots):
            continue
        try:
            pairing = Pairing(
                filename_tmpl=words.get("filename_tmpl", "{}"),
                filename_tmpl_gt=words.get("filename_tmpl_gt", "{}"),
                meta_info_file=tuple(resolve(file) for file in as_list(words.get("meta_info_file"))),
                folders=folders,
                pair_by=words.get("pair_by", "name"),
            )
        except UserError as error:
            raise UserError(f"datasets.{phase}.{error}") from None
        sets.append(DataSet(name, **storages, pairing=pairing, crop=crop or _largest_crop(dataset), min_psnr=min_psnr))
    return sets, problems


def _sides(opt: Options) -> Iterator[tuple[str, DatasetOptions, str]]:
    """Data sets and the words of their degraded images: one each, or two views."""
    for phase, dataset in opt.datasets.items():
        if dataset.type in MATLAB:
            logger.info("datasets.%s: %s reads MATLAB files; `tlc test` checks them before it starts.", phase, dataset.type)
            continue
        for word in [word for word in VIEWS if dataset.arguments.get(word)] or ["dataroot_lq"]:
            yield phase, dataset, word


def _largest_crop(opt: DatasetOptions) -> int | None:
    if opt.arguments.get("pad_small"):  # smaller pictures are made larger
        return None
    sizes = [opt.arguments.get("gt_size"), *(stage.gt_size for stage in opt.progressive or ())]
    return max(filter(None, sizes), default=None)


def in_folders(
    gt: Sequence[Path], lq: Sequence[Path], words: Mapping[str, str], *, crop: int | None, min_psnr: float
) -> DataSet:
    """The data set of folders, or LMDBs called name.lmdb, on one side or on both, paired in order.

    Args:
        words: filename_tmpl, filename_tmpl_gt and meta_info_file, as far as they were said; nothing: found from the names.
    """
    if not (gt or lq):
        raise UserError("nothing to check: give --gt and --lq, or -opt FILE.yml.")
    if gt and lq and len(gt) != len(lq):
        raise UserError(f"--gt and --lq: {len(gt)} and {len(lq)} folders are no pairs; name as many of each.")
    folders = folder_names([root.absolute() for root in gt or lq])
    storages: dict[str, Storage | None] = {"gt": None, "lq": None}
    for side, roots in {"gt": gt, "lq": lq}.items():
        if roots:
            backend = {"type": "lmdb" if all(root.suffix == ".lmdb" for root in roots) else "disk"}
            storages[side] = open_images([str(root) for root in roots], backend, f"--{side}", folders)
    said: dict[str, Any] = dict(words)
    if gt and lq and not said:
        said = templates(*(storage.names() for storage in storages.values()))
    if "meta_info_file" in said:
        said["meta_info_file"] = tuple(Path(file) for file in as_list(said["meta_info_file"]))
    try:
        pairing = Pairing(**said, folders=folders)
    except UserError as error:
        raise UserError(f"--{error}") from None
    name = name_of_pairs((gt or lq)[0].absolute(), (lq or gt)[0].absolute())
    return DataSet(name, **storages, pairing=pairing, crop=crop, min_psnr=min_psnr)
