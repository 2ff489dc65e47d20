"""What is measured, and what came out: data, to and from JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from basicsr.archs import plain_name

ON_GPUS = ("traffic", "copy_rate", "floor", "copy_share", "kernels")  # left out of JSON where nothing tells


@dataclass(frozen=True)
class Case:
    """What is measured by itself."""

    plain: Mapping[str, Any]  # options of the network, without TLC and
    local: Mapping[str, Any]  # with it
    size: tuple[int, int]  # width, height
    precision: str
    device: str
    compiled: bool
    channels_last: bool | None
    threads: int
    budget: float  # seconds
    modules: tuple[Path, ...] = ()  # files of the user's that register the network

    @property
    def label(self) -> str:
        return plain_name(self.plain["type"])


@dataclass(frozen=True)
class Kernels:
    """What a GPU did for one prediction, copies and fills included."""

    count: int
    seconds: float  # their durations, added up: what is between them is not in it


@dataclass(frozen=True)
class Timing:
    seconds: float  # median
    runs: tuple[float, ...]  # the first one warms up
    memory: float | None  # GiB beyond the weights; None where the system does not tell
    kernels: Kernels | None = None  # on GPUs


@dataclass(frozen=True)
class Result:
    case: Case
    gmacs: float
    matrix_rate: float | None  # GFLOP/s
    plain: Timing | None  # None: out of memory
    local: Timing | None
    traffic: float | None = None  # GB, see `floor.Work`; on GPUs, as
    copy_rate: float | None = None  # GB/s, read and written

    @property
    def ratio(self) -> float | None:
        return self.local.seconds / self.plain.seconds if self.plain and self.local else None

    @property
    def share(self) -> float | None:
        """What part of the product's rate the plain network reaches."""
        return 2 * self.gmacs / self.plain.seconds / self.matrix_rate if self.plain else None

    @property
    def copy_share(self) -> float | None:
        """What part of the copy's rate `traffic` in the plain network's seconds is: the maps inside blocks come on top."""
        return self.traffic / self.plain.seconds / self.copy_rate if self.plain and self.copy_rate else None

    @property
    def floor(self) -> float | None:
        """Seconds that the plain network's arithmetic takes at the product's rate, or `traffic` at the copy's: the larger."""
        return max(2 * self.gmacs / self.matrix_rate, self.traffic / self.copy_rate) if self.copy_rate else None


def as_dict(result: Result) -> dict:
    """For JSON; `from_dict` makes the result of it again."""
    found = {
        **asdict(result),
        "ratio": result.ratio,
        "share": result.share,
        "floor": result.floor,
        "copy_share": result.copy_share,
    }
    found["case"]["modules"] = [str(file) for file in result.case.modules]
    for part in (found, found["plain"], found["local"]):
        for key in ON_GPUS:
            if part is not None and part.get(key, 0) is None:
                del part[key]
    return found


def from_dict(found: Mapping[str, Any]) -> Result:
    case = dict(found["case"])
    case |= {"size": tuple(case["size"]), "modules": tuple(map(Path, case["modules"]))}
    timings = [_timing(found[variant]) for variant in ("plain", "local")]
    on_gpu = [found.get(key) for key in ("traffic", "copy_rate")]
    return Result(Case(**case), found["gmacs"], found["matrix_rate"], *timings, *on_gpu)


def _timing(found: Mapping[str, Any] | None) -> Timing | None:
    if found is None:
        return None
    kernels = Kernels(**found["kernels"]) if "kernels" in found else None
    return Timing(found["seconds"], tuple(found["runs"]), found["memory"], kernels)
