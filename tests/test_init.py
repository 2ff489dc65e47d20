"""`tlc init`: options for one's own folders that load, pass the dry run and fit the schema, every word with its meaning."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from conftest import REPOSITORY, SMALL_NETS, Outcome, make_pairs, picture, write, write_yaml

from basicsr.archs import build_network
from basicsr.commands import main
from basicsr.data.packing import write_lmdb
from basicsr.engine.reference.commented import commented
from basicsr.options import _Loader, load
from basicsr.utils.checkpoint import save_torch

SCHEMA = json.loads((REPOSITORY / "options/schema.json").read_text(encoding="utf-8"))
RECIPES = {name: min((REPOSITORY / "options/train/GoPro").glob(f"{name}-*.yml")) for name in SMALL_NETS}


@pytest.fixture
def tlc(monkeypatch, capsys):
    """tlc("init", "train", ...): the command, as the console script runs it."""

    def call(*words: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["tlc", *map(str, words)])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def folders(root) -> Path:
    """my/{target,input} with pictures of 40x56, my/val with others."""
    make_pairs(root / "my", height=40, width=56)
    make_pairs(root / "my/val", names=("d", "e"), height=40, width=56)
    return root


def pairs(folder: str = "my") -> tuple[str, ...]:
    return ("--gt", f"{folder}/target", "--lq", f"{folder}/input")


def fits_the_schema(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={REPOSITORY}/options/schema.json"
    jsonschema.Draft7Validator(SCHEMA).validate(yaml.load(text, _Loader))


@pytest.mark.parametrize("net", SMALL_NETS)
def test_a_training_has_the_recipe_of_its_net_and_passes_the_dry_run(net, folders, tlc):
    outcome = tlc("init", "train", *pairs(), "--net", net, "--val-gt", "my/val/target", "--val-lq", "my/val/input")
    assert (outcome.code, outcome.out) == (0, f"written: {net}-my-train.yml\n")
    file = folders / f"{net}-my-train.yml"
    fits_the_schema(file)
    opt, recipe = load(file), load(RECIPES[net])
    assert opt.name == f"{net}-my-train"
    assert opt.train == recipe.train
    assert opt.network_g == recipe.network_g
    assert opt.val == recipe.val
    assert opt.logger == recipe.logger
    train, val = opt.datasets["train"], opt.datasets["val"]
    assert train.arguments["dataroot_gt"] == "my/target"
    assert val.arguments == {"dataroot_gt": "my/val/target", "dataroot_lq": "my/val/input"}
    largest = {"NAFNet": 32, "HINet": 32, "MPRNet": 40, "Restormer": 40}[net]  # of multiples of 16 and 8, in 40 pixels
    crops = [stage.gt_size for stage in train.progressive or ()] or [train.arguments["gt_size"]]
    assert set(crops) == {largest}
    assert "Crops are smaller than there: the smallest picture has a side of 40 pixels." in file.read_text()
    tried = yaml.safe_load(file.read_text(encoding="utf-8"))
    tried["network_g"] |= SMALL_NETS[net]  # the published sizes take seconds
    dry = tlc("train", "-opt", write_yaml(folders / "small.yml", tried), "--dry_run", "--device", "cpu")
    assert dry.code == 0, dry
    assert "3 training images, 2 for validation" in dry.out
    assert not (folders / "experiments").exists()


def test_large_pictures_have_the_recipes_crops(root, tlc):
    make_pairs(root / "my", names=("a", "b"), height=260, width=300)
    assert tlc("init", "train", *pairs(), "--net", "NAFNet", "--output", "mine.yml").code == 0
    opt = load(root / "mine.yml")
    assert opt.name == "mine"
    assert opt.datasets["train"].arguments["gt_size"] == 256
    assert "Crops are smaller" not in (root / "mine.yml").read_text()


def test_without_validation_it_says_how_to_add_it(folders, tlc):
    assert tlc("init", "train", *pairs(), "--net", "NAFNet").code == 0
    text = (folders / "NAFNet-my-train.yml").read_text()
    assert list(load(folders / "NAFNet-my-train.yml").datasets) == ["train"]
    assert load(folders / "NAFNet-my-train.yml").val.val_freq is None
    added = text.replace("  # val:\n", "  val:\n").replace("  #   type", "    type")
    for word, place in (("dataroot_gt", "target"), ("dataroot_lq", "input")):
        old = {"target": "sharp", "input": "degraded"}[place]
        added = added.replace(f"  #   {word}: my/val/{old}", f"    {word}: my/val/{place}")
    (folders / "added.yml").write_text(added)
    assert "2 for validation" in tlc("train", "-opt", "added.yml", "--dry_run", "--device", "cpu").out


@pytest.mark.parametrize("kind", ["noise", "blur"])
def test_sharp_photographs_alone(kind, folders, tlc):
    words = ("--gt", "my/target", "--degradation", kind, "--net", "NAFNet", "--val-gt", "my/val/target")
    assert tlc("init", "train", *words).code == 0
    file = next(folders.glob("*.yml"))
    fits_the_schema(file)
    for name in ("train", "val"):
        data = load(file).datasets[name]
        assert (data.type, data.arguments["kind"]) == ("SyntheticDegradationDataset", kind)
    assert tlc("train", "-opt", file, "--dry_run", "--device", "cpu").code == 0


def test_degraded_names_with_a_suffix_and_lmdbs(folders, tlc):
    for file in (folders / "my/input").iterdir():
        file.rename(file.with_stem(f"{file.stem}_noisy"))
    for side in ("target", "input"):
        write_lmdb(folders / "my" / side, folders / f"my/{side}.lmdb", progress=False)
    words = ("--gt", "my/target.lmdb", "--lq", "my/input.lmdb", "--net", "NAFNet")
    assert tlc("init", "train", *words, "--output", "lmdb.yml").code == 0
    arguments = load(folders / "lmdb.yml").datasets["train"].arguments
    assert arguments["io_backend"] == {"type": "lmdb"}
    assert arguments["filename_tmpl"] == "{}_noisy"
    assert tlc("train", "-opt", "lmdb.yml", "--dry_run", "--device", "cpu").code == 0


@pytest.fixture
def weights(folders) -> Path:
    torch.manual_seed(0)
    save_torch(folders / "w.pth", {"params": build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).state_dict()})
    return folders / "w.pth"


@pytest.mark.parametrize("lq", [True, False])
def test_a_test_reads_the_network_off_the_weights(lq, folders, weights, tlc):
    words = pairs() if lq else ("--gt", "my/target", "--degradation", "blur")
    outcome = tlc("init", "test", *words, "--weights", weights, "--net", "NAFNetLocal")
    assert outcome.code == 0, outcome
    file = folders / "NAFNetLocal-my-test.yml"
    fits_the_schema(file)
    opt = load(file)
    assert opt.network_g.type == "NAFNetLocal"
    assert opt.network_g.arguments["width"] == 4
    assert opt.path.pretrain_network_g == "w.pth"
    tested = tlc("test", "-opt", file, "--device", "cpu")
    assert tested.code == 0, tested
    assert (folders / "results/NAFNetLocal-my-test/report.json").is_file()


def test_nothing_is_written_over_a_file(folders, tlc):
    (folders / "mine.yml").write_text("name: mine\n")
    outcome = tlc("init", "train", *pairs(), "--net", "NAFNet", "--output", "mine.yml")
    assert outcome.code == 2
    assert "mine.yml is there already: name another file with --output." in outcome.err
    assert (folders / "mine.yml").read_text() == "name: mine\n"


TRAIN = ("train", *pairs(), "--net", "NAFNet")
MISTAKES = {
    "no such net": (("train", *pairs(), "--net", "NAFNt"), ("--net: no network is called `NAFNt`. Did you mean `NAFNet`?",)),
    "no recipe": (
        ("train", *pairs(), "--net", "a:Net"),
        ("--net a:Net: there is no recipe for it. There are recipes for HI",),
    ),
    "no such folder": (
        ("train", "--gt", "my/tagret", "--lq", "my/input", "--net", "NAFNet"),
        ("--gt: the folder", "my/tagret does not exist"),
    ),
    "no such degraded folder": (
        ("train", "--gt", "my/target", "--lq", "my/inptu", "--net", "NAFNet"),
        ("--lq: the folder", "my/inptu does not exist"),
    ),
    "no partner": (
        ("train", "--gt", "my/target", "--lq", "my/val/input", "--net", "NAFNet"),
        ("--gt and --lq do not match", "without a degraded image in --lq: a, b, c"),
    ),
    "no validation partner": (
        (*TRAIN, "--val-gt", "my/val/target", "--val-lq", "my/input"),
        ("--val-gt and --val-lq do not match",),
    ),
    "half a validation": (
        (*TRAIN, "--val-gt", "my/val/target"),
        ("--val-gt: name the degraded pictures as well",),
    ),
    "the other half": ((*TRAIN, "--val-lq", "my/val/input"), ("--val-lq: name the sharp pictures as well, with --val-gt",)),
    "two degradations": ((*TRAIN, "--degradation", "blur"), ("--degradation is for sharp pictures alone",)),
    "no YAML": ((*TRAIN, "--output", "mine.txt"), ("--output mine.txt: the name must end in .yml",)),
    "no name of a run": ((*TRAIN, "--output", "my run.yml"), ("'my run' cannot be a run's folder",)),
    "tiny pictures": (("train", *pairs("tiny"), "--net", "NAFNet"), ("--gt: the smallest picture has a side of 8 pixels",)),
    "unequal pictures": (("train", *pairs("unequal"), "--net", "NAFNet"), ("of different sizes: a (40x40 and 48x48)",)),
    "no weights": (("test", *pairs()), ("--weights: name the weights to test.",)),
    "weights that are not there": (("test", *pairs(), "--weights", "x.pth"), ("x.pth do not exist",)),
    "a test's training words": (("test", *pairs(), "--val-gt", "x"), ("--val-gt: `tlc init test` has no such argument",)),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(case, folders, tlc):
    make_pairs(folders / "tiny", height=8, width=40)
    write(folders / "unequal/target/a.png", picture(0, 40, 40))
    write(folders / "unequal/input/a.png", picture(0, 48, 48))
    words, says = MISTAKES[case]
    outcome = tlc("init", *words)
    assert outcome.code == 2, outcome
    assert len(outcome.err.strip().splitlines()) == 1, outcome.err
    for text in says:
        assert text in outcome.err
    assert not list(folders.glob("*.yml"))


def test_values_keep_their_types_in_yaml(tmp_path):
    values = {
        "a": "true",
        "b": "1e-3",
        "c": "x: y",
        "d": "",
        "e": "plain/text-1.yml",
        "f": 1e-7,
        "g": [1, {"h": None}],
        "i": "é#",
    }
    data = {"name": "x", "network_g": {"type": "a:B", **values}}
    text = commented(data, ["Head."], tmp_path / "x.yml", {"network_g": ["Note."]})
    assert yaml.load(text, _Loader) == data
    assert "# Head.\n" in text
    assert text.endswith("  # Note.\n")


@pytest.mark.parametrize(("place", "schema"), [("options/train/x.yml", "../schema.json"), ("x.yml", "options/schema.json")])
def test_files_in_the_repository_name_the_schema_by_a_relative_path(place, schema):
    text = commented({"name": "x"}, [], REPOSITORY / place, {})
    assert text.startswith(f"# yaml-language-server: $schema={schema}\nname: x")


def test_without_a_task(tlc):
    outcome = tlc("init")
    assert outcome.code == 2
    assert "TASK" in outcome.err
