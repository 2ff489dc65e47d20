"""Layers of the published TLC, which many repositories carry as copies, recognised by their attributes.

The window of the pool is its `kernel_size`, which follows from `base_size` and the first image that it sees if not set.
The attention cuts its map into windows by `grids` and puts them together by `grids_inverse`.
"""

from torch import nn

FIRST_IMAGE = "its own window would have followed the first image"
_POOL = ("kernel_size", "base_size", "auto_pad", "fast_imp")
_CUT = "already local: it attends inside windows that it cuts itself"


def is_pool(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in _POOL)


def is_local_pool(module: nn.Module) -> bool:
    """Whether its window is set already."""
    return is_pool(module) and module.kernel_size is not None


def cuts_windows(module: nn.Module) -> str:
    """Why attention is local already, or ''."""
    if not all(callable(getattr(module, name, None)) for name in ("grids", "grids_inverse")):
        return ""
    sized, follows = getattr(module, "kernel_size", None) is not None, bool(getattr(module, "base_size", None))
    if not getattr(module, "tlc_flag", sized or follows):
        return ""
    return f"{_CUT}, whose size follows the first image; set its kernel_size" if follows and not sized else _CUT
