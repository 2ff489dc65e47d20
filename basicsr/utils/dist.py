"""Which device to run on, and how several processes talk to one another. All functions work in one process, too.

Processes are started by torchrun (which sets RANK, WORLD_SIZE and LOCAL_RANK) or by slurm's srun.
"""

import argparse
import contextlib
import datetime
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from basicsr.errors import UserError
from basicsr.utils.peers import Peers

logger = logging.getLogger("basicsr")
T = TypeVar("T")
PATIENCE = datetime.timedelta(hours=3)  # for the slowest process, which may validate on many images
_peers: Peers | None = None  # where there are others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm"),
        help="who starts the processes; torchrun is recognised without it, srun is not",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # older launchers pass it


def start(launcher: str | None = None, local_rank: int | None = None) -> None:
    """Join the other processes, if there are any: by gloo on CPUs, by nccl on GPUs.

    Args:
        launcher: 'pytorch' (torchrun), 'slurm', 'none' (one process), or None: torchrun if its variables are set.
        local_rank: number of this process on its machine, where LOCAL_RANK does not say it.

    Raises:
        UserError: the launcher's variables are not there.
    """
    if launcher == "slurm":
        _read_slurm()
    elif launcher == "pytorch" and "WORLD_SIZE" not in os.environ:
        raise UserError("--launcher pytorch: start it with `torchrun --nproc_per_node=N basicsr/train.py -opt FILE`.")
    if local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
    if launcher == "none" or int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return
    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if on_gpus and _local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(_local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
    if dist.is_initialized():
        global _peers
        _peers = Peers(rank(), world_size())
    if not is_main():
        for handler in logger.handlers:
            handler.setLevel(logging.WARNING)


def _read_slurm() -> None:
    """srun's variables under torchrun's names."""
    try:
        tasks, task, local = (os.environ[name] for name in ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"))
    except KeyError as error:
        raise UserError(f"--launcher slurm: {error.args[0]} is not set; start it with srun.") from None
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "")
    if "MASTER_ADDR" not in os.environ:
        if set(nodes) & set("[,"):
            try:
                found = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError):
                raise UserError(f"--launcher slurm: scontrol cannot name the nodes {nodes}; set MASTER_ADDR.") from None
            nodes = found.stdout.split()[0]
        os.environ["MASTER_ADDR"] = nodes or "127.0.0.1"
    os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 20000))
    os.environ |= {"WORLD_SIZE": tasks, "RANK": task, "LOCAL_RANK": local}


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def stop() -> None:
    global _peers
    if _peers is not None:
        _peers.leave()
        _peers = None
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def together(work: Callable[[], T]) -> T:
    """`work()` in every process; what a user did wrong in any of them ends all, and the first process says it."""
    result, mistake = None, None
    try:
        result = work()
    except UserError as error:
        mistake = str(error)
    mistakes = [text for text in gather(mistake) if text is not None]
    if mistakes and is_main():
        raise UserError(mistakes[0])
    if mistakes:
        raise SystemExit(2)
    return result


@contextlib.contextmanager
def first_in(context: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """Inside a context of the first process; where that cannot be entered, as a user's mistake, no process goes on."""
    with contextlib.ExitStack() as stack:
        together(lambda: stack.enter_context(context()) if is_main() else None)
        yield


@contextlib.contextmanager
def with_others() -> Iterator[None]:
    """While work needs the other processes: UserError where one of them is no more, with its number."""
    try:
        yield
    except RuntimeError as error:
        lost = None if _peers is None else _peers.lost()
        if lost is None:
            raise
        _peers.left.set()  # this process ends in its own time, as what was learnt is saved first
        raise UserError(_peers.describe(lost)) from error


def gather(value: T) -> list[T]:
    """Every process' value, in the order of the ranks, for all."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        with with_others():
            dist.all_gather_object(values, value)
    return values


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean over the processes."""
    if world_size() > 1:
        with with_others():
            dist.all_reduce(values)
        values /= world_size()
    return values


def any_true(flag: bool) -> bool:
    """Whether it is true in any process."""
    return mean(torch.tensor(float(flag))).item() > 0


def pick_device(num_gpu: int | str) -> torch.device:
    """0: the CPU. 'auto': a GPU (CUDA, or Apple's MPS) if there is one. Else: the same, with a warning if there is none."""
    if num_gpu == 0:
        return torch.device("cpu")
    if torch.cuda.is_available():
        if _local_rank() >= torch.cuda.device_count():
            raise UserError(
                f"process {_local_rank()} of this machine has no GPU: there are {torch.cuda.device_count()}; start as many."
            )
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available() and world_size() == 1:
        return torch.device("mps")
    if num_gpu != "auto":
        logger.warning("num_gpu is %s, but there is no GPU here: running on the CPU.", num_gpu)
    return torch.device("cpu")


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a GPU, or of the computer's memory for each of its processes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    with contextlib.suppress(OSError, StopIteration):  # Linux: with what it holds as a cache of files
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024 // processes
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES" if device.type == "cpu" else "SC_PHYS_PAGES")
        return pages * os.sysconf("SC_PAGE_SIZE") // processes
    except (AttributeError, ValueError, OSError):  # Windows; macOS does not know free pages
        return None
