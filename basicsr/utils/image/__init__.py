"""Image files: any depth, grey or colour, alpha, EXIF rotation; read whole, written whole or not at all.

Everywhere in the toolbox an image in memory is a float32 array (H, W, 3), RGB, in [0, 1]; a batch is (N, 3, H, W).
"""

from basicsr.utils.image.formats import SUFFIXES, WHOLE, WRITTEN, ImageFormat, Metadata, is_image, is_written
from basicsr.utils.image.reading import (
    Look,
    as_float,
    bytes_of,
    check_pixels,
    decode_grey,
    decode_raw,
    image_size,
    look_at,
    quantise,
    read_image,
    read_image_and_format,
    read_pages,
)
from basicsr.utils.image.scanning import Scan, scan
from basicsr.utils.image.writing import cannot_hold, lost_in, write_image, write_pages

__all__ = [
    "SUFFIXES",
    "WHOLE",
    "WRITTEN",
    "ImageFormat",
    "Look",
    "Metadata",
    "Scan",
    "as_float",
    "bytes_of",
    "cannot_hold",
    "check_pixels",
    "decode_grey",
    "decode_raw",
    "image_size",
    "is_image",
    "is_written",
    "look_at",
    "lost_in",
    "quantise",
    "read_image",
    "read_image_and_format",
    "read_pages",
    "scan",
    "write_image",
    "write_pages",
]
