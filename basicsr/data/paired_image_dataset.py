"""Degraded images and their ground truth, matched by name."""

from typing import Any

import numpy as np

from basicsr.data.augment import augment, random_crop, saturate
from basicsr.data.image_dataset import ImageDataset, Policy, Sample, as_sample, open_images
from basicsr.data.storage import match_names
from basicsr.errors import UserError, first_ten
from basicsr.registry import DATASETS


@DATASETS.register
class PairedImageDataset(ImageDataset):
    """Pairs {"lq", "gt": (3, H, W) float32 RGB in [0, 1], "name": str}, matched by file name, suffixes aside.

    Indexed by a number: the whole images. Indexed by a `Draw`: a random crop with random flips that follow from its seed.

    Args:
        dataroot_gt: folder (or LMDB) of the ground truth. dataroot_lq: folder (or LMDB) of the degraded images.
        filename_tmpl: the degraded image's name for a ground truth's, '{}' when equal, '{}_blur' for `x_blur.png`.
        io_backend: where images lie, {type: disk}, a folder of files, or {type: lmdb}; and what black and white are in
            the files, {type: disk, value_range: [0, 255]}, where they are not those of the type, or floats outside of [0, 1].

    The other arguments are those of `ImageDataset`.

    Raises:
        UserError: see `check`; options out of their range; absent or empty folders; names without a partner.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str,
        dataroot_lq: str,
        filename_tmpl: str = "{}",
        io_backend: dict[str, Any] | None = None,
        gt_size: int | None = None,
        use_flip: bool = False,
        use_rot: bool = False,
        saturation: float = 0.0,
        bad_images: Policy = "fail",
    ) -> None:
        if "{}" not in filename_tmpl:
            raise UserError(f"filename_tmpl is {filename_tmpl!r}, but must hold {{}}, the place of the ground truth's name.")
        gt, lq = open_images(dataroot_gt, io_backend, "dataroot_gt"), open_images(dataroot_lq, io_backend, "dataroot_lq")
        super().__init__(
            (gt, lq),
            _matched(gt.names(), lq.names(), filename_tmpl),
            gt_size=gt_size,
            use_flip=use_flip,
            use_rot=use_rot,
            saturation=saturation,
            bad_images=bad_images,
        )

    def whole(self, names: tuple[str, ...]) -> Sample:
        gt, lq = self.read(names)
        return as_sample(lq, gt, names[0])

    def patch(self, names: tuple[str, ...], size: int, rng: np.random.Generator) -> Sample:
        crops = random_crop(self.read(names, least=size), size, rng)
        crops = augment(crops, self.use_flip, self.use_rot, rng)
        gt, lq = saturate(crops, self.saturation, rng)
        return as_sample(lq, gt, names[0])


def _matched(gt_names: list[str], lq_names: list[str], filename_tmpl: str) -> list[tuple[str, str]]:
    """(gt name, lq name) in the order of the names; nothing may be without its partner."""
    pairs, alone_gt, alone_lq = match_names(gt_names, lq_names, filename_tmpl)
    if alone_gt or alone_lq:
        parts = [f"without a degraded image in dataroot_lq: {first_ten(alone_gt)}"] if alone_gt else []
        parts += [f"without a ground truth in dataroot_gt: {first_ten(alone_lq)}"] if alone_lq else []
        raise UserError(
            f"dataroot_gt and dataroot_lq do not match (filename_tmpl {filename_tmpl!r}); {'; '.join(parts)}; "
            "add, remove or rename files."
        )
    return pairs
