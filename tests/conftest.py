"""Fixtures: a repository root of the test's own, small pictures in it, and the entry points run in this process."""

import copy
import importlib
import logging
import os
import struct
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType

# Tests mean the CPU, and find no GPU, unless they are told to (`make test-gpu`).
if os.environ.get("TLC_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import cv2
import numpy as np
import pytest
import torch
import yaml

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported: test_kernels.py

from basicsr import commands, custom, options
from basicsr.archs import ARCHS, build_network
from basicsr.data import DATASETS
from basicsr.losses import LOSSES
from basicsr.metrics import METRICS
from basicsr.models import MODELS
from basicsr.tlc import convert
from basicsr.utils.log import run_entry_point

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = REPOSITORY / "scripts" / "data_preparation"
PSNR_AND_SSIM = {"psnr": {"type": "calculate_psnr", "crop_border": 0}, "ssim": {"type": "calculate_ssim", "crop_border": 0}}

# Small enough to run in milliseconds, every block of the real ones in them.
SMALL_NETS = {
    "NAFNet": {"width": 4, "enc_blk_nums": [1, 1], "middle_blk_num": 1, "dec_blk_nums": [1, 1]},
    "HINet": {"wf": 4, "depth": 3, "hin_position_left": 1, "hin_position_right": 2},
    "MPRNet": {"n_feat": 8, "scale_unetfeats": 4, "scale_orsnetfeats": 4, "num_cab": 1},
    "Restormer": {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 2]},
}


def plain_and_local(*windows: int) -> dict[str, list[torch.nn.Module]]:
    """By name each small network in float64, plain and with TLC of these windows, trained on patches of 32."""
    found = {}
    for name, words in SMALL_NETS.items():
        torch.manual_seed(0)
        net = build_network({"type": name, **words}).double().eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = [net, *(convert(copy.deepcopy(net), train_size=32, base_size=window) for window in windows)]
    return found


@dataclass(frozen=True)
class Outcome:
    """How an entry point ended."""

    code: int
    out: str
    err: str


def picture(seed: int, height: int = 24, width: int = 32, dtype: type = np.uint8) -> np.ndarray:
    """(height, width, 3) smooth waves with a little noise, different for every seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.empty((height, width, 3))
    for c in range(3):
        a, b, phase = random.uniform(0.5, 3, 3)
        image[..., c] = 0.5 + 0.35 * np.sin(a * np.pi * y / height + phase) * np.cos(b * np.pi * x / width)
    image += 0.05 * random.standard_normal(image.shape)
    return np.rint(image.clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


def write(path: Path, rgb: np.ndarray) -> Path:
    """Write RGB, grey or RGBA with OpenCV alone. Floats without compression: OpenCV 4.8 takes one that loses some."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    words = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if rgb.dtype == np.float32 else []
    assert cv2.imwrite(str(path), rgb if rgb.ndim == 2 else cv2.cvtColor(rgb, codes[rgb.shape[2]]), words)
    return path


def make_pairs(folder: Path, names: tuple[str, ...] = ("a", "b", "c"), height: int = 24, width: int = 32) -> Path:
    """folder/{target,input}/<name>.png: pictures and noisy copies of them."""
    for seed, name in enumerate(names):
        clean = picture(seed, height, width)
        noise = np.random.default_rng(seed + 100).normal(0, 12, clean.shape)
        write(folder / "target" / f"{name}.png", clean)
        write(folder / "input" / f"{name}.png", np.rint((clean + noise).clip(0, 255)).astype(np.uint8))
    return folder


def smooth(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A picture that survives 4:2:0 and H.264; its brightness tells its number."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([60 + x, 80 + y + 6 * number, 150 - x / 2 - y / 2], 2)
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def film(
    path: Path,
    frames: list[np.ndarray],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    rate: Fraction = Fraction(25),
    sound: str | None = None,
    turned: bool = False,
    **settings: object,
) -> Path:
    """A video, written by PyAV alone; frames are RGB, or (H, W, 3) samples of Y, U and V for settings that name a matrix.

    turned: shown turned by a quarter to the right, by the display matrix of QuickTime's file format.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as out:
        stream = out.add_stream(codec, rate=rate, options={"crf": "1"} if codec == "libx264" else {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        if sound:
            track = out.add_stream(sound, rate=48000, layout="mono")
        out.metadata["title"] = "a title"
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.dtype == np.uint8 else "rgb48le")
            frame.pts = number if times is None else times[number]
            out.mux(stream.encode(frame))
            if sound:
                wave = (8000 * np.sin(np.arange(1920) / 9 + number)).astype(np.int16)[None]
                heard = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
                heard.rate, heard.pts = 48000, number * 1920
                out.mux(track.encode(heard))
        out.mux(stream.encode(None))
        if sound:
            out.mux(track.encode(None))
    if turned:
        data = bytearray(path.read_bytes())
        matrix = data.index(b"tkhd") + 44
        data[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
    return path


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A temporary folder that stands for the repository's root: results/ and experiments/ come to lie there."""
    monkeypatch.setattr(options, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TLC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _no_traces(monkeypatch):
    """Each test finds and leaves the logger, the warnings and the module search path as they are."""
    logger = logging.getLogger("basicsr")
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield
    for handler in logger.handlers:
        if handler not in handlers:
            handler.close()
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture
def forget_own_code(monkeypatch, tmp_path) -> Callable[[], None]:
    """Forgets, when it is called and at the end, what files below the test's folder have registered, and their modules."""
    registries = (ARCHS, DATASETS, LOSSES, METRICS, MODELS)
    shipped = [dict(registry._entries) for registry in registries]

    def forget() -> None:
        for registry, entries in zip(registries, shipped, strict=True):
            registry._entries = dict(entries)
        monkeypatch.setattr(custom, "_searched", [])
        places = {name: [vars(m).get("__file__"), *vars(m).get("__path__", [])] for name, m in sys.modules.items()}
        for name, paths in places.items():
            if any(path and Path(path).is_relative_to(tmp_path) for path in paths):
                del sys.modules[name]

    forget()
    yield forget
    forget()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def script(monkeypatch) -> Callable[[str], ModuleType]:
    """script("evidence"): a file of scripts/ as a module."""

    def load(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
        return importlib.import_module(name)

    return load


@pytest.fixture
def curves() -> None:
    """Asked for by a test whose trainings draw their curves, which takes several times as long as their steps."""


@pytest.fixture
def run(request, monkeypatch, capsys) -> Callable[..., Outcome]:
    """run("test", "-opt", "x.yml"): a command of `tlc`, an entry point of basicsr, or a script, as in a shell."""

    def call(entry: str, *args: str | Path) -> Outcome:
        if entry == "train" and "curves" not in request.fixturenames:
            monkeypatch.setattr("basicsr.engine.training.watch.draw_curves", lambda *_args, **_options: None)
        folder = next((folder for folder in (SCRIPTS, SCRIPTS.parent) if (folder / f"{entry}.py").is_file()), None)
        if folder:
            monkeypatch.syspath_prepend(str(folder))
        if entry in commands.COMMANDS:
            main = commands.main
            words = ["tlc", entry, *map(str, args)]
        else:
            main = importlib.import_module(entry if folder else f"basicsr.{entry}").main
            words = [f"{entry}.py", *map(str, args)]
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        try:
            code = run_entry_point(main)
        except SystemExit as stop:  # argparse, after --help
            code = stop.code
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def test_options() -> dict:
    """Options of a test run on datasets/Set with a small NAFNet and random weights."""
    return {
        "name": "run",
        "num_gpu": 0,
        "datasets": {"test": {"name": "Set", "dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}},
        "network_g": {"type": "NAFNet", **copy.deepcopy(SMALL_NETS["NAFNet"])},
        "val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
    }


@pytest.fixture
def train_options(test_options) -> dict:
    """Options of a training run of six iterations on datasets/Set."""
    train_set = {**test_options["datasets"]["test"], "gt_size": 16, "use_flip": True, "use_rot": True, "batch_size_per_gpu": 2}
    return {
        **test_options,
        "datasets": {"train": train_set},
        "train": {
            "total_iter": 6,
            "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.9]},
            "scheduler": {"type": "TrueCosineAnnealingLR", "T_max": 6, "eta_min": 1e-7},
            "pixel_opt": {"type": "PSNRLoss"},
        },
        "logger": {"print_freq": 2, "save_checkpoint_freq": 3, "use_tb_logger": False},
    }


def write_yaml(path: Path, content: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
