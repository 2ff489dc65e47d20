"""A test without a YAML file: weights, and two folders of images."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basicsr.data.image_dataset import open_images
from basicsr.data.pairs import folder_names, name_of_pairs, templates
from basicsr.engine.weights import network_and_path
from basicsr.errors import UserError
from basicsr.options import Options, display, overrides_of, parse, resolve_input

METRICS = {"psnr": {"type": "calculate_psnr", "crop_border": 0}, "ssim": {"type": "calculate_ssim", "crop_border": 0}}


def options_for_pairs(
    weights: str | Path,
    gt: Sequence[str | Path] | str | Path | None,
    lq: Sequence[str | Path] | str | Path,
    *,
    arch: str | None = None,
    name: str | None = None,
    overrides: Sequence[str] = (),
) -> Options:
    """The options of a test of weights on pairs of images, as a YAML file would give them: PSNR and SSIM as in the papers.

    Args:
        weights, arch: see `options_for_weights`.
        gt, lq: folders of the ground truth and the degraded images, or LMDBs, `name.lmdb`; paths as given on the command line.
            Names are equal, or follow from one another by what `templates` finds, such as a `_blur` behind those in `lq`. Of
            several folders each, the first belongs to the first. gt: None: there is no truth, and pictures are written.
        name: of the folder in results/; by default that of the weights and of the folder that holds the pairs.
        overrides: `section:key=value`, as for a YAML file.

    Raises:
        UserError: see `identify`; a folder that is not there; an override that does not fit.
    """
    network_g, path = network_and_path(weights, arch, overrides_of("path", overrides).get("param_key"))
    section = section_of_pairs(*(_paths(side) for side in (gt, lq)), ("--gt", "--lq"))
    data = {
        "name": name or re.sub(r"[^\w.+-]", "_", f"{Path(weights).stem}-{section['name']}").lstrip("."),
        "datasets": {"test": section},
        "network_g": network_g,
        "path": path,
        "val": {"metrics": METRICS} if gt else {"save_img": True},
    }
    return parse(data, f"{weights} on {section['name']}", overrides)


def section_of_pairs(gt: Sequence[Path], lq: Sequence[Path], flags: tuple[str, str]) -> dict[str, Any]:
    """The section of a data set in these folders or LMDBs, with absolute paths; gt: none: there is no truth.

    Args:
        flags: what gave the folders, for messages.

    Raises:
        UserError: a folder that is not there, or on both sides; another number of folders on the two sides.
    """
    roots = {side: paths for side, paths in (("gt", gt), ("lq", lq)) if paths}
    packed = all(root.suffix == ".lmdb" or (root / "data.mdb").is_file() for paths in roots.values() for root in paths)
    backend = {"type": "lmdb" if packed else "disk"}
    if both := {root.resolve() for root in gt} & {root.resolve() for root in lq}:
        folder = display(next(iter(both)))
        raise UserError(f"{' and '.join(flags)} are one folder, {folder}: name that of the degraded images.")
    if gt and len(gt) != len(lq):
        raise UserError(f"{' and '.join(flags)}: {len(gt)} and {len(lq)} folders are no pairs; name as many of each.")
    places = {side: [str(root) for root in paths] for side, paths in roots.items()}
    folders = folder_names(gt or lq)
    flag = dict(zip(("gt", "lq"), flags, strict=True))
    names = [open_images(place, backend, flag[side], folders).names() for side, place in places.items()]
    return {
        "name": name_of_pairs((gt or lq)[0], lq[0]),
        "type": "PairedImageDataset",
        **{f"dataroot_{side}": place[0] if len(place) == 1 else place for side, place in places.items()},
        **(templates(*names) if gt else {}),
        "io_backend": backend,
    }


def _paths(side: Sequence[str | Path] | str | Path | None) -> list[Path]:
    given = [side] if isinstance(side, (str, Path)) else side or []
    return [resolve_input(root).absolute() for root in given]
