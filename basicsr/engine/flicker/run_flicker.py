"""The door of a measurement of flicker: a network plain, in patches and -Local, on clips."""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from basicsr import __version__
from basicsr.archs import plain_name, with_tlc
from basicsr.engine import build
from basicsr.engine.channels import check_channels, protocol_lines, takes_grey
from basicsr.engine.flicker import show
from basicsr.engine.flicker.clips import Clip, clips_in, clips_of
from basicsr.engine.flicker.measure import INPUT, TRUTH, Pictures, Result, measure_clip
from basicsr.engine.testing.pairs import metrics_by
from basicsr.engine.testing.report import device_name
from basicsr.engine.weights import weights_of
from basicsr.errors import UserError, counted, first_ten
from basicsr.metrics.flicker import PROTOCOL
from basicsr.models.inference import Predict
from basicsr.options import Options, display, resolve
from basicsr.sections import ValOptions
from basicsr.utils.checkpoint import sha256
from basicsr.utils.files import write_bytes
from basicsr.utils.image import write_image
from basicsr.utils.log import set_aside
from basicsr.utils.strict_json import strict_json

logger = logging.getLogger("basicsr")


def run_flicker(opt: Options, folder: Path | None, lq: Sequence[Path] = (), gt: Sequence[Path] = ()) -> int:
    """Write table.md, report.json and a picture of each clip to `folder`; with val.save_img also the restored frames.

    Args:
        folder: None: results/flicker_<name>, from which an earlier run's results are moved away.
        lq, gt: video files; none: the clips are those of the first of `datasets` that is not `train`.

    Returns:
        0, or 1 where some of several clips failed; the others are measured and the failures listed.

    Raises:
        UserError: options, weights or data that cannot be measured, or no clip could be.
    """
    datasets = {} if lq else _first_set(opt)
    ways, grey = _ways(opt, datasets)
    if lq and grey:
        logger.info("The network is one of grey pictures: frames in colour are made grey.")
    most = opt.val.max_images
    clips = clips_in(lq, gt, most, grey=grey) if lq else clips_of(*datasets.values(), most)
    metrics = build.build_metrics(opt.val if opt.val.metrics else ValOptions(metrics=metrics_by("rgb8")))
    if unfit := [name for name, metric in metrics.items() if not metric.needs_gt or metric.of_set]:
        logger.warning("%s: no measure of a single picture beside its ground truth, and left out.", ", ".join(unfit))
        metrics = {name: metric for name, metric in metrics.items() if name not in unfit}
    if folder is None:
        folder = resolve("results") / f"flicker_{opt.name}"
        if moved := set_aside(folder):
            logger.info("The earlier results of this name were moved to %s.", display(moved[0]))
    results, failed = [], {}
    for clip in clips:
        try:
            results.append(measure_clip(clip, ways, metrics, _saver(folder, clip) if opt.val.save_img else None))
        except UserError as error:
            if len(clips) == 1:
                raise
            failed[clip.name] = str(error)
            logger.error("%s", error)
    if not results:
        raise UserError(f"no clip could be measured: {first_ten(failed)}.")
    reference = TRUTH if all(clip.has_gt for clip in clips) else INPUT
    compared = protocol_lines(metrics, grey) if any(clip.has_gt for clip in clips) else {}
    weights = weights_of(opt.path)
    about = {
        "name": opt.name,
        "tlc-restoration": __version__,
        "protocol": [PROTOCOL.format(reference=f"the {reference}"), *compared.values()],
        "weights": {"file": display(weights), "sha256": sha256(weights)} if weights else None,
        "device": device_name(build.prepare_machine(opt)),
        "failed": failed,
        "config": opt.model_dump(mode="json"),
    }
    _write(folder, results, about)
    if failed:
        logger.error("%d of %s failed: %s", len(failed), counted(len(clips), "clip"), first_ten(failed))
    return 1 if failed else 0


def _write(folder: Path, results: list[Result], about: dict) -> None:
    table = show.table(results)
    count = sum("flicker" in frame.figures[INPUT] for result in results for frame in result.frames)
    lines = "\n".join(f"{line}." for line in about["protocol"])
    frames, clips = counted(sum(len(r.frames) for r in results), "frame"), counted(len(results), "clip")
    many = f"Means over {frames} of {clips}, {count} of them with one before."
    write_bytes(folder / "table.md", f"{table}\n\n{lines}\n{many}\n".encode())
    write_bytes(folder / "report.json", strict_json(show.as_dict(results, about)).encode())
    for result in results:
        write_bytes(folder / f"{_file_name(result.clip)}.png", show.picture(result))
    logger.info("\n%s\n\n%s\n%s\n\nWritten: %s", table, lines, many, display(folder))


def _first_set(opt: Options) -> dict[str, Dataset]:
    keys = [key for key in opt.datasets if key != "train"]
    if not keys:
        raise UserError("`datasets` names no images; add datasets.test with dataroot_gt and dataroot_lq, or give --lq.")
    key, *others = keys
    if others:
        logger.warning("datasets.%s is measured alone; left out: %s. Flicker is of one data set.", key, ", ".join(others))
    dataset = build.build_dataset(opt.datasets[key], f"datasets.{key}")
    build.check_dataset(dataset, f"datasets.{key}")
    return {key: dataset}


def _ways(opt: Options, datasets: dict[str, Dataset]) -> tuple[dict[str, Predict], bool]:
    """By name, ways to restore a frame: plain, plain on patches of the training size, and -Local; and whether they take grey.

    datasets: the one by its word in the file; empty where frames are those of videos.
    """
    if opt.path.pretrain_network_g is None:
        logger.warning("path.pretrain_network_g is empty: the network has its random initial weights.")
    device, network_g = build.prepare_machine(opt), opt.network_g.as_dict()
    plain, local = (build.build_net(with_tlc(network_g, on), opt.path, opt.datasets.get("train")) for on in (False, True))
    for net in (plain, local):
        check_channels(net, opt, datasets or None)
    logger.info("%s", local.tlc_report.summary())
    patch = max(local.tlc_report.train_size)
    whole, parts = ({"grids": False}, {"grids": True, "crop_size": patch, "tile": None})
    name = plain_name(network_g["type"])
    found = {}
    for way, net, val in ((name, plain, whole), (f"patches of {patch}", plain, parts), (f"{name}Local", local, whole)):
        found[way] = build.build_runner(opt.model_copy(update={"val": opt.val.model_copy(update=val)}), device)(net)
    return found, takes_grey(plain)


def _saver(folder: Path, clip: Clip):
    def save(name: str, pictures: Pictures) -> None:
        for way, image in pictures.items():
            if way not in (INPUT, TRUTH):
                write_image(folder / "visualization" / way.replace(" ", "_") / f"{name}.png", image)

    return save


def _file_name(clip: Clip) -> str:
    return clip.name.replace("/", "_")
