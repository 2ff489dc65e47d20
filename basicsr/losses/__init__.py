"""Losses by name, of one restored image (N, 3, H, W) and its ground truth; the training step sums them over the stages.

All are computed in float32, whatever the network's precision.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.registry import LOSSES

__all__ = ["LOSSES", "CharbonnierLoss", "EdgeLoss", "L1Loss", "MSELoss", "PSNRLoss"]


class _Loss(nn.Module):
    """A mean over all values.

    Args:
        loss_weight: factor of the loss.
        reduction: the published files' word; these losses are means.
        clamp: clamp the restored image to [0, 1] first, as in MPRNet's denoising; no gradient comes from values outside.
    """

    def __init__(self, *, loss_weight: float = 1.0, reduction: Literal["mean"] = "mean", clamp: bool = False) -> None:
        super().__init__()
        if reduction != "mean":
            raise ValueError(f"reduction is {reduction!r}; these losses are means: write 'mean' or leave it out")
        self.loss_weight, self.clamp = loss_weight, clamp

    def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
        restored = restored.float()
        return self.loss_weight * self.value(restored.clamp(0, 1) if self.clamp else restored, gt.float())

    def value(self, restored: Tensor, gt: Tensor) -> Tensor:
        raise NotImplementedError


@LOSSES.register
class L1Loss(_Loss):
    """Mean absolute difference (Restormer)."""

    def value(self, restored: Tensor, gt: Tensor) -> Tensor:
        return F.l1_loss(restored, gt)


@LOSSES.register
class MSELoss(_Loss):
    """Mean squared difference."""

    def value(self, restored: Tensor, gt: Tensor) -> Tensor:
        return F.mse_loss(restored, gt)


@LOSSES.register
class PSNRLoss(_Loss):
    """Minus the PSNR in dB, mean over the batch, outputs not clamped (HINet, NAFNet): it is negative, lower is better."""

    def value(self, restored: Tensor, gt: Tensor) -> Tensor:
        mse = (restored - gt).square().mean((1, 2, 3))
        return 10 / math.log(10) * (mse + 1e-8).log().mean()


@LOSSES.register
class CharbonnierLoss(_Loss):
    """Mean of sqrt(difference^2 + eps^2), a smooth L1 (MPRNet, equation 2).

    Args:
        eps: about where the loss turns from squared to absolute difference.
    """

    def __init__(
        self, *, loss_weight: float = 1.0, reduction: Literal["mean"] = "mean", eps: float = 1e-3, clamp: bool = False
    ) -> None:
        super().__init__(loss_weight=loss_weight, reduction=reduction, clamp=clamp)
        self.eps = eps

    def value(self, restored: Tensor, gt: Tensor) -> Tensor:
        return ((restored - gt).square() + self.eps**2).sqrt().mean()


@LOSSES.register
class EdgeLoss(CharbonnierLoss):
    """Charbonnier loss between the two images' Laplacians (MPRNet, equation 3)."""

    def __init__(
        self, *, loss_weight: float = 1.0, reduction: Literal["mean"] = "mean", eps: float = 1e-3, clamp: bool = False
    ) -> None:
        super().__init__(loss_weight=loss_weight, reduction=reduction, eps=eps, clamp=clamp)
        self.register_buffer("taps", torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05]), persistent=False)

    def value(self, restored: Tensor, gt: Tensor) -> Tensor:
        return super().value(self._laplacian(restored), self._laplacian(gt))

    def _laplacian(self, x: Tensor) -> Tensor:
        """x - blur(up(down(blur(x)))), where up-down keeps every second pixel, times 4, and zeros elsewhere."""
        blurred = self._blur(x)
        sparse = torch.zeros_like(blurred)
        sparse[..., ::2, ::2] = 4 * blurred[..., ::2, ::2]
        return x - self._blur(sparse)

    def _blur(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        taps = self.taps.to(x.device).repeat(channels, 1, 1)
        x = F.pad(x, (2, 2, 2, 2), mode="replicate")
        x = F.conv2d(x, taps[:, :, None, :], groups=channels)
        return F.conv2d(x, taps[:, :, :, None], groups=channels)
