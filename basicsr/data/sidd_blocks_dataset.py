"""The blocks of SIDD's validation set and of its server's, from their MATLAB files."""

import functools
import re
from pathlib import Path

import numpy as np
import scipy.io
from torch import Tensor

from basicsr.data.image_dataset import Arrays, ImageDataset
from basicsr.errors import UserError
from basicsr.registry import DATASETS
from basicsr.utils.files import write_by
from basicsr.utils.image import Look, write_image


class BlockStorage:
    """The blocks of one file: an array (pictures, blocks, H, W, 3), uint8, RGB, of SIDD (40, 32, 256, 256, 3).

    Its name is that of the file, such as ValidationNoisyBlocksSrgb; the blocks are called ValidationBlocksSrgb_<i>, where
    i = 32 x picture + block, as in the published LMDBs. As much of a `Storage` as whole images need; the file is read with its
    first block.

    Raises:
        UserError: no such file, or none with such an array.
    """

    def __init__(self, root: Path, where: str) -> None:
        if not root.is_file():
            raise UserError(f"{where}: there is no file {root}; it is one of SIDD's, such as ValidationNoisyBlocksSrgb.mat.")
        self.root, self.where = root, where
        held = {name: tuple(shape) for name, shape, kind in self._ask(scipy.io.whosmat) if kind == "uint8"}
        fitting = [name for name, shape in held.items() if len(shape) == 5 and shape[4] == 3]
        if len(fitting) != 1:
            known = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in held.items()) or "no 8-bit array"
            raise UserError(f"{where}: {root} must hold one uint8 array (pictures, blocks, H, W, 3), but holds {known}.")
        self.key = fitting[0]
        self.shape = held[self.key]
        self.title = re.sub("Noisy|Gt", "", self.key)

    def names(self) -> list[str]:
        return [f"{self.title}_{number}" for number in range(self.shape[0] * self.shape[1])]

    def look(self, name: str) -> Look:
        return Look(self.shape[2:4], pages=1, grey=False)

    def read_raw(self, name: str) -> np.ndarray:
        picture, block = divmod(int(name.rpartition("_")[2]), self.shape[1])
        return self.blocks[picture, block]

    @functools.cached_property
    def blocks(self) -> np.ndarray:
        return self._ask(functools.partial(scipy.io.loadmat, variable_names=[self.key]))[self.key]

    def _ask(self, read: functools.partial) -> object:
        try:
            return read(self.root)
        except NotImplementedError:
            raise UserError(f"{self.where}: {self.root} is a .mat file of version 7.3; SIDD's are of version 5.") from None
        except Exception as error:  # noqa: BLE001 - scipy raises whatever it stumbles over
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{self.where}: {self.root} cannot be read as a .mat file ({reason}); get it again.") from None


@DATASETS.register
class SIDDBlocksDataset(ImageDataset):
    """{"lq", "gt": (3, H, W) float32 RGB in [0, 1], "name": "ValidationBlocksSrgb_<i>"}: whole blocks, for tests.

    Where a test writes restored blocks, it writes Idenoised.mat besides, see `Blocks`.

    Args:
        dataroot_lq: the file ValidationNoisyBlocksSrgb.mat, or BenchmarkNoisyBlocksSrgb.mat of the server's set.
        dataroot_gt: ValidationGtBlocksSrgb.mat; none when absent, as the server's set has none.

    Raises:
        UserError: files that are not there, or hold something else; ground truth of other blocks.
    """

    def __init__(self, *, dataroot_lq: str, dataroot_gt: str | None = None) -> None:
        lq = BlockStorage(Path(dataroot_lq), "dataroot_lq")
        self.has_gt = dataroot_gt is not None
        gt = [BlockStorage(Path(dataroot_gt), "dataroot_gt")] if self.has_gt else []
        for word, storage, other in (("dataroot_lq", lq, "Gt"), *(("dataroot_gt", truth, "Noisy") for truth in gt)):
            if other in storage.key:
                raise UserError(
                    f"{word}: {storage.root} holds {storage.key}; it is for the other of dataroot_lq and dataroot_gt."
                )
        for truth in gt:
            if (truth.shape, truth.title) != (lq.shape, lq.title):
                raise UserError(f"dataroot_gt: {truth.key} {truth.shape} does not belong to {lq.key} {lq.shape}.")
        names = [(name,) * (1 + len(gt)) for name in lq.names()]
        super().__init__((*gt, lq), names, gt_size=None, use_flip=False, use_rot=False)

    def arrays(self, names: tuple[str, ...]) -> Arrays:
        *gt, lq = self.read(names)
        return lq, gt[0] if gt else None, names[0]

    def saver(self, folder: Path) -> "Blocks":
        """What writes restored blocks into a folder."""
        lq = self.storages[-1]
        return Blocks(folder, lq.names(), lq.shape)

    def check(self, *, progress: bool = True) -> None:
        """Read the files, which then stay in memory: 250 MB each. Raises UserError."""
        for storage in self.storages:
            _ = storage.blocks
        super().check(progress=progress)


class Blocks:
    """Restored blocks as pictures, `<name>.png`, and once all are there as Idenoised.mat.

    That is the file in which MPRNet's and Restormer's tests hand them to MATLAB: `Idenoised`, float32 in [0, 1], of the shape
    of the blocks that were restored. Until then they lie in files of their own, for they come in any order and from several
    processes.

    Args:
        names: of all blocks, in order. shape: (pictures, blocks, H, W, 3).
    """

    def __init__(self, folder: Path, names: list[str], shape: tuple[int, ...]) -> None:
        self.folder, self.names, self.shape = folder, names, shape

    def has(self, name: str) -> bool:
        """Whether a block is written, so that a run that goes on need not do it again."""
        return self._picture(name).is_file() and (self._block(name).is_file() or self._whole.is_file())

    def write(self, name: str, restored: Tensor) -> None:
        """Keep a block, (3, H, W)."""
        pixels = restored.float().clamp(0, 1).numpy().transpose(1, 2, 0)
        write_by(self._block(name), lambda file: np.save(file, pixels, allow_pickle=False))
        write_image(self._picture(name), pixels)

    def finish(self) -> None:
        """Write Idenoised.mat if all blocks are there, for one process; beside it no block is kept."""
        blocks = [self._block(name) for name in self.names]
        if all(block.is_file() for block in blocks):
            restored = np.empty((len(blocks), *self.shape[2:]), np.float32)
            for place, block in zip(restored, blocks, strict=True):
                place[:] = np.load(block)
            write_by(self._whole, lambda file: scipy.io.savemat(file, {"Idenoised": restored.reshape(self.shape)}))
        if self._whole.is_file():  # also of an earlier run that was cut short just then, or whose pictures are done again
            for block in blocks:
                block.unlink(missing_ok=True)

    @property
    def _whole(self) -> Path:
        return self.folder / "Idenoised.mat"

    def _block(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _picture(self, name: str) -> Path:
        return self.folder / f"{name}.png"
