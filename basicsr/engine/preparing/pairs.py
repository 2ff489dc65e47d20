"""Training and validation pairs from a folder of sharp photographs: degrade them, hold some out, cut crops."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from basicsr.data.storage import FolderStorage
from basicsr.engine.preparing.crops import extract, refuse_other_settings
from basicsr.engine.preparing.degrade import degrade_folder
from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.utils.image import image_size

VAL_CROP = 480  # where the photographs are large enough


def make_pairs(
    source: Path,
    output: Path,
    *,
    kind: str,
    val: Sequence[str],
    crop: int = 192,
    val_crop: int | None = None,
    seed: int = 100,
    workers: int | None = None,
    overwrite: bool = False,
) -> Iterator[str]:
    """Cut crops into <output>/{train,val}/{target,input_<kind>}; yields a line for each folder that is done.

    Args:
        source: a folder of sharp photographs. kind: 'noise' or 'blur'.
        val: names without suffix of the photographs to validate on, or how many, which are taken evenly from all by name.
        crop, val_crop: sides of the crops; val_crop None: 480, or less where a photograph to validate on is smaller.
        overwrite: remove the crops that are there, also of other settings.

    Raises:
        UserError: names that are not there, photographs smaller than a crop, crops of other settings: before anything is
            written.
    """
    photographs = FolderStorage(source, "--input").files
    held_out = _held_out(source, list(photographs), val)
    sizes = {name: min(image_size(file)) for name, file in photographs.items()}
    val_crop = val_crop or min(VAL_CROP, *(sizes[name] for name in held_out))
    sides = {name: val_crop if name in held_out else crop for name in photographs}
    if small := [photographs[name].name for name, side in sides.items() if sizes[name] < side]:
        raise UserError(f"--input: smaller than a crop: {first_ten(small)}; remove them, or set --crop or --val_crop lower.")
    steps = {"train": (crop, max(1, crop - crop // 12)), "val": (val_crop, val_crop)}
    origins = {f"input_{kind}": {"val": held_out, "kind": kind, "seed": seed}, "target": {"val": held_out}}
    if not overwrite:  # all four folders are looked at before anything is written
        for part, (side, step) in steps.items():
            for name, origin in origins.items():
                refuse_other_settings(output / part / name, {"crop_size": side, "step": step, **origin})
    with tempfile.TemporaryDirectory() as temporary:
        degraded = Path(temporary)
        failed = degrade_folder(source, degraded / "all", kind=kind, seed=seed, workers=workers)
        if failed:
            raise UserError(f"--input: these photographs cannot be used: {first_ten(failed)}; remove them.")
        for folder, name in ((degraded / "all", f"input_{kind}"), (source, "target")):
            _split(folder, degraded / name, held_out)
            for part, (side, step) in steps.items():
                settings = {"workers": workers, "overwrite": overwrite, "origin": origins[name]}
                yield extract(degraded / name / part, output / part / name, side, step, **settings)


def _held_out(source: Path, names: list[str], val: Sequence[str]) -> list[str]:
    """The names of the photographs to validate on, sorted."""
    if len(val) == 1 and val[0].isdecimal() and val[0] not in names:
        count = int(val[0])
        if not 0 < count < len(names):
            raise UserError(
                f"--val {count}: there are {len(names)} photographs; hold out at least one and leave some to train on."
            )
        return sorted(names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count))
    if unknown := [name for name in val if name not in names]:
        raise UserError(f"--val: {source} has no {first_ten(unknown)}.{did_you_mean(unknown[0], names)}")
    if len(set(val)) == len(names):
        raise UserError("--val: these are all the photographs; leave some to train on.")
    return sorted(set(val))


def _split(folder: Path, parts: Path, held_out: Sequence[str]) -> None:
    for name, path in FolderStorage(folder, "--input").files.items():
        part = parts / ("val" if name in held_out else "train")
        part.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, part)
