"""Evaluation of a restorer on a data set: one version, for testing and for validation during training."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from basicsr.engine.testing.results import Evaluation, ImageResult, means
from basicsr.errors import UserError
from basicsr.models.inference import Predict
from basicsr.utils import dist
from basicsr.utils.image import quantise, write_image

logger = logging.getLogger("basicsr")


def evaluate(
    predict: Predict,
    dataset: torch.utils.data.Dataset,
    metrics: Mapping[str, Callable],
    *,
    save_dir: Path | None = None,
    max_images: int | None = None,
    input_metrics: bool = True,
    on_image: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor | None, str], None] | None = None,
    label: str = "testing",
) -> Evaluation:
    """Restore every image and measure it by the papers' protocol: clamped, rounded to 8 bits, compared with the 8-bit truth.

    Several processes share the images, each taken by one of them; all get all results, in the order of the data set. An image
    that cannot be read, restored or measured fails alone.

    Args:
        predict: (1, 3, H, W) float in [0, 1] -> the same shape.
        dataset: yields {"lq", "gt": (3, H, W), "name"}; without "gt", metrics are of the restored image alone.
        save_dir: restored images are written there as <name>.png.
        max_images: only the first so many.
        input_metrics: also measure the degraded images.
        on_image: called with (number, lq, restored, gt, name) of every image of this process, (3, H, W) each.

    Raises:
        UserError: no image could be measured.
    """
    count = min(len(dataset), max_images or len(dataset))
    mine = range(dist.rank(), count, dist.world_size())
    finish = partial(_finish, metrics=metrics, save_dir=save_dir, input_metrics=input_metrics)

    def work() -> list[ImageResult | str]:
        """Results, and reasons of failures, in order."""
        results, unfinished = [], deque()
        bar = tqdm(mine, desc=label, unit="image", leave=False, disable=None if dist.is_main() else True)
        # While the network works on an image, the next one is read and the one before is measured and saved.
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as finisher:
            samples = deque(reader.submit(dataset.__getitem__, index) for index in mine[:1])
            for index, following in zip_longest(bar, mine[1:]):
                reading = samples.popleft()
                if following is not None:
                    samples.append(reader.submit(dataset.__getitem__, following))
                try:
                    sample = reading.result()
                    restored, seconds = _timed(predict, sample["lq"])
                except UserError as error:
                    unfinished.append(_failed(error))
                else:
                    if on_image is not None:
                        on_image(index, sample["lq"], restored, sample.get("gt"), sample["name"])
                    unfinished.append(finisher.submit(finish, sample, restored, seconds, index == mine[0]))
                if len(unfinished) > 1:
                    results.append(_outcome(unfinished.popleft()))
                    bar.set_postfix(_so_far(results))
            return results + [_outcome(last) for last in unfinished]

    shares = dist.gather(dist.together(work))
    return _together([shares[index % len(shares)][index // len(shares)] for index in range(count)], dataset)


def _finish(
    sample: Mapping[str, torch.Tensor | str],
    restored: torch.Tensor,
    seconds: float,
    cold: bool,
    *,
    metrics: Mapping[str, Callable],
    save_dir: Path | None,
    input_metrics: bool,
) -> ImageResult:
    """Measure and save one image; see `evaluate`."""
    if broken := int((~torch.isfinite(restored)).sum()):
        raise UserError(f"{broken} of the values that the network makes of it are no numbers")
    image, lq, gt = to_bgr8(restored), to_bgr8(sample["lq"]), to_bgr8(sample["gt"]) if "gt" in sample else None
    if save_dir is not None:
        write_image(save_dir / f"{sample['name']}.png", image[..., ::-1])
    of_input = measure(metrics, lq, gt) if input_metrics else {}
    return ImageResult(sample["name"], tuple(image.shape[:2]), measure(metrics, image, gt), of_input, seconds, cold)


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


def _timed(predict: Predict, lq: torch.Tensor) -> tuple[torch.Tensor, float]:
    """(3, H, W) restored, on the CPU, and seconds."""
    start = time.perf_counter()
    restored = predict(lq[None])[0].cpu()  # waits for the device
    return restored, time.perf_counter() - start


def _failed(error: UserError) -> Future:
    future = Future()
    future.set_exception(error)
    return future


def _outcome(future: Future) -> ImageResult | str:
    try:
        return future.result()
    except UserError as error:
        return str(error).rstrip(".")


def name_of(dataset: torch.utils.data.Dataset, index: int) -> str:
    """What an image is called where it cannot be read."""
    return dataset.name(index) if hasattr(dataset, "name") else f"image {index + 1}"


def measure(metrics: Mapping[str, Callable], image: np.ndarray, gt: np.ndarray | None) -> dict[str, float]:
    """The value of every metric; UserError, which names it, where one has none."""
    values = {}
    for name, metric in metrics.items():
        try:
            values[name] = float(metric(img1=image, img2=gt))
        except (UserError, ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
            logger.debug("%s", name, exc_info=error)
            why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            raise UserError(f"{name}: {why}") from error
        if math.isnan(values[name]):
            raise UserError(f"{name} is no number")
    return values


def covered(net: torch.nn.Module, results: list[ImageResult], part: int | str | None) -> int:
    """How many images, or the parts of them that the -Local `net` saw, lie in its window, so that TLC changed nothing.

    Args:
        part: side of the tiles or patches; anything but a number: whole images.
    """
    seen = [tuple(min(side, part) for side in image.size) if isinstance(part, int) else image.size for image in results]
    return sum(net.tlc_report.covers(size) for size in seen)


def to_bgr8(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) RGB in [0, 1] -> (H, W, 3) uint8 BGR, as the metrics take it."""
    return quantise(image.float().numpy().transpose(1, 2, 0))[..., ::-1]
