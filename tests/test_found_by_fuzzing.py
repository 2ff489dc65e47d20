"""The smallest files of what fuzzing has found: what hung, ended in a traceback, or took all memory."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
from conftest import SMALL_NETS, picture
from PIL import Image

from basicsr.archs import build_network
from basicsr.errors import UserError
from basicsr.options import load, parse
from basicsr.utils.checkpoint import load_weights, read_metadata
from basicsr.utils.image import ImageFormat, Metadata, cannot_hold, look_at, read_image, read_pages


def tiff(pages: int = 1) -> bytearray:
    out = io.BytesIO()
    with tifffile.TiffWriter(out, byteorder="<") as file:
        for _ in range(pages):
            file.write(picture(0, 8, 8), photometric="rgb", metadata=None)
    return bytearray(out.getvalue())


def tag(data: bytearray, code: int, page: int = 0) -> tuple[int, int]:
    """Where a tag is, and where the pointer to the next page."""
    at = struct.unpack_from("<I", data, 4)[0]
    for _ in range(page):
        at = struct.unpack_from("<I", data, at + 2 + 12 * struct.unpack_from("<H", data, at)[0])[0]
    count = struct.unpack_from("<H", data, at)[0]
    places = {struct.unpack_from("<H", data, at + 2 + 12 * i)[0]: at + 2 + 12 * i for i in range(count)}
    return places.get(code, 0), at + 2 + 12 * count


def ring() -> bytes:
    data = tiff(2)
    struct.pack_into("<I", data, tag(data, 0, page=1)[1], struct.unpack_from("<I", data, 4)[0])
    return bytes(data)


def changed(code: int, offset: int, *value: object, page: int = 0, pages: int = 1) -> bytes:
    data = tiff(pages)
    place = tag(data, code, page)[0]
    struct.pack_into(value[0], data, place + offset, *value[1:])
    return bytes(data)


def chunk(name: bytes) -> bytes:
    return struct.pack(">I", 0) + name + b"abcd"


WIDTH, SAMPLES = 256, 277
IMAGES = {
    "pages in a ring": (ring(), "lead back to one that was there before"),
    "a width of many numbers": (changed(WIDTH, 4, "<I", 4), "a page's size is no number"),
    "a huge second page": (changed(WIDTH, 2, "<HII", 4, 1, 1 << 30, page=1, pages=2), "more than the limit"),
    "as many channels as can be": (changed(SAMPLES, 8, "<H", 60000), "60000 channels"),
    "a chunk of no name": (b"\x89PNG\r\n\x1a\n" + chunk(b"\0\1\n\x1b"), r"its PNG chunk \\x00\\x01\\n\\x1b at byte 8"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_pictures(case, tmp_path):
    data, says = IMAGES[case]
    (tmp_path / "x.tif").write_bytes(data)
    for read in (look_at, read_image) if case != "as many channels as can be" else (read_image,):
        with pytest.raises(UserError, match=says) as caught:
            read(tmp_path / "x.tif")
        assert str(caught.value).isprintable()


def test_damaged_exif_takes_nothing_but_the_exif(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x010F] = "camera"
    data = bytearray(exif.tobytes())
    struct.pack_into(">HI", data, len(b"Exif\0\0") + 12, 12, 1)  # the maker is a float
    Image.fromarray(picture(0)).save(tmp_path / "x.jpg", exif=bytes(data))
    ((image, fmt),) = read_pages(tmp_path / "x.jpg")
    assert image.shape == (24, 32, 3)
    assert fmt.metadata == Metadata()
    assert "x.jpg: its EXIF, colour profile or resolution is damaged" in caplog.text


def test_small_pictures_in_jpeg_2000_are_refused_before_the_work(tmp_path):
    fmt = ImageFormat(np.dtype(np.uint8), grey=False)
    assert "32 rows and columns at least, and the picture has 40x31" in cannot_hold(tmp_path / "x.jp2", (31, 40), fmt)
    assert not cannot_hold(tmp_path / "x.jp2", (32, 40), fmt)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in ("ab", "bc", "cd", "de")
)
YAML = {
    "a truth that is none": ("name: !!bool maybe\n", "not of its type"),
    "a date that is none": ("name: !!timestamp x\n", "not of its type"),
    "a number that is none": ("name: !!int ''\n", "not of its type"),
    "too many digits": (f"manual_seed: {'9' * 5000}\n", "not of its type"),
    "deep": (f"val: {'[' * 900}{']' * 900}\n", "nested too deeply"),
    "itself": ("val: &a [*a]\n", "repeats itself without end"),
    "a billion laughs": (f"{LAUGHS}val: *e\n", "more than 100000 values"),
    "an empty key": ("datasets: {test: {~: 1}}\n", "line 1: is not valid YAML .a key is empty"),
    "a control character": ("name: a\0b\n", "special characters are not allowed"),
    "a list for a model": ("name: x\nmodel_type: [a]\nnetwork_g: {type: NAFNet}\n", "model_type"),
    "a list for a data set": ("name: x\ndatasets: {test: {type: [a]}}\nnetwork_g: {type: NAFNet}\n", "datasets.test.type"),
    "an unreadable encoding": ("näme: x\n".encode("latin-1"), "not valid YAML"),
}


@pytest.mark.parametrize("case", YAML)
def test_options(case, tmp_path):
    text, says = YAML[case]
    (tmp_path / "x.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says) as caught:
        load(tmp_path / "x.yml")
    assert str(caught.value).startswith(f"{tmp_path}/x.yml")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["!!bool maybe", "&a [*a]", "[" * 900, "!!timestamp x"])
def test_overrides(value):
    with pytest.raises(UserError, match="is not a YAML value"):
        parse({"name": "x", "network_g": {"type": "NAFNet"}}, "x.yml", [f"val:tile={value}"])


def saved(change=lambda name, data: (name, data)) -> bytes:
    state = build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).state_dict()
    buffer, out = io.BytesIO(), io.BytesIO()
    torch.save({"params": state}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return out.getvalue()


def in_pickle(old: bytes, new: bytes) -> bytes:
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        if not name.endswith("data.pkl"):
            return name, data
        assert old in data
        return name, data.replace(old, new, 1)

    return saved(change)


def broken_deflate() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"abcdef" * 99)
    found = bytearray(data.getvalue())
    found[40:46] = b"\xff" * 6
    with pytest.raises(zlib.error):
        zipfile.ZipFile(io.BytesIO(bytes(found))).read("x/data.pkl")
    return bytes(found)


def name_in_no_encoding() -> bytes:
    data = saved(lambda name, content: (name.replace("data.pkl", "dätä.pkl"), content))
    return data.replace("dätä".encode(), b"d\xff\xfft\xff\xff")


CHECKPOINTS = {
    "a number for a storage": (in_pickle(b"Q", b"0K\x05Q"), "no readable checkpoint"),
    "compressed badly": (broken_deflate(), "no readable checkpoint"),
    "a name in no encoding": (name_in_no_encoding(), "no readable checkpoint"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints(case, tmp_path):
    data, says = CHECKPOINTS[case]
    (tmp_path / "x.pth").write_bytes(data)
    net = build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]})
    for read in (read_metadata, lambda path: load_weights(net, path)):
        with pytest.raises(UserError, match=says) as caught:
            read(tmp_path / "x.pth")
        assert "x.pth" in str(caught.value)


def test_what_asks_for_all_memory_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "x.safetensors").write_bytes(safetensors.torch.save({"a": torch.ones(1)}))

    def greedy(*_args: object, **_words: object) -> None:
        raise MemoryError

    monkeypatch.setattr("basicsr.utils.checkpoint.safetensors.safe_open", greedy)
    with pytest.raises(UserError, match="asks for more memory than there is"):
        read_metadata(tmp_path / "x.safetensors")
