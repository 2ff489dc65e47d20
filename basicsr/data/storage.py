"""Where images lie: a folder of files, or an LMDB in BasicSR's layout. Both list names and give bytes."""

import contextlib
import logging
import shutil
import zlib
from functools import partial
from pathlib import Path
from typing import Protocol

import lmdb
import numpy as np
from tqdm import tqdm

from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.paths import display, guide
from basicsr.utils.image import as_float, decode_raw, image_size, scan
from basicsr.utils.parallel import in_parallel

Size = tuple[int, int]  # height, width
Range = tuple[float, float]  # black, white
FIRST_MAP = 1 << 24  # bytes of a new LMDB's map, which doubles whenever it is full
BATCH = 1 << 26  # bytes of images between two commits: what an interrupted run does again at most
logger = logging.getLogger("basicsr")


class Storage(Protocol):
    """Images by name (file name without suffix, with sub-folders).

    `read` gives float32 pixels, `read_raw` those of the file (see utils/image.py), `read_bytes` the file as it is; `file_name`
    is the name with its suffix, `label` tells in messages where the image lies.
    """

    root: Path
    value_range: Range | None

    def names(self) -> list[str]: ...
    def size(self, name: str) -> Size: ...
    def read(self, name: str) -> np.ndarray: ...
    def read_raw(self, name: str) -> np.ndarray: ...
    def read_bytes(self, name: str) -> bytes: ...
    def file_name(self, name: str) -> str: ...
    def label(self, name: str) -> str: ...


def open_storage(root: Path, kind: str, value_range: Range | None = None, *, where: str) -> Storage:
    """Images on disk.

    Args:
        kind: 'disk' or 'lmdb'. where: the option that is blamed when there is nothing to open.
        value_range: what black and white are in the files; None: 0 and the largest value of their type, 0 and 1 of floats.

    Raises:
        UserError: there is nothing to open.
    """
    if kind == "lmdb":
        return LmdbStorage(root, where, value_range)
    if kind == "disk":
        return FolderStorage(root, where, value_range)
    raise UserError(f"{where}: the storage `{kind}` is unknown.{did_you_mean(kind, ('disk', 'lmdb'))} It is disk or lmdb.")


class FolderStorage:
    """The images of a folder and its sub-folders."""

    def __init__(self, root: Path, where: str, value_range: Range | None = None) -> None:
        if not root.is_dir():
            raise UserError(
                f"{where}: the folder {root} does not exist{_nearest_folder(root)}; "
                f"{guide('datasets/README.md')} says how to make it."
            )
        self.root, self.value_range = root, value_range
        found = scan(root)
        files = found.files
        self.files = {path.relative_to(root).with_suffix("").as_posix(): path for path in files}
        if not files and (root / "data.mdb").is_file():
            raise UserError(f"{where}: {root} is an LMDB; add `io_backend: {{type: lmdb}}` to the data set.")
        if not files:
            skipped = f"; left out: {found.skipped()}" if found.left_out else ""
            raise UserError(f"{where}: the folder {root} holds no images{skipped}.")
        if len(self.files) < len(files):
            twice = [p.name for p in files if self.files[p.relative_to(root).with_suffix("").as_posix()] != p]
            raise UserError(f"{where}: {root} holds the same name with two suffixes: {first_ten(twice)}; keep one of each.")
        if found.left_out:
            logger.info("%s: %s", display(root), found.summary())

    def names(self) -> list[str]:
        return list(self.files)

    def size(self, name: str) -> Size:
        return image_size(self.files[name])

    def read(self, name: str) -> np.ndarray:
        return as_float(self.read_raw(name))

    def read_raw(self, name: str) -> np.ndarray:
        return decode_raw(self.read_bytes(name), self.label(name), self.value_range)[0]

    def read_bytes(self, name: str) -> bytes:
        try:
            return self.files[name].read_bytes()
        except OSError as error:
            raise UserError(f"{self.label(name)}: cannot be read ({error.strerror}).") from None

    def file_name(self, name: str) -> str:
        return name + self.files[name].suffix

    def label(self, name: str) -> str:
        return str(self.files[name])


class LmdbStorage:
    """`name.lmdb/{data.mdb, lock.mdb, meta_info.txt}`; the latter has a line `name.png (height,width,channels) level` a key."""

    def __init__(self, root: Path, where: str, value_range: Range | None = None) -> None:
        if not (root / "data.mdb").is_file():
            raise UserError(f"{where}: {root} is no LMDB: it holds no data.mdb; make one with `tlc lmdb`.")
        if not (root / "meta_info.txt").is_file():
            raise UserError(f"{where}: {root} has no meta_info.txt, the list of its keys; make it anew with `tlc lmdb`.")
        self.root, self.value_range = root, value_range
        self.sizes, self.suffixes = _read_meta_info(root / "meta_info.txt")
        with self._open() as env, env.begin() as transaction:
            if _is_cut(env, root):  # reading on would end the process: SIGBUS, which Python cannot catch
                raise UserError(
                    f"{where}: {root} is truncated: data.mdb ends before its last page; copy it again or make it anew."
                )
            absent = [name for name in self.sizes if not transaction.cursor().set_key(name.encode())]
        if absent or not self.sizes:
            fault = f"keys of meta_info.txt that are not in it: {first_ten(absent)}" if absent else "an empty meta_info.txt"
            raise UserError(f"{where}: {root} has {fault}; make it anew with `tlc lmdb`.")

    def names(self) -> list[str]:
        return list(self.sizes)

    def size(self, name: str) -> Size:
        return self.sizes[name]

    def read(self, name: str) -> np.ndarray:
        return as_float(self.read_raw(name))

    def read_raw(self, name: str) -> np.ndarray:
        return decode_raw(self.read_bytes(name), self.label(name), self.value_range)[0]

    def read_bytes(self, name: str) -> bytes:
        with self._open() as env, env.begin() as transaction:
            return transaction.get(name.encode())

    def file_name(self, name: str) -> str:
        return name + self.suffixes[name]

    def label(self, name: str) -> str:
        return f"{self.root}:{name}"

    def _open(self) -> lmdb.Environment:
        """Opened for every read (it takes 0.1 ms): an environment must not cross a fork, nor be open twice in a process."""
        try:
            return lmdb.open(str(self.root), readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise UserError(f"{self.root}: cannot be opened as an LMDB ({error}); make it anew.") from None


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
    if target.exists():
        _refuse_unless_equal(target, folder, source, workers, progress)
        logger.info("%s is complete and equal to %s already: nothing is written.", target, source)
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
        raise UserError(f"{target}: cannot be written ({error}); the same command goes on when that is mended.") from None
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
    bar = tqdm(names, desc="packing", total=len(folder.files), initial=len(done), unit="image", disable=not progress)
    with lmdb.open(str(unfinished), map_size=FIRST_MAP) as env:
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
        if _is_cut(env, unfinished):
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


def _is_cut(env: lmdb.Environment, root: Path) -> bool:
    """Whether data.mdb ends before the last page that it speaks of, as after an incomplete copy."""
    return (root / "data.mdb").stat().st_size < (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def _refuse_unless_equal(target: Path, folder: FolderStorage, source: Path, workers: int | None, progress: bool) -> None:
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
        raise UserError(f"{target}: exists already and differs from {source}: {first_ten(faults)}; {advice}.")


def _differing(packed: LmdbStorage, folder: FolderStorage, workers: int | None, progress: bool) -> list[str]:
    """Names whose bytes in the LMDB are not the file's, or not of the size that meta_info.txt gives."""
    names = folder.names()
    same = in_parallel(partial(_is_same, packed=packed, folder=folder), names, workers, worth=100)
    same = tqdm(same, desc="verifying", total=len(names), unit="image", disable=not progress)
    return [name for name, good in zip(names, same, strict=True) if not good]


def _is_same(name: str, packed: LmdbStorage, folder: FolderStorage) -> bool:
    data = packed.read_bytes(name)
    return data == folder.read_bytes(name) and decode_raw(data, packed.label(name))[0].shape[:2] == packed.size(name)


def _read_meta_info(path: Path) -> tuple[dict[str, Size], dict[str, str]]:
    """The sizes and the files' suffixes, by name."""
    sizes, suffixes = {}, {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            file, shape, _ = line.rsplit(" ", 2)
            height, width, _ = (int(x) for x in shape.strip("()").split(","))
        except ValueError:
            raise UserError(
                f"{path}, line {number}: {line!r} is not `name.png (height,width,channels) level`; make the LMDB anew."
            ) from None
        name = Path(file).with_suffix("").as_posix()
        sizes[name], suffixes[name] = (height, width), Path(file).suffix
    return sizes, suffixes


def _nearest_folder(root: Path) -> str:
    """'; its parent x exists and holds a, b': where to look."""
    parent = next((p for p in root.parents if p.is_dir()), None)
    inside = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent else []
    return f"; {parent} exists and holds {first_ten(inside) if inside else 'no folders'}" if parent else ""
