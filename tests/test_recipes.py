"""The training files: networks of the published sizes, and schedules that are those of the papers at chosen iterations."""

import pytest
import torch
from conftest import REPOSITORY

from basicsr.archs import build_network
from basicsr.engine import build
from basicsr.models.schedule import make_schedule, with_warmup
from basicsr.options import load

FOLDER = REPOSITORY / "options/train"
# Parameters of the published weights.
SIZES = {
    "GoPro/NAFNet-GoPro-width64": 67_888_835,
    "REDS/NAFNet-REDS-width64": 67_888_835,
    "Rain13k/HINet-Rain13k": 88_669_702,
    "Rain13k/MPRNet-Rain13k": 3_637_249,
    "Rain13k/Restormer-Rain13k": 26_126_644,
    "SIDD/HINet-SIDD-1x": 88_669_702,
    "SIDD/HINet-SIDD-0.5x": 22_176_518,
    "SIDD/MPRNet-SIDD": 15_741_025,
    "SIDD/NAFNet-SIDD-width32": 29_159_715,
    "SIDD/NAFNet-SIDD-width64": 115_982_915,
    "SIDD/Restormer-SIDD": 26_111_668,
    "DPDD/Restormer-DPDD-single": 26_126_644,
    "DPDD/Restormer-DPDD-dual": 26_132_548,
    **{f"GaussianColor/Restormer-GaussianColor-{kind}": 26_111_668 for kind in ("blind", "sigma15", "sigma25", "sigma50")},
    **{f"GaussianGray/Restormer-GaussianGray-{kind}": 26_109_076 for kind in ("blind", "sigma15", "sigma25", "sigma50")},
}


def test_every_task_is_listed():
    folders = {name.partition("/")[0] for name in SIZES} - {"GoPro", "REDS"}
    files = {file.relative_to(FOLDER).with_suffix("").as_posix() for folder in folders for file in (FOLDER / folder).iterdir()}
    assert files <= SIZES.keys()


@pytest.mark.parametrize("name", SIZES)
def test_a_recipe_is_whole(name):
    opt = load(FOLDER / f"{name}.yml")
    assert opt.name == name.partition("/")[2]
    train = opt.datasets["train"]
    build.check_words(train, "datasets.train", **({"gt_size": 384} if train.progressive else {}))
    build.check_words(opt.datasets["val"], "datasets.val")
    assert sum(stage.iters for stage in train.progressive or ()) in (0, opt.train.total_iter)
    assert build.build_losses(opt)
    assert build.build_metrics(opt.val)
    with torch.device("meta"):
        net = build_network(opt.network_g.as_dict())
    assert sum(parameter.numel() for parameter in net.parameters()) == SIZES[name]


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        # 10,000 iterations up from 0; half a cosine to 1e-7 over all 400,000
        ("Rain13k/HINet-Rain13k", {4_999: 1e-4, 200_000: (2e-4 + 1e-7) / 2, 399_999: 1e-7}),
        # 3 epochs of 6,000 up; half a cosine over 117 more, of whose 702,000 iterations the run ends at 462,000
        ("SIDD/MPRNet-SIDD", {8_999: 1e-4, 18_000: 2e-4, 18_000 + 351_000: (2e-4 + 1e-6) / 2, 479_999: 5.35e-5}),
        ("Rain13k/MPRNet-Rain13k", {2_570: 2e-4, 214_249: 1e-6}),
        ("SIDD/Restormer-SIDD", {0: 3e-4, 91_999: 3e-4, 196_000: (3e-4 + 1e-6) / 2, 299_999: 1e-6}),
        ("SIDD/HINet-SIDD-1x", {0: 2e-4, 399_999: 1e-6}),
        ("SIDD/NAFNet-SIDD-width32", {0: 1e-3, 100_000: (1e-3 + 1e-7) / 2}),
    ],
)
def test_learning_rates(name, rates):
    train = load(FOLDER / f"{name}.yml").train
    rate = with_warmup(make_schedule(train.scheduler.type, train.scheduler.arguments), train.warmup_iter)
    for iteration, expected in rates.items():
        assert rate(iteration, train.optim_g.lr) == pytest.approx(expected, rel=0.01)
