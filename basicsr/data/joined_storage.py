"""Several folders or LMDBs as one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from basicsr.data.storage import Storage
from basicsr.utils.image import Look


class JoinedStorage:
    """The images of several storages, whose names begin with a word for each; see `Storage`.

    Args:
        storages: by that word, which ends in a slash.
    """

    def __init__(self, storages: Sequence[tuple[str, Storage]]) -> None:
        self.storages = dict(storages)
        first = next(iter(self.storages.values()))
        self.root: Path = first.root
        self.value_range = first.value_range
        self.places = {f"{word}{name}": (storage, name) for word, storage in storages for name in storage.names()}

    def names(self) -> list[str]:
        return list(self.places)

    def look(self, name: str) -> Look:
        storage, own = self.places[name]
        return storage.look(own)

    def read(self, name: str) -> np.ndarray:
        storage, own = self.places[name]
        return storage.read(own)

    def read_raw(self, name: str) -> np.ndarray:
        storage, own = self.places[name]
        return storage.read_raw(own)

    def read_bytes(self, name: str) -> bytes:
        storage, own = self.places[name]
        return storage.read_bytes(own)

    def file_name(self, name: str) -> str:
        """In its own folder, so that what follows from it is the same there alone."""
        storage, own = self.places[name]
        return storage.file_name(own)

    def label(self, name: str) -> str:
        storage, own = self.places[name]
        return storage.label(own)
