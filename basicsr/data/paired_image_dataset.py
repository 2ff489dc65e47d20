"""Degraded images and their ground truth, matched by name."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from basicsr.data.storage import Storage, open_storage
from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.registry import DATASETS


@DATASETS.register
class PairedImageDataset(Dataset):
    """Pairs {"lq", "gt": (3, H, W) float32 RGB in [0, 1], "name": str}, matched by file name, suffixes aside.

    Indexed by a number: the whole images. Indexed by (number, seed): a random crop with random flips that follow from the seed.

    Args:
        dataroot_gt, dataroot_lq: folders (or LMDBs) of the ground truth and the degraded images.
        filename_tmpl: the degraded image's name for a ground truth's, '{}' when equal, '{}_blur' for `x_blur.png`.
        io_backend: {"type": "disk"} or {"type": "lmdb"}.
        gt_size: side of the training crop; needed when indexed with a seed.
        use_flip: horizontal flips, p = 0.5. use_rot: vertical flips and transposition, each p = 0.5: all eight orientations.

    Raises:
        UserError: see `check`; folders that do not exist or hold no images.
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
    ) -> None:
        if "{}" not in filename_tmpl:
            raise UserError(f"filename_tmpl is {filename_tmpl!r}, but must hold {{}}, the place of the ground truth's name.")
        io_backend = io_backend or {"type": "disk"}
        for word in io_backend:
            if word != "type":
                raise UserError(
                    f"io_backend.{word}: unknown option.{did_you_mean(word, ('type',))} It has only `type`: disk or lmdb."
                )
        if gt_size is not None and gt_size < 1:
            raise UserError(f"gt_size is {gt_size}, but the side of a crop must be positive.")
        kind = io_backend.get("type", "disk")
        self.gt = open_storage(Path(dataroot_gt), kind, "dataroot_gt")
        self.lq = open_storage(Path(dataroot_lq), kind, "dataroot_lq")
        self.gt_size, self.use_flip, self.use_rot = gt_size, use_flip, use_rot
        self.pairs = self._match(filename_tmpl)

    def _match(self, filename_tmpl: str) -> list[tuple[str, str]]:
        """(gt name, lq name) in the order of the names; nothing may be without its partner."""
        lq_names = set(self.lq.names())
        pairs = []
        for name in sorted(self.gt.names()):
            folder, slash, stem = name.rpartition("/")
            pairs.append((name, folder + slash + filename_tmpl.replace("{}", stem)))
        alone_gt = [gt for gt, lq in pairs if lq not in lq_names]
        alone_lq = sorted(lq_names - {lq for _, lq in pairs})
        if alone_gt or alone_lq:
            parts = [f"without a degraded image in dataroot_lq: {first_ten(alone_gt)}"] if alone_gt else []
            parts += [f"without a ground truth in dataroot_gt: {first_ten(alone_lq)}"] if alone_lq else []
            raise UserError(
                f"dataroot_gt and dataroot_lq do not match (filename_tmpl {filename_tmpl!r}); {'; '.join(parts)}; "
                "add, remove or rename files."
            )
        return pairs

    def check(self, *, progress: bool = True) -> None:
        """Look at every file's header and end, before anything long starts.

        Raises:
            UserError: empty, truncated or unreadable files; pairs of different sizes; images smaller than the crop. All of
                them, by name (the first ten and the count).
        """
        broken, unequal, small = [], [], []
        for gt_name, lq_name in tqdm(
            self.pairs, desc="checking files", unit="pair", disable=None if progress else True, leave=False
        ):
            try:
                gt_size, lq_size = self.gt.size(gt_name), self.lq.size(lq_name)
            except UserError as error:
                broken.append(str(error).split("; ")[0])
                continue
            if gt_size != lq_size:
                unequal.append(f"{gt_name} ({gt_size[1]}x{gt_size[0]} and {lq_size[1]}x{lq_size[0]})")
            elif self.gt_size and min(gt_size) < self.gt_size:
                small.append(f"{gt_name} ({gt_size[1]}x{gt_size[0]})")
        faults = [f"unreadable: {first_ten(broken)}"] if broken else []
        faults += [f"ground truth and degraded image of different sizes: {first_ten(unequal)}"] if unequal else []
        faults += [f"smaller than gt_size {self.gt_size}: {first_ten(small)}"] if small else []
        if faults:
            raise UserError(f"{'; '.join(faults)}; replace or remove these files.")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, torch.Tensor | str]:
        number, seed = index if isinstance(index, tuple) else (index, None)
        gt_name, lq_name = self.pairs[number]
        gt, lq = self.gt.read(gt_name), self.lq.read(lq_name)
        if seed is not None:
            rng = np.random.default_rng(seed)
            gt, lq = random_crop([gt, lq], self.gt_size, rng)
            gt, lq = augment([gt, lq], self.use_flip, self.use_rot, rng)
        return {"lq": to_tensor(lq), "gt": to_tensor(gt), "name": gt_name}


def random_crop(images: list[np.ndarray], size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The same random size x size part of every (H, W, C) image."""
    height, width = images[0].shape[:2]
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
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


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """(H, W, C) -> (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))


__all__ = ["PairedImageDataset", "Storage", "augment", "random_crop", "to_tensor"]
