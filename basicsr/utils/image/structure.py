"""Of which format a file is, and whether it is whole, by the format's own structure.

What follows a picture's own end, such as the film of a phone's motion photo, is not its business; and decoders are no judges:
they fill what is missing with grey.
"""

import re
import struct
import zlib

_SIGNATURES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8",
    "TIFF": rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]",
    "WebP": rb"RIFF....WEBP",
    "BMP": rb"BM",
    "GIF": rb"GIF8[79]a",
    "PNM": rb"P[1-6]\s",
    "AVIF": rb"....ftypavi[fs]",
    "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
}
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # in a JPEG file, of a segment
_TOKEN = re.compile(rb"(?:\s|#[^\n]*\n)*(\d+)")  # a number in the header of a PNM file


def kind_of(head: bytes) -> str:
    """The format of a file, by its first bytes, or ''."""
    return next((kind for kind, signature in _SIGNATURES.items() if re.match(signature, head, re.DOTALL)), "")


def fault_of(data: bytes) -> str:
    """Why a file cannot be a whole picture: 'is a truncated PNG file'; or ''. Nothing is said of TIFF, which says where its
    parts are in its own tables."""
    if not data:
        return "is an empty file"
    kind = kind_of(data)
    try:
        return _CHECKS[kind](data) if kind in _CHECKS else ""
    except (struct.error, IndexError):
        return f"is a truncated {kind} file"


def ends_cleanly(head: bytes, tail: bytes) -> bool:
    """Whether a PNG or JPEG file's last bytes are its picture's end, so that there is no need to look at all of it."""
    return {"PNG": tail.endswith(b"IEND\xae\x42\x60\x82"), "JPEG": tail.endswith(b"\xff\xd9")}.get(kind_of(head), False)


def _png(data: bytes) -> str:
    position, view = 8, memoryview(data)
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return f"is damaged: its PNG chunk {name.decode('latin-1')} at byte {position} is not what its checksum says"
        if name == b"IEND":
            return ""
        position = end
    return "is a truncated PNG file"


def _jpeg(data: bytes) -> str:
    """Segment by segment; the compressed pixels hold no markers."""
    position, scans = 2, 0
    while found := _MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        if marker == 0xD9:
            return "" if scans else "is a JPEG file without a picture"
        if marker not in (0x01, 0xD8):
            position += struct.unpack_from(">H", data, position)[0]
        scans += marker == 0xDA
    return "is a truncated JPEG file"


def _webp(data: bytes) -> str:
    return "" if len(data) >= 8 + struct.unpack_from("<I", data, 4)[0] else "is a truncated WebP file"


def _bmp(data: bytes) -> str:
    start, header = struct.unpack_from("<II", data, 10)
    if header < 40:
        return ""
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    whole = compression in (1, 2) or len(data) >= start + (abs(width) * bits + 31) // 32 * 4 * abs(height)
    return "" if whole else "is a truncated BMP file"


def _pnm(data: bytes) -> str:
    kind, position, numbers = data[1:2], 2, []
    while len(numbers) < (2 if kind in b"14" else 3):
        token = _TOKEN.match(data, position)
        if token is None:
            return "is a PNM file without a size"
        numbers.append(int(token[1]))
        position = token.end()
    width, height, *peak = numbers
    if kind in b"123":
        held = len(data[position:].split()) if kind != b"1" else len(b"".join(data[position:].split()))
    else:
        held = len(data) - position - 1
    row = -(-width // 8) if kind == b"4" else width * (3 if kind in b"36" else 1)
    wide = 2 if kind in b"56" and peak[0] > 255 else 1
    return "" if held >= row * height * wide else "is a truncated PNM file"


def _gif(data: bytes) -> str:
    def skipped(position: int) -> int:  # blocks, each with its length before it
        while data[position]:
            position += data[position] + 1
        return position + 1

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    position = 13 + table(data[10])
    while data[position] != 0x3B:
        if data[position] == 0x21:
            position = skipped(position + 2)
        elif data[position] == 0x2C:
            position = skipped(position + 11 + table(data[position + 9]))
        else:
            return f"is damaged: there is no block of a GIF file at byte {position}"
    return ""


def _boxes(data: bytes) -> str:
    """AVIF and JPEG 2000: boxes, one behind the other."""
    position, held = 0, kind_of(data)
    if data.startswith(b"\xff\x4f"):
        return "" if b"\xff\xd9" in data[-64:] else f"is a truncated {held} file"
    seen = set()
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if not name.strip().isalnum():
            break  # something behind the picture
        if length == 1:
            length = struct.unpack_from(">Q", data, position + 8)[0]
        end = position + length if length else len(data)
        if end > len(data) or (name == b"jp2c" and b"\xff\xd9" not in data[end - 2 : end]):
            return f"is a truncated {held} file"
        if length and length < 8:
            return f"is damaged: there is no box of a {held} file at byte {position}"
        seen.add(name)
        position = end
    return "" if seen & {b"mdat", b"jp2c", b"idat"} else f"is a truncated {held} file"


_CHECKS = {"PNG": _png, "JPEG": _jpeg, "WebP": _webp, "BMP": _bmp, "PNM": _pnm, "GIF": _gif}
_CHECKS |= {"AVIF": _boxes, "JPEG 2000": _boxes}
