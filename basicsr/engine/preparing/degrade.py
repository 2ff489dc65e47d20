"""Folders of sharp photographs, degraded by noise or motion blur whose strength varies across each picture."""

import inspect
import json
import logging
import zlib
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from basicsr.data.degradation import add_varying_motion_blur, add_varying_noise
from basicsr.errors import DiskError, UserError, did_you_mean, first_ten
from basicsr.paths import display
from basicsr.utils.files import write_bytes
from basicsr.utils.image import SUFFIXES, read_image, scan, write_image
from basicsr.utils.owner import owned
from basicsr.utils.parallel import in_parallel

logger = logging.getLogger("basicsr")
KINDS = {"noise": add_varying_noise, "blur": add_varying_motion_blur}
SETTINGS_FILE = "degrade.json"


def degrade_folder(
    input_dir: str | Path,
    output_dir: str | Path,
    *,
    kind: str,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **options: object,
) -> dict[str, str]:
    """Degrade every picture directly in `input_dir` into `output_dir`/<stem>.png; finished ones are skipped.

    Args:
        kind: a key of `KINDS`.
        workers: processes; None means one per CPU, 1 runs in this process.
        overwrite: do finished pictures again, also when they were made with other settings.
        options: keyword arguments of the kind's function, e.g. `sigma=(3, 60)`; defaults are that function's.

    Returns:
        The pictures that failed: file name to reason; empty when all is well.

    Raises:
        UserError: a folder, setting or option that cannot be used; nothing has been written then.
    """
    input_dir, output_dir = Path(input_dir), Path(output_dir)
    settings = _settings(kind, seed, options)
    if workers is not None and workers < 1:
        raise UserError(f"workers: {workers} is no number of processes; give 1 or more.")
    targets = _plan(input_dir, output_dir)
    with owned(output_dir):
        _claim(output_dir, settings, set(targets.values()), overwrite)
        jobs = [(source, target, settings) for source, target in targets.items() if not target.exists()]
        results = in_parallel(_degrade_job, jobs, workers)
        bar = tqdm(results, total=len(targets), initial=len(targets) - len(jobs), unit="picture", disable=not progress)
        return dict(sorted((name, fault) for name, fault in bar if fault))


def kind_defaults(kind: str) -> dict[str, object]:
    """The options of a kind with their defaults. `cell_size` is for patches only."""
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "cell_size"}


def _settings(kind: str, seed: int, options: dict[str, object]) -> dict[str, object]:
    if kind not in KINDS:
        raise UserError(f"kind: `{kind}` is unknown; known are {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    if seed < 0:
        raise UserError(f"seed: {seed} is negative; give 0 or more.")
    defaults = kind_defaults(kind)
    if foreign := sorted(options.keys() - defaults.keys()):
        raise UserError(f"--{foreign[0]} does not belong to kind `{kind}`, which has {', '.join(f'--{d}' for d in defaults)}.")
    if "quality" in options and not options.get("jpeg"):
        raise UserError("--quality: nothing is compressed without --jpeg, the probability of it.")
    values = {name: np.asarray(value, float).tolist() for name, value in (defaults | options).items()}  # 4 is 4.0 in the record
    # What is off is not recorded: folders that were made before it existed are still known.
    off = {name for name, default in defaults.items() if default == 0 == values[name]}
    values = {name: value for name, value in values.items() if name not in off | ({"quality"} if "jpeg" in off else set())}
    # Bad values are refused by the function itself, before any file is touched.
    KINDS[kind](np.zeros((8, 8, 3), np.float32), np.random.default_rng(0), **values)
    return {"kind": kind, "seed": seed, "options": values}


def _plan(input_dir: Path, output_dir: Path) -> dict[Path, Path]:
    """Source to target, in order of name."""
    if not input_dir.is_dir():
        raise UserError(f"{input_dir}: is no folder; give the folder that holds the sharp pictures.")
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir}: is a file; give a folder for the degraded pictures.")
    if input_dir.resolve() == output_dir.resolve():
        raise UserError(f"{output_dir}: is the input folder as well; give another folder for the degraded pictures.")
    found = scan(input_dir, recursive=False)
    sources = found.files
    if not sources:
        raise UserError(f"{input_dir}: holds no picture; looked for {', '.join(SUFFIXES)} directly in it.")
    logger.info("%s: %s", display(input_dir), found.summary())
    targets = {source: output_dir / f"{source.stem}.png" for source in sources}
    if len(set(targets.values())) < len(targets):
        stems = [source.stem for source in sources]
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        raise UserError(f"{input_dir}: several pictures would be written as one PNG: {first_ten(twice)}; rename them.")
    return targets


def _claim(output_dir: Path, settings: dict[str, object], targets: set[Path], overwrite: bool) -> None:
    """Record the settings in the folder, which is refused if pictures of other settings would stay in it."""
    record = output_dir / SETTINGS_FILE
    text = (json.dumps(settings, indent=2) + "\n").encode()
    present = set(output_dir.glob("*.png"))
    same = record.exists() and record.read_bytes() == text
    if not same and not overwrite and (present or record.exists()):
        raise UserError(f"{output_dir}: was made with other settings (see {SETTINGS_FILE}); use --overwrite or another folder.")
    if not same and present - targets:
        names = first_ten(sorted(path.name for path in present - targets))
        raise UserError(f"{output_dir}: holds pictures that are not overwritten: {names}; remove them or use another folder.")
    if overwrite:
        for target in present & targets:  # before the record changes, so that a run cut short leaves nothing wrong to skip
            target.unlink()
    write_bytes(record, text)


def _degrade_job(job: tuple[Path, Path, dict[str, object]]) -> tuple[str, str]:
    return degrade_file(*job)


def degrade_file(source: Path, target: Path, settings: dict[str, object]) -> tuple[str, str]:
    """Degrade one picture. Returns its file name and why it failed, '' if it did not."""
    rng = np.random.default_rng([settings["seed"], zlib.crc32(source.name.encode())])
    try:
        write_image(target, KINDS[settings["kind"]](read_image(source), rng, **settings["options"]))
    except DiskError:  # the other pictures could not be written, either
        raise
    except UserError as error:
        return source.name, str(error)
    except (cv2.error, MemoryError) as error:  # a picture too large for OpenCV or for this machine
        return source.name, f"{source}: cannot be processed ({error})."
    return source.name, ""
