"""What image files of each format can hold, and what the file of a picture held beyond its colours."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import features

UINT8, UINT16 = np.dtype(np.uint8), np.dtype(np.uint16)
WHOLE = (np.uint8, np.uint16)  # types of samples that a crop is cut out of as they are


class Format(NamedTuple):
    """A format that is written.

    Attributes:
        name: as people call it.
        types: of samples, the deepest last.
        alpha: whether it holds transparency. colour: whether it holds more than grey.
        longest, shortest: the largest and the smallest number of rows or columns.
        metadata: whether it holds a colour profile, EXIF and a resolution.
        pages: whether it holds several pictures, as the toolbox writes it.
    """

    name: str
    types: tuple[type, ...] = (np.uint8,)
    alpha: bool = False
    colour: bool = True
    longest: int = 1 << 20
    shortest: int = 1
    metadata: bool = False
    pages: bool = False


_PNG = Format("PNG", (np.uint8, np.uint16), alpha=True, metadata=True)
_JPEG = Format("JPEG", longest=65500, metadata=True)
_INTEGERS = (np.int8, np.int16, np.int32, np.uint8, np.uint16, np.uint32)
_TIFF = Format("TIFF", (*_INTEGERS, np.float16, np.float32, np.float64), alpha=True, metadata=True, pages=True)
_WEBP = Format("WebP", alpha=True, longest=16383, metadata=True)
_AVIF = Format("AVIF", alpha=True, longest=65536, metadata=True)
_BMP, _PPM, _PGM = Format("BMP"), Format("PPM", (np.uint8, np.uint16)), Format("PGM", (np.uint8, np.uint16), colour=False)
_JPEG_2000 = Format("JPEG 2000", (np.uint8, np.uint16), shortest=32)  # OpenCV halves it five times
WRITTEN = {".png": _PNG, ".jpg": _JPEG, ".jpeg": _JPEG, ".tif": _TIFF, ".tiff": _TIFF, ".webp": _WEBP, ".bmp": _BMP}
WRITTEN |= {".ppm": _PPM, ".pnm": _PPM, ".pgm": _PGM, ".jp2": _JPEG_2000, ".jfif": _JPEG, ".jpe": _JPEG, ".dib": _BMP}
WRITTEN |= {".avif": _AVIF} if "avif" in features.modules and features.check_module("avif") else {}  # Pillow 11.3 or newer
_READ_ALONE = (".gif", ".apng", ".pbm", ".j2k", ".jpf", ".jpx", ".j2c")
SUFFIXES = (*WRITTEN, *_READ_ALONE)


class Metadata(NamedTuple):
    """What a file says of its picture: a colour profile (ICC), EXIF without the orientation, and dots per inch, (x, y)."""

    icc: bytes = b""
    exif: bytes = b""
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True)
class ImageFormat:
    """What the file held beyond its colours, so that a result can be written in the same way.

    Attributes:
        dtype: of the samples.
        alpha: (H, W) in dtype, or None.
        pages: how many pictures the file holds: pages of a TIFF file, frames of an animation.
        value_range: what black and white are in the file, where that was said.
    """

    dtype: np.dtype
    grey: bool
    alpha: np.ndarray | None = None
    pages: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    value_range: tuple[float, float] | None = None


def is_image(path: Path) -> bool:
    """Whether a file's suffix is that of a format that is read."""
    return path.suffix.lower() in SUFFIXES


def is_written(path: Path) -> bool:
    """Whether a file's suffix is that of a format that is written."""
    return path.suffix.lower() in WRITTEN


def span_of(dtype: np.dtype, value_range: tuple[float, float] | None = None) -> tuple[float, float]:
    """Black and white: 0 and the largest value of a type of integers, 0 and 1 of floats, unless they are given."""
    if value_range is not None:
        return value_range
    return 0, float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1
