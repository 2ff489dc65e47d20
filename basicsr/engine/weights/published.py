"""Published checkpoints: which network with which options, its training patch, its figures, where it is and under which terms.

The one table: detection is tested with it, the training patch of a known file is from it, `tlc weights` shows it and downloads
by it. A name is also that of the file in experiments/pretrained_models, without its suffix.
"""

from dataclasses import dataclass
from typing import Any

BYTES = 4  # of a parameter in these files


@dataclass(frozen=True)
class Terms:
    """Under which terms the authors publish code and weights. url: where the terms are."""

    name: str
    url: str
    commercial: bool  # whether commercial use is allowed


@dataclass(frozen=True)
class Result:
    """Published PSNR and SSIM on a test set, by the toolbox's metrics; None: not published, or not found."""

    test: str
    plain: tuple[float, float | None] | None = None
    local: tuple[float, float | None] | None = None


@dataclass(frozen=True)
class Net:
    """A network that checkpoints are of: {"type": name, **what differs from the constructor's values}, and its numbers of
    parameters and keys."""

    options: dict[str, Any]
    parameters: int
    keys: int


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    task: what it takes away. sources: a web address, or `drive:` with a file's id on Google Drive; the first is tried first.
    files: its names where it was published. patch: side of the training patches, in pixels. ended_at: side of the last ones
        of progressive learning. base_size: of the window of TLC that its authors chose; None: 1.5 patches.
    """

    name: str
    net: Net
    task: str
    terms: Terms
    sources: tuple[str, ...]
    files: tuple[str, ...] = ()
    patch: int = 256
    ended_at: int | None = None
    base_size: int | None = None
    results: tuple[Result, ...] = ()

    @property
    def protocol(self) -> str:
        """In which its task's papers measure, see `basicsr.metrics.protocols`."""
        return "noise8" if self.task.startswith(("colour noise", "grey noise")) else _MEASURED[self.task.partition(",")[0]]

    @property
    def window_size(self) -> int | None:
        """To whose multiples its published test pads images by reflection; None: its pictures need none, or it does not."""
        padded = self.net.options["type"] == "Restormer" and self.task.startswith((RAIN, "colour noise", "grey noise"))
        return 8 if padded else None

    @property
    def size(self) -> int:
        """Bytes of the parameters; the sizes of the files, which may hold more, were not published."""
        return BYTES * self.net.parameters


MIT_HINET = Terms("MIT", "https://github.com/megvii-model/HINet/blob/main/LICENSE", True)
MIT_NAFNET = Terms("MIT", "https://github.com/megvii-research/NAFNet/blob/main/LICENSE", True)
ACADEMIC = "Academic Public License, non-commercial"
APL_MPRNET = Terms(ACADEMIC, "https://github.com/swz30/MPRNet/blob/main/LICENSE.md", False)
APL_RESTORMER = Terms(ACADEMIC, "https://github.com/swz30/Restormer/blob/main/LICENSE.md", False)
RELEASE = "https://github.com/swz30/Restormer/releases/download/v1.0"

_HINET = Net({"type": "HINet", "hin_position_left": 3, "hin_position_right": 4}, 88_668_806, 186)
_HINET_ALL = Net({"type": "HINet"}, 88_669_702, 198)
_HINET_HALF = Net({"type": "HINet", "wf": 32}, 22_176_518, 198)
_MPRNET = Net({"type": "MPRNet"}, 20_127_073, 316)
_MPRNET_RAIN = Net({"type": "MPRNet", "n_feat": 40, "scale_unetfeats": 20, "scale_orsnetfeats": 16}, 3_637_249, 316)
_MPRNET_NOISE = Net({"type": "MPRNet", "n_feat": 80}, 15_741_025, 316)
_FREE = {"LayerNorm_type": "BiasFree"}
_RESTORMER = Net({"type": "Restormer"}, 26_126_644, 494)
_RESTORMER_DUAL = Net({"type": "Restormer", "inp_channels": 6, "dual_pixel_task": True}, 26_132_548, 495)
_RESTORMER_FREE = Net({"type": "Restormer", **_FREE}, 26_111_668, 406)
_RESTORMER_GREY = Net({"type": "Restormer", **_FREE, "inp_channels": 1, "out_channels": 1}, 26_109_076, 406)
_BLUR = {"enc_blk_nums": [1, 1, 1, 28], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}
_SIDD = {"enc_blk_nums": [2, 2, 4, 8], "middle_blk_num": 12, "dec_blk_nums": [2, 2, 2, 2]}
_NAFNET_32 = Net({"type": "NAFNet", "width": 32, **_BLUR}, 17_111_907, 664)
_NAFNET_64 = Net({"type": "NAFNet", "width": 64, **_BLUR}, 67_888_835, 664)
_NAFNET_SIDD_32 = Net({"type": "NAFNet", "width": 32, **_SIDD}, 29_159_715, 664)
_NAFNET_SIDD_64 = Net({"type": "NAFNet", "width": 64, **_SIDD}, 115_982_915, 664)

BLUR, RAIN, NOISE, DEFOCUS = "motion blur", "rain", "camera noise", "defocus blur"
_MEASURED = {BLUR: "rgb8", RAIN: "y8", NOISE: "float", DEFOCUS: "dpdd"}
_RAIN = ("Test100", "Rain100H", "Rain100L", "Test2800", "Test1200")
_COLOUR, _GREY = ("CBSD68", "Kodak24", "McMaster", "Urban100"), ("Set12", "BSD68", "Urban100")
_DPDD = ("DPDD", "DPDD indoor", "DPDD outdoor")


def _plain(names: tuple[str, ...], *figures: tuple[float, float | None]) -> tuple[Result, ...]:
    return tuple(Result(name, figure) for name, figure in zip(names, figures, strict=True))


def _psnr(names: tuple[str, ...], *figures: float) -> tuple[Result, ...]:
    return _plain(names, *((figure, None) for figure in figures))


def _drive(name: str, net: Net, task: str, terms: Terms, identity: str, *results: Result, **more: Any) -> Published:
    return Published(name, net, task, terms, (f"drive:{identity}",), results=results, **more)


def _restormer(name: str, file: str, task: str, net: Net, *results: Result, drive: str = "") -> Published:
    """Trained on patches of 128 to 384; TLC's authors take 256, with windows of 384."""
    sources = (f"{RELEASE}/{file}", *((f"drive:{drive}",) if drive else ()))
    return Published(name, net, task, APL_RESTORMER, sources, (file,), 256, 384, 384, results)


def _gaussian(colours: str, strength: str, *results: Result) -> Published:
    word, net = {"colour": ("color", _RESTORMER_FREE), "grey": ("gray", _RESTORMER_GREY)}[colours]
    task = f"{colours} noise, {strength.replace('sigma', 'sigma ')}"
    name = f"Restormer-Gaussian{word.capitalize()}-{strength}"
    return _restormer(name, f"gaussian_{word}_denoising_{strength}.pth", task, net, *results)


PUBLISHED = (
    _drive(
        "HINet-GoPro",
        _HINET,
        BLUR,
        MIT_HINET,
        "1dw8PKVkLfISzNtUu3gqGh83NBO83ZQ5n",
        Result("GoPro", (32.71, 0.959), (33.08, 0.962)),
        Result("HIDE", (30.33, 0.932), (30.66, 0.936)),
    ),
    _drive(
        "HINet-REDS",
        _HINET,
        BLUR,
        MIT_HINET,
        "1uYH8XvLgrn-Vg6L0NjUcO2Fblhqrc8TU",
        Result("REDS-val-300", (28.83, 0.863), (28.96, 0.865)),
    ),
    _drive(
        "HINet-Rain13k",
        _HINET_ALL,
        RAIN,
        MIT_HINET,
        "1AVedAkb1B2F2b3XGWlMFFVSsNfQlCwxa",
        *_plain(_RAIN, (30.29, 0.906), (30.65, 0.894), (37.28, 0.970), (33.91, 0.941), (33.05, 0.919)),
    ),
    _drive(
        "HINet-SIDD-1x",
        _HINET_ALL,
        NOISE,
        MIT_HINET,
        "1CU5z-M90Jc-TAcVpEaFjDCYA09fkubGi",
        Result("SIDD", (39.99, 0.958)),
    ),
    _drive(
        "HINet-SIDD-0.5x",
        _HINET_HALF,
        NOISE,
        MIT_HINET,
        "1Y5YJQVNL0weifE--5us344bLwzBNS_sU",
        Result("SIDD", (39.82, 0.958)),
    ),
    _drive(
        "MPRNet-GoPro",
        _MPRNET,
        BLUR,
        APL_MPRNET,
        "1QwQUVbk6YVOJViCsOKYNykCsdJSVGRtb",
        Result("GoPro", (32.66, 0.959), (33.31, 0.964)),
        Result("HIDE", (30.96, 0.939), (31.19, 0.942)),
        Result("RealBlur-J", (28.70, 0.873)),
        files=("model_deblurring.pth",),
    ),
    _drive(
        "MPRNet-Rain13k",
        _MPRNET_RAIN,
        RAIN,
        APL_MPRNET,
        "1O3WEJbcat7eTY6doXWeorAbQ1l_WmMnM",
        *_plain(_RAIN, (30.27, 0.897), (30.41, 0.890), (36.40, 0.965), (33.64, 0.938), (32.91, 0.916)),
        files=("model_deraining.pth",),
    ),
    _drive(
        "MPRNet-SIDD",
        _MPRNET_NOISE,
        NOISE,
        APL_MPRNET,
        "1LODPt9kYmxwU98g96UrRA0_Eh5HYcsRw",
        Result("SIDD", (39.71, 0.958)),
        files=("model_denoising.pth",),
        patch=128,
    ),
    _restormer(
        "Restormer-GoPro",
        "motion_deblurring.pth",
        BLUR,
        _RESTORMER,
        Result("GoPro", (32.92, 0.961), (33.57, 0.966)),
        Result("HIDE", (31.22, 0.942), (31.49, None)),
        Result("RealBlur-R", (36.19, 0.957)),
        Result("RealBlur-J", (28.96, 0.879)),
        drive="1pwcOhDS5Erzk8yfAbu7pXTud606SB4-L",
    ),
    _restormer("Restormer-Rain13k", "deraining.pth", RAIN, _RESTORMER, Result("Rain100L", (38.99, None))),
    _restormer(
        "Restormer-DPDD-single",
        "single_image_defocus_deblurring.pth",
        DEFOCUS,
        _RESTORMER,
        *_plain(_DPDD, (25.98, 0.811), (28.87, 0.882), (23.24, 0.743)),
    ),
    _restormer(
        "Restormer-DPDD-dual",
        "dual_pixel_defocus_deblurring.pth",
        f"{DEFOCUS}, two views",
        _RESTORMER_DUAL,
        *_plain(_DPDD, (26.66, 0.833), (29.48, 0.895), (23.97, 0.773)),
    ),
    _gaussian("colour", "blind"),
    _gaussian("colour", "sigma15", *_psnr(_COLOUR, 34.40, 35.47, 35.61, 35.13)),
    _gaussian("colour", "sigma25", *_psnr(_COLOUR[:3], 31.79, 33.04, 33.34), Result("Urban100", (32.96, None), (33.06, None))),
    _gaussian("colour", "sigma50", *_psnr(_COLOUR[:3], 28.60, 30.01, 30.30), Result("Urban100", (30.02, None), (30.17, None))),
    _gaussian("grey", "blind"),
    _gaussian("grey", "sigma15", *_psnr(_GREY, 33.42, 31.96, 33.79)),
    _gaussian("grey", "sigma25", *_psnr(_GREY, 31.08, 29.52, 31.46)),
    _gaussian("grey", "sigma50", *_psnr(_GREY, 28.00, 26.62, 28.29)),
    _restormer(
        "Restormer-SIDD",
        "real_denoising.pth",
        NOISE,
        _RESTORMER_FREE,
        Result("SIDD", (40.02, 0.960)),
        Result("DND", (40.03, 0.956)),
        drive="1FF_4NTboTWQ7sHCq4xhyLZsSl0U0JfjH",
    ),
    _drive(
        "NAFNet-GoPro-width32",
        _NAFNET_32,
        BLUR,
        MIT_NAFNET,
        "1Fr2QadtDCEXg6iwWX8OzeZLbHOx2t5Bj",
        Result("GoPro", None, (32.8705, 0.9606)),
    ),
    _drive(
        "NAFNet-GoPro-width64",
        _NAFNET_64,
        BLUR,
        MIT_NAFNET,
        "1S0PVRbyTakYY9a82kujgZLbMihfNBLfC",
        Result("GoPro", None, (33.7103, 0.9668)),
    ),
    _drive(
        "NAFNet-REDS-width64",
        _NAFNET_64,
        BLUR,
        MIT_NAFNET,
        "14D4V4raNYIOhETfcuuLI3bGLB-OYIv6X",
        Result("REDS-val-300", None, (29.0903, 0.8671)),
    ),
    _drive(
        "NAFNet-SIDD-width32",
        _NAFNET_SIDD_32,
        NOISE,
        MIT_NAFNET,
        "1lsByk21Xw-6aW7epCwOQxvm6HYCQZPHZ",
        Result("SIDD", (39.9672, 0.9599), (39.9672, 0.9599)),
    ),
    _drive(
        "NAFNet-SIDD-width64",
        _NAFNET_SIDD_64,
        NOISE,
        MIT_NAFNET,
        "14Fht1QQJ2gMlk4N1ERCRuElg8JfjrWWR",
        Result("SIDD", (40.3045, 0.9614), (40.3045, 0.9614)),
    ),
)
