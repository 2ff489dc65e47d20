"""MPRNet: Multi-Stage Progressive Image Restoration (Zamir et al., CVPR 2021, arXiv 2102.02808).

Stage 1 sees quarters, stage 2 halves, stage 3 the whole image (figure 2). Written from the paper and the published
checkpoints' tensor names; the published code and weights are for academic, non-commercial use.

Differs from the published net: quarters and halves are stacked into the batch instead of running one after the other, any image
size is padded, and the stages are listed in their order, the final one last.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.blocks import (
    SAM,
    ChannelGate,
    Shapes,
    add,
    by_tiles,
    count_blocks,
    crop_like,
    like_weights,
    pad_to_multiple,
    run_blocks,
)
from basicsr.kernels import accelerates, activated, convolved, doubled, excited, gated
from basicsr.kernels.layout import layout_of
from basicsr.registry import ARCHS

ROWS, COLUMNS = 2, 3  # dimensions of (N, C, H, W)


def split(x: Tensor, dim: int) -> Tensor:
    """Cut in two along `dim` and stack the parts in the batch: (N, C, H, W) -> (2N, C, H/2, W) for ROWS."""
    half = x.shape[dim] // 2
    return torch.cat([x.narrow(dim, 0, half), x.narrow(dim, half, half)], dim=0)


def join(x: Tensor, dim: int) -> Tensor:
    """Undo `split`."""
    if dim == ROWS and x.shape[0] == 2 and accelerates(x) and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).flatten(0, 1)[None].permute(0, 3, 1, 2)  # one lies below the other already
    half = x.shape[0] // 2  # chunk() would fix the size in an exported net
    return torch.cat([x.narrow(0, 0, half), x.narrow(0, half, half)], dim=dim)


def join_all(features: list[Tensor], dim: int) -> list[Tensor]:
    """`join` for features of several levels; each is given up as soon as it is joined."""
    return [join(features.pop(0), dim) for _ in range(len(features))]


def conv(in_channels: int, out_channels: int, kernel_size: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)


class CALayer(ChannelGate):
    """Channel attention: the mean of each channel over the whole map gates that channel; without the sigmoid at its end."""

    def __init__(self, channels: int, reduction: int, bias: bool) -> None:
        squeezed = channels // reduction
        excite = nn.Sequential(conv(channels, squeezed, 1, bias), nn.ReLU(inplace=True), conv(squeezed, channels, 1, bias))
        super().__init__({"avg_pool": nn.AdaptiveAvgPool2d(1), "conv_du": excite})


class CAB(nn.Module):
    """Channel attention block (figure 3a). `act` is the one PReLU that the whole net shares."""

    def __init__(self, channels: int, kernel_size: int, reduction: int, bias: bool, act: nn.Module) -> None:
        super().__init__()
        self.CA = CALayer(channels, reduction, bias)
        self.body = nn.Sequential(conv(channels, channels, kernel_size, bias), act, conv(channels, channels, kernel_size, bias))

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> the same shape. out: where the result is to lie, such as some channels of a map."""
        if not accelerates(x):
            body = self.body(x)
            y = by_tiles(_gated_sum, x, body, torch.sigmoid(self.CA(body)), channels=x.shape[1])
            return y if out is None else out.copy_(y)
        first, act, second = self.body
        body = activated(*convolved(first, x), act.weight)
        body = activated(*convolved(second, body))
        *_, excite = self.CA.conv_du
        return excited(body, self.CA.squeezed(body), excite, x, out=body if out is None else out)


def _gated_sum(x: Tensor, body: Tensor, gate: Tensor, inner: tuple) -> Tensor:
    return gated(body, gate, x)


class DownSample(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Upsample(scale_factor=0.5, mode="bilinear", align_corners=False), conv(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H/2, W/2), rounded down."""
        if not accelerates(x):
            return self.down(x)
        weight = self.down[1].weight / 4  # half the size is the mean of 2x2 pixels: with what follows one convolution
        return F.conv2d(x, weight.expand(-1, -1, 2, 2), stride=2)


class UpSample(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), conv(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """x (N, in, H, W) -> (N, out, 2H, 2W), plus a map of that shape, whose memory it may take."""
        convolve = self.up[1]
        return doubled(convolve(x), added)  # a 1x1 convolution commutes with interpolation, and is cheaper before it


class Encoder(nn.Module):
    """Three levels of two CABs each (figure 3b); with `csff`, stage 1's features are added after each level, and used up."""

    def __init__(self, widths: list[int], cab: dict, csff: bool) -> None:
        super().__init__()
        for level, width in enumerate(widths, start=1):
            self.add_module(f"encoder_level{level}", nn.Sequential(*(CAB(width, **cab) for _ in range(2))))
        self.down12 = DownSample(widths[0], widths[1])
        self.down23 = DownSample(widths[1], widths[2])
        self.csff = csff
        if csff:
            for level, width in enumerate(widths, start=1):
                self.add_module(f"csff_enc{level}", conv(width, width, 1, cab["bias"]))
                self.add_module(f"csff_dec{level}", conv(width, width, 1, cab["bias"]))

    def forward(self, x: Tensor, enc: list[Tensor] | None = None, dec: list[Tensor] | None = None) -> list[Tensor]:
        """(N, c1, H, W) -> features of levels 1, 2, 3 at H, H/2, H/4."""
        features = []
        for level in (1, 2, 3):
            x = self.get_submodule(f"encoder_level{level}")(x)
            if self.csff:
                sides = ((f"csff_enc{level}", enc), (f"csff_dec{level}", dec))
                x = activated(x, added=(convolved(self.get_submodule(name), stage1.pop(0)) for name, stage1 in sides))
            features.append(x)
            if level < 3:
                x = self.get_submodule(f"down{level}{level + 1}")(x)
        return features


class Decoder(nn.Module):
    def __init__(self, widths: list[int], cab: dict) -> None:
        super().__init__()
        for level, width in enumerate(widths, start=1):
            self.add_module(f"decoder_level{level}", nn.Sequential(*(CAB(width, **cab) for _ in range(2))))
        self.skip_attn1 = CAB(widths[0], **cab)
        self.skip_attn2 = CAB(widths[1], **cab)
        self.up21 = UpSample(widths[1], widths[0])
        self.up32 = UpSample(widths[2], widths[1])

    def forward(self, encoded: list[Tensor]) -> list[Tensor]:
        """Features of levels 1, 2, 3 -> decoded features of levels 1, 2, 3."""
        dec3 = self.decoder_level3(encoded[2])
        dec2 = self.decoder_level2(self.up32(dec3, self.skip_attn2(encoded[1])))
        dec1 = self.decoder_level1(self.up21(dec2, self.skip_attn1(encoded[0])))
        return [dec1, dec2, dec3]


class ORB(nn.Module):
    """Original resolution block (figure 3c)."""

    def __init__(self, channels: int, num_cab: int, cab: dict) -> None:
        super().__init__()
        cabs = [CAB(channels, **cab) for _ in range(num_cab)]
        self.body = nn.Sequential(*cabs, conv(channels, channels, cab["kernel_size"], bias=cab["bias"]))

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> the same shape, plus a map of that shape."""
        *cabs, last = self.body
        maps = (x,) if added is None else (x, added)
        return activated(*convolved(last, run_blocks(cabs, x)), added=[(y, None) for y in maps])


class ORSNet(nn.Module):
    """Stage 3: original resolution subnetwork, fed with stage 2's features at every block, which it uses up."""

    def __init__(self, widths: list[int], channels: int, num_cab: int, cab: dict) -> None:
        super().__init__()
        c1, c2, c3 = widths
        for block in (1, 2, 3):
            self.add_module(f"orb{block}", ORB(channels, num_cab, cab))
        for side in ("enc", "dec"):
            self.add_module(f"up_{side}1", UpSample(c2, c1))
            self.add_module(f"up_{side}2", nn.Sequential(UpSample(c3, c2), UpSample(c2, c1)))
            for level in (1, 2, 3):
                self.add_module(f"conv_{side}{level}", conv(c1, channels, 1, cab["bias"]))

    def forward(self, x: Tensor, encoded: list[Tensor], decoded: list[Tensor]) -> Tensor:
        fused = activated(*convolved(self.conv_enc1, encoded.pop(0)), added=[convolved(self.conv_dec1, decoded.pop(0))])
        x = self.orb1(x, fused)  # the sum is narrower than the two
        del fused
        x = self._with_level(2, self.orb2(x), encoded.pop(0), decoded.pop(0))
        return self._with_level(3, self.orb3(x), encoded[0], decoded[0])

    def _with_level(self, level: int, x: Tensor, encoded: Tensor, decoded: Tensor) -> Tensor:
        """x plus both sides' features of a level, enlarged; a GPU enlarges their sum, with which 1x1 convolutions commute."""
        names = [(f"up_{side}{level - 1}", f"conv_{side}{level}") for side in ("enc", "dec")]
        sides = [[self.get_submodule(name) for name in pair] for pair in names]
        if not accelerates(x):
            for (enlarge, convolve), features in zip(sides, (encoded, decoded), strict=True):
                x = add(x, convolve(enlarge(features)))
            return x
        small = []
        for (enlarge, convolve), features in zip(sides, (encoded, decoded), strict=True):
            inner = (layer for layer in enlarge.modules() if isinstance(layer, nn.Conv2d))
            small.append(convolved(convolve, run_blocks(inner, features)))
        total = activated(*small[0], added=small[1:])
        for _ in range(level - 2):
            total = doubled(total)
        return doubled(total, x)


@ARCHS.register
class MPRNet(nn.Module):
    """(N, in_c, H, W) in [0, 1], any size -> [stage 1, stage 2, stage 3], images of the input's size.

    Args:
        in_c, out_c: channels of the images. n_feat: width at full resolution.
        scale_unetfeats: by how much the width grows with every level of the U-Nets.
        scale_orsnetfeats: by how much wider the third stage, at full resolution, is.
        num_cab: channel attention blocks in each of the third stage's three groups.
        kernel_size: side of the convolutions' kernels. bias: whether the convolutions have one.
        reduction: factor between the width and that inside the channel attention.
        padder_size: the size is padded to a multiple of it (quarters on three levels need 8); 0 turns padding off.
    """

    keeps_images = True  # in float32, whatever type its weights are cast to

    def __init__(
        self,
        *,
        in_c: int = 3,
        out_c: int = 3,
        n_feat: int = 96,
        scale_unetfeats: int = 48,
        scale_orsnetfeats: int = 32,
        num_cab: int = 8,
        kernel_size: int = 3,
        reduction: int = 4,
        bias: bool = False,
        padder_size: int = 8,
    ) -> None:
        super().__init__()
        if in_c != out_c:
            raise ValueError(f"in_c is {in_c} and out_c is {out_c}, but MPRNet adds its input to its output: make them equal")
        self.in_channels = in_c
        self.padder_size = padder_size
        cab = {"kernel_size": kernel_size, "reduction": reduction, "bias": bias, "act": nn.PReLU()}
        widths = [n_feat, n_feat + scale_unetfeats, n_feat + 2 * scale_unetfeats]
        for stage in (1, 2, 3):
            shallow = nn.Sequential(conv(in_c, n_feat, kernel_size, bias), CAB(n_feat, **cab))
            self.add_module(f"shallow_feat{stage}", shallow)
        self.stage1_encoder = Encoder(widths, cab, csff=False)
        self.stage1_decoder = Decoder(widths, cab)
        self.stage2_encoder = Encoder(widths, cab, csff=True)
        self.stage2_decoder = Decoder(widths, cab)
        self.stage3_orsnet = ORSNet(widths, n_feat + scale_orsnetfeats, num_cab, cab)
        self.sam12 = SAM(n_feat, out_c, kernel_size=1, bias=bias)
        self.sam23 = SAM(n_feat, out_c, kernel_size=1, bias=bias)
        self.concat12 = conv(2 * n_feat, n_feat, kernel_size, bias)
        self.concat23 = conv(2 * n_feat, n_feat + scale_orsnetfeats, kernel_size, bias)
        self.tail = conv(n_feat + scale_orsnetfeats, out_c, kernel_size, bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        image = pad_to_multiple(x, self.padder_size)
        halves = split(image, ROWS)  # 2N: top, bottom
        quarters = split(halves, COLUMNS)  # 4N: top left, bottom left, top right, bottom right

        encoded = join_all(self.stage1_encoder(self.shallow_feat1(like_weights(quarters, self.tail))), COLUMNS)
        decoded = self.stage1_decoder(encoded)
        shallow, stage1 = self._begin(self.shallow_feat2, self.sam12, self.concat12, halves, decoded[0])
        encoded = self.stage2_encoder(shallow, encoded, decoded)
        del shallow  # and all else that is large, as soon as nobody reads it again
        encoded = join_all(encoded, ROWS)
        decoded = self.stage2_decoder(encoded)
        shallow, stage2 = self._begin(self.shallow_feat3, self.sam23, self.concat23, image, decoded[0])
        stage3 = activated(*convolved(self.tail, self.stage3_orsnet(shallow, encoded, decoded)), added=[(image, None)])
        return [crop_like(join(stage1, ROWS), x), crop_like(stage2, x), crop_like(stage3, x)]

    def _begin(
        self, shallow: nn.Sequential, sam: SAM, concat: nn.Module, images: Tensor, decoded: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What stage 2 or 3 begins with, and the images that the stage before restored, from what it decoded."""
        own = like_weights(images, self.tail)
        if not accelerates(images):
            feature, restored = sam(decoded, images)
            return concat(torch.cat([shallow(own), feature], dim=1)), restored
        n, c, h, w = decoded.shape
        both = torch.empty(n, 2 * c, h, w, dtype=decoded.dtype, device=decoded.device, memory_format=layout_of(decoded))
        first, second = both.chunk(2, dim=1)  # the two are made where they are to lie side by side
        _, restored = sam(decoded, images, out=second)
        convolve, block = shallow
        block(convolve(own), out=first)
        return concat(both), restored

    @staticmethod
    def infer_options(shapes: Shapes) -> dict[str, int | bool]:
        """The constructor arguments that a state dict's shapes show."""
        n_feat = shapes["shallow_feat1.0.weight"][0]
        return {
            "in_c": shapes["shallow_feat1.0.weight"][1],
            "out_c": shapes["tail.weight"][0],
            "n_feat": n_feat,
            "scale_unetfeats": shapes["stage1_encoder.down12.down.1.weight"][0] - n_feat,
            "scale_orsnetfeats": shapes["tail.weight"][1] - n_feat,
            "num_cab": count_blocks(shapes, "stage3_orsnet.orb1.body") - 1,
            "kernel_size": shapes["shallow_feat1.0.weight"][2],
            "reduction": _reduction([shape[:2] for key, shape in shapes.items() if key.endswith("conv_du.0.weight")]),
            "bias": "tail.bias" in shapes,
        }


def _reduction(shapes: list[tuple[int, ...]]) -> int:
    """The least reduction that turns every width into its squeezed width; shapes: (squeezed, width)."""
    squeezed, width = shapes[0]
    fitting = (r for r in range(1, width + 1) if all(w // r == s for s, w in shapes))
    return next(fitting, width // squeezed)
