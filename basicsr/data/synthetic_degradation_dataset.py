"""Sharp photographs, degraded on the fly by noise or motion blur whose strength varies across the picture."""

import functools
import inspect
import math
import zlib
from typing import Any, Literal

import numpy as np

from basicsr.data.augment import augment, random_place, saturate
from basicsr.data.degradation import add_varying_motion_blur, add_varying_noise
from basicsr.data.image_dataset import Arrays, ImageDataset, Policy, Sample, as_sample, open_images
from basicsr.errors import UserError, did_you_mean
from basicsr.registry import DATASETS
from basicsr.utils.image import as_float, quantise

KINDS = {"noise": add_varying_noise, "blur": add_varying_motion_blur}
_PHOTOGRAPH_HEIGHT = 720  # which `cells` divide when a patch does not tell what it was cut from


@DATASETS.register
class SyntheticDegradationDataset(ImageDataset):
    """{"lq", "gt": (3, H, W) float32 RGB in [0, 1], "name": str}: photographs and copies of them that were degraded just now.

    Indexed by a number: the whole photograph, degraded as by `tlc degrade`, so that evaluation on the fly
    is evaluation on its files. Indexed by a `Draw`: a random crop whose place, flips and degradation all follow from its seed,
    and are therefore new in every epoch. `lq` has 8 bits, as a file would.

    Args:
        dataroot_gt: folder (or LMDB) of sharp photographs, or several.
        kind: noise or motion blur, which varies across the picture.
        io_backend: where images lie, {type: disk}, a folder of files, or {type: lmdb}; and what black and white are in
            the files, {type: disk, value_range: [0, 255]}, where they are not those of the type, or floats outside of [0, 1].
        sigma: noise: least and largest standard deviation, of 255; 3 to 60 by default.
        grey: noise: probability that it is the same in all three colours, as in a grey picture; 0 by default.
        chroma: noise: probability that its colour part is smooth, as cameras leave it; 0 by default.
        length: blur: least and largest length of the motion in pixels; 0.5 to 12 by default.
        noise_sigma: blur: standard deviation of the white noise on the blurred picture, of 255; 2 by default.
        jpeg: probability that the degraded picture is compressed as JPEG; 0 by default.
        quality: lowest and highest quality of the JPEG, 1 to 100; 75 to 98 by default.
        cells: cells of the random field of the strength over the height of a whole photograph; 4 by default.
        cell_size: edge of a cell in pixels, in crops; by default that of a photograph 720 pixels high, 180.
        seed: seed of the degradation of whole photographs.

    The other arguments are those of `ImageDataset`; saturation is changed before the degradation, which keeps its strength.

    Raises:
        UserError: see `check`; an unknown kind, an option of another kind or out of its range; a folder without images.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str],
        kind: Literal["noise", "blur"],
        io_backend: dict[str, Any] | None = None,
        gt_size: int | None = None,
        use_flip: bool = False,
        use_rot: bool = False,
        saturation: float = 0.0,
        bad_images: Policy = "fail",
        sigma: tuple[float, float] | None = None,
        length: tuple[float, float] | None = None,
        noise_sigma: float | None = None,
        grey: float | None = None,
        chroma: float | None = None,
        jpeg: float | None = None,
        quality: tuple[float, float] | None = None,
        cells: float | None = None,
        cell_size: float | None = None,
        seed: int = 0,
    ) -> None:
        if seed < 0:
            raise UserError(f"seed is {seed}, but must be 0 or more.")
        given = {"sigma": sigma, "grey": grey, "chroma": chroma, "length": length, "noise_sigma": noise_sigma}
        given |= {"jpeg": jpeg, "quality": quality, "cells": cells, "cell_size": cell_size}
        strength = _strength(kind, {name: value for name, value in given.items() if value is not None})
        self.cell_size = strength.pop("cell_size") or _PHOTOGRAPH_HEIGHT / strength["cells"]
        self.degrade, self.seed = functools.partial(KINDS[kind], **strength), seed
        # Motion reaches half its length, cubic interpolation two pixels further; one to spare.
        self.margin = math.ceil(strength["length"][1] / 2) + 3 if kind == "blur" else 0
        self.gt = open_images(dataroot_gt, io_backend, "dataroot_gt")
        super().__init__(
            (self.gt,),
            [(name,) for name in sorted(self.gt.names())],
            gt_size=gt_size,
            use_flip=use_flip,
            use_rot=use_rot,
            saturation=saturation,
            bad_images=bad_images,
        )

    def arrays(self, names: tuple[str, ...]) -> Arrays:
        (gt,) = self.read(names)
        rng = np.random.default_rng([self.seed, zlib.crc32(self.gt.file_name(names[0]).encode())])  # as degrade.py does
        return quantise(self.degrade(as_float(gt), rng)), gt, names[0]

    def patch(self, names: tuple[str, ...], size: int, rng: np.random.Generator) -> Sample:
        (photograph,) = self.read(names, least=size)
        top, left = random_place(*photograph.shape[:2], size, rng)
        # With a margin, so that motion brings in what lies beside the crop, and a mirror image only where the photograph ends.
        y, x = max(0, top - self.margin), max(0, left - self.margin)
        window = photograph[y : top + size + self.margin, x : left + size + self.margin]
        (window,) = saturate([window], self.saturation, rng)
        degraded = quantise(self.degrade(as_float(window), rng, cell_size=self.cell_size))
        crop = np.s_[top - y : top - y + size, left - x : left - x + size]
        gt, lq = augment([window[crop], degraded[crop]], self.use_flip, self.use_rot, rng)
        return as_sample(lq, gt, names[0])


def _strength(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """All options of a kind's function: those given, and its defaults."""
    if kind not in KINDS:
        raise UserError(f"kind: `{kind}` is unknown.{did_you_mean(kind, KINDS)} It is {' or '.join(KINDS)}.")
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    if foreign := [name for name in given if name not in defaults]:
        raise UserError(f"{foreign[0]} does not belong to kind `{kind}`, which has {', '.join(defaults)}.")
    if "quality" in given and not given.get("jpeg"):
        raise UserError("quality: nothing is compressed without jpeg, the probability of it.")
    options = defaults | given
    KINDS[kind](np.zeros((8, 8, 3), np.float32), np.random.default_rng(0), **options)  # refuses bad values by itself
    return options
