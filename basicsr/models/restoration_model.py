"""A network in use: one training step, one prediction. It knows neither options nor files nor loops."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from basicsr.errors import UserError
from basicsr.registry import MODELS

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@MODELS.register
class ImageRestorationModel:
    """A restorer on a device.

    Args:
        net: (N, C, H, W) in [0, 1] -> the same, or a list of stages, the final one last.
        precision: 'fp32', 'bf16' or 'fp16': the network runs under autocast in it; losses and local statistics stay in float32.
        compiled: train through torch.compile, faster after a minute or two of compiling (it needs a C++ compiler or a GPU).
        losses: summed, over all stages. stage_weights: one a stage; all 1 when None.
        optimizer: over the net's parameters, for training.
        max_grad_norm: gradients are clipped to it; None for no clipping.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        device: torch.device,
        precision: str = "fp32",
        channels_last: bool = False,
        compiled: bool = False,
        losses: Sequence[nn.Module] = (),
        stage_weights: Sequence[float] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(device, memory_format=self.layout)
        self.trained = torch.compile(self.net) if compiled else self.net  # the same parameters
        self.device = device
        self.precision = PRECISIONS[precision]
        self.losses = [loss.to(device) for loss in losses]
        self.stage_weights = stage_weights
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        scaled = device.type if device.type in ("cuda", "cpu") else "cpu"
        self.scaler = torch.amp.GradScaler(scaled, enabled=precision == "fp16")

    def predict(self, image: Tensor) -> Tensor:
        """(N, C, H, W) on any device -> the final stage, float32 on the model's device, not clamped."""
        self.net.eval()
        with torch.inference_mode(), self._autocast():
            out = self.net(image.to(self.device, memory_format=self.layout))
        return (out[-1] if isinstance(out, (list, tuple)) else out).float()

    def train_step(self, lq: Tensor, gt: Tensor, lr: float) -> dict[str, float]:
        """One optimiser step on a batch; returns loss, gradient norm and the PSNR of the final stage in dB."""
        self.net.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        lq = lq.to(self.device, memory_format=self.layout, non_blocking=True)
        gt = gt.to(self.device, non_blocking=True)
        with self._autocast():
            out = self.trained(lq)
        stages = out if isinstance(out, (list, tuple)) else [out]
        weights = self.stage_weights or [1.0] * len(stages)
        if len(weights) != len(stages):
            raise UserError(
                f"stage_weights has {len(weights)} entries, but {type(self.net).__name__} has {len(stages)} stages."
            )
        loss = sum(w * loss(stage, gt) for w, stage in zip(weights, stages, strict=True) for loss in self.losses)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.max_grad_norm or float("inf"))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        mse = (stages[-1].detach().float() - gt).square().mean((1, 2, 3))
        return {"loss": loss.item(), "grad_norm": norm.item(), "psnr": -10 * mse.log10().mean().item()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)
