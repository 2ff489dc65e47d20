"""Networks as files that run without this toolbox: ONNX, TorchScript, torch.export; and what they compute beside PyTorch."""

import copy
import importlib
import inspect
import io
import json
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from basicsr.errors import UserError
from basicsr.models.inference import Predict
from basicsr.models.onnx_model import OnnxModel, require
from basicsr.models.prediction import prepare_for_inference

SUFFIX = {"onnx": ".onnx", "torchscript": ".pt", "torch": ".pt2"}
LIMIT = {"fp32": 1e-4, "fp16": 2e-2}  # of the largest difference from PyTorch in float32
OPSET = 17  # what the oldest supported torch writes and ONNX Runtime runs since 1.12
_EXAMPLE = (2, 57, 75)  # batch, height, width: a multiple of nothing, so that no size looks like another
_SMALLEST, _LARGEST = 32, 1 << 14  # sides that a .pt2 file takes


@dataclass(frozen=True)
class Parity:
    """How far an exported net is from PyTorch's at one size."""

    size: tuple[int, int]  # height, width
    difference: float  # largest, in [0, 1] units
    seconds_torch: float
    seconds: float


class FinalStage(nn.Module):
    """A net that computes in `dtype`, from and to float32: (N, C, H, W) -> its final stage."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = net.to(dtype)
        self.dtype = dtype

    def forward(self, lq: Tensor) -> Tensor:
        out = self.net(lq.to(self.dtype))
        return (out[-1] if isinstance(out, (list, tuple)) else out).float()


def export_net(net: nn.Module, kind: str, *, precision: str = "fp32", metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a file with the net, TLC inside, for images of any size and number.

    Args:
        net: (N, C, H, W) in [0, 1] -> the same, or a list of stages, the final one last. It stays as it is.
        kind: 'onnx', 'torchscript' or 'torch' (torch.export).
        precision: 'fp32', or 'fp16' for weights and arithmetic; the file's input and output are float32 either way.
        metadata: kept in the file.

    Raises:
        UserError: a package that is missing, or a net that this torch cannot export.
    """
    stage = FinalStage(copy.deepcopy(net), torch.float16 if precision == "fp16" else torch.float32)
    stage = stage.cpu().eval().requires_grad_(False)
    n, h, w = _EXAMPLE
    example = torch.rand(n, getattr(net, "in_channels", 3), h, w)
    writer = {"onnx": _onnx, "torchscript": _torchscript, "torch": _torch}[kind]
    with warnings.catch_warnings():  # of decisions on sizes, which `compare` puts to the test, and of exporters to come
        warnings.simplefilter("ignore")
        # Where autograd may be needed nothing is overwritten, and an exporter sees plain functions.
        with torch.enable_grad():
            return writer(stage, example, dict(metadata or {}))


def load_exported(content: bytes, kind: str) -> Predict:
    """What `export_net` wrote, as a function of images on the CPU."""
    if kind == "onnx":
        return OnnxModel(content).predict
    buffer = io.BytesIO(content)
    run = torch.jit.load(buffer) if kind == "torchscript" else torch.export.load(buffer).module()

    def predict(image: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                return run(image)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise UserError(f"the exported network does not run on an image of {tuple(image.shape)} ({reason}).") from error

    return predict


def compare(net: nn.Module, exported: Predict, sizes: Iterable[tuple[int, int]]) -> list[Parity]:
    """Run both on noise of every size (height, width), on the CPU; the time is the shorter of two runs after a first one."""
    reference = prepare_for_inference(net, device="cpu", precision="fp32")
    generator = torch.Generator().manual_seed(0)
    rows = []
    for size in sizes:
        image = torch.rand(1, getattr(net, "in_channels", 3), *size, generator=generator)
        difference = (reference(image) - exported(image)).abs().max().item()
        rows.append(Parity(tuple(size), difference, _seconds(reference, image), _seconds(exported, image)))
    return rows


def _seconds(predict: Predict, image: Tensor) -> float:
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        predict(image)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _onnx(stage: nn.Module, example: Tensor, metadata: dict[str, str]) -> bytes:
    onnx = require("onnx")
    require("onnxruntime")
    buffer = io.BytesIO()
    axes = {0: "batch", 2: "height", 3: "width"}
    torch.onnx.export(
        stage,
        (example,),
        buffer,
        input_names=["lq"],
        output_names=["restored"],
        dynamic_axes={"lq": axes, "restored": axes},
        opset_version=OPSET,
        dynamo=False,  # the exporter by tracing: it is there from torch 2.4 on, and needs no further package
    )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _torchscript(stage: nn.Module, example: Tensor, metadata: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    traced = torch.jit.trace(stage, (example,), check_trace=False)
    torch.jit.save(traced, buffer, _extra_files={"metadata.json": json.dumps(metadata)})
    return buffer.getvalue()


def _torch(stage: nn.Module, example: Tensor, metadata: dict[str, str]) -> bytes:
    shapes = importlib.import_module("torch.fx.experimental._config")
    deferred = "prefer_deferred_runtime_asserts_over_guards"
    if not hasattr(shapes, "backed_size_oblivious") or deferred not in inspect.signature(torch.export.export).parameters:
        raise UserError(f"torch {torch.__version__} cannot export nets of any size; take a newer one, or onnx or torchscript.")
    side = {"min": _SMALLEST, "max": _LARGEST}
    dims = {0: torch.export.Dim("batch", max=1024), 2: torch.export.Dim("height", **side), 3: torch.export.Dim("width", **side)}
    with shapes.patch(backed_size_oblivious=True):  # or the example's size would become a condition
        program = torch.export.export(stage, (example,), dynamic_shapes={"lq": dims}, strict=False, **{deferred: True})
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(metadata)})
    return buffer.getvalue()
