"""The model cards: what they say of their files, recipes and second legs is what these are."""

import hashlib
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

from basicsr.options import load

FOLDER = REPOSITORY / "experiments/pretrained_models"
NETS = sorted(file.stem for file in FOLDER.glob("*.safetensors"))
SECOND_LEGS = sorted((REPOSITORY / "options/train").rglob("*-leg2.yml"))


def card(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def links(text: str) -> list[Path]:
    """The files that a card of FOLDER links to or shows."""
    return [(FOLDER / target).resolve() for target in re.findall(r"\]\((?!http)([^)#]+)\)", text)]


@pytest.mark.parametrize("name", NETS)
def test_a_card_tells_of_its_file(name):
    file = FOLDER / f"{name}.safetensors"
    size, digest = re.search(rf"`{file.name}`, ([\d.]+) MB, SHA-256 `([0-9a-f]+)`", card(name)).groups()
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert float(size) == pytest.approx(file.stat().st_size / 1e6, abs=0.05)


@pytest.mark.parametrize("name", [*NETS, "README"])
def test_links_lead_somewhere(name):
    assert [target for target in links(card(name)) if not target.exists()] == []


@pytest.mark.parametrize("name", NETS)
def test_a_card_tells_of_its_recipes(name):
    row = re.search(r"^\| recipe \| (.*) \|$", card(name), flags=re.MULTILINE)[1]
    recipes = [target for target in links(row) if target.suffix == ".yml"]
    assert recipes[0].stem == name
    for recipe, told in zip(recipes, row.split("](")[1:], strict=True):  # what stands between a link and the next one
        opt = load(recipe)
        assert f"batch {opt.datasets['train'].batch_size_per_gpu}, {opt.train.optim_g.type} " in told
        assert float(re.search(r"Adam\w* (\S+)", told)[1]) == opt.train.optim_g.lr
        assert f"over {opt.train.total_iter:,} iterations" in told
        assert opt.train.scheduler.arguments["T_max"] == opt.train.total_iter


@pytest.mark.parametrize("file", SECOND_LEGS, ids=lambda file: file.stem)
def test_a_second_leg_goes_on_from_the_first(file):
    first, second = load(file.with_name(file.name.replace("-leg2", ""))), load(file)
    assert second.path.pretrain_network_g == f"experiments/{first.name}/models/net_g_latest.pth"
    assert second.name == f"{first.name}-leg2"
    assert second.network_g == first.network_g
    assert file.resolve() in links(card(first.name))
