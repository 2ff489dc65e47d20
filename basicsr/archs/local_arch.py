"""-Local networks: any registered arch passed through the converter; and the converter's rule for Restormer's attention."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from basicsr.archs.restormer_arch import Attention
from basicsr.errors import UserError
from basicsr.registry import checked_arguments
from basicsr.tlc import Site, convert, local_channel_attention, rule
from basicsr.tlc.functional import Size


class LocalAttention(nn.Module):
    """Restormer's MDTA inside windows. It takes over the attention's own layers and parameters."""

    def __init__(self, attention: Attention, window: Size) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.temperature = attention.temperature
        self.qkv = attention.qkv
        self.qkv_dwconv = attention.qkv_dwconv
        self.project_out = attention.project_out
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        window = (h, w) if self.training else self.window
        qkv = self.qkv_dwconv(self.qkv(x)).view(n, 3, self.num_heads, c // self.num_heads, h, w)
        weight, bias = self.project_out.weight.flatten(1), self.project_out.bias
        out = local_channel_attention(*qkv.unbind(1), self.temperature, window, project_out=weight)
        return out if bias is None else out + bias.to(out.dtype).view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return f"window={self.window}"


@rule(Attention)
def _local_attention(module: Attention, site: Site) -> nn.Module:
    return LocalAttention(module, site.window)


def tlc_options(
    *, train_size: int | tuple[int, ...] | None = None, base_size: int | tuple[int, int] | None = None, fast_imp: bool = False
) -> dict[str, Any]:
    """The options of `tlc: {...}` and of the -Local types. train_size: the patch as one number, (h, w) or (N, C, h, w)."""
    return {"train_size": train_size, "base_size": base_size, "fast_imp": fast_imp}


def convert_network(net: nn.Module, options: Mapping[str, Any], where: str) -> nn.Module:
    """Convert with options from a YAML file; `where` is their path in it.

    Raises:
        UserError: an unknown or bad option, or a net that cannot be converted.
    """
    if not isinstance(options, Mapping):
        raise UserError(f"{where}: {options!r} does not fit; write {where}: {{base_size: 384, train_size: 256}}, or true.")
    options = tlc_options(**checked_arguments(tlc_options, options, where))
    size = options.pop("train_size")
    size = 256 if size is None else size
    size = (size, size) if isinstance(size, int) else size
    if len(size) == 2:
        size = (1, getattr(net, "in_channels", 3), *size)
    try:
        return convert(net, train_size=size, **options)
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from error
