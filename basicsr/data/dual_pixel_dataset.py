"""The two views of a dual-pixel camera and their ground truth (DPDD)."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from basicsr.data.augment import augment, random_crop
from basicsr.data.image_dataset import Arrays, ImageDataset, Policy, Sample, as_list, as_sample, open_images
from basicsr.data.pairs import PairBy, by_position, folder_names
from basicsr.errors import UserError, first_ten
from basicsr.registry import DATASETS


@DATASETS.register
class DualPixelDataset(ImageDataset):
    """{"lq": (6, H, W), left RGB and right RGB, "gt": (3, H, W), float32 in [0, 1], "name": str}; all bits of 16-bit files.

    Indexed by a number: the whole pictures. Indexed by a `Draw`: a random crop with random flips, the same for all three.
    Without ground truth, for tests that write pictures: {"lq", "name"}. Restored pictures are saved with the bits of the views.

    Args:
        dataroot_lqL, dataroot_lqR: folder (or LMDB) of the left and of the right views, or several, paired in order.
        dataroot_gt: of the sharp pictures; none when absent.
        pair_by: 'name', where the three have one name, as the training crops; 'position' in the published test layout, whose
            names differ: the first of each folder belong together, in natural order (2 before 10).
        io_backend: where images lie, {type: disk}, a folder of files, or {type: lmdb}; and what black and white are in
            the files, {type: disk, value_range: [0, 255]}, where they are not those of the type, or floats outside of [0, 1].

    The other arguments are those of `ImageDataset`.

    Raises:
        UserError: see `check`; options out of their range; absent or empty folders; names without a partner.
    """

    channels = (6, 3)

    def __init__(
        self,
        *,
        dataroot_lqL: str | list[str],
        dataroot_lqR: str | list[str],
        dataroot_gt: str | list[str] | None = None,
        pair_by: PairBy = "name",
        io_backend: dict[str, Any] | None = None,
        gt_size: int | None = None,
        use_flip: bool = False,
        use_rot: bool = False,
        pad_small: bool = False,
        bad_images: Policy = "fail",
    ) -> None:
        self.has_gt = bool(as_list(dataroot_gt))
        if gt_size is not None and not self.has_gt:
            raise UserError("dataroot_gt is missing: training needs the ground truth; add its folder.")
        roots = {"dataroot_lqL": dataroot_lqL, "dataroot_lqR": dataroot_lqR}
        roots = {"dataroot_gt": dataroot_gt, **roots} if self.has_gt else roots
        counts = {word: len(as_list(root)) for word, root in roots.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{word} {count}" for word, count in counts.items())
            raise UserError(f"name as many folders on every side, paired in order; there are {said}.")
        self.belonging = "ground truth and views" if self.has_gt else "left and right view"
        folders = folder_names([Path(root) for root in as_list(next(iter(roots.values())))])
        storages = tuple(open_images(root, io_backend, word, folders) for word, root in roots.items())
        sides = {word: storage.names() for word, storage in zip(roots, storages, strict=True)}
        super().__init__(
            storages,
            by_position(folders, sides) if pair_by == "position" else _of_one_name(sides),
            gt_size=gt_size,
            use_flip=use_flip,
            use_rot=use_rot,
            pad_small=pad_small,
            bad_images=bad_images,
        )

    @functools.cached_property
    def deep(self) -> bool:
        """Whether the first view has 16 bits, and restored pictures are to be saved with as many."""
        return self.pixels(self.storages[-1], self.names[0][-1]).dtype == np.uint16

    def arrays(self, names: tuple[str, ...]) -> Arrays:
        *gt, left, right = self.read(names)
        return np.concatenate([left, right], axis=2), gt[0] if gt else None, names[0]

    def patch(self, names: tuple[str, ...], size: int, rng: np.random.Generator) -> Sample:
        crops = random_crop(self.read(names, least=size), size, rng)
        gt, left, right = augment(crops, self.use_flip, self.use_rot, rng)
        return as_sample(np.concatenate([left, right], axis=2), gt, names[0])


def _of_one_name(sides: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """The names that every side has; UserError for those that one lacks."""
    everything = {name for names in sides.values() for name in names}
    faults = [
        f"not in {word}: {first_ten(sorted(alone))}" for word, names in sides.items() if (alone := everything - set(names))
    ]
    if faults:
        counts = [len(names) for names in sides.values()]
        strangers = len(set(counts)) == 1 and len(everything) == sum(
            counts
        )  # where names are alike, they say who belongs to whom
        advice = f"add, remove or rename files{', or set pair_by: position' if strangers else ''}"
        raise UserError(f"{', '.join(sides)} do not match; {'; '.join(faults)}; {advice}.")
    return [(name,) * len(sides) for name in sorted(everything)]
