"""The door of a test run: networks, plain and -Local, on the data sets of a YAML file, into results/<name>/."""

import logging
from functools import partial
from typing import Any

from basicsr.archs import is_local, plain_name, with_tlc
from basicsr.engine import build
from basicsr.engine.testing import report
from basicsr.engine.testing.trial import Trial
from basicsr.errors import UserError
from basicsr.models.precision import precision_for
from basicsr.options import Options, resolve
from basicsr.utils import dist

logger = logging.getLogger("basicsr")


def run_test(opt: Options, *, tlc: str | None = None) -> dict[str, Any]:
    """Evaluate and report. Several processes share the images; the first one reports.

    Args:
        tlc: 'on', 'off', 'both', or None for what network_g says.

    Returns:
        The report, as written to results/<name>/report.json.

    Raises:
        UserError: options, data or weights that cannot be evaluated; found before the first image.
    """
    return dist.together(lambda: prepare(opt, tlc=tlc)).run()


def prepare(opt: Options, *, tlc: str | None = None) -> Trial:
    """A test run that is ready to start. All that can be wrong is found here, and nothing is written yet."""
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
    return Trial(
        name=opt.name,
        folder=folder,
        datasets=datasets,
        titles={key: opt.datasets[key].name or key for key in datasets},
        nets=nets,
        network=plain_name(network_g["type"]),
        metrics=metrics,
        runner=runner,
        part_size=build.part_size(opt.val),
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
