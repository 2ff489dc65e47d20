"""Networks for other images than RGB, run on photographs: grey ones, and those of the two views of a dual-pixel camera."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.engine import channels as of
from basicsr.engine.channels import GREY, RGB, TWO_VIEWS
from basicsr.errors import UserError, counted
from basicsr.models.inference import Predict
from basicsr.utils.image import ImageFormat, read_image

logger = logging.getLogger("basicsr")
_LUMA = (0.299, 0.587, 0.114)  # of R, G, B, as OpenCV reads a colour file as grey


def channels_of(net: nn.Module, name: str) -> int:
    """How many the images have that a network takes; one that does not say it takes RGB.

    Raises:
        UserError: photographs have other ones, or what it gives can be none.
    """
    taken, given = of.channels_of(net)
    if taken not in (GREY, RGB, TWO_VIEWS) or given not in (GREY, RGB):
        verb, count = ("takes", taken) if taken not in (GREY, RGB, TWO_VIEWS) else ("gives", given)
        raise UserError(
            f"network_g: {name} {verb} images of {count} channels, but photographs are RGB or grey, with 3 or 1, and two views "
            "of one, which a network may take, have 6: take another network."
        )
    return taken


def check(channels: int, second: Path | None, name: str, videos: bool) -> None:
    """UserError where a second view is missing or is one too many."""
    if channels == TWO_VIEWS and videos:
        raise UserError(f"{name} takes two views of a photograph (6 channels), which videos have not: leave them out.")
    if channels == TWO_VIEWS and second is None:
        raise UserError(f"{name} takes two views of a photograph (6 channels): name the second with --input2.")
    if channels != TWO_VIEWS and second is not None:
        raise UserError(f"--input2 {second}: {name} takes one picture, of {counted(channels, 'channel')}; leave it out.")


def as_rgb(predict: Predict, channels: int) -> Predict:
    """A network of grey pictures as one of RGB, which it makes grey; and grey results as RGB."""

    def run(image: Tensor) -> Tensor:
        out = predict(grey(image) if channels == GREY else image)
        return out.expand(-1, RGB, -1, -1) if out.shape[1] == GREY else out

    return run


def grey(image: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, 1, H, W)."""
    return (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def beside(
    second: Path, image: np.ndarray, pages: int, value_range: tuple[float, float] | None
) -> Callable[[Predict], Predict]:
    """Of a network of two views one of the first, with the second from a file.

    Args:
        image: the first view. pages: how many pictures its file holds.

    Raises:
        UserError: the second view cannot be read, has another size, or belongs to one of several pages.
    """
    if pages > 1:
        raise UserError(f"{second}: cannot be the second view of a file of {pages} pages; name pictures of one.")
    other = read_image(second, value_range)
    if other.shape != image.shape:
        sizes = " and ".join(f"{one.shape[1]}x{one.shape[0]}" for one in (image, other))
        raise UserError(f"{second}: the two views must be of one size, but have {sizes}.")
    tensor = torch.from_numpy(np.ascontiguousarray(other.transpose(2, 0, 1)))[None]
    return lambda predict: lambda first: predict(torch.cat([first, tensor.to(first.device)], 1))


def made_grey(label: str, image: np.ndarray, fmt: ImageFormat, who: str) -> tuple[np.ndarray, ImageFormat]:
    """What a network of grey pictures sees of one, as (H, W, 3), and the format of its result; of colour that is said."""
    if fmt.grey:
        return image, fmt
    say_made_grey(label, who)
    return as_grey(image), replace(fmt, grey=True)


def say_made_grey(label: str, who: str) -> None:
    logger.info("%s has colours, and is made grey: %s restores grey pictures.", label, who)


def as_grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3), its channels equal."""
    return np.repeat((image @ np.asarray(_LUMA, np.float32))[..., None], 3, axis=2)


def for_job(
    predictors: Mapping[str, Predict],
    second: Path | None,
    image: np.ndarray,
    fmt: ImageFormat,
    value_range: tuple[float, float] | None,
) -> Mapping[str, Predict]:
    """The networks with the second view of a photograph, where it has one."""
    if second is None:
        return predictors
    join = beside(second, image, fmt.pages, value_range)
    return {name: join(predict) for name, predict in predictors.items()}
