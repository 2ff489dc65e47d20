"""What becomes of restored images: pictures, or whatever the server of a data set without ground truth takes."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from basicsr.engine.testing.lanes import on_host
from basicsr.utils.image import ImageFormat, quantise, write_image


class Saver(Protocol):
    """What `dataset.saver(folder)` gives, where a data set has that method."""

    def has(self, name: str) -> bool:
        """Whether an image is written, so that a run that goes on need not restore it again."""

    def write(self, name: str, restored: torch.Tensor) -> None:
        """Write (C, H, W), on the CPU. Of several images, several threads may ask for it at once."""

    def finish(self) -> None:
        """After the last image of all processes, in the first one."""


class Pictures:
    """`<name>.png` in a folder, 8 or 16 bits, grey where there is one channel."""

    def __init__(self, folder: Path, deep: bool = False) -> None:
        self.folder, self.deep = folder, deep

    def has(self, name: str) -> bool:
        return self._file(name).is_file()

    def write(self, name: str, restored: torch.Tensor) -> None:
        """(C, H, W), on the CPU or on a GPU, which then rounds it: less is to be copied."""
        if self.deep:
            pixels = quantise(on_host(restored).float().permute(1, 2, 0).numpy(), np.uint16)
        else:
            pixels = on_host(eight_bits(restored).permute(1, 2, 0).contiguous()).numpy()
        grey = pixels.shape[2] == 1
        write_image(self._file(name), np.repeat(pixels, 3, axis=2) if grey else pixels, ImageFormat(pixels.dtype, grey))

    def finish(self) -> None:
        """Every picture is a whole file."""

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.png"


def eight_bits(image: torch.Tensor) -> torch.Tensor:
    """[0, 1] as uint8, clamped and rounded half to even: what `quantise` makes of arrays, to the bit."""
    return (image.float().clamp(0, 1) * 255).round().to(torch.uint8)


def saver_of(dataset: torch.utils.data.Dataset, folder: Path | None) -> Saver | None:
    """None: nothing is to be saved."""
    if folder is None:
        return None
    if hasattr(dataset, "saver"):
        return dataset.saver(folder)
    return Pictures(folder, getattr(dataset, "deep", False))
