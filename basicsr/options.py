"""Options: the only reader of YAML. `load(path, overrides)` -> frozen, typed `Options`. Imports no torch.

The words are BasicSR's and the published repositories'. Unknown words are errors that name their YAML path and the nearest
known word; words of the published files that have no meaning here are accepted and said to have none (`RETIRED`).
"""

import logging
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from basicsr.custom import import_file
from basicsr.errors import UserError, did_you_mean

ROOT = Path(__file__).resolve().parents[1]  # relative paths in a YAML file start here
logger = logging.getLogger("basicsr")

# Words of the published files that ask for nothing here, with the reason that is logged.
RETIRED = {
    "dist_params": "the backend follows from the device",
    "datasets.prefetch_mode": "workers prefetch",
    "datasets.use_shuffle": "training shuffles, evaluation does not",
    "datasets.pin_memory": "memory is pinned where it helps",
    "val.use_image": "metrics are computed on 8-bit images, the papers' protocol",
    "val.rgb2bgr": "pictures are written with the right colours",
    "val.window_size": "each net pads by itself",
    "val.max_minibatch": "patches run one by one",
    "train.mixup": "the recipes do not use it",
}


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


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 2e-4 is a number and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue  # construct_mapping refuses the former and resolves the latter
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key `{key}` stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Options:
    """Read a YAML file, and import the files that its `custom_modules` list.

    Args:
        path: relative to the current folder or, failing that, to the repository's root.
        overrides: `section:key=value` as in BasicSR's --force_yml, the value parsed as YAML.

    Raises:
        UserError: a missing or malformed file, an unknown word, an ill-typed value; custom modules that cannot be imported.
    """
    file = resolve_input(path)
    if not file.is_file():
        raise UserError(f"{path}: there is no such options file (looked in {Path.cwd()} and {ROOT}).")
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or no date such as 2020-13-45
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: is not valid YAML ({getattr(error, 'problem', None) or error}).") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: must be a mapping with `name`, `network_g` and so on.")
    for override in overrides:
        _override(data, override)
    opt = parse(data, str(path))
    for module in opt.custom_modules or ():
        import_file(resolve(module), module)
    return opt


def overrides_of(section: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What `section:key=value` overrides say of one section."""
    data: dict[str, Any] = {}
    for override in overrides:
        _override(data, override)
    return data.get(section, {})


def parse(data: Mapping[str, Any], source: str) -> Options:
    """Options from a mapping; `source` names it in messages."""
    data = _without_empty(_without_retired(dict(data), ""))
    try:
        return Options.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error, data)}") from None


def resolve(path: str | Path) -> Path:
    """A path from a YAML file: relative ones start at the repository's root."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path


def resolve_input(path: str | Path) -> Path:
    """A path from the command line: relative to the current folder or, failing that, to the repository's root."""
    path = Path(path).expanduser()
    return path if path.exists() else resolve(path)


def display(path: str | Path) -> str:
    """A path as users wrote it: without the repository's root."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _override(data: dict, text: str) -> None:
    keys, equals, value = text.partition("=")
    if not equals or not all(keys.split(":")):
        raise UserError(f"--force_yml {text}: write it as section:key=value, such as val:save_img=true.")
    try:
        parsed = yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"--force_yml {text}: `{value}` is not a YAML value.") from None
    *sections, last = keys.split(":")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            raise UserError(f"--force_yml {text}: `{section}` is no section.")
    data[last] = parsed


def _without_retired(data: dict, prefix: str) -> dict:
    """Drop words without meaning here, saying so once where a value was given."""
    kept = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        reason = RETIRED.get(name)
        if reason:
            if value is not None:
                logger.info("%s has no effect: %s.", name, reason)
        elif prefix == "" and key == "datasets" and isinstance(value, dict):
            kept[key] = {k: _without_retired(v, "datasets.") if isinstance(v, dict) else v for k, v in value.items()}
        elif prefix == "" and key in ("val", "train", "logger") and isinstance(value, dict):
            kept[key] = _without_retired(value, f"{key}.")
        else:
            kept[key] = value
    return kept


def _without_empty(data: dict, depth: int = 0) -> dict:
    """`key: ~` means the default, in every section but network_g, where None may be an argument."""
    kept = {}
    for key, value in data.items():
        if isinstance(value, dict) and key != "network_g" and depth < 2:
            kept[key] = _without_empty(value, depth + 1)
        elif value is not None:
            kept[key] = value
    return kept


def _explain(error: ValidationError, data: Mapping[str, Any]) -> str:
    """One sentence for the first of pydantic's complaints: the YAML path, what is wrong, the nearest valid word."""
    first = error.errors()[0]
    parts = [
        part for part in first["loc"] if not (isinstance(part, str) and re.match(r"(function|literal|tuple|constrained)", part))
    ]
    where = ".".join(map(str, parts))
    if first["type"] == "extra_forbidden":
        known = _known_words(parts[:-1])
        return f"unknown option `{where}`.{did_you_mean(str(parts[-1]), known)} Known there: {', '.join(sorted(known))}."
    if first["type"] == "missing":
        return f"`{where}` is missing; add it."
    message = "must be a list" if first["type"] == "tuple_type" else first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    shown = f" (it is {value!r})" if isinstance(value, (str, int, float, bool)) and repr(value) not in message else ""
    return f"{where or 'options'}: {message[0].lower()}{message[1:]}{shown}."


def _known_words(parts: Sequence[Any]) -> list[str]:
    """The words that the section at this path of the options knows."""
    model: type[BaseModel] | None = Options
    for part in parts:
        if model is not None and part in model.model_fields:  # else it is a key of a mapping or a place in a list
            model = _section_of(model.model_fields[part].annotation)
    return list(model.model_fields) if model is not None else []


def _section_of(hint: Any) -> type[BaseModel] | None:
    """The section in a type such as tuple[StageOptions, ...] | None."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint
    return next((section for inner in typing.get_args(hint) if (section := _section_of(inner))), None)
