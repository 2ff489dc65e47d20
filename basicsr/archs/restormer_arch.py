"""Restormer: Efficient Transformer for High-Resolution Image Restoration (Zamir et al., CVPR 2022, arXiv 2111.09881).

Written from the paper (figure 2) and the published checkpoints' tensor names; the published code and weights are for academic,
non-commercial use. Differs from the published net: any image size is padded, the norm is one fused operation, and outside of
training the wide maps inside the blocks exist in tiles only.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from basicsr.archs.blocks import (
    PixelShuffle,
    PixelUnshuffle,
    Region,
    Shapes,
    autocast_off,
    by_tiles,
    count_blocks,
    crop_like,
    fits_gpu,
    like_weights,
    pad_to_multiple,
    run_blocks,
)
from basicsr.kernels import (
    accelerates,
    channel_layer_norm,
    depthwise,
    folded,
    gram,
    mixed,
    pointwise,
    split_qkv,
    training_type,
    transposed_attention,
)
from basicsr.registry import ARCHS

Sums = tuple[Tensor, Tensor, Tensor]


class LayerNorm(nn.Module):
    """Layer norm over channels, eps 1e-5; 'BiasFree' neither subtracts the mean nor has a bias."""

    eps = 1e-5

    def __init__(self, dim: int, with_bias: bool) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.weight = nn.Parameter(torch.ones(dim))
        self.body.bias = nn.Parameter(torch.zeros(dim)) if with_bias else None

    @property
    def weight(self) -> Tensor:
        return self.body.weight

    @property
    def bias(self) -> Tensor | None:
        return self.body.bias

    def forward(self, x: Tensor) -> Tensor:
        return channel_layer_norm(x, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Multi-Dconv head transposed attention, MDTA (figure 2a, equation 1): attention between channels.

    Every entry of its (C/heads x C/heads) matrix is a sum over the whole image: a global operation. So one pass over the map
    suffices for the sums, and one for the output: q and k exist in tiles only.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """(N, C, H, W) -> the same shape; with a norm, x + attention(norm(x))."""
        if fits_gpu(x, 3 * x.shape[1]) or training_type(x):
            qkv = depthwise(pointwise(x, self.qkv, norm=norm), self.qkv_dwconv)
            project, added = self.project_out, None if norm is None else x
            with autocast_off(qkv):
                return transposed_attention(qkv, self.num_heads, self.temperature, project.weight, project.bias, added)
        sums, values = self.read(x, norm, None)
        return self.write(self.mixing(sums), values, None if norm is None else x)

    def read(self, x: Tensor, norm: nn.Module | None, region: Region | None, out: Tensor | None = None) -> tuple[Sums, Tensor]:
        """Of a region: q k^T and the squared norms of q's and k's rows, which are sums; and v (N, C, rows, columns), which
        may come to lie in `out`."""
        sums = []

        def values(part: Tensor, inner: tuple) -> Tensor:
            q, k, v = self.project(part, norm, inner)
            with autocast_off(q):
                sums.append(gram(q, k))
            return v.flatten(1, 2)

        v = by_tiles(values, x, channels=3 * x.shape[1], halo=1, region=region, out=out)
        return tuple(sum(parts) for parts in zip(*sums, strict=True)), v

    def project(self, x: Tensor, norm: nn.Module | None, inner: tuple = (...,)) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of a map (N, C, H, W), each (N, heads, C/heads, h, w); `inner`: the part of it that is wanted."""
        part = depthwise(pointwise(x, self.qkv, norm=norm), self.qkv_dwconv, inner=inner)
        if not accelerates(x) and part.shape[-2:] != x.shape[-2:]:
            part = part.clone()  # in one piece for the products to come; kernels take it as it lies
        return split_qkv(part, self.num_heads)

    def mixing(self, sums: Sums) -> Tensor:
        """(N, C, C): the attention and the projection after it, which is linear, in one matrix."""
        with autocast_off(sums[0]):
            return folded(sums, self.temperature, self.project_out.weight)

    def write(self, mixing: Tensor, values: Tensor, residual: Tensor | None) -> Tensor:
        """(N, C, C), (N, C, H, W), and the map that is added, if any -> (N, C, H, W), without autograd in the values' place."""

        def output(part: Tensor, inner: tuple, added: Tensor | None = None) -> Tensor:
            return mixed(part, mixing, self.project_out.bias, added)

        if residual is None:
            return by_tiles(output, values, channels=values.shape[1], out=values)
        return by_tiles(
            lambda part, added, inner: output(part, inner, added), values, residual, channels=values.shape[1], out=values
        )


class FeedForward(nn.Module):
    """Gated-Dconv feed-forward network, GDFN (figure 2b, equation 2)."""

    def __init__(self, dim: int, ffn_expansion_factor: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * ffn_expansion_factor)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    @torch.no_grad()
    def pad_width(self, multiple: int) -> None:
        """Widen the hidden maps to a multiple, by channels of zeros, which change nothing; in place.

        Products of matrices are faster on GPUs where their rows begin at multiples of 16 bytes.
        """
        hidden = self.project_out.in_channels
        wide = -(-hidden // multiple) * multiple
        kept = torch.cat([torch.arange(hidden), torch.arange(hidden) + wide])  # of the gates, and of the values
        self.project_in = _spread(self.project_in, 2 * wide, kept)
        self.dwconv = _spread(self.dwconv, 2 * wide, kept, groups=2 * wide)
        weight = torch.zeros_like(self.project_out.weight[:, :1]).repeat(1, wide, 1, 1)
        weight[:, :hidden] = self.project_out.weight
        self.project_out.weight, self.project_out.in_channels = nn.Parameter(weight, requires_grad=False), wide

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """(N, C, H, W) -> the same shape; with a norm, x + feed_forward(norm(x))."""

        def output(part: Tensor, inner: tuple) -> Tensor:
            hidden = depthwise(pointwise(part, self.project_in, norm=norm), self.dwconv, "gelu", inner)
            return pointwise(hidden, self.project_out, added=None if norm is None else part[inner])

        return by_tiles(output, x, channels=self.dwconv.in_channels, halo=1)


def _spread(conv: nn.Conv2d, channels: int, places: Tensor, groups: int = 1) -> nn.Conv2d:
    """A convolution with so many outputs, of which those at `places` are the given one's, and the others zero."""
    bias = conv.bias is not None
    inputs = channels if groups > 1 else conv.in_channels
    wider = nn.Conv2d(inputs, channels, conv.kernel_size, padding=conv.padding, groups=groups, bias=bias)
    wider = wider.to(conv.weight).requires_grad_(False)
    for name in ("weight", "bias")[: 1 + bias]:
        values = torch.zeros_like(getattr(wider, name))
        values[places.to(values.device)] = getattr(conv, name)
        getattr(wider, name).data = values
    return wider


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, ffn_expansion_factor: float, bias: bool, with_bias_norm: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, with_bias_norm)
        self.attn = Attention(dim, num_heads, bias)
        self.norm2 = LayerNorm(dim, with_bias_norm)
        self.ffn = FeedForward(dim, ffn_expansion_factor, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(x, self.norm1)
        return self.ffn(x, self.norm2)


class PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, dim: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Downsample(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False), PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(dim, 2 * dim, 3, padding=1, bias=False), PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@ARCHS.register
class Restormer(nn.Module):
    """(N, inp_channels, H, W) in [0, 1], any size -> (N, out_channels, H, W).

    Args:
        inp_channels, out_channels: channels of the images. dim: width at full resolution; it doubles with every level.
        num_blocks: transformer blocks of the four levels, full resolution first. heads: attention heads of the four levels.
        num_refinement_blocks: blocks after the decoder, at full resolution.
        ffn_expansion_factor: how many times wider the feed-forward networks are inside.
        bias: whether convolutions have one. LayerNorm_type: whether layer norms have a bias, and take off the mean.
        dual_pixel_task: dual-pixel defocus deblurring (inp_channels=6): no residual from the input.
        padder_size: the size is padded to a multiple of it (three halvings need 8); 0 turns padding off.
    """

    keeps_images = True  # in float32, whatever type its weights are cast to

    def __init__(
        self,
        *,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: tuple[int, int, int, int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: Literal["WithBias", "BiasFree"] = "WithBias",
        dual_pixel_task: bool = False,
        padder_size: int = 8,
    ) -> None:
        super().__init__()
        if LayerNorm_type not in ("WithBias", "BiasFree"):
            raise ValueError(f"LayerNorm_type is {LayerNorm_type!r}; it is 'WithBias' or 'BiasFree'")
        if not dual_pixel_task and inp_channels != out_channels:
            raise ValueError(
                f"inp_channels is {inp_channels} and out_channels is {out_channels}, but Restormer adds its input to its "
                "output: make them equal, or set dual_pixel_task: true"
            )
        for number, count in enumerate(heads):
            if dim * 2**number % count:
                raise ValueError(
                    f"heads is {list(heads)}, but {count} does not divide level {number + 1}'s width {dim * 2**number}"
                )
        self.in_channels, self.out_channels = inp_channels, out_channels
        self.padder_size = padder_size
        self.dual_pixel_task = dual_pixel_task

        def level(width: int, number: int, count: int) -> nn.Sequential:
            with_bias_norm = LayerNorm_type == "WithBias"
            args = (width, heads[number - 1], ffn_expansion_factor, bias, with_bias_norm)
            return nn.Sequential(*(TransformerBlock(*args) for _ in range(count)))

        self.patch_embed = PatchEmbed(inp_channels, dim, bias)
        self.encoder_level1 = level(dim, 1, num_blocks[0])
        self.down1_2 = Downsample(dim)
        self.encoder_level2 = level(dim * 2, 2, num_blocks[1])
        self.down2_3 = Downsample(dim * 2)
        self.encoder_level3 = level(dim * 4, 3, num_blocks[2])
        self.down3_4 = Downsample(dim * 4)
        self.latent = level(dim * 8, 4, num_blocks[3])
        self.up4_3 = Upsample(dim * 8)
        self.reduce_chan_level3 = nn.Conv2d(dim * 8, dim * 4, 1, bias=bias)
        self.decoder_level3 = level(dim * 4, 3, num_blocks[2])
        self.up3_2 = Upsample(dim * 4)
        self.reduce_chan_level2 = nn.Conv2d(dim * 4, dim * 2, 1, bias=bias)
        self.decoder_level2 = level(dim * 2, 2, num_blocks[1])
        self.up2_1 = Upsample(dim * 2)
        self.decoder_level1 = level(dim * 2, 1, num_blocks[0])
        self.refinement = level(dim * 2, 1, num_refinement_blocks)
        if dual_pixel_task:
            self.skip_conv = nn.Conv2d(dim, dim * 2, 1, bias=bias)
        self.output = nn.Conv2d(dim * 2, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        given = x
        image = pad_to_multiple(x, self.padder_size)
        x = self.patch_embed(like_weights(image, self.output))
        residual = self.skip_conv(x) if self.dual_pixel_task else None
        skips = [run_blocks(self.encoder_level1, x)]
        skips.append(run_blocks(self.encoder_level2, self.down1_2(skips[-1])))
        skips.append(run_blocks(self.encoder_level3, self.down2_3(skips[-1])))
        x = run_blocks(self.latent, self.down3_4(skips[-1]))
        x = run_blocks(self.decoder_level3, self.reduce_chan_level3(torch.cat([self.up4_3(x), skips.pop()], 1)))
        x = run_blocks(self.decoder_level2, self.reduce_chan_level2(torch.cat([self.up3_2(x), skips.pop()], 1)))
        x = run_blocks(self.refinement, run_blocks(self.decoder_level1, torch.cat([self.up2_1(x), skips.pop()], 1)))
        if residual is not None:
            return crop_like(self.output(x + residual), given)
        return crop_like(self.output(x) + image, given)

    @staticmethod
    def infer_options(shapes: Shapes) -> dict[str, object]:
        """The constructor arguments that a state dict's shapes show."""
        levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
        dim = shapes["patch_embed.proj.weight"][0]
        return {
            "inp_channels": shapes["patch_embed.proj.weight"][1],
            "out_channels": shapes["output.weight"][0],
            "dim": dim,
            "num_blocks": tuple(count_blocks(shapes, level) for level in levels),
            "num_refinement_blocks": count_blocks(shapes, "refinement"),
            "heads": tuple(shapes[f"{level}.0.attn.temperature"][0] for level in levels),
            "ffn_expansion_factor": _expansion([shapes[f"{level}.0.ffn.project_out.weight"] for level in levels]),
            "bias": "output.bias" in shapes,
            "LayerNorm_type": "WithBias" if "latent.0.norm1.body.bias" in shapes else "BiasFree",
            "dual_pixel_task": "skip_conv.weight" in shapes,
        }


def _expansion(shapes: list[tuple[int, ...]]) -> float:
    """The shortest decimal factor for which every (width, hidden, ...) has hidden = int(width * factor)."""
    width, hidden = shapes[-1][:2]
    for digits in range(5):
        factor = math.ceil(hidden / width * 10**digits) / 10**digits
        if all(int(w * factor) == h for w, h, *_ in shapes):
            return factor
    return hidden / width
