"""Every file of options/test for a published checkpoint: the network, the figures, the protocol, the data, the manual."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from conftest import REPOSITORY, SMALL_NETS, picture, write, write_yaml

from basicsr.archs import build_network, is_local, plain_name, with_tlc
from basicsr.data.packing import write_lmdb
from basicsr.engine import build
from basicsr.engine.testing.pairs import metrics_by
from basicsr.engine.testing.run_test import published
from basicsr.engine.weights.known import named
from basicsr.engine.weights.published import PUBLISHED
from basicsr.metrics import METRICS
from basicsr.metrics.protocols import PROTOCOLS
from basicsr.options import Options, load, parse

FILES = {
    file.stem: file
    for file in sorted((REPOSITORY / "options/test").glob("*/*.yml"))
    if file.parent.name not in ("Sample", "AllNorms")  # networks of this repository
}
# By the folder of a task's files.
PROTOCOL = {"GoPro": "rgb8", "HIDE": "rgb8", "REDS": "rgb8", "Rain13k": "y8", "SIDD": "float", "DPDD": "dpdd"}
PROTOCOL |= {"GaussianColor": "noise8", "GaussianGray": "noise8", "RealBlur": "realblur", "DND": None}
MEASURED = {"noise8": {"psnr"}, "dpdd": {"psnr", "ssim", "mae"}, None: set()}
REFLECTED = ("Rain13k", "GaussianColor", "GaussianGray", "RealBlur")  # Restormer's; of MPRNet's RealBlur alone
# The names of the sets in the table of published checkpoints.
SETS = {"GoPro-test": "GoPro", "HIDE-test": "HIDE", "SIDD-validation": "SIDD"}
SETS |= {"DPDD, indoor": "DPDD indoor", "DPDD, outdoor": "DPDD outdoor"}


@pytest.fixture(params=FILES)
def opt(request) -> Options:
    return load(FILES[request.param])


def test_there_is_one_for_every_published_checkpoint():
    tested = {named(load(file).path.pretrain_network_g).name for file in FILES.values()}
    assert tested == {known.name for known in PUBLISHED} <= set(FILES)  # the file has the weights' name


def test_networks_have_the_published_sizes(opt):
    known = named(opt.path.pretrain_network_g)
    with torch.device("meta"):
        net = build_network(with_tlc(opt.network_g.as_dict(), False))
    assert sum(parameter.numel() for parameter in net.parameters()) == known.net.parameters
    assert len(net.state_dict()) == known.net.keys
    # Equal counts may hide other options: every one is written out.
    with torch.device("meta"):
        other = build_network(known.net.options)
    assert {key: value.shape for key, value in net.state_dict().items()} == {
        key: value.shape for key, value in other.state_dict().items()
    }
    if is_local(opt.network_g.as_dict()):
        words = opt.network_g.arguments
        assert (list(words["train_size"]), words["base_size"]) == ([1, 3, known.patch, known.patch], 384)


def figures(opt: Options) -> dict[tuple[str, bool], dict[str, float]]:
    """By the set's name in the table, plain and -Local."""
    titles = {key: data.name for key, data in opt.datasets.items()}
    groups = {key: dict.fromkeys(data.groups, "") for key, data in opt.datasets.items()}
    return {
        (SETS.get(view, view), local): values
        for view, of in published(opt, titles, groups).items()
        for local, values in of.figures.items()
        if values and view is not None
    }


def test_figures_are_those_of_the_table(opt):
    known, found = named(opt.path.pretrain_network_g), figures(opt)
    table = {
        (result.test, local): pair
        for result in known.results
        for local, pair in ((False, result.plain), (True, result.local))
        if pair is not None
    }
    for (name, local), values in found.items():
        psnr, ssim = table[name, local]
        assert values["psnr"] == psnr
        assert values.get("ssim", ssim) == ssim
    local, sets = is_local(opt.network_g.as_dict()), {SETS.get(data.name, data.name) for data in opt.datasets.values()}
    assert {key for key in table if key[0] in sets - {"DND"} and key[1] == local} <= set(found)  # DND's server measures


def test_the_average_of_rain_is_that_of_the_sets():
    for name, average in (("MPRNet-Rain13k", (32.73, 0.921)), ("HINet-Rain13k", (33.03, 0.926))):
        opt = load(FILES[name])
        of_sets = [data.expected for data in opt.datasets.values()]
        assert len(of_sets) == 5
        for word, value, digits in zip(("psnr", "ssim"), average, (0.011, 0.0011), strict=True):
            assert opt.expected[word] == value == pytest.approx(np.mean([each[word] for each in of_sets]), abs=digits)


def task(opt: Options) -> str:
    return FILES[opt.name].parent.name


def protocol_of(opt: Options) -> str | None:
    """HINet's figures on rain are measured in its own way."""
    return PROTOCOL[task(opt)] if opt.name != "HINet-Rain13k" else None


def test_metrics_keep_to_the_protocol_of_the_task(opt):
    metrics = opt.val.metrics
    if PROTOCOL[task(opt)] not in (None, "realblur"):  # sets of weights that are published for another
        assert named(opt.path.pretrain_network_g).protocol == PROTOCOL[task(opt)]
        assert set(metrics) == set(metrics_by(PROTOCOL[task(opt)]))
        assert opt.val.window_size == named(opt.path.pretrain_network_g).window_size
    assert {metric.arguments.get("protocol") for metric in metrics.values()} <= {protocol_of(opt)}
    assert set(metrics) == MEASURED.get(PROTOCOL[task(opt)], {"psnr", "ssim"})
    assert all(metric.type == f"calculate_{name}" for name, metric in metrics.items())
    build.build_metrics(opt.val)  # no word contradicts another
    padded = task(opt) in REFLECTED if plain_name(opt.network_g.type) == "Restormer" else opt.name == "MPRNet-RealBlur"
    assert opt.val.window_size == (8 if padded else None)


def test_lpips_of_dpdd_is_there_to_be_taken(opt):
    """In a comment, for it needs an extra, and figures beside it."""
    text = FILES[opt.name].read_text(encoding="utf-8")
    assert ("calculate_lpips" in text) == (task(opt) == "DPDD")
    if task(opt) == "DPDD":
        assert "LPIPS: ." in text
        taken = yaml.safe_load(re.sub(r"^    # ( *\w+:.*)$", r"    \1", text, flags=re.MULTILINE))
        metric = parse(taken, "taken").val.metrics["lpips"]
        METRICS.bind(metric.type, metric.arguments, "lpips", later=("img1", "img2"))  # its words fit
        assert metric.arguments == {"protocol": "dpdd"}


def test_hinet_on_rain_is_measured_as_its_authors_did():
    opt = load(FILES["HINet-Rain13k"])
    assert [metric.protocol for metric in build.build_metrics(opt.val).values()] == [
        "PSNR, Y of BT.601, uint8, no border",
        "SSIM, 11x11 Gaussian on Y of BT.601 (the papers'), uint8, no border",
    ]
    assert (opt.val.grids, opt.val.crop_size) == (True, 256)


def test_sigmas_are_those_of_the_weights(opt):
    sigmas = [data.arguments["sigma_test"] for data in opt.datasets.values() if data.type == "GaussianDenoisingDataset"]
    if not sigmas:
        return
    said = re.search(r"sigma(\d+)", opt.path.pretrain_network_g)
    count = {"GaussianColor": 4, "GaussianGray": 3}[task(opt)]
    assert sigmas == ([int(said[1])] * count if said else [s for s in (15, 25, 50) for _ in range(count)])
    channels = opt.network_g.arguments["inp_channels"]
    assert {data.arguments["in_ch"] for data in opt.datasets.values()} == {channels}


# Data in the published layouts, and a small network of the same channels: every file runs.


def make(root: Path, opt: Options) -> None:
    """A small set at every place that a file names."""
    for data in opt.datasets.values():
        places = {word: root / str(path) for word, path in data.arguments.items() if word.startswith("dataroot")}
        for number, (word, place) in enumerate(places.items()):
            if data.type == "SIDDBlocksDataset":
                blocks = np.stack([picture(10 * number + i, 16, 16) for i in range(4)]).reshape(2, 2, 16, 16, 3)
                place.parent.mkdir(parents=True, exist_ok=True)
                scipy.io.savemat(place, {place.stem: blocks})
                continue
            deep = data.type == "DualPixelDataset" or "bit_depth" in data.arguments
            folder = root / "to_pack" / place.stem if place.suffix == ".lmdb" else place
            for i in range(2):
                camera = data.arguments.get("pair_by") == "position"
                name = f"{word}_{i}" if camera else f"{i}"
                clean = picture(i, 40, 44, np.uint16 if deep else np.uint8)
                noise = np.random.default_rng(i).normal(0, 0.02 * number * clean.max(), clean.shape)
                write(folder / f"{name}.png", (clean + noise).clip(0, np.iinfo(clean.dtype).max).astype(clean.dtype))
            if place.suffix == ".lmdb":
                write_lmdb(folder, place, progress=False)
        for number, group in enumerate(data.groups.values()):
            np.save(root / group.labels, np.array([number + 1]))


def small(opt: Options) -> dict:
    """A small network that takes and gives as many channels."""
    kind = plain_name(opt.network_g.type)
    if protocol_of(opt) == "realblur":  # untrained NAFNets are the identity, which can be aligned
        return {"type": "NAFNet", **SMALL_NETS["NAFNet"]}
    words = ("inp_channels", "out_channels", "LayerNorm_type", "dual_pixel_task")
    kept = {word: value for word, value in opt.network_g.arguments.items() if word in words}
    local = {"train_size": [1, 3, 16, 16], "base_size": 24} if is_local(opt.network_g.as_dict()) else {}
    return {"type": opt.network_g.type, **SMALL_NETS[kind], **kept, **local}


def distinct() -> list[str]:
    """A file of every kind of data, protocol and channels; DND's takes a package, and `test_task_datasets` writes it."""
    found = {}
    for name, file in FILES.items():
        opt = load(file)
        data = opt.datasets.values()
        about = frozenset(one.type for one in data), len(data), opt.network_g.arguments.get("inp_channels"), protocol_of(opt)
        if task(opt) != "DND":
            found.setdefault(about, name)
    return list(found.values())


@pytest.mark.parametrize("name", distinct())
def test_files_run_on_the_published_layout(name, root, run):
    opt = load(FILES[name])
    make(root, opt)
    content = opt.model_dump(mode="json", exclude_defaults=True)
    content |= {"network_g": small(opt), "num_gpu": 0}
    del content["path"]
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", content))
    assert outcome.code == 0, outcome
    assert "degraded input" in outcome.out
    if protocol := protocol_of(opt):
        assert f"psnr: PSNR, protocol {protocol}: {PROTOCOLS[protocol].images}" in outcome.out
    if len(opt.datasets) > 1:
        assert f"average of {len(opt.datasets)} data sets" in outcome.out
    for data in opt.datasets.values():
        assert f"{data.name}, " in outcome.out
        for group in data.groups:
            assert f"{data.name}, {group}, 1 image" in outcome.out


# The manual.


def rows() -> dict[str, list[str]]:
    """By the file's name, the cells of its row in docs/tasks.md."""
    text = (REPOSITORY / "docs/tasks.md").read_text(encoding="utf-8")
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if ".yml)" in line]
    return {re.search(r"/([^/]+)\.yml\)", row[4])[1]: row for row in found}


def test_the_manual_has_every_file():
    assert set(rows()) == set(FILES)


def test_the_manual_says_what_a_file_says(opt):
    _, net, weights, licence, link, data, protocol, source = rows()[opt.name]
    known = named(opt.path.pretrain_network_g)
    assert weights == f"`{known.name}`"
    assert licence == f"[{'MIT' if known.terms.commercial else 'non-commercial'}]({known.terms.url})"
    assert (REPOSITORY / "docs" / re.search(r"\((.+)\)", link)[1]).resolve() == FILES[opt.name]
    assert net.startswith(opt.network_g.type)
    assert data == ", ".join(f"`{kind}`" for kind in dict.fromkeys(d.type for d in opt.datasets.values()))
    assert re.findall("`(.+?)`", protocol) == [name for name in [protocol_of(opt)] if name]
    comment = " ".join(line[2:] for line in FILES[opt.name].read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    assert ("Published figures: " in comment) == (source != "-")
    assert source == "-" or f"Published figures: {source}" in comment
    assert source != "-" or not figures(opt)


def test_the_manual_names_tests_that_are_there():
    text = (REPOSITORY / "docs/tasks.md").read_text(encoding="utf-8")
    named_there = set(re.findall(r"tests/(\w+\.py)", text))
    assert {"test_tasks.py", "test_protocols.py"} <= named_there
    assert all((REPOSITORY / "tests" / name).is_file() for name in named_there)
