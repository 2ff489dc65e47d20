"""The door of a test run: networks, plain and -Local, on the data sets of a YAML file, into results/<name>/."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from basicsr import __version__
from basicsr.archs import is_local, plain_name, with_tlc
from basicsr.engine import build
from basicsr.engine.channels import check_channels, protocol_lines, takes_grey
from basicsr.engine.testing import report
from basicsr.engine.testing.evaluate import name_of
from basicsr.engine.testing.groups import groups_of
from basicsr.engine.testing.trial import Trial
from basicsr.engine.weights import weights_of
from basicsr.errors import UserError, first_ten
from basicsr.models.precision import precision_for
from basicsr.options import Options, resolve
from basicsr.sections import DatasetOptions, GroupOptions
from basicsr.utils import dist
from basicsr.utils.checkpoint import sha256
from basicsr.utils.owner import owned

logger = logging.getLogger("basicsr")


def run_test(opt: Options, *, tlc: str | None = None, resume: bool = False) -> dict[str, Any]:
    """Evaluate and report. Several processes share the images; the first one reports.

    Args:
        tlc: 'on', 'off', 'both', or None for what network_g says.
        resume: go on with a run of this name that was cut short.

    Returns:
        The report, as written to results/<name>/report.json.

    Raises:
        UserError: options, data or weights that cannot be evaluated; found before the first image.
    """
    if resume and opt.path.pretrain_network_g is None:
        raise UserError("--resume: the network has random weights, new ones in every run; set path.pretrain_network_g.")
    trial = dist.together(lambda: prepare(opt, tlc=tlc))
    with dist.first_in(lambda: owned(trial.folder)):
        return trial.run(resume=resume)


def prepare(opt: Options, *, tlc: str | None = None) -> Trial:
    """A test run that is ready to start. All that can be wrong is found here, and nothing is written yet."""
    network_g = opt.network_g.as_dict()
    networks = {"on": [True], "off": [False], "both": [False, True], None: [is_local(network_g)]}[tlc]
    datasets = _datasets(opt)
    if not datasets:
        raise UserError("`datasets` names no images to test on; add datasets.test with dataroot_gt and dataroot_lq.")
    metrics = build.build_metrics(opt.val)
    if not metrics and not opt.val.save_img and all(map(build.has_truth, datasets.values())):
        raise UserError("val.metrics is empty; add for example `psnr: {type: calculate_psnr, crop_border: 0}`.")
    groups = {key: _groups(dataset, opt.datasets[key], f"datasets.{key}.groups") for key, dataset in datasets.items()}
    measured = {key: _measurable(f"datasets.{key}", dataset, metrics) for key, dataset in datasets.items()}
    device = build.prepare_machine(opt)
    runner = build.build_runner(opt, device)
    nets = {on: build.build_net(with_tlc(network_g, on), opt.path, opt.datasets.get("train")) for on in networks}
    for net in nets.values():
        check_channels(net, opt, datasets)
    weights = weights_of(opt.path)
    if weights is None:
        logger.warning("path.pretrain_network_g is empty: the network has its random initial weights.")
    for key, dataset in datasets.items():  # the slowest check last
        build.check_dataset(dataset, f"datasets.{key}")
        build.check_counts(f"datasets.{key}", dataset, measured[key], opt.val.max_images)
        _warn_of_misfits(f"datasets.{key}", dataset, measured[key], opt.val.max_images)
    folder = resolve("results") / opt.name
    titles = build.titles({key: opt.datasets[key].name or key for key in datasets})
    return Trial(
        name=opt.name,
        folder=folder,
        datasets=datasets,
        titles=titles,
        nets=nets,
        network=plain_name(network_g["type"]),
        metrics=measured,
        runner=runner,
        device=device,
        part_size=build.part_size(opt.val),
        save_img=opt.val.save_img,
        max_images=opt.val.max_images,
        batch_size=opt.val.batch_size,
        groups=groups,
        fingerprint=_fingerprint(opt, weights),
        write_reports=partial(
            report.write_reports,
            folder,
            name=opt.name,
            protocols=protocol_lines(metrics, any(map(takes_grey, nets.values()))),
            weights=weights,
            device=report.device_name(device),
            precision=precision_for(opt.val.precision, device).describe(device),
            published=published(opt, titles, groups),
            config=opt.model_dump(mode="json"),
            lower=[name for name, metric in metrics.items() if not metric.higher_is_better],
        ),
    )


def _datasets(opt: Options) -> dict[str, Dataset]:
    """By their words in the file. Where one of several is not there, the error says how to do without it."""
    found = {}
    of_tests = {key: data for key, data in opt.datasets.items() if key != "train"}
    for key, data in of_tests.items():
        try:
            found[key] = build.build_dataset(data, f"datasets.{key}")
        except UserError as error:
            if len(of_tests) == 1 or build.is_there(data):
                raise
            raise UserError(f"{str(error).rstrip('.')}; or test on the others: --force_yml datasets:{key}=~.") from None
    return found


def _fingerprint(opt: Options, weights: Path | None) -> str:
    """Of all that the figures depend on, but for the data's own contents."""
    said = opt.model_dump(mode="json", exclude={"name": True, "path": True, "train": True, "logger": True, "num_gpu": True})
    for section in (said, *said["datasets"].values()):  # what is only said of the figures
        for word in [word for word in section if word.startswith("expected") or word == "groups"]:
            del section[word]
    said["val"].pop("max_images")
    content = json.dumps([__version__, said, sha256(weights) if weights else None], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def published(
    opt: Options, titles: Mapping[str, str], groups: Mapping[str, Mapping[str, Collection[str]]]
) -> dict[str | None, report.Published]:
    """The figures that a file says of its data sets, by their titles, of their groups, and of the average of several.

    Those at the top of the file are of the first data set; where data sets have their own, of the average.
    """
    local = is_local(opt.network_g.as_dict())

    def of(section: Options | DatasetOptions | GroupOptions, images: int | None, label: str) -> report.Published | None:
        figures = {local: section.expected, not local: section.expected_plain if local else section.expected_local}
        return report.Published(figures, images, label) if any(figures.values()) else None

    found: dict[str | None, report.Published | None] = {}
    for key, title in titles.items():
        data = opt.datasets[key]
        label = f" on {title}" if len(titles) > 1 else ""
        found[title] = of(data, data.expected_images, label)
        for name, group in data.groups.items():
            found[f"{title}, {name}"] = of(group, group.expected_images or len(groups[key][name]), f" on {title}, {name}")
    if not any(found[title] for title in titles.values()):
        found[next(iter(titles.values()))] = of(opt, opt.expected_images, "")
    elif len(titles) > 1:
        counts = [opt.datasets[key].expected_images for key in titles]
        found[None] = of(opt, opt.expected_images or (sum(counts) if all(counts) else None), ", average")
    return {view: figures for view, figures in found.items() if figures}


def _groups(dataset: Dataset, opt: DatasetOptions, where: str) -> dict[str, frozenset[str]]:
    if not opt.groups:
        return {}
    names = [name_of(dataset, index) for index in range(len(dataset))]
    return groups_of(names, {name: resolve(group.labels) for name, group in opt.groups.items()}, where)


def _measurable(where: str, dataset: Dataset, metrics: Mapping[str, Callable]) -> dict[str, Callable]:
    """The metrics that a data set can have: without ground truth, those that need none."""
    if build.has_truth(dataset):
        return dict(metrics)
    found = {name: metric for name, metric in metrics.items() if not metric.needs_gt}
    left = [name for name in metrics if name not in found]
    if left:
        logger.warning("%s has no ground truth: it is not measured by %s, which need one.", where, ", ".join(left))
    if not found:
        logger.info("%s has no ground truth: its restored pictures are written, and nothing is measured.", where)
    return found


def _warn_of_misfits(where: str, dataset: Dataset, metrics: Mapping[str, Callable], count: int | None) -> None:
    """Say which pictures are too small for a metric, before hours of work; UserError when all are."""
    if not (small := build.too_small(dataset, metrics, count)):
        return
    text = f"{where}: {first_ten(f'{name} ({why})' for name, why in small.items())}"
    if len(small) == min(len(dataset), count or len(dataset)):
        raise UserError(f"{text}; give other pictures, a smaller crop_border, or other metrics.")
    logger.error("%s; these pictures will have no figures, the others will.", text)
