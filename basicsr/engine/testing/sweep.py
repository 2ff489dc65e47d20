"""Where to set the window of TLC: a network measured at several windows (`base_size`), and without TLC."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from basicsr.archs import build_network, plain_name, tlc_words, with_tlc
from basicsr.engine import build
from basicsr.engine.channels import check_channels, protocol_lines, takes_grey
from basicsr.engine.testing.evaluate import covered, evaluate
from basicsr.engine.testing.report import device_name
from basicsr.engine.testing.results import mean, of_sets
from basicsr.engine.testing.sweep_report import Point, Sweep, table, write
from basicsr.engine.weights import weights_of, with_training_patch
from basicsr.errors import UserError
from basicsr.models.inference import Predict
from basicsr.options import Options, display
from basicsr.sections import DatasetOptions
from basicsr.utils.checkpoint import sha256
from basicsr.utils.files import require_writable

logger = logging.getLogger("basicsr")
# Of TLC's options beside the sizes and fast_imp.
DEFAULTS = {"statistics": "window", "attention": "published", "exclude": (), "include": None, "in_windows": ()}
FACTORS = (1, 1.5, 2, 3, 4)  # windows that are tried, over the training patch


@dataclass(frozen=True)
class Windows:
    """A network that TLC can run with any window.

    plain: its options without TLC. patch: side of its training patches; origin: where that is from, unless it was given.
    base_size: the window that its file says.
    how: its file's other options of TLC that differ from their defaults.
    """

    plain: dict
    patch: int
    origin: str
    base_size: int
    fast_imp: bool
    how: dict[str, object]
    parameters: int

    def sizes(self) -> list[int]:
        """The windows that are tried when none are named."""
        return [int(factor * self.patch) for factor in FACTORS]

    def network_g(self, base_size: int | None) -> dict:
        """The options with this window, in one spelling for all windows. None: without TLC, which sees the whole image."""
        if base_size is None:
            return self.plain
        return {**self.plain, "tlc": {"train_size": self.patch, "base_size": base_size, "fast_imp": self.fast_imp, **self.how}}


def windows_of(opt: Options, train_size: int | None = None) -> Windows:
    """The network of a file. train_size: side of its training patches, when that is not what the file says.

    Raises:
        UserError: the windows are no squares, or TLC has nothing to change in the network.
    """
    network_g = opt.network_g.as_dict()
    given = tlc_words(network_g)
    how = {word: given[word] for word, default in DEFAULTS.items() if given.get(word, default) != default}
    local = with_tlc(network_g, True)
    if train_size is not None:
        local = {**with_tlc(network_g, False), "tlc": {"train_size": train_size, **how}}
    weights = weights_of(opt.path)
    local, origin = with_training_patch(local, weights, opt.datasets.get("train"))
    network = build_network(local)
    tlc = network.tlc_report
    if not tlc.converted:
        raise UserError(f"{opt.name}: TLC finds nothing to convert in {opt.network_g.type}, so that there is no window to set.")
    (patch, columns), (base_size, base_columns) = tlc.train_size, tlc.base_size
    if patch != columns or base_size != base_columns:
        raise UserError(f"{opt.name}: train_size and base_size must be square here, as the patches of val.grids are.")
    parameters = sum(p.numel() for p in network.parameters())
    return Windows(with_tlc(network_g, False), patch, origin, base_size, tlc.fast_imp, how, parameters)


def images_of(opt: Options) -> tuple[str, DatasetOptions]:
    """The first data set that is not for training, and its name in the file; UserError when there is none."""
    found = next(((key, dataset) for key, dataset in opt.datasets.items() if key != "train"), None)
    if found is None:
        raise UserError(f"{opt.name}: `datasets` names no images to test on; add datasets.test.")
    return found


def prepare(opt: Options, network_g: dict, device: torch.device, **dataset: Dataset) -> tuple[nn.Module, Predict]:
    """The network with its weights, and the way to run it over an image of a data set, given by its word in the file."""
    net = build.build_net(network_g, opt.path)
    check_channels(net, opt, dataset)
    return net, build.build_runner(opt, device)(net)


def run_sweep(opt: Options, base_sizes: Sequence[int] | None, train_size: int | None, folder: Path) -> Sweep:
    """Measure the plain network, then window after window; what there is lies in `folder` after each of them.

    Args:
        base_sizes: the windows; by default FACTORS times the training patch. train_size: see `windows_of`.

    Raises:
        UserError: options, data or weights that cannot be measured; found before the first image.
    """
    require_writable(folder)
    windows = windows_of(opt, train_size)
    if windows.origin:
        logger.info("Trained on patches of %d (%s).", windows.patch, windows.origin)
    key, images = images_of(opt)
    dataset = build.build_dataset(images, f"datasets.{key}")
    metrics = build.build_metrics(opt.val)
    if not metrics:
        how = "add for example `psnr: {type: calculate_psnr, crop_border: 0}`"
        raise UserError(f"val.metrics is empty; {how if build.has_truth(dataset) else 'name the ground truth, by --gt'}.")
    if all(metric.of_set for metric in metrics.values()):
        raise UserError(
            f"val.metrics: {next(iter(metrics))} is of the whole set, but windows are compared image by image; add for example "
            "`psnr: {type: calculate_psnr, crop_border: 0}`."
        )
    if opt.path.pretrain_network_g is None:
        logger.warning("path.pretrain_network_g is empty: the network has its random initial weights.")
    device = build.prepare_machine(opt)
    nets = {None: prepare(opt, windows.network_g(None), device, **{key: dataset})}
    build.check_dataset(dataset, f"datasets.{key}")
    build.check_counts(f"datasets.{key}", dataset, metrics, opt.val.max_images)
    first, cut = next(name for name in metrics if metrics[name].of_set is None), build.part_size(opt.val)
    sweep = Sweep(
        name=opt.name,
        network=plain_name(opt.network_g.type),
        dataset=images.name or key,
        patch=windows.patch,
        metric=first,
        sign=1 if metrics[first].higher_is_better else -1,
        protocols=protocol_lines(metrics, takes_grey(nets[None][0])),
        weights=sha256(weights) if (weights := weights_of(opt.path)) else None,
        device=device_name(device),
    )
    how = {"device": device, "batch_size": opt.val.batch_size, "max_images": opt.val.max_images}
    for base_size in (None, *sorted(set(base_sizes or windows.sizes()))):
        net, predict = nets.pop(base_size, None) or prepare(opt, windows.network_g(base_size), device, **{key: dataset})
        label = "global" if base_size is None else f"base_size {base_size}"
        results, failed = evaluate(predict, dataset, metrics, input_metrics=False, label=label, **how)
        hidden = covered(net, results, cut) if base_size else 0
        point = Point(base_size, results, hidden, failed, of_sets(metrics, results))
        sweep = replace(sweep, points=(*sweep.points, point))
        logger.info("%s: %s %.4f", label, first, mean(point.values(first)))
        files = write(folder, sweep) if base_size else []
    logger.info("\n%s\n\nWritten: %s", table(sweep), ", ".join(map(display, files)))
    if key != "val":
        logger.info("Choose the window on validation images: chosen on the test set, it is tuned on the test set.")
    return sweep
