"""Where to set the window of TLC: a network measured at several windows (`base_size`), and without TLC."""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from basicsr.archs import build_network, plain_name, tlc_words, with_tlc
from basicsr.engine import build
from basicsr.engine.testing import report
from basicsr.engine.testing.evaluate import ImageResult, covered, evaluate, mean, means
from basicsr.engine.weights import with_training_patch
from basicsr.errors import UserError
from basicsr.models.inference import Predict
from basicsr.options import Options, display, resolve
from basicsr.sections import DatasetOptions
from basicsr.utils.checkpoint import sha256
from basicsr.utils.image import write_bytes

logger = logging.getLogger("basicsr")
DEFAULTS = {"statistics": "window", "attention": "published"}  # of TLC's options beside the sizes and fast_imp
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
    how: dict[str, str]
    parameters: int

    def sizes(self) -> list[int]:
        """The windows that are tried when none are named."""
        return [int(factor * self.patch) for factor in FACTORS]

    def network_g(self, base_size: int | None) -> dict:
        """The options with this window, in one spelling for all windows. None: without TLC, which sees the whole image."""
        if base_size is None:
            return self.plain
        return {**self.plain, "tlc": {"train_size": self.patch, "base_size": base_size, "fast_imp": self.fast_imp, **self.how}}


@dataclass(frozen=True)
class Point:
    """What was measured with a window. base_size: None for the plain network. covered: images that lie in the window."""

    base_size: int | None
    images: list[ImageResult]
    covered: int = 0

    def values(self, metric: str) -> list[float]:
        return [image.metrics[metric] for image in self.images]


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
    weights = resolve(opt.path.pretrain_network_g) if opt.path.pretrain_network_g else None
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


def prepare(opt: Options, network_g: dict, device: torch.device) -> tuple[nn.Module, Predict]:
    """The network with its weights, and the way to run it over an image."""
    net = build.build_net(network_g, opt.path)
    model = build.build_model_for_inference(net, opt, device)
    return net, build.way_to_run(model.predict, opt.val, device)


# ---- what came out


@dataclass(frozen=True)
class Sweep:
    """Points of a network on a data set: the plain network first, then windows from small to large.

    metric: decides which is best. sign: 1 where higher is better, else -1. weights: their SHA-256.
    """

    name: str
    network: str
    dataset: str
    patch: int
    metric: str
    sign: int
    protocols: dict[str, str]
    weights: str | None
    device: str
    points: tuple[Point, ...] = ()

    @property
    def plain(self) -> Point:
        return self.points[0]

    @property
    def best(self) -> Point:
        return max(self.points, key=lambda point: self.sign * mean(point.values(self.metric)))

    def gains(self, point: Point) -> list[float]:
        """Over the plain network, image by image."""
        pairs = zip(point.values(self.metric), self.plain.values(self.metric), strict=True)
        return [value - plain for value, plain in pairs]

    def gaining(self, point: Point) -> int:
        return sum(self.sign * gain > 0 for gain in self.gains(point))


def run_sweep(opt: Options, base_sizes: Sequence[int] | None, train_size: int | None, folder: Path) -> Sweep:
    """Measure the plain network, then window after window; what there is lies in `folder` after each of them.

    Args:
        base_sizes: the windows; by default FACTORS times the training patch. train_size: see `windows_of`.

    Raises:
        UserError: options, data or weights that cannot be measured; found before the first image.
    """
    windows = windows_of(opt, train_size)
    if windows.origin:
        logger.info("Trained on patches of %d (%s).", windows.patch, windows.origin)
    key, images = images_of(opt)
    dataset = build.build_dataset(images, f"datasets.{key}")
    metrics = build.build_metrics(opt.val)
    if not metrics:
        raise UserError("val.metrics is empty; add for example `psnr: {type: calculate_psnr, crop_border: 0}`.")
    if opt.path.pretrain_network_g is None:
        logger.warning("path.pretrain_network_g is empty: the network has its random initial weights.")
    device = build.prepare_machine(opt)
    nets = {None: prepare(opt, windows.network_g(None), device)}
    dataset.check()
    first = next(iter(metrics))
    sweep = Sweep(
        name=opt.name,
        network=plain_name(opt.network_g.type),
        dataset=images.name or key,
        patch=windows.patch,
        metric=first,
        sign=1 if metrics[first].higher_is_better else -1,
        protocols={name: metric.protocol for name, metric in metrics.items()},
        weights=sha256(resolve(opt.path.pretrain_network_g)) if opt.path.pretrain_network_g else None,
        device=report.device_name(device),
    )
    for base_size in (None, *sorted(set(base_sizes or windows.sizes()))):
        net, predict = nets.pop(base_size, None) or prepare(opt, windows.network_g(base_size), device)
        label = "global" if base_size is None else f"base_size {base_size}"
        results = evaluate(predict, dataset, metrics, max_images=opt.val.max_images, input_metrics=False, label=label)
        point = Point(base_size, results, covered(net, results, opt.val) if base_size else 0)
        sweep = replace(sweep, points=(*sweep.points, point))
        logger.info("%s: %s %.4f", label, first, mean(point.values(first)))
        files = write(folder, sweep) if base_size else []
    logger.info("\n%s\n\nWritten: %s", table(sweep), ", ".join(map(display, files)))
    if key != "val":
        logger.info("Choose the window on validation images: chosen on the test set, it is tuned on the test set.")
    return sweep


def table(sweep: Sweep) -> str:
    """A line a window, the plain network last, the best one marked."""
    names, count = list(sweep.protocols), len(sweep.plain.images)
    head = f"{'base_size':>10}{'patches':>9}" + "".join(f"{name:>11}" for name in names)
    lines = [
        f"{sweep.network}, trained on patches of {sweep.patch}, on {count} images of {sweep.dataset}",
        f"{head}{f'gain, {sweep.metric}':>14}{'gaining':>10}{'covered':>9}{'s/image':>9}",
    ]
    for point in [*sweep.points[1:], sweep.plain]:
        size = ("global", "plain") if point.base_size is None else (point.base_size, f"{point.base_size / sweep.patch:.3g}x")
        values = "".join(f"{value:>11.4f}" for value in means(point.images).values())
        gain = ("", "", "")
        if point.base_size is not None:
            gain = (f"{mean(sweep.gains(point)):+.4f}", f"{sweep.gaining(point)}/{count}", f"{point.covered}/{count}")
        seconds = mean([image.seconds for image in point.images])
        mark = "  <- best" if point is sweep.best else ""
        lines.append(f"{size[0]:>10}{size[1]:>9}{values}{gain[0]:>14}{gain[1]:>10}{gain[2]:>9}{seconds:>9.2f}{mark}")
    return "\n".join([*lines, *(f"{name}: {protocol}" for name, protocol in sweep.protocols.items())])


def write(folder: Path, sweep: Sweep) -> list[Path]:
    """sweep.json, sweep.csv (every image) and sweep.png in `folder`; returns their paths."""
    files = [folder / f"sweep.{suffix}" for suffix in ("json", "csv", "png")]
    write_bytes(files[0], json.dumps(_as_dict(sweep), indent=1).encode())
    write_bytes(files[1], _csv(sweep).encode())
    draw(files[2], sweep)
    return files


def _as_dict(sweep: Sweep) -> dict[str, Any]:
    fields = ("name", "network", "dataset", "patch", "metric", "protocols", "weights", "device")
    windows = [
        {
            "base_size": _size(point),
            "metrics": means(point.images),
            "gain": mean(sweep.gains(point)),
            "gaining": sweep.gaining(point),
            "covered": point.covered,
            "seconds_per_image": mean([image.seconds for image in point.images]),
        }
        for point in sweep.points
    ]
    return {
        **{field: getattr(sweep, field) for field in fields},
        "images": len(sweep.plain.images),
        "best": _size(sweep.best),
        "windows": windows,
    }


def _csv(sweep: Sweep) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["base_size", "image", "width", "height", *sweep.protocols, "seconds"])
    for point in sweep.points:
        for image in point.images:
            values = [*image.metrics.values(), image.seconds]
            writer.writerow([_size(point), image.name, *image.size[::-1], *(f"{value:.6f}" for value in values)])
    return out.getvalue()


def _size(point: Point) -> int | str:
    return "global" if point.base_size is None else point.base_size


# ---- figures


def draw(file: Path, sweep: Sweep) -> None:
    """The metric over the window; `global` is the plain network, and a ring is around the best."""
    figure = Figure(figsize=(6.6, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = {point.base_size: mean(point.values(sweep.metric)) for point in sweep.points}
    plain = values.pop(None)
    line = draw_windows(axes, sweep.patch, values, plain, color="C0", marker="o")
    best = list(values).index(sweep.best.base_size) if sweep.best.base_size else len(values)
    axes.plot(
        line[0][best], line[1][best], "o", color="C3", fillstyle="none", markersize=13, label=f"best: {_size(sweep.best)}"
    )
    axes.set_xticks(line[0], [*(f"{base}\n{base / sweep.patch:.3g}x" for base in values), "global\n(plain)"])
    axes.set_xlabel(f"window: base_size in pixels, and in training patches of {sweep.patch}")
    axes.set_ylabel(f"{sweep.metric}, mean over {len(sweep.plain.images)} images")
    axes.set_title(f"{sweep.network} on {sweep.dataset}")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(file, figure)


def draw_windows(
    axes: Axes, patch: int, values: Mapping[int, float], plain: float, *, color: str, marker: str, label: str | None = None
) -> tuple[Sequence[float], Sequence[float]]:
    """`values` by window over the windows in patches, dotted on to the value of the plain network; returns all x and y."""
    x, y = [base / patch for base in values], list(values.values())
    end = x[-1] + 1
    axes.plot(x, y, marker=marker, color=color, label=label)
    axes.plot([x[-1], end], [y[-1], plain], ":", marker=marker, markevery=[1], color=color)
    return [*x, end], [*y, plain]


def save_figure(file: Path, figure: Figure) -> None:
    out = io.BytesIO()
    # no date or version inside: the same figures give the same file
    figure.savefig(out, format="png", metadata={"Software": None})
    write_bytes(file, out.getvalue())
