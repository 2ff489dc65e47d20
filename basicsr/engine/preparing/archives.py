"""What the preparation of GoPro, HIDE and REDS shares: find an archive's folders, pair its frames, put them in place."""

import contextlib
import filecmp
import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from basicsr.errors import UserError, first_ten
from basicsr.paths import display
from basicsr.utils.files import remove_unfinished, temporary_beside, writing
from basicsr.utils.image import image_size, scan
from basicsr.utils.parallel import in_parallel

logger = logging.getLogger("basicsr")


class Pair(NamedTuple):
    """A frame under its new name, without suffix."""

    name: str
    degraded: Path
    sharp: Path


class Move(NamedTuple):
    source: Path
    target: Path


def subfolder(root: Path, *names: str) -> Path | None:
    """The first of these folders that is in `root`, whatever its case and whether its words are joined by - or _."""

    def plain(name: str) -> str:
        return name.lower().replace("-", "_")

    found = {plain(path.name): path for path in sorted(root.iterdir()) if path.is_dir()}
    return next((found[plain(name)] for name in names if plain(name) in found), None)


def contents(root: Path) -> str:
    """'a, b, c': the folders in a folder, for messages."""
    return first_ten(sorted(path.name for path in root.iterdir() if path.is_dir())) or "no folders"


def images(folder: Path) -> list[Path]:
    """The images in a folder and its sub-folders, by name."""
    found = scan(folder)
    if found.left_out:
        logger.info("%s: %s", display(folder), found.summary())
    return list(found.files)


def by_name(files: list[Path]) -> dict[str, Path]:
    """Stem to file; the same stem twice is refused, as the two would be one file."""
    names = {path.stem: path for path in files}
    if len(names) < len(files):
        twice = [f"{path} and {names[path.stem]}" for path in files if names[path.stem] != path]
        raise UserError(f"--input: several files have one name: {first_ten(twice)}; keep one of each.")
    return names


def pair_up(degraded: dict[str, Path], sharp: dict[str, Path], *, prefix: str = "", spare_sharp: bool = False) -> list[Pair]:
    """Frames of the same name, renamed to prefix + name.

    Args:
        spare_sharp: sharp frames without a degraded one are no fault.

    Raises:
        UserError: frames without a partner.
    """
    alone = [degraded[name] for name in sorted(degraded.keys() - sharp.keys())]
    if not spare_sharp:
        alone += [sharp[name] for name in sorted(sharp.keys() - degraded.keys())]
    if alone:
        raise UserError(f"--input: without a partner: {first_ten(alone)}; unpack the archive again.")
    return [Pair(prefix + name, degraded[name], sharp[name]) for name in sorted(degraded)]


def no_links(link: bool) -> None:
    """UserError where crops are written, which cannot be links."""
    if link:
        raise UserError("--link: crops are cut from these pictures, so that there is nothing to link; leave it out.")


def place(pairs: list[Pair], degraded: Path, sharp: Path, *, expected: int, link: bool, workers: int | None) -> str:
    """Copy or link every frame to <degraded>/<name> and <sharp>/<name>; what lies there already is left as it is.

    Returns:
        A line that tells what was done.

    Raises:
        UserError: damaged frames; files of these names with other contents; a folder that cannot be written.
    """
    moves = [Move(pair.degraded, degraded / f"{pair.name}{pair.degraded.suffix.lower()}") for pair in pairs]
    moves += [Move(pair.sharp, sharp / f"{pair.name}{pair.sharp.suffix.lower()}") for pair in pairs]
    looks = list(tqdm(in_parallel(inspect, moves, workers, worth=1000), total=len(moves), desc="checking", unit="file"))
    if faults := [look for look in looks if look not in ("new", "same", "other")]:
        raise UserError(f"--input: unreadable: {first_ten(faults)}; unpack the archive again.")
    if others := [move.target for move, look in zip(moves, looks, strict=True) if look == "other"]:
        raise UserError(f"--output: there with other contents: {first_ten(others)}; remove them or choose another folder.")
    todo = [move for move, look in zip(moves, looks, strict=True) if look == "new"]
    for folder in (degraded, sharp):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        if strange := sorted({path.name for path in images(folder)} - {move.target.name for move in moves}):
            logger.warning("%s holds other images, too: %s.", folder, first_ten(strange))
    for _ in tqdm(in_parallel(partial(put, link=link), todo, workers, worth=200), total=len(todo), desc="placing", unit="file"):
        pass
    if len(pairs) != expected:
        logger.warning("%s: %s pairs, but the published set has %s.", degraded.parent, f"{len(pairs):,}", f"{expected:,}")
    done = f"{len(todo):,} files {'linked' if link else 'copied'}, {len(moves) - len(todo):,} were there already"
    return f"{degraded.parent}: {len(pairs):,} pairs in {degraded.name} and {sharp.name} ({done})"


def inspect(move: Move) -> str:
    """'new', 'same' or 'other' for what lies at the target; or what is wrong with the source."""
    try:
        image_size(move.source)
        if not os.path.lexists(move.target):
            return "new"
        # Equal size and time are taken for equal contents, as a copy keeps the time.
        return "same" if filecmp.cmp(move.source, move.target) else "other"
    except UserError as error:
        return str(error).split("; ")[0]
    except OSError:  # a link whose target is gone, a folder
        return "other"


def put(move: Move, link: bool) -> None:
    """Copy or link a file, whole or not at all."""
    temporary = temporary_beside(move.target)
    with writing(move.target):
        try:
            if link:
                _link(move.source.resolve(), temporary)
            else:
                shutil.copy2(move.source, temporary)
            os.replace(temporary, move.target)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        os.symlink(source, target)
