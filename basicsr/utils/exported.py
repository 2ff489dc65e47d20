"""Which files are networks, exported with their arithmetic, and not weights."""

import zipfile
from pathlib import Path

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
    except (zipfile.BadZipFile, OSError):
        return None
    if any("/code/__torch__" in name for name in names):
        return "torchscript"
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        return "torch"
    return None
