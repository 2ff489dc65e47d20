"""Files written whole or not at all, and read where they are files; what killed processes left of them; full disks."""

import contextlib
import errno
import itertools
import os
import re
import socket
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from basicsr.errors import DiskError, UserError

_numbers = itertools.count()
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_UNFINISHED = re.compile(r"\.([0-9a-f]{8})-(\d+)-\d+\.tmp")  # the host, its process
NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_ADVICE = {
    **dict.fromkeys(NO_ROOM, "make room there, or name another place"),
    errno.EFBIG: "raise `ulimit -f`, the largest file that this shell allows",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EROFS: "it is mounted for reading alone, so name another place",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "allow this user to write there, or name another place"),
}


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes.

    Raises:
        OSError: it cannot be read; it is a pipe, a socket or a device, which may have no end, or never begin.
    """
    _refuse_special(path)
    return Path(path).read_bytes()


def _refuse_special(path: str | Path) -> None:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no file, but a pipe, a socket or a device", str(path))


def temporary_beside(path: Path) -> Path:
    """A new name for what is to become `path`. It is short: names have a limit, and that of the file may reach it."""
    names = (path.with_name(f".{_HOST}-{os.getpid()}-{number}.tmp") for number in _numbers)
    return next(name for name in names if not os.path.lexists(name))


@contextlib.contextmanager
def private(temporary: Path) -> Iterator[BinaryIO]:
    """A new file, open. While it is written other users cannot read it; then it has the mode of any new file there.

    Raises:
        FileExistsError: something of that name is there, such as a link to a file of somebody else's.
    """
    with open(temporary, "xb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        with contextlib.suppress(OSError):  # some file systems have no modes
            os.chmod(temporary, mode & stat.S_IRWXU)
        yield file
    with contextlib.suppress(OSError):
        os.chmod(temporary, mode)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all: into a temporary name beside it, then renamed.

    Raises:
        UserError: see `writing`.
    """
    with writing(path):
        put(Path(path), data)


def write_by(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """`write_bytes` for what is too large to be in memory twice: `write` is given the open file.

    Raises:
        UserError: see `writing`.
    """
    with writing(path):
        _put_by(Path(path), write)


def put(path: Path, data: bytes) -> None:
    """`write_bytes` for those that say themselves what cannot be written: it raises OSError."""
    _put_by(path, lambda file: file.write(data))


def _put_by(path: Path, write: Callable[[BinaryIO], object]) -> None:
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _refuse_special(path)  # which a file would take the place of
        with private(temporary) as file:
            write(file)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):  # it need not be there, nor its folder
            temporary.unlink()
        raise


def append(path: Path, text: str) -> None:
    """Put text behind what a file holds, all of it or nothing, as far as the system lets it.

    Raises:
        UserError: see `writing`.
    """
    with writing(path), open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            data = text.encode()
            while data:  # a disk that is nearly full takes a part
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """While something is written there: UserError with what the system says, and what to do.

    Raises:
        UserError: it cannot be written. DiskError: nor anything else there.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno, "name another place")
        kind = DiskError if error.errno in NO_ROOM | {errno.EROFS} else UserError
        raise kind(f"{path}: cannot be written ({error.strerror or error}); {advice}.") from None


def require_writable(folder: Path) -> None:
    """UserError, before the work, where nothing can be written into a folder that need not exist yet."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    with writing(folder):
        if not os.access(there, os.W_OK):
            read_only = hasattr(os, "statvfs") and os.statvfs(there).f_flag & os.ST_RDONLY
            code = errno.EROFS if read_only else errno.EACCES
            raise OSError(code, os.strerror(code))


def remove_unfinished(folder: Path, *, alone: bool = False) -> None:
    """Remove what killed processes were writing in a folder.

    Args:
        alone: nobody else writes there, so that all of it goes, also from folders below; else what processes of this computer
            left that are no more.
    """
    for file in folder.rglob(".*.tmp") if alone else folder.glob(".*.tmp"):
        found = _UNFINISHED.fullmatch(file.name)
        if found and (alone or (found[1] == _HOST and not _runs(int(found[2])))):
            with contextlib.suppress(OSError):
                file.unlink()


def _runs(process: int) -> bool:
    """Whether there is such a process; True where the system does not tell."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True
