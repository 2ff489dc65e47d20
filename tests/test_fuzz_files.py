"""The readers of pictures, options and checkpoints against files with damage of every kind: plain data, or one sentence.

`make test` tries some hundreds of each, `make fuzz` does so for FUZZ_MINUTES each, and prints how many it tried. What is read
at the moment lies in the test's temporary folder: it is what ended the process, if something does.
"""

import copy
import faulthandler
import io
import os
import random
import resource
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
from conftest import REPOSITORY, SMALL_NETS, picture
from mutated import mutated, text_changed
from PIL import Image, features

from basicsr.archs import build_network
from basicsr.errors import UserError
from basicsr.options import load
from basicsr.utils.checkpoint import load_weights, read_metadata
from basicsr.utils.image import look_at, read_pages
from basicsr.utils.image.structure import kind_of

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
KINDS = ("PNG", "JPEG", "TIFF", "WebP", "BMP", "GIF", "PNM", "AVIF", "JPEG 2000")
FEW = 400  # tries, where no time is set
SECONDS = 20  # of the processor for one file
MEMORY = 3 << 30  # bytes more than at the start


def seeds() -> Iterator[int]:
    """The first few, or new ones until the time is over."""
    if not MINUTES:
        yield from range(FEW)
        return
    end, start = time.monotonic() + 60 * MINUTES, random.SystemRandom().getrandbits(40)
    while time.monotonic() < end:
        yield start
        start += 1


@pytest.fixture
def bounds(monkeypatch) -> Iterator[None]:
    """What hangs or takes all memory ends with a trace."""
    monkeypatch.setenv("TLC_MAX_PIXELS", "4000000")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc").is_dir() else None
    if held:
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    faulthandler.cancel_dump_traceback_later()


def tried(read: Callable[[random.Random], None]) -> None:
    """Run `read` with one seed after another; then fail with all faults, by the lines that raised them, a seed for each."""
    faults, count = {}, 0
    for seed in seeds():
        count += 1
        if MINUTES:
            faulthandler.dump_traceback_later(20 * SECONDS, exit=True)
        before = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(random.Random(seed))
            if time.process_time() - before > SECONDS:
                faults.setdefault("slow", f"seed {seed}: {time.process_time() - before:.0f} s")
        except Exception as error:  # noqa: BLE001 - whatever is raised is a fault
            lines = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            place = f"{type(error).__name__} at {' > '.join(lines[1:4])} ... {lines[-1]}"
            faults.setdefault(place, f"seed {seed}: {str(error)[:200]}")
    print(f"{count:,} tried, {len(faults)} faults")
    assert not faults, "\n".join(f"{place}: {what}" for place, what in faults.items())


def is_a_sentence(error: UserError, name: str, never: str = "Traceback") -> None:
    text = str(error)
    assert name in text, text
    assert text.isprintable(), text
    assert never not in text


# Pictures.


def _pictures() -> dict[str, bytes]:
    """Of every format that is read, and of the ways to write it."""
    pixels = picture(3, 24, 32)
    rgb = Image.fromarray(pixels)
    grey, clear = rgb.convert("L"), rgb.convert("RGBA")
    frames = {"save_all": True, "append_images": [Image.fromarray(picture(i, 24, 32)) for i in range(2)]}
    exif = rgb.getexif()
    exif.update({0x0112: 6, 0x010E: "a picture", 0x0110: "camera"})
    about = {"exif": exif, "dpi": (72, 72), "icc_profile": bytes(200)}
    pillow = {
        "PNG": (
            *((rgb, about), (grey, {"transparency": 3}), (clear, {}), (rgb.convert("P"), {"transparency": 1}), (rgb, frames)),
            *((grey.convert("1"), {}), (grey.convert("LA"), {})),
        ),
        "JPEG": ((rgb, {"quality": 90}), (rgb, {"progressive": True, **about}), (rgb.convert("CMYK"), {}), (grey, {})),
        "WEBP": ((rgb, about), (clear, {"lossless": True}), (rgb, frames)),
        "BMP": ((rgb, {}), (grey, {}), (rgb.convert("P"), {}), (grey.convert("1"), {}), (clear, {})),
        "DIB": ((rgb, {}),),
        "PPM": ((rgb, {}), (grey, {}), (grey.convert("1"), {})),
        "GIF": ((rgb, {}), (rgb, frames), (rgb.convert("P"), {"transparency": 1, "interlace": 1})),
        "TIFF": (
            *((rgb, {"compression": kind}) for kind in ("tiff_lzw", "packbits", "jpeg", "tiff_adobe_deflate", "raw")),
            *((grey.convert("1"), {"compression": "group4"}), (rgb.convert("P"), {}), (rgb.convert("CMYK"), {}), (rgb, frames)),
            *((clear, about), (rgb.convert("YCbCr"), {"compression": "jpeg"}), (grey.convert("LA"), {})),
        ),
        "JPEG2000": ((rgb, {}), (clear, {}), (rgb, {"no_jp2": True}), (grey, {"irreversible": True, "quality_layers": [20]})),
    }
    if features.check("avif"):
        pillow["AVIF"] = ((rgb, {"quality": 60, "exif": exif}), (clear, {"quality": 60}), (rgb, {"quality": 60, **frames}))
    made = {}
    for kind, ways in pillow.items():
        for number, (image, words) in enumerate(ways):
            out = io.BytesIO()
            image.save(out, kind, **words)
            made[f"{kind} {number}"] = out.getvalue()
    return made | _deep_pictures(pixels)


def _deep_pictures(pixels: np.ndarray) -> dict[str, bytes]:
    """What Pillow does not write."""
    deep, floats = pixels.astype(np.uint16) * 257, (pixels / 255).astype(np.float32)
    plain, made = {"photometric": "rgb"}, {}
    tiffs = {
        "uint16": (deep, plain),
        "int32": (deep.astype(np.int32), {"compression": "zlib", **plain}),
        "float": (floats, {"compression": "zlib", **plain}),
        "double": (floats[..., 0].astype(np.float64), {"photometric": "minisblack"}),
        "half": (floats.astype(np.float16), {"tile": (16, 16), **plain}),
        "planes": (np.moveaxis(pixels, 2, 0), {"planarconfig": "separate", **plain}),
        "strips": (pixels, {"rowsperstrip": 5, "compression": "zlib", **plain}),
        "inverted": (pixels[..., 0], {"photometric": "miniswhite"}),
        "alpha": (np.dstack([pixels, pixels[..., 0]]), {"extrasamples": ["unassalpha"], **plain}),
        "pages": (np.stack([deep, deep]), plain),
        "channels": (np.dstack([pixels, pixels]), {"photometric": "minisblack", "planarconfig": "contig"}),
    }
    for name, (samples, words) in tiffs.items():
        for ending in ("<", ">"):
            out = io.BytesIO()
            tifffile.imwrite(out, samples, byteorder=ending, bigtiff=name == "pages" and ending == ">", **words)
            made[f"TIFF {name} {ending}"] = out.getvalue()
    opencv = {
        "deep": (".png", deep),
        "clear and deep": (".png", np.dstack([deep, deep[..., 0]])),
        "deep ppm": (".ppm", deep),
        "deep pgm": (".pgm", np.ascontiguousarray(deep[..., 0])),
        "deep jp2": (".jp2", np.tile(deep, (2, 2, 1))),
    }
    made |= {name: cv2.imencode(suffix, samples)[1].tobytes() for name, (suffix, samples) in opencv.items()}
    made["text ppm"] = b"P3\n32 24\n255\n" + " ".join(map(str, pixels.ravel())).encode()
    made["text pbm"] = b"P1\n32 24\n" + b"0 1 " * 384
    return made


PICTURES = _pictures()


def test_the_pictures_are_of_every_format_and_whole(tmp_path):
    assert {kind_of(data) for data in PICTURES.values()} - {""} == set(KINDS) - (set() if features.check("avif") else {"AVIF"})
    refused, path = {}, tmp_path / "x.img"
    for name, data in PICTURES.items():
        path.write_bytes(data)
        try:
            pages = list(read_pages(path))
            assert sorted(pages[0][0].shape[:2]) in ([24, 32], [48, 64]), name
        except UserError as error:
            refused[name] = str(error)
    assert set(refused) == {"TIFF channels <", "TIFF channels >"}, refused


def test_pictures(tmp_path, bounds):
    """All pages are finite numbers in [0, 1] of the size that a look at the header says."""
    path, names = tmp_path / "x.img", sorted(PICTURES)

    def read(chance: random.Random) -> None:
        path.write_bytes(mutated(PICTURES[chance.choice(names)], chance))
        try:
            look = look_at(path)
        except UserError as error:
            is_a_sentence(error, "x.img")
            with pytest.raises(UserError):
                list(read_pages(path))
            return
        try:
            count = 0
            for pixels, fmt in read_pages(path):
                assert pixels.shape == (*pixels.shape[:2], 3)
                assert pixels.dtype == np.float32
                assert np.isfinite(pixels).all()
                assert not pixels.size or 0 <= pixels.min() <= pixels.max() <= 1
                assert fmt.alpha is None or fmt.alpha.shape == pixels.shape[:2]
                assert count or pixels.shape[:2] == look.size
                count += 1
            assert count == look.pages
        except UserError as error:
            is_a_sentence(error, "x.img", never="memory")

    tried(read)


# Options.

FILES = sorted((REPOSITORY / "options").rglob("*.yml"))


def test_options(tmp_path, bounds):
    """Read as options, or a sentence that names the file."""
    path, texts = tmp_path / "x.yml", [file.read_text(encoding="utf-8") for file in FILES]

    def read(chance: random.Random) -> None:
        path.write_bytes(text_changed(chance.choice(texts), chance))
        try:
            assert load(path).name
        except UserError as error:
            is_a_sentence(error, "x.yml")

    tried(read)


# Checkpoints.


def _checkpoints() -> dict[str, tuple[str, bytes]]:
    """The file's suffix and content: all that is read as weights."""
    torch.manual_seed(0)
    net = build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]})
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    made = {"safe": (".safetensors", safetensors.torch.save(state, {"arch": "NAFNet", "train_size": "96"}))}
    contents = {
        "plain": state,
        "wrapped": {"params": state, "metadata": {"arch": "NAFNet"}},
        "trainer": {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}, "best": np.float64(30.1)},
        "half": {"params_ema": {k: v.half() for k, v in state.items()}},
    }
    for name, content in contents.items():
        for old in (False, True):
            out = io.BytesIO()
            torch.save(content, out, _use_new_zipfile_serialization=not old)
            made[f"{name}{' old' * old}"] = (".pth", out.getvalue())
    return made


CHECKPOINTS = _checkpoints()


def test_checkpoints(tmp_path, bounds):
    """Weights that fit, or a sentence; nothing in the file is run, and a net that is refused weights keeps its own."""
    net = build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]})
    first = copy.deepcopy(net.state_dict())

    def read(chance: random.Random) -> None:
        suffix, data = CHECKPOINTS[chance.choice(sorted(CHECKPOINTS))]
        path = tmp_path / f"x{suffix}"
        path.write_bytes(mutated(data, chance))
        try:
            metadata = read_metadata(path)
            assert all(isinstance(word, str) for pair in metadata.items() for word in pair)
        except UserError as error:
            is_a_sentence(error, path.name)
        try:
            load_weights(net, path)
            net.load_state_dict(first)
        except UserError as error:
            is_a_sentence(error, path.name)
            assert all(torch.equal(tensor, first[name]) for name, tensor in net.state_dict().items())

    tried(read)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.pth", "x.safetensors"]
