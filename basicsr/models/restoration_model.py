"""A network in use: one training step, one prediction. It knows neither options nor files nor loops."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from basicsr.errors import UserError
from basicsr.models.compiling import compiled as compiled_net
from basicsr.models.memory import checkpoint_blocks
from basicsr.models.optimizer import skips_itself, step_if
from basicsr.models.precision import precision_for
from basicsr.models.prediction import cast, check_graphs, layout_for, move, predictor
from basicsr.models.training_graphs import TrainingGraph, training_graph
from basicsr.registry import MODELS
from basicsr.utils import dist

logger = logging.getLogger("basicsr")


@MODELS.register
class ImageRestorationModel:
    """A restorer on a device.

    Args:
        net: (N, C, H, W) in [0, 1] -> the same, or a list of stages, the final one last.
        precision, channels_last: as in `prepare_for_inference`; losses stay in float32.
        compiled, cuda_graphs: of predictions, as in `prepare_for_inference`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        device: torch.device,
        precision: str = "fp32",
        channels_last: bool | None = None,
        compiled: bool = False,
        cuda_graphs: Literal["auto"] | bool = False,
    ) -> None:
        check_graphs(cuda_graphs, device)
        self.precision = self.predicted_in = precision_for(precision, device)
        self.layout = layout_for(device, self.precision.dtype, channels_last)
        self.net = move(net, device, self.layout)
        self.device = device
        self.predict_compiled, self.predict_graphs = compiled, cuda_graphs
        self.ema: AveragedModel | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.graph: TrainingGraph | None = None
        self.learning = False  # whether weights are those that gradients are taken at
        if self.precision.dtype != torch.float32 and device.type == "cpu" and not _multiplies_halves():
            logger.warning("precision is %s, but this processor computes in fp32: it will be slower, not faster.", precision)

    def prepare_training(
        self,
        *,
        losses: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        stage_weights: Sequence[float] | None = None,
        max_grad_norm: float | None = None,
        ema_decay: float | None = None,
        activation_checkpointing: bool = False,
        compiled: bool = False,
        cuda_graphs: Literal["auto"] | bool = "auto",
        find_unused_parameters: bool = False,
        validation_precision: str | None = None,
    ) -> None:
        """Make ready for `train_step`.

        Args:
            losses: summed, over all stages. stage_weights: one a stage; all 1 when None.
            optimizer: over the net's parameters; every group has its `base_lr`. Where it has methods `train` and `eval`, as
                schedule-free ones do, they are called before steps, and before predictions and saving.
            max_grad_norm: gradients are clipped to it; None for no clipping.
            ema_decay: keep an exponential moving average of the weights, which `predict` then uses.
            activation_checkpointing: see models/memory.py.
            compiled: train through torch.compile, block by block; it needs a C++ compiler or a GPU.
            cuda_graphs: 'auto': batches run as CUDA graphs where that is faster; True: wherever they can; see
                `basicsr.models.training_graphs.training_graph`.
            find_unused_parameters: for nets that do not use all of their parameters in every step, with several processes.
            validation_precision: what `predict` computes in; as in training when None.
        """
        self.losses = [loss.to(self.device) for loss in losses]
        self.optimizer, self.stage_weights, self.max_grad_norm = optimizer, stage_weights, max_grad_norm
        if ema_decay is not None and hasattr(optimizer, "eval"):
            raise UserError(f"train.ema_decay: {type(optimizer).__name__} averages the weights by itself; leave ema_decay out.")
        if ema_decay is not None:  # before blocks are wrapped: a copy of a wrapped block would run the original
            self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True)
        if activation_checkpointing and not checkpoint_blocks(self.net):
            raise UserError(
                f"train.activation_checkpointing: {type(self.net).__name__} has no Sequential or ModuleList of blocks."
            )
        if validation_precision is not None:
            self.predicted_in = precision_for(validation_precision, self.device)
        self.compiled, self.find_unused_parameters = compiled, find_unused_parameters
        self.graph = training_graph(
            cuda_graphs,
            self._gradients,
            self.net.parameters(),
            self.device,
            processes=dist.world_size(),
            checkpointing=activation_checkpointing,
            compiled=compiled,
        )
        scaled = self.device.type if self.device.type in ("cuda", "cpu") else "cpu"
        self.scaler = torch.amp.GradScaler(scaled, enabled=self.precision.dtype == torch.float16)

    @functools.cached_property
    def shared(self) -> nn.Module:
        """The net that trains, whose gradients are averaged over the processes; made when all of them are ready to train."""
        net = compiled_net(self.net, dynamic=False) if self.compiled else self.net  # the same parameters
        if dist.world_size() == 1:
            return net
        warnings.filterwarnings("ignore", "Grad strides do not match")  # 1x1 kernels: one order in memory, two names for it
        return DistributedDataParallel(
            net,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=self.find_unused_parameters,
        )

    @functools.cached_property
    def predicting(self) -> nn.Module:
        """The net that predicts. `train` lets go of it: of a copy in half precision, whose weights get out of date."""
        return cast(self.net if self.ema is None else self.ema.module, self.predicted_in, self.device).eval()

    @functools.cached_property
    def run(self) -> Callable[[Tensor], Tensor]:
        """A prediction of that net. `train` lets go of it: of the memory of CUDA graphs."""
        if self.graph is not None:
            self.graph.release()  # so does training, here
        return predictor(
            self.predicting,
            device=self.device,
            precision=self.predicted_in,
            layout=self.layout,
            compiled=self.predict_compiled,
            cuda_graphs=self.predict_graphs,
        )

    def train(self) -> None:
        """Ready for a training step: layers, and with schedule-free optimisers the weights, are those of training."""
        self.net.train()
        vars(self).get("shared", self.net).train()
        if not self.learning:
            for kept in ("predicting", "run"):
                vars(self).pop(kept, None)
            getattr(self.optimizer, "train", _nothing)()
            self.learning = True

    def eval(self) -> None:
        """Ready to predict and to be saved; schedule-free optimisers put their averages into the weights.

        All processes have to call it, so that their weights stay the same bits.
        """
        if self.learning:
            getattr(self.optimizer, "eval", _nothing)()
            self.learning = False
        self.predicting.eval()

    def predict(self, image: Tensor) -> Tensor:
        """(N, C, H, W) on any device -> the final stage, float32 on the model's device, not clamped."""
        self.eval()
        return self.run(image)

    def train_step(self, micro_batches: Sequence[Mapping[str, Tensor]], rate: Callable[[float], float]) -> dict[str, float]:
        """One optimiser step on the micro-batches {"lq", "gt"} of all processes.

        When the loss or the gradient is not finite, the weights stay as they are. In float16 a gradient may overflow now and
        then: the loss scale is then lowered.

        Args:
            rate: base rate of a parameter group -> its learning rate now.

        Returns:
            loss, grad_norm, psnr (of the final stage, dB): means over the batch; skipped: 1 if nothing was learnt, else 0.
        """
        self.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate(group["base_lr"])
        if self.graph is None or not self.graph.clear():
            self.optimizer.zero_grad(set_to_none=True)
        figures = torch.zeros(2, device=self.device)  # loss, psnr
        for number, batch in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            with contextlib.nullcontext() if last or dist.world_size() == 1 else self.shared.no_sync():
                figures += self._backward(batch, share=1 / len(micro_batches))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.max_grad_norm or float("inf"))
        results = torch.stack([*dist.mean(figures), norm.to(figures)])
        itself = not self.scaler.is_enabled() and skips_itself(self.optimizer)  # so that nobody waits before it
        if itself:
            step_if(results[::2].isfinite().all(), self.optimizer)
        loss, psnr, grad_norm = results.tolist()  # the step's one wait for the GPU
        finite = torch.tensor([loss, grad_norm]).isfinite().all().item()
        if finite and not itself:
            self.scaler.step(self.optimizer)
        self.scaler.update()  # lowers the scale after an overflow; nothing unless in float16
        if finite and self.ema is not None:
            self.ema.update_parameters(self.net)
        return {"loss": loss, "grad_norm": grad_norm, "psnr": psnr, "skipped": float(not finite)}

    def check_stages(self, shapes: Sequence[torch.Size], wanted: torch.Size) -> None:
        """Raises UserError unless all stages have the ground truth's shape, and `stage_weights` as many entries."""
        name = type(self.net).__name__
        if self.stage_weights and len(self.stage_weights) != len(shapes):
            raise UserError(f"train.stage_weights has {len(self.stage_weights)} entries, but {name} has {len(shapes)} stages.")
        for shape in shapes:
            if shape != wanted:
                raise UserError(
                    f"network_g: {name} makes {tuple(shape)} where the ground truth is {tuple(wanted)}; a restorer's output "
                    "has the size of its input."
                )

    def _backward(self, batch: Mapping[str, Tensor], share: float) -> Tensor:
        """Gradients of one micro-batch, added to what is there; returns its share of (loss, psnr)."""
        lq = batch["lq"].to(self.device, memory_format=self.layout, non_blocking=True)
        gt = batch["gt"].to(self.device, non_blocking=True)
        return (self.graph or self._gradients)(lq, gt, share)

    def _gradients(self, lq: Tensor, gt: Tensor, share: float) -> Tensor:
        with self.precision.arithmetic(self.device):
            out = self.shared(lq)
        stages = out if isinstance(out, (list, tuple)) else [out]
        self.check_stages([stage.shape for stage in stages], gt.shape)
        weights = self.stage_weights or [1.0] * len(stages)
        loss = share * sum(w * loss(stage, gt) for w, stage in zip(weights, stages, strict=True) for loss in self.losses)
        self.scaler.scale(loss).backward()
        mse = (stages[-1].detach().float() - gt).square().mean((1, 2, 3))
        return torch.stack([loss.detach(), -10 * share * mse.log10().mean()])


def _nothing() -> None:
    """What most optimisers do between steps and predictions."""


def _multiplies_halves() -> bool:
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
