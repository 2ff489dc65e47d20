"""How many channels the images have that networks take and give, and whether those of the data are as many."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from basicsr.archs import build_network, with_tlc
from basicsr.errors import UserError
from basicsr.models import MODELS
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.options import Options

GREY, RGB, TWO_VIEWS = 1, 3, 6
_READER = {(GREY, GREY): ", or have them read as grey by `in_ch: 1`", (TWO_VIEWS, RGB): ", or DualPixelDataset"}


def channels_of(net: nn.Module) -> tuple[int, int]:
    """Of the images that a network takes and gives; one that does not say it takes RGB."""
    taken = getattr(net, "in_channels", RGB)
    return taken, getattr(net, "out_channels", taken)


def channels_of_options(network_g: Mapping[str, Any]) -> tuple[int, int]:
    """The same of a network that is not built; RGB where it cannot be without memory of its own."""
    try:
        with torch.device("meta"):
            return channels_of(build_network(with_tlc(network_g, False)))
    except Exception:  # noqa: BLE001 - a network of one's own may do anything; what is wrong is said where it is built
        return RGB, RGB


def takes_grey(net: nn.Module) -> bool:
    """Whether it is a network of grey pictures."""
    return channels_of(net) == (GREY, GREY)


def protocol_lines(metrics: Mapping[str, Callable], grey: bool) -> dict[str, str]:
    """What reports say of metrics by their names, in words that are for RGB; of grey pictures, that they are."""
    return {name: metric.protocol + " (of grey pictures: their one channel)" * grey for name, metric in metrics.items()}


def check_channels(net: nn.Module, opt: Options, datasets: Mapping[str, torch.utils.data.Dataset] | None = None) -> None:
    """The net takes the images that there are and gives such as the ground truth is, as far as both say what they deal in:
    data sets and models of one's own need not.

    Args:
        datasets: by their word in the file; None: frames of videos, which are RGB, or made grey.

    Raises:
        UserError: naming the option of the net.
    """
    if MODELS.get(opt.model_type, "model_type") is not ImageRestorationModel:
        return
    both = channels_of(net)
    if datasets is None and takes_grey(net):
        return
    of_sets = {key: getattr(dataset, "channels", None) for key, dataset in (datasets or {}).items()}
    for key, wanted in (of_sets if datasets is not None else {"": (RGB, RGB)}).items():
        for channels, there, verb in zip(both, wanted or both, ("takes", "gives"), strict=True):
            if channels == there or not isinstance(channels, int):
                continue
            given = opt.network_g.arguments.items()
            word = next((f".{word}" for word, value in given if value == channels and re.search("_c$|_ch|^ch", word)), "")
            weights = f", and so do the weights {opt.path.pretrain_network_g}" if opt.path.pretrain_network_g else ""
            there = (
                f"pictures are read as RGB, which has {RGB}: take a network for RGB{_READER.get(both, '') if datasets else ''}."
                if there == RGB
                else f"datasets.{key} has {there}: take a network of as many, or another data set."
            )
            raise UserError(
                f"network_g{word}: {type(net).__name__} {verb} images of {channels} channel{'s' * (channels > 1)}{weights}, "
                f"but {there}"
            )
