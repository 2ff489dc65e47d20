"""The networks by torch.hub, from a checkout of this repository.

net = torch.hub.load("path/to/the/checkout", "restormer_local", source="local", weights="Restormer-GoPro.pth", base_size=384)

Every network takes `weights`, a checkpoint (.pth or .safetensors) or a name of `tlc weights`, which is downloaded where it is
not at hand (random initial weights when None), and the options of its class in basicsr/archs, which are read off the checkpoint
where they are not given. It takes images (N, 3, H, W) in [0, 1], RGB, of any size, and is in evaluation mode.
"""

from torch import nn

from basicsr.engine.weights import build_with_weights, identify
from basicsr.engine.weights.store import obtain

dependencies = ["torch", "numpy", "cv2", "PIL", "pydantic", "safetensors", "yaml"]


def hinet(weights: str | None = None, **options: object) -> nn.Module:
    """HINet (Chen et al., 2021): a list of stages, the final one last."""
    return _network("HINet", weights, options)


def hinet_local(
    weights: str | None = None,
    train_size: int | tuple[int, ...] | None = None,
    base_size: int | tuple[int, int] | None = None,
    fast_imp: bool = False,
    **options: object,
) -> nn.Module:
    """HINet with TLC: trained on patches of `train_size`, windows of `base_size`, in pixels.

    None: as the weights say; where they do not, patches of 256 and windows of 1.5 patches.
    """
    return _network("HINet", weights, options, train_size=train_size, base_size=base_size, fast_imp=fast_imp)


def mprnet(weights: str | None = None, **options: object) -> nn.Module:
    """MPRNet (Zamir et al., 2021): a list of stages, the final one last."""
    return _network("MPRNet", weights, options)


def mprnet_local(
    weights: str | None = None,
    train_size: int | tuple[int, ...] | None = None,
    base_size: int | tuple[int, int] | None = None,
    fast_imp: bool = False,
    **options: object,
) -> nn.Module:
    """MPRNet with TLC, as `hinet_local`."""
    return _network("MPRNet", weights, options, train_size=train_size, base_size=base_size, fast_imp=fast_imp)


def restormer(weights: str | None = None, **options: object) -> nn.Module:
    """Restormer (Zamir et al., 2022)."""
    return _network("Restormer", weights, options)


def restormer_local(
    weights: str | None = None,
    train_size: int | tuple[int, ...] | None = None,
    base_size: int | tuple[int, int] | None = None,
    attention: str = "published",
    **options: object,
) -> nn.Module:
    """Restormer with TLC, as `hinet_local`; no approximation, but windows without seams by attention="blended"."""
    return _network("Restormer", weights, options, train_size=train_size, base_size=base_size, attention=attention)


def nafnet(weights: str | None = None, **options: object) -> nn.Module:
    """NAFNet (Chen et al., 2022)."""
    return _network("NAFNet", weights, options)


def nafnet_local(
    weights: str | None = None,
    train_size: int | tuple[int, ...] | None = None,
    base_size: int | tuple[int, int] | None = None,
    fast_imp: bool = False,
    **options: object,
) -> nn.Module:
    """NAFNet with TLC, as `hinet_local`."""
    return _network("NAFNet", weights, options, train_size=train_size, base_size=base_size, fast_imp=fast_imp)


def _network(name: str, weights: str | None, options: dict[str, object], **tlc: object) -> nn.Module:
    """UserError, which is a ValueError: an unknown option, or weights that are not there or do not fit."""
    file = None if weights is None else obtain(weights)
    found = {"type": name} if file is None else identify(file, name)
    return build_with_weights({**found, **options, **({"tlc": tlc} if tlc else {})}, file, where=name).eval()
