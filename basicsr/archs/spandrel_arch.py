"""Networks of the package spandrel (the extra `spandrel`), by name: `basicsr.archs.spandrel_arch:KBNet_s`.

Their constructors, keyword arguments and keys are spandrel's; images of any size are padded as a network needs it, and what it
takes besides, such as a noise level, is spandrel's own value.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import UserError

EXTRA = "pip install tlc-restoration[spandrel]"
PREFIX = f"{__name__}:"


def __getattr__(name: str) -> type[nn.Module]:
    """The network of spandrel with this class name."""
    if name.startswith("_"):
        raise AttributeError(name)
    if not is_here():
        raise UserError(f"{PREFIX}{name} needs the package spandrel: {EXTRA}, with a torchvision made for this torch.")
    from spandrel import MAIN_REGISTRY

    for support in MAIN_REGISTRY.architectures():
        for base in vars(sys.modules[type(support.architecture).__module__]).values():
            if inspect.isclass(base) and issubclass(base, nn.Module) and base.__name__ == name:
                return _network(base, support.architecture.load)
    raise AttributeError(name)


class _Wrapped(nn.Module):
    """A network of spandrel, `net`, that takes images (N, C, H, W) in [0, 1] of any size; its keys are those of `net`."""

    def __init__(self, make: Callable[[], nn.Module], load: Callable[[dict[str, Tensor]], Any]) -> None:
        super().__init__()
        device = torch.get_default_device()
        with torch.device("cpu"):  # some look at values in their constructors, which meta tensors do not have
            net = make()
            known = load(dict(net.state_dict()))
        self.net = net.to(device)
        self.in_channels, self.out_channels = known.input_channels, known.output_channels
        self.padding = known.size_requirements.get_padding
        self.call = known._call_fn  # no public name: what else the network takes, and which of its results is the image

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        right, below = self.padding(width, height)
        if right or below:  # by reflection as far as the image goes, as in spandrel
            mirrored = min(right, width - 1), min(below, height - 1)
            image = F.pad(image, (0, mirrored[0], 0, mirrored[1]), mode="reflect")
            image = F.pad(image, (0, right - mirrored[0], 0, below - mirrored[1]), mode="replicate")
        return self.call(self.net, image)[..., :height, :width]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.net.load_state_dict(*args, **kwargs)


@functools.cache
def _network(base: type[nn.Module], load: Callable[[dict[str, Tensor]], Any]) -> type[nn.Module]:
    def __init__(self: _Wrapped, **options: Any) -> None:
        _Wrapped.__init__(self, functools.partial(base, **options), load)

    said = {"__init__": __init__, "__doc__": base.__doc__, "__signature__": inspect.signature(base), "__module__": __name__}
    return type(base.__name__, (_Wrapped,), said)


def is_here() -> bool:
    try:
        import spandrel  # noqa: F401
    except (ImportError, RuntimeError):  # RuntimeError: its torchvision was made for another torch
        return False
    return True


def identify(tensors: dict[str, Tensor], source: str) -> dict[str, Any] | None:
    """{"type": name, **constructor arguments} of the network that tensors are of; None: spandrel is not here, or knows none.

    source: what messages call the tensors.

    Raises:
        UserError: a network that spandrel knows, but that cannot be run here.
    """
    if not is_here():
        return None
    from spandrel import MAIN_REGISTRY, ImageModelDescriptor, UnsupportedModelError

    try:
        found = MAIN_REGISTRY.load(dict(tensors))
    except (UnsupportedModelError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, AssertionError):
        return None
    name = type(found.model).__name__
    if not isinstance(found, ImageModelDescriptor):
        raise UserError(f"{source}: these are the weights of {name}, which needs more than an image.")
    if found.scale != 1:
        raise UserError(
            f"{source}: these are the weights of {name}, which enlarges images {found.scale} times; only networks that keep "
            "their size run here."
        )
    if found.model.state_dict().keys() != tensors.keys():
        raise UserError(f"{source}: these are the weights of {name} under other keys than spandrel's: save its model's.")
    return {"type": f"{PREFIX}{name}", **found.model.hyperparameters}
