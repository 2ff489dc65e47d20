"""The Darmstadt Noise Dataset: crops of real photographs without ground truth, and the files that its server takes.

T. Plötz, S. Roth, "Benchmarking Denoising Algorithms with Real Photographs", CVPR 2017. Its .mat files are HDF5, read by h5py,
which is an extra.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from torch import Tensor

from basicsr.data.image_dataset import Arrays, ImageDataset
from basicsr.errors import UserError
from basicsr.registry import DATASETS
from basicsr.utils.files import write_bytes
from basicsr.utils.image import Look

Box = tuple[int, int, int, int]  # first row and column, end of rows and columns, from 0, the ends not included


class CropStorage:
    """The crops that info.mat names, `<picture>_<crop>` from 0001_01, of images_srgb/<picture>.mat.

    As much of a `Storage` as whole images need.

    Raises:
        UserError: h5py is absent; files that are not there or hold something else.
    """

    def __init__(self, root: Path) -> None:
        if not (root / "info.mat").is_file():
            raise UserError(f"dataroot_lq: {root} holds no info.mat; it is the folder with info.mat and images_srgb of DND.")
        self.root = root
        boxes = _in_hdf5(root / "info.mat", _boxes)
        self.crops = {
            f"{picture:04d}_{crop:02d}": (root / f"images_srgb/{picture:04d}.mat", box)
            for picture, inside in enumerate(boxes, start=1)
            for crop, box in enumerate(inside, start=1)
        }
        absent = sorted({file.name for file, _ in self.crops.values() if not file.is_file()})
        if absent:
            raise UserError(f"dataroot_lq: {root / 'images_srgb'} lacks {', '.join(absent[:10])}; unpack the archive again.")

    def names(self) -> list[str]:
        return list(self.crops)

    def look(self, name: str) -> Look:
        top, left, bottom, right = self.crops[name][1]
        return Look((bottom - top, right - left), pages=1, grey=False)

    def read_raw(self, name: str) -> np.ndarray:
        """(H, W, 3) float32 in [0, 1]."""
        file, (top, left, bottom, right) = self.crops[name]

        def crop(hdf5: Mapping[str, Any]) -> np.ndarray:
            picture = hdf5["InoisySRGB"]  # (3, W, H): MATLAB's order of the axes
            part = picture[:, left:right, top:bottom]
            if part.shape != (3, right - left, bottom - top):
                raise ValueError(f"is {'x'.join(map(str, picture.shape))}, too small for the crop {name}")
            return np.asarray(part, np.float32).transpose(2, 1, 0)

        pixels = _in_hdf5(file, crop)
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError(f"{file}: holds values outside of [0, 1], or none at all, in the crop {name}; unpack it again.")
        return pixels


@DATASETS.register
class DNDDataset(ImageDataset):
    """{"lq": (3, 512, 512) float32 RGB in [0, 1], "name": "0001_01"}: 20 crops of each of 50 photographs, without ground truth.

    A test writes them in the files that the data set's server measures, see `Submission`.

    Args:
        dataroot_lq: the folder with info.mat and images_srgb/0001.mat and so on.

    Raises:
        UserError: h5py is absent; files that are not there or hold something else.
    """

    has_gt = False

    def __init__(self, *, dataroot_lq: str) -> None:
        storage = CropStorage(Path(dataroot_lq))
        super().__init__((storage,), [(name,) for name in storage.names()], gt_size=None, use_flip=False, use_rot=False)

    def arrays(self, names: tuple[str, ...]) -> Arrays:
        return self.read(names)[0], None, names[0]

    def saver(self, folder: Path) -> "Submission":
        """What writes restored crops into a folder, instead of pictures."""
        return Submission(folder, [names[0] for names in self.names])


class Submission:
    """The files 0001.mat and so on for DND's server, of crops that come in any order and from several processes.

    Each holds `Idenoised`, a cell of a picture's crops (H, W, 3), float32 in [0, 1]; `israw` false; `eval_version` "1.0". Crops
    lie in files of their own until all of their picture are there.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names

    def has(self, name: str) -> bool:
        """Whether a crop is written, so that a run that goes on need not do it again."""
        return self._crop(name).is_file() or self._picture(name).is_file()

    def write(self, name: str, restored: Tensor) -> None:
        """Keep a crop, (3, H, W)."""
        buffer = io.BytesIO()
        np.save(buffer, restored.float().clamp(0, 1).numpy().transpose(1, 2, 0), allow_pickle=False)
        write_bytes(self._crop(name), buffer.getvalue())

    def finish(self) -> None:
        """Write the files of all pictures whose crops are there, for one process."""
        pictures: dict[Path, list[Path]] = {}
        for name in self.names:
            pictures.setdefault(self._picture(name), []).append(self._crop(name))
        for file, crops in pictures.items():
            if not all(crop.is_file() for crop in crops):
                continue
            cell = np.empty(len(crops), object)
            cell[:] = [np.load(crop) for crop in crops]
            buffer = io.BytesIO()
            scipy.io.savemat(buffer, {"Idenoised": cell, "israw": False, "eval_version": "1.0"})
            write_bytes(file, buffer.getvalue())
            for crop in crops:
                crop.unlink()

    def _crop(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _picture(self, name: str) -> Path:
        return self.folder / f"{name.partition('_')[0]}.mat"


def _boxes(hdf5: Mapping[str, Any]) -> list[list[Box]]:
    """Of every picture; the file has (4, n) tables of first and last rows and columns, from 1, by reference."""
    found = []
    for reference in np.ravel(hdf5["info"]["boundingboxes"]):
        table = np.asarray(hdf5[reference]).T  # (n, 4)
        found.append([(int(top) - 1, int(left) - 1, int(bottom), int(right)) for top, left, bottom, right in table])
    return found


def _in_hdf5(file: Path, read: Callable[[Mapping[str, Any]], Any]) -> Any:
    """What `read` makes of a file. Raises UserError."""
    try:
        import h5py
    except ImportError:
        raise UserError("DND's .mat files need h5py, which is not installed; `pip install h5py`.") from None
    try:
        with h5py.File(file, "r") as hdf5:
            return read(hdf5)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error.args[0] if error.args else type(error).__name__).partition("\n")[0]
        raise UserError(f"{file}: is none of DND's files ({reason}); unpack the archive again.") from None
