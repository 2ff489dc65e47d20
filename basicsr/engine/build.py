"""From options to objects: the one place where the options of a run meet constructors that take keyword arguments."""

import functools
import inspect
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import nn

from basicsr.data import DATASETS
from basicsr.engine.channels import RGB
from basicsr.engine.weights import build_with_weights, weights_of
from basicsr.errors import UserError, first_ten
from basicsr.losses import LOSSES
from basicsr.metrics import METRICS
from basicsr.models import MODELS, inference
from basicsr.models.optimizer import make_optimizer
from basicsr.models.prediction import check_graphs
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.options import Options, resolve
from basicsr.paths import guide
from basicsr.registry import checked_arguments
from basicsr.sections import DatasetOptions, MetricOptions, PathOptions, ValOptions
from basicsr.training_sections import OptimizerOptions
from basicsr.utils.dist import free_memory, pick_device

logger = logging.getLogger("basicsr")
_OTHER_CHANNELS = (1, 2, 4, 6, 9, 12)  # grey, two views or frames of it, RGBA, two to four pictures


def build_dataset(opt: DatasetOptions, where: str, **more: object) -> torch.utils.data.Dataset:
    """A data set with its paths, `dataroot...`, resolved; `where` is its YAML path, `more` are further arguments."""
    arguments = {**opt.arguments, **more}
    for key in [key for key in arguments if key.startswith("dataroot") or key == "meta_info_file"]:
        value = arguments[key]
        arguments[key] = (
            [str(resolve(str(one))) for one in value] if isinstance(value, (list, tuple)) else str(resolve(str(value)))
        )
    try:
        dataset = DATASETS.build(opt.type, arguments, where)
    except UserError as error:
        joint = ": " if str(error).startswith("/") else "."  # about a file, or about an option
        raise error if str(error).startswith(where) else UserError(f"{where}{joint}{error}") from None
    for method in ("__len__", "check"):
        if not hasattr(dataset, method):
            raise UserError(f"{where}: {opt.type} has no method {method}; see `Your own code` in {guide('docs/train.md')}.")
    return dataset


def check_dataset(dataset: torch.utils.data.Dataset, where: str) -> None:
    """Look at all files, see `ImageDataset.check`; what is wrong is said with the YAML path."""
    try:
        dataset.check()
    except UserError as error:
        joint = "." if str(error).startswith("dataroot") else ": "
        raise error if str(error).startswith(where) else UserError(f"{where}{joint}{error}") from None


def is_there(opt: DatasetOptions) -> bool:
    """Whether all folders and files that a data set names are there."""
    words = [word for word in opt.arguments if word.startswith("dataroot")]
    roots = [opt.arguments[word] for word in words]
    return all(resolve(str(one)).exists() for root in roots for one in (root if isinstance(root, (list, tuple)) else [root]))


def check_words(opt: DatasetOptions, where: str, **more: object) -> None:
    """UserError for what `build_dataset` would refuse of the options before it looks at any picture."""
    checked_arguments(DATASETS.get(opt.type, where), {**opt.arguments, **more}, where)


def build_net(network_g: dict, path: PathOptions, train: DatasetOptions | None = None) -> nn.Module:
    """The net, with its pretrained weights if any are named.

    train: the file's training data, if it has any, whose patches TLC goes by where nothing else says them; see
        `with_training_patch`.
    """
    weights = weights_of(path)
    return build_with_weights(network_g, weights, train, param_key=path.param_key, strict=path.strict_load_g)


def build_losses(opt: Options) -> list[nn.Module]:
    train = opt.train
    named = {"train.pixel_opt": train.pixel_opt} if train.pixel_opt else {}
    named |= {f"train.losses.{number}": loss for number, loss in enumerate(train.losses)}
    for where, loss in named.items():
        LOSSES.get(loss.type, f"{where}.type")
    return [LOSSES.build(loss.type, loss.arguments, where) for where, loss in named.items()]


def build_optimizer(net: nn.Module, opt: OptimizerOptions) -> torch.optim.Optimizer:
    """Every parameter is in the group of the first pattern that its name matches, or in the last group, that of the rest.

    Each group has its `base_lr`. The net must be on its device.

    Raises:
        UserError: a pattern that matches no parameter; a net without parameters; see `make_optimizer`.
    """
    if not any(True for _ in net.parameters()):
        raise UserError(f"network_g: {type(net).__name__} has no parameters, so that there is nothing to train.")
    groups: list[list[nn.Parameter]] = [[] for _ in range(len(opt.groups) + 1)]
    for name, parameter in net.named_parameters():
        number = next((i for i, group in enumerate(opt.groups) if re.search(group.match, name)), len(opt.groups))
        groups[number].append(parameter)
    settings = []
    for i, (group, parameters) in enumerate(zip([*opt.groups, None], groups, strict=True)):
        if group is not None and not parameters:
            known = first_ten([name for name, _ in net.named_parameters()])
            raise UserError(
                f"train.optim_g.groups.{i}.match: no parameter is left that matches {group.match!r}; there are {known}."
            )
        decay = opt.weight_decay if group is None or group.weight_decay is None else group.weight_decay
        base_lr = opt.lr * (1.0 if group is None else group.lr_mult)
        settings.append({"params": parameters, "lr": base_lr, "base_lr": base_lr, "weight_decay": decay})
    arguments = {"lr": opt.lr, "weight_decay": opt.weight_decay, **opt.arguments}
    if opt.betas is not None:
        arguments["betas"] = opt.betas
    return make_optimizer(opt.type, [group for group in settings if group["params"]], arguments)


def build_metrics(val: ValOptions) -> dict[str, Callable]:
    """name -> function of (img1, img2), its options checked and filled in, with the attributes that METRICS' functions have.

    A function without these attributes needs the ground truth, is the better the higher it is, and has its name for a protocol.

    Raises:
        UserError: options that do not fit; a metric that cannot be had here, such as for want of a package.
    """
    bound = {}
    for name, metric in val.metrics.items():
        where = f"val.metrics.{name}"
        function = METRICS.get(metric.type, where)
        if not {"img1", "img2"} <= set(inspect.signature(function).parameters):
            raise UserError(f"{where}: {metric.type} must take `img1`, the restored image, and `img2`, its ground truth.")
        known = getattr(function, "higher_is_better", None)
        if known is None and metric.better is None:
            logger.warning(
                "%s: %s does not say which way is better; higher is taken to be (`better: lower`).", where, metric.type
            )
        if known is not None and metric.better == ("lower" if known else "higher"):
            raise UserError(
                f"{where}.better: of {metric.type}, {'higher' if known else 'lower'} is better; leave the word out."
            )
        bound[name] = METRICS.bind(metric.type, metric.arguments, where, later=("img1", "img2"))
        bound[name].needs_gt = getattr(function, "needs_gt", True)
        bound[name].higher_is_better = higher = metric.better != "lower" if metric.better else known is not False
        _describe(bound[name], function, metric, val.use_image, where)
        bound[name].protocol += "" if higher else ", lower is better"
        bound[name].on_gpu = getattr(function, "on_gpu", False)
        bound[name].of_set, bound[name].enough = getattr(function, "of_set", None), getattr(function, "enough", 1)
        _make_ready(function, bound[name].keywords, where)
    return bound


def _describe(bound: functools.partial, function: Callable, metric: MetricOptions, use_image: bool, where: str) -> None:
    """What it takes, how small, and its protocol; UserError for options that contradict one another."""
    options = bound.keywords

    def said(word: str, default: object) -> object:
        value = getattr(function, word, default)
        return value(**options) if callable(value) else value

    try:
        border = 2 * options.get("crop_border", 0)
        if border < 0:
            raise UserError(f"crop_border is {border // 2}, but must be 0 or more pixels.")
        bound.takes = said("takes", "uint8")
        of_floats = bound.takes == "uint8" and not use_image
        if of_floats:
            bound.takes = "float"
            if options.get("data_range") not in (None, 1):
                raise UserError(f"data_range is {options['data_range']}, but with `use_image: false` white is 1; leave it out.")
        line = getattr(function, "protocol", functools.partial(_protocol, metric.type))
        bound.protocol = line(**metric.arguments, **({"dtype": "float32"} if of_floats else {}))
        bound.smallest = tuple(side + border for side in said("smallest", (1, 1)))
    except UserError as error:
        raise UserError(f"{where}.{error}") from None


def titles(names: Mapping[str, str]) -> dict[str, str]:
    """What reports call the data sets: with their word in the file where two have one name."""
    often = Counter(names.values())
    return {key: f"{name} ({key})" if often[name] > 1 else name for key, name in names.items()}


def has_truth(dataset: torch.utils.data.Dataset) -> bool:
    """Whether its samples have a ground truth, which a data set need not say."""
    return getattr(dataset, "has_gt", True)


def too_small(dataset: torch.utils.data.Dataset, metrics: dict[str, Callable], count: int | None = None) -> dict[str, str]:
    """Why, by name, the first `count` images cannot be measured, as far as a checked data set knows their sizes."""
    found = {}
    for name, (height, width) in list(getattr(dataset, "sizes", {}).items())[:count]:
        for word, metric in metrics.items():
            short, long = metric.smallest
            if min(height, width) < short or max(height, width) < long:
                found[name] = f"{width}x{height}, but {word} needs {long}x{short}"
    return found


def check_counts(where: str, dataset: torch.utils.data.Dataset, metrics: dict[str, Callable], count: int | None = None) -> None:
    """Whether metrics of the whole set have images enough in the first `count`: UserError of one, a warning of too few."""
    images = min(len(dataset), count or len(dataset))
    for name, metric in metrics.items():
        if metric.of_set and images < 2:
            raise UserError(f"{where}: {name} is of a set of images, and here is one; take more, or leave {name} out.")
        if images < metric.enough:
            logger.warning(
                "%s: %s is biased for fewer than %s images, and these are %d: compare it with figures of the same images only.",
                *(where, name, f"{metric.enough:,}", images),
            )


def _make_ready(function: Callable, options: Mapping[str, object], where: str) -> None:
    """What a metric needs beside its options is here: the device, packages, weights."""
    if (device := options.get("device")) is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"{where}.device: `{device}` cannot be used here ({reason}); leave the word out for the CPU."
            ) from None
    if ready := getattr(function, "ready", None):
        try:
            ready(**options)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def _protocol(name: str, dtype: str = "uint8", **options: object) -> str:
    """Of a metric that has none of its own: its name and options."""
    return ", ".join([name, *(f"{key} {value}" for key, value in options.items()), dtype])


def prepare_machine(opt: Options) -> torch.device:
    """The device of a run; on a CPU, its number of threads is set. UserError for CUDA graphs that it has not."""
    if opt.num_threads:
        torch.set_num_threads(opt.num_threads)
    device = pick_device(opt.num_gpu)
    try:
        check_graphs(opt.val.cuda_graphs, device)
    except UserError as error:
        raise UserError(f"val.{error}") from None
    return device


def build_runner(opt: Options, device: torch.device) -> Callable[[nn.Module], inference.Predict]:
    """A function that puts a net on the device and returns the way to run it over an image."""
    val = opt.val
    make = functools.partial(
        model_class(opt),
        device=device,
        precision=val.precision,
        channels_last=val.channels_last,
        compiled=val.compile,
        cuda_graphs=val.cuda_graphs,
    )
    return lambda net: way_to_run(make(net).predict, val, device)


def model_class(opt: Options) -> type[ImageRestorationModel]:
    return MODELS.get(opt.model_type, "model_type")


def way_to_run(predict: inference.Predict, val: ValOptions, device: torch.device | None = None) -> inference.Predict:
    """`predict` on the whole image, in patches or tiles, padded or not, with or without self-ensemble, as `val` says.

    device: where `predict` computes, whose free memory is what `tile: auto` reckons with; None: unknown.
    """
    predict = _checked(predict)
    if val.window_size:  # inside of all else, so that tiles and turned images have the right sides as well
        predict = functools.partial(inference.padded, predict, multiple=val.window_size)
    run = _in_parts(predict, val, device)
    run = functools.partial(inference.self_ensemble, run) if val.self_ensemble else run

    def guarded(image: torch.Tensor) -> torch.Tensor:
        try:
            return run(image)
        except UserError:
            raise
        except (MemoryError, RuntimeError, ValueError, AssertionError, LookupError, ArithmeticError) as error:
            height, width = image.shape[-2:]
            if not inference.is_out_of_memory(error):
                logger.debug("The network failed.", exc_info=error)
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise UserError(f"the network cannot run on {width}x{height} pixels: {reason}.") from error
            raise UserError(
                f"out of memory at {width}x{height}; set val.tile: auto (or a side such as 512), or val.precision: bf16."
            ) from error

    return guarded


def _checked(predict: inference.Predict) -> inference.Predict:
    """UserError, in words for its user, for a network of other images than RGB, or of another size than theirs."""

    def run(image: torch.Tensor) -> torch.Tensor:
        try:
            out = predict(image)
        except (RuntimeError, ValueError, AssertionError, LookupError) as error:
            if isinstance(error, UserError) or inference.is_out_of_memory(error) or image.shape[1] != RGB:
                raise
            if channels := next((count for count in _OTHER_CHANNELS if _takes(predict, image, count)), None):
                named = f"{channels} channel{'s' * (channels > 1)}"
                raise UserError(
                    f"the network takes images of {named}, but pictures are read as RGB: take one for RGB."
                ) from error
            raise
        if out.shape[-2:] != image.shape[-2:] or (image.shape[1] == RGB != out.shape[1]):
            given, taken = (f"{x.shape[-1]}x{x.shape[-2]} pixels and {x.shape[1]} channels" for x in (out, image))
            raise UserError(f"the network gives {given} for a picture of {taken}: take one that keeps size and channels.")
        return out

    return run


def _takes(predict: inference.Predict, image: torch.Tensor, channels: int) -> bool:
    try:
        predict(image[:, [channel % RGB for channel in range(channels)]])
    except (RuntimeError, ValueError, AssertionError, LookupError):
        return False
    return True


def _in_parts(predict: inference.Predict, val: ValOptions, device: torch.device | None) -> inference.Predict:
    side, overlap = part_size(val), val.tile_overlap
    if side is None:
        return predict
    if side == "auto":
        return lambda image: inference.auto_tiled(predict, image, overlap, None if device is None else free_memory(device))
    if val.grids:
        return lambda image: inference.grids(predict, image, side)
    return lambda image: inference.tiled(predict, image, side, overlap)


def part_size(val: ValOptions) -> int | str | None:
    """Side of the patches or tiles that `way_to_run` cuts images into; 'auto': where memory asks for it; None: it does not."""
    return val.crop_size if val.grids else val.tile
