"""What a dry run saw."""

from collections import Counter
from dataclasses import dataclass

from torch import nn

from basicsr.tlc.dryrun.attributes import Attributes
from basicsr.tlc.dryrun.calls import Call
from basicsr.tlc.dryrun.running import Setup
from basicsr.tlc.local import Size

HANDED_OUT = "what the net makes of it is its output, and no map: nothing to do"
NOT_USED = "it is not used, its result reaches no output: nothing to do"
GRID = "view as a grid"


@dataclass(frozen=True)
class GlobalOp:
    path: str  # the module that performs it
    name: str  # the operation, such as 'mean'
    where: str  # source file and line; '' when no line of the net's own is involved


@dataclass(frozen=True)
class Probe:
    """What the dry run saw."""

    lines: dict[nn.Module, str]  # source file and line that call a watched module
    unfit: dict[nn.Module, str]  # modules that see no map of the image, or whose 1x1 output is used as no map could be; how
    calls: dict[nn.Module, tuple[list[Call], list[Call]]]  # each module's arguments, on meta, in both runs
    global_ops: list[GlobalOp]
    outputs: list[tuple[int, ...]]  # shapes, at train_size
    known: dict[object, tuple]  # of Shapes
    values: dict[str, str]  # modules that look at values, and the line that does
    setup: Setup  # how the net was run
    unused: set[GlobalOp]  # those of the global operations whose results reach no output
    idle: set[nn.Module]  # watched modules none of whose results do
    draws: dict[str, str]  # modules that draw random numbers, and the line that does
    stretched: dict[str, tuple[str, Size]]  # modules that resize a learned map to the image, the line and the map's size
    taken: Counter  # of Steps, at train_size
    scaled: dict[str, set[str]]  # modules that see maps which numbers that depend on the size scale, and the lines that do
    scales: str  # one of these lines, or ''
    combined: dict[GlobalOp, set[str]]  # watched modules that the same forward combines with an operation of its own
    attributes: tuple[Attributes, Attributes]  # in both runs
