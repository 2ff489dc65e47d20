"""What weights say of themselves: whose they are, with which options, and on which patches they were trained.

Training writes that into their metadata.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from basicsr import __version__
from basicsr.archs import tlc_words, with_tlc
from basicsr.options import Options
from basicsr.sections import DatasetOptions
from basicsr.utils.checkpoint import read_metadata


@dataclasses.dataclass(frozen=True)
class About:
    """What weights say of themselves; None: they do not.

    network: {"type": name, **constructor arguments}, without TLC.
    train_size: side of the training patches. base_size: of the window that suits the weights.
    """

    network: dict[str, Any] | None = None
    train_size: int | None = None
    base_size: int | None = None

    def as_metadata(self) -> dict[str, str]:
        sizes = {"train_size": self.train_size, "base_size": self.base_size}
        texts = {key: str(size) for key, size in sizes.items() if size is not None}
        if self.network is not None:
            arguments = {key: value for key, value in self.network.items() if key != "type"}
            texts |= {"arch": str(self.network["type"]), "network": json.dumps(arguments, default=str)}
        return {**texts, "version": __version__}


def about(file: Path) -> About:
    """What the metadata of a checkpoint file say; words that are not as `as_metadata` writes them say nothing.

    Raises:
        UserError: no such file, or not a checkpoint.
    """
    found = read_metadata(file)
    sizes = {key: int(found[key]) for key in ("train_size", "base_size") if re.fullmatch(r"[1-9]\d{0,5}", found.get(key, ""))}
    try:
        arguments = json.loads(found.get("network", ""))
    except (ValueError, RecursionError):
        arguments = None
    network = {**arguments, "type": found["arch"]} if isinstance(arguments, dict) and "arch" in found else None
    return About(network, **sizes)


def about_training(opt: Options) -> About:
    """What the weights of a training are to say of themselves."""
    network_g = opt.network_g.as_dict()
    window = tlc_words(network_g).get("base_size")
    return About(with_tlc(network_g, False), patch_of(opt.datasets.get("train")), window if isinstance(window, int) else None)


def patch_of(train: DatasetOptions | None) -> int | None:
    """Side of the patches of a training, or None.

    Of progressive learning, what makes TLC's default window, 1.5 patches, as large as the largest patch: 256 for Restormer's
    128 to 384, as published; but no less than the smallest.
    """
    if train is None:
        return None
    if train.progressive:
        sides = [stage.gt_size for stage in train.progressive]
        return max(min(sides), 2 * max(sides) // 3)
    return train.arguments.get("gt_size")
