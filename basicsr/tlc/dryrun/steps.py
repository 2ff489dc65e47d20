"""The operations of a run with the numbers that they were given, by the modules around them."""

from collections import Counter
from collections.abc import Container

from torch import nn

from basicsr.tlc.dryrun.shapes import Shapes

# They are told how large their results are to be, or copy what has another layout: they may differ.
_SIZED = {"view", "_unsafe_view", "_reshape_alias", "expand", "as_strided", "repeat", "clone", "copy", "empty_strided", "alias"}


class Steps(Shapes):
    """`taken`: how often each."""

    def __init__(self, known: dict[object, tuple] | None = None, stays: bool = False) -> None:
        super().__init__(known, stays)
        self.taken: Counter = Counter()
        self._around: tuple[nn.Module, ...] = ()

    def entered(self, module: nn.Module) -> None:
        self._around = (*self._around, module)

    def left(self) -> None:
        self._around = self._around[:-1]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__.removesuffix("_")
        if name not in _SIZED and not name.startswith("upsample"):
            numbers = tuple([x for x in args if isinstance(x, (int, float))])
            self.taken[self._around, name, numbers] += 1
        return super().__torch_dispatch__(function, types, args, kwargs)


def outside(taken: Counter, layers: Container[nn.Module]) -> Counter:
    """The operations that none of these modules is around."""
    found: Counter = Counter()
    for (around, *step), count in taken.items():
        if not any(module in layers for module in around):
            found[tuple(step)] += count
    return found
