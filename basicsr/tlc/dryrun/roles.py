"""What a module's arguments and results have to do with the image's pixels, by their shapes in both runs."""

from collections.abc import Iterator

from torch import Tensor

from basicsr.tlc.dryrun.axes import axis_of, known, misplaced, regrouped
from basicsr.tlc.local import Size
from basicsr.tlc.local.windows import Extent, Pixels, Role

Sizes = tuple[Size, Size]  # rows and columns of maps in both runs


class Unclear(Exception):
    """Why that cannot be told."""


def sizes_of(small: object, large: object) -> Sizes:
    """Rows and columns of the maps among arguments; or of those whose pixels are a sequence, by the numbers that go with them.

    Raises:
        Unclear: there are none, or several.
    """
    pairs = [*_pairs(small, large)]
    maps, lengths, numbers = set(), set(), []
    for a, b in pairs:
        if isinstance(a, Tensor):
            dims = _growing(a, b)
            if len(dims) == 2:
                maps.add(tuple((x.shape[dims[0]], x.shape[dims[1]]) for x in (a, b)))
            elif len(dims) == 1:
                lengths.add((a.shape[dims[0]], b.shape[dims[0]]))
        elif isinstance(a, int) and a != b:
            numbers.append((a, b))
    if len(maps) > 1:
        raise Unclear("it is given maps of several sizes")
    if maps:
        return next(iter(maps))
    for rows in numbers:
        for columns in numbers:
            product = rows[0] * columns[0], rows[1] * columns[1]
            if product in lengths and rows[1] * columns[0] < columns[1] * rows[0]:  # as in the larger run
                return (rows[0], columns[0]), (rows[1], columns[1])
    if lengths:
        raise Unclear(
            "it is given pixels one behind the other, without rows and columns to tell them by; name the module around it"
        )
    raise Unclear("it is given no map; name the module around it that is")


def role_of(small: object, large: object, sizes: Sizes, *, given: bool) -> Role:
    """What a value is, of the small and the large run, where maps are of those sizes.

    given: it is an argument: maps are of that size, and what does not grow with the image is the same for all windows. Else it
    is a result: all is maps, of whole multiples of that size.

    Raises:
        Unclear: it is something else.
    """
    if isinstance(small, (tuple, list)):
        _check_alike(small, large)
        return tuple(role_of(*pair, sizes, given=given) for pair in zip(small, large, strict=True))
    if isinstance(small, dict):
        _check_alike(small, large)
        return {name: role_of(part, large[name], sizes, given=given) for name, part in small.items()}
    if isinstance(small, Tensor) and isinstance(large, Tensor) and small.ndim == large.ndim:
        dims = _growing(small, large)
        if dims or not given:
            return _pixels(small, large, dims, sizes, given)
    elif not given:
        raise Unclear(f"what it returns is {type(small).__name__}, no map")
    elif isinstance(small, int) and isinstance(large, int) and small != large:
        return _extent((small, large), sizes)
    return None


def _pixels(small: Tensor, large: Tensor, dims: tuple[int, ...], sizes: Sizes, given: bool) -> Pixels:
    what = "what it is given" if given else "what it returns"
    scale = _scale(small, large, dims, sizes)
    if scale is None or (given and scale != (1, 1)):
        shape = "x".join(map(str, small.shape))
        raise Unclear(f"{what}, {shape} in training, is no map as large as {sizes[0][0]}x{sizes[0][1]}{_times(given)}")
    if not small.is_floating_point() and not small.is_complex() and not given:
        raise Unclear("what it returns are whole numbers, of which there is no mean where windows overlap")
    if given:
        layout = known(large)
        parts = [layout[dim] for dim in dims] if len(dims) == 2 else regrouped((layout[dims[0]],), sizes[1]) or ((), ())
        if reason := misplaced(*map(axis_of, parts)):
            raise Unclear(reason)
    return Pixels(dims, scale)


def _times(given: bool) -> str:
    return "" if given else ", or a whole number of times as large"


def _scale(small: Tensor, large: Tensor, dims: tuple[int, ...], sizes: Sizes) -> Size | None:
    found = set()
    for x, size in zip((small, large), sizes, strict=True):
        if len(dims) == 1:
            found.add((1, 1) if x.shape[dims[0]] == size[0] * size[1] else None)
        elif len(dims) == 2:
            lengths = [x.shape[dim] for dim in dims]
            whole = all(length % side == 0 for length, side in zip(lengths, size, strict=True))
            found.add((lengths[0] // size[0], lengths[1] // size[1]) if whole else None)
    return found.pop() if len(found) == 1 else None


def _extent(pair: tuple[int, int], sizes: Sizes) -> Extent:
    sides = (0,), (1,), (0, 1)
    rows, columns = zip(*sizes, strict=True)
    meant = [rows, columns, tuple(a * b for a, b in sizes)]
    fitting = [side for side, wanted in zip(sides, meant, strict=True) if pair == wanted]
    if len(fitting) != 1:
        raise Unclear(f"it is given the number {pair[0]}, and rows and columns cannot be told by it")
    return Extent(fitting[0])


def _growing(small: Tensor, large: Tensor) -> tuple[int, ...]:
    dims = [dim for dim, (a, b) in enumerate(zip(small.shape, large.shape, strict=True)) if a != b]
    if 0 in dims:
        raise Unclear("the image's parts are its samples; name the module around it that is given the map")
    return tuple(dims)


def _pairs(small: object, large: object) -> Iterator[tuple[object, object]]:
    """What tuples, lists and dicts hold in both runs."""
    if isinstance(small, (tuple, list, dict)):
        _check_alike(small, large)
        for key in small if isinstance(small, dict) else range(len(small)):
            yield from _pairs(small[key], large[key])
    elif not isinstance(small, Tensor) or (isinstance(large, Tensor) and small.ndim == large.ndim):
        yield small, large
    else:
        raise Unclear("what it is given differs with the image's size")


def _check_alike(small: object, large: object) -> None:
    alike = type(small) is type(large) and len(small) == len(large)
    if not alike or (isinstance(small, dict) and small.keys() != large.keys()):
        raise Unclear("the number of its maps differs with the image's size")
