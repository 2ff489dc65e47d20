"""Clean pictures with white Gaussian noise: a fixed one for tests, as in published figures, a new one for every crop."""

import math
from typing import Any, Literal

import numpy as np

from basicsr.data.augment import augment, random_crop
from basicsr.data.image_dataset import Arrays, ImageDataset, Policy, Sample, as_list, as_sample, open_images
from basicsr.errors import UserError
from basicsr.registry import DATASETS
from basicsr.utils.image import as_float


@DATASETS.register
class GaussianDenoisingDataset(ImageDataset):
    """{"lq", "gt": (in_ch, H, W) float32, "name": str}: pictures, and the same with noise, neither clipped nor rounded.

    Indexed by a number: the whole picture with noise of `sigma_test`, drawn from NumPy's legacy generator, seeded with 0 for
    every picture, in the order of height, width, channel (RGB): the noise of the published figures. Indexed by a `Draw`: a
    random crop whose place, flips, sigma and noise all follow from its seed, and are therefore new in every epoch.

    Args:
        dataroot_gt: folder (or LMDB) of clean pictures, or several.
        in_ch: 3 for RGB, 1 for grey; colour files are then read as grey, see `decode_grey`.
        sigma_type: in training 'constant', one number; 'random', real numbers uniform between two; or 'choice', one of several.
        sigma_range: that number, those two, or those several: standard deviations of the noise, in units of 1/255.
        sigma_test: the standard deviation in whole pictures, in units of 1/255.
        io_backend: where images lie, {type: disk}, a folder of files, or {type: lmdb}; and what black and white are in
            the files, {type: disk, value_range: [0, 255]}, where they are not those of the type, or floats outside of [0, 1].

    The other arguments are those of `ImageDataset`.

    Raises:
        UserError: see `check`; options out of their range, or crops without sigma_type, or whole pictures without sigma_test; a
            folder without images.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str],
        in_ch: Literal[1, 3] = 3,
        sigma_type: Literal["constant", "random", "choice"] | None = None,
        sigma_range: float | tuple[float, ...] | None = None,
        sigma_test: float | None = None,
        io_backend: dict[str, Any] | None = None,
        gt_size: int | None = None,
        use_flip: bool = False,
        use_rot: bool = False,
        pad_small: bool = False,
        bad_images: Policy = "fail",
    ) -> None:
        if gt_size is None and sigma_test is None:
            raise UserError("sigma_test is missing: give the standard deviation of the noise, such as 25.")
        if sigma_test is not None and not 0 <= sigma_test < math.inf:
            raise UserError(f"sigma_test is {sigma_test:g}, but a standard deviation is 0 or more.")
        if gt_size is not None and sigma_type is None:
            raise UserError("sigma_type is missing: add `sigma_type: constant` and `sigma_range: 25`, or random and [0, 50].")
        self.sigmas = _sigmas(sigma_type, sigma_range)
        self.sigma_type, self.sigma_test = sigma_type, sigma_test
        self.channels = (in_ch, in_ch)
        clean = open_images(dataroot_gt, io_backend, "dataroot_gt")
        super().__init__(
            (clean,),
            [(name,) for name in sorted(clean.names())],
            gt_size=gt_size,
            use_flip=use_flip,
            use_rot=use_rot,
            pad_small=pad_small,
            bad_images=bad_images,
        )

    def arrays(self, names: tuple[str, ...]) -> Arrays:
        (raw,) = self.read(names)
        gt = as_float(raw)
        noise = np.random.RandomState(0).normal(0, self.sigma_test / 255, gt.shape)  # float64
        return (gt + noise).astype(np.float32), gt, names[0]

    def patch(self, names: tuple[str, ...], size: int, rng: np.random.Generator) -> Sample:
        crops = random_crop(self.read(names, least=size), size, rng)
        gt = as_float(augment(crops, self.use_flip, self.use_rot, rng)[0])
        sigma = rng.uniform(*self.sigmas) if self.sigma_type == "random" else rng.choice(self.sigmas)
        noise = rng.standard_normal(gt.shape, np.float32) * np.float32(sigma / 255)
        return as_sample(gt + noise, gt, names[0])


def _sigmas(kind: str | None, given: float | tuple[float, ...] | None) -> tuple[float, ...]:
    """What sigma_range says of this sigma_type; nothing where it has none."""
    if kind is None:
        if given is not None:
            raise UserError("sigma_type is missing: sigma_range needs it, one of constant, random and choice.")
        return ()
    sigmas = tuple(as_list(given))
    wants = {"constant": "one number", "random": "two numbers, the lower one first", "choice": "numbers to choose from"}
    fits = {"constant": len(sigmas) == 1, "random": len(sigmas) == 2 and sigmas[0] <= sigmas[-1], "choice": len(sigmas) > 0}
    if not fits[kind] or not all(0 <= sigma < math.inf for sigma in sigmas):
        raise UserError(f"sigma_range is {given!r}, but sigma_type {kind} needs {wants[kind]}, none of them negative.")
    return sigmas
