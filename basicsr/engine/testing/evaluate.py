"""Evaluation of a restorer on a paired data set: one version, for testing and for validation during training."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from basicsr.models.inference import Predict
from basicsr.utils import dist
from basicsr.utils.image import quantise, write_image


@dataclass(frozen=True)
class ImageResult:
    name: str
    size: tuple[int, int]  # height, width
    metrics: dict[str, float]
    input_metrics: dict[str, float]  # of the degraded image itself
    seconds: float  # for the network alone


@dataclass(frozen=True)
class Run:
    """One network on one data set."""

    network: str
    tlc: bool
    dataset: str
    images: list[ImageResult]

    @property
    def seconds_per_image(self) -> float:
        return mean([image.seconds for image in self.images])


def evaluate(
    predict: Predict,
    dataset: torch.utils.data.Dataset,
    metrics: Mapping[str, Callable],
    *,
    save_dir: Path | None = None,
    max_images: int | None = None,
    input_metrics: bool = True,
    on_image: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, str], None] | None = None,
    label: str = "testing",
) -> list[ImageResult]:
    """Restore every image and measure it by the papers' protocol: clamped, rounded to 8 bits, compared with the 8-bit truth.

    Several processes share the images, each taken by one of them; all get all results, in the order of the data set.

    Args:
        predict: (1, 3, H, W) float in [0, 1] -> the same shape.
        dataset: yields {"lq", "gt": (3, H, W), "name"}.
        save_dir: restored images are written there as <name>.png.
        max_images: only the first so many.
        input_metrics: also measure the degraded images.
        on_image: called with (number, lq, restored, gt, name) of every image of this process, (3, H, W) each.
    """
    count = min(len(dataset), max_images or len(dataset))
    mine = range(dist.rank(), count, dist.world_size())

    def finish(sample: dict, restored: torch.Tensor, seconds: float) -> ImageResult:
        image, gt = to_bgr8(restored), to_bgr8(sample["gt"])
        if save_dir is not None:
            write_image(save_dir / f"{sample['name']}.png", image[..., ::-1])
        of_input = measure(metrics, to_bgr8(sample["lq"]), gt) if input_metrics else {}
        return ImageResult(sample["name"], tuple(gt.shape[:2]), measure(metrics, image, gt), of_input, seconds)

    def work() -> list[ImageResult]:
        results, unfinished = [], deque()
        bar = tqdm(mine, desc=label, unit="image", leave=False, disable=None if dist.is_main() else True)
        # While the network works on an image, the next one is read and the one before is measured and saved.
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as finisher:
            samples = deque(reader.submit(dataset.__getitem__, index) for index in mine[:1])
            for index, following in zip_longest(bar, mine[1:]):
                sample = samples.popleft().result()
                if following is not None:
                    samples.append(reader.submit(dataset.__getitem__, following))
                start = time.perf_counter()
                restored = predict(sample["lq"][None])
                restored = restored[0].cpu()  # waits for the device
                seconds = time.perf_counter() - start
                if on_image is not None:
                    on_image(index, sample["lq"], restored, sample["gt"], sample["name"])
                unfinished.append(finisher.submit(finish, sample, restored, seconds))
                if len(unfinished) > 1:
                    results.append(unfinished.popleft().result())
                    bar.set_postfix({name: f"{mean([r.metrics[name] for r in results]):.4g}" for name in metrics})
            return results + [last.result() for last in unfinished]

    shares = dist.gather(dist.together(work))
    return [shares[index % len(shares)][index // len(shares)] for index in range(count)]


def measure(metrics: Mapping[str, Callable], image: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    return {name: float(metric(img1=image, img2=gt)) for name, metric in metrics.items()}


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


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def means(results: list[ImageResult], field: str = "metrics") -> dict[str, float]:
    """The mean of every metric over the images."""
    return {name: mean([getattr(r, field)[name] for r in results]) for name in getattr(results[0], field)}


def plain_and_local(runs: list[Run]) -> tuple[Run, Run] | None:
    """The run without and the one with TLC, if both are there."""
    by_tlc = {run.tlc: run for run in runs}
    return (by_tlc[False], by_tlc[True]) if len(by_tlc) == 2 else None


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in before}
