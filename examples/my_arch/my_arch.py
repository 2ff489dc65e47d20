"""A network of one's own: a small U-Net whose attention averages over the whole picture, which TLC makes local."""

import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs import ARCHS


class Attention(nn.Module):
    """Two convolutions, whose channels are weighed by what their means over the picture say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y * self.scale(y)


@ARCHS.register
class MyNet(nn.Module):
    """Restores (N, 3, H, W) in [0, 1]. Its options, which network_g may give, are the constructor's keyword arguments."""

    def __init__(self, *, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.middle = nn.Sequential(*(Attention(2 * width) for _ in range(blocks)))
        self.up = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2))
        self.end = nn.Sequential(Attention(width), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")  # `down` halves the sides
        features = self.intro(padded)
        features = features + self.up(self.middle(self.down(features)))
        return x + self.end(features)[..., :height, :width]
