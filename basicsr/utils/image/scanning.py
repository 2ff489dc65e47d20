"""Which pictures a folder holds, and what else is there that might be taken for some."""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from basicsr.errors import first_ten, printable
from basicsr.utils.image.formats import is_image

# Folders that systems put beside one's own: thumbnails, indices, waste baskets.
_SYSTEM = {"@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "lost+found", "#snapshot"}
_NO_SIGNS = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories: controls, undecodable bytes, ends of lines; no list can hold them
_CONTROLS = "with control characters or undecodable bytes in the name, so rename it"
_QUIET = {"thumbs.db", "desktop.ini", "degrade.json", "extract_subimages.json"}  # files of that kind, and the toolbox's own


@dataclass(frozen=True)
class Scan:
    """What was found under a folder.

    Attributes:
        files: the pictures, in order of their paths.
        left_out: paths relative to the folder, by why they are no pictures here: 'hidden', a suffix such as '.heic', ...
    """

    root: Path
    files: tuple[Path, ...]
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def skipped(self) -> str:
        """'2 .heic (a.heic, b.heic); 1 hidden (.x.png)', or ''."""
        return "; ".join(f"{len(names)} {reason} ({_some(names)})" for reason, names in self.left_out.items())

    def summary(self) -> str:
        """'12 pictures; left out: 1 .heic (IMG_1.heic)'"""
        count = f"{len(self.files)} picture{'s' * (len(self.files) != 1)}"
        return f"{count}; left out: {skipped}" if (skipped := self.skipped()) else count


def scan(root: Path, *, recursive: bool = True) -> Scan:
    """The pictures of a folder: files with a suffix of `SUFFIXES`, neither hidden nor in a hidden or a system's folder, whose
    names are text: no line breaks or other controls, which lists, tables and LMDBs cannot hold.

    Links are followed, each folder once: not into one that is there already, such as one around the link.
    """
    files, left_out = [], {}
    seen = {os.path.realpath(folder) for folder, *_ in os.walk(root)} if recursive else set()
    for path, reason in _walk(root, recursive, seen, linked=False):
        if reason:
            left_out.setdefault(reason, []).append(printable(path.relative_to(root).as_posix()))
        else:
            files.append(path)
    return Scan(root, tuple(sorted(files)), left_out)


def _walk(folder: Path, recursive: bool, seen: set[str], linked: bool) -> Iterator[tuple[Path, str]]:
    """Paths, and why each is none of the pictures, or ''.

    Args: seen: folders that are not to be entered by a link. linked: whether one was followed to this folder.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, f"not readable, {error.strerror}"
        return
    for entry in entries:
        path = folder / entry.name
        if not entry.is_dir():
            if (reason := _reason(entry, path)) is not None:
                yield path, reason
        elif entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
            if any(is_image(Path(name)) for name in _names(path)):
                yield path, "hidden or a system's folder"
        elif not _prints(entry.name):
            yield path, _CONTROLS
        elif recursive:
            by_link = linked or entry.is_symlink()
            if by_link and os.path.realpath(path) in seen:
                yield path, "a link to a folder that is there already"
                continue
            seen.add(os.path.realpath(path))
            yield from _walk(path, True, seen, by_link)


def _reason(entry: os.DirEntry, path: Path) -> str | None:
    """Why a file is no picture here, '' for a picture; None: nobody would ask."""
    if entry.name.startswith("."):
        return "hidden" if is_image(path) else None
    if entry.name.lower() in _QUIET:
        return None
    if not is_image(path):
        return path.suffix.lower() or "without a suffix"
    if not _prints(entry.name):
        return _CONTROLS
    broken = entry.is_symlink() and not path.exists()  # said when it is read: else a set would shrink with its disk
    return "" if entry.is_file() or broken else "no file"


def _prints(name: str) -> bool:
    return not any(unicodedata.category(sign) in _NO_SIGNS for sign in name)


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _some(names: list[str]) -> str:
    return first_ten(names[:3]) + (", ..." if len(names) > 3 else "")
