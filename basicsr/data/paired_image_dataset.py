"""Degraded images and their ground truth, matched by name."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from basicsr.data.augment import augment, random_crop, saturate
from basicsr.data.image_dataset import Arrays, ImageDataset, Policy, Sample, as_list, as_sample, open_images
from basicsr.data.pairs import Pair, PairBy, Pairing, folder_names
from basicsr.data.storage import Storage
from basicsr.errors import UserError, first_ten
from basicsr.registry import DATASETS


@DATASETS.register
class PairedImageDataset(ImageDataset):
    """Pairs {"lq", "gt": (in_ch, H, W) float32 in [0, 1], "name": str}, matched by file name, suffixes aside.

    Indexed by a number: the whole images. Indexed by a `Draw`: a random crop with random flips that follow from its seed.
    Without ground truth, for tests that write pictures, or measure what needs none: {"lq", "name"}.

    Args:
        dataroot_lq: folder (or LMDB) of the degraded images; or several, paired with those of dataroot_gt in order.
        dataroot_gt: folder (or LMDB) of the ground truth, or several; none when absent.
        filename_tmpl: the degraded image's name for a ground truth's, '{}' when equal, '{}_blur' for `x_blur.png`, and '{}_*'
            for many degraded images of one ground truth, `x_1.png` and `x_2.png`.
        filename_tmpl_gt: the ground truth's name, where both say more than they share: 'norain-{}' beside a filename_tmpl of
            'rain-{}'.
        meta_info_file: text file that lists the pairs, a line each: the ground truth, a tab or comma, and the degraded image,
            relative to their folders; of several folders, one each. Only what it lists is taken.
        pair_by: 'position' for published layouts whose names differ: the first image of one folder belongs to the first of the
            other, in natural order (2 before 10), and both hold as many.
        in_ch: 3 for RGB, 1 for networks of grey pictures; colour files are then read as grey, see `decode_grey`.
        bit_depth: 8 reads 16-bit files as their high byte, without rounding, as OpenCV's default reader does; all their bits
            when absent.
        io_backend: where images lie, {type: disk}, a folder of files, or {type: lmdb}; and what black and white are in
            the files, {type: disk, value_range: [0, 255]}, where they are not those of the type, or floats outside of [0, 1].

    The other arguments are those of `ImageDataset`.

    Raises:
        UserError: see `check`; options out of their range; absent or empty folders; names without a partner; crops without
            ground truth.
    """

    def __init__(
        self,
        *,
        dataroot_lq: str | list[str],
        dataroot_gt: str | list[str] | None = None,
        filename_tmpl: str = "{}",
        filename_tmpl_gt: str = "{}",
        meta_info_file: str | list[str] | None = None,
        pair_by: PairBy = "name",
        in_ch: Literal[1, 3] = 3,
        bit_depth: Literal[8] | None = None,
        io_backend: dict[str, Any] | None = None,
        gt_size: int | None = None,
        use_flip: bool = False,
        use_rot: bool = False,
        saturation: float = 0.0,
        pad_small: bool = False,
        bad_images: Policy = "fail",
    ) -> None:
        if in_ch == 1 and saturation:
            raise UserError("saturation: grey pictures, which in_ch: 1 reads, have none; leave it out.")
        self.channels = (in_ch, in_ch)
        gt_roots, lq_roots = as_list(dataroot_gt), as_list(dataroot_lq)
        self.has_gt = bool(gt_roots)
        if gt_size is not None and not self.has_gt:
            raise UserError("dataroot_gt is missing: training needs the ground truth; add its folder.")
        if not lq_roots:
            raise UserError("dataroot_lq names no folder; give that of the degraded images.")
        if self.has_gt and len(gt_roots) != len(lq_roots):
            raise UserError(
                f"dataroot_gt names {len(gt_roots)} folders, dataroot_lq {len(lq_roots)}: name as many, paired in order."
            )
        folders = folder_names([Path(root) for root in gt_roots or lq_roots])
        lists = tuple(Path(file) for file in as_list(meta_info_file))
        pairing = Pairing(filename_tmpl, filename_tmpl_gt, lists, folders, pair_by)
        gt = open_images(dataroot_gt, io_backend, "dataroot_gt", folders) if self.has_gt else None
        lq = open_images(dataroot_lq, io_backend, "dataroot_lq", folders)
        if gt is not None:
            storages, names = (gt, lq), _matched(pairing, gt.names(), lq.names())
        elif lists or pair_by == "position":
            word = "meta_info_file lists" if lists else "pair_by: position makes"
            raise UserError(f"{word} pairs, but dataroot_gt is missing; add it, or leave that out.")
        else:
            storages, names = (lq,), [(name,) for name in sorted(lq.names())]
        # Of many pictures with one ground truth, its name would tell nothing.
        self.named_by = next((side for side in range(len(storages)) if len({n[side] for n in names}) == len(names)), None)
        super().__init__(
            storages,
            names,
            gt_size=gt_size,
            use_flip=use_flip,
            use_rot=use_rot,
            saturation=saturation,
            pad_small=pad_small,
            bad_images=bad_images,
        )
        self.bit_depth = bit_depth

    def title(self, names: tuple[str, ...]) -> str:
        return "_".join(names) if self.named_by is None else names[self.named_by]

    def pixels(self, storage: Storage, name: str) -> np.ndarray:
        read = super().pixels(storage, name)
        return (read >> 8).astype(np.uint8) if self.bit_depth == 8 and read.dtype == np.uint16 else read

    def arrays(self, names: tuple[str, ...]) -> Arrays:
        *gt, lq = self.read(names)
        return lq, gt[0] if gt else None, self.title(names)

    def patch(self, names: tuple[str, ...], size: int, rng: np.random.Generator) -> Sample:
        crops = random_crop(self.read(names, least=size), size, rng)
        crops = augment(crops, self.use_flip, self.use_rot, rng)
        gt, lq = saturate(crops, self.saturation, rng)
        return as_sample(lq, gt, self.title(names))


def _matched(pairing: Pairing, gt_names: list[str], lq_names: list[str]) -> list[Pair]:
    """(gt name, lq name) in the order of the names; nothing may be without its partner."""
    pairs, alone_gt, alone_lq = pairing.match(gt_names, lq_names)
    if alone_gt or alone_lq:
        parts = [f"without a degraded image in dataroot_lq: {first_ten(alone_gt)}"] if alone_gt else []
        parts += [f"without a ground truth in dataroot_gt: {first_ten(alone_lq)}"] if alone_lq else []
        both = f", filename_tmpl_gt {pairing.filename_tmpl_gt!r}" if pairing.filename_tmpl_gt != "{}" else ""
        raise UserError(
            f"dataroot_gt and dataroot_lq do not match (filename_tmpl {pairing.filename_tmpl!r}{both}); {'; '.join(parts)}; "
            "add, remove or rename files, or list the pairs in a meta_info_file."
        )
    return pairs
