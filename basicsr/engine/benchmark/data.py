"""How many training patches a second the data sets deliver, by number of worker processes.

Crops of 512, as training sets have them, are cut from photographs into a temporary folder of PNG files; what is measured is
decoding, cropping, degrading and collating, without a network: the median of three intervals for each number. A GPU that trains
at most so many patches a second does not wait for its data.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
from torch.utils.data import DataLoader, Dataset

from basicsr.data import PairedImageDataset, SyntheticDegradationDataset
from basicsr.data.sampler import EndlessBatchSampler, Stage
from basicsr.data.storage import FolderStorage
from basicsr.errors import UserError
from basicsr.utils.image import write_image

CROP = 512
INTERVALS = 3


def table(photographs: Path, gt_sizes: Sequence[int], workers: Sequence[int], batch_size: int, seconds: float) -> Iterator[str]:
    """Patches a second of each data set, line by line.

    Args:
        photographs: a folder of sharp ones. gt_sizes: sides of the patches. workers: numbers of processes, beside 1.
        seconds: for each number.

    Raises:
        UserError: patches larger than CROP, no photograph as large.
    """
    if max(gt_sizes) > CROP:
        raise UserError(f"--gt_size {max(gt_sizes)}: patches are cut from crops of {CROP}; give {CROP} or less.")
    counts = sorted({1, *workers})
    with tempfile.TemporaryDirectory() as temporary:
        _make_pairs(photographs, Path(temporary))
        yield "patches/s (and how many times those of 1 worker)"
        yield f"{'data set':<28}{'patch':>6}" + "".join(f"{f'{count} worker' + 's' * (count > 1):>16}" for count in counts)
        for label, make in _datasets(Path(temporary)).items():
            for size in gt_sizes:
                speeds = [speed(make(size), size, count, batch_size, seconds) for count in counts]
                yield f"{label:<28}{size:>6}" + "".join(f"{f'{value:.0f} ({value / speeds[0]:.2f}x)':>16}" for value in speeds)


def speed(dataset: Dataset, gt_size: int, workers: int, batch_size: int, seconds: float) -> float:
    """Patches a second: the median of three intervals that last `seconds` together, after the workers have started."""
    stage = Stage(1, gt_size, batch_size, batch_size)
    sampler = EndlessBatchSampler(len(dataset), [stage])
    loader = iter(DataLoader(dataset, batch_sampler=sampler, num_workers=workers, worker_init_fn=_start_worker))
    for _ in range(4 * workers):  # those that were made while nobody took any
        next(loader)
    speeds = []
    for _ in range(INTERVALS):
        start, patches = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / INTERVALS:
            patches += len(next(loader)["name"])
        speeds.append(patches / (time.perf_counter() - start))
    return statistics.median(speeds)


def _make_pairs(photographs: Path, folder: Path) -> None:
    """folder/{target,input}/<name>.png: one crop a photograph, and a noisy copy of it."""
    storage = FolderStorage(photographs, "--input")
    names = [name for name in storage.names() if min(storage.look(name).size) >= CROP]
    if not names:
        raise UserError(f"--input: {photographs} holds no photograph of {CROP}x{CROP} or more; choose another folder.")
    for name in names:
        write_image(folder / "target" / f"{name}.png", storage.read(name)[:CROP, :CROP])
    degraded = SyntheticDegradationDataset(dataroot_gt=str(folder / "target"), kind="noise")
    for index in range(len(degraded)):
        sample = degraded[index]
        write_image(folder / "input" / f"{sample['name']}.png", sample["lq"].numpy().transpose(1, 2, 0))


def _datasets(folder: Path) -> dict[str, Callable[[int], Dataset]]:
    """What is measured: its label, and a data set for a size of patch."""
    gt, lq = str(folder / "target"), str(folder / "input")
    flips = {"use_flip": True, "use_rot": True}
    return {
        "PairedImageDataset": lambda size: PairedImageDataset(dataroot_gt=gt, dataroot_lq=lq, gt_size=size, **flips),
        "SyntheticDegradation, noise": lambda size: SyntheticDegradationDataset(
            dataroot_gt=gt, kind="noise", gt_size=size, **flips
        ),
        "SyntheticDegradation, blur": lambda size: SyntheticDegradationDataset(
            dataroot_gt=gt, kind="blur", gt_size=size, **flips
        ),
    }


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # as in training: a process has one core
