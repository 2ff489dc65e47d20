"""Long runs hold what they need and no more: their memory and open files stay where they are after the first pictures.

`make soak` runs 500 pictures and 2,000 iterations: it sets SOAK to the number of pictures.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, picture, write, write_yaml

pytestmark = [
    pytest.mark.skipif("SOAK" not in os.environ, reason="takes minutes: make soak"),
    pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="memory and open files are read from /proc"),
]
PICTURES = int(os.environ.get("SOAK", "0"))
ALLOWED = 0.02  # of growth
CHECKPOINTS = 20  # of a training run, as often validated
INTERVAL = 0.05  # seconds between two samples
COMMAND = "import sys; from pathlib import Path; from basicsr import commands, options; options.ROOT = Path.cwd(); "
COMMAND += "sys.argv[0] = 'tlc'; sys.exit(commands.main())"


@dataclass(frozen=True)
class Sample:
    """share: of the work that is done. memory: bytes that are resident. files: open ones. Both of the process and its own."""

    share: float
    memory: int
    files: int


def pictures(folder: Path, sizes: str) -> Path:
    """The first is the largest: what memory it takes is not mistaken for growth."""
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        height, width = (96, 128) if sizes == "one" else random.integers(24, 200, 2) if number else (200, 200)
        write(folder / f"{number:04d}.png", picture(number % 16, height, width))
    return folder


@pytest.mark.parametrize("sizes", ["one", "mixed"])
def test_a_folder_is_restored_in_the_same_memory(tmp_path, sizes):
    pictures(tmp_path / "photos", sizes)
    options = yaml.safe_load((REPOSITORY / "options/demo/demo.yml").read_text(encoding="utf-8"))
    options["path"]["pretrain_network_g"] = str(REPOSITORY / options["path"]["pretrain_network_g"])
    write_yaml(tmp_path / "demo.yml", options)
    words = ("restore", "photos", "--output", "restored", "-opt", "demo.yml")
    assert_flat(watched(tmp_path, files(tmp_path / "restored", PICTURES), *words))


@pytest.mark.parametrize("sizes", ["one", "mixed"])
def test_a_data_set_is_tested_in_the_same_memory(tmp_path, test_options, sizes):
    pictures(tmp_path / "datasets/Set/target", sizes)
    pictures(tmp_path / "datasets/Set/input", sizes)
    local = {**test_options["network_g"], "type": "NAFNetLocal", "train_size": [1, 3, 32, 32], "base_size": 32}
    test_options |= {"network_g": local, "val": {**test_options["val"], "save_img": True}}
    write_yaml(tmp_path / "test.yml", test_options)
    assert_flat(watched(tmp_path, files(tmp_path / "results/run", PICTURES), "test", "-opt", "test.yml"))


def test_training_goes_on_in_the_same_memory(tmp_path, train_options):
    """With workers, validation, checkpoints and TensorBoard."""
    for seed in range(8):
        for folder in ("target", "input"):
            write(tmp_path / "datasets/Set" / folder / f"{seed}.png", picture(seed, 24 + seed, 32))
    iterations = 4 * PICTURES
    every = iterations // CHECKPOINTS
    train_set = train_options["datasets"]["train"] | {"num_worker_per_gpu": 1}
    val_set = {"name": "Val", "dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}
    train_options["datasets"] = {"train": train_set, "val": val_set}
    train_options["train"] |= {"total_iter": iterations, "scheduler": {"type": "TrueCosineAnnealingLR", "T_max": iterations}}
    train_options["logger"] = {"print_freq": every, "save_checkpoint_freq": every, "use_tb_logger": True}
    train_options["val"] = {**train_options["val"], "val_freq": every}
    write_yaml(tmp_path / "train.yml", train_options)
    states = tmp_path / "experiments/run/training_states"

    def progress() -> float:
        return max((int(file.stem) for file in states.glob("[1-9]*.state")), default=0) / iterations

    assert_flat(watched(tmp_path, progress, "train", "-opt", "train.yml"))


def files(folder: Path, count: int) -> Callable[[], float]:
    return lambda: sum(1 for _ in folder.rglob("*.png")) / count


def watched(folder: Path, progress: Callable[[], float], *words: str) -> list[Sample]:
    """What a command of `tlc` in a folder holds while it works. progress: the share of its work that is done."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with open(folder / "out.txt", "w") as out:
        process = subprocess.Popen([sys.executable, "-c", COMMAND, *words], cwd=folder, env=environment, stdout=out, stderr=out)
    samples = []
    while process.poll() is None:
        if (share := progress()) > 0 and (sample := take(process.pid, share)):
            samples.append(sample)
        time.sleep(INTERVAL)
    assert process.returncode == 0, (folder / "out.txt").read_text()
    return samples


def take(pid: int, share: float) -> Sample | None:
    """None when a process has ended meanwhile."""
    try:
        tree = list(processes(pid))
        status = [Path(f"/proc/{one}/status").read_text() for one in tree]
        memory = sum(int(text.split("VmRSS:")[1].split()[0]) << 10 for text in status)
        return Sample(share, memory, sum(len(os.listdir(f"/proc/{one}/fd")) for one in tree))
    except (OSError, IndexError):
        return None


def processes(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from processes(int(child))


def assert_flat(samples: list[Sample]) -> None:
    """The last tenth of the work against the sixth: until then caches fill that are bounded, as oneDNN's."""
    memory, handles = (tenths(samples, value) for value in (lambda sample: sample.memory, lambda sample: sample.files))
    print("memory of every tenth, MiB:", *(f"{mean / 2**20:.1f}" for mean in memory))
    print("open files:", *(f"{mean:.1f}" for mean in handles))
    assert memory[-1] <= (1 + ALLOWED) * memory[5]
    assert handles[-1] <= handles[5] + 1  # one that is just being read or written


def tenths(samples: list[Sample], value: Callable[[Sample], int]) -> list[float]:
    """The mean of each, of those that had samples."""
    parts = ([value(sample) for sample in samples if int(10 * sample.share) == tenth] for tenth in range(10))
    return [float(np.mean(part)) for part in parts]
