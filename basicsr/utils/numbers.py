"""NumPy's numbers in checkpoints, such as {"best": np.float64(30.1)}: admitted by torch's reader of plain tensors.

What stands for NumPy's classes there makes numbers of the types below and nothing else; NumPy's own unpickling, which takes
objects of any kind, is not let in.
"""

import contextlib
import pickle
import re
from collections.abc import Iterator

import numpy as np
import torch


class _DType:
    """dtype('f8') as a pickle makes it: of a code, then told its byte order."""

    def __init__(self, code: str, *_flags: bool) -> None:
        if not re.fullmatch(r"[biufc]\d{1,2}|[US]\d{1,5}", str(code)):
            raise pickle.UnpicklingError(f"numbers of the type {code}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def made(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class _Scalar:
    def __new__(cls, dtype: _DType, data: bytes) -> np.generic:
        return np.frombuffer(data, dtype.made(), count=1)[0]


class _Array:
    """What an array becomes; only its values are told, in `values`."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, data = state
        self.values = np.frombuffer(data, dtype.made()).reshape(shape, order="F" if by_columns else "C")


class _Reconstruct:
    def __new__(cls, *_about: object) -> _Array:
        return _Array()


class _Bytes:
    """What `_codecs.encode` is called for in a pickle: bytes, as text. Older PyTorch does not know it."""

    def __new__(cls, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes in {encoding}")
        return text.encode(encoding)


def _named(kind: type, path: str) -> type:
    module, _, name = path.rpartition(".")
    return type(name, (kind,), {"__module__": module, "__qualname__": name})


_Array.__module__, _Array.__qualname__ = "numpy", "ndarray"  # what torch goes by: the name in the file, and the type itself
_Array.__name__ = "ndarray"
_STAND_INS = [
    _Array,
    _named(_DType, "numpy.dtype"),
    _named(_Bytes, "_codecs.encode"),
    *(_named(_Scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # NumPy 1 and 2
    *(_named(_Reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


@contextlib.contextmanager
def admitted() -> Iterator[None]:
    """torch.load(weights_only=True) takes NumPy's numbers meanwhile, and nothing else that anyone has admitted."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_STAND_INS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
