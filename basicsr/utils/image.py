"""Image files: read and written by OpenCV, any bit depth, grey or colour, alpha, EXIF rotation, atomically.

Everywhere in the toolbox an image in memory is a float32 array (H, W, 3), RGB, in [0, 1]; a batch is (N, 3, H, W).
"""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from basicsr.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_DEEP = (".png", ".tif", ".tiff")
_WITH_ALPHA = (*_DEEP, ".webp")
_EXIF_ORIENTATION = 0x0112
Image.MAX_IMAGE_PIXELS = None  # Pillow reads headers only; OpenCV has its own limit
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it cannot decode is reported here, in one sentence
_PEAK = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


@dataclass(frozen=True)
class ImageFormat:
    """What the file held beyond its colours, so that a result can be written in the same way."""

    dtype: np.dtype  # uint8, uint16 or float32
    grey: bool
    alpha: np.ndarray | None  # (H, W) in dtype, or None


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def read_image(path: str | Path) -> np.ndarray:
    """Read a file as (H, W, 3) float32 RGB in [0, 1].

    Raises:
        UserError: the file is missing, empty, truncated or no image.
    """
    return read_image_and_format(path)[0]


def read_image_and_format(path: str | Path) -> tuple[np.ndarray, ImageFormat]:
    """`read_image`, and what is needed to write the result in the format of the file (see `write_image`)."""
    return decode(_bytes_of(path), path)


def read_raw(path: str | Path) -> np.ndarray:
    """`read_image` without the conversion to float, see `decode_raw`."""
    return decode_raw(_bytes_of(path), path)[0]


def decode(data: bytes, name: str | Path) -> tuple[np.ndarray, ImageFormat]:
    """Decode an image file's bytes; `name` is only for messages. Returns and raises as `read_image_and_format`."""
    rgb, fmt = decode_raw(data, name)
    return as_float(rgb), fmt


def decode_raw(data: bytes, name: str | Path) -> tuple[np.ndarray, ImageFormat]:
    """`decode` without the conversion to float, which a small crop of the image needs only for itself.

    Returns:
        (H, W, 3) RGB as the file has it, uint8 or uint16, or float32; `as_float` makes the rest. And the format.
    """
    fault = _damage(data, data)
    try:
        raw = None if fault else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raw, fault = None, f"cannot be decoded ({error.err})"
    if raw is None:
        raise UserError(f"{name}: {fault or 'is not a readable image'}; replace or remove the file.")
    raw = _upright(raw, _orientation(data))
    colour, alpha = (raw[..., :3], raw[..., 3]) if raw.ndim == 3 and raw.shape[2] == 4 else (raw, None)
    grey = colour.ndim == 2
    colour = np.ascontiguousarray(colour, None if raw.dtype in _PEAK else np.float32)  # all that cvtColor takes
    return cv2.cvtColor(colour, cv2.COLOR_GRAY2RGB if grey else cv2.COLOR_BGR2RGB), ImageFormat(raw.dtype, grey, alpha)


def as_float(pixels: np.ndarray) -> np.ndarray:
    """What `decode_raw` gives, or any part or layout of it, as contiguous float32 in [0, 1]; float pixels keep their values."""
    if pixels.dtype not in _PEAK:
        return np.ascontiguousarray(pixels, np.float32)
    scaled = pixels.astype(np.float32, order="C")
    scaled /= np.float32(_PEAK[pixels.dtype])
    return scaled


def quantise(rgb: np.ndarray, dtype: np.dtype | type = np.uint8) -> np.ndarray:
    """(H, W, C) in [0, 1] to integers of `dtype`: clamped, scaled, rounded half to even. The papers' protocol for uint8."""
    peak = _PEAK[np.dtype(dtype)]
    return np.rint(np.clip(rgb, 0, 1) * np.float32(peak)).astype(dtype)


def write_image(path: str | Path, rgb: np.ndarray, fmt: ImageFormat | None = None) -> None:
    """Write (H, W, 3) RGB, float in [0, 1] or uint8, atomically; 8-bit colour unless `fmt` says otherwise.

    Raises:
        UserError: the suffix names no image format, or the folder cannot be written.
    """
    path = Path(path)
    fmt = fmt or ImageFormat(np.dtype(np.uint8), grey=False, alpha=None)
    if not is_image(path):
        raise UserError(f"{path}: `{path.suffix}` is no image suffix; use one of {', '.join(SUFFIXES)}.")
    deep = fmt.dtype in (np.uint16, np.float32) and path.suffix.lower() in _DEEP
    dtype = np.dtype(np.uint16) if deep else np.dtype(np.uint8)
    out = rgb if rgb.dtype == dtype else quantise(rgb, dtype)
    out = _luma(out) if fmt.grey else out[..., ::-1]
    if fmt.alpha is not None and path.suffix.lower() in _WITH_ALPHA:
        alpha = quantise(fmt.alpha / np.float32(_PEAK.get(fmt.alpha.dtype, 1)), dtype)
        colour = np.repeat(out[..., None], 3, axis=2) if fmt.grey else out
        out = np.dstack([colour, alpha])
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in (".jpg", ".jpeg") else []
    ok, data = cv2.imencode(path.suffix, np.ascontiguousarray(out), quality)
    if not ok:
        raise UserError(f"{path}: OpenCV cannot write a {dtype} image of shape {out.shape} as {path.suffix}.")
    write_bytes(path, data.tobytes())


def lost_in(path: Path, fmt: ImageFormat) -> str:
    """What a file of this suffix cannot hold of the format: '', 'its alpha channel', ..."""
    lost = ["its alpha channel"] if fmt.alpha is not None and path.suffix.lower() not in _WITH_ALPHA else []
    lost += ["more than 8 bits"] if fmt.dtype != np.uint8 and path.suffix.lower() not in _DEEP else []
    return " and ".join(lost)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all: into a temporary name beside it, then renamed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it need not be there, nor its folder
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from None


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as displayed. PNG and JPEG: from the header; a look at the end tells whether the file is complete.

    Raises:
        UserError: the file is empty, truncated or no image.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            tail = file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    if fault := _damage(head, tail):
        raise UserError(f"{path}: {fault}; replace or remove the file.")
    if not head.startswith((b"\x89PNG", b"\xff\xd8")):  # only decoding tells whether other formats are complete
        return read_image(path).shape[:2]
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = _exif_orientation(image) >= 5
    except (UnidentifiedImageError, OSError, SyntaxError):  # a header that Pillow does not like
        return read_image(path).shape[:2]
    return (width, height) if turned else (height, width)


def _damage(head: bytes, tail: bytes) -> str | None:
    """Why a file cannot be whole, from its first and last bytes: OpenCV fills what is missing with grey, silently."""
    if not head:
        return "is an empty file"
    if head.startswith(b"\x89PNG") and tail.rfind(b"IEND") < 0:  # from the end, where it is
        return "is a truncated PNG file"
    # The end marker may be followed by padding or a second picture, but never by a scan that does not end.
    if head.startswith(b"\xff\xd8") and tail.rfind(b"\xff\xd9") <= tail.rfind(b"\xff\xda"):
        return "is a truncated JPEG file"
    return None


def _bytes_of(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None


def _orientation(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _exif_orientation(image)
    except (UnidentifiedImageError, OSError, SyntaxError):
        return 1


def _exif_orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # OpenCV has turned it already
        return 1
    if image.format == "PNG" and "exif" not in image.info:  # getexif() would decode the whole file to look behind the pixels
        return 1
    return image.getexif().get(_EXIF_ORIENTATION, 1)


def _upright(raw: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the camera's rotation (EXIF tag 0x0112, values 1 to 8)."""
    if orientation in (5, 7):
        raw = raw.swapaxes(0, 1)
    quarter_turns = {3: 2, 4: 2, 6: 3, 7: 2, 8: 1}.get(orientation, 0)
    if orientation in (2, 4):
        raw = raw[:, ::-1]
    return np.rot90(raw, quarter_turns)


def _luma(rgb: np.ndarray) -> np.ndarray:
    """One channel from three that are almost equal (a grey file restored in colour)."""
    return np.rint(rgb.astype(np.float32).mean(axis=2)).astype(rgb.dtype)
