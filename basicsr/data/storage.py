"""Where images lie: a folder of files, or an LMDB in BasicSR's layout. Both list names and give bytes."""

import os
from pathlib import Path
from typing import Protocol

import cv2
import lmdb
import numpy as np
from tqdm import tqdm

from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.utils.image import decode, image_size, is_image, read_image

Size = tuple[int, int]  # height, width


class Storage(Protocol):
    """Images by name (file name without suffix, with sub-folders)."""

    def names(self) -> list[str]: ...
    def size(self, name: str) -> Size: ...
    def read(self, name: str) -> np.ndarray: ...


def open_storage(root: Path, kind: str, where: str) -> Storage:
    """`kind`: 'disk' or 'lmdb'. Raises UserError, blaming the option `where`, when there is nothing to open."""
    if kind == "lmdb":
        return LmdbStorage(root, where)
    if kind == "disk":
        return FolderStorage(root, where)
    raise UserError(f"{where}: the storage `{kind}` is unknown.{did_you_mean(kind, ('disk', 'lmdb'))} It is disk or lmdb.")


class FolderStorage:
    """The images of a folder and its sub-folders."""

    def __init__(self, root: Path, where: str) -> None:
        if not root.is_dir():
            raise UserError(f"{where}: the folder {root} does not exist{_nearest_folder(root)}.")
        files = sorted(path for path in root.rglob("*") if is_image(path) and not path.name.startswith("."))
        self.files = {path.relative_to(root).with_suffix("").as_posix(): path for path in files}
        if not files:
            raise UserError(f"{where}: the folder {root} holds no images.")
        if len(self.files) < len(files):
            twice = [p.name for p in files if self.files[p.relative_to(root).with_suffix("").as_posix()] != p]
            raise UserError(f"{where}: {root} holds the same name with two suffixes: {first_ten(twice)}; keep one of each.")

    def names(self) -> list[str]:
        return list(self.files)

    def size(self, name: str) -> Size:
        return image_size(self.files[name])

    def read(self, name: str) -> np.ndarray:
        return read_image(self.files[name])


class LmdbStorage:
    """`name.lmdb/{data.mdb, lock.mdb, meta_info.txt}`; the latter has a line `name.png (height,width,channels) level` a key."""

    def __init__(self, root: Path, where: str) -> None:
        if not (root / "data.mdb").is_file():
            raise UserError(
                f"{where}: {root} is no LMDB: it holds no data.mdb; make one with scripts/data_preparation/create_lmdb.py."
            )
        if not (root / "meta_info.txt").is_file():
            raise UserError(
                f"{where}: {root} has no meta_info.txt, the list of its keys; "
                "make it anew with scripts/data_preparation/create_lmdb.py."
            )
        self.root = root
        self.sizes = _read_meta_info(root / "meta_info.txt")
        self._env: lmdb.Environment | None = None
        self._pid = -1

    def names(self) -> list[str]:
        return list(self.sizes)

    def size(self, name: str) -> Size:
        return self.sizes[name]

    def read(self, name: str) -> np.ndarray:
        if self._pid != os.getpid():  # an environment must not be used across a fork
            self._env = lmdb.open(str(self.root), readonly=True, lock=False, readahead=False, meminit=False)
            self._pid = os.getpid()
        with self._env.begin() as transaction:
            data = transaction.get(name.encode())
        if data is None:
            raise UserError(f"{self.root}: the key {name} of meta_info.txt is not in the LMDB; make it anew.")
        return decode(data, f"{self.root}:{name}")[0]

    def __getstate__(self) -> dict:  # for worker processes
        return {**self.__dict__, "_env": None, "_pid": -1}


def write_lmdb(source: Path, target: Path, *, progress: bool = True) -> int:
    """Copy a folder's image files into an LMDB, compressed as they are (PNG or JPEG bytes); returns how many.

    Written beside the target and moved there when complete, so that a broken run leaves nothing half-done.

    Raises:
        UserError: no images, a damaged one, or the target exists.
    """
    folder = FolderStorage(source, "input")
    if target.suffix != ".lmdb":
        raise UserError(f"{target}: an LMDB's name ends in .lmdb.")
    if target.exists():
        raise UserError(f"{target}: exists already; remove it or choose another name.")
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    for left_over in temporary.iterdir():
        left_over.unlink()
    lines = []
    total = sum(path.stat().st_size for path in folder.files.values())
    env = lmdb.open(str(temporary), map_size=int(total * 1.2) + (64 << 20))
    with env.begin(write=True) as transaction:
        for name, path in tqdm(folder.files.items(), desc=target.name, unit="image", disable=not progress):
            data = path.read_bytes()
            image, _ = decode(data, path)
            channels = 1 if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).ndim == 2 else 3
            transaction.put(name.encode(), data)
            lines.append(f"{name}{path.suffix} ({image.shape[0]},{image.shape[1]},{channels}) 1\n")
    env.close()
    (temporary / "meta_info.txt").write_text("".join(lines), encoding="utf-8")
    temporary.rename(target)
    return len(lines)


def _read_meta_info(path: Path) -> dict[str, Size]:
    sizes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            file, shape, _ = line.rsplit(" ", 2)
            height, width, _ = (int(x) for x in shape.strip("()").split(","))
        except ValueError:
            raise UserError(
                f"{path}, line {number}: {line!r} is not `name.png (height,width,channels) level`; make the LMDB anew."
            ) from None
        sizes[str(Path(file).with_suffix("").as_posix())] = (height, width)
    return sizes


def _nearest_folder(root: Path) -> str:
    """'; its parent x exists and holds a, b': where to look."""
    parent = next((p for p in root.parents if p.is_dir()), None)
    inside = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent else []
    return f"; {parent} exists and holds {first_ten(inside) if inside else 'no folders'}" if parent else ""
