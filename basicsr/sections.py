"""The words of the options files, section by section, with their types and defaults; what is checked without looking at data.

Words are BasicSR's and the published repositories'. Sections are frozen, and unknown words are errors. Imports no torch.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from basicsr.errors import did_you_mean
from basicsr.section_types import Component, Figures, Float, PositiveInt, Section, number
from basicsr.training_sections import TrainOptions


class StageOptions(Section):
    """A stage of progressive learning: so many iterations with patches of this size in batches of this size."""

    iters: PositiveInt
    """Iterations that the stage lasts; those of all stages add up to train.total_iter."""
    gt_size: PositiveInt
    """Side of the square training crops, in pixels."""
    batch_size: PositiveInt
    """Crops of an optimiser step over all devices."""
    batch_size_per_gpu: PositiveInt | Literal["auto"] | None = None
    """Crops that a device takes at once, or auto: as many as fit into its memory; the data set's when absent."""


class GroupOptions(Figures):
    """A part of a data set that has means of its own."""

    labels: str
    """File of its images' positions in the natural order of the names (2 before 10), the first one 1: .npy, or text."""
    expected_images: PositiveInt | None = None
    """How many pictures of the group its figures are published for; as many as the labels name when absent."""


class DatasetOptions(Figures, Component):
    """A data set and how it is loaded; all other words are arguments of its type."""

    type: str = "PairedImageDataset"
    """What it is: a registered data set, or package.module:Name."""
    name: str = ""
    """The data set's name in logs and reports."""
    batch_size: PositiveInt | None = None
    """Crops of an optimiser step over all devices, accumulated where need be; devices times batch_size_per_gpu when absent."""
    batch_size_per_gpu: PositiveInt | Literal["auto"] = 1
    """Crops that a device takes at once, or auto: as many as fit into its memory."""
    progressive: tuple[StageOptions, ...] | None = None
    """Stages of progressive learning, which replace gt_size and batch_size."""
    num_worker_per_gpu: Annotated[int, Field(ge=0), BeforeValidator(number)] = 0
    """Processes a device that read and cut pictures; 0 reads them in the training process."""
    dataset_enlarge_ratio: PositiveInt = 1
    """Times that every picture comes in an epoch; it only changes how epochs are counted."""
    expected_images: PositiveInt | None = None
    """How many pictures these figures are published for; on others they are not compared."""
    groups: dict[str, GroupOptions] = Field(default_factory=dict)
    """Parts of the data set by names of your own, such as DPDD's indoor and outdoor, with means of their own in reports."""


class PathOptions(Section):
    pretrain_network_g: str | None = None
    """Weights to start from or to test: a file, from the repository's root on, or a name of `tlc weights`; else random ones."""
    strict_load_g: bool = True
    """Whether the weights must fit the network name by name; false takes those that do."""
    param_key: str | None = None
    """Which entry of the file holds the weights, such as params or params_ema; found by itself when absent."""
    resume_state: str | None = None
    """File of a training state (experiments/<name>/training_states/<iteration>.state) to go on from."""


class NetworkOptions(Component):
    """The network; its type has the suffix Local for TLC, and all other words are arguments of its constructor."""


class MetricOptions(Component):
    """A metric; all other words are arguments of its type."""

    better: Literal["higher", "lower"] | None = None
    """Which way is better, where its type does not say it itself."""


class ValOptions(Section):
    val_freq: PositiveInt | None = None
    """Iterations between validations during training; only at its end when absent."""
    save_img: bool = False
    """Write the restored pictures: of a test into results/, of validations into experiments/."""
    grids: bool = False
    """The published patch test: restore patches of crop_size that cover the picture, and average where they overlap."""
    crop_size: PositiveInt | None = None
    """Side of the patches of grids, in pixels."""
    tile: Annotated[
        PositiveInt | Literal["auto"] | None,
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"enum": ["auto", False, None]}]}),
    ] = None
    """Side of the tiles that save memory, in pixels, or auto: as large as it allows; no tiles when absent, 0 or false."""
    tile_overlap: Annotated[int, Field(ge=0), BeforeValidator(number)] = 32
    """Pixels that neighbouring tiles share at least; less than tile."""
    window_size: PositiveInt | None = None
    """Reflect what the network sees, right and bottom, to a multiple of this, as Restormer's tests do; not when absent."""
    self_ensemble: bool = False
    """Average over the eight flips and turns of the picture (x8): a little better, eight times as long."""
    precision: Literal["fp32", "tf32", "bf16", "fp16", "auto"] = "fp32"
    """What the network computes in: fp32 is exact, tf32 is for NVIDIA GPUs; auto: half precision where the device has it."""
    channels_last: bool | None = None
    """Memory layout of the feature maps: channels innermost; what is faster on the device when absent."""
    compile: bool = False
    """Restore through torch.compile if the first picture, with which it compiles, shows that this is faster."""
    cuda_graphs: Literal["auto"] | bool = "auto"
    """Run pictures of a size as a CUDA graph: auto: from the second in a row, where that is faster; true: all of them."""
    batch_size: PositiveInt = 1
    """Restore so many pictures of one size at once: faster on GPUs where they are small."""
    max_images: PositiveInt | None = None
    """Take only the first so many pictures; all when absent."""
    use_image: bool = True
    """Round to 8 bits what metrics are given; false: clamped alone, as protocol float. A metric's own protocol goes first."""
    metrics: dict[str, MetricOptions] = Field(default_factory=dict)
    """Metrics by a name of your own, under which reports show them."""

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
    """Weights & Biases project that scalars and pictures are sent to; nothing is sent when absent."""
    resume_id: str | None = None
    """Id of the Weights & Biases run to go on with."""
    mode: Literal["online", "offline"] = "online"
    """Send at once, or keep on this machine for `wandb sync`."""


class LoggerOptions(Section):
    print_freq: PositiveInt = 100
    """Iterations between lines of the log and of metrics.csv."""
    save_checkpoint_freq: PositiveInt = 5000
    """Iterations between checkpoints: weights and the training state."""
    keep_checkpoints: PositiveInt | Literal["all"] = 3
    """How many of the last checkpoints are kept, or all."""
    use_tb_logger: bool = True
    """Write TensorBoard files into tb_logger/<name>."""
    wandb: WandbOptions = WandbOptions()
    """Weights & Biases."""


class ImgPathOptions(Section):
    input_img: str
    """Picture to restore."""
    output_img: str
    """File for the restored picture."""
    target_img: str | None = None
    """Its ground truth, for the figures; none when absent."""


class Options(Section):
    name: str
    """The run's name, and that of its folder in experiments/ or results/."""
    model_type: str = "ImageRestorationModel"
    """The class that trains and restores: a registered model, or package.module:Name."""
    scale: Literal[1] = 1
    """Factor between the sizes of output and input; restorers have 1."""
    num_gpu: Annotated[int, Field(ge=0), BeforeValidator(number)] | Literal["auto"] = "auto"
    """0 computes on the CPU, any other number on GPUs if there are; torchrun says how many. auto: a GPU if there is one."""
    find_unused_parameters: bool = False
    """For networks that do not use all of their parameters in every step, in training with several processes."""
    num_threads: PositiveInt | None = None
    """Threads of the CPU; torch's choice when absent."""
    manual_seed: Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(number)] = 0
    """Seed of all randomness: initial weights, crops, flips, degradations."""
    custom_modules: tuple[str, ...] | None = None
    """Python files with code of your own, relative to the repository's root, imported before anything is built."""
    datasets: dict[str, DatasetOptions] = Field(default_factory=dict)
    """Data sets by phase: train; val, by which the best weights are chosen, and val_2 or the like to validate on, too; test."""
    network_g: NetworkOptions
    """The network: its type and the arguments of its constructor."""
    path: PathOptions = PathOptions()
    """Weights and states to start from."""
    train: TrainOptions | None = None
    """Training; needed by `tlc train` alone."""
    val: ValOptions = ValOptions()
    """How pictures are restored and measured, in validations and tests."""
    logger: LoggerOptions = LoggerOptions()
    """What a training writes, and how often."""
    img_path: ImgPathOptions | None = None
    """The picture that `tlc restore -opt` restores when none is named."""
    expected: dict[str, Float] = Field(default_factory=dict)
    """Published figures by the names of val.metrics: of the first data set, or where sets have their own, of the average."""
    expected_plain: dict[str, Float] = Field(default_factory=dict)
    """Those of the same network without TLC, where network_g has it."""
    expected_local: dict[str, Float] = Field(default_factory=dict)
    """Those of the same network with TLC, where network_g has none."""
    expected_images: PositiveInt | None = None
    """How many pictures these figures are published for; on others they are not compared."""

    @model_validator(mode="after")
    def _expected_is_measured(self) -> "Options":
        places: dict[str, Section] = {"": self}
        for key, dataset in self.datasets.items():
            places[f"datasets.{key}."] = dataset
            places |= {f"datasets.{key}.groups.{name}.": group for name, group in dataset.groups.items()}
        known = self.val.metrics
        for where, section in places.items():
            for word in Figures.model_fields:
                for name in getattr(section, word):
                    if name not in known:
                        near = did_you_mean(name, known)
                        raise ValueError(f"{where}{word}.{name}: val.metrics has no `{name}`.{near} It has {', '.join(known)}")
        return self

    @field_validator("datasets")
    @classmethod
    def _known_phases(cls, value: dict[str, DatasetOptions]) -> dict[str, DatasetOptions]:
        for name in value:
            if not re.fullmatch(r"train|(val|test)(_\w+)?", name):
                raise ValueError(
                    f"no data set is called `{name}`.{did_you_mean(name, ('train', 'val', 'test'))} They are train, val and "
                    "test, and further ones to validate or to test on, such as val_2 or test_HIDE"
                )
        return value

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[\w+-][\w.+-]*", value) or value.lower() == "pretrained_models":
            raise ValueError(
                f"{value!r} cannot be a run's folder: use letters, digits, '.', '_', '+' and '-', without a dot in front, "
                "and not pretrained_models, which holds the weights"
            )
        return value
