"""Weights: read from .pth and .safetensors files without running what is in them, put into a net, written atomically.

What weights say of themselves, strings by name, lies in a .safetensors file's metadata, and in a .pth beside {"params"}, where
other toolboxes do not look.
"""

import contextlib
import hashlib
import inspect
import io
import logging
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.paths import guide, require_path
from basicsr.utils import numbers
from basicsr.utils.exported import KINDS, exported_kind
from basicsr.utils.files import write_bytes
from basicsr.utils.foreign import is_safetensors, what_it_is
from basicsr.utils.keys import METADATA, StateDict, aligned, match, shapes_of, tensors_in

logger = logging.getLogger("basicsr")
# What the readers raise on files that are damaged or something else altogether.
DAMAGED = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
)
DAMAGED += (AssertionError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


def read_weights(path: Path, param_key: str | None = None) -> StateDict:
    """The tensors of a checkpoint file by their plain keys.

    Args:
        param_key: the wrapper's key; found by itself when None.

    Raises:
        UserError: no such file, not a checkpoint, or a param_key that it does not have.
    """
    _require(path)
    tensors = tensors_in(read_torch(path), param_key, str(path))
    for key, tensor in tensors.items():
        if kind := _unusual(tensor):
            raise UserError(
                f"{path}: `{key}` is {kind}, not a tensor of plain numbers; save net.state_dict() of the whole net."
            )
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What a checkpoint file says of its weights, as they were saved with `save_weights`; of most files nothing: {}.

    Raises:
        UserError: no such file, or not a checkpoint.
    """
    _require(path)
    with _damage_is_a_user_error(path):
        safe = is_safetensors(path)
    if safe:
        with _damage_is_a_user_error(path), safetensors.safe_open(path, framework="pt") as file:
            keys = set(file.keys())
            found = {k: v for k, v in (file.metadata() or {}).items() if k != "format" and v not in keys}  # but for aliases
    else:
        found = read_torch(path, mmap=zipfile.is_zipfile(path)).get(METADATA)  # the tensors are not read
    texts = found.items() if isinstance(found, Mapping) else ()
    return {key: value for key, value in texts if isinstance(key, str) and isinstance(value, str)}


def load_weights(net: nn.Module, path: Path, *, param_key: str | None = None, strict: bool = True) -> None:
    """Read a checkpoint into a net.

    Args:
        strict: every key must be there with its shape; otherwise those that match are taken, with a warning; none is an error.

    Raises:
        UserError: the constructor arguments that would fit, where the shapes show them; how much matches, and what does not.
    """
    weights, said = aligned(net, read_weights(path, param_key), str(path))
    own = net.state_dict()
    whole = [
        key for key, value in weights.items() if key in own and own[key].is_floating_point() and not value.is_floating_point()
    ]
    if whole:
        raise UserError(
            f"{path}: holds integers for {first_ten(whole)}: quantised weights do not run here; take those in float."
        )
    found = match(net, weights)
    if not found.fits:
        text = f"{path} does not fit {type(net).__name__}: {_fitting_options(net, own, weights)}{found}"
        if strict or not found.matching:
            raise UserError(text + ".")
        logger.warning("%s; strict_load_g is false: the rest keeps its initial values.", text)
    if said:
        logger.info("%s", said)
    net.load_state_dict(found.matching, strict=False)


def read_torch(path: Path, *, mmap: bool = False) -> Mapping:
    """The dict of plain data that a file of torch.save or safetensors holds; UserError when it holds anything else.

    mmap: read tensors when they are used, which the files of torch before 1.6 cannot.
    """
    with _damage_is_a_user_error(path):
        if is_safetensors(path):  # whatever its suffix
            return _read_safetensors(path)
        if tarfile.is_tarfile(path):  # torch 0.1's format, which torch before 2.6 unpickles whatever is asked (CVE-2025-32434)
            raise ValueError("a tar archive")
        misnamed = path.suffix == ".safetensors"  # torch goes by that
        source = io.BytesIO(path.read_bytes()) if misnamed else path
        with numbers.admitted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap and not misnamed)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not weights; save net.state_dict().")
    return content


def _unusual(tensor: Tensor) -> str:
    """What no network here can take, or ''."""
    found = {"without values (meta)": tensor.is_meta, "quantised": tensor.is_quantized, "complex": tensor.is_complex()}
    found["sparse"] = tensor.layout != torch.strided
    return next((kind for kind, is_so in found.items() if is_so), "")


@contextlib.contextmanager
def _damage_is_a_user_error(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise UserError(f"{path} asks for more memory than there is: it is damaged, or too large for this machine.") from None
    except DAMAGED:
        reason = what_it_is(path) or "it is damaged, or a file of another kind; download or save it again"
        raise UserError(f"{path} is no readable checkpoint: {reason}.") from None


def _require(path: Path) -> None:
    """UserError for what is no file of weights, whatever its name says."""
    require_path(path, "weights")
    if path.is_dir():
        files = [file.name for file in sorted(path.iterdir()) if file.suffix in (".pth", ".safetensors")]
        raise UserError(f"the weights {path} are a folder; name a file{f' in it: {first_ten(files)}' if files else ''}.")
    if path.exists() and not path.is_file():
        raise UserError(f"the weights {path} are no file, but a pipe, a socket or a device; name a file.")
    if not path.is_file():
        near = did_you_mean(path.name, [file.name for file in path.parent.glob(f"*{path.suffix}")])
        page = guide("experiments/pretrained_models/README.md")
        raise UserError(f"the weights {path} do not exist; see {page} for the published ones.{near}")
    if kind := exported_kind(path):
        raise UserError(
            f"{path} is an exported network ({KINDS[kind]}), not weights: `tlc restore --weights` runs it, and all else "
            "needs the .pth or .safetensors file that it was made of."
        )
    with open(path, "rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{path} is a web page, not weights: download the file itself, not the page that shows it.")


def save_torch(path: Path, content: object) -> None:
    """torch.save, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write weights and what they say of themselves, as .safetensors, or else in BasicSR's wrapper; whole or not at all."""
    if path.suffix == ".safetensors":
        save_safetensors(path, weights, metadata)
    else:
        save_torch(path, {"params": weights, METADATA: dict(metadata)})


def save_safetensors(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write weights and what they say of themselves, whole or not at all.

    A tensor that has several keys is stored under the first of them; the file's metadata maps the others to it, as
    `safetensors.torch.save_model` does.
    """
    kept, tensors, aliases = {}, {}, {}
    for key, value in weights.items():
        place = (value.data_ptr(), value.shape)
        if place in kept and value.numel() > 0:
            aliases[key] = kept[place]
        else:
            kept[place] = key
            tensors[key] = value.detach().cpu().contiguous()
    write_bytes(path, safetensors.torch.save(tensors, metadata={"format": "pt", **(metadata or {}), **aliases}))


def _read_safetensors(path: Path) -> StateDict:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
        aliases = file.metadata() or {}
    return tensors | {key: tensors[kept] for key, kept in aliases.items() if kept in tensors and key not in tensors}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_3_10(file)


def _sha256_3_10(file: io.BufferedReader) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _fitting_options(net: nn.Module, own: Mapping[str, Tensor], weights: StateDict) -> str:
    """'the checkpoint fits hin_position_left: 3; ': what the shapes of the weights say against those of the net."""
    infer = getattr(net, "infer_options", None)
    if infer is None:
        parameters = inspect.signature(type(net)).parameters.values()
        words = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        given = f"such as --force_yml network_g:{words[0]}=...; it has {', '.join(words)}" if words else "but it has none"
        return f"the net needs the constructor's options that it was trained with, {given}; "
    try:
        have, want = infer(shapes_of(own)), infer(shapes_of(weights))
    except (KeyError, IndexError, ZeroDivisionError):  # the weights of another arch
        return ""
    differing = [f"{key}: {_yaml(want[key])}" for key in want if want[key] != have[key]]
    return f"the checkpoint fits {', '.join(differing)}, to be said in network_g; " if differing else ""


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)
