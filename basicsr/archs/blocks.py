"""What two of the nets really share: padding at the edge of a net, the norm over channels, the supervised attention module."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]  # state-dict key to shape


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(N, C, H, W) padded with zeros on the right and bottom to a multiple of `multiple`; 0 turns it off."""
    if multiple == 0:
        return x
    h, w = x.shape[-2:]
    return F.pad(x, (0, -w % multiple, 0, -h % multiple))


def crop_like(x: Tensor, image: Tensor) -> Tensor:
    """Undo `pad_to_multiple`: the top left corner of x in the size of `image`."""
    return x[..., : image.shape[-2], : image.shape[-1]]


def channel_layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm over the channels of (N, C, H, W), with biased variance.

    Without a bias it is Restormer's 'BiasFree' norm: divided by the standard deviation, the mean is not subtracted.
    """
    if bias is not None:  # the permuted view costs nothing in channels_last layout
        return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps).permute(0, 3, 1, 2)
    variance = x.var(1, correction=0, keepdim=True)
    return x * torch.rsqrt(variance + eps) * weight.view(1, -1, 1, 1)


class SAM(nn.Module):
    """Supervised attention module (MPRNet, figure 4): a stage's image, and its features gated by that image."""

    def __init__(self, channels: int, image_channels: int, kernel_size: int, bias: bool) -> None:
        super().__init__()
        pad = kernel_size // 2
        self.conv1 = nn.Conv2d(channels, channels, kernel_size, padding=pad, bias=bias)
        self.conv2 = nn.Conv2d(channels, image_channels, kernel_size, padding=pad, bias=bias)
        self.conv3 = nn.Conv2d(image_channels, channels, kernel_size, padding=pad, bias=bias)

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W), image (N, 3, H, W) -> gated features like x, the stage's restored image."""
        restored = self.conv2(x) + image
        return self.conv1(x) * torch.sigmoid(self.conv3(restored)) + x, restored


def count_blocks(shapes: Shapes, prefix: str) -> int:
    """How many numbered children (`prefix.0.`, `prefix.1.`, ...) a state dict has."""
    start = prefix + "."
    return len({key[len(start) :].split(".")[0] for key in shapes if key.startswith(start)})
