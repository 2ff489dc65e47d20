"""The sizes that a converter is told: of the training patches, however they are written, and of the window."""

from collections.abc import Sequence

from torch import nn

from basicsr.tlc.local import Size

ImageSize = tuple[int, int, int, int]  # (N, C, H, W)
_COLOURS = 3


def image_sizes(net: nn.Module, train_size: object) -> list[ImageSize]:
    """The training patches' (N, C, H, W), of which the net takes the first or one of the others.

    Args:
        train_size: their side, (h, w) or (N, C, h, w). Without N and C it is a batch of one, of as many channels as
            `net.in_channels` says, else as the net's first convolution or linear layer takes; or, where images are rearranged
            before that one, of three.

    Raises:
        ValueError: it is none of these.
    """
    sizes = _whole(train_size)
    if len(sizes) == 1 and not isinstance(train_size, Sequence):
        sizes *= 2
    if len(sizes) not in (2, 4) or min(sizes) < 1:
        raise ValueError(f"train_size is {train_size}; give the training patches' side, such as 256, (h, w) or (N, C, h, w)")
    if len(sizes) == 4:
        return [sizes]
    return [(1, channels, *sizes) for channels in dict.fromkeys([*_channels(net), _COLOURS])]


def window_size(base_size: int | Size | None, patch: Size) -> Size:
    """(rows, columns) of the window at the input's resolution; 1.5 times the training patch when None.

    Raises:
        ValueError: it is neither a positive whole number nor two of them.
    """
    if base_size is None:
        return tuple(3 * size // 2 for size in patch)
    sizes = _whole(base_size)
    if len(sizes) == 1 and not isinstance(base_size, Sequence):
        sizes *= 2
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"base_size is {base_size}; give the window as one positive whole number or as (rows, columns)")
    return sizes


def _channels(net: nn.Module) -> list[int]:
    told = getattr(net, "in_channels", None)
    if isinstance(told, int):
        return [told]
    layers = (module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    first = next(layers, None)
    channels = getattr(first, "in_channels", None) or getattr(first, "in_features", None)  # 0 or None where it is lazy
    return [channels] if channels else []


def _whole(sizes: object) -> tuple[int, ...]:
    """Whole numbers of any type, NumPy's for example, as int; () for anything else."""
    sizes = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)
    try:
        return tuple(int(size) for size in sizes) if all(int(size) == size for size in sizes) else ()
    except (TypeError, ValueError, OverflowError):
        return ()
