"""How many training patches a second the data sets deliver, by number of worker processes.

    python scripts/benchmark_data.py --gt_size 96 256 --workers 1 2 4

Cuts crops of 512, as training sets have them, from a folder of photographs into a temporary folder of PNG files; what is
measured is decoding, cropping, degrading and collating, without a network. A GPU that trains at most so many patches a second
does not wait for its data. Run it on an idle machine: each number is the median of three intervals.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # another package may be installed under the name basicsr

import basicsr  # noqa: F401 - before torch: it says how threads wait and memory is kept

# isort: split

import cv2
from torch.utils.data import DataLoader, Dataset

from basicsr.data import PairedImageDataset, SyntheticDegradationDataset
from basicsr.data.sampler import EndlessBatchSampler, Stage
from basicsr.data.storage import FolderStorage
from basicsr.errors import UserError
from basicsr.options import resolve_input
from basicsr.utils.image import write_image
from basicsr.utils.log import run_entry_point

CROP = 512
INTERVALS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input", default="datasets/Sample/test/target", help="folder of sharp photographs (default: %(default)s)"
    )
    parser.add_argument(
        "--gt_size", type=_positive, nargs="+", default=[96, 256], help="sides of the patches (default: 96 256)"
    )
    parser.add_argument("--workers", type=_positive, nargs="+", default=[1, 2], help="numbers of processes (default: 1 2)")
    parser.add_argument("--batch_size", type=_positive, default=8, help="patches a batch (default: %(default)s)")
    parser.add_argument("--seconds", type=_positive, default=6, help="for each number (default: %(default)s)")
    args = parser.parse_args()
    if max(args.gt_size) > CROP:
        raise UserError(f"--gt_size {max(args.gt_size)}: patches are cut from crops of {CROP}; give {CROP} or less.")
    workers = sorted({1, *args.workers})
    with tempfile.TemporaryDirectory() as temporary:
        _make_pairs(resolve_input(args.input), Path(temporary))
        print("patches/s (and how many times those of 1 worker)")
        print(f"{'data set':<28}{'patch':>6}" + "".join(f"{f'{count} worker' + 's' * (count > 1):>16}" for count in workers))
        for label, make in _datasets(Path(temporary)).items():
            for size in args.gt_size:
                speeds = [speed(make(size), size, count, args.batch_size, args.seconds) for count in workers]
                cells = "".join(f"{f'{value:.0f} ({value / speeds[0]:.2f}x)':>16}" for value in speeds)
                print(f"{label:<28}{size:>6}{cells}", flush=True)
    return 0


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
    names = [name for name in storage.names() if min(storage.size(name)) >= CROP]
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


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
