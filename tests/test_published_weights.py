"""The table of published checkpoints: shapes alone tell each of them, and a file's name its training patch."""

import itertools
import re

import pytest
import torch
from conftest import REPOSITORY, SMALL_NETS

from basicsr.archs import build_network, with_tlc
from basicsr.engine.testing.run_test import published as expected_figures
from basicsr.engine.weights import build_with_weights, from_shapes, options_for_weights
from basicsr.engine.weights.known import named, recognised, same_network
from basicsr.engine.weights.listing import page_of_published
from basicsr.engine.weights.published import PUBLISHED
from basicsr.options import load, parse
from basicsr.utils.checkpoint import save_torch, save_weights
from basicsr.utils.keys import match, tensors_in

BY_NAME = {known.name: known for known in PUBLISHED}
# Parameters, keys, options beside the constructor's: of the published checkpoints, as counted on their files' keys and shapes.
COUNTED = {
    ("HINet-GoPro", "HINet-REDS"): (88_668_806, 186, {"wf": 64, "hin_position_left": 3, "hin_position_right": 4}),
    ("HINet-Rain13k", "HINet-SIDD-1x"): (88_669_702, 198, {"wf": 64, "hin_position_left": 0, "hin_position_right": 4}),
    ("HINet-SIDD-0.5x",): (22_176_518, 198, {"wf": 32, "hin_position_left": 0, "hin_position_right": 4}),
    ("MPRNet-GoPro",): (20_127_073, 316, {"n_feat": 96, "scale_unetfeats": 48, "scale_orsnetfeats": 32, "reduction": 4}),
    ("MPRNet-Rain13k",): (3_637_249, 316, {"n_feat": 40, "scale_unetfeats": 20, "scale_orsnetfeats": 16, "num_cab": 8}),
    ("MPRNet-SIDD",): (15_741_025, 316, {"n_feat": 80, "scale_unetfeats": 48, "scale_orsnetfeats": 32, "bias": False}),
    ("Restormer-GoPro", "Restormer-Rain13k", "Restormer-DPDD-single"): (
        26_126_644,
        494,
        {"inp_channels": 3, "out_channels": 3, "LayerNorm_type": "WithBias", "dual_pixel_task": False, "heads": (1, 2, 4, 8)},
    ),
    ("Restormer-DPDD-dual",): (
        26_132_548,
        495,
        {"inp_channels": 6, "out_channels": 3, "LayerNorm_type": "WithBias", "dual_pixel_task": True},
    ),
    ("Restormer-SIDD", *(f"Restormer-GaussianColor-{s}" for s in ("blind", "sigma15", "sigma25", "sigma50"))): (
        26_111_668,
        406,
        {"inp_channels": 3, "out_channels": 3, "LayerNorm_type": "BiasFree", "num_blocks": (4, 6, 6, 8)},
    ),
    tuple(f"Restormer-GaussianGray-{s}" for s in ("blind", "sigma15", "sigma25", "sigma50")): (
        26_109_076,
        406,
        {"inp_channels": 1, "out_channels": 1, "LayerNorm_type": "BiasFree", "ffn_expansion_factor": 2.66},
    ),
    ("NAFNet-GoPro-width32",): (17_111_907, 664, {"width": 32, "enc_blk_nums": (1, 1, 1, 28), "middle_blk_num": 1}),
    ("NAFNet-GoPro-width64", "NAFNet-REDS-width64"): (67_888_835, 664, {"width": 64, "enc_blk_nums": (1, 1, 1, 28)}),
    ("NAFNet-SIDD-width32",): (29_159_715, 664, {"width": 32, "enc_blk_nums": (2, 2, 4, 8), "middle_blk_num": 12}),
    ("NAFNet-SIDD-width64",): (115_982_915, 664, {"width": 64, "dec_blk_nums": (2, 2, 2, 2), "middle_blk_num": 12}),
}
WRAPPERS = {
    "bare": lambda weights: weights,
    "params": lambda weights: {"params": weights},
    "state_dict": lambda weights: {"epoch": 3, "state_dict": weights, "optimizer": {"state": {}}},
    "module.": lambda weights: {"state_dict": {f"module.{key}": value for key, value in weights.items()}},
}


def test_the_table_holds_what_was_counted():
    assert sorted(name for names in COUNTED for name in names) == sorted(BY_NAME)
    assert len(BY_NAME) == len(PUBLISHED)
    files = [file for known in PUBLISHED for file in known.files]
    assert len(set(files)) == len(files)
    sources = [source for known in PUBLISHED for source in known.sources]
    assert len(set(sources)) == len(sources)
    assert all(source.startswith(("https://", "drive:")) for source in sources)


@pytest.mark.parametrize(
    ("names", "wrapper"),
    list(zip(COUNTED, itertools.cycle(WRAPPERS), strict=False)),
    ids=lambda word: str(word).strip("(')")[:24],
)
def test_shapes_alone_tell_published_checkpoints(names, wrapper):
    """At full size, on the meta device: nothing but keys and shapes."""
    parameters, keys, options = COUNTED[names]
    known = BY_NAME[names[0]]
    assert {BY_NAME[name].net.options["type"] for name in names} == {names[0].partition("-")[0]}
    assert all(BY_NAME[name].net == known.net for name in names)
    with torch.device("meta"):
        net = build_network(known.net.options)
        weights = net.state_dict()
        assert (sum(p.numel() for p in net.parameters()), len(weights)) == (parameters, keys)
        found = from_shapes(tensors_in(WRAPPERS[wrapper](weights), None, "w.pth"), "w.pth")
        assert match(build_network(found), weights).fits
    assert (known.net.parameters, known.net.keys) == (parameters, keys)
    assert same_network(found, known.net.options)
    assert found | options == found


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("NAFNet-GoPro-width32", "NAFNet-GoPro-width32"),
        ("x/NAFNet-GoPro-width32.pth", "NAFNet-GoPro-width32"),
        ("HINet-SIDD-0.5x", "HINet-SIDD-0.5x"),
        ("HINet-SIDD-0.5x.safetensors", "HINet-SIDD-0.5x"),
        ("restormer-gopro.PTH", "Restormer-GoPro"),
        ("motion_deblurring.pth", "Restormer-GoPro"),
        ("motion_deblurring (1).pth", "Restormer-GoPro"),
        ("gaussian_gray_denoising_sigma25.pth", "Restormer-GaussianGray-sigma25"),
        ("model_denoising.pth", "MPRNet-SIDD"),
        ("NAFNet-GoPro-width33", None),
        ("net_g_latest.pth", None),
    ],
)
def test_names_of_files(file, name):
    found = named(file)
    assert (found.name if found else None) == name


def test_a_file_is_a_published_one_by_name_and_network(tmp_path):
    rain = BY_NAME["MPRNet-Rain13k"]
    assert recognised(tmp_path / "model_deraining.pth", {**rain.net.options, "num_cab": 8}) is rain
    assert recognised(tmp_path / "model_deraining.pth", {**rain.net.options, "type": "MPRNetLocal", "base_size": 320}) is rain
    assert recognised(tmp_path / "model_deraining.pth", {"type": "MPRNet", "n_feat": 96}) is None
    assert recognised(tmp_path / "deraining.pth", rain.net.options) is None  # Restormer's name
    assert recognised(tmp_path / "mine.pth", rain.net.options) is None


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("model_denoising.pth", "128x128 (as published: MPRNet-SIDD), window 192x192"),
        ("model_deraining.pth", "256x256 (as published: MPRNet-Rain13k), window 384x384"),
        ("Restormer-GoPro.pth", "256x256 (as published: Restormer-GoPro, whose training ended at 384), window 384x384"),
        ("mine.pth", "128x128 (assumed, as MPRNet-SIDD of the same network was: --train-size N), window 192x192"),
    ],
)
def test_the_patch_of_published_checkpoints(file, says, tmp_path, monkeypatch):
    """Small networks stand in for the large ones."""
    known = named(file) or named("model_denoising")
    network = {"type": known.net.options["type"], **SMALL_NETS[known.net.options["type"]]}
    monkeypatch.setitem(known.net.__dict__, "options", network)
    save_torch(tmp_path / file, {"params": build_network(network).state_dict()})
    opt = options_for_weights(parse({"name": "x", "network_g": {"type": "HINet"}}, ""), tmp_path / file)
    net = build_with_weights(opt.network_g.as_dict(), tmp_path / file)
    assert net.tlc_report.summary().startswith(f"TLC: trained on {says}; ")
    given = build_with_weights({**opt.network_g.as_dict(), "train_size": 64}, tmp_path / file)
    assert given.tlc_report.summary().startswith("TLC: trained on 64x64, window 96x96; ")
    save_weights(tmp_path / file, net.state_dict(), {"train_size": "80"})
    said = build_with_weights(opt.network_g.as_dict(), tmp_path / file)
    assert said.tlc_report.summary().startswith("TLC: trained on 80x80 (from the weights), window 120x120; ")


def test_the_page_holds_the_table():
    """python scripts/make_reference.py writes it."""
    page = (REPOSITORY / "experiments/pretrained_models/README.md").read_text(encoding="utf-8")
    assert f"<!-- published:begin -->\n{page_of_published()}\n<!-- published:end -->" in page


@pytest.mark.parametrize("file", sorted((REPOSITORY / "options/test").rglob("*.yml")), ids=lambda file: file.stem)
def test_shipped_files_expect_the_published_figures(file):
    """Of the networks and test sets that are in both."""
    opt = load(file)
    known = named(opt.path.pretrain_network_g or "")
    if known is None:
        return
    assert same_network(known.net.options, with_tlc(opt.network_g.as_dict(), False))
    sets = {result.test.lower(): result for result in known.results}
    titles = {key: data.name for key, data in opt.datasets.items()}
    groups = {key: dict.fromkeys(data.groups, "") for key, data in opt.datasets.items()}
    for view, expected in expected_figures(opt, titles, groups).items():
        name = re.sub("-test|-validation|,", "", view or "average").lower()
        for local, figures in expected.figures.items():
            want = name in sets and (sets[name].local if local else sets[name].plain)
            for metric, figure in zip(("psnr", "ssim"), want or (), strict=False):
                assert metric not in figures or figure is None or figures[metric] == figure, (view, metric)
