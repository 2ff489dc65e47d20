"""TIFF files: any type of samples, pages, palettes. tifffile reads the tables; the pixels, too, where OpenCV would not."""

import io
import logging

import cv2
import numpy as np
import tifffile
from PIL import Image

from basicsr.errors import UserError
from basicsr.utils.image.formats import WHOLE, Metadata
from basicsr.utils.image.metadata import ORIENTATION, upright

_INVERTED, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK = 0, 1, 2, 3, 5  # PhotometricInterpretation
_FAX = (2, 3, 4)  # CCITT's: older tifffile does not say that they take imagecodecs
_MOST_CHANNELS = 8  # before anything is decoded
_ICC, _X, _Y, _UNIT = 34675, 282, 283, 296
_CAMERA = {270: "ImageDescription", 271: "Make", 272: "Model", 306: "DateTime", 315: "Artist", 33432: "Copyright"}
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it cannot read is reported here, in one sentence


def look_at(data: bytes) -> tuple[list[tuple[int, int]], bool, np.dtype | None]:
    """(height, width) of each page as displayed; whether the first is grey, and the type of its samples."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = _pages(file)
        sizes = [(page.imagelength, page.imagewidth) for page in pages]
        turned = [size[::-1] if _orientation(page) >= 5 else size for page, size in zip(pages, sizes, strict=True)]
        return turned, pages[0].photometric in (_INVERTED, _BLACK_IS_ZERO), pages[0].dtype


def decoded(data: bytes, page: int) -> tuple[np.ndarray, np.ndarray | None, float | None]:
    """Upright samples, alpha, and what is white where that is not the type's largest value, as in `reading`.

    Raises:
        UserError: what the page holds is no picture, or packed in a way that is not known here.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        chosen = _pages(file)[page]
        if any(a + b > len(data) for a, b in zip(chosen.dataoffsets, chosen.databytecounts, strict=False)):
            raise UserError("is a truncated TIFF file")
        if chosen.imagedepth > 1 or (chosen.dtype is not None and chosen.dtype.kind not in "buif"):
            raise UserError(f"holds no picture, but a volume or {chosen.dtype} samples")
        if chosen.dtype is None and chosen.compression in tifffile.TIFF.DECOMPRESSORS:  # newer tifffile makes an empty picture
            raise UserError(
                f"holds samples of {chosen.bitspersample} bits whose type is not known; save it with another program"
            )
        if chosen.samplesperpixel > _MOST_CHANNELS:
            raise UserError(f"holds {chosen.samplesperpixel} channels, but a picture has 1 or 3, and alpha")
        try:
            samples = chosen.asarray()
        except (ValueError, ImportError) as error:
            wanting = "imagecodecs" in str(error) or chosen.compression in _FAX or isinstance(error, ImportError)
            if not wanting:
                raise
            return _by_opencv(data, page, chosen)
        if chosen.planarconfig == 2 and samples.ndim == 3:
            samples = np.moveaxis(samples, 0, -1)
        white, orientation = _white(chosen, samples.dtype), _orientation(chosen)
        pixels, alpha = (x if x is None else upright(x, orientation) for x in _colours(chosen, samples, white))
        return pixels, alpha, white


def metadata(data: bytes) -> Metadata:
    """Colour profile, resolution, and of EXIF what describes the camera and the photographer."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags, exif = _pages(file)[0].tags, Image.Exif()
        values = {code: tags[code].value for code in (_ICC, _X, _Y, _UNIT, *_CAMERA) if code in tags}
    for code in _CAMERA:
        if isinstance(values.get(code), str) and not values[code].startswith("{"):  # tifffile's own notes on shapes
            exif[code] = values[code]
    dpi, scale = None, {2: 1.0, 3: 2.54}.get(int(values.get(_UNIT, 2)))
    if scale and all(isinstance(values.get(code), tuple) and values[code][0] and values[code][1] for code in (_X, _Y)):
        dpi = tuple(values[code][0] / values[code][1] * scale for code in (_X, _Y))
        dpi = dpi if dpi != (1.0, 1.0) else None  # what is written where nobody knows
    return Metadata(bytes(values.get(_ICC) or b""), exif.tobytes() if len(exif) else b"", dpi)


def encode(pages: list[np.ndarray], metadata: Metadata) -> bytes:
    """A file of pages (H, W) or (H, W, C), C 2 or 4 with alpha, compressed without loss."""
    out, tags, words = io.BytesIO(), [], {}
    exif = Image.Exif()
    exif.load(metadata.exif)
    for code in _CAMERA:
        if code in exif and code != 270:
            tags.append((code, 2, None, str(exif[code]), True))
    if metadata.icc:
        tags.append((_ICC, 7, None, metadata.icc, False))
    if metadata.dpi:
        words |= {"resolution": metadata.dpi, "resolutionunit": 2}
    with tifffile.TiffWriter(out) as file:
        for pixels in pages:
            channels = 1 if pixels.ndim == 2 else pixels.shape[2]
            file.write(
                pixels,
                photometric="rgb" if channels > 2 else "minisblack",
                planarconfig="contig" if channels > 1 else None,
                extrasamples=["unassalpha"] if channels in (2, 4) else None,
                compression="zlib",
                description=exif.get(270) or None,
                metadata=None,
                software=False,
                extratags=tags,
                **words,
            )
    return out.getvalue()


def _pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Without thumbnails and masks."""
    pages, seen = [], set()
    for page in file.pages:
        if page.offset in seen:
            raise UserError("is damaged: its pages lead back to one that was there before")
        seen.add(page.offset)
        if not isinstance(page.imagelength, int) or not isinstance(page.imagewidth, int):
            raise UserError("is damaged: a page's size is no number")
        if not page.subfiletype & 0b101 and page.imagelength and page.imagewidth:
            pages.append(page)
    if not pages:
        raise UserError("holds no page")
    return pages


def _orientation(page: tifffile.TiffPage) -> int:
    found = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
    return int(found) if found in range(1, 9) else 1


def _white(page: tifffile.TiffPage, dtype: np.dtype) -> float | None:
    """Of integers that do not fill their type: 4 bits in a byte, 12 in two."""
    bits = page.bitspersample
    if dtype.kind == "b" or not isinstance(bits, int) or dtype.kind not in "ui" or bits >= 8 * dtype.itemsize:
        return None
    return float((1 << bits) - 1)


def _colours(page: tifffile.TiffPage, samples: np.ndarray, white: float | None) -> tuple[np.ndarray, np.ndarray | None]:
    if samples.dtype.kind == "b":
        samples = samples.astype(np.uint8) * np.uint8(255)
    if page.photometric == _PALETTE:
        table = page.colormap.T  # (2**bits, 3), 16 bits
        small = not (table % 257).any() or not (table % 256).any()  # 8 bits as 16, in either of two ways
        return ((table >> 8).astype(np.uint8) if small else table.astype(np.uint16))[samples], None
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    if page.photometric == _CMYK and channels == 4 and samples.dtype in WHOLE:
        return _from_cmyk(samples), None
    if page.photometric not in (_INVERTED, _BLACK_IS_ZERO, _RGB):
        name = getattr(page.photometric, "name", page.photometric)
        raise UserError(f"holds colours as {name}, which are not known here: save it as RGB")
    if page.photometric == _INVERTED:
        top = white or (np.iinfo(samples.dtype).max if samples.dtype.kind in "ui" else 1)
        samples = (top - samples).astype(samples.dtype)
    if channels == 1:
        return samples.reshape(samples.shape[:2]), None
    if channels == (4 if page.photometric == _RGB else 2):  # some say nothing of what the last one is
        return samples[..., 0] if channels == 2 else samples[..., :3], samples[..., -1]
    if channels == 3:
        return samples, None
    raise UserError(f"holds {channels} channels, but a picture has 1 or 3, and alpha")


def _from_cmyk(samples: np.ndarray) -> np.ndarray:
    """Without a colour profile: (1 - ink)(1 - black)."""
    peak = np.float32(np.iinfo(samples.dtype).max)
    light = 1 - samples / peak
    return np.rint(light[..., :3] * light[..., 3:] * peak).astype(samples.dtype)


def _by_opencv(data: bytes, page: int, chosen: tifffile.TiffPage) -> tuple[np.ndarray, np.ndarray | None, None]:
    """What is packed in a way that tifffile asks imagecodecs for, LZW among them; the first page alone."""
    # OpenCV makes it upright.
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if page == 0 else None
    alike = raw is not None and (chosen.dtype is None or raw.dtype == chosen.dtype or chosen.dtype.kind == "b")
    if not alike:
        packed = getattr(chosen.compression, "name", chosen.compression)
        raise UserError(f"is packed with {packed}, which takes one package more: pip install imagecodecs")
    alpha = raw[..., 3] if raw.ndim == 3 and raw.shape[2] == 4 else None
    return (raw if raw.ndim == 2 else raw[..., 2::-1]), alpha, None
