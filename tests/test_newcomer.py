"""What a newcomer tripped over: asked for something and did not get it, or found a mess afterwards."""

import json

import pytest
import torch
from conftest import SMALL_NETS, make_pairs, picture, write, write_yaml

from basicsr.archs import build_network
from basicsr.engine.restoring.run_demo import without_seams
from basicsr.tlc import convert


@pytest.fixture
def demo_file(root):
    """Options of a demo that names a network, and weights of a small HINet for --arch."""
    torch.manual_seed(0)
    torch.save({"params": build_network({"type": "HINet", **SMALL_NETS["HINet"]}).state_dict()}, root / "hinet.pth")
    return write_yaml(
        root / "demo.yml", {"name": "demo", "num_gpu": 0, "network_g": {"type": "NAFNet", **SMALL_NETS["NAFNet"]}}
    )


def restore(run, demo_file, source, output, *more):
    return run("demo", "-opt", demo_file, "--input", source, "--output", output, *more)


def test_overrides_reach_a_network_that_is_read_off_its_weights(root, run, demo_file):
    source = write(root / "a.png", picture(0, 70, 90))
    arch = ("--arch", "HINetLocal", "--weights", "hinet.pth", "--force_yml")
    for base in (32, 64):
        outcome = restore(
            run, demo_file, source, f"{base}.png", *arch, "network_g:train_size=32", f"network_g:base_size={base}"
        )
        assert outcome.code == 0, outcome
        assert f"trained on 32x32, window {base}x{base}" in outcome.out
    assert (root / "32.png").read_bytes() != (root / "64.png").read_bytes()
    outcome = restore(run, demo_file, source, "c.png", *arch, "network_g:bse_size=32")
    assert outcome.code == 2
    assert "Did you mean `base_size`?" in outcome.err


def test_a_local_name_is_near_a_local_name(root, run, demo_file):
    outcome = restore(
        run, demo_file, write(root / "a.png", picture(0)), "b.png", "--arch", "HINetLocl", "--weights", "hinet.pth"
    )
    assert outcome.code == 2
    assert "Did you mean `HINetLocal`?" in outcome.err


@pytest.mark.parametrize(
    ("name", "channels", "dtype", "lost"),
    [
        ("a.jpg", 4, "uint16", "its alpha channel and more than 8 bits"),
        ("a.webp", 4, "uint8", None),
        ("a.jpg", 3, "uint8", None),
    ],
)
def test_what_the_output_cannot_hold_is_said(root, run, demo_file, name, channels, dtype, lost):
    image = picture(0, dtype=dtype)
    rgba = image if channels == 3 else torch.cat([torch.from_numpy(image), torch.from_numpy(image[..., :1])], 2).numpy()
    outcome = restore(run, demo_file, write(root / "in.png", rgba), name)
    assert outcome.code == 0, outcome
    assert ("cannot hold" in outcome.out) == (lost is not None)
    assert lost is None or lost in outcome.out


def test_a_wrong_suffix_does_not_become_a_folder(root, run, demo_file):
    outcome = restore(run, demo_file, write(root / "a.png", picture(0)), "out.xyz")
    assert outcome.code == 2
    assert "`.xyz` is no image suffix" in outcome.err
    assert not (root / "out.xyz").exists()


def test_results_of_two_runs_do_not_mix(root, run, test_options):
    make_pairs(root / "datasets/Set")
    file = write_yaml(root / "opt.yml", test_options)
    assert run("test", "-opt", file, "--force_yml", "val:save_img=true").code == 0
    outcome = run("test", "-opt", file, "--force_yml", "val:save_img=true", "val:max_images=1")
    assert "were moved to results/run_archived_" in outcome.out
    assert len(list((root / "results/run").rglob("*.png"))) == 1
    archived = next(root.glob("results/run_archived_*"))
    assert len(list(archived.rglob("*.png"))) == 3
    assert len(json.loads((archived / "report.json").read_text())["runs"][0]["images"]) == 3


def test_small_photographs_are_refused_before_any_work(root, run):
    for name, size in (("large", 80), ("small", 20)):
        write(root / f"photos/{name}.png", picture(0, size, size))
    arguments = ("--input", root / "photos", "--output", root / "out", "--workers", "1", "--crop", "32")
    outcome = run("make_training_pairs", *arguments, "--val", "small", "--val_crop", "24")
    assert outcome.code == 2
    assert "smaller than a crop: small.png" in outcome.err
    assert not (root / "out").exists()
    assert run("make_training_pairs", *arguments, "--val", "small", "--val_crop", "20").code == 0
    counts = {p: len(list((root / "out" / p).glob("*.png"))) for p in ("train/target", "train/input_noise", "val/target")}
    assert counts == {"train/target": 9, "train/input_noise": 9, "val/target": 1}


@pytest.mark.parametrize("size", [0, (256, 256, 256), (1, 3, 0, 256), None])
def test_a_bad_train_size_is_a_value_error(size):
    with pytest.raises(ValueError, match="give the training patches"):
        convert(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1)), train_size=size)


@pytest.mark.parametrize(("level", "says"), [(0.5 / 255, True), (1.5 / 255, False), (-1.5 / 255, False)])
def test_a_picture_that_hardly_changed_is_named(root, run, forget_own_code, level, says):
    (root / "shift.py").write_text(
        "import torch\nfrom basicsr.archs import ARCHS\n\n@ARCHS.register\nclass Shift(torch.nn.Module):\n"
        "    def __init__(self, *, level: float = 0.0) -> None:\n        super().__init__()\n"
        "        self.level = torch.nn.Parameter(torch.tensor(level))\n\n"
        "    def forward(self, x):\n        return x + self.level\n"
    )
    write(root / "photo.png", picture(0))
    network = {"type": "Shift", "level": level}
    demo = write_yaml(root / "shift.yml", {"name": "demo", "num_gpu": 0, "custom_modules": ["shift.py"], "network_g": network})
    outcome = restore(run, demo, "photo.png", "out.png")
    assert outcome.code == 0
    assert ("photo.png changed by 0.5/255 on average" in outcome.out + outcome.err) is says
    assert ("next to nothing" in outcome.out + outcome.err) is says


@pytest.mark.parametrize(
    ("network_g", "blended"),
    [
        ({"type": "RestormerLocal", "train_size": 32}, {"attention": "blended"}),
        ({"type": "Restormer", "tlc": True}, {"tlc": {"attention": "blended"}}),
        ({"type": "Restormer", "tlc": {"train_size": 32}}, {"tlc": {"train_size": 32, "attention": "blended"}}),
        ({"type": "RestormerLocal", "attention": "published"}, {}),
        ({"type": "Restormer", "tlc": {"attention": "published"}}, {}),
        ({"type": "Restormer"}, {}),
        ({"type": "NAFNetLocal", "train_size": 32}, {}),
    ],
)
def test_demo_blends_windows_where_there_are_any_and_nothing_is_said(network_g, blended):
    network_g |= SMALL_NETS[network_g["type"].removesuffix("Local")]
    assert without_seams(network_g) == network_g | blended
    assert build_network(without_seams(network_g)).training


def test_demo_says_that_windows_are_blended(root, run):
    write(root / "a.png", picture(0, 70, 90))
    network = {"type": "RestormerLocal", **SMALL_NETS["Restormer"], "train_size": 32}
    pixels = {}
    for how in ({}, {"attention": "blended"}, {"attention": "published"}):
        torch.manual_seed(0)
        opt = write_yaml(root / "demo.yml", {"name": "demo", "num_gpu": 0, "manual_seed": 1, "network_g": {**network, **how}})
        outcome = restore(run, opt, "a.png", "b.png")
        assert outcome.code == 0, outcome
        assert ("attention blended" in outcome.out) is (how != {"attention": "published"})
        pixels[how.get("attention", "")] = (root / "b.png").read_bytes()
    assert pixels[""] == pixels["blended"]
