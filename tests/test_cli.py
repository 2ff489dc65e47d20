"""Wrong inputs through the real entry points: one sentence, exit code 2, no traceback, nothing written."""

import argparse
import datetime
import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import REPOSITORY, SMALL_NETS, make_pairs, picture, write, write_yaml

from basicsr.archs import build_network
from basicsr.data.packing import write_lmdb

Change = Callable[[dict, Path], None]


@dataclass(frozen=True)
class Wrong:
    """A mistake: what is changed in good options and files, and the words that the message must hold."""

    entry: str
    says: tuple[str, ...]
    change: Change = lambda opt, root: None
    args: tuple[str, ...] = ()
    opt: bool = True  # give -opt


def put(*path_and_value: object) -> Change:
    """Set opt[path] = value."""

    def change(opt: dict, _root: Path) -> None:
        *path, last, value = path_and_value
        for key in path:
            opt = opt.setdefault(key, {})
        opt[last] = value

    return change


def drop(*path: str) -> Change:
    def change(opt: dict, _root: Path) -> None:
        for key in path[:-1]:
            opt = opt[key]
        del opt[path[-1]]

    return change


def file(name: str, content: bytes | str | None) -> Change:
    """Replace a file (None: remove it)."""

    def change(_opt: dict, root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def cut(name: str, keep: float) -> Change:
    """Truncate a file."""

    def change(_opt: dict, root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(len(data) * keep)])

    return change


def image(name: str, height: int, width: int) -> Change:
    return lambda _opt, root: write(root / name, picture(9, height, width))


def weights(name: str, content: object, **path: object) -> Change:
    def change(opt: dict, root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        value = content() if callable(content) else content
        if isinstance(value, bytes):
            (root / name).write_bytes(value)
        else:
            torch.save(value, root / name)
        opt["path"] = {"pretrain_network_g": name, **path}

    return change


def small(name: str, **changes: object) -> Callable[[], dict]:
    return lambda: {"params": build_network({"type": name, **SMALL_NETS[name], **changes}).state_dict()}


def both(*changes: Change) -> Change:
    def change(opt: dict, root: Path) -> None:
        for one in changes:
            one(opt, root)

    return change


def as_lmdb(damage: Callable[[Path], None]) -> Change:
    """Pack the pictures into LMDBs, then damage the degraded ones'."""

    def change(opt: dict, root: Path) -> None:
        for side in ("input", "target"):
            write_lmdb(root / "datasets/Set" / side, root / f"datasets/{side}.lmdb", progress=False)
        damage(root / "datasets/input.lmdb")
        opt["datasets"]["test"] |= {
            "dataroot_gt": "datasets/target.lmdb",
            "dataroot_lq": "datasets/input.lmdb",
            "io_backend": {"type": "lmdb"},
        }

    return change


def without_key(path: Path) -> None:
    with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
        assert transaction.delete(b"b")


PNG = "datasets/Set/input/b.png"
DEMO = ("--input", "photo.png", "--output", "out.png")


class Mischief:
    """What would run code if it were unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("hacked",)


def pickled(content: object, *, old: bool = False, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old, pickle_protocol=protocol)
    return buffer.getvalue()


def packed(suffix: str, *names: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{suffix}") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 3, 1)), buffer)
    return buffer.getvalue()


def foreign(content: object, *says: str, name: str = "w.pth") -> Wrong:
    """Weights that are another thing."""
    return Wrong("test", (name, *says), weights(name, content))


NET = small("NAFNet")()["params"]
SAFE = safetensors.torch.save({key: value.contiguous() for key, value in NET.items()})
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
FOREIGN = {
    "nothing": foreign(b"", "it is empty; download or copy it again"),
    "page": foreign(b"\n<!DOCTYPE html>\n<html>", "is a web page, not weights: download the file itself"),
    "LFS pointer": foreign(LFS, "Git LFS pointer", "git lfs pull"),
    "LFS pointer for safetensors": foreign(LFS, "Git LFS pointer", name="w.safetensors"),
    "text": foreign(b"404: Not Found", "it is a text file that begins with '404: Not Found'"),
    "XML": foreign(b'<?xml version="1.0"?><Error>NoSuchKey</Error>', "it is a text file that begins with '<?xml"),
    "JSON for safetensors": foreign(b'{"metadata": {}}', "it is a text file", name="w.safetensors"),
    "zip": foreign(packed("zip", "a/net.pth", "b.txt"), "a zip archive that holds a/net.pth, b.txt: unpack it"),
    "zip that leads out": foreign(packed("zip", "../../net.pth"), "a zip archive that holds ../../net.pth: unpack it"),
    "empty zip": foreign(packed("zip"), "a zip archive that holds nothing"),
    "tar": foreign(packed("", "a/net.pth"), "it is a tar archive: unpack it"),
    "gzip": foreign(packed("gz", "a/net.pth"), "it is a gzip archive: unpack it"),
    "bzip2": foreign(packed("bz2", "a"), "it is a bzip2 archive"),
    "xz": foreign(packed("xz", "a"), "it is an xz archive"),
    "HDF5": foreign(b"\x89HDF\r\n\x1a\n" + bytes(90), "it is an HDF5 file, as of Keras"),
    "GGUF": foreign(b"GGUF" + bytes(90), "it is a GGUF file"),
    "picture": foreign(b"\x89PNG\r\n\x1a\n" + bytes(90), "it is a picture"),
    "npy": foreign(b"\x93NUMPY\x01\x00" + bytes(90), "it is an array of NumPy"),
    "npz": foreign(packed("zip", "a.npy"), "it is an archive of NumPy arrays"),
    "ONNX": foreign(b"\x08\x07\x12\x07pytorch", "network in ONNX: give it the suffix .onnx"),
    "ONNX by name": foreign(b"x", "is an exported network (ONNX)", name="w.onnx"),
    "TorchScript": foreign(scripted, "is an exported network (TorchScript), not weights"),
    "zeros": foreign(bytes(4000), "is no readable checkpoint"),
    "noise": foreign(np.random.default_rng(0).bytes(5000), "is no readable checkpoint"),
    "cut": foreign(lambda: pickled({"params": NET})[:9000], "it is cut off or damaged, after 9,000 bytes"),
    "cut at its end": foreign(lambda: pickled({"params": NET})[:-9], "it is cut off or damaged"),
    "cut, old format": foreign(lambda: pickled({"params": NET}, old=True)[:3000], "it is cut off after 3,000 bytes"),
    "cut safetensors": foreign(
        SAFE[:-9], f"it is cut off after {len(SAFE) - 9:,} of {len(SAFE):,} bytes", name="w.safetensors"
    ),
    "cut header": foreign(SAFE[:99], "it is cut off in its header after 99 of", name="w.safetensors"),
    "damaged header": foreign(SAFE[:20] + b"\xff" * 9 + SAFE[29:], "its header is damaged", name="w.safetensors"),
    "whole net": foreign(
        lambda: pickled(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))), "modules.container.Sequential", "whole pickled"
    ),
    "whole net of this package": foreign(
        lambda: pickled(build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]})),
        "nafnet_arch.NAFNet",
        "save net.state_dict()",
    ),
    "class": foreign({"params": NET, "args": argparse.Namespace(a=1)}, "argparse.Namespace, which lies beside its tensors"),
    "path": foreign({"params": NET, "file": Path("x")}, "the code of pathlib", "save the state dict alone"),
    "date": foreign({"params": NET, "date": datetime.datetime(2020, 1, 1)}, "datetime.datetime, which lies beside its tensors"),
    "objects in an array": foreign({"params": NET, "x": np.array([None])}, "values of NumPy", "no numbers"),
    "code": foreign({"params": NET, "x": Mischief()}, ".mkdir: take weights from a source that you trust"),
    "code, old format": foreign(lambda: pickled({"params": NET, "x": Mischief()}, old=True), ".mkdir: take weights"),
    "code alone": foreign(lambda: pickled(Mischief()), ".mkdir: take weights"),
    "code, for pickle": foreign(pickle.dumps({"x": Mischief()}), ".mkdir: take weights"),
    "code in safetensors": foreign(lambda: pickled({"x": Mischief()}), ".mkdir: take weights", name="w.safetensors"),
    "tensors, for pickle": foreign(lambda: pickle.dumps(NET), "was not written by torch.save"),
    "another protocol": foreign(lambda: pickled({"params": NET, "best": np.float64(1)}, protocol=4), "pickle protocol 4"),
    "tensor": foreign(torch.ones(2), "holds a Tensor, not weights"),
    "numbers": foreign({"epoch": 3, "best": np.float64(1)}, "holds no weights", "`epoch`, `best`"),
    "several": foreign({"student": NET, "teacher": NET}, "several sets of weights: student, teacher", "path.param_key"),
    "prefix of another net": foreign(
        lambda: {f"net.{key}": value for key, value in small("HINet")()["params"].items()}, "weights of HINet, not of NAFNet"
    ),
    "folder": Wrong("test", ("datasets are a folder",), put("path", "pretrain_network_g", "datasets")),
    "pipe": Wrong(
        "test",
        ("w.pth are no file, but a pipe",),
        both(lambda _opt, root: os.mkfifo(root / "w.pth"), put("path", "pretrain_network_g", "w.pth")),
    ),
    "param_key in a wrapper": Wrong(
        "test", ("path.param_key", "no `params.b`"), weights("w.pth", {"params": NET}, param_key="params.b")
    ),
}


def state(content: object, *says: str, model: bool = True) -> Wrong:
    """A training state to go on from."""

    def change(opt: dict, root: Path) -> None:
        folder = root / "old"
        for name in ("models", "training_states"):
            (folder / name).mkdir(parents=True)
        value = content() if callable(content) else content
        (folder / "training_states/3.state").write_bytes(value if isinstance(value, bytes) else pickled(value))
        if model:
            torch.save({"params": NET}, folder / "models/net_g_3.pth")
        opt["path"] = {"resume_state": "old/training_states/3.state"}

    return Wrong("train", ("3.state", *says), change)


def saved(**changes: object) -> dict:
    names = [name for name, _ in build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).named_parameters()]
    optimizer = {"state": {}, "param_groups": [{"params": list(range(len(names)))}]}
    return {"iter": 3, "seen": 6, "optimizer": optimizer, "groups": [names], "scaler": {}, **changes}


STATES = {
    "nothing": state(b"", "it is empty"),
    "text": state(b"hello", "it is a text file that begins with 'hello'"),
    "LFS pointer": state(LFS, "Git LFS pointer"),
    "cut": state(lambda: pickled(saved())[:900], "it is cut off or damaged"),
    "code": state({**saved(), "x": Mischief()}, ".mkdir"),
    "class": state({**saved(), "args": argparse.Namespace()}, "argparse.Namespace"),
    "list": state([1, 2], "holds a list"),
    "weights": state({"params": NET}, "is no training state"),
    "no model": state(saved(), "net_g_3.pth", model=False),
    "another place": state(saved(iter="../../datasets/x"), "is no training state"),
    "iteration below 0": state(saved(iter=-1), "is no training state"),
    "text for a count": state(saved(seen="6"), "is no training state"),
    "list for the optimizer": state(saved(optimizer=[1]), "is no training state"),
    "half an optimizer": state(saved(optimizer={}), "the optimizer is not whole"),
    "optimizer without parameters": state(saved(optimizer={"state": {}, "param_groups": [{"params": []}]}), "not whole"),
    "groups of another net": state(saved(groups=[["a"]]), "other groups of parameters"),
    "bad best": state(saved(best=[1]), "is no training state"),
    "folder": Wrong("train", ("datasets",), put("path", "resume_state", "datasets")),
}

URL = "https://example.org/x/net.pth"
SAID = (f"{URL} is a web address, not a file: download it",)
ADDRESSES = {
    "weights in a file": Wrong("test", ("path.pretrain_network_g", *SAID), put("path", "pretrain_network_g", URL)),
    "state": Wrong("train", ("path.resume_state", *SAID), put("path", "resume_state", URL)),
    "gt": Wrong("test", ("datasets.test.dataroot_gt", *SAID), put("datasets", "test", "dataroot_gt", URL)),
    "lq": Wrong("train", ("datasets.train.dataroot_lq", *SAID), put("datasets", "train", "dataroot_lq", URL)),
    "one of two folders": Wrong(
        "test", ("datasets.test.dataroot_gt.1", *SAID), put("datasets", "test", "dataroot_gt", ["datasets/Set/target", URL])
    ),
    "own code": Wrong("test", ("custom_modules.0", *SAID), put("custom_modules", [URL])),
    "picture in a file": Wrong(
        "demo", ("img_path.input_img", *SAID), put("img_path", {"input_img": URL, "output_img": "o.png"})
    ),
    "override": Wrong("test", ("path.pretrain_network_g", *SAID), args=("--force_yml", f"path:pretrain_network_g={URL}")),
    "options": Wrong("test", ("-opt", *SAID), args=("-opt", URL)),
    "picture": Wrong("demo", ("--input", *SAID), args=("--input", URL, "--output", "o.png")),
    "output": Wrong("demo", ("--output", *SAID), args=("--input", "photo.png", "--output", URL)),
    "weights": Wrong("demo", ("--weights", *SAID), args=(*DEMO, "--weights", URL)),
    "target": Wrong("demo", ("--target", *SAID), args=(*DEMO, "--target", URL)),
    "another scheme": Wrong(
        "demo", ("--weights: s3://b/net.pth is a web address",), args=(*DEMO, "--weights", "s3://b/net.pth")
    ),
    "folder to pack": Wrong("create_lmdb", ("--input", *SAID), args=("--input", URL, "--output", "x.lmdb"), opt=False),
    "pairs": Wrong("test", ("--gt", *SAID), args=("--weights", "w.pth", "--gt", URL, "--lq", "datasets/Set/input"), opt=False),
}

RGB = ("but pictures are read as RGB, which has 3: take a network for RGB",)
CHANNELS = {
    "six, trained": Wrong(
        "train", ("network_g.img_channel: NAFNet takes images of 6 channels", *RGB), put("network_g", "img_channel", 6)
    ),
    "six, dry": Wrong("train", ("images of 6 channels", *RGB), put("network_g", "img_channel", 6), ("--dry_run",)),
    "one, tested": Wrong(
        "test",
        ("NAFNet takes images of 1 channel,", *RGB, "for RGB, or have them read as grey by `in_ch: 1`."),
        put("network_g", "img_channel", 1),
    ),
    "six, restored": Wrong(
        "demo",
        ("NAFNet gives images of 6 channels, but photographs are RGB or grey",),
        put("network_g", "img_channel", 6),
        DEMO,
    ),
    "HINet": Wrong(
        "train", ("network_g.in_chn", *RGB), put("network_g", {"type": "HINet", **SMALL_NETS["HINet"], "in_chn": 1})
    ),
    "MPRNet": Wrong(
        "test", ("network_g.in_c", *RGB), put("network_g", {"type": "MPRNet", **SMALL_NETS["MPRNet"], "in_c": 4, "out_c": 4})
    ),
    "dual pixels": Wrong(
        "train",
        ("network_g.inp_channels: Restormer takes images of 6 channels", *RGB),
        put("network_g", {"type": "Restormer", **SMALL_NETS["Restormer"], "inp_channels": 6, "dual_pixel_task": True}),
    ),
    "one out": Wrong(
        "test",
        ("network_g.out_channels: Restormer gives images of 1 channel,", *RGB),
        put("network_g", {"type": "Restormer", **SMALL_NETS["Restormer"], "out_channels": 1, "dual_pixel_task": True}),
    ),
    "weights of six": Wrong(
        "demo",
        ("NAFNet gives images of 6 channels, but photographs are RGB or grey",),
        weights("w.pth", small("NAFNet", img_channel=6)),
        (*DEMO, "--arch", "NAFNet", "--weights", "w.pth"),
    ),
    "patches that do not fit": Wrong(
        "train",
        ("network_g: MPRNet does not run on patches of 18x18",),
        both(
            put("network_g", {"type": "MPRNet", **SMALL_NETS["MPRNet"], "padder_size": 0}),
            put("datasets", "train", "gt_size", 18),
        ),
        ("--dry_run",),
    ),
}

# What no file, no path, no picture and no tensor is.


def pipe(name: str) -> Change:
    def change(_opt: dict, root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return change


def listening(name: str) -> Change:
    """A socket."""

    def change(_opt: dict, root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)  # the current folder is the root; in full its path would be too long for a socket

    return change


def tensors(change: Callable[[torch.Tensor], torch.Tensor], *says: str) -> Wrong:
    return Wrong("test", ("w.pth", *says), weights("w.pth", lambda: {"params": {k: change(v) for k, v in NET.items()}}))


LONG = "x" * 300
NO_HOME = "~nobodyatall/x"
META = "datasets/input.lmdb/meta_info.txt"
BLANK_BMP = b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 0, 5, 1, 24, 0, 0, 0, 0, 0, 0)
PLAIN = "is no file, but a pipe, a socket or a device"


def listed(text: bytes) -> Change:
    return as_lmdb(lambda path: (path / "meta_info.txt").write_bytes(text))


SPECIAL = {
    "options are a pipe": Wrong("test", ("o.yml: there is no such options file",), pipe("o.yml"), ("-opt", "o.yml")),
    "options are a device": Wrong("test", ("/dev/null: there is no such options file",), args=("-opt", "/dev/null")),
    "photo is a pipe": Wrong("demo", ("photo.png: cannot be read (it is no file, but a pipe",), pipe("photo.png"), DEMO),
    "photo is a socket": Wrong("demo", ("photo.png: cannot be read (it is no file, but a pipe",), listening("photo.png"), DEMO),
    "photo is a device": Wrong("demo", ("/dev/zero: no photograph",), args=("--input", "/dev/zero", "--output", "out.png")),
    "a pipe among pictures": Wrong("test", ("without a degraded image in dataroot_lq: b",), pipe(PNG)),
    "list of pairs is a pipe": Wrong(
        "test",
        ("meta_info_file", "cannot be read (it is no file"),
        both(pipe("m"), put("datasets", "test", "meta_info_file", "m")),
    ),
    "list of pairs is a device": Wrong(
        "test", ("/dev/zero: cannot be read (it is no file",), put("datasets", "test", "meta_info_file", "/dev/zero")
    ),
    "target is a pipe": Wrong("demo", ("t.png: the target does not exist",), pipe("t.png"), (*DEMO, "--target", "t.png")),
    "state is a pipe": Wrong(
        "train", ("1.state does not exist",), both(pipe("1.state"), put("path", "resume_state", "1.state"))
    ),
    "weights are a socket": Wrong(
        "test", ("w.pth are no file, but a pipe",), both(listening("w.pth"), put("path", "pretrain_network_g", "w.pth"))
    ),
    "weights are a device": Wrong("test", ("/dev/zero are no file",), put("path", "pretrain_network_g", "/dev/zero")),
    "weights are a link to themselves": Wrong(
        "test",
        ("w.pth do not exist",),
        both(lambda _opt, root: os.symlink("w.pth", root / "w.pth"), put("path", "pretrain_network_g", "w.pth")),
    ),
    "own code is a pipe": Wrong(
        "test", (f"custom_modules: m.py {PLAIN}",), both(pipe("m.py"), put("custom_modules", ["m.py"]))
    ),
    "own code is a folder": Wrong("test", ("custom_modules: empty is no Python file",), put("custom_modules", ["empty"])),
    "output is a pipe": Wrong("demo", ("o.png: is there already and is no file",), pipe("o.png"), (*DEMO[:3], "o.png")),
    "output below a device": Wrong("demo", ("/dev/null", "cannot be written"), args=(*DEMO[:3], "/dev/null")),
    "output where nothing can be": Wrong("demo", ("/proc/x.png: cannot be written",), args=(*DEMO[:3], "/proc/x.png")),
    "a link to nowhere": Wrong(
        "test", ("b.png: cannot be read (No such file",), both(file(PNG, None), lambda _o, root: os.symlink("none", root / PNG))
    ),
    "LMDB is a pipe": Wrong(
        "create_lmdb",
        ("x.lmdb: exists already",),
        pipe("x.lmdb"),
        ("--input", "datasets/Set/input", "--output", "x.lmdb"),
        False,
    ),
    "folder to pack is a pipe": Wrong(
        "create_lmdb", ("p does not exist",), pipe("p"), ("--input", "p", "--output", "x.lmdb"), opt=False
    ),
    # paths
    "a home that is not there, of data": Wrong(
        "test", (f"{NO_HOME}: there is no such user's home",), put("datasets", "test", "dataroot_lq", NO_HOME)
    ),
    "a home that is not there, of weights": Wrong("test", (NO_HOME, "home folder"), put("path", "pretrain_network_g", NO_HOME)),
    "a home that is not there, of a photo": Wrong("demo", (NO_HOME,), args=("--input", NO_HOME, "--output", "out.png")),
    "NUL in a folder": Wrong(
        "test", ("datasets.test.dataroot_lq", "holds a NUL character"), put("datasets", "test", "dataroot_lq", "a\0b")
    ),
    "NUL in weights": Wrong("test", ("path.pretrain_network_g", "NUL"), put("path", "pretrain_network_g", "a\0b")),
    "NUL in a list": Wrong("test", ("meta_info_file", "NUL"), put("datasets", "test", "meta_info_file", "a\0b")),
    "long folder": Wrong("test", (f"{LONG}: File name too long",), put("datasets", "test", "dataroot_lq", LONG)),
    "long weights": Wrong("test", (f"{LONG}: File name too long",), put("path", "pretrain_network_g", LONG)),
    "long state": Wrong("train", (LONG,), put("path", "resume_state", LONG)),
    "long photo": Wrong("demo", (LONG,), args=("--input", LONG, "--output", "out.png")),
    "long options": Wrong("test", (LONG,), args=("-opt", LONG)),
    "long name": Wrong("test", (LONG,), put("name", LONG)),
    "empty name": Wrong("test", ("name: '' cannot be a run's folder",), put("name", "")),
    "name of two lines": Wrong("test", ("name: 'a\\nb' cannot be",), put("name", "a\nb")),
    # contents
    "HEIC in a PNG file's name": Wrong("demo", ("photo.png",), file("photo.png", b"\0\0\0\x18ftypheic" + bytes(50)), DEMO),
    "an LFS pointer for a photo": Wrong("demo", ("photo.png: is not a readable image",), file("photo.png", LFS), DEMO),
    "no columns": Wrong("demo", ("photo.png: has a damaged header",), file("photo.png", BLANK_BMP), DEMO),
    "LMDB with a list in another encoding": Wrong("test", (META, "no text in UTF-8"), listed(b"\xff.png (24,32,3) 1\n")),
    "LMDB with a name twice": Wrong("test", (f"{META}, line 2", "second time"), listed(b"a.png (24,32,3) 1\n" * 2)),
    "LMDB with a size below 1": Wrong("test", (f"{META}, line 1", "'a.png (-24"), listed(b"a.png (-24,32,3) 1\n")),
    "weights without values": tensors(lambda value: value.to("meta"), "is without values (meta)"),
    "weights that are sparse": tensors(lambda value: value.to_sparse(), "is sparse"),
    "weights that are complex": tensors(lambda value: value.to(torch.complex64), "is complex"),
    "weights that are integers": tensors(lambda value: (9 * value).to(torch.int8), "quantised weights do not run here"),
    # options
    "endless rate": Wrong("train", ("train.optim_g.lr", "finite number"), put("train", "optim_g", "lr", float("inf"))),
    "rate that is no number": Wrong("train", ("train.optim_g.lr",), put("train", "optim_g", "lr", float("nan"))),
    "mixup": Wrong("train", ("train.mixup: write `mixing_augs: {mixup: true",), put("train", "mixup", True)),
    "half a crop": Wrong("train", ("datasets.train.gt_size: 16.5",), put("datasets", "train", "gt_size", 16.5)),
    "seed of 70 bits": Wrong("train", ("manual_seed", "less than 4294967296"), put("manual_seed", 1 << 70)),
    "width beyond memory": Wrong("test", ("network_g", "memory"), put("network_g", "width", 1 << 40)),
    "40 levels": Wrong("test", ("network_g: enc_blk_nums has 40 levels",), put("network_g", "enc_blk_nums", [1] * 40)),
    "options in UTF-16": Wrong(
        "test", ("bad.yml: is not valid YAML",), file("bad.yml", "name: x".encode("utf-16")), ("-opt", "bad.yml")
    ),
    "options of zeros": Wrong("test", ("bad.yml: is not valid YAML",), file("bad.yml", bytes(50)), ("-opt", "bad.yml")),
    "options without an end": Wrong(
        "test", ("bad.yml: is not valid YAML", "without end"), file("bad.yml", "val: &a [*a]"), ("-opt", "bad.yml")
    ),
    "empty override": Wrong("test", ("--force_yml : write it as",), args=("--force_yml", "")),
    "a GPU by number": Wrong("demo", ("--device", "'cuda:7'", "Did you mean `cuda`?"), args=(*DEMO, "--device", "cuda:7")),
    "no GPU": Wrong("demo", ("--device cuda: torch", "use --device cpu"), args=(*DEMO, "--device", "cuda")),
    "window of 0": Wrong("test", ("--window: '0' is no whole number of 1",), args=("--tlc", "on", "--window", "0")),
    "range upside down": Wrong("demo", ("--value-range 1 0: white must be more",), args=(*DEMO, "--value-range", "1", "0")),
    "range without an end": Wrong("demo", ("--value-range 0 nan",), args=(*DEMO, "--value-range", "0", "nan")),
    "a format that is not written": Wrong("demo", ("`.gif` is not written",), args=(*DEMO[:3], "o.gif")),
}

WRONG = {
    # the options file
    "no such options file": Wrong("test", ("nowhere.yml", "no such options file"), args=("-opt", "nowhere.yml"), opt=False),
    "options are a folder": Wrong("test", ("datasets", "no such options file"), args=("-opt", "datasets"), opt=False),
    "options are an image": Wrong("test", (PNG, "not valid YAML"), args=("-opt", PNG), opt=False),
    "YAML syntax": Wrong(
        "test", ("bad.yml, line 3", "not valid YAML"), file("bad.yml", "name: a\nval: [1\n"), ("-opt", "bad.yml")
    ),
    "key twice": Wrong("test", ("line 2", "`name` stands twice"), file("bad.yml", "name: a\nname: b\n"), ("-opt", "bad.yml")),
    "a list as a key": Wrong("test", ("bad.yml", "not valid YAML"), file("bad.yml", "[a, b]: 1\n"), ("-opt", "bad.yml")),
    "no date": Wrong("test", ("bad.yml", "not valid YAML"), file("bad.yml", "name: 2020-13-45\n"), ("-opt", "bad.yml")),
    "a tag that would run code": Wrong(
        "test",
        ("bad.yml, line 1", "not valid YAML"),
        file("bad.yml", "name: !!python/object/apply:os.mkdir [hacked]\n"),
        ("-opt", "bad.yml"),
    ),
    "empty options file": Wrong("test", ("bad.yml", "must be a mapping"), file("bad.yml", ""), ("-opt", "bad.yml")),
    # words and types
    "typo in a section": Wrong("test", ("unknown option `datasts`", "Did you mean `datasets`?"), put("datasts", {})),
    "typo in a key": Wrong(
        "test", ("unknown option `val.save_imgs`", "Did you mean `save_img`?"), put("val", "save_imgs", True)
    ),
    "typo in path": Wrong("test", ("`path.param_kee`", "`param_key`"), put("path", "param_kee", "params")),
    "typo in a network's option": Wrong("test", ("network_g.widht", "Did you mean `width`?"), put("network_g", "widht", 4)),
    "typo in a data set's option": Wrong(
        "test", ("datasets.test.data_root_gt", "Did you mean `dataroot_gt`?"), put("datasets", "test", "data_root_gt", "x")
    ),
    "typo in a metric's option": Wrong(
        "test", ("val.metrics.psnr.crop_boarder", "`crop_border`"), put("val", "metrics", "psnr", "crop_boarder", 0)
    ),
    "unknown network": Wrong(
        "test", ("network_g.type", "`Restorner`", "Did you mean `Restormer`?"), put("network_g", "type", "Restorner")
    ),
    "unknown metric": Wrong(
        "test",
        ("val.metrics.psnr", "`calculate_pnsr`", "`calculate_psnr`"),
        put("val", "metrics", "psnr", "type", "calculate_pnsr"),
    ),
    "unknown data set": Wrong(
        "test",
        ("datasets.test", "`PairedImageDatset`", "`PairedImageDataset`"),
        put("datasets", "test", "type", "PairedImageDatset"),
    ),
    "unknown model": Wrong("test", ("model_type", "ImageRestorationModel"), put("model_type", "ImageRestoreModel")),
    "unknown storage": Wrong(
        "test", ("datasets.test", "`lmbd`", "Did you mean `lmdb`?"), put("datasets", "test", "io_backend", {"type": "lmbd"})
    ),
    "text for a number": Wrong("test", ("manual_seed", "must be a number", "'ten'"), put("manual_seed", "ten")),
    "negative seed": Wrong("test", ("manual_seed", "greater than or equal to 0"), put("manual_seed", -1)),
    "yes for a number in a network": Wrong("test", ("network_g.width", "True"), put("network_g", "width", True)),
    "text for a list in a network": Wrong(
        "test", ("network_g.enc_blk_nums", "'1, 1'"), put("network_g", "enc_blk_nums", "1, 1")
    ),
    "negative width": Wrong("test", ("network_g",), put("network_g", "width", -4)),
    "no network": Wrong("test", ("`network_g` is missing",), drop("network_g")),
    "no type of network": Wrong("test", ("`network_g.type` is missing",), drop("network_g", "type")),
    "name is no folder's": Wrong("test", ("name", "'../up'", "cannot be a run's folder"), put("name", "../up")),
    "name is the folder above": Wrong("train", ("name", "'..'", "without a dot in front"), put("name", "..")),
    "name is the weights' folder": Wrong(
        "train", ("name", "pretrained_models, which holds the weights"), put("name", "pretrained_models")
    ),
    "upscaling": Wrong("test", ("scale", "it is 4"), put("scale", 4)),
    "bad TLC option": Wrong("test", ("network_g.tlc.basesize", "`base_size`"), put("network_g", "tlc", {"basesize": 8})),
    "no metrics": Wrong("test", ("val.metrics is empty",), drop("val", "metrics")),
    "no data sets": Wrong("test", ("`datasets`", "datasets.test"), drop("datasets")),
    "overlap above tile": Wrong(
        "test", ("val: tile_overlap (40) must be smaller than tile (32)",), put("val", {"tile": 32, "tile_overlap": 40})
    ),
    "grids and tile": Wrong(
        "test", ("val", "choose one"), put("val", {"grids": True, "crop_size": 16, "tile": 32, "tile_overlap": 8})
    ),
    "grids without crop_size": Wrong("test", ("val", "grids needs crop_size"), put("val", "grids", True)),
    # the command line
    "override without a value": Wrong(
        "test", ("--force_yml val:save_img", "section:key=value"), args=("--force_yml", "val:save_img")
    ),
    "override of an unknown key": Wrong(
        "test", ("network_g.widht", "Did you mean `width`?"), args=("--force_yml", "network_g:widht=9")
    ),
    "override below a value": Wrong("test", ("--force_yml name:x=1", "`name` is no section"), args=("--force_yml", "name:x=1")),
    "override that is code": Wrong(
        "test",
        ("val.save_img", "__import__"),
        args=("--force_yml", "val:save_img=__import__('pathlib').Path('hacked').mkdir()"),
    ),
    "no -opt": Wrong("test", ("-opt",), opt=False),
    "unknown flag": Wrong("test", ("--tlcs",), args=("--tlcs", "sometimes")),
    # the data
    "missing folder": Wrong(
        "test",
        ("datasets.test.dataroot_lq", "inptu does not exist", "holds input, target"),
        put("datasets", "test", "dataroot_lq", "datasets/Set/inptu"),
    ),
    "wrong folder": Wrong(
        "test", ("datasets.test.dataroot_gt", "holds no images"), put("datasets", "test", "dataroot_gt", "empty")
    ),
    "partner missing": Wrong("test", ("without a degraded image in dataroot_lq: b",), file(PNG, None)),
    "another name": Wrong(
        "test",
        ("filename_tmpl '{}_blur'", "without a degraded image in dataroot_lq: a, b, c"),
        put("datasets", "test", "filename_tmpl", "{}_blur"),
    ),
    "bad name pattern": Wrong(
        "test", ("datasets.test.filename_tmpl", "'_blur'"), put("datasets", "test", "filename_tmpl", "_blur")
    ),
    "one name, two files": Wrong("test", ("b.jpg", "two suffixes"), image("datasets/Set/input/b.jpg", 24, 32)),
    "different sizes": Wrong("test", ("of different sizes: b (32x24 and 24x32)",), image(PNG, 32, 24)),
    "truncated PNG": Wrong("test", ("unreadable", "b.png: is a truncated PNG file"), cut(PNG, 0.7)),
    "zero bytes": Wrong("test", ("unreadable", "b.png: is an empty file"), file(PNG, b"")),
    "text named .png": Wrong("test", ("unreadable", "b.png: is not a readable image"), file(PNG, "Dear diary\n")),
    "no LMDB": Wrong("test", ("dataroot_gt", "no data.mdb"), put("datasets", "test", "io_backend", {"type": "lmdb"})),
    "LMDB without meta_info": Wrong(
        "test", ("dataroot_lq", "meta_info.txt"), as_lmdb(lambda path: (path / "meta_info.txt").unlink())
    ),
    "LMDB with an empty meta_info": Wrong(
        "test", ("dataroot_lq", "meta_info.txt"), as_lmdb(lambda path: (path / "meta_info.txt").write_text(""))
    ),
    "LMDB with a bad meta_info": Wrong(
        "test", ("meta_info.txt, line 1", "'a.png'"), as_lmdb(lambda path: (path / "meta_info.txt").write_text("a.png\n"))
    ),
    "LMDB without a key": Wrong("test", ("dataroot_lq", "keys of meta_info.txt that are not in it: b"), as_lmdb(without_key)),
    "LMDB of garbage": Wrong("test", ("input.lmdb",), as_lmdb(lambda path: (path / "data.mdb").write_bytes(b"garbage" * 99))),
    # data sets, by their words
    "unknown data set phase": Wrong(
        "test", ("datasets: no data set is called `tset`. Did you mean `test`?",), put("datasets", "tset", {"dataroot_lq": "x"})
    ),
    "unknown data set phase in training": Wrong(
        "train", ("datasets: no data set is called `valid`. Did you mean `val`?", "val_2"), put("datasets", "valid", {})
    ),
    "two words for a phase": Wrong("train", ("no data set is called `train_2`",), put("datasets", "train_2", {})),
    "data set is text": Wrong("test", ("datasets.test",), put("datasets", "test", "datasets/Set")),
    "data sets are a list": Wrong("test", ("datasets",), put("datasets", ["datasets/Set"])),
    "no degraded images": Wrong(
        "test", ("datasets.test: PairedImageDataset needs the option `dataroot_lq`",), drop("datasets", "test", "dataroot_lq")
    ),
    "training without ground truth": Wrong(
        "train",
        ("datasets.train.dataroot_gt is missing: training needs the ground truth",),
        drop("datasets", "train", "dataroot_gt"),
    ),
    "validation without ground truth": Wrong(
        "train",
        ("datasets.val_2.dataroot_gt is missing: psnr needs the ground truth",),
        put("datasets", "val_2", {"dataroot_lq": "datasets/Set/input"}),
    ),
    "several unknown words of a data set": Wrong(
        "test",
        ("datasets.test: PairedImageDataset has no options `gtsize`", "`useflip` Did you mean `use_flip`?"),
        both(put("datasets", "test", "gtsize", 8), put("datasets", "test", "useflip", True)),
    ),
    "several unknown options": Wrong(
        "test",
        ("unknown options: ", "`val.save_imgs` Did you mean `save_img`?", "`pathh` Did you mean `path`?"),
        both(put("val", "save_imgs", True), put("pathh", {})),
    ),
    "more folders on one side": Wrong(
        "test",
        ("datasets.test.dataroot_gt names 2 folders, dataroot_lq 1: name as many",),
        put("datasets", "test", "dataroot_gt", ["datasets/Set/target", "datasets/Set/target"]),
    ),
    "one of several folders missing": Wrong(
        "test",
        ("datasets.test.dataroot_gt.1: the folder", "none does not exist"),
        both(
            put("datasets", "test", "dataroot_gt", ["datasets/Set/target", "datasets/none"]),
            put("datasets", "test", "dataroot_lq", ["datasets/Set/input", "datasets/Set/input"]),
        ),
    ),
    "no folders in the list": Wrong("test", ("dataroot_lq names no folder",), put("datasets", "test", {"dataroot_lq": []})),
    "folder is a file": Wrong(
        "test",
        ("datasets.test.dataroot_lq", "photo.png is a file; name the folder"),
        put("datasets", "test", "dataroot_lq", "photo.png"),
    ),
    "pattern with two places": Wrong(
        "test", ("datasets.test.filename_tmpl is '{}{}'", "hold {} once"), put("datasets", "test", "filename_tmpl", "{}{}")
    ),
    "bad pattern of the truth": Wrong(
        "test", ("datasets.test.filename_tmpl_gt is 'gt'",), put("datasets", "test", "filename_tmpl_gt", "gt")
    ),
    "star in the truth's pattern": Wrong(
        "test",
        ("filename_tmpl_gt is '{}*', but * may stand in filename_tmpl",),
        put("datasets", "test", "filename_tmpl_gt", "{}*"),
    ),
    "pattern of the truth that fits none": Wrong(
        "test",
        ("filename_tmpl_gt 'norain-{}'", "without a degraded image in dataroot_lq: a, b, c"),
        put("datasets", "test", "filename_tmpl_gt", "norain-{}"),
    ),
    "degraded picture of two truths": Wrong(
        "test",
        ("datasets.test.filename_tmpl '{}*': ab fits several ground truths, a, ab", "meta_info_file"),
        both(
            put("datasets", "test", "filename_tmpl", "{}*"),
            image("datasets/Set/target/ab.png", 24, 32),
            image("datasets/Set/input/ab.png", 24, 32),
        ),
    ),
    "no list of pairs": Wrong(
        "test",
        ("datasets.test.meta_info_file", "none.txt: cannot be read (No such file"),
        put("datasets", "test", "meta_info_file", "none.txt"),
    ),
    "list of pairs is a folder": Wrong(
        "test", ("empty: cannot be read (Is a directory)",), put("datasets", "test", "meta_info_file", "empty")
    ),
    "list of pairs is a picture": Wrong(
        "test", ("photo.png: cannot be read (it is no text in UTF-8)",), put("datasets", "test", "meta_info_file", "photo.png")
    ),
    "list of pairs is empty": Wrong(
        "test",
        ("pairs.txt: lists no pairs",),
        both(put("datasets", "test", "meta_info_file", "pairs.txt"), file("pairs.txt", "\n")),
    ),
    "list of pairs with three names": Wrong(
        "test",
        ("pairs.txt, line 1: 'a b c' is not one name or two; write a tab or a comma",),
        both(put("datasets", "test", "meta_info_file", "pairs.txt"), file("pairs.txt", "a b c\n")),
    ),
    "list of pairs with a stranger": Wrong(
        "test",
        ("pairs.txt: line 2: dataroot_lq has no `bb` Did you mean `b`?",),
        both(put("datasets", "test", "meta_info_file", "pairs.txt"), file("pairs.txt", "a.png,a.png\nb.png,bb.png\n")),
    ),
    "list of pairs that leads out of the folder": Wrong(
        "test",
        ("dataroot_lq has no `../target/a`",),
        both(put("datasets", "test", "meta_info_file", "pairs.txt"), file("pairs.txt", "a.png,../target/a.png\n")),
    ),
    "pair that is listed twice": Wrong(
        "test",
        ("pairs.txt: line 2 repeats line 1",),
        both(put("datasets", "test", "meta_info_file", "pairs.txt"), file("pairs.txt", "a,a\na.png\ta.png\n")),
    ),
    "list of pairs without ground truth": Wrong(
        "test",
        ("meta_info_file lists pairs, but dataroot_gt is missing",),
        both(drop("datasets", "test", "dataroot_gt"), put("datasets", "test", "meta_info_file", "p.txt"), file("p.txt", "a\n")),
    ),
    "two lists for one folder": Wrong(
        "test", ("meta_info_file names 2 files for 1 folders",), put("datasets", "test", "meta_info_file", ["a.txt", "b.txt"])
    ),
    "pattern is a number": Wrong("test", ("filename_tmpl is '5'",), put("datasets", "test", "filename_tmpl", 5)),
    "unknown storage word": Wrong("test", ("io_backend.typ", "`type`"), put("datasets", "test", "io_backend", {"typ": "disk"})),
    "unknown policy": Wrong(
        "test", ("datasets.test.bad_images", "`skp`", "Did you mean `skip`?"), put("datasets", "test", "bad_images", "skp")
    ),
    "saturation above 1": Wrong("train", ("datasets.train.saturation is 2.0",), put("datasets", "train", "saturation", 2)),
    "flip is text": Wrong("train", ("datasets.train.use_flip", "'yes'"), put("datasets", "train", "use_flip", "yes")),
    "LMDB among folders": Wrong(
        "test",
        ("dataroot_lq.1", "is an LMDB"),
        both(
            as_lmdb(lambda path: None),
            put("datasets", "test", "dataroot_gt", ["datasets/Set/target", "datasets/Set/target"]),
            put("datasets", "test", "dataroot_lq", ["datasets/Set/input", "datasets/input.lmdb"]),
            put("datasets", "test", "io_backend", {"type": "disk"}),
        ),
    ),
    # metrics
    "border that suits no picture": Wrong(
        "test",
        ("datasets.test: a (32x24, but psnr needs 25x25)", "smaller crop_border"),
        put("val", "metrics", "psnr", "crop_border", 12),
    ),
    "border that suits no validation picture": Wrong(
        "train",
        ("datasets.val: a (32x24, but psnr needs 25x25)",),
        both(
            put("datasets", "val", {"dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}),
            put("val", "metrics", "psnr", "crop_border", 12),
        ),
    ),
    "pictures too small for a metric": Wrong(
        "test",
        ("32x24, but ssim needs 27x27",),
        put("val", "metrics", "ssim", {"type": "calculate_ssim_channelwise", "crop_border": 8}),
    ),
    "negative border": Wrong(
        "test", ("val.metrics.psnr.crop_border is -1, but must be 0 or more",), put("val", "metrics", "psnr", "crop_border", -1)
    ),
    "border is text": Wrong(
        "test", ("val.metrics.psnr.crop_border", "'wide'"), put("val", "metrics", "psnr", "crop_border", "wide")
    ),
    "wrong direction of a metric": Wrong(
        "test",
        ("val.metrics.psnr.better: of calculate_psnr, higher is better",),
        put("val", "metrics", "psnr", "better", "lower"),
    ),
    "no direction of a metric": Wrong(
        "test", ("val.metrics.psnr.better", "'up'"), put("val", "metrics", "psnr", "better", "up")
    ),
    "metric without a type": Wrong("test", ("`val.metrics.psnr.type` is missing",), put("val", "metrics", "psnr", {})),
    "metric is a name": Wrong("test", ("val.metrics.psnr",), put("val", "metrics", "psnr", "calculate_psnr")),
    "metrics are a list": Wrong("test", ("val.metrics",), put("val", "metrics", ["calculate_psnr"])),
    "expected of no metric": Wrong(
        "test", ("expected.pnsr: val.metrics has no `pnsr`. Did you mean `psnr`?",), put("expected", {"pnsr": 30})
    ),
    "expected of the plain net of no metric": Wrong(
        "test", ("expected_plain.ssim: val.metrics has no `ssim`",), put("expected_plain", {"ssim": 0.9})
    ),
    "expected is text": Wrong("test", ("expected.psnr", "must be a number"), put("expected", {"psnr": "30 dB"})),
    "expected on no images": Wrong("test", ("expected_images", "greater than 0"), put("expected_images", 0)),
    # words of published files
    "Gaussian denoising as Restormer has it": Wrong(
        "train",
        ("datasets.train.dataroot_lq: GaussianDenoisingDataset has no option `dataroot_lq`",),
        put("datasets", "train", "type", "Dataset_GaussianDenoising"),
    ),
    "two views as Restormer has them": Wrong(
        "train",
        ("datasets.train.dataroot_lq: DualPixelDataset has no option `dataroot_lq`. Did you mean `dataroot_lqR`?",),
        put("datasets", "train", "type", "Dataset_DefocusDeblur_DualPixel_16bit"),
    ),
    "stages of different lengths": Wrong(
        "train",
        ("datasets.train: the lists of the stages must be equally long, but have iters 2, gt_sizes 1, mini_batch_sizes 1",),
        put("datasets", "train", {"iters": [3, 3], "gt_sizes": [16], "mini_batch_sizes": [2]}),
    ),
    "stages without their iterations": Wrong(
        "train",
        ("datasets.train: gt_sizes, mini_batch_sizes without iters",),
        put("datasets", "train", {"gt_sizes": [16], "mini_batch_sizes": [2]}),
    ),
    "MPRNet's own file": Wrong(
        "train", ("MODEL, OPTIM: these are the words of MPRNet's own training.yml",), both(put("MODEL", {}), put("OPTIM", {}))
    ),
    # text and numbers
    "name that is a truth and a path": Wrong("test", ("name", "'../on'"), put("name", "../on")),
    "number of images is a date": Wrong("test", ("val.max_images",), args=("--force_yml", "val:max_images=2024-01-01")),
    "switch is a number": Wrong("test", ("val.save_img",), put("val", "save_img", 7)),
    "tile is text": Wrong("test", ("val.tile", "'big'"), put("val", "tile", "big")),
    # photographs
    "tree into one file": Wrong("demo", ("6 files do not fit into one",), args=("--input", "datasets", "--output", "x.png")),
    "pattern of nothing": Wrong("demo", ("no photograph is there",), args=("--input", "datasets/**/*.jpg", "--output", "out")),
    "output is the tree": Wrong(
        "demo", ("would replace the input",), args=("--input", "datasets/Set", "--output", "datasets/Set")
    ),
    "truth that is not there, for a tree": Wrong(
        "demo", ("none: the target does not exist",), args=("--input", "datasets", "--output", "out", "--target", "none")
    ),
    # the weights
    "no weights": Wrong("test", ("missing.pth do not exist",), put("path", "pretrain_network_g", "missing.pth")),
    "weights of another size": Wrong(
        "test",
        ("keys match", "of another shape", "the checkpoint fits width: 8"),
        weights("w.pth", small("NAFNet", width=8)),
    ),
    "weights of another net": Wrong(
        "test",
        ("these are the weights of HINet, not of NAFNet", "write `type: HINet`"),
        weights("w.pth", small("HINet")),
    ),
    "weights of another net, not strict": Wrong(
        "test", ("these are the weights of HINet, not of NAFNet",), weights("w.pth", small("HINet"), strict_load_g=False)
    ),
    "hin_position_left": Wrong(
        "test",
        ("of the net's", "the checkpoint fits hin_position_left: 1"),
        both(
            put("network_g", {"type": "HINet", **SMALL_NETS["HINet"], "hin_position_left": 0}), weights("w.pth", small("HINet"))
        ),
    ),
    "param_key": Wrong(
        "test", ("path.param_key", "no `param_ema`", "it has params"), weights("w.pth", small("NAFNet"), param_key="param_ema")
    ),
    "weights are text": Wrong("test", ("w.pth is no readable checkpoint",), weights("w.pth", b"404: Not Found")),
    "weights are empty": Wrong("test", ("w.pth is no readable checkpoint",), weights("w.pth", b"")),
    "weights are half a file": Wrong(
        "test", ("w.pth is no readable checkpoint",), both(weights("w.pth", small("NAFNet")), cut("w.pth", 0.5))
    ),
    "weights are garbage": Wrong(
        "test", ("w.pth is no readable checkpoint",), weights("w.pth", np.random.default_rng(0).bytes(5000))
    ),
    "safetensors is a page": Wrong("test", ("w.safetensors is a web page",), weights("w.safetensors", b"<html></html>")),
    "weights hold no tensors": Wrong("test", ("holds no weights", "`epoch`"), weights("w.pth", {"epoch": 3})),
    "weights are a list": Wrong("test", ("holds a list",), weights("w.pth", [1, 2])),
    "weights are numbered": Wrong("test", ("w.pth",), weights("w.pth", {0: torch.zeros(1)})),
    "weights hold code": Wrong("test", ("w.pth is no readable checkpoint",), weights("w.pth", {"params": Path("x")})),
    **{f"weights: {case}": wrong for case, wrong in FOREIGN.items()},
    **{f"state: {case}": wrong for case, wrong in STATES.items()},
    **{f"address: {case}": wrong for case, wrong in ADDRESSES.items()},
    **{f"channels: {case}": wrong for case, wrong in CHANNELS.items()},
    **{f"special: {case}": wrong for case, wrong in SPECIAL.items()},
    # training
    "no train section": Wrong("train", ("`train` is missing",), drop("train")),
    "no training data": Wrong("train", ("datasets.train is missing",), drop("datasets", "train")),
    "no gt_size": Wrong("train", ("datasets.train.gt_size is missing",), drop("datasets", "train", "gt_size")),
    "a misspelt gt_size": Wrong(
        "train",
        ("datasets.train.gt_sise: PairedImageDataset has no option `gt_sise`. Did you mean `gt_size`?",),
        both(drop("datasets", "train", "gt_size"), put("datasets", "train", "gt_sise", 16)),
    ),
    "gt_size below 1": Wrong("train", ("datasets.train.gt_size", "-16"), put("datasets", "train", "gt_size", -16)),
    "crop above the image": Wrong(
        "train", ("smaller than gt_size 64: a (32x24), b (32x24), c (32x24)",), put("datasets", "train", "gt_size", 64)
    ),
    "no loss": Wrong("train", ("train", "no loss is named"), drop("train", "pixel_opt")),
    "unknown loss": Wrong(
        "train",
        ("train.pixel_opt.type: no loss is called `PSRNLoss`. Did you mean `PSNRLoss`?",),
        put("train", "pixel_opt", "type", "PSRNLoss"),
    ),
    "unknown further loss": Wrong(
        "train", ("train.losses.0.type: no loss is called `Edge`",), put("train", "losses", [{"type": "Edge"}])
    ),
    "unknown word of a loss": Wrong(
        "train", ("train.pixel_opt.weight: PSNRLoss has no option",), put("train", "pixel_opt", "weight", 1)
    ),
    "no width": Wrong("test", ("network_g.width: it is 0, which NAFNet cannot have",), put("network_g", "width", 0)),
    "unknown schedule": Wrong(
        "train",
        ("train.scheduler", "`TrueCosineAnealingLR`", "`TrueCosineAnnealingLR`"),
        put("train", "scheduler", "type", "TrueCosineAnealingLR"),
    ),
    "schedule of no length": Wrong("train", ("train.scheduler", "T_max"), put("train", "scheduler", "T_max", 0)),
    "unknown optimizer": Wrong("train", ("train.optim_g.type", "Did you mean `SGD`?"), put("train", "optim_g", "type", "SDG")),
    "betas above 1": Wrong("train", ("train.optim_g.betas", "less than 1"), put("train", "optim_g", "betas", [0.9, 1.5])),
    "negative decay": Wrong("train", ("train.optim_g.weight_decay",), put("train", "optim_g", "weight_decay", -1)),
    "rate is text": Wrong("train", ("train.optim_g.lr", "must be a number", "'2e-4x'"), put("train", "optim_g", "lr", "2e-4x")),
    "rate is 0": Wrong("train", ("train.optim_g.lr", "greater than 0"), put("train", "optim_g", "lr", 0)),
    "clip is 0": Wrong("train", ("train.use_grad_clip", "positive"), put("train", "use_grad_clip", 0)),
    "validation without data": Wrong("train", ("datasets.val is missing",), put("val", "val_freq", 2)),
    "no state": Wrong("train", ("path.resume_state", "does not exist"), put("path", "resume_state", "none.state")),
    "state is text": Wrong("train", ("1.state",), both(put("path", "resume_state", "1.state"), file("1.state", "hello"))),
    "state is weights": Wrong(
        "train", ("1.state",), both(weights("1.state", small("NAFNet")), put("path", {"resume_state": "1.state"}))
    ),
    "batch that cannot be shared out": Wrong(
        "train",
        ("datasets.train.batch_size: a global batch of 6", "takes 4 at once", "one of 1, 2, 3, 6"),
        both(put("datasets", "train", "batch_size", 6), put("datasets", "train", "batch_size_per_gpu", 4)),
    ),
    "stages of too many iterations": Wrong(
        "train",
        ("datasets.train.progressive", "5 iterations", "total_iter is 6"),
        put("datasets", "train", "progressive", [{"iters": 5, "gt_size": 16, "batch_size": 2}]),
    ),
    "stages beside a batch_size": Wrong(
        "train",
        ("datasets.train.batch_size", "remove this one"),
        both(
            put("datasets", "train", "batch_size", 2),
            put("datasets", "train", "progressive", [{"iters": 6, "gt_size": 16, "batch_size": 2}]),
        ),
    ),
    "a stage without a size": Wrong(
        "train",
        ("`datasets.train.progressive.0.gt_size` is missing",),
        put("datasets", "train", "progressive", [{"iters": 6, "batch_size": 2}]),
    ),
    "typo in a stage": Wrong(
        "train",
        ("unknown option `datasets.train.progressive.0.gtsize`", "Did you mean `gt_size`?"),
        put("datasets", "train", "progressive", [{"iters": 6, "gt_size": 16, "gtsize": 16, "batch_size": 2}]),
    ),
    "a stage of another size than gt_size": Wrong(
        "train",
        ("datasets.train.gt_size is 16", "largest stage has 24", "leave it out"),
        put("datasets", "train", "progressive", [{"iters": 6, "gt_size": 24, "batch_size": 2}]),
    ),
    "crop that the net would pad": Wrong(
        "train",
        ("datasets.train.gt_size", "NAFNet", "multiple of 4", "not 18", "take 16"),
        put("datasets", "train", "gt_size", 18),
    ),
    "group of no parameters": Wrong(
        "train",
        ("train.optim_g.groups.0.match", "'^nothing'", "intro.weight"),
        put("train", "optim_g", "groups", [{"match": "^nothing"}]),
    ),
    "group that is no pattern": Wrong(
        "train",
        ("train.optim_g.groups.0.match", "no regular expression"),
        put("train", "optim_g", "groups", [{"match": "intro("}]),
    ),
    "negative learning rate at the end": Wrong(
        "train", ("train.scheduler", "eta_min is -1.0"), put("train", "scheduler", "eta_min", -1)
    ),
    "layout of the validation alone": Wrong(
        "train", ("val.channels_last", "train.channels_last"), put("val", "channels_last", False)
    ),
    "ema_decay of 1": Wrong("train", ("train.ema_decay", "less than 1"), put("train", "ema_decay", 1)),
    "keep no checkpoints": Wrong("train", ("logger.keep_checkpoints", "greater than 0"), put("logger", "keep_checkpoints", 0)),
    "skip no steps": Wrong("train", ("train.max_skipped_steps", "greater than 0"), put("train", "max_skipped_steps", 0)),
    "typo in wandb": Wrong(
        "train", ("unknown option `logger.wandb.projekt`", "`project`"), put("logger", "wandb", {"projekt": "x"})
    ),
    "unknown launcher": Wrong("train", ("--launcher",), args=("--launcher", "mpi")),
    # the demo
    "no photographs": Wrong("demo", ("none*.jpg: no photograph is there",), args=("--input", "none*.jpg", "--output", "out")),
    "empty folder": Wrong("demo", ("empty: no photograph is there",), args=("--input", "empty", "--output", "out")),
    "output without input": Wrong("demo", ("no img_path", "name a photograph"), args=("--output", "x.png")),
    "many into one": Wrong(
        "demo", ("3 files do not fit into one",), args=("--input", "datasets/Set/input", "--output", "x.png")
    ),
    "output is a text file": Wrong(
        "demo", ("notes: is a file",), file("notes", "x"), ("--input", "photo.png", "--output", "notes")
    ),
    "output below a file": Wrong(
        "demo", ("cannot be written",), file("notes", "x"), ("--input", "photo.png", "--output", "notes/x.png")
    ),
    "output on input": Wrong("demo", ("would replace the input",), args=("--input", "photo.png", "--output", "./photo.png")),
    "same name twice": Wrong(
        "demo", ("same name",), args=("--input", "datasets/Set/input", "datasets/Set/target", "--output", "out")
    ),
    "no target": Wrong("demo", ("sharp: the target does not exist",), args=(*DEMO, "--target", "sharp")),
    "weights that are not there": Wrong("demo", ("net.pt", "exist"), args=(*DEMO, "--weights", "net.pt")),
    "arch without weights": Wrong("demo", ("--net HINet: name its weights",), args=(*DEMO, "--arch", "HINet")),
    "unknown arch": Wrong(
        "demo",
        ("`HINt`", "Did you mean `HINet`?"),
        weights("w.pth", small("HINet")),
        (*DEMO, "--arch", "HINt", "--weights", "w.pth"),
    ),
    "weights of another arch": Wrong(
        "demo",
        ("w.pth: these are not the weights of Restormer",),
        weights("w.pth", small("HINet")),
        (*DEMO, "--arch", "RestormerLocal", "--weights", "w.pth"),
    ),
    "photo is text": Wrong("demo", ("photo.png: is not a readable image",), file("photo.png", "Dear diary"), DEMO),
    "photo is empty": Wrong("demo", ("photo.png: is an empty file",), file("photo.png", ""), DEMO),
    "photo is truncated": Wrong("demo", ("photo.png: is a truncated PNG file",), cut("photo.png", 0.5), DEMO),
    # data preparation
    "no pictures to pack": Wrong(
        "create_lmdb", ("no/where does not exist",), args=("--input", "no/where", "--output", "x.lmdb"), opt=False
    ),
    "name of an LMDB": Wrong(
        "create_lmdb", ("ends in .lmdb",), args=("--input", "datasets/Set/input", "--output", "x.mdb"), opt=False
    ),
    "damaged picture to pack": Wrong(
        "create_lmdb", ("b.png", "truncated"), cut(PNG, 0.7), ("--input", "datasets/Set/input", "--output", "x.lmdb"), opt=False
    ),
    "LMDB exists": Wrong(
        "create_lmdb",
        ("x.lmdb: exists already",),
        file("x.lmdb/old", ""),
        ("--input", "datasets/Set/input", "--output", "x.lmdb"),
        opt=False,
    ),
    "crops of nothing": Wrong(
        "extract_subimages", ("--input", "empty"), args=("--input", "empty", "--output", "crops"), opt=False
    ),
    "crops of size 0": Wrong(
        "extract_subimages",
        ("--crop_size", "no whole number of 1 or more"),
        args=("--input", "datasets/Set/input", "--output", "crops", "--crop_size", "0"),
        opt=False,
    ),
}


@pytest.fixture
def good(root, test_options, train_options) -> Callable[[str], dict]:
    """A root with data and a photograph, and options for each entry point that work on it."""
    make_pairs(root / "datasets/Set")
    write(root / "photo.png", picture(5))
    (root / "empty").mkdir()
    demo = {key: test_options[key] for key in ("name", "num_gpu", "network_g")}
    return {"test": test_options, "train": train_options, "demo": demo}.get


def everything(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_is_one_sentence_and_exit_code_2(case, good, root, run):
    wrong = WRONG[case]
    opt = good(wrong.entry) or {}
    wrong.change(opt, root)
    args = wrong.args
    if wrong.opt and "-opt" not in args:
        args = ("-opt", write_yaml(root / "opt.yml", opt), *args)
    before = everything(root)

    outcome = run(wrong.entry, *args)

    errors = [line for line in outcome.err.splitlines() if "error:" in line]
    assert outcome.code == 2, outcome
    assert len(errors) == 1, outcome.err
    assert "error:" not in outcome.out
    assert "Traceback" not in outcome.out + outcome.err
    for words in wrong.says:
        assert words in errors[0]
    assert everything(root) == before, "something was written"


@pytest.mark.parametrize("entry", ["test", "train", "demo"])
def test_the_inputs_are_wrong_only_by_what_is_changed(entry, good, root, run):
    """Each of the cases above fails for its own reason: unchanged, the same inputs run through."""
    args = ("-opt", write_yaml(root / "opt.yml", good(entry)), *(DEMO if entry == "demo" else ()))
    outcome = run(entry, *args)
    assert outcome.code == 0, outcome
    assert "error:" not in outcome.out + outcome.err
    made = {"test": "results/run/report.json", "train": "experiments/run/models/net_g_6.pth", "demo": "out.png"}[entry]
    assert (root / made).is_file()


def test_at_most_ten_names_and_the_count(good, root, run):
    for number in range(14):
        write(root / f"datasets/Set/target/x{number:02d}.png", picture(number))
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", good("test")))
    assert "x00, x01, x02, x03, x04, x05, x06, x07, x08, x09, ... (14 in all)" in outcome.err
    assert "x10" not in outcome.err


def test_all_kinds_of_faults_at_once(good, root, run):
    cut("datasets/Set/input/a.png", 0.5)({}, root)
    write(root / PNG, picture(1, 24, 30))
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", good("test")))
    assert outcome.code == 2
    assert "a.png: is a truncated PNG file" in outcome.err
    assert "b (32x24 and 30x24)" in outcome.err


@pytest.mark.parametrize("stages", [[1.0, 1.0], [0.5, 0.25, 0.25]])
def test_stage_weights_that_do_not_fit_the_net(stages, good, root, run):
    """Found before the first step, with nothing written."""
    opt = good("train")
    opt["train"]["stage_weights"] = stages
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", opt), "--dry_run")
    assert outcome.code == 2
    assert f"stage_weights has {len(stages)} entries, but NAFNet has 1" in outcome.err


@pytest.mark.parametrize(
    ("entry", "args", "words"),
    [
        ("test.py", ["-opt", "nowhere.yml"], "nowhere.yml: there is no such options file"),
        ("train.py", ["-opt", "opt.yml", "--force_yml", "train:total_iter=soon"], "train.total_iter: must be a number"),
        ("demo.py", ["--input", "none.jpg", "--output", "out.png", "-opt", "opt.yml"], "none.jpg: no photograph is there"),
    ],
)
def test_as_a_process_from_another_folder(entry, args, words, good, tmp_path):
    """The scripts as users start them: by path, from anywhere, and against this checkout whatever else is installed."""
    decoy = tmp_path / "decoy" / "basicsr"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise ImportError('another basicsr')")
    write_yaml(tmp_path / "opt.yml", good("train"))
    process = subprocess.run(
        [sys.executable, str(REPOSITORY / "basicsr" / entry), *args],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(decoy.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 2, process.stderr
    assert [line for line in process.stderr.splitlines() if line] == [f"error: {process.stderr.split('error: ')[1].strip()}"]
    assert words in process.stderr


def test_demo_goes_on_after_a_bad_file(good, root, run):
    (root / "datasets/Set/input/b.png").write_bytes(b"")
    write(root / "datasets/Set/input/d.jpg", picture(7))
    outcome = run(
        "demo", "-opt", write_yaml(root / "opt.yml", good("demo")), "--input", "datasets/Set/input", "--output", "out"
    )
    assert outcome.code == 1
    assert sorted(p.name for p in (root / "out").iterdir()) == ["a.png", "c.png", "d.jpg"]
    assert "1 of 4 files failed: b.png" in outcome.out.splitlines()[-1]


def test_a_png_that_is_damaged_inside(good, root, run):
    """Its header and end are whole; only decoding finds it."""
    data = bytearray((root / "photo.png").read_bytes())
    middle = data.index(b"IDAT") + 4 + 400
    data[middle : middle + 60] = bytes(60)
    (root / "photo.png").write_bytes(bytes(data))
    outcome = run("demo", "-opt", write_yaml(root / "opt.yml", good("demo")), *DEMO)
    assert outcome.code == 2
    assert not (root / "out.png").exists()
