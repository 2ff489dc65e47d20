"""Image files read whole and upright, any depth, grey or colour; what is damaged is refused, not filled with grey.

OpenCV decodes what it decodes as others do, and faster; tifffile and Pillow the rest (see `decoded`).
"""

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from basicsr.errors import UserError
from basicsr.utils import files
from basicsr.utils.image import tiff
from basicsr.utils.image.formats import UINT8, WHOLE, ImageFormat, Metadata, span_of
from basicsr.utils.image.metadata import metadata_of, opened, orientation_of, upright
from basicsr.utils.image.structure import ends_cleanly, fault_of, kind_of

logger = logging.getLogger("basicsr")
Range = tuple[float, float]
MAX_PIXELS = "TLC_MAX_PIXELS"  # environment variable: it reaches data workers
_MAX_PIXELS = 1 << 29
_BY_OPENCV = ("PNG", "JPEG", "WebP", "BMP", "PNM", "JPEG 2000")
_GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L")  # Pillow's modes
_PAGED = ("PNG", "WebP", "GIF", "AVIF")  # where Pillow counts frames; a JPEG file's second picture is a phone's, not a page
_DAMAGED = ("Corrupt JPEG", "Premature end of JPEG", "Unsupported JPEG", "Invalid")  # libjpeg, of what it filled or skipped
_lock = threading.Lock()
Image.MAX_IMAGE_PIXELS = None  # the limit here is for all decoders
_set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # of OpenCV 4, of OpenCV 5
_set_log_level(0)  # silent: what it cannot decode is reported here, in one sentence


class Look(NamedTuple):
    """What a file's header says: the picture's size as displayed, and how many the file holds."""

    size: tuple[int, int]  # height, width
    pages: int
    grey: bool | None  # None: only its pixels tell
    dtype: np.dtype | None = None  # of the samples, where they may be others than 8 or 16 bits: in TIFF files


class _Header(NamedTuple):
    kind: str
    look: Look
    orientation: int  # of what is decoded
    transparent: int | None  # the grey value that is transparent (tRNS), which OpenCV drops
    grey_alpha: bool  # grey with alpha, which OpenCV makes colour of


def read_image(path: str | Path, value_range: Range | None = None) -> np.ndarray:
    """Read a file as (H, W, 3) float32 RGB in [0, 1].

    Args:
        value_range: what black and white are in the file; None: 0 and the largest value of its type, 0 and 1 of floats.

    Raises:
        UserError: the file is missing, empty, damaged or no image; it holds values that are no numbers, or outside the range.
    """
    return as_float(decode_raw(bytes_of(path), path, value_range)[0])


def read_pages(path: str | Path, value_range: Range | None = None) -> Iterator[tuple[np.ndarray, ImageFormat]]:
    """All pictures of a file, pages of a TIFF file or frames of an animation, each as `read_image` has it, with its format.

    Raises:
        UserError: as `read_image`.
    """
    data = bytes_of(path)
    pixels, fmt = decode_raw(data, path, value_range)
    about = _metadata(data, path)
    yield as_float(pixels), replace(fmt, metadata=about)
    for page in range(1, fmt.pages):
        pixels, other = decode_raw(data, path, value_range, page)
        yield as_float(pixels), replace(other, metadata=about)


def read_image_and_format(path: str | Path, value_range: Range | None = None) -> tuple[np.ndarray, ImageFormat]:
    """The first of `read_pages`, and what is needed to write the result in the format of the file (see `write_image`)."""
    return next(read_pages(path, value_range))


def decode_raw(
    data: bytes, name: str | Path, value_range: Range | None = None, page: int = 0
) -> tuple[np.ndarray, ImageFormat]:
    """Decode a file's bytes without the conversion to float, which a small crop of the image needs only for itself.

    Args:
        name: of the file, for messages. page: of a file that holds several pictures.

    Returns:
        (H, W, 3) RGB: uint8 or uint16 as the file has it, of other types and with a `value_range` float32 in [0, 1]; `as_float`
        makes the rest. And the format, without its metadata.

    Raises:
        UserError: as `read_image`.
    """
    header = _header(data, name)
    if not 0 <= page < header.look.pages:
        raise UserError(f"{name}: has {header.look.pages} pages, and no page {page}.")
    try:
        raw, alpha, white = _decoded(data, header, page)
    except UserError as error:
        raise UserError(f"{name}: {error}; replace or remove the file.") from None
    except MemoryError:
        raise UserError(f"{name}: there is not enough memory to decode it; close other programs, or make it smaller.") from None
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they like
        reason = str(error).strip().partition("\n")[0][:160]
        raise UserError(f"{name}: cannot be decoded ({reason or type(error).__name__}); replace or remove the file.") from None
    raw, alpha = (x if x is None else np.ascontiguousarray(upright(x, header.orientation)) for x in (raw, alpha))
    fmt = ImageFormat(raw.dtype, raw.ndim == 2, alpha, header.look.pages, value_range=value_range)
    if raw.dtype not in WHOLE or value_range is not None or white is not None:
        raw = _scaled(raw, name, value_range or ((0, white) if white else None))
    return np.repeat(raw[..., None], 3, 2) if raw.ndim == 2 else raw, fmt


def decode_grey(data: bytes, name: str | Path, value_range: Range | None = None) -> np.ndarray:
    """(H, W, 1) grey of a file's bytes: of 8-bit colours as OpenCV's reader makes it, whose rounding depends on the format.

    For PNG it truncates .299 R + .587 G + .114 B, of JPEG it takes the file's own luma; published grey sets were read so.

    Raises:
        UserError: as `read_image`.
    """
    pixels, fmt = decode_raw(data, name, value_range)
    if fmt.grey:
        return pixels[..., :1]
    if pixels.dtype == UINT8 and value_range is None:
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if read is not None and read.shape == pixels.shape[:2]:
            return read[..., None]
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]


def as_float(pixels: np.ndarray) -> np.ndarray:
    """What `decode_raw` gives, or any part or layout of it, as contiguous float32 in [0, 1]."""
    if pixels.dtype not in WHOLE:
        return np.ascontiguousarray(pixels, np.float32)
    scaled = pixels.astype(np.float32, order="C")
    scaled /= np.float32(np.iinfo(pixels.dtype).max)
    return scaled


def quantise(rgb: np.ndarray, dtype: np.dtype | type = np.uint8) -> np.ndarray:
    """(H, W, C) in [0, 1] to integers of `dtype`: clamped, scaled, rounded half to even. The papers' protocol for uint8."""
    kind, peak = (np.float32, np.iinfo(dtype).max) if np.dtype(dtype).itemsize < 4 else (np.float64, np.iinfo(dtype).max)
    values = np.clip(rgb, 0, 1)
    values = values.astype(np.result_type(values.dtype, kind), copy=False)  # NumPy 1 multiplies arrays in their own precision
    return np.rint(values * kind(peak)).astype(dtype)


def look_at(path: str | Path) -> Look:
    """What a file's header says. Of a PNG or JPEG file that ends where its picture does no more is read.

    Raises:
        UserError: the file is empty, damaged or no image.
    """
    try:
        if not os.path.isfile(path):
            files.read_bytes(path)  # says why not
        with open(path, "rb") as file:
            head = file.read(64)
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16))
            clean = ends_cleanly(head, file.read())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    if clean:
        with contextlib.suppress(OSError, SyntaxError, ValueError, EOFError), Image.open(path) as image:  # what Pillow dislikes
            found = _looked(image, kind_of(head))
            check_pixels(found.size, path)
            return found
    return _header(bytes_of(path), path).look


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) as displayed: of `look_at`, and raises as it."""
    return look_at(path).size


def bytes_of(path: str | Path) -> bytes:
    """A file's bytes; raises UserError."""
    try:
        return files.read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None


def _header(data: bytes, name: str | Path) -> _Header:
    kind, sizes = kind_of(data), []
    if fault := fault_of(data):
        raise UserError(f"{name}: {fault}; replace or remove the file.")
    try:
        if kind == "TIFF":
            sizes, grey, dtype = tiff.look_at(data)
            header = _Header(kind, Look(sizes[0], len(sizes), grey, dtype), 1, None, False)
        else:
            with opened(data) as image:
                transparent = image.info.get("transparency")
                single = transparent if image.mode in _GREY and isinstance(transparent, int) else None
                about = _looked(image, kind)
                header = _Header(kind or image.format, about, orientation_of(image), single, kind == "PNG" and data[25] == 4)
    except UnidentifiedImageError:
        raise UserError(
            f"{name}: {'has a damaged header' if kind else 'is not a readable image'}; replace or remove the file."
        ) from None
    except Exception as error:  # noqa: BLE001 - a header may be anything
        known = f"cannot be decoded ({str(error)[:120] or type(error).__name__})" if kind else "is not a readable image"
        raise UserError(f"{name}: {known}; replace or remove the file.") from None
    for size in sizes or [header.look.size]:
        check_pixels(size, name)
    return header


def _metadata(data: bytes, name: str | Path) -> Metadata:
    try:
        return metadata_of(opened(data)) if kind_of(data) != "TIFF" else tiff.metadata(data)
    except Exception:  # noqa: BLE001 - a picture is a picture without what it says of itself
        logger.warning("%s: its EXIF, colour profile or resolution is damaged; the pixels are read without them.", name)
        return Metadata()


def _looked(image: Image.Image, kind: str) -> Look:
    pages = getattr(image, "n_frames", 1) if kind in _PAGED else 1
    grey = None if image.mode == "P" else image.mode in _GREY
    return Look(image.size if orientation_of(image) >= 5 else image.size[::-1], pages, grey)


def check_pixels(size: tuple[int, int], name: str | Path) -> None:
    """Before anything is decoded: a file of some bytes may claim to hold any number of pixels."""
    said = os.environ.get(MAX_PIXELS, "")
    if said and not said.isdigit():
        raise UserError(f"{MAX_PIXELS} is {said!r}, but must be a number of pixels, such as {_MAX_PIXELS}.")
    height, width = size
    if height * width > (limit := int(said or _MAX_PIXELS)):
        raise UserError(
            f"{name}: has {width}x{height} pixels, more than the limit of {limit:,}; "
            f"if that is meant, set the environment variable {MAX_PIXELS}={height * width}."
        )


def _decoded(data: bytes, header: _Header, page: int) -> tuple[np.ndarray, np.ndarray | None, float | None]:
    """Samples (H, W) or (H, W, 3) RGB, alpha (H, W) or None, and what is white where that is not the type's largest value."""
    if header.kind == "TIFF":
        return tiff.decoded(data, page)
    if header.kind not in _BY_OPENCV or header.look.pages > 1:
        return *_by_pillow(data, page), None
    with _heard(header.kind == "JPEG") as lines:
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        return *_by_pillow(data, page), None
    if damage := [line for line in lines if line.startswith(_DAMAGED)]:
        raise UserError(f"is damaged inside ({damage[0]})")
    alpha = raw[..., 3] if raw.ndim == 3 and raw.shape[2] == 4 else None
    if header.grey_alpha:
        return raw[..., 0] if raw.ndim == 3 else raw, alpha, None
    if raw.ndim == 2:
        if header.transparent is not None:
            alpha = np.where(raw == header.transparent, 0, np.iinfo(raw.dtype).max).astype(raw.dtype)
        return raw, alpha, None
    return cv2.cvtColor(raw, cv2.COLOR_BGR2RGB if alpha is None else cv2.COLOR_BGRA2RGB), alpha, None


def _by_pillow(data: bytes, page: int) -> tuple[np.ndarray, np.ndarray | None]:
    with opened(data) as image:
        image.seek(page)
        image.load()
        if image.mode in ("I;16", "I;16B", "I;16L"):
            return np.asarray(image, np.uint16), None
        clear = "A" in image.mode or "a" in image.mode or "transparency" in image.info
        grey = image.mode in _GREY
        pixels = np.asarray(image.convert(("LA" if clear else "L") if grey else ("RGBA" if clear else "RGB")), UINT8)
    if not clear:
        return pixels, None
    return (pixels[..., 0] if grey else pixels[..., :3]), pixels[..., -1]


@contextlib.contextmanager
def _heard(listens: bool) -> Iterator[list[str]]:
    """Lines that libjpeg writes past Python to standard error: OpenCV gives no other sign of damage inside a JPEG. What others
    write there meanwhile is passed on."""
    lines: list[str] = []
    if not listens:
        yield lines
        return
    with _lock, tempfile.TemporaryFile() as file:
        try:
            stderr = os.dup(2)
        except OSError:  # there is none
            yield lines
            return
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            text = file.read().decode(errors="replace")
            lines += text.splitlines()
            if others := "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_DAMAGED)):
                sys.stderr.write(others)


def _scaled(raw: np.ndarray, name: str | Path, value_range: Range | None) -> np.ndarray:
    """float32 in [0, 1]; raises UserError for what is no number, or outside the range."""
    if raw.dtype.kind == "f" and not (finite := np.isfinite(raw)).all():
        place = np.argwhere(~finite)[0]
        count = raw.size - int(finite.sum())
        raise UserError(
            f"{name}: holds {count} values that are no numbers (NaN or infinite), the first in row {place[0]}, "
            f"column {place[1]}; replace the file."
        )
    black, white = span_of(raw.dtype, value_range)
    low, high = float(raw.min()), float(raw.max())
    slack = 1e-6 * (white - black) if raw.dtype.kind == "f" else 0
    if low < black - slack or high > white + slack:
        raise UserError(
            f"{name}: holds {raw.dtype} values from {low:g} to {high:g}, outside of black and white, {black:g} and {white:g}; "
            "say what they are: value_range: [0, 255] in a data set, --value-range 0 255 on the command line."
        )
    wide = raw.astype(np.float64 if raw.dtype.itemsize > 2 else np.float32)
    return np.clip((wide - black) / (white - black), 0, 1).astype(np.float32)
