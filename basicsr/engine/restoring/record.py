"""What was restored into a folder, with what: so that a run over many photographs that was cut short is gone on with."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basicsr.engine.restoring.jobs import Job
from basicsr.paths import cache


class Record:
    """In the user's cache a file for each folder that restored photographs go to, with a line a photograph.

    Args:
        settings: all that a restored photograph depends on, beside its source.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = json.dumps(settings, sort_keys=True, default=str)
        self._held: dict[Path, dict[str, dict]] = {}

    def holds(self, job: Job) -> bool:
        """Whether a photograph was restored with these settings, and has not changed since, nor lost what was made of it."""
        folder = job.target.parent
        if folder not in self._held:
            self._held[folder] = _read(_file_of(folder))
        said = self._held[folder].get(job.target.name, {})
        return said.get("of") == self._mark(job) and all((folder / name).is_file() for name in said["files"])

    def add(self, job: Job, written: Sequence[Path]) -> None:
        line = {"photo": job.target.name, "of": self._mark(job), "files": [path.name for path in written]}
        with contextlib.suppress(OSError):  # without a cache all is restored again, and no harm done
            own = _file_of(job.target.parent)
            own.parent.mkdir(parents=True, exist_ok=True)
            with open(own, "a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(line))  # on a line of its own, also behind one that was cut short

    def _mark(self, job: Job) -> str:
        status = job.source.stat()
        content = f"{self.settings} {job.source.resolve()} {status.st_size} {status.st_mtime_ns}"
        return _hash(content)


def _file_of(folder: Path) -> Path:
    return cache() / "restored" / f"{_hash(str(folder.resolve()))[:32]}.jsonl"


def _hash(text: str) -> str:
    """Of a text in which names of files may have bytes in no encoding."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _read(file: Path) -> dict[str, dict]:
    """The last line of each photograph; lines that were cut short count for nothing."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            said = json.loads(line)
            found[said["photo"]] = {"of": said["of"], "files": said["files"]}
        except (ValueError, KeyError, TypeError):
            continue
    return found
