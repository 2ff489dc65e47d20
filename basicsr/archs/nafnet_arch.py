"""NAFNet: Simple Baselines for Image Restoration (Chen et al., ECCV 2022, arXiv 2204.04676).

A U-Net of blocks without nonlinear activations (figures 2 and 3). Written from the paper and the published checkpoints' tensor
names. Differs from the published net: the norm is one fused operation, and outside of training the wide maps inside the blocks
exist in tiles only.
"""

import torch
from torch import Tensor, nn

from basicsr.archs.blocks import (
    ChannelGate,
    PixelShuffle,
    Shapes,
    by_tiles,
    count_blocks,
    crop_like,
    like_weights,
    pad_to_multiple,
    run_blocks,
)
from basicsr.kernels import activated, channel_layer_norm, convolved, depthwise, pointwise
from basicsr.registry import ARCHS


class LayerNorm2d(nn.Module):
    """Layer norm over channels, eps 1e-6."""

    eps = 1e-6

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return channel_layer_norm(x, self.weight, self.bias, self.eps)


class NAFBlock(nn.Module):
    """Figure 3d: a gated depthwise convolution with simplified channel attention, then a gated feed-forward.

    Both gates are simple ones: one half of the channels times the other (equation 5).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.norm1 = LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.sca = ChannelGate({"0": nn.AdaptiveAvgPool2d(1), "1": nn.Conv2d(channels, channels, 1)})
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = LayerNorm2d(channels)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = 2 * x.shape[1]
        features = by_tiles(self._features, x, channels=wide, halo=1)
        return by_tiles(self._output, x, features, self.sca(features), channels=wide, out=features)

    def _features(self, x: Tensor, inner: tuple) -> Tensor:
        return depthwise(pointwise(x, self.conv1, norm=self.norm1), self.conv2, "product", inner)

    def _output(self, x: Tensor, features: Tensor, gate: Tensor, inner: tuple) -> Tensor:
        x = pointwise(features, self.conv3, gate=gate, scale=self.beta, added=x)
        return pointwise(pointwise(x, self.conv4, norm=self.norm2), self.conv5, halves=True, scale=self.gamma, added=x)


@ARCHS.register
class NAFNet(nn.Module):
    """(N, img_channel, H, W) in [0, 1], any size -> the same shape. Sizes are padded to 2 ** (number of encoders).

    Args:
        img_channel: channels of the images. width: width at full resolution; it doubles with every level.
        middle_blk_num: blocks of the coarsest level.
        enc_blk_nums, dec_blk_nums: blocks of each level, full resolution first in the encoder, last in the decoder.
    """

    keeps_images = True  # in float32, whatever type its weights are cast to

    def __init__(
        self,
        *,
        img_channel: int = 3,
        width: int = 32,
        middle_blk_num: int = 1,
        enc_blk_nums: tuple[int, ...] = (1, 1, 1, 28),
        dec_blk_nums: tuple[int, ...] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        if len(enc_blk_nums) != len(dec_blk_nums):
            raise ValueError(
                f"enc_blk_nums has {len(enc_blk_nums)} levels and dec_blk_nums {len(dec_blk_nums)}: they must be as many"
            )
        self.in_channels = img_channel
        self.padder_size = 2 ** len(enc_blk_nums)
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        for count in enc_blk_nums:
            self.encoders.append(nn.Sequential(*(NAFBlock(width) for _ in range(count))))
            self.downs.append(nn.Conv2d(width, 2 * width, 2, stride=2))
            width *= 2
        self.middle_blks = nn.Sequential(*(NAFBlock(width) for _ in range(middle_blk_num)))
        for count in dec_blk_nums:
            self.ups.append(nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), PixelShuffle(2)))
            width //= 2
            self.decoders.append(nn.Sequential(*(NAFBlock(width) for _ in range(count))))

    def forward(self, x: Tensor) -> Tensor:
        image = pad_to_multiple(x, self.padder_size)
        features = activated(*convolved(self.intro, like_weights(image, self.intro)))
        bridges = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            features = run_blocks(encoder, features)
            bridges.append(features)
            features = activated(*convolved(down, features))
        features = run_blocks(self.middle_blks, features)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            features = run_blocks(decoder, activated(up(features), added=[(bridges.pop(), None)]))
        return crop_like(activated(*convolved(self.ending, features), added=[(image, None)]), x)

    @staticmethod
    def infer_options(shapes: Shapes) -> dict[str, object]:
        """The constructor arguments that a state dict's shapes show."""
        levels = count_blocks(shapes, "downs")
        return {
            "img_channel": shapes["intro.weight"][1],
            "width": shapes["intro.weight"][0],
            "middle_blk_num": count_blocks(shapes, "middle_blks"),
            "enc_blk_nums": tuple(count_blocks(shapes, f"encoders.{i}") for i in range(levels)),
            "dec_blk_nums": tuple(count_blocks(shapes, f"decoders.{i}") for i in range(levels)),
        }
