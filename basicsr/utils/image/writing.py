"""Image files written in the format of what they were made of, whole or not at all; and what a format cannot hold."""

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from basicsr.errors import UserError, did_you_mean
from basicsr.utils.files import write_bytes
from basicsr.utils.image import tiff
from basicsr.utils.image.formats import SUFFIXES, UINT8, WRITTEN, Format, ImageFormat, span_of
from basicsr.utils.image.metadata import for_pillow, put_into_png
from basicsr.utils.image.reading import quantise

_BY_PILLOW = {"JPEG": {"quality": 95}, "WebP": {"quality": 95}, "AVIF": {"quality": 90}}
_PLAIN = ImageFormat(UINT8, grey=False)


def write_image(path: str | Path, rgb: np.ndarray, fmt: ImageFormat | None = None) -> None:
    """Write (H, W, 3) RGB, float in [0, 1] or uint8, atomically; 8-bit colour unless `fmt` says otherwise.

    Raises:
        UserError: the suffix names no image format, it cannot hold the picture, there are values that are no numbers, or the
            folder cannot be written.
    """
    write_pages(path, [rgb], [fmt or _PLAIN])


def write_pages(path: str | Path, pages: Sequence[np.ndarray], formats: Sequence[ImageFormat]) -> None:
    """Several pictures in one file, of a format that holds them (`Format.pages`); each as `write_image` has it."""
    path = Path(path)
    if reason := cannot_hold(path, pages[0].shape[:2], formats[0]):
        raise UserError(f"{path}: {reason}.")
    if any(page.dtype.kind == "f" and not np.isfinite(page).all() for page in pages):
        raise UserError(f"{path}: is not written, since the picture holds values that are no numbers (NaN or infinite).")
    kind = WRITTEN[path.suffix.lower()]
    arranged = [_arranged(page, fmt, kind) for page, fmt in zip(pages, formats, strict=True)]
    data = tiff.encode(arranged, formats[0].metadata) if kind.pages else _encoded(path, *arranged, formats[0], kind)
    write_bytes(path, data)


def cannot_hold(path: Path, size: tuple[int, int], fmt: ImageFormat | None = None) -> str:
    """Why a picture cannot be written under a name, in words that follow on it; or ''.

    Args: size: (height, width). fmt: of the picture; its colours are not looked at when None.
    """
    kind = WRITTEN.get(path.suffix.lower())
    if kind is None:
        near = did_you_mean(path.suffix.lower(), WRITTEN)
        verb = "is not written" if path.suffix.lower() in SUFFIXES else "is no image suffix"
        return f"`{path.suffix}` {verb}.{near} Use one of {', '.join(WRITTEN)}"
    found = f"and the picture has {size[1]}x{size[0]}: name a .png file"
    if max(size) > kind.longest:
        return f"{kind.name} holds {kind.longest} rows and columns at most, {found}"
    if min(size) < kind.shortest:
        return f"{kind.name} holds {kind.shortest} rows and columns at least, {found}"
    if fmt is not None and not fmt.grey and not kind.colour:
        return f"{kind.name} holds grey pictures alone, and this one has colours: name a .ppm or .png file"
    return ""


def lost_in(path: Path, fmt: ImageFormat) -> str:
    """What a file of this suffix cannot hold of the format: '', 'its alpha channel', 'more than 8 bits and its EXIF', ..."""
    kind, about = WRITTEN[path.suffix.lower()], fmt.metadata
    lost = ["its alpha channel"] if fmt.alpha is not None and not kind.alpha else []
    written = _type_in(kind, fmt.dtype)
    if fmt.dtype.kind == "f" and written.kind != "f":
        lost.append(f"floating point ({8 * written.itemsize} bits are written)")
    elif fmt.dtype.itemsize > written.itemsize:
        lost.append(f"more than {8 * written.itemsize} bits")
    if not kind.metadata:
        held = {"colour profile": about.icc, "EXIF": about.exif, "resolution": about.dpi}
        lost += [f"its {name}" for name, value in held.items() if value]
    return " and ".join(lost)


def _type_in(kind: Format, dtype: np.dtype) -> np.dtype:
    """The samples' type in the file: the same, else the deepest one there is."""
    types = [np.dtype(one) for one in kind.types]
    return dtype if dtype in types else (types[-1] if dtype.itemsize > 1 else UINT8)


def _arranged(rgb: np.ndarray, fmt: ImageFormat, kind: Format) -> np.ndarray:
    """(H, W), or (H, W, C) with 2 to 4 channels, as they are in the file."""
    dtype = _type_in(kind, fmt.dtype)
    same = rgb.dtype == dtype and fmt.value_range is None and dtype.kind != "f"
    out = rgb if same else _converted(rgb if rgb.dtype.kind == "f" else rgb / np.float32(np.iinfo(rgb.dtype).max), dtype, fmt)
    out = _grey(out) if fmt.grey else out
    if fmt.alpha is None or not kind.alpha:
        return out
    alpha = fmt.alpha
    if alpha.dtype != dtype:
        low, high = span_of(alpha.dtype)
        alpha = _converted((alpha - low) / (high - low), dtype, None)
    return np.dstack([out, alpha])


def _converted(values: np.ndarray, dtype: np.dtype, fmt: ImageFormat | None) -> np.ndarray:
    """[0, 1] to black and white of a type."""
    given = fmt.value_range if fmt is not None and fmt.dtype == dtype else None
    if given is None and dtype.kind != "f":
        return quantise(values, dtype)
    black, white = given or (0, 1)
    out = np.clip(values, 0, 1) if given is None else np.clip(values.astype(np.float64), 0, 1) * (white - black) + black
    return out.astype(dtype) if dtype.kind == "f" else np.rint(out).astype(dtype)


def _encoded(path: Path, pixels: np.ndarray, fmt: ImageFormat, kind: Format) -> bytes:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if kind.name in _BY_PILLOW or (kind.name == "PNG" and channels == 2 and pixels.dtype == UINT8):
        out = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(out, kind.name.upper(), **_BY_PILLOW.get(kind.name, {}), **for_pillow(fmt.metadata))
        return out.getvalue()
    if channels == 2:
        pixels = np.dstack([pixels[..., :1]] * 3 + [pixels[..., 1:]])
    elif channels == 1 and kind.name == "PPM":
        pixels = np.dstack([pixels] * 3)
    order = slice(None) if pixels.ndim == 2 else [2, 1, 0, *range(3, pixels.shape[2])]
    ok, data = cv2.imencode(path.suffix if path.suffix.lower() != ".pnm" else ".ppm", np.ascontiguousarray(pixels[..., order]))
    if not ok:
        raise UserError(f"{path}: OpenCV cannot write a {pixels.dtype} image of shape {pixels.shape} as {path.suffix}.")
    return put_into_png(data.tobytes(), fmt.metadata) if kind.metadata else data.tobytes()


def _grey(rgb: np.ndarray) -> np.ndarray:
    """One channel from three that are almost equal (a grey file restored in colour)."""
    if rgb.dtype.kind == "f":
        return rgb.mean(axis=2, dtype=np.float64).astype(rgb.dtype)
    return np.rint(rgb.mean(axis=2, dtype=np.float64)).astype(rgb.dtype)
