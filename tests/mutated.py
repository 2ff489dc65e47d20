"""Files with damage that knows their structure: chunks, segments, boxes, tags, entries and lines are changed, taken out,
doubled and swapped, and lengths and checksums follow, so that the damage gets past the first look."""

import io
import json
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random

Part = tuple[bytes, bytes]  # what kind it is, and what it holds
EDGES = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 64, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536, 1 << 24)
EDGES += ((1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def mutated(data: bytes, random: Random) -> bytes:
    """A file with one to four changes, of its structure where that is known here, of its bytes else."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        change = bytes_changed if random.random() < 0.3 else _structure(data)
        try:
            data = change(data, random)
        except (struct.error, ArithmeticError, EOFError, LookupError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error):
            data = bytes_changed(data, random)  # earlier changes left nothing of the structure
    return data


def _structure(data: bytes) -> Callable[[bytes, Random], bytes]:
    starts = {
        b"\x89PNG": _in_parts(_png, _join_png),
        b"\xff\xd8": _in_parts(_jpeg, _join_jpeg),
        b"RIFF": _in_parts(_riff, _join_riff),
        b"GIF8": _in_parts(_gif, _join),
        b"\xff\x4f": _in_parts(_codestream, _join),
        b"II": _tiff,
        b"MM": _tiff,
        b"BM": _bmp,
        b"PK": _zip,
        b"\x80": _pickle,
        b"P1": _pnm,
    }
    if data[4:8] in (b"ftyp", b"jP  "):
        return _in_parts(_boxes, _join_boxes)
    if data[8:9] == b"{":
        return _safetensors
    if re.match(rb"P[1-6]\s", data):
        return _pnm
    return next((change for start, change in starts.items() if data.startswith(start)), bytes_changed)


# Bytes.


def bytes_changed(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    at = random.randrange(len(out)) if out else 0
    if random.random() < 0.3:
        at = min(at, random.randrange(64))
    kind = random.randrange(7)
    if not out:
        return random.randbytes(random.randrange(9))
    if kind == 0:
        out[at] = random.randrange(256)
    elif kind == 1:
        out[at] ^= 1 << random.randrange(8)
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        del out[at : at + random.randint(1, 40)]
    elif kind == 4:
        out[at:at] = random.randbytes(random.randint(1, 40))
    elif kind == 5:
        out[at : at + 200] = bytes(len(out[at : at + random.randint(1, 200)]))
    else:
        _put(out, at, random.choice((1, 2, 4)), random.choice("<>"), random)
    return bytes(out)


def _put(out: bytearray, at: int, size: int, order: str, random: Random) -> None:
    """A number of the kind that breaks arithmetic."""
    if at + size <= len(out):
        number = random.choice(EDGES) if random.random() < 0.8 else random.getrandbits(32)
        out[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little" if order == "<" else "big")


# Files of parts, one behind the other.


def _in_parts(split: Callable[[bytes], list[Part]], join: Callable[[list[Part]], bytes]) -> Callable[[bytes, Random], bytes]:
    return lambda data, random: join(_parts_changed(split(data), random))


def _parts_changed(parts: list[Part], random: Random) -> list[Part]:
    parts = list(parts)
    at, other = random.randrange(len(parts)), random.randrange(len(parts))
    kind, payload = parts[at]
    action = random.randrange(10)
    if action == 0:
        del parts[at]
    elif action == 1:
        parts.insert(other, parts[at])
    elif action == 2:
        parts[at], parts[other] = parts[other], parts[at]
    elif action == 3:
        parts[at] = (parts[other][0], payload)
    elif action == 4:
        parts[at] = (kind, b"")
    elif action == 5:
        parts[at:at] = [parts[at]] * random.randint(2, 300)
    elif action == 6 and kind == b"IDAT":
        parts[at] = (kind, zlib.compress(bytes_changed(zlib.decompress(payload), random)))
    elif action == 7:
        parts[at] = (kind, payload * random.randint(2, 5))
    else:
        parts[at] = (kind, _payload(kind, payload, random))
    return parts


def _payload(kind: bytes, payload: bytes, random: Random) -> bytes:
    if kind in (b"meta", b"iprp", b"ipco", b"jp2h", b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        skip = 4 if kind == b"meta" else 0
        return payload[:skip] + _in_parts(_boxes, _join_boxes)(payload[skip:], random)
    if b"Exif\0\0" in payload[:6]:
        return payload[:6] + _tiff(payload[6:], random)
    out = bytearray(payload)
    if out and random.random() < 0.5:  # the numbers that a header consists of
        _put(out, random.randrange(min(len(out), 64)), random.choice((1, 2, 4)), random.choice("<>"), random)
        return bytes(out)
    return bytes_changed(payload, random)


def _join(parts: list[Part]) -> bytes:
    return b"".join(kind + payload for kind, payload in parts)


def _png(data: bytes) -> list[Part]:
    parts, at = [(b"", data[:8])], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        parts.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def _join_png(parts: list[Part]) -> bytes:
    return b"".join(
        payload
        if not kind
        else struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
        for kind, payload in parts
    )


def _jpeg(data: bytes) -> list[Part]:
    """What is compressed stands by itself, without a marker."""
    parts, at = [(b"\xff\xd8", b"")], 2
    while at + 4 <= len(data):
        marker = data[at : at + 2]
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        parts.append((marker, data[at + 4 : end]))
        at = end
        if marker == b"\xff\xda":
            found = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL).search(data, at)
            stop = found.start() if found else len(data)
            parts.append((b"", data[at:stop]))
            at = stop
            if data[at : at + 2] == b"\xff\xd9":
                break
    return [*parts, (b"", data[at:])]


def _join_jpeg(parts: list[Part]) -> bytes:
    whole = (
        kind + (struct.pack(">H", (len(p) + 2) % 65536) if kind not in (b"", b"\xff\xd8") else b"") + p for kind, p in parts
    )
    return b"".join(whole)


def _riff(data: bytes) -> list[Part]:
    parts, at = [(b"", data[8:12])], 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        parts.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return parts


def _join_riff(parts: list[Part]) -> bytes:
    inner = b"".join(p if not kind else kind + struct.pack("<I", len(p)) + p + bytes(len(p) % 2) for kind, p in parts)
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def _gif(data: bytes) -> list[Part]:
    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    at = 13 + table(data[10])
    parts = [(data[:13], data[13:at])]
    while at < len(data) and data[at] != 0x3B:
        start = at
        at += 2 if data[at] == 0x21 else 11 + table(data[at + 9])
        head = data[start:at]
        start = at
        while data[at]:
            at += data[at] + 1
        at += 1
        parts.append((head, data[start:at]))
    return [*parts, (b"", data[at:])]


def _boxes(data: bytes) -> list[Part]:
    parts, at = [], 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + length if length >= 8 else len(data)
        parts.append((kind, data[at + 8 : end]))
        at = end
    return parts


def _join_boxes(parts: list[Part]) -> bytes:
    return b"".join(struct.pack(">I", 8 + len(payload)) + kind + payload for kind, payload in parts)


def _codestream(data: bytes) -> list[Part]:
    """JPEG 2000 (ISO 15444-1, annex A): segments with lengths up to the first tile's data."""
    parts, at = [(data[:2], b"")], 2
    while data[at : at + 2] != b"\xff\x93":
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        parts.append((data[at : at + 4], data[at + 4 : end]))
        at = end
    return [*parts, (data[at : at + 2], data[at + 2 :])]


# Files of tables and fields.


def _tiff(data: bytes, random: Random) -> bytes:
    """A tag's code, type, count or value, the order of tags, their number, or where the next page is."""
    out, order = bytearray(data), "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, size, head = ("Q", 20, 8) if big else ("I", 12, 2)
    tables, at = [], struct.unpack_from(order + word, data, 8 if big else 4)[0]
    while at and at not in tables and at + head <= len(data):
        tables.append(at)
        count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
        at = struct.unpack_from(order + word, data, at + head + size * count)[0]
    table = random.choice(tables)
    count = struct.unpack_from(order + ("Q" if big else "H"), data, table)[0]
    entry, other = (table + head + size * random.randrange(count) for _ in range(2))
    half = 8 if big else 4
    action = random.randrange(8)
    if action == 0:
        out[entry : entry + size], out[other : other + size] = out[other : other + size], out[entry : entry + size]
    elif action == 1:
        out[entry : entry + size] = out[other : other + size]
    elif action == 2:
        _put(out, table + head + size * count, half, order, random)
    elif action == 3:
        struct.pack_into(order + word, out, table + head + size * count, random.choice(tables))  # a ring of pages
    elif action == 4:
        _put(out, table, head, order, random)
    elif action == 5:
        code = random.choice(
            (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 34675)
        )
        struct.pack_into(order + "H", out, entry, code)
    else:
        place, length = random.choice(((0, 2), (2, 2), (4, half), (4 + half, half), (4 + half, 2)))
        _put(out, entry + place, length, order, random)
    return bytes(out)


def _bmp(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    at, size = random.choice(((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4), (50, 4)))
    if random.random() < 0.2:  # upside down
        struct.pack_into("<i", out, at, -struct.unpack_from("<i", data, at)[0])
    elif random.random() < 0.3:
        struct.pack_into("<H", out, 28, random.choice((0, 1, 2, 4, 8, 16, 24, 32, 64)))
    else:
        _put(out, at, size, "<", random)
    return bytes(out)


def _pnm(data: bytes, random: Random) -> bytes:
    """One of the numbers of the header, or what stands between them."""
    tokens = re.split(rb"(\s+)", data[:24], maxsplit=4)
    rest = data[24:]
    at = random.randrange(len(tokens) - 1)
    words = [
        str(random.choice(EDGES)).encode(),
        b"-1",
        b"9" * 400,
        b"1e3",
        b"0x10",
        b"\xd9\xa3",
        b"# no end",
        b"#\n",
        b"",
        b"1.5",
    ]
    tokens[at] = random.choice(words) if at % 2 == 0 else random.choice((b"", b"\r", b" # x\n", b"\0", b"\x0b"))
    if random.random() < 0.2:
        tokens[0] = b"P" + random.choice((b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"f", b"F"))
    return b"".join(tokens) + rest


# Checkpoints.


def _zip(data: bytes, random: Random) -> bytes:
    """Of its entries, with right checksums; mostly in the pickle, which says what the others are."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at, other = random.randrange(len(entries)), random.randrange(len(entries))
    pickle = next((i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl")), at)
    action = random.randrange(12)
    if action == 0:
        del entries[at]
    elif action == 1:
        entries[at] = (entries[other][0], entries[at][1])
    elif action == 2:
        entries[at] = (entries[at][0], entries[other][1])
    elif action == 3:
        entries[at] = (random.choice(("../../x", "/tmp/x", "a" * 300, "x\0y", "byteorder", "")), entries[at][1])
    elif action == 4:
        entries[at] = (entries[at][0], bytes_changed(entries[at][1], random))
    else:
        entries[pickle] = (entries[pickle][0], _pickle(entries[pickle][1], random))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in dict(entries).items():
            archive.writestr(name, content)
    return out.getvalue()


def _pickle(data: bytes, random: Random) -> bytes:
    """Its operations: taken out, doubled, swapped, or with another argument."""
    places = [place for _, _, place in pickletools.genops(data)]
    end = places[-1] + 1
    bounds = [*places, end]
    ops = [data[a:b] for a, b in zip(bounds, bounds[1:])]  # noqa: B905, RUF007 - pairwise wants 3.10's itertools, and this is it
    at, other = random.randrange(len(ops)), random.randrange(len(ops))
    action = random.randrange(7)
    if action == 0:
        del ops[at]
    elif action == 1:
        ops.insert(other, ops[at])
    elif action == 2:
        ops[at], ops[other] = ops[other], ops[at]
    elif action == 3:
        ops[at] = random.choice(
            (b"N", b"\x88", b"]", b"}", b")", b"K\x07", b"J\xff\xff\xff\xff", b"\x8a\x09" + b"\xff" * 8 + b"\x7f")
        )
    elif action == 4:
        ops[at] = bytes_changed(ops[at], random)
    elif action == 5:
        ops[at:at] = [b"]"] * random.choice((1, 5, 5000))
    else:
        numbers = [i for i, op in enumerate(ops) if op[:1] in b"KMJ"]
        if numbers:
            ops[random.choice(numbers)] = b"J" + struct.pack(
                "<i", random.choice((-1, -(1 << 31), 0, 1, 3, 4096, (1 << 31) - 1))
            )
    return b"".join(ops) + data[end:]


def _safetensors(data: bytes, random: Random) -> bytes:
    """A word of its header."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    key = random.choice(list(header))
    entry = header[key]
    values = (
        -1,
        0,
        1,
        3,
        1 << 31,
        1 << 63,
        1 << 64,
        1.5,
        None,
        "",
        "F32",
        [],
        {},
        [0],
        [3, 4],
        [[]],
        True,
        "\ud800",
        "x" * 1000,
    )
    action = random.randrange(6)
    if action == 0:
        del header[key]
    elif action == 1:
        header[random.choice(("", "__metadata__", "\0", "a" * 5000, key + ".x"))] = entry
    elif action == 2:
        header[key] = random.choice(values)
    elif isinstance(entry, dict) and entry:
        word = random.choice(list(entry))
        if isinstance(entry[word], list) and entry[word] and random.random() < 0.5:
            entry[word][random.randrange(len(entry[word]))] = random.choice(values)
        elif word == "dtype" and random.random() < 0.7:
            entry[word] = random.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "f32", "F33"))
        else:
            entry[word] = random.choice(values)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


# Options.

LEAVES = (
    *(
        "~",
        "''",
        "yes",
        "0x1F",
        "0b2",
        "0o9",
        "1_000",
        "1:30",
        "-.inf",
        ".nan",
        "1e400",
        "-0",
        "9" * 5000,
        "2024-02-30",
        "=",
        "<<",
    ),
    *("2001-12-14t21:59:43.10-05:00", "!!int x", "!!float x", "!!bool maybe", "!!timestamp x", "!!binary '*'", "!!set {a, b}"),
    *(
        "!!omap [a: 1]",
        "!!pairs [a: 1, a: 2]",
        "!!null x",
        "!!str 3",
        "!!seq {}",
        "!!map []",
        "!!python/name:os.system",
        "!x y",
    ),
    *("&a [*a]", "&a {b: *a}", "*none", "[1, [2, [3]]]", "{a: {b: {c: d}}}", "{? [a]: b}", "? x", "{1: 2, 1.0: 3}", "|", ">-"),
    *(
        "[" * 400,
        "[" * 300 + "]" * 300,
        "{a: " * 400 + "1" + "}" * 400,
        '"\\ud800"',
        '"\\x00"',
        "'\n",
        "%YAML 3.0",
        "@",
        "`",
        "- -",
    ),
    *(
        '"a\\nb"',
        "é\u2028x",
        "{true: 1, false: 2, ~: 3}",
        "[~, ~]",
        "[]",
        "{}",
        "../../x",
        "/dev/null",
        "/dev/zero",
        "x" * 5000,
    ),
)
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def text_changed(text: str, random: Random) -> bytes:
    """An options file with one to four changes of lines, values, indents and letters, in some encoding."""
    lines = text.splitlines()
    for _ in range(random.randint(1, 4)):
        at, other = random.randrange(len(lines)), random.randrange(len(lines))
        action = random.randrange(11)
        if action == 0:
            lines[at] = ""
        elif action == 1:
            lines.insert(other, lines[at])
        elif action == 2:
            lines[at] = " " * random.randrange(9) + lines[at].lstrip()
        elif action == 3:
            place = random.randrange(len(lines[at]) + 1)
            sign = random.choice(
                ("\t", "\0", "\x07", "\ufeff", ":", "- ", "#", "'", '"', "{", "]", "&a ", "*a", "\x85", "\ud7ff", "🙂")
            )
            lines[at] = lines[at][:place] + sign + lines[at][place:]
        elif action == 4:
            lines[at : at + random.randint(1, 5)] = []
            lines = lines or [""]
        elif action == 5:
            lines[at] = lines[at].replace(":", ": &a", 1)
            lines.append(f"zz: {random.choice(('*a', '{<<: *a}'))}")
        elif action == 6:
            lines[at] = re.sub(
                r"\w+(?=:)", lambda found: random.choice((found[0][:-1], "<<", "1", "~", "", "type", "x")), lines[at], count=1
            )
        else:
            lines[at] = re.sub(r":.*", lambda _: ": " + random.choice(LEAVES), lines[at], count=1)
    text = "\n".join(lines)
    if random.random() < 0.02:
        text += f"\n{LAUGHS}{random.choice(('val: *i', 'datasets: *i', 'name: *i', 'network_g: {type: NAFNet, x: *i}'))}\n"
    data = text.encode(random.choice(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "utf-32", "utf-7")), "replace")
    return bytes_changed(data, random) if random.random() < 0.1 else data
