"""Where images lie: a folder of files, or an LMDB in BasicSR's layout. Both list names and give bytes."""

import shutil
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
        if not files and (root / "data.mdb").is_file():
            raise UserError(f"{where}: {root} is an LMDB; add `io_backend: {{type: lmdb}}` to the data set.")
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
        with self._open() as env, env.begin() as transaction:
            absent = [name for name in self.sizes if not transaction.cursor().set_key(name.encode())]
        if absent or not self.sizes:
            fault = f"keys of meta_info.txt that are not in it: {first_ten(absent)}" if absent else "an empty meta_info.txt"
            raise UserError(f"{where}: {root} has {fault}; make it anew with scripts/data_preparation/create_lmdb.py.")

    def names(self) -> list[str]:
        return list(self.sizes)

    def size(self, name: str) -> Size:
        return self.sizes[name]

    def read(self, name: str) -> np.ndarray:
        with self._open() as env, env.begin() as transaction:
            data = transaction.get(name.encode())
        return decode(data, f"{self.root}:{name}")[0]

    def _open(self) -> lmdb.Environment:
        """Opened for every read (it takes 0.1 ms): an environment must not cross a fork, nor be open twice in a process."""
        try:
            return lmdb.open(str(self.root), readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise UserError(f"{self.root}: cannot be opened as an LMDB ({error}); make it anew.") from None


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
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        lines = _copy_into(temporary, folder, target.name, progress)
        (temporary / "meta_info.txt").write_text("".join(lines), encoding="utf-8")
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    return len(lines)


def _copy_into(temporary: Path, folder: FolderStorage, name: str, progress: bool) -> list[str]:
    """Write the images' bytes; returns the lines of meta_info.txt."""
    lines = []
    total = sum(path.stat().st_size for path in folder.files.values())
    with lmdb.open(str(temporary), map_size=int(total * 1.2) + (64 << 20)) as env, env.begin(write=True) as transaction:
        for key, path in tqdm(folder.files.items(), desc=name, unit="image", disable=not progress):
            data = path.read_bytes()
            image, _ = decode(data, path)
            channels = 1 if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).ndim == 2 else 3
            transaction.put(key.encode(), data)
            lines.append(f"{key}{path.suffix} ({image.shape[0]},{image.shape[1]},{channels}) 1\n")
    return lines


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
