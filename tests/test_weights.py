"""Weights tell their network and its training patch; what TLC takes for the patch, and what the report says of it."""

import json
import re
import shutil

import pytest
import torch
from conftest import PSNR_AND_SSIM, REPOSITORY, SMALL_NETS, make_pairs, picture, write, write_yaml

from basicsr.archs import build_network, spandrel_arch, tlc_words, with_tlc
from basicsr.engine.build import build_net
from basicsr.engine.testing.pairs import options_for_pairs
from basicsr.engine.training.fit import prepare
from basicsr.engine.weights import About, about, about_training, from_shapes, identify, options_for_weights, patch_of
from basicsr.errors import UserError
from basicsr.options import load, parse
from basicsr.sections import DatasetOptions, PathOptions
from basicsr.utils.checkpoint import read_metadata, read_weights, save_safetensors, save_torch, save_weights
from basicsr.utils.keys import match

FOLDER = REPOSITORY / "experiments/pretrained_models"
BUNDLED = sorted(file.stem for file in FOLDER.glob("*.safetensors"))


def small(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network({"type": name, **SMALL_NETS[name]})


def plain_values(options: dict) -> dict:
    return json.loads(json.dumps(options))  # tuples become lists


def recipe(name: str):
    return load(next((REPOSITORY / "options/train").rglob(f"{name}.yml")))


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_weights_say_what_their_recipe_says(name):
    file, opt = FOLDER / f"{name}.safetensors", recipe(name)
    assert identify(file) == opt.network_g.as_dict()
    said = about(file)
    assert said.train_size == opt.datasets["train"].arguments["gt_size"]
    net, task = name.split("-")
    test = load(next((REPOSITORY / "options/test").rglob(f"{net}Local-{task}.yml")))
    assert said.base_size == tlc_words(test.network_g.as_dict())["base_size"]


@pytest.mark.parametrize("name", BUNDLED)
def test_shapes_alone_tell_bundled_weights(name):
    found = plain_values(from_shapes(read_weights(FOLDER / f"{name}.safetensors"), name))
    assert found | recipe(name).network_g.as_dict() == found


@pytest.mark.parametrize("name", SMALL_NETS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_peoples_files_are_known_by_their_shapes(name, suffix, tmp_path):
    file, weights = tmp_path / f"w{suffix}", small(name).state_dict()
    if suffix == ".pth":
        save_torch(file, {"state_dict": {f"module.{key}": value for key, value in weights.items()}})
    else:
        save_safetensors(file, weights)
    assert about(file) == About()
    found = identify(file)
    assert found["type"] == name
    assert match(build_network(found), weights).fits
    assert identify(file, f"{name}Local") == found


def test_the_nearest_network_is_named_when_none_fits(tmp_path):
    weights = small("NAFNet").state_dict()
    del weights["ending.bias"]
    save_torch(tmp_path / "w.pth", weights | {"extra.weight": torch.zeros(3)})
    with pytest.raises(UserError) as caught:
        identify(tmp_path / "w.pth")
    own = len(weights) + 1
    assert str(caught.value) == (
        f"{tmp_path / 'w.pth'}: these are the weights of none of HINet, MPRNet, NAFNet, Restormer; nearest is NAFNet: "
        f"{own - 1} of the net's {own} keys match; missing: ending.bias; not in the net: extra.weight"
        + (
            "."
            if spandrel_arch.is_here()
            else f"; the package spandrel, which is not here, knows more networks: {spandrel_arch.EXTRA}."
        )
    )
    save_torch(tmp_path / "w.pth", {"fc.weight": torch.zeros(3)})
    with pytest.raises(UserError, match=r"none of HINet, MPRNet, NAFNet, Restormer; they have fc\.weight[.;]"):
        identify(tmp_path / "w.pth")


# What a file says is data from anywhere.


@pytest.mark.parametrize(
    "metadata",
    [
        {"arch": "NAFNet"},
        {"arch": "NAFNet", "network": "width"},
        {"arch": "NAFNet", "network": "[1]"},
        {"arch": "NAFNet", "network": "[" * 100_000},
        {"network": "{}", "train_size": "-3"},
        {"train_size": "96x96", "base_size": "0"},
        {"train_size": "1e3", "version": "9"},
    ],
)
def test_metadata_of_other_tools_say_nothing(metadata, tmp_path):
    save_weights(tmp_path / "w.safetensors", small("NAFNet").state_dict(), metadata)
    assert about(tmp_path / "w.safetensors") == About()
    assert identify(tmp_path / "w.safetensors")["width"] == 4


def test_metadata_that_are_no_strings_say_nothing(tmp_path):
    weights = small("NAFNet").state_dict()
    for metadata in ({"train_size": 96, 3: "x"}, "NAFNet", None):
        save_torch(tmp_path / "w.pth", {"params": weights, "metadata": metadata})
        assert read_metadata(tmp_path / "w.pth") == {}
    torch.save({"params": weights, "metadata": {"train_size": "64"}}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert about(tmp_path / "w.pth").train_size == 64  # as torch before 1.6 wrote it


def test_a_file_does_not_decide_what_is_imported(tmp_path, monkeypatch, forget_own_code):
    (tmp_path / "my_file.py").write_text(
        "from pathlib import Path\nimport torch\n\nPath('imported').touch()\n\n"
        "class MyNet(torch.nn.Conv2d):\n    def __init__(self, *, width: int = 3) -> None:\n"
        "        super().__init__(3, width, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    network = {"type": "my_file:MyNet", "width": 5}
    save_weights(tmp_path / "w.pth", torch.nn.Conv2d(3, 5, 1).state_dict(), About(network, 32).as_metadata())
    with pytest.raises(UserError, match="give --net my_file:MyNet to import it"):
        identify(tmp_path / "w.pth")
    hidden = {"arch": "NAFNet", "network": json.dumps({"type": "my_file:MyNet"})}
    save_weights(tmp_path / "hidden.pth", small("NAFNet").state_dict(), hidden)
    assert identify(tmp_path / "hidden.pth") == {"type": "NAFNet"}
    assert not (tmp_path / "imported").exists()
    opt = options_for_weights(parse({"name": "x", "network_g": network}, ""), tmp_path / "w.pth", "my_file:MyNet")
    assert opt.network_g.as_dict() == network
    assert build_net(opt.network_g.as_dict(), opt.path).out_channels == 5
    save_weights(tmp_path / "w.pth", {"a": torch.zeros(1)}, About({"type": "NAFNt"}).as_metadata())
    with pytest.raises(UserError, match=r"no network is called `NAFNt`\. Did you mean `NAFNet`"):
        identify(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_arch_than_the_weights_say(suffix, tmp_path):
    said = About({"type": "NAFNet", **SMALL_NETS["NAFNet"]}, 96)
    save_weights(tmp_path / f"w{suffix}", small("NAFNet").state_dict(), said.as_metadata())
    assert about(tmp_path / f"w{suffix}") == said
    with pytest.raises(UserError, match="these are not the weights of HINet, but of NAFNet"):
        identify(tmp_path / f"w{suffix}", "HINetLocal")


@pytest.mark.parametrize(
    ("arch", "more", "network"),
    [
        (None, {}, {"type": "NAFNetLocal"}),
        ("NAFNet", {}, {"type": "NAFNet"}),
        ("NAFNetLocal", {"base_size": 32}, {"type": "NAFNetLocal", "base_size": 32}),
        (None, {"type": "NAFNet", "tlc": True}, {"type": "NAFNet", "tlc": True}),
    ],
)
def test_tlc_is_on_where_only_weights_are_named(arch, more, network, tmp_path):
    save_torch(tmp_path / "w.pth", small("NAFNet").state_dict())
    opt = options_for_weights(parse({"name": "x", "network_g": {"type": "HINet"}}, ""), tmp_path / "w.pth", arch, more)
    assert plain_values(opt.network_g.as_dict()) == {"img_channel": 3, **SMALL_NETS["NAFNet"], **network}
    assert build_net(opt.network_g.as_dict(), opt.path).in_channels == 3


def test_an_arch_that_cannot_read_its_options_has_its_constructors(root, run, forget_own_code):
    (root / "mine.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, *, width: int = 4):\n"
        "        super().__init__(nn.Conv2d(3, width, 1), nn.InstanceNorm2d(width), nn.Conv2d(width, 3, 1))\n"
    )
    make_pairs(root / "pairs", ("a",))
    write_yaml(root / "any.yml", {"name": "any", "network_g": {"type": "NAFNet"}})
    for width in (4, 6):
        save_torch(root / f"w{width}.pth", build_network({"type": "mine:Net", "width": width}).state_dict())
    wide = ("--weights", "w6.pth", "--net", "mine:Net")
    pairs = ("--gt", "pairs/target", "--lq", "pairs/input", "--train-size", "16")
    said = ("--force_yml", "network_g:width=6")
    commands = {
        "restore": ("restore", "-opt", "any.yml", "pairs/input/a.png", "--output", "a.png"),
        "test": ("test", *pairs),
        "convert": ("convert", "--size", "none"),
        "sweep": ("sweep", *pairs, "--windows", "16"),
    }
    for words in commands.values():
        outcome = run(*words, *wide)
        assert outcome.code == 2
        assert "w6.pth does not fit Net: the net needs the constructor's options that it was trained with" in outcome.err
        assert "such as --force_yml network_g:width=...; it has width; 1 of the net's 4 keys match" in outcome.err
        assert run(*words, *wide, *said).code == 0
        assert run(*words, "--weights", "w4.pth", "--net", "mine:Net").code == 0
    assert json.loads((root / "results/sweep_w6-pairs/sweep.json").read_text())["windows"][1]["base_size"] == 16


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("page.pth", "page.pth is a web page, not weights"),
        ("folder", r"folder are a folder; name a file in it: w\.pth\."),
        ("net.onnx", r"net\.onnx is an exported network \(ONNX\), not weights: `tlc restore --weights` runs it"),
        ("pge.pth", r"pge\.pth do not exist; see .* for the published ones\. Did you mean `page\.pth`\?$"),
    ],
)
def test_files_that_are_no_weights(name, says, tmp_path):
    (tmp_path / "page.pth").write_bytes(b"\n <!DOCTYPE html>\n<html></html>")
    (tmp_path / "net.onnx").write_bytes(b"x")
    save_torch(tmp_path / "folder/w.pth", {})
    with pytest.raises(UserError, match=says):
        identify(tmp_path / name)


# The training patch.


@pytest.mark.parametrize(
    ("train", "patch"),
    [
        ({"gt_size": 96}, 96),
        ({}, None),
        ({"progressive": [(128, 64), (160, 40), (192, 32), (256, 16), (320, 8), (384, 8)]}, 256),  # Restormer, as published
        ({"progressive": [(64, 4), (96, 2)]}, 64),
        ({"progressive": [(96, 4), (96, 2)]}, 96),
        ({"progressive": [(96, 4)], "gt_size": 128}, 96),
    ],
)
def test_the_patch_of_a_recipe(train, patch):
    stages = [{"iters": 1, "gt_size": size, "batch_size": batch} for size, batch in train.get("progressive", ())]
    assert patch_of(DatasetOptions(**{**train, **({"progressive": stages} if stages else {})})) == patch
    assert patch_of(None) is None


def test_restormers_recipe_has_the_published_sizes():
    """train_size 256 and, of it, base_size 384: the published RestormerLocal."""
    said = about_training(recipe("Restormer-GoPro"))
    assert said.train_size == 256
    assert 3 * said.train_size // 2 == 384
    assert said.network == recipe("Restormer-GoPro").network_g.as_dict()


SAID = {"none": About(), "patch": About(None, 40), "both": About(None, 40, 48)}
TRAIN = DatasetOptions(gt_size=24)


@pytest.mark.parametrize(
    ("weights", "train", "words", "says"),
    [
        ("none", None, {}, "256x256 (assumed, as nothing says it: --train-size N), window 384x384"),
        ("none", None, {"base_size": 32}, "256x256 (assumed, as nothing says it: --train-size N), window 32x32"),
        ("none", TRAIN, {}, "24x24 (from datasets.train), window 36x36"),
        ("patch", TRAIN, {}, "40x40 (from the weights), window 60x60"),
        ("both", TRAIN, {}, "40x40 (from the weights), window 48x48"),
        ("both", None, {"base_size": 32}, "40x40 (from the weights), window 32x32"),
        ("both", None, {"base_size": None}, "40x40 (from the weights), window 48x48"),
        ("both", TRAIN, {"train_size": 32}, "32x32, window 48x48"),
        ("both", TRAIN, {"train_size": [1, 3, 16, 32]}, "16x32, window 24x48"),
    ],
)
@pytest.mark.parametrize("spelling", ["by name", "tlc"])
def test_where_the_training_patch_is_from(weights, train, words, says, spelling, tmp_path):
    save_weights(tmp_path / "w.pth", small("NAFNet").state_dict(), SAID[weights].as_metadata())
    network = {"type": "NAFNet", **SMALL_NETS["NAFNet"]}
    network = {**network, "type": "NAFNetLocal", **words} if spelling == "by name" else {**network, "tlc": words or True}
    if spelling == "tlc" and not words:
        assert with_tlc({**network, "tlc": False}, True) == network
    net = build_net(network, PathOptions(pretrain_network_g=str(tmp_path / "w.pth")), train)
    assert net.tlc_report.summary().startswith(f"TLC: trained on {says}; ")
    assert net.tlc_report.as_dict()["origin"] == (re.search(r"\((.*?)\)", says) or [None, ""])[1]


def test_a_training_tells_its_weights_and_testing_its_file_knows_its_patch(root, run):
    make_pairs(root / "datasets/Set")
    data = {"dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}
    network = {"type": "NAFNetLocal", **SMALL_NETS["NAFNet"]}
    options = {
        "name": "run",
        "num_gpu": 0,
        "datasets": {"train": {**data, "gt_size": 16}, "val": data},
        "network_g": network,
        "train": {
            "total_iter": 1,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "scheduler": {"type": "TrueCosineAnnealingLR", "T_max": 1},
            "pixel_opt": {"type": "L1Loss"},
            "ema_decay": 0.9,
        },
        "val": {"metrics": PSNR_AND_SSIM},
    }
    file = write_yaml(root / "train.yml", options)
    outcome = run("test", "-opt", file, "--tlc", "both")
    assert "trained on 16x16 (from datasets.train), window 24x24" in outcome.out
    assert run("train", "-opt", file).code == 0
    weights = root / "experiments/run/models/net_g_1.pth"
    assert about(weights) == About({**network, "type": "NAFNet"}, 16)
    assert set(torch.load(weights, weights_only=True)) == {"params", "params_ema", "metadata"}
    write(root / "photo.png", picture(0, 40, 48))
    (root / "options").mkdir()
    shutil.copytree(REPOSITORY / "options/demo", root / "options/demo")
    outcome = run("demo", "--input", "photo.png", "--output", "restored.png", "--weights", weights)
    assert outcome.code == 0, outcome
    assert "trained on 16x16 (from the weights), window 24x24" in outcome.out
    assert (root / "restored.png").is_file()


def test_fine_tuning_goes_by_its_own_patches(root, run):
    """The net that a training validates with TLC, from weights of another training."""
    make_pairs(root / "datasets/Set")
    save_weights(root / "w.pth", small("NAFNet").state_dict(), About(None, 20).as_metadata())
    data = {"dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}
    options = {
        "name": "tuned",
        "num_gpu": 0,
        "datasets": {"train": {**data, "gt_size": 16}},
        "network_g": {"type": "NAFNetLocal", **SMALL_NETS["NAFNet"]},
        "path": {"pretrain_network_g": "w.pth"},
        "train": {
            "total_iter": 1,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "scheduler": {"type": "TrueCosineAnnealingLR", "T_max": 1},
            "pixel_opt": {"type": "L1Loss"},
        },
    }
    assert prepare(parse(options, "")).model.net.tlc_report.train_size == (16, 16)


# Conversion, tests without a file, torch.hub.


def test_conversion_keeps_what_weights_say(root, run):
    said = About({"type": "MPRNet", **SMALL_NETS["MPRNet"]}, 96)
    save_weights(root / "a.pth", small("MPRNet").state_dict(), said.as_metadata())
    for source, target in (("a.pth", "b.safetensors"), ("b.safetensors", "c.pth")):
        assert run("weights", "convert", source, target).code == 0
        assert about(root / target) == said
        assert read_metadata(root / target) == said.as_metadata()  # and nothing of the file's own
    assert run("weights", "convert", "c.pth", "d.pth", "--train-size", "64", "--window", "80").code == 0
    assert about(root / "d.pth") == About(said.network, 64, 80)


@pytest.mark.parametrize(
    ("lq", "template"),
    [
        (("a.png", "b.png"), "{}"),
        (("a_blur.png", "b_blur.png"), "{}_blur"),
        (("xax2.jpg", "xbx2.jpg"), "x{}x2"),
        (("a_1.png", "b_2.png"), None),
    ],
)
def test_pairs_without_a_file(lq, template, root, run):
    pairs = make_pairs(root / "My pairs", ("a", "b"))
    (pairs / "input").rename(pairs / "old")
    for name, old in zip(lq, ("a.png", "b.png"), strict=True):
        (pairs / "input").mkdir(exist_ok=True)
        (pairs / "old" / old).rename(pairs / "input" / name)
    save_weights(root / "net.pth", small("NAFNet").state_dict(), About(None, 16).as_metadata())
    opt = options_for_pairs("net.pth", "My pairs/target", "My pairs/input")
    assert opt.datasets["test"].arguments.get("filename_tmpl", "{}") == (template or "{}")
    outcome = run(
        "test", "--weights", "net.pth", "--gt", "My pairs/target", "--lq", "My pairs/input", "--tlc", "both", "--window", "20"
    )
    if template is None:
        assert (outcome.code, "do not match" in outcome.err) == (2, True)
        return
    assert outcome.code == 0, outcome
    assert "trained on 16x16 (from the weights), window 20x20" in outcome.out
    report = json.loads((root / "results/net-My_pairs/report.json").read_text())
    assert [run["network"] for run in report["runs"]] == ["NAFNet", "NAFNetLocal"]
    assert [run["dataset"] for run in report["runs"]] == ["My pairs"] * 2
    assert report["protocol"]["psnr"] == "PSNR, protocol rgb8: clamped and rounded to uint8, RGB, peak 255"
    assert report["protocol"]["ssim"].startswith("SSIM, protocol rgb8: clamped and rounded to uint8, RGB, peak 255, 11x11x11")


def test_overrides_and_names_of_pairs(root):
    make_pairs(root / "GoPro/test", ("a", "b"))
    save_weights(root / "net.v2.pth", small("NAFNet").state_dict(), About(None, 16).as_metadata())
    pairs = ("net.v2.pth", "GoPro/test/target", "GoPro/test/input")
    opt = options_for_pairs(*pairs, overrides=("val:tile=auto", "network_g:base_size=20"))
    assert (opt.name, opt.datasets["test"].name, opt.val.tile) == ("net.v2-GoPro", "GoPro", "auto")
    assert opt.network_g.base_size == 20
    assert options_for_pairs(*pairs, name="mine", arch="NAFNet").network_g.type == "NAFNet"
    with pytest.raises(UserError, match="Did you mean `tile`"):
        options_for_pairs(*pairs, overrides=("val:tiel=auto",))
    with pytest.raises(UserError, match=r"^--lq: the folder"):
        options_for_pairs(*pairs[:2], "GoPro/test/inptu")


def test_torch_hub_goes_by_the_weights(tmp_path):
    said = About({"type": "NAFNet", **SMALL_NETS["NAFNet"]}, 40, 48)
    save_weights(tmp_path / "w.safetensors", small("NAFNet").state_dict(), said.as_metadata())

    def hub(**options: object):
        where = {"source": "local", "trust_repo": True}
        return torch.hub.load(str(REPOSITORY), "nafnet_local", **where, weights=str(tmp_path / "w.safetensors"), **options)

    assert (hub().tlc_report.train_size, hub().tlc_report.base_size) == ((40, 40), (48, 48))
    assert (hub(train_size=32).tlc_report.train_size, hub(train_size=32).tlc_report.base_size) == ((32, 32), (48, 48))
