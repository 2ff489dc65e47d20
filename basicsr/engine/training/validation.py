"""Validation during a training: the model as it is now, measured on the images of `datasets.val` and further sets."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import Dataset

from basicsr.engine.channels import GREY, protocol_lines
from basicsr.engine.testing.evaluate import evaluate
from basicsr.engine.testing.results import means, of_sets
from basicsr.models.inference import Predict
from basicsr.utils import dist

Values = dict[str, dict[str, float]]  # by data set, by metric


class _GivenUp(Exception):
    """The run is to end."""


@dataclass(frozen=True)
class Validation:
    """What is measured, and how.

    datasets: by their word in the file, the one that decides which weights are best first; titles: what the log calls them.
    predict: the trained model on a whole image, in parts or in one. device: where it computes.
    max_images: only the first so many of each set. batch_size: see `evaluate`.
    save_dir: restored images are written there, in a folder an iteration; None: nowhere.
    """

    datasets: Mapping[str, Dataset]
    titles: Mapping[str, str]
    metrics: Mapping[str, Callable]
    predict: Predict
    device: torch.device
    max_images: int | None = None
    batch_size: int = 1
    save_dir: Path | None = None

    def measure(self, iteration: int, *, on_image: Callable[..., None], give_up: Callable[[], bool]) -> Values | None:
        """Every metric on every set, or None when `give_up()`, asked before every image, is true.

        A figure is the mean over the images, or that of the whole set.

        Args:
            on_image: called with a set's word, then as by `evaluate`.
        """

        def interruptible(image: torch.Tensor) -> torch.Tensor:
            if give_up() and dist.world_size() == 1:  # several processes would have to agree on the image
                raise _GivenUp
            return self.predict(image)

        values = {}
        for key, dataset in self.datasets.items():
            folder = self.save_dir / str(iteration) if self.save_dir else None
            try:
                evaluation = evaluate(
                    interruptible,
                    dataset,
                    self.metrics,
                    device=self.device,
                    batch_size=self.batch_size,
                    save_dir=folder / key if folder and len(self.datasets) > 1 else folder,
                    max_images=self.max_images,
                    input_metrics=False,
                    on_image=partial(on_image, key),
                    label="validation" if len(self.datasets) == 1 else f"validation on {self.titles[key]}",
                )
            except _GivenUp:
                return None
            values[key] = means(evaluation.images) | of_sets(self.metrics, evaluation.images)
        return values

    def lines(self, values: Values) -> list[str]:
        """What the log says of them."""
        lines = []
        for key, found in values.items():
            grey = getattr(self.datasets[key], "channels", None) == (GREY, GREY)
            protocols = protocol_lines(self.metrics, grey)
            where = f"on {self.titles[key]}, " if len(self.datasets) > 1 else ""
            lines += [f"validation {where}{name}: {value:.4f} ({protocols[name]})" for name, value in found.items()]
        return lines

    def is_better(self, name: str, value: float, than: float) -> bool:
        """Whether a value of this metric is better than another one, which may be none."""
        if not math.isfinite(value) or not math.isfinite(than):
            return math.isfinite(value)
        return value > than if self.metrics[name].higher_is_better else value < than
