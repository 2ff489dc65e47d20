"""Where images lie: a folder of files, or an LMDB in BasicSR's layout. Both list names and give bytes."""

import logging
import re
import threading
from pathlib import Path
from typing import Protocol

import lmdb
import numpy as np

from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.paths import display, guide
from basicsr.utils.image import Look, as_float, bytes_of, decode_raw, look_at, scan

Size = tuple[int, int]  # height, width
Range = tuple[float, float]  # black, white
logger = logging.getLogger("basicsr")
_opened = threading.Lock()


class Storage(Protocol):
    """Images by name (file name without suffix, with sub-folders).

    `look` is what is known of an image before it is decoded. `read` gives float32 pixels, `read_raw` those of the file (see
    utils/image.py), `read_bytes` the file as it is; `file_name` is the name with its suffix, `label` tells in messages where
    the image lies.
    """

    root: Path
    value_range: Range | None

    def names(self) -> list[str]: ...
    def look(self, name: str) -> Look: ...
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
        if root.is_file():
            raise UserError(f"{where}: {root} is a file; name the folder that holds it.")
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

    def look(self, name: str) -> Look:
        return look_at(self.files[name])

    def read(self, name: str) -> np.ndarray:
        return as_float(self.read_raw(name))

    def read_raw(self, name: str) -> np.ndarray:
        return decode_raw(self.read_bytes(name), self.label(name), self.value_range)[0]

    def read_bytes(self, name: str) -> bytes:
        return bytes_of(self.files[name])

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
            if is_cut(env, root):  # reading on would end the process: SIGBUS, which Python cannot catch
                raise UserError(
                    f"{where}: {root} is truncated: data.mdb ends before its last page; copy it again or make it anew."
                )
            absent = [name for name in self.sizes if not transaction.cursor().set_key(name.encode())]
        if absent or not self.sizes:
            fault = f"keys of meta_info.txt that are not in it: {first_ten(absent)}" if absent else "an empty meta_info.txt"
            raise UserError(f"{where}: {root} has {fault}; make it anew with `tlc lmdb`.")

    def names(self) -> list[str]:
        return list(self.sizes)

    def look(self, name: str) -> Look:
        return Look(self.sizes[name], pages=1, grey=None)  # nothing else is listed

    def read(self, name: str) -> np.ndarray:
        return as_float(self.read_raw(name))

    def read_raw(self, name: str) -> np.ndarray:
        return decode_raw(self.read_bytes(name), self.label(name), self.value_range)[0]

    def read_bytes(self, name: str) -> bytes:
        with _opened, self._open() as env, env.begin() as transaction:
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


def is_cut(env: lmdb.Environment, root: Path) -> bool:
    """Whether data.mdb ends before the last page that it speaks of, as after an incomplete copy."""
    return (root / "data.mdb").stat().st_size < (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def _read_meta_info(path: Path) -> tuple[dict[str, Size], dict[str, str]]:
    """The sizes and the files' suffixes, by name."""
    sizes, suffixes = {}, {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(f"{path}: cannot be read ({why}); make the LMDB anew.") from None
    for number, line in enumerate(lines, start=1):
        try:
            file, shape, _ = line.rsplit(" ", 2)
            height, width, _ = (int(x) for x in shape.strip("()").split(","))
            if min(height, width) < 1:
                raise ValueError(shape)
        except ValueError:
            raise UserError(
                f"{path}, line {number}: {line!r} is not `name.png (height,width,channels) level`; make the LMDB anew."
            ) from None
        name = Path(file).with_suffix("").as_posix() if Path(file).name else file
        if ".." in re.split(r"[/\\]", name) or Path(name).is_absolute():  # restored pictures are written under these names
            raise UserError(f"{path}, line {number}: the name {file!r} leads out of the folder; make the LMDB anew.")
        if name in sizes:
            raise UserError(f"{path}, line {number}: the name {name!r} stands there a second time; make the LMDB anew.")
        sizes[name], suffixes[name] = (height, width), Path(file).suffix
    return sizes, suffixes


def _nearest_folder(root: Path) -> str:
    """'; its parent x exists and holds a, b': where to look."""
    parent = next((p for p in root.parents if p.is_dir()), None)
    inside = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent else []
    return f"; {parent} exists and holds {first_ten(inside) if inside else 'no folders'}" if parent else ""
