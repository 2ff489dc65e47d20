"""-Local networks: any registered arch passed through the converter; and the converter's rules for these archs' own modules."""

import inspect
import re
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from basicsr.archs.blocks import ChannelGate, Region, autocast_off, fits_gpu, runs_whole
from basicsr.archs.hinet_arch import InstanceNorm2d
from basicsr.archs.restormer_arch import Attention, Sums
from basicsr.errors import UserError, did_you_mean
from basicsr.kernels import accelerates, pointwise
from basicsr.registry import checked_arguments
from basicsr.tlc import Site, attend_blended, attend_in_windows, convert, local_channel_attention, rule
from basicsr.tlc.local import Size, exporting
from basicsr.tlc.local.attention import attend_in_cells
from basicsr.tlc.local.functional import covers
from basicsr.tlc.local.layers import LocalAvgPool2d
from basicsr.tlc.rules import instance_norm


class LocalAttention(Attention):
    """Restormer's MDTA inside windows, as published or blended. It takes over the attention's own layers and parameters."""

    def __init__(self, attention: Attention, window: Size, blended: bool = False) -> None:
        nn.Module.__init__(self)
        self.num_heads = attention.num_heads
        self.temperature = attention.temperature
        self.qkv = attention.qkv
        self.qkv_dwconv = attention.qkv_dwconv
        self.project_out = attention.project_out
        self.window = window
        self.blended = blended

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        if self.training:
            return super().forward(x, norm)
        if exporting.tracing() or (self.blended and runs_whole(x)):
            q, k, v = self.project(x, norm)
            mixed = local_channel_attention(q, k, v, self.temperature, self.window, blended=self.blended)
            return self.project_out(mixed) if norm is None else x + self.project_out(mixed)
        if fits_gpu(x, 3 * x.shape[1]):
            return self._by_kernels(x, norm)
        return self._blended(x, norm) if self.blended else self._averaged(x, norm)

    def _by_kernels(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        q, k, v = self.project(x, norm)
        added = None if norm is None else x
        weight, bias = self.project_out.weight.flatten(1), self.project_out.bias
        with autocast_off(q):
            return attend_in_cells(
                q, k, v.flatten(1, 2), self.window, self.temperature, weight, bias, added, blended=self.blended
            )

    def _averaged(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        out = None if runs_whole(x) else torch.empty_like(x)  # holds the values at first

        def read(region: Region) -> tuple[Sums, Tensor]:
            return self.read(x, norm, region, None if out is None else out[(..., *region)])

        def write(mixing: Tensor, values: Tensor, region: Region) -> Tensor:
            return self.write(mixing, values, None if norm is None else x[(..., *region)])

        return attend_in_windows(x.shape[-2:], self.window, read, self.mixing, write, out)

    def _blended(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """The map of values becomes the output, in place."""
        out = torch.empty_like(x)

        def sums(region: Region) -> Sums:
            place = out[(..., *region)]
            found, values = self.read(x, norm, region, place)
            if values.data_ptr() != place.data_ptr():
                place.copy_(values)
            return found

        attend_blended(out, self.window, sums, self.mixing, out)
        if self.project_out.bias is not None:
            out.add_(self.project_out.bias.view(-1, 1, 1))
        return out if norm is None else out.add_(x)

    def extra_repr(self) -> str:
        return f"window={self.window}, blended={self.blended}"


@rule(Attention, blends=True)
def _local_attention(module: Attention, site: Site) -> nn.Module:
    return LocalAttention(module, site.window, site.blended)


class LocalChannelGate(ChannelGate):
    """A gate for every position; where its windows reach the map's border, it is left out, for `by_tiles` to replicate.

    A mean and a layer that sees single pixels may change places. Where that layer leaves fewer channels, it comes first, since
    there are as many means as pixels: MPRNet's leaves a quarter.
    """

    def __init__(self, gate: ChannelGate, window: Size, max_stride: Size | None) -> None:
        pool, *layers = gate.named_children()
        super().__init__({pool[0]: LocalAvgPool2d(window, max_stride, padded=False), **dict(layers)})

    def squeezed(self, x: Tensor) -> Tensor:
        """(N, S, h, w) of the windows inside the map."""
        pool, first, _ = self.layers()
        if self.training or first.out_channels >= first.in_channels or covers(pool.window, x.shape[-2:]):
            return super().squeezed(x)
        biased = accelerates(x) and first.bias is not None  # without a bias cuBLAS reads the map as fast as the card does
        return pool(pointwise(x, first) if biased else first(x))


@rule(ChannelGate, fast=True)
def _local_gate(module: ChannelGate, site: Site) -> nn.Module:
    return LocalChannelGate(module, site.window, site.max_stride)


rule(InstanceNorm2d, fast=True)(instance_norm)


def tlc_options(
    *,
    train_size: int | tuple[int, ...] | None = None,
    base_size: int | tuple[int, int] | None = None,
    fast_imp: bool = False,
    statistics: Literal["window", "patches"] = "window",
    attention: Literal["published", "blended"] = "published",
    exclude: str | tuple[str, ...] = (),
    include: str | tuple[str, ...] | None = None,
    in_windows: str | tuple[str, ...] = (),
    inputs: dict[str, tuple[int, ...]] | None = None,
) -> dict[str, Any]:
    """The options of `tlc: {...}` and of the -Local types; see `basicsr.tlc.convert`.

    Args:
        train_size: the training patch in pixels, as one number, (h, w) or (N, C, h, w); by default what the weights say of it,
            else the training data of the same file, else 256.
        base_size: size in pixels of the image part that a statistic is taken over, as one number or (h, w); 1.5 times
            train_size by default.
        fast_imp: the published approximation of the box mean, faster and less exact, for all but attention.
        statistics: of instance and group norms. window: of the window around each position; patches: of patches of the
            training size, spread over the image.
        attention: windows of attention between channels. published: they overlap little, and leave edges where they meet;
            blended: they fade into one another.
        exclude: patterns of what stays global: of paths of modules, such as "SCM*", which take along what is in them, with a
            class or an operation behind a colon, such as "*:InstanceNorm2d" or "fusion*:mean".
        include: patterns of the only parts that become local; all by default. exclude wins over include.
        in_windows: patterns of modules that run in windows that cover their maps, for what has no form position by position,
            such as "*.attn" where that is attention over pixels; `attention` says which windows.
        inputs: shapes, by name, of the tensors that the network's forward takes besides the image, such as
            {txtembd: [1, 768]}; it is given zeros, a 1 in the first place becomes the number of images.
    """
    return {
        "train_size": train_size,
        "base_size": base_size,
        "fast_imp": fast_imp,
        "statistics": statistics,
        "attention": attention,
        "exclude": exclude,
        "include": include,
        "in_windows": in_windows,
        "inputs": inputs,
    }


class ZeroInputs:
    """A hook that gives a net's forward zeros for the arguments that it is not given.

    Args:
        shapes: by the arguments' names; a 1 in the first place becomes the number of images.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)

    def __call__(self, net: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        image = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        given = inspect.signature(net.forward).bind_partial(*args, **kwargs).arguments
        zeros = {
            name: image.new_zeros((image.shape[0], *shape[1:]) if shape[:1] == (1,) else shape)
            for name, shape in self.shapes.items()
            if name not in given
        }
        return args, {**kwargs, **zeros}


def _give_zeros(net: nn.Module, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    names = list(inspect.signature(net.forward).parameters)[1:]
    for name, shape in shapes.items():
        if name not in names:
            raise UserError(
                f"{where}.{name}: the forward of {type(net).__name__} takes no `{name}`.{did_you_mean(name, names)} "
                f"Besides the image it takes {', '.join(names) or 'nothing'}."
            )
        if not all(size > 0 for size in shape):
            raise UserError(f"{where}.{name}: {list(shape)} is no shape; write positive whole numbers, such as [1, 768].")
    net.register_forward_pre_hook(ZeroInputs(shapes), with_kwargs=True)


def convert_network(net: nn.Module, options: Mapping[str, Any], where: str) -> nn.Module:
    """Convert with options from a YAML file; `where` is their path in it.

    Raises:
        UserError: an unknown or bad option, or a net that cannot be converted.
    """
    if not isinstance(options, Mapping):
        raise UserError(f"{where}: {options!r} does not fit; write {where}: {{base_size: 384, train_size: 256}}, or true.")
    given = tlc_options(**checked_arguments(tlc_options, options, where))
    if shapes := given.pop("inputs"):
        _give_zeros(net, shapes, f"{where}.inputs")
        given["inputs"] = lambda image: (image,)  # the hook adds the others, here and whenever the net runs
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            net = convert(net, **{name: value for name, value in given.items() if value is not None})
        except ValueError as error:
            raise UserError(f"{where}: {error}.") from error
    for warning in caught:
        warnings.warn(_in_words_of_options(str(warning.message), where), warning.category, stacklevel=3)
    return net


def _in_words_of_options(text: str, where: str) -> str:
    """`word='value'` of Python as a file and the command line have it."""
    flag = rf" (--force_yml {where.replace('.', ':')}:\1=\2)" if where.startswith("network_g") else ""  # else of no file
    return re.sub(r"\b(\w+)='(\w+)'", rf"`\1: \2` in {where}{flag}", text)
