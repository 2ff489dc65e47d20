"""Weights of networks that spandrel knows, where it is installed: restored, tested and converted like the toolbox's own.

It needs torchvision, which is made for one torch: `pip install spandrel` beside both.
"""

import json
import re
import shutil
import sys
from importlib import import_module

import pytest
import torch
from conftest import REPOSITORY, make_pairs, picture, write

from basicsr.archs import build_network, spandrel_arch
from basicsr.engine.networks.restorers import RESTORERS
from basicsr.engine.weights import build_with_weights, identify, options_for_weights
from basicsr.engine.weights.patches import TRAINED, trained
from basicsr.errors import UserError
from basicsr.options import parse
from basicsr.utils.checkpoint import save_torch, save_weights

LEVELS = {"enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
# Folder, class, constructor arguments; whether TLC has something to do.
NETS = {
    "KBNet_s": ("KBNet", {"width": 8, "middle_blk_num": 1, **LEVELS}, True),
    "KBNet_l": ("KBNet", {"dim": 24, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}, True),
    "RetinexFormer": ("RetinexFormer", {"n_feat": 8, "stage": 1}, True),
    "MixDehazeNet": ("MixDehazeNet", {"embed_dims": [8, 16, 32, 16, 8], "depths": [1] * 5}, True),
    "CIDNet": ("HVICIDNet", {"channels": [8, 8, 16, 32], "heads": [1, 2, 4, 8]}, True),
    "SCUNet": ("SCUNet", {"dim": 64, "config": [1] * 7}, False),
    "DRUNet": ("DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [4, 4, 8, 8], "nb": 2}, False),
    "DnCNN": ("DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 8}, False),
    "FFTformer": ("FFTformer", {"dim": 8, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1}, False),
    "Uformer": ("Uformer", {"embed_dim": 8}, False),
}
needs_spandrel = pytest.mark.skipif(
    not spandrel_arch.is_here(), reason="spandrel, or a torchvision for this torch, is not here"
)


def net_of_spandrel(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    folder, options, _ = NETS[name]
    module = import_module(f"spandrel.architectures.{folder}")
    base = next(value for value in vars(module).values() if getattr(value, "__name__", "") == name)
    return base(**options).eval()


def network_of(file) -> dict:
    return options_for_weights(parse({"name": "x", "network_g": {"type": "HINet"}}, ""), file).network_g.as_dict()


@needs_spandrel
@pytest.mark.parametrize("name", NETS)
def test_they_run_as_in_spandrel_and_with_tlc(name, tmp_path):
    from spandrel import MAIN_REGISTRY

    net = net_of_spandrel(name)
    file = tmp_path / "w.pth"
    save_torch(file, {"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}})
    network = network_of(file)
    assert network["type"] == f"basicsr.archs.spandrel_arch:{name}"
    assert network["tlc"] is True
    plain = build_with_weights({key: value for key, value in network.items() if key != "tlc"}, file).eval()
    local = build_with_weights({**network, "tlc": {"train_size": 64, "base_size": 64}}, file).eval()
    assert list(plain.state_dict()) == list(net.state_dict())
    image = torch.rand(1, 3, 109, 141)
    with torch.no_grad():
        own = MAIN_REGISTRY.load(net.state_dict())(image.clone())
        found = plain(image).clamp(0, 1)
        assert (found - own).abs().max() < 1e-5
        change = (local(image).clamp(0, 1) - own).abs().max()
    assert bool(local.tlc_report.converted) is NETS[name][2]
    assert (change > 0) if NETS[name][2] else (change < 1e-5)


@needs_spandrel
def test_restore_test_and_convert(root, run):
    save_torch(root / "kbnet.pth", {"params": net_of_spandrel("KBNet_s").state_dict()})
    write(root / "photo.png", picture(0, 41, 50))
    make_pairs(root / "pairs", ("a",))
    shutil.copytree(REPOSITORY / "options/demo", root / "options/demo")
    end = run("restore", "photo.png", "--weights", "kbnet.pth", "--output", "out.png")
    assert end.code == 0, end
    says = (
        "TLC: trained on 256x256 (as published checkpoints of KBNet_s, whose training ended at 384), window 384x384; 5 layers"
    )
    assert says in end.out
    assert (root / "out.png").is_file()
    end = run("convert", "--weights", "kbnet.pth", "--size", "none")
    assert end.out.startswith(says)
    assert "published checkpoints of KBNet_s (2023) were trained on patches of" in end.out
    end = run(
        "test", "--weights", "kbnet.pth", "--gt", "pairs/target", "--lq", "pairs/input", "--tlc", "both", "--window", "16"
    )
    assert end.code == 0, end
    report = json.loads((root / "results/kbnet-pairs/report.json").read_text())
    assert [run["network"] for run in report["runs"]] == ["KBNet_s", "KBNet_sLocal"]


@needs_spandrel
def test_what_does_not_run_here(tmp_path):
    from spandrel.architectures.RCAN import RCAN

    file = tmp_path / "w.pth"
    save_torch(file, RCAN(n_resgroups=1, n_resblocks=1, n_feats=8, scale=2, reduction=4).state_dict())
    with pytest.raises(UserError, match="the weights of RCAN, which enlarges images 2 times; only networks that keep"):
        identify(file)
    save_torch(file, {"fc.weight": torch.zeros(3)})
    with pytest.raises(UserError, match=r"they have fc\.weight\.$"):
        identify(file)
    with pytest.raises(UserError, match="has no class or function `KBNet_x`"):
        build_network({"type": "basicsr.archs.spandrel_arch:KBNet_x"})
    with pytest.raises(UserError, match=r"has no option `widht`\. Did you mean `width`"):
        build_network({"type": "basicsr.archs.spandrel_arch:KBNet_s", "widht": 8})


@needs_spandrel
def test_weights_of_a_training_say_it_themselves(tmp_path):
    file = tmp_path / "w.pth"
    said = {"arch": "basicsr.archs.spandrel_arch:KBNet_s", "network": json.dumps(NETS["KBNet_s"][1]), "train_size": "64"}
    save_weights(file, net_of_spandrel("KBNet_s").state_dict(), said)
    assert build_with_weights(network_of(file), file).tlc_report.train_size == (64, 64)


def test_without_spandrel(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    save_torch(tmp_path / "w.pth", {"intro.weight": torch.zeros(32, 3, 3, 3), "ending.weight": torch.zeros(3, 32, 3, 3)})
    with pytest.raises(UserError) as caught:
        identify(tmp_path / "w.pth")
    said = str(caught.value)
    assert "these are the weights of none of HINet, MPRNet, NAFNet, Restormer; nearest is NAFNet: " in said
    extra = "pip install tlc-restoration[spandrel]"
    assert said.endswith(f"; the package spandrel, which is not here, knows more networks: {extra}.")
    with pytest.raises(UserError, match=r"KBNet_s needs the package spandrel: pip install tlc-restoration\[spandrel\]"):
        build_network({"type": "basicsr.archs.spandrel_arch:KBNet_s"})


@pytest.mark.parametrize(
    ("network", "file", "patch", "ended_at"),
    [
        ("RetinexFormer", "LOL_v1", 128, None),
        ("RetinexFormer", "LOL_v2_synthetic", 128, None),
        ("RetinexFormer", "LOL_v2_real", 256, None),
        ("RetinexFormer", "SID", 256, None),
        ("RetinexFormer", "SDSD_outdoor", 256, None),
        ("RetinexFormer", "SDSD_indoor", 128, None),
        ("RetinexFormer", "FiveK", 280, None),
        ("RetinexFormer", "NTIRE", 2000, None),
        ("RetinexFormer", "net_g_latest", None, None),
        ("CIDNet", "any", 256, None),
        ("MixDehazeNet", "haze4k-MixDehazeNet-t", 400, None),
        ("MixDehazeNet", "haze4k-MixDehazeNet-s", 256, None),
        ("MixDehazeNet", "Dense-Haze-MixDehazeNet-l", 500, None),
        ("MixDehazeNet", "NH-Haze-MixDehazeNet-s", 350, None),
        ("GRL", "dn_grl_base_c3s15", 256, None),
        ("GRL", "deblur_grl_base_gopro", 480, None),
        ("GRL", "jpeg_grl_small_c1q10", 288, None),
        ("KBNet_s", "sidd", 256, 384),
        ("KBNet_l", "rain", 256, 320),
        ("SCUNet", "scunet_color_25", None, None),
    ],
)
def test_patches_of_their_published_checkpoints(network, file, patch, ended_at):
    found = trained(network, file)
    assert (found and found.patch, found and found.ended_at) == (patch, ended_at)


def test_the_page_has_the_same_patches():
    words = {name.lower(): net.patch for net in RESTORERS for name in net.names}
    for row in TRAINED:
        sides = {int(side) for side in re.findall(r"\d{3,}", words[row.network.lower()])}
        assert {row.patch, row.ended_at} - {None} <= sides, row
