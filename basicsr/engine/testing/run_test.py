"""A test run: networks, plain and -Local, on the data sets of a YAML file, into results/<name>/."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from basicsr.archs import is_local, plain_name, with_tlc
from basicsr.engine import build
from basicsr.engine.testing import report
from basicsr.engine.testing.evaluate import covered, evaluate
from basicsr.errors import UserError
from basicsr.options import Options, display, resolve
from basicsr.sections import ValOptions
from basicsr.utils import dist
from basicsr.utils.log import log_to_file, set_aside

logger = logging.getLogger("basicsr")
FEW_IMAGES = 20  # up to which the screen shows each


def run_test(opt: Options, *, tlc: str | None = None) -> dict[str, Any]:
    """Evaluate and report. Several processes share the images; the first one reports.

    Args:
        tlc: 'on', 'off', 'both', or None for what network_g says.

    Returns:
        The report, as written to results/<name>/report.json.

    Raises:
        UserError: options, data or weights that cannot be evaluated; found before the first image.
    """
    datasets, nets, metrics, device = dist.together(lambda: _prepare(opt, tlc))
    network_g = opt.network_g.as_dict()
    folder = resolve("results") / opt.name
    if dist.is_main():
        if moved := set_aside(folder):
            logger.info("The earlier results of this name were moved to %s.", display(moved))
        log_to_file(folder / f"test_{opt.name}.log")
    runs = []
    for key, dataset in datasets.items():
        for on, net in nets.items():
            name = plain_name(network_g["type"]) + ("Local" if on else "")
            model = build.build_model_for_inference(net, opt, device)
            if on:
                logger.info("%s", net.tlc_report.summary())
                logger.debug("%s", net.tlc_report)
            results = evaluate(
                build.way_to_run(model.predict, opt.val, device),
                dataset,
                metrics,
                save_dir=folder / "visualization" / key / name if opt.val.save_img else None,
                max_images=opt.val.max_images,
                label=f"{name} on {key}",
            )
            runs.append(report.Run(name, on, opt.datasets[key].name or key, results))
            _warn_if_covered(net, runs[-1], opt.val)
            net.to(torch.device("cpu"))
    if not dist.is_main():
        return {}
    protocols = {name: metric.protocol for name, metric in metrics.items()}
    written = report.write_reports(folder, opt, runs, protocols, device, is_local(network_g))
    _print(opt, runs, protocols, written["expected"])
    logger.info("Report: %s", display(folder / "report.json"))
    return written


def _prepare(
    opt: Options, tlc: str | None
) -> tuple[dict[str, Dataset], dict[bool, nn.Module], dict[str, Callable], torch.device]:
    """Data sets, networks by whether they have TLC, metrics and the device: all that can be wrong is found here."""
    network_g = opt.network_g.as_dict()
    networks = {"on": [True], "off": [False], "both": [False, True], None: [is_local(network_g)]}[tlc]
    datasets = {key: build.build_dataset(o, f"datasets.{key}") for key, o in opt.datasets.items() if key != "train"}
    if not datasets:
        raise UserError("`datasets` names no images to test on; add datasets.test with dataroot_gt and dataroot_lq.")
    metrics = build.build_metrics(opt.val)
    if not metrics:
        raise UserError("val.metrics is empty; add for example `psnr: {type: calculate_psnr, crop_border: 0}`.")
    device = build.prepare_machine(opt)
    build.model_class(opt)
    nets = {on: build.build_net(with_tlc(network_g, on), opt.path, opt.datasets.get("train")) for on in networks}
    if opt.path.pretrain_network_g is None:
        logger.warning("path.pretrain_network_g is empty: the network has its random initial weights.")
    for dataset in datasets.values():  # the slowest check last
        dataset.check()
    return datasets, nets, metrics, device


def _warn_if_covered(net: torch.nn.Module, run: report.Run, val: ValOptions) -> None:
    if run.tlc and (count := covered(net, run.images, val)):
        rows, columns = net.tlc_report.base_size
        logger.warning(
            "The window of %dx%d covers %d of %d images%s: TLC changes nothing there; set a smaller base_size.",
            *(rows, columns, count, len(run.images), " or their parts" if val.grids or val.tile else ""),
        )


def _print(opt: Options, runs: list[report.Run], protocols: dict[str, str], expected: dict) -> None:
    for dataset in dict.fromkeys(run.dataset for run in runs):
        pair = report.plain_and_local([run for run in runs if run.dataset == dataset])
        if pair and len(pair[0].images) <= FEW_IMAGES:
            logger.info("%s\n", report.image_table(*pair, metric=next(iter(protocols))))
    logger.info("%s", report.table(runs, protocols))
    for network, figures in expected.items():
        for name, figure in figures.items():
            logger.info(
                "%s %s: published {published:g}, measured {measured:.4f}, {difference:+.4f}".format(**figure), network, name
            )
