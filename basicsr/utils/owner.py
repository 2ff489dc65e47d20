"""One process at a time writes into a folder: whose it is, and since when."""

import contextlib
import json
import os
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from basicsr.errors import UserError
from basicsr.utils.files import put, remove_unfinished, writing


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a folder, which need not exist yet, while something is written there; it may be renamed meanwhile. What a killed
    process was writing in it is removed first.

    The lock is the system's, and ends with the process that holds it, however that ends.

    Raises:
        UserError: another process holds it: which, on which computer, since when; or there is no writing beside the folder.
    """
    parent, name = folder.parent, folder.name
    if len(name.encode()) > 200:  # names have a limit of 255 bytes
        name = f"{zlib.crc32(name.encode()):08x}"
    lock, note = FileLock(parent / f".{name}.lock"), parent / f".{name}.owner"
    made = not parent.exists()
    with writing(folder):
        parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            whose = _holder(note)
            raise UserError(f"{folder}: is being written by {whose}; wait for it, end it, or give another name.") from None
    try:
        remove_unfinished(parent)
        remove_unfinished(folder, alone=True)
        with writing(folder):
            put(note, json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}).encode())
        yield
    finally:
        for file in (note, parent / f".{name}.lock"):  # before it is released, so that nobody else's is removed
            with contextlib.suppress(OSError):
                file.unlink()
        lock.release()
        if made:
            with contextlib.suppress(OSError):  # not empty
                parent.rmdir()


def _holder(note: Path) -> str:
    """'process 123 on host since 2026-01-31 10:00:00'"""
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said["since"]))
        return f"process {said['process']} on {said['host']} since {since}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return "another process"
