"""The words of the options files, section by section, with their types and defaults; what is checked without looking at data.

Words are BasicSR's and the published repositories'. Sections are frozen, and unknown words are errors. Imports no torch.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from basicsr.errors import did_you_mean


def _number(value: Any) -> Any:
    """No silent conversion of text or yes/no into numbers."""
    if isinstance(value, (str, bool)):
        raise ValueError(f"must be a number, not {value!r}")
    return value


Int = Annotated[int, BeforeValidator(_number)]
PositiveInt = Annotated[int, BeforeValidator(_number), Field(gt=0)]
Float = Annotated[float, BeforeValidator(_number)]
Beta = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen mapping of known words."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, protected_namespaces=())


class Component(Section):
    """`{type: name, ...}`: a registered class or function and its own arguments, which its signature checks."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    type: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def as_dict(self) -> dict[str, Any]:
        return {"type": self.type, **self.arguments}


class StageOptions(Section):
    """A stage of progressive learning: so many iterations with patches of this size in batches of this size."""

    iters: PositiveInt
    gt_size: PositiveInt
    batch_size: PositiveInt
    batch_size_per_gpu: PositiveInt | Literal["auto"] | None = None


class DatasetOptions(Component):
    """Own words: the loader's. All others go to the dataset.

    batch_size: patches a step over all devices; what it has more than the devices take at once is accumulated.
    batch_size_per_gpu: patches that a device takes at once, or auto: as many as fit into its memory.
    """

    type: str = "PairedImageDataset"
    name: str = ""
    batch_size: PositiveInt | None = None
    batch_size_per_gpu: PositiveInt | Literal["auto"] = 1
    progressive: tuple[StageOptions, ...] | None = None
    num_worker_per_gpu: Annotated[int, BeforeValidator(_number), Field(ge=0)] = 0
    dataset_enlarge_ratio: PositiveInt = 1


class PathOptions(Section):
    pretrain_network_g: str | None = None
    strict_load_g: bool = True
    param_key: str | None = None
    resume_state: str | None = None


class ParameterGroupOptions(Section):
    """Parameters whose names match a regular expression, with a learning rate and a decay of their own."""

    match: str
    lr_mult: Annotated[float, BeforeValidator(_number), Field(ge=0)] = 1.0
    weight_decay: Annotated[float, BeforeValidator(_number), Field(ge=0)] | None = None

    @field_validator("match")
    @classmethod
    def _regular(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression ({error})") from None
        return value


class OptimizerOptions(Component):
    type: Literal["Adam", "AdamW"]
    lr: Annotated[float, BeforeValidator(_number), Field(gt=0)]
    weight_decay: Annotated[float, BeforeValidator(_number), Field(ge=0)] = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    groups: tuple[ParameterGroupOptions, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid")


class SchedulerOptions(Component):
    """The learning rate as a function of the iteration; its arguments are those of the function in models/schedule.py."""


class TrainOptions(Section):
    total_iter: PositiveInt
    warmup_iter: Int = -1
    optim_g: OptimizerOptions
    scheduler: SchedulerOptions
    use_grad_clip: bool | Float = True
    pixel_opt: Component | None = None
    losses: tuple[Component, ...] = ()
    stage_weights: tuple[Float, ...] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    ema_decay: Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)] | None = None
    activation_checkpointing: bool = False
    max_skipped_steps: PositiveInt = 20

    @property
    def all_losses(self) -> tuple[Component, ...]:
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


class ValOptions(Section):
    val_freq: PositiveInt | None = None
    save_img: bool = False
    grids: bool = False
    crop_size: PositiveInt | None = None
    tile: PositiveInt | Literal["auto"] | None = None
    tile_overlap: Annotated[int, BeforeValidator(_number), Field(ge=0)] = 32
    self_ensemble: bool = False
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    channels_last: bool | None = None
    compile: bool = False
    max_images: PositiveInt | None = None
    metrics: dict[str, Component] = {}

    @field_validator("tile", mode="before")
    @classmethod
    def _tile(cls, value: Any) -> Any:
        return None if value in (0, False) else value

    @field_validator("tile_overlap", mode="before")
    @classmethod
    def _overlap(cls, value: Any) -> Any:
        return 32 if value is None else value

    @field_validator("metrics", mode="before")
    @classmethod
    def _metrics(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _consistent(self) -> "ValOptions":
        if isinstance(self.tile, int) and self.tile_overlap >= self.tile:
            raise ValueError(f"tile_overlap ({self.tile_overlap}) must be smaller than tile ({self.tile})")
        if self.grids and self.tile:
            raise ValueError("grids and tile are two ways to cut the image: choose one")
        if self.crop_size and "grids" not in self.model_fields_set:  # `grids: false` says that it is not meant now
            raise ValueError("crop_size belongs to `grids: true`; add that, or use tile")
        if self.grids and not self.crop_size:
            raise ValueError("grids needs crop_size, the size of the patches (256 in the papers)")
        return self


class WandbOptions(Section):
    """Nothing is sent unless a project is named."""

    project: str | None = None
    resume_id: str | None = None
    mode: Literal["online", "offline"] = "online"


class LoggerOptions(Section):
    print_freq: PositiveInt = 100
    save_checkpoint_freq: PositiveInt = 5000
    keep_checkpoints: PositiveInt | Literal["all"] = 3
    use_tb_logger: bool = True
    wandb: WandbOptions = WandbOptions()


class ImgPathOptions(Section):
    input_img: str
    output_img: str
    target_img: str | None = None


class Options(Section):
    name: str
    model_type: str = "ImageRestorationModel"
    scale: Literal[1] = 1
    num_gpu: Annotated[int, BeforeValidator(_number), Field(ge=0)] | Literal["auto"] = "auto"
    find_unused_parameters: bool = False
    num_threads: PositiveInt | None = None
    manual_seed: Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**32)] = 0
    custom_modules: tuple[str, ...] | None = None
    datasets: dict[str, DatasetOptions] = {}
    network_g: Component
    path: PathOptions = PathOptions()
    train: TrainOptions | None = None
    val: ValOptions = ValOptions()
    logger: LoggerOptions = LoggerOptions()
    img_path: ImgPathOptions | None = None
    expected: dict[str, Float] = {}

    @model_validator(mode="after")
    def _expected_is_measured(self) -> "Options":
        for name in self.expected:
            if name not in self.val.metrics:
                known = self.val.metrics
                raise ValueError(
                    f"expected.{name}: val.metrics has no `{name}`.{did_you_mean(name, known)} It has {', '.join(known)}"
                )
        return self

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[\w+-][\w.+-]*", value) or value.lower() == "pretrained_models":
            raise ValueError(
                f"{value!r} cannot be a run's folder: use letters, digits, '.', '_', '+' and '-', without a dot in front, "
                "and not pretrained_models, which holds the weights"
            )
        return value
