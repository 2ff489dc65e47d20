"""A test without a YAML file: weights, and two folders of images."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from basicsr.data.image_dataset import open_images
from basicsr.data.pairs import folder_names, name_of_pairs, templates
from basicsr.engine.channels import GREY, RGB, TWO_VIEWS, channels_of_options
from basicsr.engine.weights import network_and_path
from basicsr.engine.weights.known import recognised
from basicsr.errors import UserError
from basicsr.metrics.protocols import PROTOCOLS
from basicsr.options import Options, display, overrides_of, parse, resolve_input

logger = logging.getLogger("basicsr")
VIEWS = (("inputL", "inputR"), ("inputL_crops", "inputR_crops"))  # folders of the two views, as DPDD has them


def metrics_by(protocol: str) -> dict[str, dict[str, str]]:
    """val.metrics of what the papers of a protocol report, see `basicsr.metrics.protocols`."""
    names = ["psnr", *(["ssim"] if PROTOCOLS[protocol].ssim else []), *(["mae"] if protocol == "dpdd" else [])]
    return {name: {"type": f"calculate_{name}", "protocol": protocol} for name in names}


def options_for_pairs(
    weights: str | Path,
    gt: Sequence[str | Path] | str | Path | None,
    lq: Sequence[str | Path] | str | Path,
    *,
    arch: str | None = None,
    name: str | None = None,
    protocol: str | None = None,
    overrides: Sequence[str] = (),
) -> Options:
    """The options of a test of weights on pairs of images, as a YAML file would give them: PSNR and SSIM as in the papers.

    Args:
        weights, arch: see `options_for_weights`.
        gt, lq: folders of the ground truth and the degraded images, or LMDBs, `name.lmdb`; paths as given on the command line.
            Names are equal, or follow from one another by what `templates` finds, such as a `_blur` behind those in `lq`. Of
            several folders each, the first belongs to the first. gt: None: there is no truth, and pictures are written.
            A network of grey pictures has them read as grey. For one of two views lq are two folders for each of gt, left and
            right, or one that holds both, see `VIEWS`.
        name: of the folder in results/; by default that of the weights and of the folder that holds the pairs.
        protocol: how it is measured; by default as the papers of a published checkpoint's task do, and of others by rgb8.
        overrides: `section:key=value`, as for a YAML file.

    Raises:
        UserError: see `identify`; a folder that is not there; an override that does not fit.
    """
    if protocol and not gt:
        raise UserError(f"--protocol {protocol}: nothing is measured without --gt; name the ground truth, or leave it out.")
    network_g, path = network_and_path(weights, arch, overrides_of("path", overrides).get("param_key"))
    channels = channels_of_options(network_g)
    section = section_of_pairs(*(_paths(side) for side in (gt, lq)), ("--gt", "--lq"), channels)
    if channels == (GREY, GREY):
        logger.info("The network is one of grey pictures: those in colour are read as grey.")
    data = {
        "name": name or re.sub(r"[^\w.+-]", "_", f"{Path(weights).stem}-{section['name']}").lstrip("."),
        "datasets": {"test": section},
        "network_g": network_g,
        "path": path,
        "val": val_as_published(weights, network_g, measured=bool(gt), protocol=protocol),
    }
    return parse(data, f"{weights} on {section['name']}", overrides)


def val_as_published(
    weights: str | Path, network_g: Mapping[str, Any], *, measured: bool, protocol: str | None = None
) -> dict[str, Any]:
    """The section `val` of a test of weights: padded, and by default measured, as a published checkpoint's paper does it.

    Args:
        measured: whether there is a ground truth; else pictures are written.
        protocol: of the metrics; None: that of the checkpoint's task, of other weights rgb8.
    """
    known = recognised(resolve_input(weights), network_g)
    val: dict[str, Any] = {"window_size": known.window_size} if known and known.window_size else {}
    if not measured:
        return {**val, "save_img": True}
    if known and not protocol:
        logger.info("Measured by protocol %s, as %s is in its paper.", known.protocol, known.name)
    return {**val, "metrics": metrics_by(protocol or (known.protocol if known else "rgb8"))}


def section_of_pairs(
    gt: Sequence[Path], lq: Sequence[Path], flags: tuple[str, str], channels: tuple[int, int] = (RGB, RGB)
) -> dict[str, Any]:
    """The section of a data set in these folders or LMDBs, with absolute paths; gt: none: there is no truth.

    Args:
        flags: what gave the folders, for messages.
        channels: of the images that are wanted, degraded and ground truth.

    Raises:
        UserError: a folder that is not there, or on both sides; another number of folders on the two sides.
    """
    if channels == (TWO_VIEWS, RGB):
        return _section_of_views(gt, lq, flags)
    roots = {side: paths for side, paths in (("gt", gt), ("lq", lq)) if paths}
    backend = _backend(roots)
    if both := {root.resolve() for root in gt} & {root.resolve() for root in lq}:
        folder = display(next(iter(both)))
        raise UserError(f"{' and '.join(flags)} are one folder, {folder}: name that of the degraded images.")
    if gt and len(gt) != len(lq):
        raise UserError(f"{' and '.join(flags)}: {len(gt)} and {len(lq)} folders are no pairs; name as many of each.")
    names = _names(roots, backend, dict(zip(("gt", "lq"), flags, strict=True)))
    return {
        "name": name_of_pairs((gt or lq)[0], lq[0]),
        "type": "PairedImageDataset",
        **_dataroots(roots),
        **(templates(*names) if gt else {}),
        **({"in_ch": GREY} if channels == (GREY, GREY) else {}),
        "io_backend": backend,
    }


def _section_of_views(gt: Sequence[Path], lq: Sequence[Path], flags: tuple[str, str]) -> dict[str, Any]:
    """That of two views and their ground truth; by position where their names differ, as in DPDD's test set."""
    if absent := next((root for root in lq if not root.exists()), None):
        open_images(str(absent), None, flags[1])  # raises, and says what is there
    lq = [view for root in lq for view in _views_in(root)]
    if not lq or len(lq) % 2:
        raise UserError(
            f"{flags[1]}: the network takes two views of a photograph (6 channels); name two folders, {flags[1]} LEFT RIGHT, "
            f"or one that holds {' and '.join(VIEWS[0])}."
        )
    roots = {side: paths for side, paths in (("gt", list(gt)), ("lqL", lq[::2]), ("lqR", lq[1::2])) if paths}
    if gt and len(gt) != len(lq) // 2:
        raise UserError(
            f"{' and '.join(flags)}: {len(gt)} and {len(lq)} folders do not belong together; name two of {flags[1]}, left and "
            f"right, for each of {flags[0]}."
        )
    everything = [root.resolve() for paths in roots.values() for root in paths]
    if twice := next((root for root in everything if everything.count(root) > 1), None):
        raise UserError(
            f"{' and '.join(flags)} name {display(twice)} twice: the two views and the ground truth are three folders."
        )
    backend = _backend(roots)
    names = [set(found) for found in _names(roots, backend, {"gt": flags[0], "lqL": flags[1], "lqR": flags[1]})]
    by_name = len(set().union(*names)) < sum(map(len, names))  # a few that are alike: the data set says which are not
    if not by_name:
        logger.info("%s: the names differ; the first picture of each folder belongs together, and so on.", " and ".join(flags))
    return {
        "name": name_of_pairs((gt or lq)[0], lq[0]),
        "type": "DualPixelDataset",
        **_dataroots(roots),
        "pair_by": "name" if by_name else "position",
        "io_backend": backend,
    }


def _views_in(root: Path) -> list[Path]:
    """The two views that a folder of DPDD's layout holds; itself, where it is none."""
    for pair in VIEWS:
        if all((root / view).exists() for view in pair):
            return [root / view for view in pair]
    return [root]


def _backend(roots: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    every = (root for paths in roots.values() for root in paths)
    return {"type": "lmdb" if all(root.suffix == ".lmdb" or (root / "data.mdb").is_file() for root in every) else "disk"}


def _dataroots(roots: Mapping[str, Sequence[Path]]) -> dict[str, str | list[str]]:
    places = {side: [str(root) for root in paths] for side, paths in roots.items()}
    return {f"dataroot_{side}": place[0] if len(place) == 1 else place for side, place in places.items()}


def _names(roots: Mapping[str, Sequence[Path]], backend: dict[str, str], flag: Mapping[str, str]) -> list[list[str]]:
    """Of every side; `flag`: what gave it, for messages."""
    folders = folder_names(next(iter(roots.values())))
    return [open_images([str(root) for root in paths], backend, flag[side], folders).names() for side, paths in roots.items()]


def _paths(side: Sequence[str | Path] | str | Path | None) -> list[Path]:
    given = [side] if isinstance(side, (str, Path)) else side or []
    return [resolve_input(root).absolute() for root in given]
