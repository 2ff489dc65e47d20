"""The catalogue of operations and networks, the page that is made of it, and what `tlc convert` says of a network."""

import importlib
import warnings

import pytest
from conftest import REPOSITORY, SMALL_NETS
from torch import Tensor, nn

from basicsr.archs import ARCHS
from basicsr.engine.networks.operations import FIRST, NEXT, REPORTED, WAYS, WINDOWED, made_local
from basicsr.engine.networks.page import networks_text
from basicsr.engine.networks.restorers import HERE, RESTORERS
from basicsr.engine.networks.summary import known, summary
from basicsr.tlc import convert

# The files whose modules are compared with their definition, window by window.
ZOOS = sorted(file.stem for file in (REPOSITORY / "tests").glob("test_tlc_*.py") if "\nCONVERTED:" in file.read_text("utf-8"))


def test_the_page_is_made_of_the_catalogue():
    page = (REPOSITORY / "docs/networks.md").read_text(encoding="utf-8")
    assert page == networks_text(), "run python scripts/make_reference.py"


def modules(registry: str) -> set[str]:
    return {name for zoo in ZOOS for name in getattr(importlib.import_module(zoo), registry, ())}


def test_every_row_is_held_by_modules_that_are_tested():
    assert {"test_tlc_zoo", "test_tlc_patterns"} <= set(ZOOS)
    converted, reported = modules("CONVERTED"), modules("GLOBAL")
    for row in (*WAYS, *WINDOWED, *REPORTED):
        assert row.modules, row.written
    assert [name for way in WAYS for name in way.modules if name not in converted] == []
    assert [name for row in REPORTED for name in row.modules if name not in reported] == []
    in_windows = {kind.__name__ for kind in importlib.import_module("test_tlc_windows").KINDS}
    assert [name for way in WINDOWED for name in way.modules if name not in in_windows] == []
    assert {way.since for way in (*WAYS, *WINDOWED)} <= {FIRST, NEXT}


def test_restorers_are_told_apart_and_those_of_this_repository_are_among_them():
    names = [name.lower() for net in RESTORERS for name in net.names]
    assert len(set(names)) == len(names)
    assert {net.names[0] for net in RESTORERS if HERE in net.checked} == set(ARCHS.names()) == set(SMALL_NETS)
    assert {operation for net in RESTORERS if HERE in net.checked for operation in net.operations} <= made_local()


class Attending(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        return x + (pixels @ (pixels.mT @ pixels).softmax(-1)).view(x.shape)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1, stride=4), nn.InstanceNorm2d(4, affine=True))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
        self.attend, self.idle = Attending(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.attend(x * self.gate(x) * x.mean((2, 3), keepdim=True))


def test_a_network_in_short():
    report = convert(Net(), train_size=32).tlc_report
    lines = [line.split() for line in summary(report)]
    assert lines == [
        ["in", "short", "local", "as", "it", "was", "nothing", "to", "do", "where"],
        ["attention", "-", "1", "-", "attend"],
        ["norms", "1", "-", "-", "first"],
        ["pooling", "2", "-", "1", "gate,", "(the", "net", "itself),", "idle"],
    ]


def test_nothing_global_is_nothing_to_say():
    assert summary(convert(nn.Conv2d(3, 3, 1), train_size=32).tlc_report) == []


@pytest.mark.parametrize("name", ["NAFNetLocal", "nafnet", "Baseline"])
def test_known_by_its_name(name: str):
    (line,) = known(name)
    assert line.startswith("published checkpoints of NAFNet (2022) were trained on patches of 256")


def test_other_names_are_unknown():
    assert known("MyNet", "DenseNet") == []
    assert len(known("MIRNet_v2", "MIRNetV2Local")) == 1


def test_convert_says_it(run, root):
    words = [f"network_g:{word}={value}" for word, value in SMALL_NETS["NAFNet"].items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = run("convert", "--net", "NAFNet", "--train-size", "64", "--size", "none", "--force_yml", *words)
    assert done.code == 0
    short = done.out[done.out.index("in short") :]
    assert short.splitlines()[1].split()[0] == "pooling"
    assert "published checkpoints of NAFNet (2022) were trained on patches of 256" in short


def test_convert_says_how_windows_of_attention_meet(run, root):
    words = [f"network_g:{word}={value}" for word, value in {**SMALL_NETS["Restormer"], "attention": "blended"}.items()]
    done = run("convert", "--net", "RestormerLocal", "--train-size", "64", "--size", "none", "--force_yml", *words)
    assert "TLC: trained on 64x64, window 96x96, attention blended; " in done.out


def test_rows_have_a_cell_for_each_column():
    widths = []
    for line in networks_text().splitlines():
        widths = [*widths, line.count("|")] if line.startswith("|") else []
        assert len(set(widths)) <= 1, line
