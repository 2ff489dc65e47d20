"""Restore one file, a folder or a glob of photographs and videos; optionally draw input, plain and -Local side by side."""

import logging
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from basicsr import __version__
from basicsr.archs import build_network, is_local, plain_name, tlc_words, with_tlc
from basicsr.engine import build
from basicsr.engine.restoring import pictures, views
from basicsr.engine.restoring.jobs import Job, plan
from basicsr.engine.restoring.record import Record
from basicsr.engine.restoring.videos import restore_video
from basicsr.engine.weights import weights_of
from basicsr.environment import return_freed_memory
from basicsr.errors import DiskError, UserError, first_ten
from basicsr.models.exported_model import open_exported
from basicsr.models.inference import Predict
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.options import Options, display
from basicsr.utils.checkpoint import sha256
from basicsr.utils.files import remove_unfinished, require_writable
from basicsr.utils.image import (
    WRITTEN,
    ImageFormat,
    lost_in,
    read_image,
    read_pages,
    write_pages,
)
from basicsr.utils.video import is_video

logger = logging.getLogger("basicsr")
Range = tuple[float, float]  # black, white


def run_demo(
    opt: Options,
    sources: list[Path],
    output: Path | None = None,
    truth: Path | None = None,
    *,
    compare: bool = False,
    exported: Path | None = None,
    safe: bool = False,
    value_range: Range | None = None,
    resume: bool = False,
    second: Path | None = None,
) -> int:
    """Restore photographs; each keeps its type of samples, greyness, alpha and metadata, as far as the output's format can.

    A file of several pages becomes a TIFF file of as many, or numbered files; a video, a video: see `rewrite`.

    Args:
        sources: files, folders or glob patterns.
        output: a file for one photograph, else a folder, in which the tree of a folder or pattern is kept. None: beside each
            photograph, as <name>_restored.png or .mp4; what comes from a folder into <folder>_restored.
        truth: the ground truth file, or a folder of them under the same names, in the same tree or in none.
        compare: also write <output>_compare.png.
        exported: the network of this file, which `tlc export` wrote, instead of network_g.
        safe: where what comes out cannot be right (see `explosion` and `disagreement`), restore without TLC, and say what may
            help; where that cannot be right either, fail.
        value_range: what black and white are in the files; None: 0 and the largest value of their type, 0 and 1 of floats.
        resume: leave out what was restored before from the same photograph with the same weights and options.
        second: the second view of a dual-pixel photograph, or a folder of them as `truth`, for networks of two.

    Returns:
        0, or 1 when some of several files failed; the others are done and the failures listed.

    Raises: UserError: nothing to restore, options or weights that do not fit, or the only file failed.
    """
    jobs = plan(sources, output, truth, second)
    _refuse_early(jobs, value_range)
    wanted, predictors, channels = _network_g(opt, compare or safe) if exported is None else _exported(opt, exported)
    views.check(channels, second, wanted, any(is_video(job.source) for job in jobs))
    remedy = remedy_of(opt.network_g.as_dict()) if safe and exported is None else ""
    record, failed, total = Record([*_settings(opt, exported, value_range, compare, safe), second]), {}, len(jobs)
    if resume:
        jobs = [job for job in jobs if not record.holds(job)]
        logger.info("%d of %d are restored already.", total - len(jobs), total)
    for job in tqdm(jobs, unit="file", desc="restoring", disable=total == 1):
        try:
            if is_video(job.source):
                written = restore_video(job, predictors, wanted, channels, compare=compare, safe=safe, remedy=remedy)
            else:
                written = _restore(job, predictors, wanted, value_range, channels, compare=compare, safe=safe, remedy=remedy)
            if total > 1:
                record.add(job, written)
        except UserError as error:
            if total == 1 or isinstance(error, DiskError):  # no other could be written, either
                raise
            failed[job.label] = str(error)
            logger.error("%s", error)
    if failed:
        logger.error("%d of %d files failed: %s", len(failed), total, first_ten(failed))
    return 1 if failed else 0


def _refuse_early(jobs: list[Job], value_range: Range | None) -> None:
    """What cannot be, before a network is loaded; and what an earlier run left unfinished is removed."""
    if value_range and (film := next((job.label for job in jobs if is_video(job.source)), None)):
        raise UserError(f"--value-range: a video says itself what black and white are; leave it out, or {film}.")
    for folder in {job.target.parent for job in jobs}:
        require_writable(folder)
        remove_unfinished(folder)


def _settings(opt: Options, exported: Path | None, value_range: Range | None, compare: bool, safe: bool) -> list:
    """All that a restored photograph depends on, beside its source."""
    weights = exported or weights_of(opt.path)
    said = opt.model_dump(mode="json", include={"network_g", "val", "manual_seed"})
    digest = sha256(weights) if weights else uuid.uuid4().hex  # random weights are new ones in every run
    return [__version__, said, digest, value_range, compare, safe]


def _network_g(opt: Options, both: bool) -> tuple[str, dict[str, Predict], int]:
    """The name of the network that is asked for, how to run it, and the channels that it takes; where `both` are, also the one
    with TLC off or on."""
    network_g = without_seams(opt.network_g.as_dict())
    names = {on: plain_name(network_g["type"]) + ("Local" if on else "") for on in (False, True)}
    runner = build.build_runner(opt, build.prepare_machine(opt))
    predictors = {}
    for on in (False, True) if both else (is_local(network_g),):
        net = build.build_net(with_tlc(network_g, on), opt.path, opt.datasets.get("train"))
        own = build.model_class(opt) is not ImageRestorationModel  # which may deal in RGB whatever its net does
        channels = views.RGB if own else views.channels_of(net, names[on])
        if on:
            logger.info("%s", net.tlc_report.summary())
        predictors[names[on]] = views.as_rgb(runner(net), channels)
    if opt.path.pretrain_network_g is None:
        logger.warning("no weights are given: the network has its random initial weights.")
    return names[is_local(network_g)], predictors, channels


def without_seams(network_g: dict[str, Any]) -> dict[str, Any]:
    """The options of the same network with windows of attention blended, where it has any and nothing is said of them.

    What is restored here is to be looked at. Published figures, which `tlc test` compares with, are of the published windows.
    """
    if not is_local(network_g) or "attention" in tlc_words(network_g):
        return network_g
    blended = with_tlc(network_g, True, attention="blended")
    try:
        with torch.device("meta"):
            build_network(blended)
    except UserError:  # it has no attention between channels; or its options are wrong, which is said when it is built
        return network_g
    return blended


def remedy_of(network_g: dict[str, Any]) -> str:
    """What may help where windows do harm, in the words of a file and of the command line; '' where there are none."""
    if not is_local(network_g):
        return ""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build_network(with_tlc(network_g, True, statistics="patches"))
    except UserError:  # it has no norm of this kind
        return "; a larger --window (base_size in network_g) may help"
    if tlc_words(network_g).get("statistics") == "patches":
        return ""
    section = "network_g.tlc" if isinstance(network_g.get("tlc"), dict) else "network_g"
    flag = f"--force_yml {section.replace('.', ':')}:statistics=patches"
    return f"; statistics of patches may help, which need no windows: {flag}, or `statistics: patches` in {section}"


def _exported(opt: Options, file: Path) -> tuple[str, dict[str, Predict], int]:
    plainly = {"precision": ("fp32", "auto"), "channels_last": (None,), "compile": (False,), "cuda_graphs": (False, "auto")}
    for word, plain in plainly.items():
        if getattr(opt.val, word) not in plain:
            raise UserError(f"val.{word}: {display(file)} runs as it was exported; leave it out.")
    model = open_exported(file, gpu=build.prepare_machine(opt).type == "cuda")
    about = [model.metadata[key] for key in ("arch", "tlc", "weights") if model.metadata.get(key)]
    logger.info("%s: %s", display(file), "; ".join(about) or "without a word on what it is")
    name = model.metadata.get("arch") or file.stem
    channels = int(model.metadata.get("channels", views.RGB))
    return name, {name: views.as_rgb(build.way_to_run(model.predict, opt.val), channels)}, channels


def _restore(
    job: Job,
    predictors: dict[str, Predict],
    wanted: str,
    value_range: Range | None,
    channels: int,
    *,
    compare: bool,
    safe: bool,
    remedy: str,
) -> list[Path]:
    """The files that were written. channels: that the networks take."""
    return_freed_memory()  # of the last photograph, whose pieces do not fit one of another size
    grey = channels == views.GREY
    truth = read_image(job.truth) if job.truth else None
    truth = views.as_grey(truth) if truth is not None and grey else truth
    done, formats, written = [], [], []
    for number, (image, fmt) in enumerate(read_pages(job.source, value_range)):
        if truth is not None and truth.shape != image.shape:
            raise UserError(f"{job.truth}: has another size than {job.source}; name its own, or leave --target out.")
        together = fmt.pages == 1 or WRITTEN[job.target.suffix.lower()].pages
        target = job.target if together else job.target.with_name(f"{job.target.stem}_{number:04d}{job.target.suffix}")
        label = job.label if fmt.pages == 1 else f"{job.label}, page {number + 1} of {fmt.pages}"
        image, fmt = views.made_grey(label, image, fmt, wanted) if grey else (image, fmt)
        ways = views.for_job(predictors, job.second, image, fmt, value_range)
        restored = {name: pictures.run(predict, image) for name, predict in ways.items() if compare or name == wanted}
        name = pictures.safe_name(label, ways, wanted, image, restored, remedy) if safe else wanted
        if fmt.grey:
            restored = {name: np.repeat(picture.mean(2, keepdims=True), 3, axis=2) for name, picture in restored.items()}
        pictures.warn_of_nothing(label, restored[name] - image, name)
        done, formats = [*done, restored[name]], [*formats, fmt]
        if len(done) == fmt.pages or not together:
            _write(target, done, formats, job.source)
            written.append(target)
            done, formats = [], []
        shown = {"input": image, **restored}
        psnr = {name: pictures.psnr(picture, truth) for name, picture in shown.items()} if truth is not None else {}
        if psnr:
            logger.info("PSNR of %s: %s", label, ", ".join(f"{name} {value:.2f} dB" for name, value in psnr.items()))
        if compare:
            page = f"_{number:04d}" if fmt.pages > 1 and together else ""
            pictures.compare(job.panels(target, page), shown, psnr, truth)
    return written


def _write(target: Path, pages: list[np.ndarray], formats: list[ImageFormat], source: Path) -> None:
    replaced = target.exists()
    write_pages(target, pages, formats)
    logger.info("%s%s", display(target), " (in place of what was there)" if replaced else "")
    if lost := lost_in(target, formats[0]):
        logger.warning("%s cannot hold %s of %s; name a .tif file.", target.name, lost, source.name)
