"""What the data sets share: options of the crops, the check of all files before a run, the policy for bad pictures."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from basicsr.data.augment import to_tensor
from basicsr.data.joined_storage import JoinedStorage
from basicsr.data.pairs import folder_names
from basicsr.data.sampler import Draw
from basicsr.data.storage import Range, Size, Storage, open_storage
from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.utils.image import decode_grey

logger = logging.getLogger("basicsr")
Sample = dict[str, torch.Tensor | str]
Arrays = tuple[np.ndarray, np.ndarray | None, str]  # lq, gt if there is one: (H, W, C) integers or float; the name
Policy = Literal["fail", "skip"]
_POLICIES = get_args(Policy)
_WORDS = ("type", "value_range")  # of io_backend


class ImageDataset(Dataset):
    """Indexed by a number: whole images. Indexed by a `Draw`: a random crop that follows from its seed.

    Subclasses make the samples, {"lq", "gt": (3, H, W) float32 RGB in [0, 1], "name": str}: `whole`, by default of `arrays`,
    and `patch`.

    `channels` are those of lq and of gt; files are read as grey where gt has one, see `decode_grey`.

    Args:
        storages: where the images of a sample lie, the ground truth first.
        names: of each sample, one name a storage.
        gt_size: side of the (largest) training crop in pixels, which `check` asks of every image.
        use_flip: horizontal flips, p = 0.5. use_rot: vertical flips and transposition, each p = 0.5: all eight orientations.
        saturation: with p = 1/3, saturation changed by up to this part each way, alike on both sides; 0 to 1.
        pad_small: pictures smaller than the largest crop are made as large by reflection on the right and below (the edge
            repeated, as in Restormer's training); otherwise `check` refuses them.
        bad_images: 'fail', or 'skip': `check` leaves bad files out with a warning, and a picture that cannot be decoded during
            training gives way to the next number. Whole images, as for evaluation, are never replaced.

    Raises:
        UserError: an option out of its range.
    """

    channels = (3, 3)
    belonging = "ground truth and degraded image"  # what a sample is made of, for messages

    def __init__(
        self,
        storages: tuple[Storage, ...],
        names: Sequence[tuple[str, ...]],
        *,
        gt_size: int | None,
        use_flip: bool,
        use_rot: bool,
        saturation: float = 0.0,
        pad_small: bool = False,
        bad_images: Policy = "fail",
    ) -> None:
        if gt_size is not None and gt_size < 1:
            raise UserError(f"gt_size is {gt_size}, but the side of a crop must be positive.")
        if not 0 <= saturation <= 1:
            raise UserError(f"saturation is {saturation}, but must lie between 0 (none) and 1; 0.2 means 20 % each way.")
        if bad_images not in _POLICIES:
            raise UserError(f"bad_images is {bad_images!r}.{did_you_mean(bad_images, _POLICIES)} It is fail or skip.")
        self.storages, self.names = storages, list(names)
        self.gt_size, self.use_flip, self.use_rot = gt_size, use_flip, use_rot
        self.saturation, self.pad_small, self.bad_images = saturation, pad_small, bad_images
        self.warned: set[tuple[str, ...]] = set()
        self.sizes: dict[str, Size] = {}  # of the images, by `title`, once they were checked

    def title(self, names: tuple[str, ...]) -> str:
        """The name of the sample with these names."""
        return names[0]

    def name(self, index: int) -> str:
        return self.title(self.names[index])

    def whole(self, names: tuple[str, ...]) -> Sample:
        """The sample of whole images."""
        return as_sample(*self.arrays(names))

    def arrays(self, names: tuple[str, ...]) -> Arrays:
        """What the sample of whole images is made of, see `as_sample`."""
        raise NotImplementedError

    def unscaled(self, index: int) -> dict[str, torch.Tensor | np.ndarray | str]:
        """The sample of whole images with its images as `arrays` gives them, if that is what it is made of."""
        if any(getattr(type(self), word) is not getattr(ImageDataset, word) for word in ("__getitem__", "whole")):
            return self[index]
        lq, gt, name = self.arrays(self.names[index])
        return {"lq": lq, **({} if gt is None else {"gt": gt}), "name": name}

    def patch(self, names: tuple[str, ...], size: int, rng: np.random.Generator) -> Sample:
        """A random size x size part of the sample; all randomness comes from `rng`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int | Draw) -> Sample:
        if not isinstance(index, Draw):
            return self.whole(self.names[index])
        for step in range(len(self)):
            names = self.names[(index.number + step) % len(self)]
            try:
                return self.patch(names, index.size, np.random.default_rng(index.seed))
            except UserError as error:
                if self.bad_images == "fail":
                    raise
                if names not in self.warned:
                    self.warned.add(names)
                    logger.warning("%s; the next picture takes its place.", str(error).split("; ")[0])
        raise UserError("none of the training pictures can be decoded; replace them.")

    def pixels(self, storage: Storage, name: str) -> np.ndarray:
        """Of one image, (H, W, C), as its file has them, see `Storage.read_raw`; where `channels` say so, in grey."""
        if self.channels[1] == 1:
            return decode_grey(storage.read_bytes(name), storage.label(name), storage.value_range)
        return storage.read_raw(name)

    def read(self, names: tuple[str, ...], least: int = 1) -> list[np.ndarray]:
        """The pixels of a sample's images, see `pixels`; with `pad_small`, of crops at least `least` on each side.

        Raises:
            UserError: an image that cannot be decoded, images of different sizes, or a side below `least`.
        """
        images = [self.pixels(storage, name) for storage, name in zip(self.storages, names, strict=True)]
        if len({image.shape for image in images}) > 1:
            raise UserError(f"{names[0]}: {self.belonging} are of different sizes; replace or remove them.")
        if self.pad_small and least > 1:  # as in the published training, to the largest crop in every stage
            return [_reflected(image, max(least, self.gt_size or 1)) for image in images]
        if min(images[0].shape[:2]) < least:
            raise UserError(
                f"{names[0]}: is {_size(images[0].shape)}, less than a crop of {least}; remove the file, or set pad_small."
            )
        return images

    def check(self, *, progress: bool = True) -> None:
        """Look at every file's header and end, before anything long starts. With `bad_images: skip` it can shorten the set.

        Raises:
            UserError: empty, truncated or unreadable files; pairs of different sizes; images smaller than the crop. All of
                them, by name (the first ten and the count). With `skip` only when no good one is left.
        """
        broken, unequal, small, paged = {}, {}, {}, []
        self.sizes = {}
        for names in tqdm(self.names, desc="checking files", unit="file", disable=None if progress else True, leave=False):
            try:
                looks = [storage.look(name) for storage, name in zip(self.storages, names, strict=True)]
            except UserError as error:
                broken[names] = str(error).split("; ")[0]
                continue
            sizes = [look.size for look in looks]
            paged += [self.title(names)] if any(look.pages > 1 for look in looks) else []
            if len(set(sizes)) > 1:
                unequal[names] = f"{names[0]} ({' and '.join(map(_size, sizes))})"
            elif self.gt_size and min(sizes[0]) < self.gt_size and not self.pad_small:
                small[names] = f"{names[0]} ({_size(sizes[0])})"
            else:
                self.sizes[self.title(names)] = sizes[0]
        if paged:
            logger.warning("of files with several pages or frames the first one is taken alone: %s.", first_ten(paged))
        faults = [f"unreadable: {first_ten(broken.values())}"] if broken else []
        faults += [f"{self.belonging} of different sizes: {first_ten(unequal.values())}"] if unequal else []
        faults += [f"smaller than gt_size {self.gt_size}: {first_ten(small.values())}"] if small else []
        good = [names for names in self.names if names not in broken | unequal | small]
        if faults and (self.bad_images == "fail" or not good):
            advice = ", or set bad_images: skip" if good else ""
            advice += ", or set pad_small: true" if small else ""
            raise UserError(f"{'; '.join(faults)}; replace or remove these files{advice}.")
        if faults:
            logger.warning("%s; %d of %d are left.", "; ".join(faults), len(good), len(self.names))
            self.names = good


def _reflected(image: np.ndarray, least: int) -> np.ndarray:
    """Both sides at least so long, by reflection on the right and below that repeats the edge."""
    more = [(0, max(0, least - side)) for side in image.shape[:2]]
    return np.pad(image, [*more, (0, 0)], "symmetric") if any(after for _, after in more) else image


def as_list(value: str | list[str] | None) -> list[str]:
    """Of one, several or no words."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def open_images(
    root: str | list[str], io_backend: dict[str, Any] | None, where: str, folders: tuple[str, ...] | None = None
) -> Storage:
    """The folder or LMDB `root`, or several as one; `io_backend` is {"type": "disk"}, the default, or {"type": "lmdb"}, and may
    say what black and white are in the files: {"type": "disk", "value_range": [0, 255]}.

    Args:
        folders: of several, what names begin with; by default, what tells their paths apart.

    Raises:
        UserError: an unknown word, or nothing to open, blamed on the option `where`.
    """
    roots, how = [Path(one) for one in as_list(root)], storage_words(io_backend)
    if len(roots) == 1:
        return open_storage(roots[0], *how, where=where)
    if not roots:
        raise UserError(f"{where} names no folder.")
    storages = [open_storage(one, *how, where=f"{where}.{number}") for number, one in enumerate(roots)]
    return JoinedStorage(list(zip(folders or folder_names(roots), storages, strict=True)))


def storage_words(io_backend: dict[str, Any] | None) -> tuple[str, Range | None]:
    """The kind of storage, and what black and white are in its files, where that is said. Raises UserError."""
    io_backend = io_backend or {}
    for word in io_backend:
        if word not in _WORDS:
            near = did_you_mean(word, _WORDS)
            raise UserError(f"io_backend.{word}: unknown option.{near} It has `type`, disk or lmdb, and `value_range`.")
    value_range = io_backend.get("value_range")
    if value_range is not None and not is_range(value_range):
        raise UserError(f"io_backend.value_range is {value_range!r}, but must be black and white, such as [0, 255].")
    return io_backend.get("type", "disk"), None if value_range is None else tuple(map(float, value_range))


def is_range(value: object) -> bool:
    """Whether it is two numbers, the second one larger."""
    numbers = isinstance(value, (list, tuple)) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
    return numbers and len(value) == 2 and value[0] < value[1]


def as_sample(lq: np.ndarray, gt: np.ndarray | None, name: str) -> Sample:
    """From (H, W, C) images, integers or float; gt: None: there is none."""
    return {"lq": to_tensor(lq), **({} if gt is None else {"gt": to_tensor(gt)}), "name": name}


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
