"""Networks of other packages, where they are installed: what becomes of them, and that windows that cover change nothing.

None of them is needed; `pip install --no-deps` of a package and of what it imports is enough.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from basicsr.engine.networks.restorers import DEEPINV, RESTORERS, SPANDREL
from basicsr.tlc import convert

ALL, PARTLY, NOTHING = "all", "partly", "nothing"  # of what is global became local; NOTHING: nothing is global


@dataclass(frozen=True)
class Case:
    """A network, small.

    Attributes:
        module, name: where its class is.
        became: what of what is global became local.
        left: words of the reasons of what did not; () for any.
        restorer: its name in the catalogue.
    """

    module: str
    name: str
    options: dict
    became: str
    left: tuple[str, ...] = ()
    restorer: str = ""


def spandrel(name: str, became: str, *left: str, folder: str = "", known: str = "", **options: object) -> Case:
    return Case(f"spandrel.architectures.{folder or name}", name, options, became, left, known or name)


def deepinv(name: str, became: str, *left: str, **options: object) -> Case:
    return Case("deepinv.models", name, {"pretrained": None, **options}, became, left, name)


def monai(name: str, became: str, **options: object) -> Case:
    return Case("monai.networks.nets", name, {"spatial_dims": 2, "in_channels": 3, "out_channels": 3, **options}, became)


SIZES = {"Uformer": 128}  # of the training patch, where 64 is too small
SINGLE = ("GRL",)  # which computes in float32 whatever it is given
SWIN = {"embed_dim": 12, "depths": (2,), "num_heads": (2,)}
LEVELS = {"num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}
CASES = [
    spandrel("NAFNet", ALL, width=4, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    spandrel("RCAN", ALL, n_resgroups=1, n_resblocks=1, n_feats=8, scale=2, reduction=4),
    spandrel("HAT", ALL, **SWIN, window_size=8, squeeze_factor=4, upscale=2, num_feat=8),
    spandrel("KBNet_s", ALL, folder="KBNet", width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    spandrel("KBNet_l", ALL, folder="KBNet", dim=48, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0),
    spandrel("RetinexFormer", ALL, n_feat=8, stage=1),
    spandrel("RealPLKSR", ALL, folder="PLKSR", dim=8, n_blocks=1, upscaling_factor=2),
    spandrel(
        "HVICIDNet", PARTLY, "nothing to do", "depends on values", known="CIDNet", channels=[8, 8, 16, 32], heads=[1, 2, 4, 8]
    ),
    spandrel("MixDehazeNet", ALL, embed_dims=[8, 16, 32, 16, 8], depths=[1] * 5),
    spandrel("DAT", PARTLY, embed_dim=16, split_size=[4, 8], depth=[2], num_heads=[2], expansion_factor=2.0),
    spandrel("RGT", PARTLY, embed_dim=16, split_size=[4, 8], depth=[2], num_heads=[2]),
    spandrel("ATD", PARTLY, **SWIN, category_size=64, num_tokens=8),
    spandrel(
        "GRL",
        PARTLY,
        embed_dim=24,
        depths=[2],
        num_heads_window=[2],
        num_heads_stripe=[2],
        stripe_size=[None, None],
        stripe_groups=[4, 4],
        anchor_window_down_factor=2,
        local_connection=True,
    ),
    spandrel("SwinIR", NOTHING, **SWIN, window_size=8),
    spandrel("Uformer", NOTHING, img_size=128, embed_dim=4, depths=[1] * 9, num_heads=[1] * 9),
    spandrel("SAFMN", NOTHING, dim=8, n_blocks=1, upscaling_factor=2),
    spandrel("FFTformer", NOTHING, dim=8, num_blocks=[1, 1, 1], num_refinement_blocks=1),
    spandrel("DRUNet", NOTHING, in_nc=3, out_nc=3, nc=[4, 4, 8, 8], nb=1),
    spandrel("DnCNN", NOTHING, in_nc=3, out_nc=3, nc=8, nb=3),
    deepinv("Restormer", ALL, dim=8, **LEVELS),
    deepinv("MPRNet", ALL, n_feat=8, scale_unetfeats=4, scale_orsnetfeats=4, num_cab=1),
    deepinv("PromptIR", PARTLY, dim=48, **LEVELS),
    deepinv("SwinIR", NOTHING, **SWIN),
    deepinv("DnCNN", NOTHING, depth=3, nf=8),
    monai("SegResNet", ALL, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
    monai("MedNeXt", ALL, init_filters=4, blocks_down=(1, 1, 1, 1), blocks_up=(1, 1, 1, 1)),
    Case(
        "segmentation_models_pytorch",
        "Unet",
        {"encoder_name": "timm-mobilenetv3_small_100", "encoder_weights": None, "decoder_attention_type": "scse"},
        PARTLY,
        ("did not run",),
    ),
]
TIMM = {
    "convnextv2_atto": "GlobalResponseNorm: norm",
    "ecaresnet26t": "EcaModule: mean",
    "gcresnext26ts": "GlobalContext: weighted mean",
    "mobilenetv3_small_100": "SqueezeExcite: mean",
    "skresnet18": "SelectiveKernel: mean",
}


def built(build: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    """With random parameters where they start as constants, which may turn a layer off."""
    torch.manual_seed(0)
    net = build().to(dtype).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() and (parameter == parameter.flatten()[0]).all():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def maps_of(net: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        out = net(x.clone())  # some change the image
    return list(out) if isinstance(out, (list, tuple)) else [out]


def compared(net: nn.Module, size: int) -> nn.Module:
    """Converted; equal to the plain net where windows cover the image, another one where they do not and it was converted."""
    keys, dtype = list(net.state_dict()), next(net.parameters()).dtype
    x, tolerance = torch.rand(1, 3, 2 * size, 2 * size, dtype=dtype), 1e-12 if dtype == torch.float64 else 1e-5
    want = maps_of(net, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # norms of large maps
        covered = convert(copy.deepcopy(net), train_size=size, base_size=4 * size)
        local = convert(net, train_size=size)
    for got, plain in zip(maps_of(covered, x), want, strict=True):
        assert (got - plain).abs().max() <= tolerance * plain.abs().max()
    if local.tlc_report.converted:
        changes = [(got - plain).abs().max() for got, plain in zip(maps_of(local, x), want, strict=True)]
        assert 0 < max(changes) < torch.inf
    assert list(local.state_dict()) == keys
    return local


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.module.partition('.')[0]} {case.name}")
def test_what_becomes_of_it(case: Case):
    module = pytest.importorskip(case.module, exc_type=ImportError)
    net = built(lambda: getattr(module, case.name)(**case.options), torch.float32 if case.name in SINGLE else torch.float64)
    report = compared(net, SIZES.get(case.name, 64)).tlc_report
    assert bool(report.converted) == (case.became == ALL) or case.became == PARTLY, report
    assert bool(report.left_alone) == (case.became == PARTLY), report
    for row in report.left_alone:
        assert not case.left or any(words in row.reason for words in case.left), row


@pytest.mark.parametrize("name", TIMM)
def test_blocks_of_timm(name: str):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    net = compared(built(lambda: timm.create_model(name, pretrained=False, features_only=True, out_indices=(1, 2))), 64)
    assert TIMM[name] in {row.before for row in net.tlc_report.converted}


@pytest.mark.parametrize(("package", "said"), [("spandrel", SPANDREL), ("deepinv", DEEPINV)])
def test_what_the_page_says_was_run_is_run_here(package: str, said: str):
    cases = {case.restorer.lower() for case in CASES if case.module.startswith(package)}
    assert {net.names[0].lower() for net in RESTORERS if said in net.checked} <= cases
