"""What training does to a crop: a random place, flips, saturation. All randomness comes from the generator passed in.

Images are (H, W, 3) RGB, integers as their files have them or float32 in [0, 1]. Crops and flips are views of what they are
given, so that only the crop is copied and converted in the end.
"""

import numpy as np
import torch

from basicsr.utils.image import as_float

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in Pillow and torchvision


def random_place(height: int, width: int, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """(top, left) of a random size x size part of a height x width image, which must not be smaller."""
    return int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))


def random_crop(images: list[np.ndarray], size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The same random size x size part of every (H, W, C) image."""
    top, left = random_place(*images[0].shape[:2], size, rng)
    return [image[top : top + size, left : left + size] for image in images]


def augment(images: list[np.ndarray], flip: bool, rotate: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """The same random flips (and, with `rotate`, transposition) of every (H, W, C) image."""
    left_right, up_down, transpose = rng.random(3) < 0.5
    if flip and left_right:
        images = [image[:, ::-1] for image in images]
    if rotate and up_down:
        images = [image[::-1] for image in images]
    if rotate and transpose:
        images = [image.swapaxes(0, 1) for image in images]
    return images


def saturate(images: list[np.ndarray], strength: float, rng: np.random.Generator) -> list[np.ndarray]:
    """With p = 1/3 the same random saturation, a factor uniform over 1 +- `strength`, of every image, which is float32 then.

    The generator is left alone when `strength` is 0.
    """
    if strength == 0:
        return images
    hit, factor = rng.random() < 1 / 3, rng.uniform(1 - strength, 1 + strength)
    return [adjust_saturation(as_float(image), factor) for image in images] if hit else images


def adjust_saturation(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Away from (factor > 1) or towards the pixel's own grey, clipped: (H, W, 3) float32 in [0, 1] -> the same."""
    grey = (rgb @ _LUMA)[..., None]  # (H, W, 1)
    return np.clip(grey + np.float32(factor) * (rgb - grey), 0, 1)


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """(H, W, C), integers or float, in any memory order -> (C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(as_float(rgb.transpose(2, 0, 1)))


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    """(H, W, C) uint8 -> what `to_tensor` makes of it, to the bit, where it is: a quarter of the bytes goes to a GPU."""
    peak = torch.full((), 255.0, device=pixels.device)  # by a number of Python's, GPUs multiply with the inverse
    return pixels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(peak)
