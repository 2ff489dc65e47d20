"""Files written whole or not at all."""

import contextlib
import itertools
import os
from pathlib import Path

from basicsr.errors import UserError

_numbers = itertools.count()


def temporary_beside(path: Path) -> Path:
    """A name for what is to become `path`. It is short: names have a limit, and that of the file may reach it."""
    return path.with_name(f".{os.getpid()}-{next(_numbers)}.tmp")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all: into a temporary name beside it, then renamed.

    Raises:
        UserError: it cannot be written, with the system's reason.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it need not be there, nor its folder
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from None
