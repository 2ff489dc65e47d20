"""Image files against Pillow, which decodes nothing in the toolbox: depths, grey, alpha, EXIF rotation, damage, writing."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from conftest import picture, write
from PIL import Image, ImageOps

from basicsr.errors import UserError
from basicsr.utils.files import write_bytes
from basicsr.utils.image import (
    ImageFormat,
    image_size,
    is_image,
    quantise,
    read_image,
    read_image_and_format,
    write_image,
)

EXIF_ORIENTATION = 0x0112


def by_pillow(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".ppm", ".PNG"])
def test_eight_bit_colours(suffix, tmp_path):
    rgb = picture(1)
    Image.fromarray(rgb).save(tmp_path / f"x{suffix}")
    image = read_image(tmp_path / f"x{suffix}")
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(np.rint(image.astype(np.float64) * 255), rgb)
    assert image_size(tmp_path / f"x{suffix}") == rgb.shape[:2]
    write_image(tmp_path / f"y{suffix}", image)
    np.testing.assert_array_equal(by_pillow(tmp_path / f"y{suffix}"), rgb)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats(suffix, tmp_path):
    rgb = cv2.GaussianBlur(picture(2, 64, 80), (0, 0), 3)
    write_image(tmp_path / f"x{suffix}", rgb / np.float32(255))
    assert np.abs(by_pillow(tmp_path / f"x{suffix}").astype(int) - rgb).mean() < 4
    assert np.abs(read_image(tmp_path / f"x{suffix}") * 255 - rgb).mean() < 4
    assert image_size(tmp_path / f"x{suffix}") == (64, 80)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_survive(suffix, tmp_path):
    rgb = picture(3, dtype=np.uint16)
    write(tmp_path / f"x{suffix}", rgb)
    image, fmt = read_image_and_format(tmp_path / f"x{suffix}")
    np.testing.assert_allclose(image, rgb / 65535, atol=1e-7)
    write_image(tmp_path / f"y{suffix}", image, fmt)
    again = cv2.imread(str(tmp_path / f"y{suffix}"), cv2.IMREAD_UNCHANGED)
    assert again.dtype == np.uint16
    np.testing.assert_array_equal(again[..., ::-1], rgb)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_and_alpha_survive(dtype, tmp_path):
    rgb = picture(4, dtype=dtype)
    alpha = picture(5, dtype=dtype)[..., 0]
    for name, raw, grey in (("grey", rgb[..., 1], True), ("rgba", np.dstack([rgb, alpha]), False)):
        path = write(tmp_path / f"{name}.png", raw)
        image, fmt = read_image_and_format(path)
        assert image.shape == (24, 32, 3)
        assert (fmt.dtype, fmt.grey, fmt.alpha is None) == (dtype, grey, name != "rgba")
        write_image(tmp_path / "out.png", image, fmt)
        again = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(again if grey else cv2.cvtColor(again, cv2.COLOR_BGRA2RGBA), raw)
    assert np.ptp(read_image(tmp_path / "grey.png"), axis=2).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_png_modes(mode, tmp_path):
    source = Image.fromarray(picture(6)).convert(mode)
    source.save(tmp_path / "x.png")
    image, fmt = read_image_and_format(tmp_path / "x.png")
    np.testing.assert_array_equal(np.rint(image * 255), np.asarray(source.convert("RGBA"))[..., :3])
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(fmt.alpha, np.asarray(source)[..., -1])


def test_jpeg_drops_what_it_cannot_hold(tmp_path):
    fmt = ImageFormat(np.dtype(np.uint16), grey=False, alpha=np.full((24, 32), 7, np.uint16))
    write_image(tmp_path / "x.jpg", picture(7) / np.float32(255), fmt)
    with Image.open(tmp_path / "x.jpg") as image:
        assert (image.mode, image.size) == ("RGB", (32, 24))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_exif_rotation(suffix, orientation, tmp_path):
    stored = Image.fromarray(cv2.GaussianBlur(picture(8, 40, 64), (0, 0), 3))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored.save(tmp_path / f"x{suffix}", exif=exif)
    stored.getexif()[EXIF_ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    image = read_image(tmp_path / f"x{suffix}")
    assert image.shape == upright.shape
    assert np.abs(image * 255 - upright).mean() < 5
    assert image_size(tmp_path / f"x{suffix}") == upright.shape[:2]


def test_alpha_is_turned_with_the_picture(tmp_path):
    rgba = np.dstack([picture(9, 20, 30), picture(10, 20, 30)[..., 0]])
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.fromarray(rgba).save(tmp_path / "x.png", exif=exif)
    image, fmt = read_image_and_format(tmp_path / "x.png")
    np.testing.assert_array_equal(fmt.alpha, np.rot90(rgba[..., 3], -1))
    np.testing.assert_array_equal(np.rint(image * 255), np.rot90(rgba[..., :3], -1))


def test_rounding_is_the_papers():
    """Clamped, times 255, rounded half to even."""
    values = np.array([[[-1.0, 0.0, 0.5 / 255], [1.5 / 255, 2.5 / 255, 0.999], [1.0, 1.7, 0.5]]], np.float64)
    np.testing.assert_array_equal(quantise(values)[0], [[0, 0, 0], [2, 2, 255], [255, 255, 128]])
    assert quantise(values, np.uint16)[0, 2, 2] == 32768
    eight = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantise(eight.astype(np.float32) / 255), eight)
    sixteen = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(quantise(sixteen.astype(np.float32) / np.float32(65535), np.uint16), sixteen)


# Damage.


def encoded(suffix: str) -> bytes:
    return cv2.imencode(suffix, picture(11, 64, 64))[1].tobytes()


@pytest.mark.parametrize("reader", [read_image, image_size])
@pytest.mark.parametrize("keep", [0, 5, 30, 0.5, 0.97])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm"])
def test_truncated_files(suffix, keep, reader, tmp_path):
    data = encoded(suffix)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=f"x{suffix}: .*; replace or remove the file"):
        reader(path)


@pytest.mark.parametrize("reader", [read_image, image_size])
@pytest.mark.parametrize("content", [b"Dear diary\n" * 9, b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\nIEND", b"<svg/>", bytes(100)])
def test_no_images(content, reader, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(
        UserError, match=r"is (not a readable image|a truncated PNG file|a JPEG file without a picture); replace"
    ):
        reader(tmp_path / "x.png")


def test_missing_files(tmp_path):
    for reader in (read_image, image_size):
        with pytest.raises(UserError, match=r"x.png: cannot be read \(No such file"):
            reader(tmp_path / "x.png")
        with pytest.raises(UserError, match="cannot be read"):
            reader(tmp_path)


def test_jpeg_with_something_behind_its_end_is_whole(tmp_path):
    (tmp_path / "x.jpg").write_bytes(encoded(".jpg") + bytes(1000))
    assert image_size(tmp_path / "x.jpg") == (64, 64)
    assert read_image(tmp_path / "x.jpg").shape == (64, 64, 3)


def png_of_zeros(width: int, height: int) -> bytes:
    """A one-bit PNG, without the memory of its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * min(height, 2000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_large_photographs(tmp_path):
    """A panorama of 400 megapixels is no attack; a file that claims to hold more is refused before it is decoded."""
    (tmp_path / "x.png").write_bytes(png_of_zeros(20000, 20000))
    assert image_size(tmp_path / "x.png") == (20000, 20000)
    (tmp_path / "y.png").write_bytes(png_of_zeros(70000, 70000))
    with pytest.raises(
        UserError, match=r"y.png: has 70000x70000 pixels, more than the limit of 536,870,912; .* TLC_MAX_PIXELS=4900000000"
    ):
        read_image(tmp_path / "y.png")


# Writing.


def test_writing_leaves_nothing_half_done(tmp_path, monkeypatch):
    target = tmp_path / "new" / "x.png"
    write_image(target, picture(12))
    np.testing.assert_array_equal(by_pillow(target), picture(12))

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"x.png: cannot be written \(No space left on device\)"):
        write_image(target, picture(13))
    assert [p.name for p in target.parent.iterdir()] == ["x.png"]
    np.testing.assert_array_equal(by_pillow(target), picture(12))


def test_bad_targets(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "x.png", b"x")
    with pytest.raises(UserError, match=r"`\.txt` is no image suffix"):
        write_image(tmp_path / "x.txt", picture(1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_suffixes(tmp_path):
    assert is_image(tmp_path / "a.PNG")
    assert is_image(tmp_path / "a.b.jpeg")
    assert not is_image(tmp_path / "a.txt")
    assert not is_image(tmp_path / "png")
