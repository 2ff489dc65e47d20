"""What the outputs of a run are made of."""

from collections.abc import Iterable
from functools import cache, cached_property
from typing import NamedTuple

from torch import Tensor

from basicsr.tlc.dryrun.shapes import tensors_in


class Step(NamedTuple):
    """An operation: the tensors that it was given, the numbers of the operations that made them, and what it made."""

    name: str
    inputs: list[Tensor]  # these and `out` are kept, so that ids stay their tensors' own
    makers: list[int]
    out: object
    is_view: bool


@cache
def kind_of(function) -> tuple[bool, bool]:
    """Whether an operation changes what it is given, and whether it makes a view of it."""
    changes = function._schema.is_mutable
    return changes, not changes and any(value.alias_info for value in function._schema.returns)


class Flow:
    """The operations of a run, by their numbers."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._makers: dict[int, int] = {}  # by the tensors' ids
        self._needed: set[int] = set()

    def need(self, tensors: Iterable[object]) -> None:
        """These are used otherwise than by operations."""
        self._needed |= {self._makers[id(x)] for x in tensors_in(tensors) if id(x) in self._makers}

    def add(self, function, args: tuple, kwargs: dict, out: object) -> int:
        """The number of an operation."""
        number, (changes, is_view) = len(self.steps), kind_of(function)
        inputs = tensors_in((*args, *kwargs.values()) if kwargs else args)
        makers = [self._makers[id(x)] for x in inputs if id(x) in self._makers]
        if changes and any(self.steps[maker].is_view for maker in makers):
            self._needed.add(number)  # what is viewed changes, too
        name = function.overloadpacket.__name__.removesuffix("_")
        if name == "convolution":
            inputs = inputs[:1]  # a kernel has no rows and columns of a map
        self.steps.append(Step(name, inputs, makers, out, is_view))
        for tensor in tensors_in((out,)):
            self._makers[id(tensor)] = number
        return number

    @cached_property
    def users(self) -> dict[int, list[int]]:
        """Of each operation's results, once all operations are known."""
        users: dict[int, list[int]] = {}
        for user, step in enumerate(self.steps):
            for maker in step.makers:
                users.setdefault(maker, []).append(user)
        return users

    def used(self, outputs: Iterable[object]) -> set[int]:
        """The operations that these outputs of the net are made by."""
        self.need(outputs)
        found, queue = set(self._needed), list(self._needed)
        while queue:
            new = set(self.steps[queue.pop()].makers) - found
            found |= new
            queue += new
        return found
