"""One forward pass of a trained net: precision, memory layout, compiler, device."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from basicsr.models.precision import Precision, precision_for


def prepare_for_inference(
    net: nn.Module,
    *,
    device: torch.device | str | None = None,
    precision: str = "auto",
    channels_last: bool | None = None,
    compiled: bool = False,
) -> Callable[[Tensor], Tensor]:
    """A net as a function of images, as fast as the device runs it.

    Args:
        net: (N, C, H, W) in [0, 1] -> the same, or a list of stages, the final one last. It is moved to the device and put into
            evaluation mode.
        device: that of its parameters when None.
        precision: 'fp32' (exact), 'tf32', 'bf16', 'fp16' (under autocast; local statistics stay in float32), or 'auto': the
            fastest that the device computes in.
        channels_last: the memory layout; None chooses what suits device and precision.
        compiled: through torch.compile: the first image of a size takes a minute or more, and CPUs need a C++ compiler.

    Returns:
        (N, C, H, W) on any device -> the final stage, float32 on the net's device, not clamped.

    Raises:
        UserError: an unknown precision, or one that the device lacks.
    """
    device = torch.device(device) if device is not None else next(net.parameters()).device
    chosen = precision_for(precision, device)
    layout = layout_for(device, chosen.dtype, channels_last)
    net = move(net, device, layout).eval()
    run = torch.compile(net) if compiled else net
    return lambda image: forward(run, image, device=device, precision=chosen, layout=layout)


def move(net: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """The net itself, on the device; the layout of its kernels becomes that of its maps."""
    net.to(device)
    for parameter in net.parameters():
        if parameter.ndim == 4:  # a 1x1 kernel is in both layouts, and only a copy gets the strides by which torch chooses
            parameter.data = parameter.data.clone(memory_format=layout)
    return net


def forward(
    net: Callable[[Tensor], object], image: Tensor, *, device: torch.device, precision: Precision, layout: torch.memory_format
) -> Tensor:
    """The final stage of net(image), in float32, without autograd."""
    with torch.inference_mode(), precision.arithmetic(device):
        out = net(image.to(device, memory_format=layout))
    return (out[-1] if isinstance(out, (list, tuple)) else out).float()


def layout_for(device: torch.device, dtype: torch.dtype, channels_last: bool | None) -> torch.memory_format:
    """channels_last by default on CPUs, and on GPUs in half precision, whose tensor cores take it as it is."""
    if channels_last is None:
        channels_last = device.type == "cpu" or (device.type == "cuda" and dtype != torch.float32)
    return torch.channels_last if channels_last else torch.contiguous_format
