"""Files, options, checkpoints and sizes by hypothesis: whatever comes, the result is right, or one sentence says what is wrong.

`make test` tries some dozens of each, `make fuzz` thousands: set FUZZ to a number of examples.
"""

import copy
import io
import math
import os
import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
import yaml
from conftest import REPOSITORY, SMALL_NETS, picture, plain_and_local
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from basicsr.archs import build_network
from basicsr.errors import UserError
from basicsr.models.inference import tiled
from basicsr.options import parse
from basicsr.tlc.local.covering import blended_starts, window_starts
from basicsr.utils.checkpoint import load_weights, read_metadata
from basicsr.utils.image import decode_raw, look_at, read_pages

EXAMPLES = int(os.environ.get("FUZZ", "40"))


def tries(share: float = 1.0):
    return settings(
        max_examples=max(5, int(EXAMPLES * share)),
        deadline=None,
        derandomize="FUZZ" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def is_a_sentence(error: UserError, *names: str) -> None:
    """That names the file."""
    text = str(error)
    assert all(name in text for name in names), text
    assert text.strip()
    assert "\n" not in text, text
    assert "Traceback" not in text


# Bytes that are changed, cut, put in and taken out.

EDIT = st.one_of(
    st.tuples(st.just("set"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("out"), st.floats(0, 1), st.integers(1, 40)),
    st.tuples(st.just("in"), st.floats(0, 1), st.integers(1, 40)),
    st.tuples(st.just("zeros"), st.floats(0, 1), st.integers(1, 200)),
    st.tuples(st.just("head"), st.integers(0, 63), st.integers(0, 255)),
)
EDITS = st.lists(EDIT, min_size=1, max_size=4)


def edited(data: bytes, edits) -> bytes:
    out = bytearray(data)
    for kind, place, value in edits:
        at = min(place if kind == "head" else int(place * len(out)), max(0, len(out) - 1))
        if not out:
            break
        if kind in ("set", "head"):
            out[at] = value
        elif kind == "flip":
            out[at] ^= 1 << value
        elif kind == "cut":
            del out[at:]
        elif kind == "out":
            del out[at : at + value]
        elif kind == "in":
            out[at:at] = out[:value]
        else:
            out[at : at + value] = bytes(len(out[at : at + value]))
    return bytes(out)


# Pictures.


def _saved(suffix: str, image: Image.Image, **words) -> bytes:
    out = io.BytesIO()
    image.save(out, suffix, **words)
    return out.getvalue()


def _pictures() -> dict[str, bytes]:
    rgb = Image.fromarray(picture(3, 24, 32))
    grey, frames = rgb.convert("L"), [Image.fromarray(picture(i, 24, 32)) for i in range(2)]
    made = {
        "png": _saved("PNG", rgb),
        "grey png": _saved("PNG", grey, transparency=3),
        "palette png": _saved("PNG", rgb.convert("P")),
        "animated png": _saved("PNG", frames[0], save_all=True, append_images=frames[1:]),
        "jpg": _saved("JPEG", rgb, quality=90),
        "progressive jpg": _saved("JPEG", rgb, progressive=True, exif=rgb.getexif(), dpi=(72, 72)),
        "cmyk jpg": _saved("JPEG", rgb.convert("CMYK")),
        "webp": _saved("WEBP", rgb),
        "bmp": _saved("BMP", rgb),
        "ppm": _saved("PPM", rgb),
        "gif": _saved("GIF", frames[0], save_all=True, append_images=frames[1:]),
        "tif lzw": _saved("TIFF", rgb, compression="tiff_lzw"),
    }
    for dtype in (np.uint8, np.uint16, np.int32, np.float32):
        out = io.BytesIO()
        values = picture(3, 24, 32) / 255 if dtype == np.float32 else picture(3, 24, 32)
        tifffile.imwrite(out, values.astype(dtype), photometric="rgb", compression="zlib")
        made[f"tif {np.dtype(dtype)}"] = out.getvalue()
    for name, words in {"jp2": ("JPEG2000", {}), "avif": ("AVIF", {"quality": 60})}.items():
        try:
            made[name] = _saved(words[0], rgb, **words[1])
        except (KeyError, OSError):  # this Pillow does not write it
            continue
    return made


PICTURES = _pictures()


@tries(3)
@given(name=st.sampled_from(sorted(PICTURES)), edits=EDITS)
def test_pictures(name, edits):
    """Finite numbers in [0, 1] of the size that the header says, or a sentence that names the file."""
    data = edited(PICTURES[name], edits)
    try:
        pixels, fmt = decode_raw(data, "x.img")
    except UserError as error:
        is_a_sentence(error, "x.img: ")
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert fmt.pages >= 1
    assert fmt.alpha is None or fmt.alpha.shape == pixels.shape[:2]
    if pixels.dtype == np.float32:
        assert np.isfinite(pixels).all()
        assert 0 <= pixels.min() <= pixels.max() <= 1


@tries(0.5)
@given(name=st.sampled_from(sorted(PICTURES)), edits=EDITS)
def test_looks_and_pages(name, edits, tmp_path_factory):
    """A look at a file's header and reading all its pages agree on what it is."""
    path = tmp_path_factory.mktemp("fuzz") / "x.img"
    path.write_bytes(edited(PICTURES[name], edits))
    try:
        look = look_at(path)
    except UserError as error:
        is_a_sentence(error)
        with pytest.raises(UserError):
            list(read_pages(path))
        return
    try:
        pages = list(read_pages(path))
    except UserError as error:
        is_a_sentence(error)
        return
    assert pages[0][0].shape[:2] == look.size
    assert len(pages) == look.pages


# Options.

FILES = sorted((REPOSITORY / "options").rglob("*.yml"))
VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**12),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.lists(st.integers(-2, 5), max_size=4),
    st.dictionaries(st.sampled_from(["type", "x", "lr", "gt_size"]), st.integers(0, 3), max_size=2),
    st.dates(),
)


def _leaves(data: object, path: tuple = ()) -> list[tuple]:
    if isinstance(data, dict) and data:
        return [path, *(leaf for key, value in data.items() for leaf in _leaves(value, (*path, key)))]
    return [path]


@tries(2)
@given(data=st.data(), file=st.sampled_from(FILES), count=st.integers(1, 3))
def test_options(data, file, count):
    """They are read, or a sentence says which word is wrong and where."""
    said = yaml.safe_load(file.read_text(encoding="utf-8"))
    for _ in range(count):
        path = data.draw(st.sampled_from(_leaves(said)))
        kind = data.draw(st.sampled_from(["value", "remove", "rename", "add"]))
        place = said
        for key in path[:-1]:
            place = place[key]
        if kind == "add" or not path:
            inner = place[path[-1]] if path else place
            if isinstance(inner, dict):
                inner[data.draw(st.text(max_size=6))] = data.draw(VALUE)
        elif kind == "value":
            place[path[-1]] = data.draw(VALUE)
        elif kind == "remove":
            del place[path[-1]]
        else:
            place[f"{path[-1]}x"] = place.pop(path[-1])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parse(said, "opt.yml")
    except UserError as error:
        is_a_sentence(error, "opt.yml")


@tries(1)
@given(text=st.text(max_size=30), file=st.sampled_from(FILES))
def test_overrides(text, file):
    said = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        parse(said, "opt.yml", [text])
    except UserError as error:
        is_a_sentence(error)


# Checkpoints.


def _small() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]})


NET = _small()
KEYS = sorted(NET.state_dict())


@tries(1)
@given(
    kind=st.sampled_from(["pth", "safetensors"]),
    wrapper=st.sampled_from([None, "params", "params_ema", "state_dict", "model"]),
    prefix=st.sampled_from(["", "module.", "net.", "module.net_g.", "x."]),
    change=st.sampled_from(["none", "rename", "remove", "shape", "dtype", "add", "nan"]),
    key=st.sampled_from(KEYS),
)
def test_key_sets(kind, wrapper, prefix, change, key, tmp_path_factory):
    """The weights arrive as they are, or it is said which do not fit."""
    state = {name: tensor.clone() for name, tensor in NET.state_dict().items()}
    if change == "rename":
        state[f"{key}_x"] = state.pop(key)
    elif change == "remove":
        del state[key]
    elif change == "shape":
        state[key] = torch.zeros(3, 1, 7)
    elif change == "dtype":
        state[key] = state[key].half()
    elif change == "add":
        state["more.weight"] = torch.zeros(2)
    elif change == "nan":
        state[key] = torch.full_like(state[key], math.nan)
    state = {prefix + name: tensor.contiguous() for name, tensor in state.items()}
    path = tmp_path_factory.mktemp("fuzz") / f"x.{kind}"
    if kind == "pth":
        torch.save(state if wrapper is None else {wrapper: state}, path)
    else:
        safetensors.torch.save_file(state, path)
    net = copy.deepcopy(NET)
    for parameter in net.parameters():
        parameter.data.zero_()
    try:
        load_weights(net, path)
    except UserError as error:
        is_a_sentence(error)
        assert change in ("rename", "remove", "shape", "add")
        assert all(not parameter.any() for parameter in net.parameters())  # nothing half loaded
        return
    assert change in ("none", "dtype", "nan")
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, state[prefix + name].to(tensor.dtype), equal_nan=True)


CHECKPOINTS: dict[str, bytes] = {}


def checkpoint(kind: str) -> bytes:
    if kind not in CHECKPOINTS:
        out = io.BytesIO()
        if kind == "safetensors":
            CHECKPOINTS[kind] = safetensors.torch.save(
                {k: v.contiguous() for k, v in NET.state_dict().items()}, {"arch": "NAFNet"}
            )
            return CHECKPOINTS[kind]
        torch.save({"params": NET.state_dict()}, out, _use_new_zipfile_serialization=kind == "pth")
        CHECKPOINTS[kind] = out.getvalue()
    return CHECKPOINTS[kind]


@tries(1)
@given(kind=st.sampled_from(["pth", "old pth", "safetensors"]), edits=EDITS)
def test_damaged_checkpoints(kind, edits, tmp_path_factory):
    """Nothing in them is run, and what is wrong is one sentence."""
    path = tmp_path_factory.mktemp("fuzz") / f"x.{'safetensors' if kind == 'safetensors' else 'pth'}"
    path.write_bytes(edited(checkpoint(kind), edits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (lambda: load_weights(copy.deepcopy(NET), path), lambda: read_metadata(path)):
            try:
                read()
            except UserError as error:
                is_a_sentence(error, path.name)


# Sizes.


@tries(5)
@given(size=st.integers(1, 4000), window=st.integers(1, 4000))
def test_windows_cover_every_size(size, window):
    for starts in (window_starts(size, window), blended_starts(size, window)):
        width = min(size, window)
        assert starts == sorted(set(starts))
        assert starts[0] == 0
        assert starts[-1] + width == size
        assert all(b - a <= width for a, b in pairwise(starts))


@pytest.fixture(scope="module")
def nets() -> dict:
    """Each small net, plain, and twice with TLC: with a window that covers all images here, and with a small one."""
    return plain_and_local(4000, 24)


@tries(0.5)
@given(
    name=st.sampled_from(sorted(SMALL_NETS)),
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    batch=st.integers(1, 2),
    tile=st.one_of(st.none(), st.integers(33, 120)),
)
def test_images_of_any_size(name, height, width, batch, tile, nets):
    """Finite, of the image's size; the same where the window covers the image, however images are put together."""
    height, width = (height, max(1, width * 12000 // (height * 400))) if height * width > 12000 else (height, width)
    image = torch.rand(batch, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))

    def final(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        out = net(x)
        return out if isinstance(out, torch.Tensor) else out[-1]

    with torch.no_grad():
        runs = [partial(final, net) for net in nets[name]]
        plain, covering, local = (run(image) if tile is None else tiled(run, image, tile, min(16, tile // 3)) for run in runs)
        alone = runs[2](image[-1:])
    for out in (plain, covering, local):
        assert out.shape == image.shape
        assert out.isfinite().all()
    torch.testing.assert_close(plain, covering, rtol=1e-9, atol=1e-9)
    if tile is None:
        torch.testing.assert_close(local[-1:], alone, rtol=1e-9, atol=1e-9)
