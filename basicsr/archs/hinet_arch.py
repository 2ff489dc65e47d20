"""HINet: Half Instance Normalization Network for Image Restoration (Chen et al., CVPRW 2021, arXiv 2105.06086).

Two U-Nets in sequence (figure 2), joined by cross-stage feature fusion and a supervised attention module, with instance norm
on half of the channels of some encoder blocks (figure 3). Written from the paper and the published checkpoints' tensor names.

Differs from the published net: pads any image size by itself, and accepts a 1x1 map in its norms.
"""

import torch
from torch import Tensor, nn

from basicsr.archs.blocks import SAM, Shapes, by_tiles, count_blocks, crop_like, like_weights, pad_to_multiple
from basicsr.kernels import accelerates, activated, convolved
from basicsr.kernels.layout import layout_of
from basicsr.registry import ARCHS


class InstanceNorm2d(nn.InstanceNorm2d):
    """nn.InstanceNorm2d that takes a single pixel, too: it equals its own mean, so the bias is left."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] * x.shape[-1] == 1:
            return torch.zeros_like(x) + self.bias.view(1, -1, 1, 1)
        return super().forward(x)


class UNetConvBlock(nn.Module):
    """HIN block / res block (figure 3), with the fusion of stage-1 features in stage 2 (figure 4)."""

    def __init__(self, in_size: int, out_size: int, downsample: bool, slope: float, use_csff: bool, use_hin: bool) -> None:
        super().__init__()
        self.identity = nn.Conv2d(in_size, out_size, 1)
        self.conv_1 = nn.Conv2d(in_size, out_size, 3, padding=1)
        self.conv_2 = nn.Conv2d(out_size, out_size, 3, padding=1)
        self.relu = nn.LeakyReLU(slope, inplace=True)
        self.norm = InstanceNorm2d(out_size // 2, affine=True) if use_hin else None
        if use_csff:
            self.csff_enc = nn.Conv2d(out_size, out_size, 3, padding=1)
            self.csff_dec = nn.Conv2d(out_size, out_size, 3, padding=1)
        self.downsample = nn.Conv2d(out_size, out_size, 4, stride=2, padding=1, bias=False) if downsample else None

    def forward(self, x: Tensor, enc: Tensor | None = None, dec: Tensor | None = None) -> Tensor:
        """x (N, in, H, W); enc, dec: stage-1 features (N, out, H, W) of the same level, in stage 2 -> (N, out, H, W)."""
        slope = self.relu.negative_slope
        out, bias = (self._half_normed(x), None) if self.norm is not None else convolved(self.conv_1, x)
        out = activated(out, bias, slope)
        out = activated(*convolved(self.conv_2, out), slope, [convolved(self.identity, x)])
        if enc is not None:
            fused = (self.csff_enc, enc), (self.csff_dec, dec)
            out = activated(out, added=(convolved(conv, features) for conv, features in fused))
        return out

    def _half_normed(self, x: Tensor) -> Tensor:
        normed, passed = self.conv_1(x).chunk(2, dim=1)
        return torch.cat([self.norm(normed), passed], dim=1)


class UNetUpBlock(nn.Module):
    def __init__(self, in_size: int, out_size: int, slope: float) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_size, out_size, 2, stride=2)
        self.conv_block = UNetConvBlock(in_size, out_size, False, slope, use_csff=False, use_hin=False)

    def forward(self, x: Tensor, skip: nn.Module, bridge: list[Tensor]) -> Tensor:
        """x (N, in, H, W), bridge [(N, out, 2H, 2W)], which goes through `skip` -> like that.

        A prediction on a GPU takes the map out of the list, so that its memory is free when it was read.
        """
        return self.conv_block(self._joined(x, skip, bridge))

    def _joined(self, x: Tensor, skip: nn.Module, bridge: list[Tensor]) -> Tensor:
        if not accelerates(x):
            return torch.cat([self.up(x), skip(bridge[0])], dim=1)
        up, bias = convolved(self.up, x)
        n, c, h, w = up.shape
        joined = torch.empty((n, 2 * c, h, w), dtype=up.dtype, device=up.device, memory_format=layout_of(up))
        activated(up, bias, out=joined[:, :c])  # a GPU adds the biases while it puts both halves in their place
        activated(*convolved(skip, bridge.pop()), out=joined[:, c:])
        return joined


@ARCHS.register
class HINet(nn.Module):
    """(N, in_chn, H, W) in [0, 1], any size -> [stage 1, stage 2], images of the input's shape.

    Args:
        in_chn: channels of the images. wf: width at full resolution; it doubles with every level. depth: levels of each U-Net.
        relu_slope: slope of the leaky ReLUs below 0.
        hin_position_left, hin_position_right: levels (0 is full resolution) whose encoder blocks have half instance norm;
            the published GoPro and REDS weights have 3 to 4.
        padder_size: the size is padded to a multiple of it; 2 ** (depth - 1) when None, 0 turns padding off.
    """

    keeps_images = True  # in float32, whatever type its weights are cast to

    def __init__(
        self,
        *,
        in_chn: int = 3,
        wf: int = 64,
        depth: int = 5,
        relu_slope: float = 0.2,
        hin_position_left: int = 0,
        hin_position_right: int = 4,
        padder_size: int | None = None,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth is {depth}, but a U-Net needs at least 2 levels")
        if wf % 2 and hin_position_left <= 0 <= hin_position_right:
            raise ValueError(f"wf is {wf}, but half instance norm at level 0 needs an even width")
        self.in_channels = in_chn
        self.padder_size = 2 ** (depth - 1) if padder_size is None else padder_size
        widths = [wf * 2**level for level in range(depth)]
        self.conv_01 = nn.Conv2d(in_chn, wf, 3, padding=1)
        self.conv_02 = nn.Conv2d(in_chn, wf, 3, padding=1)
        for stage in (1, 2):
            down, up, skip = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
            for level, width in enumerate(widths):
                smaller = level < depth - 1
                use_hin = hin_position_left <= level <= hin_position_right
                before = widths[max(0, level - 1)]
                down.append(UNetConvBlock(before, width, smaller, relu_slope, use_csff=stage == 2 and smaller, use_hin=use_hin))
            for level in reversed(range(depth - 1)):
                up.append(UNetUpBlock(widths[level + 1], widths[level], relu_slope))
                skip.append(nn.Conv2d(widths[level], widths[level], 3, padding=1))
            self.add_module(f"down_path_{stage}", down)
            self.add_module(f"up_path_{stage}", up)
            self.add_module(f"skip_conv_{stage}", skip)
        self.sam12 = SAM(wf, in_chn, kernel_size=3, bias=True)
        self.cat12 = nn.Conv2d(2 * wf, wf, 1)
        self.last = nn.Conv2d(wf, in_chn, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        image = pad_to_multiple(x, self.padder_size)
        encoded = self._encode(self.down_path_1, activated(*convolved(self.conv_01, like_weights(image, self.conv_01))))
        decoded = self._decode(self.up_path_1, self.skip_conv_1, list(encoded))
        sam_feature, stage1 = self.sam12(decoded[-1], image)
        shallow = activated(*convolved(self.conv_02, like_weights(image, self.conv_02)))
        shallow = by_tiles(self._join, shallow, sam_feature, channels=2 * sam_feature.shape[1])
        del sam_feature
        encoded = self._encode(self.down_path_2, shallow, encoded, decoded)
        decoded = self._decode(self.up_path_2, self.skip_conv_2, encoded)
        stage2 = activated(*convolved(self.last, decoded[-1]), added=[(image, None)])
        return [crop_like(stage1, x), crop_like(stage2, x)]

    def _join(self, shallow: Tensor, sam_feature: Tensor, inner: tuple) -> Tensor:
        return activated(*convolved(self.cat12, torch.cat([shallow, sam_feature], dim=1)))

    @staticmethod
    def _encode(
        blocks: nn.ModuleList, x: Tensor, enc: list[Tensor] | None = None, dec: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Features of every level, full resolution first; enc and dec: stage 1's, for the fusion, which uses them up."""
        features = []
        for block in blocks:
            fused = (enc.pop(0), dec.pop()) if enc is not None and block.downsample is not None else ()  # not needed again
            x = block(x, *fused)
            del fused
            features.append(x)
            if block.downsample is not None:
                x = block.downsample(x)
        return features

    @staticmethod
    def _decode(ups: nn.ModuleList, skips: nn.ModuleList, encoded: list[Tensor]) -> list[Tensor]:
        """Features of every level but the deepest, full resolution last; uses `encoded` up."""
        x, features = encoded.pop(), []
        for up, skip in zip(ups, skips, strict=True):
            x = up(x, skip, [encoded.pop()])
            features.append(x)
        return features

    @staticmethod
    def infer_options(shapes: Shapes) -> dict[str, int]:
        """The constructor arguments that a state dict's shapes show."""
        depth = count_blocks(shapes, "down_path_1")
        normed = [level for level in range(depth) if f"down_path_1.{level}.norm.weight" in shapes]
        return {
            "in_chn": shapes["conv_01.weight"][1],
            "wf": shapes["conv_01.weight"][0],
            "depth": depth,
            "hin_position_left": min(normed, default=depth),
            "hin_position_right": max(normed, default=depth),
        }
