"""Networks that `tlc export` wrote, run by ONNX Runtime or by torch: a `predict` like any other."""

import contextlib
import importlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from basicsr.errors import UserError
from basicsr.models.inference import is_out_of_memory
from basicsr.utils.checkpoint import DAMAGED
from basicsr.utils.exported import exported_kind, foul


def require(name: str) -> ModuleType:
    """An optional package; UserError that says how to install it when it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is not installed, which .onnx files need: pip install onnx onnxruntime") from None


def open_exported(file: Path, *, gpu: bool = False) -> "OnnxModel | TorchModel":
    """The network in a file of any kind that `tlc export` writes.

    gpu: see `OnnxModel`; the other kinds run where they were recorded, on the CPU.

    Raises:
        UserError: no file, or one that cannot be run.
    """
    kind = exported_kind(file)
    return OnnxModel(file, gpu=gpu) if kind == "onnx" else TorchModel(file, kind)


class OnnxModel:
    """A restorer in ONNX.

    Args:
        model: an .onnx file, or its content; one float32 input and one output, (N, C, H, W) in [0, 1] of any size.
        gpu: run on the GPU, where the installed ONNX Runtime can.

    Attributes:
        metadata: what the exporter wrote: `arch`, `tlc` and so on; empty strings are what is not there.

    Raises:
        UserError: ONNX Runtime is not installed; no readable .onnx file, or not a restorer's.
    """

    def __init__(self, model: Path | bytes, *, gpu: bool = False) -> None:
        runtime = require("onnxruntime")
        state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        self._faults = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
        if isinstance(model, Path) and not model.is_file():
            raise UserError(f"the network {model} does not exist; write it with `tlc export`.")
        name = model if isinstance(model, Path) else "the exported network"
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads sleep while they wait, as OpenMP's do, see basicsr/environment.py.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what goes wrong is raised as well
        wanted = ("CUDAExecutionProvider",) if gpu else ()
        providers = [*(name for name in wanted if name in runtime.get_available_providers()), "CPUExecutionProvider"]
        try:
            source = str(model) if isinstance(model, Path) else model
            self._session = runtime.InferenceSession(source, options, providers=providers)
        except self._faults as error:
            raise UserError(f"{name} cannot be run by ONNX Runtime ({first_line(error)}).") from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise UserError(f"{name} takes or gives something else than images in float32; write it with `tlc export`.")
        self._input = inputs[0].name
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def predict(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, float32 on the CPU, not clamped.

        Raises:
            MemoryError: too large an image. UserError: whatever else ONNX Runtime refuses.
        """
        try:
            (out,) = self._session.run(None, {self._input: image.float().cpu().numpy()})
        except self._faults as error:
            reason = first_line(error)
            if "allocate memory" in reason or "bad_alloc" in reason:
                raise MemoryError(reason) from error
            raise UserError(f"the network does not run on an image of {tuple(image.shape)} ({reason}).") from None
        return torch.from_numpy(out)


class TorchModel:
    """A restorer in TorchScript or of torch.export, run by torch on the CPU, where it was recorded.

    Args:
        model: a file, or its content. kind: 'torchscript' or 'torch'.

    Attributes:
        metadata: what the exporter wrote; {} where nothing is there.

    Raises:
        UserError: a file that torch cannot load.
    """

    def __init__(self, model: Path | bytes, kind: str) -> None:
        name = model if isinstance(model, Path) else "the exported network"
        source = str(model) if isinstance(model, Path) else io.BytesIO(model)
        extra = {"metadata.json": ""}
        try:
            if found := foul(model if isinstance(model, Path) else io.BytesIO(model), kind):
                raise UserError(f"{name} holds more than a network's arithmetic, {found}: it is not run; export it anew.")
            with warnings.catch_warnings():  # of loaders to come
                warnings.simplefilter("ignore")
                if kind == "torchscript":
                    self._run = torch.jit.load(source, map_location="cpu", _extra_files=extra)
                else:
                    with _without_unpickling():
                        self._run = torch.export.load(source, extra_files=extra).module()
            self.metadata: dict[str, str] = json.loads(extra["metadata.json"] or "{}")
        except UserError:
            raise
        except DAMAGED as error:
            raise UserError(f"{name} cannot be run by torch {torch.__version__} ({first_line(error)}).") from None

    def predict(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, float32 on the CPU, not clamped.

        Raises:
            MemoryError: too large an image. UserError: whatever else torch refuses.
        """
        try:
            with torch.no_grad():
                return self._run(image.float().cpu())
        except (RuntimeError, AssertionError) as error:  # the latter: torch.export's conditions on sizes
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[-1][:200]
            raise UserError(f"the exported network does not run on an image of {tuple(image.shape)} ({reason}).") from error


@contextlib.contextmanager
def _without_unpickling() -> Iterator[None]:
    """torch.load reads plain tensors only meanwhile, also where torch's own code asks for more."""
    words = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {word: os.environ.pop(word, None) for word in words}
    os.environ[words[0]] = "1"
    try:
        yield
    finally:
        os.environ.pop(words[0])
        os.environ.update({word: value for word, value in before.items() if value is not None})


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
