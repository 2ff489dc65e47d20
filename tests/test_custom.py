"""A user's own code: files of custom_modules and `package.module:Name`, for networks, data sets, losses, metrics and models."""

import csv
import json
import multiprocessing
import operator
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import make_pairs, write_yaml

from basicsr.archs import build_network, is_local, plain_name, with_tlc
from basicsr.custom import import_file
from basicsr.engine import build
from basicsr.errors import UserError
from basicsr.models.schedule import SCHEDULERS, make_schedule
from basicsr.options import load, parse
from basicsr.registry import ARCHS, LOSSES, METRICS

REGISTERED = '''
import torch
from torch import nn

from basicsr.archs import ARCHS
from basicsr.data import DATASETS, PairedImageDataset
from basicsr.losses import LOSSES
from basicsr.metrics import METRICS
from basicsr.models import MODELS, ImageRestorationModel

with open("imported.txt", "a") as file:
    file.write(f"{__name__}\\n")


@ARCHS.register
class MyNet(nn.Module):
    def __init__(self, *, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, width, 3, padding=1)
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid())
        self.end = nn.Conv2d(width, 3, 1)

    def forward(self, x):
        y = self.body(x)
        return x + self.end(y * self.scale(y))


@DATASETS.register
class MyDataset(PairedImageDataset):
    """Calls its pictures by other names."""

    def __init__(self, *, dataroot_gt: str, dataroot_lq: str, prefix: str, gt_size: int | None = None) -> None:
        super().__init__(dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, gt_size=gt_size)
        self.prefix = prefix

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, "name": self.prefix + sample["name"]}


@LOSSES.register
class MyLoss(nn.Module):
    def __init__(self, *, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, restored, gt):
        return 1000 + self.loss_weight * (restored - gt).abs().mean()


@METRICS.register
def my_metric(img1, img2, scale: float = 1.0):
    return scale * (img1.astype(float) - img2).mean()


@MODELS.register
class MyModel(ImageRestorationModel):
    def predict(self, image):
        return super().predict(image) + 0.25
'''
UNREGISTERED = re.sub("@.*register", "", REGISTERED)
FILE = "mine/my_code.py"


@pytest.fixture
def place(root, forget_own_code) -> Path:
    """A root with data; what the test imports is forgotten afterwards."""
    make_pairs(root / "datasets/Set")
    return root


def put(root: Path, content: str, name: str = FILE) -> str:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return name


def as_registered(root: Path, opt: dict) -> dict:
    return {**opt, "custom_modules": [put(root, REGISTERED)]}


def as_references(root: Path, opt: dict) -> dict:
    """The same with every type spelt `mine.my_code:Name`."""
    put(root, UNREGISTERED)

    def spelt(value):
        if isinstance(value, dict):
            return {key: spelt(v) for key, v in value.items()}
        return f"mine.my_code:{value}" if isinstance(value, str) and value.lower().startswith("my") else value

    return spelt(opt)


def own(train_options: dict) -> dict:
    """Options of a training in which everything is the user's."""
    data = {"type": "MyDataset", "prefix": "it-", "dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}
    return {
        **train_options,
        "model_type": "MyModel",
        "datasets": {"train": {**data, "gt_size": 16}, "val": data},
        "network_g": {"type": "MyNet", "width": 6},
        "train": {**train_options["train"], "total_iter": 2, "pixel_opt": {"type": "MyLoss", "loss_weight": 0.5}},
        "val": {"val_freq": 2, "metrics": {"mine": {"type": "my_metric", "scale": 2}}},
    }


@pytest.mark.parametrize("spelling", [as_registered, as_references])
def test_everything_may_be_the_users(place, run, train_options, spelling, forget_own_code):
    opt = spelling(place, own(train_options))
    outcome = run("train", "-opt", write_yaml(place / "train.yml", opt))
    assert outcome.code == 0, outcome
    rows = list(csv.DictReader((place / "experiments/run/metrics.csv").open()))
    assert float(rows[0]["loss"]) > 1000
    assert float(next(row["val_mine"] for row in rows if row["val_mine"])) > 60  # 2 x what the model adds, 0.25 x 255, cut off

    forget_own_code()
    test = {key: opt[key] for key in ("name", "num_gpu", "model_type", "val", "custom_modules", "network_g") if key in opt}
    test |= {"datasets": {"test": opt["datasets"]["val"]}, "path": {"pretrain_network_g": "experiments/run/models/net_g_2.pth"}}
    tlc = ("network_g:tlc={train_size: 16, base_size: 16}",)
    outcome = run("test", "-opt", write_yaml(place / "test.yml", test), "--tlc", "both", "--force_yml", *tlc)
    assert outcome.code == 0, outcome
    report = json.loads((place / "results/run/report.json").read_text())
    plain, local = report["runs"]
    assert (plain["network"], local["network"]) == ("MyNet", "MyNetLocal")
    assert plain["metrics"] != local["metrics"]
    assert [image["name"] for image in plain["images"]] == ["it-a", "it-b", "it-c"]
    assert report["protocol"]["mine"].endswith("my_metric, scale 2, uint8")
    assert "does not say which way is better; higher is taken to be" in outcome.out
    assert (place / "imported.txt").read_text().splitlines() == [("mine." if spelling is as_references else "") + "my_code"] * 2


def test_a_registered_net_has_a_local_name_and_the_demo_knows_it(place, run, test_options):
    opt = as_registered(place, {**test_options, "network_g": {"type": "MyNetLocal", "train_size": 16, "base_size": 16}})
    output = place / "restored" / "a.png"
    file = write_yaml(place / "opt.yml", opt)
    outcome = run("demo", "-opt", file, "--input", "datasets/Set/input/a.png", "--output", output, "--compare")
    assert outcome.code == 0, outcome
    assert "1 layers converted" in outcome.out
    assert output.is_file()


def test_a_file_is_imported_once_and_may_import_its_neighbours(place):
    put(place, "value = 3\n", "mine/neighbour.py")
    name = put(place, REGISTERED + "\nfrom neighbour import value\nassert value == 3\n")
    opt = {"name": "a", "network_g": {"type": "MyNet"}, "custom_modules": [name, str(place / name)]}
    for _ in range(2):
        load(write_yaml(place / "opt.yml", opt))
    assert "MyNet" in ARCHS
    assert (place / "imported.txt").read_text() == "my_code\n"


def test_home_and_absolute_paths(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    put(place, "x = 1\n", "a_file.py")
    put(place, "x = 1\n", "b_file.py")
    for spelt in ("~/a_file.py", str(place / "b_file.py")):
        load(write_yaml(place / "opt.yml", {"name": "a", "network_g": {"type": "NAFNet"}, "custom_modules": [spelt]}))
    assert {"a_file", "b_file"} <= set(sys.modules)


def test_torchs_own_losses_are_at_hand():
    loss = LOSSES.build("torch.nn:HuberLoss", {"delta": 0.1}, "train.pixel_opt")
    assert loss.delta == 0.1
    with pytest.raises(UserError, match=r"train.pixel_opt.dleta: HuberLoss has no option `dleta`. Did you mean `delta`"):
        LOSSES.build("torch.nn:HuberLoss", {"dleta": 0.1}, "train.pixel_opt")


def test_references_in_the_options_of_a_network(place):
    put(place, UNREGISTERED)
    opt = {"type": "mine.my_code:MyNet", "width": 5}
    assert build_network(opt).body.out_channels == 5
    on = with_tlc(opt, True)
    assert on == {**opt, "tlc": True}
    assert is_local(on)
    assert with_tlc(on, False) == opt
    assert [layer.path for layer in build_network(on).tlc_report.converted] == ["scale.0"]
    assert plain_name("mine.my_code:MyNet") == "MyNet"
    assert plain_name("HINetLocal") == "HINet"


def test_hints_that_cannot_be_read_are_no_obstacle(place):
    put(
        place,
        PLAIN.replace("width: int", "width: Nowhere").replace("\n", "from __future__ import annotations\n", 1),
        "hints.py",
    )
    assert isinstance(build_network({"type": "hints:MyNet", "width": 3}), torch.nn.Module)


# Mistakes: one sentence that names the file, line or nearest name.

NET = {"type": "MyNet"}
MISTAKES = {
    "no such file": ({"custom_modules": ["mine/my_cod.py"]}, ("mine/my_cod.py does not exist", "Did you mean `my_code.py`?")),
    "no such folder": ({"custom_modules": ["mein/my_code.py"]}, ("mein/my_code.py does not exist", "no folder")),
    "no list": ({"custom_modules": "mine/my_code.py"}, ("custom_modules: must be a list (it is 'mine/my_code.py')",)),
    "a folder": ({"custom_modules": ["mine"]}, ("custom_modules: mine is no Python file",)),
    "a dotted name": ({"custom_modules": ["mine/my.code.py"]}, ("has a dot in its name", "rename")),
    "a syntax error": ({"custom_modules": ["mine/syntax.py"]}, ("mine/syntax.py, line 2: SyntaxError: invalid syntax",)),
    "an error": ({"custom_modules": ["mine/wrong.py"]}, ("mine/wrong.py, line 3: NameError: name 'undefined' is not defined",)),
    "an error in torch": ({"custom_modules": ["mine/deep.py"]}, ("mine/deep.py, line 2: ValueError: in_channels must be",)),
    "a missing package": ({"custom_modules": ["mine/lacks.py"]}, ("mine/lacks.py, line 1: ModuleNotFoundError", "einops_x")),
    "an error in a neighbour": ({"custom_modules": ["mine/calls.py"]}, ("mine/wrong.py, line 3: NameError",)),
    "a name that is taken": ({"custom_modules": ["mine/twice.py"]}, ("twice.py, line 4", "NAFNet is registered already")),
    "a module that is taken": ({"custom_modules": ["mine/random.py"]}, ("name of another module", "rename the file")),
    "an unknown net": (
        {"custom_modules": ["mine/my_code.py"], "network_g": {"type": "MyNt"}},
        ("network_g.type: no network is called `MyNt`. Did you mean `MyNet`?", "Known: ", "(from basicsr and mine/my_code.py;"),
    ),
    "an unknown net, no file": ({}, ("no network is called `MyNet`", "(from basicsr; custom_modules names files with more)")),
    "a wrong option": (
        {"custom_modules": ["mine/my_code.py"], "network_g": {"type": "MyNet", "widht": 3}},
        ("network_g.widht: MyNet has no option `widht`. Did you mean `width`?",),
    ),
    "a text for a number": (
        {"network_g": {"type": "mine.plain:MyNet", "width": "wide"}},
        ("network_g.width: 'wide' does not fit",),
    ),
    "no such module": (
        {"network_g": {"type": "mine.plian:MyNet"}},
        ("network_g: there is no module `mine.plian`", "Did you mean `mine.plain`?"),
    ),
    "no such package": (
        {"network_g": {"type": "mien.plain:MyNet"}},
        ("network_g: there is no module `mien`", "Did you mean `mine`?"),
    ),
    "no such class": (
        {"network_g": {"type": "mine.plain:MyNot"}},
        ("network_g: mine.plain has no class or function `MyNot`. Did you mean `MyNet`?",),
    ),
    "an error in the module": ({"network_g": {"type": "mine.wrong:MyNet"}}, ("mine/wrong.py, line 3: NameError",)),
    "a half reference": ({"network_g": {"type": "mine.plain:"}}, ("network_g: write `mine.plain:` as package.module:Name",)),
    "no network": (
        {"network_g": {"type": "os:system", "command": "touch hacked"}},
        ("network_g: `os:system` cannot be a network, as it is no class derived from torch.nn.Module",),
    ),
    "no data set": (
        {"network_g": {"type": "NAFNet"}, "datasets": {"test": {"type": "subprocess:Popen", "args": "touch hacked"}}},
        ("datasets.test: `subprocess:Popen` cannot be a dataset",),
    ),
    "a data set without check": (
        {"network_g": {"type": "NAFNet"}, "datasets": {"test": {"type": "mine.plain:Bare"}}},
        ("datasets.test: mine.plain:Bare has no method check; see `Your own code`",),
    ),
    "a metric of one image": (
        {"network_g": {"type": "NAFNet"}, "val": {"metrics": {"m": {"type": "mine.plain:blind"}}}},
        ("val.metrics.m: mine.plain:blind must take `img1`, the restored image, and `img2`",),
    ),
    "a metric that is a class": (
        {"network_g": {"type": "NAFNet"}, "val": {"metrics": {"m": {"type": "mine.plain:MyNet"}}}},
        ("val.metrics.m: `mine.plain:MyNet` cannot be a metric, as it is no function",),
    ),
    "no model": (
        {"network_g": {"type": "NAFNet"}, "model_type": "mine.plain:MyNet"},
        ("model_type: `mine.plain:MyNet` cannot be a model", "basicsr.models.ImageRestorationModel"),
    ),
}
PLAIN = """
from torch import nn
from torch.utils.data import Dataset


class MyNet(nn.Module):
    def __init__(self, *, width: int = 4) -> None:
        super().__init__()


class Bare(Dataset):
    def __len__(self):
        return 1


def blind(img):
    return 0
"""
FILES = {
    FILE: REGISTERED,
    "mine/plain.py": PLAIN,
    "mine/my.code.py": "",
    "mine/syntax.py": "x = 1\ndef (:\n",
    "mine/wrong.py": "x = 1\n\nundefined\n",
    "mine/deep.py": "from torch import nn\nnn.Conv2d(3, 4, 1, groups=2)\n",
    "mine/lacks.py": "import einops_x\n",
    "mine/calls.py": "import wrong\n",
    "mine/twice.py": "from basicsr.archs import ARCHS\nclass NAFNet:\n    pass\nARCHS.register(NAFNet)\n",
    "mine/random.py": "",
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(case, place, run, test_options):
    for name, content in FILES.items():
        put(place, content, name)
    changes, says = MISTAKES[case]
    file = write_yaml(place / "opt.yml", {**test_options, "network_g": NET, **changes})
    outcome = run("test", "-opt", file)
    assert outcome.code == 2, outcome
    assert len(outcome.err.splitlines()) == 1, outcome.err
    for words in says:
        assert words in outcome.err
    assert "Traceback" not in outcome.out
    assert not (place / "hacked").exists()
    assert not (place / "results").exists()


def test_two_files_of_one_name_are_told_apart(place):
    put(place, "x = 1\n", "one/net.py")
    put(place, "x = 2\n", "two/net.py")
    import_file(place / "one/net.py", "one/net.py")
    with pytest.raises(UserError, match=r"two/net\.py has the name of another module, .*one/net\.py.*rename the file"):
        import_file(place / "two/net.py", "two/net.py")


def test_only_what_fits_may_be_called(place):
    """A schedule is called with the file's arguments, so that it has to take an iteration and a learning rate too."""
    for name in ("os:system", "shutil:rmtree", "subprocess:run"):
        with pytest.raises(UserError, match=f"train.scheduler: `{name}` cannot be a scheduler"):
            make_schedule(name, {"command": "touch hacked"})
    with pytest.raises(UserError, match=r"no scheduler is called"):
        SCHEDULERS.get("os:system")
    with pytest.raises(UserError, match="cannot be a metric, as it is no function"):
        METRICS.get("os:system", "val.metrics.m")


# Data workers that are spawned, as on macOS and Windows. What several processes make of one's own code: test_distributed.py.


@pytest.fixture
def spawned() -> Iterator[None]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_training_with_a_spawned_worker(place, run, spawned, train_options):
    opt = own(train_options)
    opt["datasets"]["train"] |= {"num_worker_per_gpu": 1}
    outcome = run("train", "-opt", write_yaml(place / "train.yml", as_registered(place, opt)))
    assert outcome.code == 0, outcome
    rows = list(csv.DictReader((place / "experiments/run/metrics.csv").open()))
    assert float(rows[0]["loss"]) > 1000
    assert (place / "experiments/run/models/net_g_2.pth").is_file()
    assert (place / "imported.txt").read_text().split() == ["my_code", "my_code"]  # here and in the worker


def test_an_imported_data_set_reaches_a_spawned_process(place, train_options):
    opt = parse(as_references(place, own(train_options)), "opt.yml")
    dataset = build.build_dataset(opt.datasets["val"], "datasets.val")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(operator.getitem, (dataset, 1))["name"] == "it-b"
