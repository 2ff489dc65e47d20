"""One forward pass of a trained net: precision, memory layout, compiler, CUDA graphs, device."""

import copy
import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from basicsr.errors import UserError
from basicsr.models.compiling import Faster
from basicsr.models.compiling import compiled as compiled_net
from basicsr.models.cuda_graphs import Graphs, Recorder
from basicsr.models.precision import Precision, precision_for
from basicsr.models.workspaces import with_small_workspaces

_ALIGNED = 8  # channels of 16 bits that are 16 bytes


def prepare_for_inference(
    net: nn.Module,
    *,
    device: torch.device | str | None = None,
    precision: str = "auto",
    channels_last: bool | None = None,
    compiled: bool = False,
    cuda_graphs: Literal["auto"] | bool = "auto",
) -> Callable[[Tensor], Tensor]:
    """A net as a function of images, as fast as the device runs it.

    Args:
        net: (N, C, H, W) in [0, 1] -> the same, or a list of stages, the final one last. It is moved to the device and put into
            evaluation mode.
        device: that of its parameters when None.
        precision: 'fp32' (exact), 'tf32', 'bf16', 'fp16' (statistics and sums stay in float32; see `cast`), or 'auto': the
            fastest that the device computes in.
        channels_last: the memory layout; None chooses what suits device and precision.
        compiled: its blocks through torch.compile, for all sizes while the first image runs, if that image is restored faster
            so the second time; CPUs need a C++ compiler.
        cuda_graphs: 'auto': sizes that follow each other run as CUDA graphs where that is faster; True: all do, from the first
            image on; see `basicsr.models.cuda_graphs.Graphs`. Graphs see weights that are written into where they are.

    Returns:
        (N, C, H, W) on any device -> the final stage, float32 on the net's device, not clamped.

    Raises:
        UserError: an unknown precision, or one that the device lacks; cuda_graphs=True elsewhere than on a CUDA GPU.
    """
    device = torch.device(device) if device is not None else next(net.parameters()).device
    chosen = precision_for(precision, device)
    layout = layout_for(device, chosen.dtype, channels_last)
    net = cast(move(net, device, layout).eval(), chosen, device)
    return predictor(net, device=device, precision=chosen, layout=layout, compiled=compiled, cuda_graphs=cuda_graphs)


def predictor(
    net: nn.Module,
    *,
    device: torch.device,
    precision: Precision,
    layout: torch.memory_format,
    compiled: bool,
    cuda_graphs: Literal["auto"] | bool,
) -> Callable[[Tensor], Tensor]:
    """A net that is ready, as `prepare_for_inference` returns it."""
    check_graphs(cuda_graphs, device)

    def prediction_of(net: nn.Module) -> Callable[[Tensor], Tensor]:
        run = functools.partial(forward, net, device=device, precision=precision, layout=layout)
        bounded = device.type == "cuda" and precision.dtype == torch.float32
        return with_small_workspaces(run, device) if bounded else run

    run = plain = prediction_of(net)
    if compiled:
        run = Faster(prediction_of(compiled_net(net)), plain, device)
    if not cuda_graphs or device.type != "cuda":
        return run
    recorder = Recorder(run, device, layout, watch=lambda: not compiled or run.kept is plain)
    return Graphs(run, net, recorder, always=cuda_graphs is True)


def check_graphs(cuda_graphs: Literal["auto"] | bool, device: torch.device) -> None:
    """Raises UserError where graphs are asked for that the device has not."""
    if cuda_graphs is True and device.type != "cuda":
        raise UserError(f"cuda_graphs: true needs a CUDA GPU, and this runs on {device.type}; take auto, or leave it out.")


def cast(net: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """The net to predict with: a copy with its weights in half precision, where that is asked for and the net allows it.

    Autocast would cast every weight again for every image, and keep the maps between layers in float32 where a parameter is
    added or multiplied. It is left to nets that do not say `keeps_images`: that they take images in float32 all the same, and
    add them to what they make, which would be rounded otherwise.
    """
    if precision.dtype == torch.float32 or not getattr(net, "keeps_images", False):
        return net
    net = copy.deepcopy(net).to(precision.dtype)
    if device.type == "cuda":
        for part in net.modules():
            if hasattr(part, "pad_width"):
                part.pad_width(_ALIGNED)
    return net


def move(net: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """The net itself, on the device; the layout of its kernels becomes that of its maps."""
    net.to(device)
    for parameter in net.parameters():
        if parameter.ndim == 4:  # a 1x1 kernel is in both layouts, and only a copy gets the strides by which torch chooses
            parameter.data = parameter.data.clone(memory_format=layout)
    return net


def forward(
    net: nn.Module, image: Tensor, *, device: torch.device, precision: Precision, layout: torch.memory_format
) -> Tensor:
    """The final stage of net(image), in float32, without autograd."""
    autocast = next((p.dtype for p in net.parameters()), None) != precision.dtype
    with torch.inference_mode(), precision.arithmetic(device, autocast=autocast):
        out = net(image.to(device, memory_format=layout))
    return (out[-1] if isinstance(out, (list, tuple)) else out).float()


def layout_for(device: torch.device, dtype: torch.dtype, channels_last: bool | None) -> torch.memory_format:
    """channels_last by default on CPUs, and on GPUs in half precision, whose tensor cores take it as it is."""
    if channels_last is None:
        channels_last = device.type == "cpu" or (device.type == "cuda" and dtype != torch.float32)
    return torch.channels_last if channels_last else torch.contiguous_format
