"""Networks as files that run without this toolbox: ONNX, TorchScript, torch.export; and what they compute beside PyTorch."""

import copy
import importlib
import inspect
import io
import json
import math
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from basicsr.errors import UserError
from basicsr.models.exported_model import OnnxModel, TorchModel, first_line, require
from basicsr.models.inference import Predict
from basicsr.models.prediction import prepare_for_inference

SUFFIX = {"onnx": ".onnx", "torchscript": ".pt", "torch": ".pt2"}
LIMIT = {"fp32": 1e-4, "fp16": 2e-2}  # of the largest difference from PyTorch in float32
OPSET = 17  # what the oldest supported torch writes and ONNX Runtime runs since 1.12
_EXAMPLE = (57, 75)  # height, width at least; as they are, multiples of nothing, so that no size looks like another
_FACTOR = 64  # largest that the example's sides are multiples of
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


def example_size(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """(height, width) to record a net at that takes these sizes: unequal multiples of what divides all of their sides.

    It is none of them where that can be, so that what a recording froze shows at the others.
    """
    common = math.gcd(*(side for size in sizes for side in size))
    factor = next(factor for factor in range(min(common, _FACTOR), 0, -1) if common % factor == 0)
    rows = max(2, math.ceil(_EXAMPLE[0] / factor))
    return factor * rows, factor * max(rows + 1, math.ceil(_EXAMPLE[1] / factor))


def export_net(
    net: nn.Module,
    kind: str,
    *,
    precision: str = "fp32",
    metadata: Mapping[str, str] | None = None,
    example: tuple[int, int] = _EXAMPLE,
) -> bytes:
    """The content of a file with the net, TLC inside, for images of any size and number.

    Args:
        net: (N, C, H, W) in [0, 1] -> the same, or a list of stages, the final one last. It stays as it is.
        kind: 'onnx', 'torchscript' or 'torch' (torch.export).
        precision: 'fp32', or 'fp16' for weights and arithmetic; the file's input and output are float32 either way.
        metadata: kept in the file.
        example: (height, width) of the noise that the net is recorded with; see `example_size`.

    Raises:
        UserError: a package that is missing, a net that does not run at the example's size, or one that cannot be exported.
    """
    stage = FinalStage(copy.deepcopy(net), torch.float16 if precision == "fp16" else torch.float32)
    stage = stage.cpu().eval().requires_grad_(False)
    image = torch.rand(2, getattr(net, "in_channels", 3), *example)
    with torch.no_grad():
        _run(stage, image, " at which it is recorded")  # before an exporter says at length what is wrong with it
    writer = {"onnx": _onnx, "torchscript": _torchscript, "torch": _torch}[kind]
    with warnings.catch_warnings():  # of decisions on sizes, which `compare` puts to the test, and of exporters to come
        warnings.simplefilter("ignore")
        # Where autograd may be needed nothing is overwritten, and an exporter sees plain functions.
        with torch.enable_grad():
            try:
                return writer(stage, image, dict(metadata or {}))
            except RuntimeError as error:
                raise UserError(f"the network cannot be exported with --format {kind} ({first_line(error)}).") from error


def load_exported(content: bytes, kind: str) -> Predict:
    """What `export_net` wrote, as a function of images on the CPU."""
    return OnnxModel(content).predict if kind == "onnx" else TorchModel(content, kind).predict


def compare(net: nn.Module, exported: Predict, sizes: Iterable[tuple[int, int]]) -> list[Parity]:
    """Run both on noise of every size (height, width), on the CPU; the time is the shorter of two runs after a first one.

    Raises:
        UserError: a size at which one of them does not run.
    """
    reference = prepare_for_inference(net, device="cpu", precision="fp32")
    generator = torch.Generator().manual_seed(0)
    rows = []
    for size in sizes:
        image = torch.rand(1, getattr(net, "in_channels", 3), *size, generator=generator)
        difference = (_run(reference, image) - exported(image)).abs().max().item()
        rows.append(Parity(tuple(size), difference, _seconds(reference, image), _seconds(exported, image)))
    return rows


def _run(net: Predict, image: Tensor, note: str = "") -> Tensor:
    """net(image); whatever a net of one's own raises becomes one sentence."""
    try:
        return net(image)
    except UserError:
        raise
    except Exception as error:
        height, width = image.shape[-2:]
        raise UserError(
            f"the network does not run on images of {width}x{height} (width x height){note}: {first_line(error)}; choose "
            "--sizes that it takes, such as --sizes 64x64 128x96."
        ) from error


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
