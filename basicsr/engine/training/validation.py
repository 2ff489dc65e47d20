"""Validation during a training: the model as it is now, measured on the images of `datasets.val`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from basicsr.engine.testing.evaluate import evaluate, means
from basicsr.models.inference import Predict
from basicsr.utils import dist


class _GivenUp(Exception):
    """The run is to end."""


@dataclass(frozen=True)
class Validation:
    """What is measured, and how.

    predict: the trained model on a whole image, in parts or in one. max_images: only the first so many.
    save_dir: restored images are written there, in a folder an iteration; None: nowhere.
    """

    dataset: Dataset
    metrics: Mapping[str, Callable]
    predict: Predict
    max_images: int | None = None
    save_dir: Path | None = None

    def measure(self, iteration: int, *, on_image: Callable[..., None], give_up: Callable[[], bool]) -> dict[str, float] | None:
        """The mean of every metric, or None when `give_up()`, asked before every image, is true.

        Args:
            on_image: see `evaluate`.
        """

        def interruptible(image: torch.Tensor) -> torch.Tensor:
            if give_up() and dist.world_size() == 1:  # several processes would have to agree on the image
                raise _GivenUp
            return self.predict(image)

        try:
            results = evaluate(
                interruptible,
                self.dataset,
                self.metrics,
                save_dir=self.save_dir / str(iteration) if self.save_dir else None,
                max_images=self.max_images,
                input_metrics=False,
                on_image=on_image,
                label="validation",
            )
        except _GivenUp:
            return None
        return means(results)

    @property
    def protocols(self) -> dict[str, str]:
        return {name: metric.protocol for name, metric in self.metrics.items()}

    def is_better(self, name: str, value: float, than: float) -> bool:
        """Whether a value of this metric is better than another one."""
        return value > than if self.metrics[name].higher_is_better else value < than
