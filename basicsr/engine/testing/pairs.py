"""A test without a YAML file: weights, and two folders of images."""

import re
from collections.abc import Sequence
from pathlib import Path

from basicsr.data.image_dataset import open_images
from basicsr.data.pairs import filename_template, name_of_pairs
from basicsr.engine.weights import network_and_path
from basicsr.errors import UserError
from basicsr.options import Options, display, parse, resolve_input

METRICS = {"psnr": {"type": "calculate_psnr", "crop_border": 0}, "ssim": {"type": "calculate_ssim", "crop_border": 0}}


def options_for_pairs(
    weights: str | Path,
    gt: str | Path,
    lq: str | Path,
    *,
    arch: str | None = None,
    name: str | None = None,
    overrides: Sequence[str] = (),
) -> Options:
    """The options of a test of weights on pairs of images, as a YAML file would give them: PSNR and SSIM as in the papers.

    Args:
        weights, arch: see `options_for_weights`.
        gt, lq: folders of the ground truth and the degraded images, or LMDBs, `name.lmdb`; paths as given on the command line.
            Names are equal, or those in `lq` have something more, such as `_blur`, the same for all.
        name: of the folder in results/; by default that of the weights and of the folder that holds the pairs.
        overrides: `section:key=value`, as for a YAML file.

    Raises:
        UserError: see `identify`; a folder that is not there; an override that does not fit.
    """
    network_g, path = network_and_path(weights, arch)
    roots = {"dataroot_gt": resolve_input(gt).absolute(), "dataroot_lq": resolve_input(lq).absolute()}
    backend = {"type": "lmdb" if all(root.suffix == ".lmdb" for root in roots.values()) else "disk"}
    if roots["dataroot_gt"].resolve() == roots["dataroot_lq"].resolve():
        raise UserError(f"--gt and --lq are one folder, {display(roots['dataroot_gt'])}: name that of the degraded images.")
    names = [
        open_images(str(root), backend, f"--{side}").names() for side, root in zip(("gt", "lq"), roots.values(), strict=True)
    ]
    dataset = {
        "name": name_of_pairs(*roots.values()),
        "type": "PairedImageDataset",
        **{side: str(root) for side, root in roots.items()},
        "filename_tmpl": filename_template(*names),
        "io_backend": backend,
    }
    data = {
        "name": name or re.sub(r"[^\w.+-]", "_", f"{Path(weights).stem}-{dataset['name']}").lstrip("."),
        "datasets": {"test": dataset},
        "network_g": network_g,
        "path": path,
        "val": {"metrics": METRICS},
    }
    return parse(data, f"{weights} on {dataset['name']}", overrides)
