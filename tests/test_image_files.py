"""What files of pictures hold beside 8-bit colours: types of samples, pages, transparency, metadata; damage; what does not fit.

The expected values are written by Pillow, tifffile or numpy."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from conftest import picture, write
from PIL import Image, ImageCms

from basicsr.data import PairedImageDataset
from basicsr.errors import UserError
from basicsr.utils.image import cannot_hold, look_at, lost_in, read_image, read_pages, scan, write_image, write_pages

# Types of samples.


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32"])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3)])
def test_integers_are_scaled_by_their_type(dtype, shape, tmp_path):
    peak = np.iinfo(dtype).max
    values = np.linspace(0, peak, np.prod(shape)).reshape(shape).astype(dtype)
    values.flat[-1] = peak
    tifffile.imwrite(tmp_path / "x.tif", values)
    (image, fmt), *more = read_pages(tmp_path / "x.tif")
    assert not more
    want = values / float(peak)
    np.testing.assert_allclose(image, np.repeat(want[..., None], 3, 2) if values.ndim == 2 else want, atol=1e-7)
    write_image(tmp_path / "y.tif", image, fmt)
    again = tifffile.imread(tmp_path / "y.tif")
    assert again.dtype == values.dtype
    np.testing.assert_allclose(again.astype(float), values.astype(float), atol=peak * 1e-7)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_stay_floats(dtype, tmp_path):
    values = np.random.default_rng(0).random((9, 7, 3)).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb")
    ((image, fmt),) = read_pages(tmp_path / "x.tif")
    np.testing.assert_array_equal(image, values.astype(np.float32))
    write_image(tmp_path / "y.tif", image, fmt)
    again = tifffile.imread(tmp_path / "y.tif")
    assert again.dtype == values.dtype
    np.testing.assert_array_equal(again, values.astype(np.float32).astype(dtype))
    assert lost_in(tmp_path / "y.png", fmt) == "floating point (16 bits are written)"
    assert lost_in(tmp_path / "y.tif", fmt) == ""


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1), (0, 4)])
def test_floats_of_another_range_are_refused_or_said(low, high, tmp_path):
    values = np.linspace(low, high, 9 * 7 * 3, dtype=np.float32).reshape(9, 7, 3)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb")
    with pytest.raises(UserError, match=rf"x.tif: holds float32 values from {low} to {high}, .*value_range: \[0, 255\]"):
        read_image(tmp_path / "x.tif")
    ((image, fmt),) = read_pages(tmp_path / "x.tif", (low, high))
    np.testing.assert_allclose(image, (values - low) / (high - low), atol=1e-6)
    write_image(tmp_path / "y.tif", image, fmt)
    np.testing.assert_allclose(tifffile.imread(tmp_path / "y.tif"), values, atol=1e-5 * (high - low))


def test_negative_integers_are_no_light(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.array([[-5, 3], [7, 100]], np.int16))
    with pytest.raises(UserError, match="holds int16 values from -5 to 100"):
        read_image(tmp_path / "x.tif")


def test_samples_of_no_known_type(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((9, 7)), photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+") as file:
        file.pages[0].tags["SampleFormat"].overwrite(9)
    with pytest.raises(UserError, match=r"x\.tif: .*holds samples of 64 bits whose type is not known"):
        read_image(tmp_path / "x.tif")


def test_twelve_bits_in_sixteen(tmp_path):
    values = np.linspace(0, 4095, 63).reshape(9, 7).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values)
    ((image, fmt),) = read_pages(tmp_path / "x.tif", (0, 4095))
    np.testing.assert_allclose(image[..., 0], values / 4095, atol=1e-6)
    write_image(tmp_path / "y.tif", image, fmt)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "y.tif"), values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named(value, tmp_path):
    values = np.full((9, 7, 3), 0.5, np.float32)
    values[4, 5, 1] = value
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb")
    with pytest.raises(UserError, match=r"x.tif: holds 1 values that are no numbers .* in row 4, column 5"):
        read_image(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"y.png: is not written, since the picture holds values that are no numbers"):
        write_image(tmp_path / "y.png", values)
    assert not (tmp_path / "y.png").exists()


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_white_may_be_zero(photometric, tmp_path):
    values = np.arange(63, dtype=np.uint8).reshape(9, 7)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric=photometric)
    want = values if photometric == "minisblack" else 255 - values
    np.testing.assert_allclose(read_image(tmp_path / "x.tif")[..., 0] * 255, want, atol=1e-4)


def test_planes_one_behind_the_other(tmp_path):
    values = picture(1, 9, 8)
    tifffile.imwrite(tmp_path / "x.tif", np.moveaxis(values, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_allclose(read_image(tmp_path / "x.tif") * 255, values, atol=1e-4)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_packed_tiff_files(compression, orientation, tmp_path):
    values = np.asarray(Image.fromarray(picture(1, 8, 8)).resize((32, 24), Image.BICUBIC))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / "x.tif", compression=compression, exif=exif)
    turned = {1: values, 3: values[::-1, ::-1], 6: np.rot90(values, 3), 7: np.rot90(values.swapaxes(0, 1), 2)}[orientation]
    image = read_image(tmp_path / "x.tif") * 255
    assert image.shape == turned.shape == (*look_at(tmp_path / "x.tif").size, 3)
    assert np.abs(image - turned).mean() < (4 if compression == "jpeg" else 1e-3)


def test_palettes(tmp_path):
    image = Image.fromarray(picture(1, 9, 8)).convert("P")
    want = np.asarray(image.convert("RGB"))
    for name in ("x.tif", "x.png", "x.gif", "x.bmp"):
        image.save(tmp_path / name)
        np.testing.assert_allclose(read_image(tmp_path / name) * 255, want, atol=1e-4)


@pytest.mark.parametrize("channels", [5, 6])
def test_channels_that_no_picture_has(channels, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((9, 7, channels), np.uint8), planarconfig="contig", photometric="minisblack")
    with pytest.raises(UserError, match=rf"x.tif: holds {channels} channels"):
        read_image(tmp_path / "x.tif")


# Pages, transparency, metadata.


def animated(path, count=3):
    frames = [Image.fromarray(picture(i, 12, 16)) for i in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if path.suffix == ".webp" else {}))
    return [np.asarray(frame) for frame in frames]


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.webp"])
def test_every_page_is_read(name, tmp_path):
    frames = animated(tmp_path / name)
    assert look_at(tmp_path / name).pages == 3
    pages = list(read_pages(tmp_path / name))
    assert len(pages) == 3
    for (image, fmt), frame in zip(pages, frames, strict=True):
        assert fmt.pages == 3
        np.testing.assert_allclose(image * 255, frame, atol=1e-4)
    write_pages(tmp_path / "y.tif", *zip(*pages, strict=True))
    for page, frame in zip(tifffile.TiffFile(tmp_path / "y.tif").pages, frames, strict=True):
        np.testing.assert_array_equal(page.asarray(), frame)


def test_a_thumbnail_is_no_page(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(picture(1, 32, 24), photometric="rgb")
        file.write(picture(2, 8, 6), photometric="rgb", subfiletype=1)
    assert look_at(tmp_path / "x.tif").pages == 1


def test_grey_with_transparency(tmp_path):
    grey, alpha = np.arange(63, dtype=np.uint8).reshape(9, 7), np.arange(63, dtype=np.uint8)[::-1].reshape(9, 7)
    both = np.dstack([grey, alpha])
    Image.fromarray(both).save(tmp_path / "x.png")
    Image.fromarray(both).save(tmp_path / "x.tif")
    Image.fromarray(grey).save(tmp_path / "t.png", transparency=7)
    for name, want in {"x.png": alpha, "x.tif": alpha, "t.png": np.where(grey == 7, 0, 255)}.items():
        ((image, fmt),) = read_pages(tmp_path / name)
        assert fmt.grey
        np.testing.assert_array_equal(fmt.alpha, want)
        np.testing.assert_allclose(image[..., 0] * 255, grey, atol=1e-4)
        for target in ("y.png", "y.tif"):
            write_image(tmp_path / target, image, fmt)
            with Image.open(tmp_path / target) as again:
                np.testing.assert_array_equal(np.asarray(again.convert("LA")), np.dstack([grey, want]))


@pytest.mark.parametrize("source", ["x.png", "x.jpg", "x.tif", "x.webp"])
@pytest.mark.parametrize("target", ["y.png", "y.jpg", "y.tif", "y.webp"])
def test_metadata_are_kept(source, target, tmp_path):
    profile, exif = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), Image.Exif()
    exif[0x010F], exif[0x0112] = "A camera", 6
    Image.fromarray(picture(1, 12, 16)).save(tmp_path / source, icc_profile=profile, exif=exif, dpi=(300, 300))
    ((image, fmt),) = read_pages(tmp_path / source)
    assert image.shape == (16, 12, 3)  # upright
    write_image(tmp_path / target, image, fmt)
    with Image.open(tmp_path / target) as again:
        assert again.size == (12, 16)
        assert again.info["icc_profile"] == profile
        assert again.getexif()[0x010F] == "A camera"
        assert again.getexif().get(0x0112, 1) == 1
        if ".webp" not in (tmp_path / source).suffix + (tmp_path / target).suffix:  # which holds no resolution
            assert tuple(round(float(x)) for x in again.info["dpi"]) == (300, 300)
    assert lost_in(tmp_path / "y.bmp", fmt).startswith("its colour profile and its EXIF")


# Damage, and what is behind a picture's end.


def jpeg(**words) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(3, 96, 128)).save(out, "JPEG", quality=95, **words)
    return out.getvalue()


def test_damage_inside_a_jpeg_file_is_named(tmp_path):
    data = bytearray(jpeg())
    data[len(data) // 3 : len(data) // 3 + 2000] = bytes(2000)
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(UserError, match=r"x.jpg: is damaged inside \(Corrupt JPEG data.*; replace or remove the file"):
        read_image(tmp_path / "x.jpg")


def test_damage_inside_a_png_file_is_named(tmp_path):
    Image.fromarray(picture(3, 96, 128)).save(tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(UserError, match=r"x.png: is damaged: its PNG chunk IDAT at byte \d+ is not what its checksum says"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize(
    "behind", [b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 40, bytes(4000), b"\xff\xda\xff\xd8" * 99]
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_follows_the_end_is_not_the_picture(suffix, behind, tmp_path):
    """A phone's motion photo has a film there."""
    Image.fromarray(picture(3, 96, 128)).save(tmp_path / f"x{suffix}")
    whole = read_image(tmp_path / f"x{suffix}")
    (tmp_path / f"y{suffix}").write_bytes((tmp_path / f"x{suffix}").read_bytes() + behind)
    np.testing.assert_array_equal(read_image(tmp_path / f"y{suffix}"), whole)
    assert look_at(tmp_path / f"y{suffix}").size == (96, 128)


def test_a_picture_inside_a_picture_is_not_its_end(tmp_path):
    """The thumbnail in a camera's EXIF ends before the photograph does."""
    thumbnail = jpeg()[:4000] + b"\xff\xd9"
    data = jpeg()
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    (tmp_path / "x.jpg").write_bytes(data[:2] + segment + data[2:])
    assert read_image(tmp_path / "x.jpg").shape == (96, 128, 3)
    (tmp_path / "y.jpg").write_bytes((data[:2] + segment + data[2:])[: len(segment) + 900])
    with pytest.raises(UserError, match="truncated JPEG"):
        read_image(tmp_path / "y.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm", ".gif", ".jp2", ".avif"])
def test_a_cut_anywhere_is_seen(suffix, tmp_path):
    """Or the picture is there to the last pixel."""
    try:
        Image.fromarray(picture(5, 40, 56)).save(tmp_path / f"x{suffix}")
    except (KeyError, ValueError, OSError):
        pytest.skip(f"this Pillow does not write {suffix}")
    data, whole = (tmp_path / f"x{suffix}").read_bytes(), read_image(tmp_path / f"x{suffix}")
    rng = np.random.default_rng(0)
    for cut in [*rng.integers(0, len(data), 25), len(data) - 1]:
        (tmp_path / f"y{suffix}").write_bytes(data[:cut])
        try:
            found = read_image(tmp_path / f"y{suffix}")
        except UserError:
            continue
        np.testing.assert_array_equal(found, whole)


def test_a_small_file_that_claims_much_is_not_decoded(tmp_path, monkeypatch):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 500, 400, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1501 * 400))) + chunk(b"IEND", b"")
    )
    (tmp_path / "x.png").write_bytes(bomb)
    assert read_image(tmp_path / "x.png").shape == (400, 500, 3)
    monkeypatch.setenv("TLC_MAX_PIXELS", "199999")
    for reader in (read_image, look_at):
        with pytest.raises(
            UserError, match=r"x.png: has 500x400 pixels, more than the limit of 199,999; .*TLC_MAX_PIXELS=200000"
        ):
            reader(tmp_path / "x.png")
    monkeypatch.setenv("TLC_MAX_PIXELS", "many")
    with pytest.raises(UserError, match="TLC_MAX_PIXELS is 'many', but must be a number"):
        read_image(tmp_path / "x.png")


# What a format cannot hold.


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("x.webp", (8, 20000), "WebP holds 16383 rows and columns at most, and the picture has 20000x8: name a .png file"),
        ("x.jpg", (70000, 8), "JPEG holds 65500 rows"),
        ("x.gif", (8, 8), "`.gif` is not written"),
        ("x.pngg", (8, 8), "Did you mean `.png`"),
        ("x.png", (70000, 8), ""),
        ("x.jpg", (65500, 8), ""),
    ],
)
def test_what_does_not_fit_is_said(name, size, says, tmp_path):
    reason = cannot_hold(tmp_path / name, size)
    assert says in reason
    assert bool(reason) == bool(says)


def test_colours_do_not_fit_into_grey(tmp_path):
    with pytest.raises(UserError, match=r"x.pgm: PGM holds grey pictures alone"):
        write_image(tmp_path / "x.pgm", picture(1, 8, 8))
    assert not (tmp_path / "x.pgm").exists()


# Scanning.


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(1, 8, 8)).save(path, "PNG")
    return path


def test_what_a_folder_holds(tmp_path):
    root = tmp_path / "root"
    pictures = [put(root / name) for name in ("a.png", "b.PNG", "deep/er/c.png", "scene1.png/d.png", "e.jfif")]
    for name in (".hidden.png", ".cache/x.png", "@eaDir/x.png", "__MACOSX/x.png", ".ipynb_checkpoints/x.png"):
        put(root / name)
    for name in ("f.heic", "g.HEIC", "notes.txt", ".DS_Store", "Thumbs.db", "README", "degrade.json"):
        (root / name).write_bytes(b"x")
    found = scan(root)
    assert found.files == tuple(sorted(pictures))
    assert {reason: len(names) for reason, names in found.left_out.items()} == {
        "hidden": 1,
        "hidden or a system's folder": 4,
        ".heic": 2,
        ".txt": 1,
        "without a suffix": 1,
    }
    assert "2 .heic (f.heic, g.HEIC)" in found.summary()
    assert found.summary().startswith("5 pictures; left out: ")
    flat = scan(root, recursive=False)
    assert {path.name for path in flat.files} == {"a.png", "b.PNG", "e.jfif"}


def test_links(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    put(root / "a" / "0.png")
    put(elsewhere / "1.png")
    put(elsewhere / "deep" / "2.png")
    try:
        (root / "b").symlink_to(elsewhere)
        (root / "c").symlink_to(root)
        (root / "d").symlink_to(root / "a")
        (elsewhere / "up").symlink_to(elsewhere)
        (root / "x.png").symlink_to(tmp_path / "gone.png")
        (root / "y.png").symlink_to(elsewhere / "1.png")
    except OSError:
        pytest.skip("links cannot be made here")
    found = scan(root)
    assert [path.relative_to(root).as_posix() for path in found.files] == [
        "a/0.png",
        "b/1.png",
        "b/deep/2.png",
        "x.png",
        "y.png",
    ]
    assert found.left_out == {"a link to a folder that is there already": ["b/up", "c", "d"]}
    with pytest.raises(UserError, match=r"x.png: cannot be read \(No such file"):
        read_image(root / "x.png")


def test_long_names(tmp_path):
    name = "n" * 246 + ".png"
    write_image(tmp_path / name, picture(1, 8, 8))
    assert read_image(tmp_path / name).shape == (8, 8, 3)


# What data sets and crops leave of a file is said before the work.


def test_of_several_pages_a_data_set_says_that_it_takes_the_first(tmp_path, caplog):
    for side in ("target", "input"):
        (tmp_path / side).mkdir()
        tifffile.imwrite(tmp_path / side / "a.tif", np.stack([picture(0), picture(1)]), photometric="rgb")
        write(tmp_path / side / "b.png", picture(2))
    data = PairedImageDataset(dataroot_gt=str(tmp_path / "target"), dataroot_lq=str(tmp_path / "input"))
    data.check(progress=False)
    assert "several pages or frames the first one is taken alone: a." in caplog.text
    assert len(data) == 2


def test_crops_say_what_they_cannot_hold(root, run):
    write(root / "in/plain.png", picture(0, dtype=np.uint16))
    tifffile.imwrite(root / "in/float.tif", (picture(1) / 255).astype(np.float32), photometric="rgb")
    tifffile.imwrite(root / "in/pages.tif", np.stack([picture(2), picture(3)]), photometric="rgb")
    outcome = run("crops", "--input", "in", "--output", "out", "--crop_size", "16", "--step", "16")
    assert outcome.code == 0
    assert "PNG files of 16 bits, which is less than these pictures hold: float." in outcome.out
    assert "the first one is cut alone: pages." in outcome.out
    assert "plain" not in outcome.out
