"""scripts/real_files.py and scripts/spread.py: their figures on values made by hand, and the commands on tiny nets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_NETS, make_pairs, picture, write, write_yaml

from basicsr.archs import build_network

TASKS = {"SampleNoise": "input", "SampleReal": "input"}


@pytest.fixture
def sample(root):
    """Two tiny NAFNets on a photograph in the places where the scripts look for them."""
    write(root / "datasets/Sample/test/target/a.jpg", picture(0, 240, 260))
    make_pairs(root / "datasets/Set", ("a", "b"), 40, 48)
    for seed, task in enumerate(TASKS):
        torch.manual_seed(seed)
        torch.save({"params": build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).state_dict()}, root / f"{task}.pth")
        write_yaml(
            root / f"options/test/Sample/NAFNetLocal-{task}.yml",
            {
                "name": f"NAFNetLocal-{task}",
                "num_gpu": 0,
                "datasets": {"test": {"name": task, "dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}},
                "network_g": {"type": "NAFNetLocal", **SMALL_NETS["NAFNet"], "train_size": [1, 3, 16, 16], "base_size": 16},
                "path": {"pretrain_network_g": f"{task}.pth"},
                "val": {"metrics": {m: {"type": f"calculate_{m}", "crop_border": 0} for m in ("psnr", "ssim")}},
            },
        )
    return root


def write_card(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def test_files_are_what_they_are_called(root, script):
    module = script("real_files")
    photograph = write(root / "a.png", picture(0, 64, 80))
    made = {kind: module.make(photograph, kind) for kind in module.FILES}
    grey = {kind for kind, pictures in made.items() if np.ptp(pictures["input"], axis=2).max() < 0.02}
    assert grey == {kind for kind in module.FILES if kind.startswith("grey")}
    noise = made["PNG"]["input"] - made["PNG"]["target"]
    assert 255 * noise.std() == pytest.approx(module.SIGMA, rel=0.1)
    for kind, pictures in made.items():
        assert np.array_equal(255 * pictures["input"], np.rint(255 * pictures["input"])), kind


def test_real_files_fill_the_card(sample, script, run):
    module = script("real_files")
    card = write_card(sample / module.CARD, "# A card\n\n<!-- files:begin -->\nold\n<!-- files:end -->\n")
    outcome = run("real_files")
    assert outcome.code == 0, outcome
    text = card.read_text()
    assert "old" not in text
    assert all(f"| {kind} |" in text for kind in module.FILES)
    assert (sample / module.FIGURE).is_file()


def test_without_markers_nothing_is_written(sample, script, run):
    module = script("real_files")
    card = write_card(sample / module.CARD, "# A card\n")
    outcome = run("real_files")
    assert outcome.code == 2
    assert "files:begin" in outcome.err
    assert card.read_text() == "# A card\n"
    assert not (sample / module.FIGURE).exists()


def test_spread_is_that_of_the_values(script):
    """One layer of three values over two patches: equal, 10 +- 1 and 1 +- 1."""
    module = script("spread")
    seen = {"gate": [torch.tensor([5.0, 9.0, 0.0], dtype=torch.float64), torch.tensor([5.0, 11.0, 2.0], dtype=torch.float64)]}
    median, *_ = module.relative_spreads(seen)
    assert median == pytest.approx(np.std([9, 11], ddof=1) / 10)


@pytest.mark.parametrize("arch", sorted(SMALL_NETS))
def test_every_network_shows_its_global_operations(script, arch):
    module, seen = script("spread"), {}
    torch.manual_seed(0)
    net = build_network({"type": arch, **SMALL_NETS[arch]}).eval()
    module.watch(net, seen)
    with torch.inference_mode():
        for seed in range(3):
            net(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    assert seen
    assert all(len(outputs) == 3 for outputs in seen.values())
    assert module.relative_spreads(seen)[-1] > 0


def test_the_spread_of_bundled_networks_is_a_table(sample, run):
    outcome = run("spread")
    assert outcome.code == 0, outcome
    assert outcome.out.count("| NAFNet | ") == 2
