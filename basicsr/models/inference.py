"""Ways to run a restorer on an image: functions around any `predict`, from (1, C, H, W) in [0, 1] to one of that size."""

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from basicsr.errors import UserError
from basicsr.models.memory import prediction_bytes
from basicsr.tlc import window_starts

Predict = Callable[[Tensor], Tensor]  # (N, C, H, W) in [0, 1] -> (N, C', H, W)
logger = logging.getLogger("basicsr")
SMALLEST_TILE = 64
SAMPLE = 256  # side of the square on which the need for memory is measured
RESERVE = 1.4  # workspaces of kernels and the allocator's fragments come on top of what tensors hold


def padded(predict: Predict, image: Tensor, multiple: int) -> Tensor:
    """Reflected, without repeating the edge, at the right and at the bottom, up to a multiple; what is added is cut off again.

    Where an image is smaller than what is added, the reflection is reflected again; of one row or column it is that one.
    """
    height, width = image.shape[-2:]
    rows, columns = (_reflected(side, -side % multiple, image.device) for side in (height, width))
    return predict(image.index_select(-2, rows).index_select(-1, columns))[..., :height, :width]


def _reflected(side: int, more: int, device: torch.device) -> Tensor:
    """Which of `side` pixels lie at each of `side + more` places: 0 1 2 1 0 1 ... of three."""
    period = max(1, 2 * (side - 1))
    place = torch.arange(side + more, device=device) % period
    return torch.minimum(place, period - place) if side > 1 else place


def tiled(predict: Predict, image: Tensor, tile: int, overlap: int) -> Tensor:
    """Square tiles that overlap, blended by linear ramps; the result is put together on the CPU.

    Args:
        tile: side in pixels; an image that fits into one tile runs whole.
        overlap: pixels that neighbours share, at least; less than `tile`.

    Raises:
        UserError: overlap >= tile.
    """
    if overlap >= tile:
        raise UserError(f"tile_overlap ({overlap}) must be smaller than tile ({tile}).")
    height, width = image.shape[-2:]
    return _blend(
        predict, image, _tile_starts(height, tile, overlap), _tile_starts(width, tile, overlap), (tile, tile), overlap
    )


def grids(predict: Predict, image: Tensor, crop_size: int) -> Tensor:
    """The published patch test: patches of the training size that cover the image evenly, averaged where they overlap."""
    height, width = image.shape[-2:]
    size = (min(crop_size, height), min(crop_size, width))
    return _blend(predict, image, window_starts(height, crop_size), window_starts(width, crop_size), size, ramp=0)


def auto_tiled(predict: Predict, image: Tensor, overlap: int, free: int | None = None) -> Tensor:
    """The whole image if memory allows; else the largest tiles that do, and smaller ones where that was too much.

    Args:
        free: bytes that may be used; None when unknown, so that only running out of memory tells.
    """
    tile = max(image.shape[-2:])
    if free is not None and image.shape[-2] * image.shape[-1] > 4 * SAMPLE**2:  # the sample runs are small against the image
        tile = min(tile, largest_tile(predict, image, free))
        if tile < max(image.shape[-2:]):
            logger.info("The whole image would need more memory than is free: tile: %d.", tile)
    while True:
        try:
            return predict(image) if tile >= max(image.shape[-2:]) else tiled(predict, image, tile, min(overlap, tile // 2))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or tile // 2 < SMALLEST_TILE:
                raise
            tile = -(-tile // 2)
        logger.warning("Out of memory: trying again with tile: %d.", tile)  # outside `except`, which would keep tensors alive


def largest_tile(predict: Predict, image: Tensor, free: int) -> int:
    """The side of the square that `predict` can run on in so many bytes: memory grows with the pixels, as two runs show."""
    small, large = (prediction_bytes(predict, image.new_zeros(*image.shape[:2], side, side)) for side in (SAMPLE // 2, SAMPLE))
    per_pixel = (large - small) / (0.75 * SAMPLE**2)
    pixels = SAMPLE**2 + (free / RESERVE - large) / per_pixel
    return max(SMALLEST_TILE, math.isqrt(max(0, int(pixels))))


def self_ensemble(predict: Predict, image: Tensor) -> Tensor:
    """x8: the mean over all flips and quarter turns of the image, each turned back."""
    total = 0
    for turns in range(4):
        for flip in (False, True):
            turned = torch.rot90(image, turns, (-2, -1))
            turned = turned.flip(-1) if flip else turned
            out = predict(turned.contiguous())
            out = out.flip(-1) if flip else out
            total = total + torch.rot90(out, -turns, (-2, -1))
    return total / 8


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def _blend(predict: Predict, image: Tensor, rows: list[int], columns: list[int], size: tuple[int, int], ramp: int) -> Tensor:
    """Run every patch and average, weighted by ramps of `ramp` pixels at borders inside the image."""
    height, width = image.shape[-2:]
    h, w = min(size[0], height), min(size[1], width)
    total = None  # as many channels as the network makes
    weights = torch.zeros(height, width)
    for top in rows:
        for left in columns:
            out = predict(image[..., top : top + h, left : left + w])
            weight = _ramp(top, h, height, ramp)[:, None] * _ramp(left, w, width, ramp)
            if total is None:
                total = torch.zeros(*out.shape[:2], height, width)
            total[..., top : top + h, left : left + w] += out.float().cpu() * weight
            weights[top : top + h, left : left + w] += weight
    return (total / weights).to(image.device)


def _ramp(start: int, length: int, total: int, ramp: int) -> Tensor:
    """(length,) weights: 1 inside, falling linearly towards an end that is not the image's border."""
    weight = torch.ones(length)
    if ramp == 0:
        return weight
    rise = torch.arange(1, ramp + 1) / (ramp + 1)
    if start > 0:
        weight[:ramp] = rise
    if start + length < total:
        weight[-ramp:] = torch.minimum(weight[-ramp:], rise.flip(0))
    return weight
