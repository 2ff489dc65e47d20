"""The arguments that modules are given in both runs, and the sizes of the maps among them."""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from basicsr.tlc.local import Size
from basicsr.tlc.published import cuts_windows, is_local_pool
from basicsr.tlc.report import ROOT
from basicsr.tlc.rules import rule_for

Call = tuple[tuple, dict[str, object]]  # positional and keyword arguments


def map_sizes(calls: tuple[list[Call], list[Call]], ndims: set[int] | None = None) -> set[Size | None]:
    """(h, w) of the maps that a module is given in training: of the two dimensions that grow with the image, else of the last
    two. None: something else grows, such as the number of tokens in a sequence.

    Args:
        calls: the module's, as in Probe.
        ndims: of the maps that it takes, when they have their rows and columns last, as PyTorch's own layers want them.
    """
    sizes = set()
    for shape, grown in _growing(calls):
        last, batch = {len(shape) - 2, len(shape) - 1}, {0} if len(shape) > 3 else set()
        if ndims is not None:
            sizes.add(tuple(shape[-2:]) if len(shape) in ndims and set(grown) <= last | batch else None)
        elif len(grown) == 2:
            sizes.add((shape[grown[0]], shape[grown[1]]))
        elif grown in ([], [0]) or (len(shape) > 3 and set(grown) <= last):
            sizes.add(tuple(shape[-2:]))
        else:
            sizes.add(None)
    return sizes


def sees_image(calls: tuple[list[Call], list[Call]]) -> bool:
    """Whether any of a module's maps grows with the image: a larger image may also mean more maps of the same size."""
    return any(set(grown) - {0} for _, grown in _growing(calls))


def _growing(calls: tuple[list[Call], list[Call]]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """The shapes of the maps in the smaller run, and which of their dimensions are larger in the other."""
    for small, large in zip(*calls, strict=False):
        x, other = first_map(small), first_map(large)
        if x is not None and other is not None and x.ndim == other.ndim:
            yield tuple(x.shape), [dim for dim, (a, b) in enumerate(zip(x.shape, other.shape, strict=True)) if a != b]


def first_map(call: Call) -> Tensor | None:
    args, kwargs = call
    return next((x for x in _tensors((*args, *kwargs.values())) if x.ndim >= 3), None)


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """Those in lists, tuples and dicts, too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list, dict)):
            yield from _tensors(value.values() if isinstance(value, dict) else value)


def local_paths(net: nn.Module) -> set[str]:
    """The layers that `convert` made of parts of the net that it was given before, and those that are local by themselves."""
    parts = [(path, part.tlc_report) for path, part in net.named_modules() if hasattr(part, "tlc_report")]
    made = {".".join(filter(None, (path, row.path.removeprefix(ROOT)))) for path, report in parts for row in report.converted}
    return made | {path for path, part in net.named_modules() if is_local_pool(part)} | set(cut_in_windows(net))


def cut_in_windows(net: nn.Module) -> dict[str, str]:
    """By path, attention that cuts its map into windows itself, unless it has a rule, and what the report says of it."""
    found = {path: cuts_windows(part) for path, part in net.named_modules() if not rule_for(part)}
    return {path: text for path, text in found.items() if text}


def as_it_is(value: object) -> object:
    """With lists and dicts of its own, as a forward may change those that it is given."""
    if type(value) in (list, tuple):
        return type(value)(map(as_it_is, value))
    return {key: as_it_is(part) for key, part in value.items()} if type(value) is dict else value
