"""The words of `train` in an options file, with their types and defaults; see `basicsr.sections`."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from basicsr.section_types import Beta, Component, Float, Int, PositiveFloat, PositiveInt, Section, number


class ParameterGroupOptions(Section):
    """Parameters whose names match a regular expression, with a learning rate and a decay of their own."""

    match: str
    """Regular expression that is searched for in the names of parameters; the first group that matches takes one."""
    lr_mult: Annotated[float, Field(ge=0), BeforeValidator(number)] = 1.0
    """Factor of the learning rate."""
    weight_decay: Annotated[float, Field(ge=0), BeforeValidator(number)] | None = None
    """Weight decay of the group; the optimiser's when absent."""

    @field_validator("match")
    @classmethod
    def _regular(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression ({error})") from None
        return value


class OptimizerOptions(Component):
    """The optimiser; all other words are arguments of its type."""

    lr: PositiveFloat
    """The base learning rate, which the scheduler changes."""
    weight_decay: Annotated[float, Field(ge=0), BeforeValidator(number)] = 0.0
    """Weight decay: decoupled in AdamW, an L2 penalty in Adam and SGD."""
    betas: tuple[Beta, Beta] | None = None
    """Decay rates of the averages of the gradient and of its square; the class's when absent (0.9, 0.999)."""
    groups: tuple[ParameterGroupOptions, ...] = ()
    """Parameters with a learning rate and a weight decay of their own, by their names."""


class SchedulerOptions(Component):
    """The learning rate as a function of the iteration; all other words are arguments of its type."""


class LossOptions(Component):
    """A loss; all other words are arguments of its type."""


class MixingOptions(Section):
    """Training samples mixed with others of their batch, degraded images and ground truths alike."""

    mixup: bool = False
    """Whether samples are mixed."""
    mixup_beta: PositiveFloat = 1.2
    """Both parameters of the beta distribution that shares are drawn from."""
    use_identity: bool = False
    """Leave every second batch, at random, as it is."""
    per_image: bool = False
    """Draw a share for every sample, not one for the batch."""
    from_iter: Annotated[int, Field(ge=0), BeforeValidator(number)] = 0
    """First iteration that mixes."""


class TrainOptions(Section):
    total_iter: PositiveInt
    """Optimiser steps of the whole training."""
    warmup_iter: Int = -1
    """Iterations in which the learning rate rises linearly from 0 at the start; -1 or 0 for none."""
    optim_g: OptimizerOptions
    """The optimiser."""
    scheduler: SchedulerOptions
    """The learning rate over the iterations."""
    use_grad_clip: bool | PositiveFloat = True
    """Norm that gradients are clipped to; true is 0.01, false is no clipping."""
    pixel_opt: LossOptions | None = None
    """The loss, or the first of several."""
    losses: tuple[LossOptions, ...] = ()
    """Further losses, added to pixel_opt."""
    stage_weights: tuple[Float, ...] | None = None
    """Weight of each of the network's outputs in the loss, the final one last; all 1 when absent."""
    mixing_augs: MixingOptions = MixingOptions()
    """Mixing of training samples (mixup)."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """What the forward pass computes in: fp32 is exact, tf32 is for NVIDIA GPUs, bf16 and fp16 by autocast; losses in fp32."""
    channels_last: bool = True
    """Memory layout of the feature maps: channels innermost, the faster one on most devices."""
    compile: bool = False
    """Train through torch.compile, block by block, faster or not; the first steps take longer."""
    cuda_graphs: Literal["auto"] | bool = "auto"
    """Run batches as a CUDA graph, on one GPU: auto: from the fourth of a shape, where that is faster; true: from the third."""
    ema_decay: Annotated[float, Field(gt=0, lt=1), BeforeValidator(number)] | None = None
    """Keep an exponential moving average of the weights with this decay a step, such as 0.999, and validate with it."""
    activation_checkpointing: bool = False
    """Keep less for the backward pass and compute it again: less memory, about a third more time."""
    max_skipped_steps: PositiveInt = 20
    """Steps in a row without a finite loss and gradient that end the run; single ones are skipped."""

    @property
    def all_losses(self) -> tuple[LossOptions, ...]:
        return (self.pixel_opt, *self.losses) if self.pixel_opt else self.losses

    @property
    def max_grad_norm(self) -> float | None:
        """The published recipes' 0.01 for `true`."""
        if isinstance(self.use_grad_clip, bool):
            return 0.01 if self.use_grad_clip else None
        return self.use_grad_clip

    @field_validator("use_grad_clip", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if not isinstance(value, bool) and not (isinstance(value, (int, float)) and value > 0):
            raise ValueError(f"must be true, false or a positive norm, not {value!r}")
        return value

    @model_validator(mode="after")
    def _has_loss(self) -> "TrainOptions":
        if not self.all_losses:
            raise ValueError("no loss is named; add pixel_opt: {type: PSNRLoss} or a list `losses`")
        return self
