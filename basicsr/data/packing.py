"""A folder of images packed into an LMDB in BasicSR's layout."""

import contextlib
import logging
import shutil
import zlib
from functools import partial
from pathlib import Path

import lmdb
from tqdm import tqdm

from basicsr.data.storage import FolderStorage, LmdbStorage, is_cut
from basicsr.errors import UserError, first_ten
from basicsr.utils.image import decode_raw
from basicsr.utils.owner import owned
from basicsr.utils.parallel import in_parallel

FIRST_MAP = 1 << 24  # bytes of a new LMDB's map, which doubles whenever it is full
BATCH = 1 << 26  # bytes of images between two commits: what an interrupted run does again at most
logger = logging.getLogger("basicsr")


def write_lmdb(source: Path, target: Path, *, workers: int | None = 1, progress: bool = True) -> int:
    """Copy a folder's image files into an LMDB, compressed as they are (PNG or JPEG bytes); returns how many.

    Every file is decoded before anything is written. The LMDB grows in the hidden folder `.<name>.lmdb.tmp`, is read back,
    compared and decoded entry by entry, and is renamed only then. An interrupted run leaves that folder, and the next one goes
    on there. A target that exists is compared in the same way: equal to the source, it is left as it is.

    Raises:
        UserError: no images; damaged ones, all by name; the target exists and differs from the source; a full disk.
    """
    folder = FolderStorage(source, "input")
    if target.suffix != ".lmdb":
        raise UserError(f"{target}: an LMDB's name ends in .lmdb.")
    with owned(target):
        return _write_lmdb(folder, target, workers, progress)


def _write_lmdb(folder: FolderStorage, target: Path, workers: int | None, progress: bool) -> int:
    if target.exists():
        _refuse_unless_equal(target, folder, workers, progress)
        logger.info("%s is complete and equal to %s already: nothing is written.", target, folder.root)
        return len(folder.files)
    lines = _meta_info(folder, workers, progress)
    unfinished = _unfinished(target)
    try:
        _fill(unfinished, folder, progress)
        (unfinished / "meta_info.txt").write_text("".join(lines), encoding="utf-8")
        if changed := _differing(LmdbStorage(unfinished, "output"), folder, workers, progress):
            raise UserError(f"{target}: what was read back differs from {first_ten(changed)}; run the same command again.")
        unfinished.rename(target)
    except (lmdb.Error, OSError) as error:
        advice = "make room if the disk is full; the same command goes on then"  # LMDB calls that an input/output error, too
        raise UserError(f"{target}: cannot be written ({error}); {advice}.") from None
    return len(lines)


def _unfinished(target: Path) -> Path:
    """Where an LMDB grows; names of 255 bytes are as long as names can be."""
    name = f".{target.name}.tmp"
    return target.with_name(name if len(name.encode()) <= 255 else f".{zlib.crc32(target.name.encode()):08x}.lmdb.tmp")


def _meta_info(folder: FolderStorage, workers: int | None, progress: bool) -> list[str]:
    """The lines of meta_info.txt, from files that were all decoded."""
    if long := [name for name in folder.names() if len(name.encode()) > 511]:
        raise UserError(f"names longer than the 511 bytes of an LMDB's keys: {first_ten(long)}; rename these files.")
    looks = in_parallel(_describe, list(folder.files.items()), workers, worth=100)
    looks = list(tqdm(looks, desc="checking", total=len(folder.files), unit="image", disable=not progress))
    if faults := [fault for _, fault in looks if fault]:
        raise UserError(f"unreadable: {first_ten(faults)}; replace or remove these files.")
    return [line for line, _ in looks]


def _describe(item: tuple[str, Path]) -> tuple[str, str]:
    """A file's line of meta_info.txt, and what is wrong with it: '' for one that can be decoded."""
    name, path = item
    try:
        data = path.read_bytes()
        pixels, fmt = decode_raw(data, path)
    except (UserError, OSError) as error:
        return "", str(error).split("; ")[0]
    height, width = pixels.shape[:2]
    return f"{name}{path.suffix} ({height},{width},{1 if fmt.grey else 3}) 1\n", ""


def _fill(unfinished: Path, folder: FolderStorage, progress: bool) -> None:
    """Put the files' bytes into the LMDB of the unfinished folder, behind what an interrupted run has put there."""
    done = _packed_already(unfinished, folder, progress)
    if done is None:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        done = set()
    else:
        logger.info("Going on after an interrupted run: %d of %d images are packed.", len(done), len(folder.files))
    names = [name for name in folder.names() if name not in done]
    count = {"total": len(folder.files), "initial": len(done)}
    bar = tqdm(names, desc="packing", **count, unit="image", disable=not progress)
    with bar, lmdb.open(str(unfinished), map_size=FIRST_MAP) as env:
        batch, size = {}, 0
        for name in bar:
            batch[name] = folder.read_bytes(name)
            size += len(batch[name])
            if size >= BATCH:
                _commit(env, batch)
                batch, size = {}, 0
        _commit(env, batch)


def _packed_already(unfinished: Path, folder: FolderStorage, progress: bool) -> set[str] | None:
    """Names in the unfinished LMDB; None when there is none, or anything in it is not as in the folder."""
    done = set()
    with contextlib.suppress(lmdb.Error), lmdb.open(str(unfinished), readonly=True, lock=False, create=False) as env:
        if is_cut(env, unfinished):
            return None
        with env.begin() as transaction:
            entries = tqdm(transaction.cursor(), desc="comparing", unit="image", disable=not progress)
            for key, data in entries:
                name = key.decode()
                if name not in folder.files or folder.read_bytes(name) != data:
                    return None
                done.add(name)
        return done
    return None


def _commit(env: lmdb.Environment, batch: dict[str, bytes]) -> None:
    while True:
        try:
            with env.begin(write=True) as transaction:
                for name, data in batch.items():
                    transaction.put(name.encode(), data)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()["map_size"])


def _refuse_unless_equal(target: Path, folder: FolderStorage, workers: int | None, progress: bool) -> None:
    advice = "remove it or choose another name"
    try:
        packed = LmdbStorage(target, "output")
    except UserError:
        raise UserError(f"{target}: exists already, but is no complete LMDB; {advice}.") from None
    held, wanted = set(packed.names()), set(folder.names())
    faults = [f"{name} is not in it" for name in sorted(wanted - held)]
    faults += [f"{name} is in it alone" for name in sorted(held - wanted)]
    faults = faults or [f"{name} has other contents" for name in _differing(packed, folder, workers, progress)]
    if faults:
        raise UserError(f"{target}: exists already and differs from {folder.root}: {first_ten(faults)}; {advice}.")


def _differing(packed: LmdbStorage, folder: FolderStorage, workers: int | None, progress: bool) -> list[str]:
    """Names whose bytes in the LMDB are not the file's, or not of the size that meta_info.txt gives."""
    names = folder.names()
    same = in_parallel(partial(_is_same, packed=packed, folder=folder), names, workers, worth=100)
    same = tqdm(same, desc="verifying", total=len(names), unit="image", disable=not progress)
    return [name for name, good in zip(names, same, strict=True) if not good]


def _is_same(name: str, packed: LmdbStorage, folder: FolderStorage) -> bool:
    data = packed.read_bytes(name)
    return data == folder.read_bytes(name) and decode_raw(data, packed.label(name))[0].shape[:2] == packed.look(name).size
