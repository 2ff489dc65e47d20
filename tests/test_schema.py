"""The JSON schema of the options: it is current, takes every shipped and published file, and refuses mistakes."""

import copy
import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
import test_published_files
import test_published_words
import yaml
from conftest import REPOSITORY

from basicsr.archs import ARCHS
from basicsr.engine.reference import catalogue
from basicsr.engine.reference.page import page_text
from basicsr.engine.reference.schema import schema_text
from basicsr.options import RETIRED, _Loader

SCHEMA_FILE = REPOSITORY / "options/schema.json"
SHIPPED = sorted([*(REPOSITORY / "options").rglob("*.yml"), *(REPOSITORY / "examples").rglob("*.yml")])
PUBLISHED = ("EVALUATION", "TRAINING", "DEMO")
WORDS = {"name": "a", "set": "GoPro", "net": "NAFNet", "weights": "a.pth", "param_key": "~", "save_img": "true"}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def complaints(validator: jsonschema.Draft7Validator, data: dict) -> list[str]:
    return [".".join(map(str, error.absolute_path)) + ": " + error.message for error in validator.iter_errors(data)]


def test_schema_and_page_are_current():
    for file, text in ((SCHEMA_FILE, schema_text()), (REPOSITORY / "docs/options.md", page_text())):
        assert file.read_text(encoding="utf-8") == text, "run python scripts/make_reference.py"


def test_the_page_has_every_word_with_its_default():
    page = page_text()
    assert "| `val_freq` | whole number above 0 | none | Iterations between validations" in page
    assert "| `T_max` | whole number | required | Iterations of the cosine. |" in page
    assert "| `betas` | list of 2 numbers from 0 below 1 | none |" in page
    for section in ("## Networks", "### NAFNet", "## TLC", "### `train.optim_g.groups[]`", "### CharbonnierLoss", "### SGD"):
        assert f"{section}\n" in page
    for row in page.splitlines():
        if row.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", row)) in (3, 5), row


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_files_name_it_and_fit(file, validator):
    text = file.read_text(encoding="utf-8")
    head, _, named = text.splitlines()[0].partition("$schema=")
    assert head == "# yaml-language-server: "
    assert Path(os.path.normpath(file.parent / named)) == SCHEMA_FILE
    assert complaints(validator, yaml.load(text, _Loader)) == []


@pytest.mark.parametrize("template", PUBLISHED)
@pytest.mark.parametrize("net", ["HINet", "MPRNet", "Restormer", "NAFNet"])
@pytest.mark.parametrize("data", ["FOLDERS", "LMDBS"])
def test_published_files_fit(template, net, data, validator):
    """With `key: ~`, `!!float 2e4`, numbers such as 2e-4, and words that have no meaning here."""
    where = getattr(test_published_files, data).format(set="GoPro")
    words = {**WORDS, "net": net, "data": where, "network": test_published_files.network(net)}
    text = getattr(test_published_files, template).format(**words)
    assert complaints(validator, yaml.load(text, _Loader)) == []


def test_a_restormer_file_fits(validator):
    assert complaints(validator, test_published_words.restormer()) == []


BASE = {
    "name": "run",
    "datasets": {"train": {"dataroot_gt": "a", "dataroot_lq": "b", "gt_size": 16}, "val": {"type": "PairedImageDataset"}},
    "network_g": {"type": "NAFNetLocal", "width": 4, "base_size": 24, "train_size": [1, 3, 16, 16]},
    "train": {
        "total_iter": 6,
        "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.9], "foreach": False},
        "scheduler": {"type": "TrueCosineAnnealingLR", "T_max": 6},
        "pixel_opt": {"type": "PSNRLoss"},
        "losses": [{"type": "EdgeLoss", "loss_weight": 0.05}],
    },
    "val": {"tile": "auto", "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
}
BASE["datasets"]["val"] |= {"dataroot_gt": "a", "dataroot_lq": "b", "filename_tmpl": None}


def changed(path: str, value: object) -> dict:
    data = copy.deepcopy(BASE)
    *sections, last = path.split(".")
    place = data
    for section in sections:
        place = place[int(section)] if isinstance(place, list) else place.setdefault(section, {})
    place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nam", "x"),
        ("name", 3),
        ("scale", 4),
        ("num_gpu", "many"),
        ("num_gpu", -1),
        ("manual_seed", "ten"),
        ("custom_modules", "a.py"),
        ("model_type", "ImageRestoration"),
        ("network_g.type", "NAFNt"),
        ("network_g.widht", 4),
        ("network_g.width", "wide"),
        ("network_g.enc_blk_nums", 4),
        ("network_g.base_size", "384"),
        ("network_g.statistics", "windows"),
        ("network_g.tlc", True),  # it is local by its name
        ("network_g", {"type": "NAFNet", "tlc": {"base": 384}}),
        ("network_g", {"type": "Restormer", "heads": [1, 2, 4]}),
        ("network_g", {"type": "HINet", "width": 4}),  # an option of another net
        ("network_g", {"width": 4}),
        ("datasets.train.dataroot", "a"),
        ("datasets.train.type", "PairedDataset"),
        ("datasets.train.gt_size", "256"),
        ("datasets.train.batch_size", 0),
        ("datasets.train.batch_size_per_gpu", "all"),
        ("datasets.train.bad_images", "drop"),
        ("datasets.train.progressive", [{"iters": 4, "gt_size": 16}]),
        ("datasets.train", {"dataroot_gt": "a"}),  # the default type needs dataroot_lq
        ("datasets.train", {"type": "SyntheticDegradationDataset", "dataroot_gt": "a", "kind": "nois"}),
        ("train.total_iter", "many"),
        ("train.total_iter", None),
        ("train.optim_g.lr", 0),
        ("train.optim_g.momentum", 0.9),  # Adam has none
        ("train.optim_g.betas", [0.9]),
        ("train.optim_g.type", "Adamm"),
        ("train.optim_g.groups", [{"lr_mult": 2}]),
        ("train.scheduler", {"type": "TrueCosineAnnealingLR"}),
        ("train.scheduler.T_mox", 5),
        ("train.scheduler.type", "Cosine"),
        ("train.use_grad_clip", -1),
        ("train.precision", "half"),
        ("train.pixel_opt.type", "PSNR"),
        ("train.pixel_opt.reduction", "sum"),
        ("train.losses", [{"type": "EdgeLoss", "epz": 1}]),
        ("val.tile", "big"),
        ("val.tile", -1),
        ("val.metrics.psnr.crop_borders", 1),
        ("val.metrics.psnr.type", "psnr"),
        ("val.metrics.psnr.crop_border", "4"),
        ("logger.print_freq", "often"),
        ("logger.keep_checkpoints", "none"),
        ("logger.wandb", {"projekt": "x"}),
        ("path.strict_load_g", "yes, please"),
        ("expected.psnr", "30 dB"),
    ],
)
def test_mistakes_are_refused(path, value, validator):
    assert complaints(validator, BASE) == []
    assert complaints(validator, changed(path, value)) != []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("network_g", {"type": "my_package.nets:MyNet", "anything": [1, {"a": 2}]}),
        ("network_g", {"type": "NAFNet", "tlc": True}),
        ("network_g", {"type": "NAFNet", "tlc": {"base_size": [384, 512]}}),
        ("network_g.train_size", 256),
        ("datasets.val", {"type": "my_package.data:MyDataset", "root": "a", "num_worker_per_gpu": 2}),
        ("train.optim_g", {"type": "schedulefree:AdamWScheduleFree", "lr": 1e-3, "warmup_steps": 10}),
        ("train.optim_g", {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True}),
        ("train.scheduler", {"type": "my_package.rates:decay", "half_life": 10}),
        ("train.scheduler.eta_min", None),
        ("train.use_grad_clip", 0.5),
        ("val.tile", 0),
        ("val.tile", False),
        ("val.tile", None),
        ("val.metrics", None),
        ("model_type", "my_package.models:MyModel"),
        ("model_type", None),
    ],
)
def test_what_else_is_right_passes(path, value, validator):
    assert complaints(validator, changed(path, value)) == []


def test_names_of_ones_own_modules_pass_where_these_are_imported(validator):
    own = {**BASE, "network_g": {"type": "MyNet", "width": 4}, "model_type": "MyModel"}
    assert len(complaints(validator, own)) == 2
    assert complaints(validator, {**own, "custom_modules": ["mine.py"]}) == []
    assert len(complaints(validator, {**own, "custom_modules": None})) == 2


def test_retired_words_say_why():
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    sections = {"": schema, "datasets": "DatasetOptions", "val": "ValOptions", "train": "TrainOptions"}
    for word, reason in RETIRED.items():
        prefix, _, name = word.rpartition(".")
        section = schema["definitions"][sections[prefix]] if prefix else schema
        assert reason in section["properties"][name]["description"]


def test_every_word_and_every_argument_is_described():
    entries = [*catalogue.sections(), catalogue.tlc(), *(entry for kind in catalogue.registered().values() for entry in kind)]
    bare = [f"{entry.name}.{argument.name}" for entry in entries for argument in entry.arguments if not argument.description]
    assert bare == []
    assert {entry.name for entry in catalogue.registered()["network"]} == {
        name for name in ARCHS.names() if ARCHS.get(name).__module__.startswith("basicsr.")
    }


def test_descriptions_are_read_off_docstrings():
    text = "First line.\n\nArgs:\n    a, b: one thing\n        two lines. c: another; x: no. d: last\n\nRaises:\n    e: no"
    read = catalogue.described_in(text, ["a", "b", "c", "d", "e", "x"])
    assert read == {"a": "One thing two lines.", "b": "One thing two lines.", "c": "Another; x: no.", "d": "Last."}
