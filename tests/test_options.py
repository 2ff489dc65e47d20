"""Options: read once, strictly, typed and frozen; the words of the published files; overrides parsed, never evaluated."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, write_yaml
from pydantic import ValidationError

from basicsr import options
from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.options import display, load, parse, resolve, resolve_input
from basicsr.registry import Registry, checked_arguments
from basicsr.utils.checkpoint import read_weights

SHIPPED = sorted((REPOSITORY / "options").rglob("*.yml"))


@pytest.fixture
def yml(root, train_options) -> Path:
    return write_yaml(root / "opt.yml", train_options)


def text(root: Path, content: str) -> Path:
    (root / "opt.yml").write_text(f"name: a\nnetwork_g: {{type: NAFNet}}\n{content}", encoding="utf-8")
    return root / "opt.yml"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem if isinstance(f, Path) else f)
def test_shipped_files_are_valid(file):
    opt = load(file)
    assert opt.name
    assert opt.network_g.type


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2e-4", 2e-4),  # text for YAML 1.1
        ("2E-4", 2e-4),
        ("!!float 1e-3", 1e-3),
        ("!!float 2e-4", 2e-4),
        ("3.e-4", 3e-4),
        (".5e-3", 5e-4),
        ("1.5e-4", 1.5e-4),
        ("1", 1.0),
        ("+1e+0", 1.0),
    ],
)
def test_floats(written, value, root):
    optimizer = f"optim_g: {{type: Adam, lr: {written}}}"
    opt = load(text(root, f"train: {{total_iter: 4e5, {optimizer}, scheduler: {{type: X}}, pixel_opt: {{type: Y}}}}"))
    assert opt.train.optim_g.lr == value
    assert isinstance(opt.train.optim_g.lr, float)
    assert opt.train.total_iter == 400_000
    assert isinstance(opt.train.total_iter, int)


@pytest.mark.parametrize("word", ["2e-4x", "e-4", "2e", "1-e4"])
def test_text_is_no_number(word, root):
    with pytest.raises(UserError, match=r"train.optim_g.lr: must be a number"):
        load(text(root, f"train: {{total_iter: 1, optim_g: {{type: Adam, lr: {word}}}, scheduler: {{type: X}}}}"))


def test_options_are_frozen(yml):
    opt = load(yml)
    for section, word in (
        (opt, "name"),
        (opt.path, "param_key"),
        (opt.val, "tile"),
        (opt.network_g, "type"),
        (opt.train, "total_iter"),
    ):
        with pytest.raises(ValidationError):
            setattr(section, word, "other")
    opt.network_g.arguments["width"] = 99  # a copy
    assert opt.network_g.arguments["width"] == 4


def test_empty_values_mean_the_default(root):
    opt = load(text(root, "path: {pretrain_network_g: ~, resume_state: ~, strict_load_g: ~}\nval: ~\nmanual_seed: ~\n"))
    assert opt.path.pretrain_network_g is None
    assert opt.path.strict_load_g is True
    assert opt.manual_seed == 0
    assert opt.val.metrics == {}


def test_anchors_and_merges(root):
    opt = load(text(root, "datasets:\n  val: &v {dataroot_gt: a, dataroot_lq: b}\n  test:\n    <<: *v\n    dataroot_lq: c\n"))
    assert opt.datasets["test"].arguments == {"dataroot_gt": "a", "dataroot_lq": "c"}


def test_relative_paths(root, monkeypatch):
    """In a file: from the repository's root. On the command line: from the current folder, else from the root."""
    assert resolve("datasets/x") == root / "datasets/x"
    assert resolve("/abs/x") == Path("/abs/x")
    here = root / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    (root / "a.yml").touch()
    assert resolve_input("a.yml") == root / "a.yml"
    (here / "a.yml").touch()
    assert resolve_input("a.yml") == Path("a.yml")


def test_root_is_the_repository():
    assert options.ROOT == REPOSITORY
    assert not options.BUNDLED.exists()


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """An installed package, which has bundled files and no repository; the user stands in another folder."""
    bundled = write_yaml(tmp_path / "site-packages/basicsr/bundled/options/demo/demo.yml", {"name": "bundled"}).parents[2]
    (bundled / "experiments/pretrained_models").mkdir(parents=True)
    (bundled / "experiments/pretrained_models/net.safetensors").touch()
    monkeypatch.setattr(options, "BUNDLED", bundled)
    monkeypatch.setattr(options, "ROOT", None)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return bundled


def test_an_installed_package_starts_at_the_current_folder(installed):
    here = Path.cwd()
    assert resolve("results") == here / "results"
    assert resolve("/abs/x") == Path("/abs/x")
    weights = "experiments/pretrained_models/net.safetensors"
    assert resolve(weights) == resolve(f"./{weights}") == resolve_input(weights) == installed / weights
    assert resolve("experiments") == here / "experiments"  # a folder, where a training would write
    assert resolve("experiments/pretrained_models/other.pth") == here / "experiments/pretrained_models/other.pth"
    (here / weights).parent.mkdir(parents=True)
    (here / weights).touch()
    assert resolve(weights) == here / weights


def test_bundled_options_are_found_by_their_name_in_the_repository(installed):
    name = "options/demo/demo.yml"
    with pytest.raises(UserError, match=f"^{name}: `network_g` is missing"):
        load(name)
    with pytest.raises(UserError) as error:
        load("options/demo/none.yml")
    assert str(error.value).endswith(f"(looked in {Path.cwd()} and {installed}).")
    write_yaml(Path.cwd() / name, {"name": "own", "network_g": {"type": "NAFNet"}})
    assert load(name).name == "own"


def test_shown_paths_can_be_pasted_where_the_user_stands(root, monkeypatch):
    file = write_yaml(root / "results/run/report.yml", {})
    assert display(file) == str(Path("results/run/report.yml"))
    monkeypatch.chdir(root / "results")
    assert display(file) == str(Path("run/report.yml"))
    assert display(Path("run/report.yml")) == str(Path("run/report.yml"))
    (root / "elsewhere").mkdir()
    monkeypatch.chdir(root / "elsewhere")
    assert display(file) == str(file)
    with pytest.raises(UserError, match="for the published ones") as error:
        read_weights(root / "none.pth")
    assert Path(re.search("see (.*) for", str(error.value))[1]) == REPOSITORY / "experiments/pretrained_models/README.md"


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("val:save_img=true", lambda o: o.val.save_img, True),
        ("network_g:base_size=320", lambda o: o.network_g.arguments["base_size"], 320),
        ("network_g:enc_blk_nums=[1, 2]", lambda o: o.network_g.arguments["enc_blk_nums"], [1, 2]),
        ("train:optim_g:lr=3e-4", lambda o: o.train.optim_g.lr, 3e-4),
        ("path:pretrain_network_g=a=b.pth", lambda o: o.path.pretrain_network_g, "a=b.pth"),
        ("datasets:train:gt_size=64", lambda o: o.datasets["train"].arguments["gt_size"], 64),
        ("val:metrics={ssim: {type: calculate_ssim}}", lambda o: list(o.val.metrics), ["ssim"]),
        ("path:resume_state=~", lambda o: o.path.resume_state, None),
        ("name=other", lambda o: o.name, "other"),
    ],
)
def test_overrides(override, get, value, yml):
    assert get(load(yml, [override])) == value
    assert type(get(load(yml, [override]))) is type(value)


def test_overrides_apply_in_order_and_leave_the_file(yml):
    before = yml.read_text()
    assert load(yml, ["name=a", "name=b", "val:max_images=2"]).name == "b"
    assert yml.read_text() == before
    assert load(yml).name == "run"


@pytest.mark.parametrize("code", ["__import__('os').mkdir('hacked')", "!!python/object/apply:os.mkdir [hacked]", "exec('x')"])
def test_overrides_are_never_evaluated(code, yml, root):
    try:
        opt = load(yml, [f"network_g:note={code}"])
    except UserError:
        pass
    else:
        assert opt.network_g.arguments["note"] == code  # plain text
    assert not (root / "hacked").exists()


@pytest.mark.parametrize(
    "bad", ["val", "=1", "val:=1", ":save_img=1", "name:x=1", "val:metrics=[", "name=2020-13-45", "name=[x]: 1"]
)
def test_bad_overrides(bad, yml):
    with pytest.raises(UserError):
        load(yml, [bad])


def test_words_without_meaning_are_accepted_and_said(root, caplog):
    content = (
        "dist_params: {backend: nccl, port: 29500}\n"
        "datasets: {train: {prefetch_mode: ~, use_shuffle: true, dataroot_gt: a, dataroot_lq: b}}\n"
        "val: {rgb2bgr: true, use_image: false, max_minibatch: 8}\n"
    )
    with caplog.at_level(logging.INFO, "basicsr"):
        opt = load(text(root, content))
    assert opt.datasets["train"].arguments == {"dataroot_gt": "a", "dataroot_lq": "b"}
    for word in ("dist_params", "datasets.use_shuffle", "val.rgb2bgr", "val.max_minibatch"):
        assert sum(message.startswith(f"{word} has no effect: ") for message in caplog.messages) == 1
    assert opt.val.use_image is False  # which has: metrics of unrounded values
    assert not any("prefetch_mode" in message for message in caplog.messages)  # ~ asks for nothing


def test_wandb_as_the_published_files_have_it(root):
    opt = load(text(root, "logger: {wandb: {project: ~, resume_id: ~}}\n"))
    assert (opt.logger.wandb.project, opt.logger.wandb.resume_id, opt.logger.wandb.mode) == (None, None, "online")


def test_all_losses_are_the_first_one_and_the_list(yml):
    more = "train:losses=[{type: L1Loss, loss_weight: 0.5}, {type: EdgeLoss}]"
    assert [loss.type for loss in load(yml, [more]).train.all_losses] == ["PSNRLoss", "L1Loss", "EdgeLoss"]
    assert [loss.type for loss in load(yml, [more, "train:pixel_opt=~"]).train.all_losses] == ["L1Loss", "EdgeLoss"]


def test_grids_can_be_turned_off_where_crop_size_stands(root):
    """`grids: false` beside crop_size, as the published files have it, and as an override gives it."""
    opt = load(text(root, "val: {grids: true, crop_size: 256}"), ["val:grids=false"])
    assert (opt.val.grids, opt.val.crop_size) == (False, 256)
    with pytest.raises(UserError, match="crop_size belongs to `grids: true`"):
        load(text(root, "val: {crop_size: 256}"))


@pytest.mark.parametrize(("written", "tile"), [("0", None), ("~", None), ("false", None), ("auto", "auto"), ("256", 256)])
def test_tile(written, tile, root):
    assert load(text(root, f"val: {{tile: {written}, tile_overlap: ~}}")).val.tile == tile


@pytest.mark.parametrize(("written", "norm"), [("true", 0.01), ("false", None), ("0.5", 0.5)])
def test_gradient_clip(written, norm, yml):
    assert load(yml, [f"train:use_grad_clip={written}"]).train.max_grad_norm == norm


def test_options_import_no_torch():
    code = "import sys, basicsr.options; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_reading_does_not_depend_on_the_order(yml, train_options):
    reverse = dict(reversed(list(train_options.items())))
    assert parse(reverse, "x") == load(yml)
    assert yaml.safe_load(yml.read_text()) == train_options


# The registry: the signature is the schema.


def thing(*, size: int, names: tuple[str, ...] = (), rate: float = 1.0, flag: bool = False, way: str | None = None) -> tuple:
    if size < 0:
        raise ValueError("size is negative")
    if size == 0:
        raise RuntimeError("no layer of size 0\nwith details")
    return size, names, rate, flag, way


@pytest.fixture
def things() -> Registry:
    registry = Registry("thing")
    registry.register(thing)
    return registry


def test_a_registry_builds(things):
    assert things.build("thing", {"size": 3, "names": ["a"], "rate": 2}) == (3, ("a",), 2.0, False, None)
    assert "thing" in things
    assert things.names() == ["thing"]
    with pytest.raises(ValueError, match="registered already"):
        things.register(thing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sise": 3}, r"here.sise: thing has no option `sise`. Did you mean `size`\? Its options: size, names"),
        ({}, "here: thing needs the option `size`"),
        ({"size": "three"}, "here.size: 'three' does not fit"),
        ({"size": "3"}, "here.size: '3' does not fit: it must be of type int"),
        ({"size": True}, "here.size: True does not fit"),
        ({"size": 2.5}, "here.size: 2.5 does not fit"),
        ({"size": 1, "flag": "yes"}, "here.flag: 'yes' does not fit"),
        ({"size": 1, "names": "ab"}, "here.names: 'ab' does not fit"),
        ({"size": -1}, "here: size is negative."),
        ({"size": 0}, "here: no layer of size 0.$"),
    ],
)
def test_arguments_are_checked(arguments, message, things):
    with pytest.raises(UserError, match=message):
        things.build("thing", arguments, "here")


def test_bind_leaves_what_each_call_gives(things):
    bound = things.bind("thing", {"rate": 3}, "here", later=("size",))
    assert bound(size=2)[:3] == (2, (), 3.0)
    with pytest.raises(UserError, match="no option `size`"):
        checked_arguments(thing, {"size": 1}, "here", later=("size",))


def test_nearest_names_and_lists():
    assert did_you_mean("Restorner", ["HINet", "Restormer"]) == " Did you mean `Restormer`?"
    assert did_you_mean("xyz", ["HINet"]) == ""
    assert first_ten("abc") == "a, b, c"
    assert first_ten(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (12 in all)"


def test_an_expected_figure_that_is_not_measured_is_refused():
    data = {"name": "run", "network_g": {"type": "NAFNet"}, "expected": {"pnsr": 30}}
    data["val"] = {"metrics": {"psnr": {"type": "calculate_psnr"}}}
    with pytest.raises(UserError, match=r"expected\.pnsr: val\.metrics has no `pnsr`\. Did you mean `psnr`"):
        parse(data, "file.yml")


def test_an_empty_value_of_a_data_set_means_its_default():
    data = {"name": "run", "network_g": {"type": "NAFNet"}, "datasets": {"val": {"dataroot_gt": "a", "filename_tmpl": None}}}
    assert parse(data, "file.yml").datasets["val"].arguments == {"dataroot_gt": "a"}
