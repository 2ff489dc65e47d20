"""A test run: networks, plain and -Local, on the data sets of a YAML file, into results/<name>/."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from basicsr.archs import is_local, plain_name, with_tlc
from basicsr.engine import build
from basicsr.engine.testing import report, tables
from basicsr.engine.testing.evaluate import Run, covered, evaluate, plain_and_local
from basicsr.errors import UserError
from basicsr.models.inference import Predict
from basicsr.models.precision import precision_for
from basicsr.options import Options, display, resolve
from basicsr.utils import dist
from basicsr.utils.log import log_to_file, set_aside

logger = logging.getLogger("basicsr")
FEW_IMAGES = 20  # up to which the screen shows each


@dataclass(frozen=True)
class _Parts:
    """What a test run needs: the options are asked once, by `_prepare`.

    datasets: by their word in the file; titles: what they are called in the report.
    nets: on the CPU, by whether they have TLC. network: name of the plain one.
    runner: net -> the way to run it over an image, on the device. cut: side of the parts it sees, see `build.part_size`.
    write_reports: runs -> the report, which is also written.
    """

    name: str
    folder: Path
    datasets: Mapping[str, Dataset]
    titles: Mapping[str, str]
    nets: Mapping[bool, nn.Module]
    network: str
    metrics: Mapping[str, Callable]
    runner: Callable[[nn.Module], Predict]
    cut: int | str | None
    save_img: bool
    max_images: int | None
    write_reports: Callable[[list[Run]], dict[str, Any]]


def run_test(opt: Options, *, tlc: str | None = None) -> dict[str, Any]:
    """Evaluate and report. Several processes share the images; the first one reports.

    Args:
        tlc: 'on', 'off', 'both', or None for what network_g says.

    Returns:
        The report, as written to results/<name>/report.json.

    Raises:
        UserError: options, data or weights that cannot be evaluated; found before the first image.
    """
    parts = dist.together(lambda: _prepare(opt, tlc))
    if dist.is_main():
        if moved := set_aside(parts.folder):
            logger.info("The earlier results of this name were moved to %s.", display(moved))
        log_to_file(parts.folder / f"test_{parts.name}.log")
    runs = _measure(parts)
    if not dist.is_main():
        return {}
    written = parts.write_reports(runs)
    _print(runs, written["protocol"], written["expected"])
    logger.info("Report: %s", display(parts.folder / "report.json"))
    return written


def _prepare(opt: Options, tlc: str | None) -> _Parts:
    """All that can be wrong is found here."""
    network_g = opt.network_g.as_dict()
    networks = {"on": [True], "off": [False], "both": [False, True], None: [is_local(network_g)]}[tlc]
    datasets = {key: build.build_dataset(o, f"datasets.{key}") for key, o in opt.datasets.items() if key != "train"}
    if not datasets:
        raise UserError("`datasets` names no images to test on; add datasets.test with dataroot_gt and dataroot_lq.")
    metrics = build.build_metrics(opt.val)
    if not metrics:
        raise UserError("val.metrics is empty; add for example `psnr: {type: calculate_psnr, crop_border: 0}`.")
    device = build.prepare_machine(opt)
    runner = build.build_runner(opt, device)
    nets = {on: build.build_net(with_tlc(network_g, on), opt.path, opt.datasets.get("train")) for on in networks}
    weights = opt.path.pretrain_network_g
    if weights is None:
        logger.warning("path.pretrain_network_g is empty: the network has its random initial weights.")
    for dataset in datasets.values():  # the slowest check last
        dataset.check()
    folder = resolve("results") / opt.name
    return _Parts(
        name=opt.name,
        folder=folder,
        datasets=datasets,
        titles={key: opt.datasets[key].name or key for key in datasets},
        nets=nets,
        network=plain_name(network_g["type"]),
        metrics=metrics,
        runner=runner,
        cut=build.part_size(opt.val),
        save_img=opt.val.save_img,
        max_images=opt.val.max_images,
        write_reports=partial(
            report.write_reports,
            folder,
            name=opt.name,
            protocols={name: metric.protocol for name, metric in metrics.items()},
            weights=resolve(weights) if weights else None,
            device=report.device_name(device),
            precision=precision_for(opt.val.precision, device).describe(device),
            expected=opt.expected,
            expected_of_local=is_local(network_g),
            config=opt.model_dump(mode="json"),
        ),
    )


def _measure(parts: _Parts) -> list[Run]:
    """Every network on every data set."""
    runs = []
    for key, dataset in parts.datasets.items():
        for tlc, net in parts.nets.items():
            name = parts.network + ("Local" if tlc else "")
            predict = parts.runner(net)
            if tlc:
                logger.info("%s", net.tlc_report.summary())
                logger.debug("%s", net.tlc_report)
            results = evaluate(
                predict,
                dataset,
                parts.metrics,
                save_dir=parts.folder / "visualization" / key / name if parts.save_img else None,
                max_images=parts.max_images,
                label=f"{name} on {key}",
            )
            runs.append(Run(name, tlc, parts.titles[key], results))
            if tlc and (count := covered(net, results, parts.cut)):
                rows, columns = net.tlc_report.base_size
                logger.warning(
                    "The window of %dx%d covers %d of %d images%s: TLC changes nothing there; set a smaller base_size.",
                    *(rows, columns, count, len(results), " or their parts" if parts.cut else ""),
                )
            net.to(torch.device("cpu"))
    return runs


def _print(runs: list[Run], protocols: dict[str, str], expected: dict) -> None:
    for dataset in dict.fromkeys(run.dataset for run in runs):
        pair = plain_and_local([run for run in runs if run.dataset == dataset])
        if pair and len(pair[0].images) <= FEW_IMAGES:
            logger.info("%s\n", tables.image_table(*pair, metric=next(iter(protocols))))
    logger.info("%s", tables.table(runs, protocols))
    for network, figures in expected.items():
        for name, figure in figures.items():
            logger.info(
                "%s %s: published {published:g}, measured {measured:.4f}, {difference:+.4f}".format(**figure), network, name
            )
