"""What modules hold as attributes while they run, where that is not what was found there: sizes that a module around sets."""

from torch import nn

_OTHERS = ("training", "forward")  # that the dry run sets
Pair = tuple[object, object]  # a value in the run at the training size, and in that of the larger image


class Several:
    """An attribute's values are several in one pass."""


class Attributes:
    """Of the modules of a net, in a run. changed: by module and name, those that are others than before the run."""

    def __init__(self, net: nn.Module) -> None:
        self.changed: dict[nn.Module, dict[str, object]] = {}
        self._found = {module: {name: _kept(value) for name, value in vars(module).items()} for module in net.modules()}

    def entered(self, module: nn.Module) -> None:
        """A module is about to run."""
        found, now = self._found[module], vars(module)
        names = [name for name in now if name[0] != "_" and name not in _OTHERS]
        changed = {name: _kept(now[name]) for name in names if name not in found or not _same(now[name], found[name])}
        before = self.changed.setdefault(module, changed)
        for name in before.keys() | changed.keys():
            if not _same(before.get(name, found.get(name)), changed.get(name, found.get(name))):
                before[name] = Several

    def value(self, module: nn.Module, name: str) -> object:
        return self.changed.get(module, {}).get(name, self._found[module].get(name))


def changed_in(module: nn.Module, small: Attributes, large: Attributes) -> dict[str, Pair]:
    """By path and name, what it and modules in it hold in both runs, and did not hold before."""
    held = {}
    for path, part in module.named_modules():
        for name in {**small.changed.get(part, {}), **large.changed.get(part, {})}:
            held[f"{path}.{name}".lstrip(".")] = (small.value(part, name), large.value(part, name))
    return held


def are_numbers(value: object) -> bool:
    """Whether it is a number, or holds nothing but numbers."""
    if isinstance(value, dict):
        return bool(value) and all(map(are_numbers, value.values()))
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(are_numbers, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kept(value: object) -> object:
    return value.copy() if isinstance(value, (list, dict)) and are_numbers(value) else value


def _same(a: object, b: object) -> bool:
    return a is b or (are_numbers(a) and type(a) is type(b) and a == b)
