"""Which files are networks, exported with their arithmetic, and not weights; and what such a file may hold to be loaded.

torch's own loaders trust a file: that of torch.export unpickles objects, loads compiled libraries, evaluates the text of its
sizes and calls whatever lies below `torch`; TorchScript has operations that read and write files. A network needs none of them.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

KINDS = {"onnx": "ONNX", "torchscript": "TorchScript", "torch": "torch.export"}


def exported_kind(file: Path) -> str | None:
    """A key of KINDS, or None for what holds no network: ONNX by its suffix, the others by what is in them."""
    if file.suffix == ".onnx":
        return "onnx"
    if not file.is_file() or not zipfile.is_zipfile(file):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError):  # of names in no encoding, of versions to come
        return None
    if any("/code/__torch__" in name for name in names):
        return "torchscript"
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        return "torch"
    return None


# Members of an archive of torch.export, below its folder: tensors, sizes, the graph, and notes.
_PLAIN = re.compile(
    r"(models/\w+\.json|data/weights/(weight_\d+|\w+\.json)|data/constants/(tensor_\d+|\w+\.json)|data/sample_inputs/\w+\.pt"
    r"|extra/metadata\.json|archive_format|archive_version|byteorder|version|\.data/\w+"
    r"|serialized_exported_program\.json|serialized_(state_dict|constants|example_inputs)\.(pt|json)|extra_files/metadata\.json)"
)
_ARITHMETIC = re.compile(
    r"#?torch\.ops\.(aten|prims|higher_order)\.(?!from_file|save|load)[\w.]+|torch\.sym_\w+|math\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
# Sizes are sums and products of symbols: s0, Symbol('s0', positive=True), Max(1, s0//2).
_SIZE = re.compile(
    r"([A-Z]\w*(?=\()|[a-z]{1,4}\d+|positive|integer|nonnegative|real|True|False|'\w+'|\d+(\.\d+)?|[-+*/%()<>=!&|~, ])*"
)
_FILES = re.compile(rb"\b(from_file|save|load|load_library)\b")  # in TorchScript's text


def foul(file: Path | BinaryIO, kind: str) -> str | None:
    """What an exported network holds besides arithmetic; None: nothing. kind: 'torchscript' or 'torch'.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return next(_torchscript(archive) if kind == "torchscript" else _torch_export(archive), None)
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        RuntimeError,
    ) as error:  # the latter: an encrypted member, a graph too deep
        raise ValueError("it is damaged") from error


def _torchscript(archive: zipfile.ZipFile) -> Iterator[str]:
    for name in archive.namelist():
        if "/code/" in name and name.endswith(".py") and (found := _FILES.search(archive.read(name))):
            yield f"the operation {found[0].decode()}"


def _torch_export(archive: zipfile.ZipFile) -> Iterator[str]:
    for name in archive.namelist():
        inner = name if _PLAIN.fullmatch(name) else name.partition("/")[2]
        if not _PLAIN.fullmatch(inner):
            yield f"the member {name}"
        elif inner.startswith("models/") or inner == "serialized_exported_program.json":
            for word, text in _texts(json.loads(archive.read(name))):
                allowed = _SIZE if word == "expr_str" else _ARITHMETIC
                if not allowed.fullmatch(text) or "__" in text:
                    yield f"the {'size' if word == 'expr_str' else 'operation'} {text[:60]}"


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """The words in a graph that torch makes code of."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if key in ("expr_str", "target") and isinstance(inner, str):
            yield key, inner
        elif isinstance(inner, (dict, list)):
            yield from _texts(inner)
