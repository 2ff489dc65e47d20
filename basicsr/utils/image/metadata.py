"""Colour profile (ICC), EXIF and resolution of image files: read by Pillow; put into PNG files, whose pixels OpenCV writes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from basicsr.utils.image.formats import Metadata

ORIENTATION = 0x0112
_INCH = 0.0254  # metres


def orientation_of(image: Image.Image) -> int:
    """EXIF tag 0x0112, 1 to 8."""
    if image.format == "PNG" and "exif" not in image.info:  # getexif() would decode the whole file to look behind the pixels
        return 1
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def upright(raw: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the camera's rotation (EXIF tag 0x0112, values 1 to 8)."""
    if orientation in (5, 7):
        raw = raw.swapaxes(0, 1)
    quarter_turns = {3: 2, 4: 2, 6: 3, 7: 2, 8: 1}.get(orientation, 0)
    if orientation in (2, 4):
        raw = raw[:, ::-1]
    return np.rot90(raw, quarter_turns)


def metadata_of(image: Image.Image) -> Metadata:
    """Of a file that Pillow has opened. The EXIF is without the orientation: pictures in memory are upright."""
    exif = Image.Exif() if image.format == "PNG" and "exif" not in image.info else image.getexif()
    if ORIENTATION in exif:
        del exif[ORIENTATION]
    dpi = image.info.get("dpi")
    valid = isinstance(dpi, tuple) and len(dpi) == 2 and all(float(x) > 0 for x in dpi)
    return Metadata(
        icc=image.info.get("icc_profile") or b"",
        exif=exif.tobytes() if len(exif) else b"",
        dpi=tuple(map(float, dpi)) if valid else None,
    )


def put_into_png(data: bytes, metadata: Metadata) -> bytes:
    """A PNG file's bytes with chunks for its metadata, before its pixels (PNG specification, 11.3)."""
    header = 8 + 25  # signature and IHDR
    chunks = b""
    if metadata.icc:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi:
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(x / _INCH) for x in metadata.dpi), 1))
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif.removeprefix(b"Exif\0\0"))
    return data[:header] + chunks + data[header:]


def for_pillow(metadata: Metadata) -> dict[str, object]:
    """Words of Image.save."""
    words = {"icc_profile": metadata.icc, "exif": metadata.exif, "dpi": metadata.dpi}
    return {word: value for word, value in words.items() if value}


def opened(data: bytes) -> Image.Image:
    """The file, its header read alone."""
    return Image.open(io.BytesIO(data))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
