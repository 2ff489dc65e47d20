"""Evaluation of a restorer on a data set: one version, for testing and for validation during training."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from basicsr.engine.testing.lanes import Group, Lanes, Sample, lanes_for, on_host, size_of, timed
from basicsr.engine.testing.results import Evaluation, ImageResult, means
from basicsr.engine.testing.saving import Pictures, Saver, eight_bits, saver_of
from basicsr.environment import return_freed_memory
from basicsr.errors import DiskError, UserError, counted
from basicsr.models.inference import Predict
from basicsr.utils import dist

logger = logging.getLogger("basicsr")
Measured = tuple[dict[str, float], dict[str, np.ndarray]]  # values of an image, arrays for figures of the whole set


def evaluate(
    predict: Predict,
    dataset: torch.utils.data.Dataset,
    metrics: Mapping[str, Callable],
    *,
    device: torch.device | None = None,
    batch_size: int = 1,
    save_dir: Path | None = None,
    max_images: int | None = None,
    input_metrics: bool = True,
    on_image: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor | None, str], None] | None = None,
    done: Mapping[str, ImageResult] | None = None,
    on_result: Callable[[ImageResult], None] | None = None,
    label: str = "testing",
) -> Evaluation:
    """Restore every image and measure it; each metric says which images it takes, and keeps to its protocol.

    Several processes share the images, each taken by one of them; all get all results, in the order of the data set. An image
    that cannot be read, restored or measured fails alone.

    Args:
        predict: (N, C, H, W) float in [0, 1] -> the restored images, (N, 3, H, W) or of one channel.
        dataset: yields {"lq", "gt": (C, H, W), "name"}; without "gt", metrics are of the restored image alone.
        device: where `predict` computes. On a GPU many images are read, measured and saved meanwhile, see `GpuLanes`.
        batch_size: so many images that follow on one another and are of one size are restored at once.
        save_dir: restored images are written there as <name>.png, or as the data set's `saver` does.
        max_images: only the first so many.
        input_metrics: also measure the degraded images.
        on_image: called with (number, lq, restored, gt, name) of every image of this process, (C, H, W) each,
            where the device has them.
        done: results of images that are not to be done again, by name.
        on_result: called with every new result of this process, in order.

    Raises:
        UserError: no image could be measured.
    """
    count = min(len(dataset), max_images or len(dataset))
    saver, lanes = saver_of(dataset, save_dir), lanes_for(device, batch_size)
    known = _known(dataset, count, done or {}, saver)
    mine = [index for index in range(count) if index not in known][dist.rank() :: dist.world_size()]
    finish = partial(_finish, lanes=lanes, metrics=metrics, saver=saver, input_metrics=input_metrics)

    def work() -> dict[int, ImageResult | str]:
        """Results, and reasons of failures."""
        outcomes = {}
        for index, outcome in _one_by_one(predict, dataset, mine, lanes, finish, on_image, label):
            outcomes[index] = outcome
            if on_result is not None and isinstance(outcome, ImageResult):
                on_result(outcome)
        return outcomes

    outcomes = known | {index: outcome for share in dist.gather(dist.together(work)) for index, outcome in share.items()}
    if saver is not None and dist.is_main():
        saver.finish()
    return _together([outcomes[index] for index in range(count)], dataset)


def _one_by_one(
    predict: Predict,
    dataset: torch.utils.data.Dataset,
    indices: Sequence[int],
    lanes: Lanes,
    finish: Callable[..., ImageResult],
    on_image: Callable | None,
    label: str,
) -> Iterator[tuple[int, ImageResult | str]]:
    """The outcomes of images in order; while the network works on some, the next are read and the last measured and saved."""
    seen, unfinished, last_size = [], deque(), None
    bar = tqdm(total=len(indices), desc=label, unit="image", leave=False, disable=None if dist.is_main() else True)

    def take() -> tuple[int, ImageResult | str]:
        index, future = unfinished.popleft()
        seen.append(_outcome(future))
        bar.set_postfix(_so_far(seen))
        if len(seen) == 2:
            _estimate(label, len(indices) - 2, seen[-1])
        return index, seen[-1]

    with bar, ThreadPoolExecutor(lanes.readers(dataset)) as readers, ThreadPoolExecutor(lanes.workers) as finishers:
        for group in lanes.groups(dataset, indices, readers):
            if (size := size_of(group[0][1])) is not None:
                if last_size not in (None, size) and not group[0][1]["lq"].is_cuda:
                    return_freed_memory()  # whose pieces fit the last size alone
                last_size = size
            unfinished += _restored(predict, group, lanes, partial(finishers.submit, finish), on_image, indices[0])
            bar.update(len(group))
            while len(unfinished) > lanes.depth:
                yield take()
        while unfinished:
            yield take()


def _restored(
    predict: Predict, group: Group, lanes: Lanes, submit: Callable[..., Future], on_image: Callable | None, first: int
) -> list[tuple[int, Future]]:
    """Images of one size through the network, at once where they are several; what is still to be had of each.

    first: the image that is the first of all.
    """
    samples = [sample for _, sample in group]
    try:
        if isinstance(samples[0], UserError):
            raise samples[0]
        images = torch.stack([sample["lq"] for sample in samples]) if len(group) > 1 else samples[0]["lq"][None]
        restored, seconds = timed(predict, images)
    except UserError as error:
        if len(group) == 1:
            return [(group[0][0], _failed(error))]
        lanes.alone.add(size_of(samples[0]))
        logger.warning("%d images at once: %s Those of this size are restored one by one.", len(group), error)
        return [found for one in group for found in _restored(predict, [one], lanes, submit, on_image, first)]
    count, cold, started = len(group), group[0][0] == first, []
    for (index, sample), image in zip(group, restored, strict=True):
        if on_image is not None:
            on_image(index, sample["lq"], image, sample.get("gt"), sample["name"])
        started.append((index, submit(sample, image, lambda: seconds() / count, cold)))
    return started


def _known(
    dataset: torch.utils.data.Dataset, count: int, done: Mapping[str, ImageResult], saver: Saver | None
) -> dict[int, ImageResult]:
    """The results that are there, by number; where images are saved, with what was saved."""
    names = {index: name_of(dataset, index) for index in range(count)} if done else {}
    there = {index: name for index, name in names.items() if name in done}
    return {i: done[name] for i, name in there.items() if saver is None or saver.has(name)}


def _estimate(label: str, count: int, last: ImageResult | str) -> None:
    """Said of what takes more than a minute: the bar is not seen everywhere."""
    left = last.seconds * count if isinstance(last, ImageResult) else 0
    if left > 60 and dist.is_main():
        logger.info("%s: about %s left, for %s.", label, tqdm.format_interval(left), counted(count, "image"))


def _finish(
    sample: Sample, restored: torch.Tensor, seconds: Callable[[], float], cold: bool, *, lanes: Lanes, **how: object
) -> ImageResult:
    """Measure and save one image, once it is there."""
    with lanes.behind():
        took = seconds()
        try:
            return _result(sample, restored, took, cold, **how)
        except torch.cuda.OutOfMemoryError:  # the network has it all
            sample = {word: on_host(part) if isinstance(part, torch.Tensor) else part for word, part in sample.items()}
            return _result(sample, on_host(restored), took, cold, **how)


def _result(
    sample: Sample,
    restored: torch.Tensor,
    seconds: float,
    cold: bool,
    *,
    metrics: Mapping[str, Callable],
    saver: Saver | None,
    input_metrics: bool,
) -> ImageResult:
    """See `evaluate`."""
    if broken := int((~torch.isfinite(restored)).sum()):
        raise UserError(f"{broken} of the values that the network makes of it are no numbers")
    if saver is not None:
        saver.write(sample["name"], restored if isinstance(saver, Pictures) else on_host(restored))
    values, features = measure(metrics, restored, sample.get("gt"))
    of_input, input_features = _measure_input(metrics, sample, len(restored)) if input_metrics else ({}, {})
    size = tuple(restored.shape[1:])
    return ImageResult(sample["name"], size, values, of_input, seconds, cold, features, input_features)


def _measure_input(metrics: Mapping[str, Callable], sample: Sample, channels: int) -> Measured:
    """Of the degraded image; where it alone cannot be measured that is said, and the restored image's figures count."""
    if (lq := as_one_view(sample["lq"], channels)) is None:
        return {}, {}
    try:
        return measure(metrics, lq, sample.get("gt"))
    except UserError as error:
        logger.warning("%s: there are no figures of the degraded image (%s).", sample["name"], str(error).rstrip("."))
        return {name: math.nan for name, metric in metrics.items() if metric.of_set is None}, {}


def as_one_view(lq: torch.Tensor, channels: int) -> torch.Tensor | None:
    """The degraded input as a picture of so many channels. Of several views, whose channels follow on one another, their mean,
    which is the picture that a dual-pixel camera gives; None where it is none."""
    if len(lq) % channels:
        return None
    return lq.view(-1, channels, *lq.shape[1:]).mean(0)


def _so_far(outcomes: Sequence[ImageResult | str]) -> dict[str, str]:
    """What the progress bar shows."""
    measured = [outcome for outcome in outcomes if isinstance(outcome, ImageResult)]
    return {name: f"{value:.4g}" for name, value in means(measured).items()} if measured else {}


def _together(outcomes: Sequence[ImageResult | str], dataset: torch.utils.data.Dataset) -> Evaluation:
    """Of all images in order; the first process says which failed."""
    failed = {name_of(dataset, index): why for index, why in enumerate(outcomes) if isinstance(why, str)}
    evaluation = Evaluation([outcome for outcome in outcomes if isinstance(outcome, ImageResult)], failed)
    if not evaluation.images:
        evaluation.complete()  # raises
    if failed and dist.is_main():
        logger.error("%s", evaluation.failures())
    return evaluation


def _failed(error: UserError) -> Future:
    future = Future()
    future.set_exception(error)
    return future


def _outcome(future: Future) -> ImageResult | str:
    try:
        return future.result()
    except DiskError:  # the other images could not be written, either
        raise
    except UserError as error:
        return str(error).rstrip(".")


def name_of(dataset: torch.utils.data.Dataset, index: int) -> str:
    """What an image is called where it cannot be read."""
    return dataset.name(index) if hasattr(dataset, "name") else f"image {index + 1}"


def measure(metrics: Mapping[str, Callable], image: torch.Tensor, gt: torch.Tensor | None) -> Measured:
    """The value of every metric, and what those of the whole set keep; UserError, which names it, where one has none.

    Args:
        metrics: as `build_metrics` makes them; `takes` and `on_gpu` say which images they are given, see
            `basicsr.metrics.metric`.
        image, gt: (C, H, W) RGB or grey, on the CPU or on a GPU.
    """
    values, features, forms = {}, {}, {}
    for name, metric in metrics.items():
        form = getattr(metric, "takes", "uint8"), image.is_cuda and getattr(metric, "on_gpu", False)
        if form not in forms:
            forms[form] = [None if one is None else _bgr(one, *form) for one in (image, gt)]
        try:
            found = metric(img1=forms[form][0], img2=forms[form][1])
            if metric.of_set is None:
                values[name] = float(found)
            else:
                features[name] = np.asarray(found, np.float32)
        except (UserError, ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
            if image.is_cuda and isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            logger.debug("%s", name, exc_info=error)
            why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            raise UserError(f"{name}: {why}") from error
        if math.isnan(values[name]) if name in values else not np.isfinite(features[name]).all():
            raise UserError(f"{name} is no number")
    return values, features


def covered(net: torch.nn.Module, results: list[ImageResult], part: int | str | None) -> int:
    """How many images, or the parts of them that the -Local `net` saw, lie in its window, so that TLC changed nothing.

    Args:
        part: side of the tiles or patches; anything but a number: whole images.
    """
    if not net.tlc_report.converted:  # no window is too large then
        return 0
    seen = [tuple(min(side, part) for side in image.size) if isinstance(part, int) else image.size for image in results]
    return sum(net.tlc_report.covers(size) for size in seen)


def _bgr(image: torch.Tensor, takes: str, as_tensor: bool) -> torch.Tensor | np.ndarray:
    """(C, H, W) RGB -> (H, W, C) BGR as a metric takes it: `float`, clamped to [0, 1], or `uint8`; where it is, or an array."""
    image = eight_bits(image) if takes == "uint8" else image.float().clamp(0, 1)
    bgr = image.flip(0).permute(1, 2, 0)
    return bgr if as_tensor else on_host(bgr.contiguous()).numpy()
