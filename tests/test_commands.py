"""`tlc`: its commands, the words that they share, and the mistakes that one makes with them."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, make_pairs, picture, write, write_yaml

from basicsr import commands
from basicsr.commands import convert
from basicsr.commands.parser import Parser
from basicsr.engine.benchmark import measure
from basicsr.engine.weights import About
from basicsr.errors import UserError
from basicsr.utils.checkpoint import save_torch, save_weights
from basicsr.utils.image import read_image

SHARED = {
    "window": {"test", "flicker", "restore", "convert", "export", "benchmark"},
    "train_size": {"test", "flicker", "restore", "convert", "export", "benchmark", "sweep"},
    "tlc": {"test", "restore", "export"},
    "device": {"test", "flicker", "restore", "train", "convert", "sweep", "benchmark"},
    "weights": {"test", "flicker", "restore", "convert", "export", "sweep"},
    "force_yml": {"test", "flicker", "restore", "train", "convert", "sweep", "export"},
}


def choices() -> dict[str, Parser]:
    (action,) = (action for action in commands.build_parser()._actions if action.dest == "command")
    return action.choices


def examples() -> list[str]:
    """Every command line in the helps."""
    texts = [parser.description for parser in choices().values()]
    return [line.strip() for text in texts for line in text.splitlines() if re.match(r" +(tlc|torchrun) ", line)]


def test_help_needs_no_torch():
    code = "import sys; from basicsr.commands import build_parser; build_parser().format_help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_examples(name):
    text = choices()[name].format_help()
    assert re.search(rf"^ +tlc {name} ", text, re.MULTILINE)
    assert re.search(r"^examples:$", text, re.MULTILINE)


@pytest.mark.parametrize("line", examples())
def test_examples_are_words_that_the_command_has(line):
    """What they do is tested in test_docs.py."""
    words = shlex.split(line)
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
        assert words[0] == "basicsr"
    commands.build_parser().parse_args(words[1:])


@pytest.mark.parametrize("word", SHARED)
def test_shared_words_are_shared(word):
    have = {name for name, parser in choices().items() if any(action.dest == word for action in parser._actions)}
    assert have == SHARED[word]
    helps = {a.help for parser in choices().values() for a in parser._actions if a.dest == word}
    assert len(helps) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tset"], ("invalid choice: 'tset'", "Did you mean `test`")),
        ([], ("required: COMMAND",)),
        (["test", "--tile_size", "3", "-opt", "x"], ("--tile_size: `tlc test` has no such argument", "Did you mean `--tile`?")),
        (["weights", "convert", "a.pth", "b.pth", "--para_key", "x"], ("--para_key", "`tlc weights convert`", "`--param_key`")),
        (["test", "-opt"], ("-opt: expected one argument. See `tlc test --help`.",)),
        (["test", "--precision", "fp8"], ("--precision: invalid choice: 'fp8'",)),
        (["test", "--window", "0"], ("--window: '0' is no whole number of 1 or more",)),
        (["test"], ("-opt FILE", "--weights")),
        (["test", "-opt", "x.yml", "--gt", "a"], ("leave out --gt and --lq",)),
        (["restore", "a.png", "--task", "blur", "-opt", "x.yml"], ("--task chooses a bundled network",)),
        (["restore", "a.png", "--net", "HINet"], ("--net HINet: name its weights",)),
        (["convert"], ("name a network",)),
        (["export"], ("name a network",)),
        (["sweep", "--weights", "w.pth"], ("-opt FILE", "--gt and --lq")),
        (["convert", "-opt", "x.yml", "--net", "HINet"], ("--net HINet: network_g of x.yml",)),
        (["convert", "--weights", "w.pth"], ("w.pth do not exist; see ", "for the published ones.")),
        (["convert", "--net", "my_package/my_file.py"], ("write package.module:Name, such as my_package.my_file:MyNet",)),
        (["convert", "--net", "NAFNet", "--force_yml", "network_g:width=0"], ("network_g.width: it is 0, which NAFNet",)),
        (["benchmark", "--sizes", "300"], ("'300' is not WIDTHxHEIGHT",)),
    ],
)
def test_mistakes_are_one_sentence(words, says, root):
    with pytest.raises(UserError) as caught:
        commands.run(words)
    assert all(text in str(caught.value) for text in says), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(root.iterdir())


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there(device, run, root, test_options):
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("it is there")
    end = run("test", "-opt", write_yaml(root / "x.yml", test_options), "--device", device)
    assert end.code == 2
    assert f"--device {device}: torch" in end.err


@pytest.mark.parametrize("word", ["--window", "--train-size"])
def test_windows_that_are_turned_off(word, run, root, test_options):
    end = run("test", "-opt", write_yaml(root / "x.yml", test_options), "--tlc", "off", word, "96")
    assert end.code == 2
    assert f"{word} is a setting of TLC, which --tlc off turns off" in end.err


def test_both_spellings_of_a_word():
    for word in ("--train-size", "--train_size"):
        assert commands.build_parser().parse_args(["test", word, "96"]).train_size == 96
    for word in ("--max_images", "--max-images"):
        assert commands.build_parser().parse_args(["test", word, "3"]).max_images == 3
    assert "--train_size" not in choices()["test"].format_help()


def test_shells_complete_it():
    done = subprocess.run(
        [sys.executable, "-m", "basicsr", "--print-completion", "bash"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "check-data" in done.stdout
    assert "--train-size" in done.stdout


def test_words_of_their_own_and_force_yml_which_wins(run, root, test_options):
    make_pairs(root / "datasets/Set")
    file = write_yaml(root / "x.yml", test_options)
    words = (
        "--precision",
        "bf16",
        "--tile",
        "16",
        "--max_images",
        "2",
        "--device",
        "cpu",
        "--window",
        "24",
        "--train-size",
        "16",
    )
    assert run("test", "-opt", file, *words, "--force_yml", "val:precision=fp32", "val:tile_overlap=4").code == 0
    report = json.loads((root / "results/run/report.json").read_text())
    assert report["config"]["val"]["precision"] == "fp32"
    assert report["config"]["val"]["tile"] == 16
    assert report["config"]["num_gpu"] == 0
    assert report["config"]["network_g"]["tlc"] == {"train_size": 16, "base_size": 24}
    assert [(r["network"], len(r["images"])) for r in report["runs"]] == [("NAFNetLocal", 2)]


def test_a_photograph_and_nothing_else(run, tmp_path, monkeypatch):
    """The bundled network, the result beside the photograph, never over it."""
    monkeypatch.chdir(tmp_path)
    photo = write(tmp_path / "photos/a.jpg", picture(1, 40, 56))
    before = photo.read_bytes()
    end = run("restore", photo)
    assert end.code == 0, end
    assert "Removing noise with the bundled NAFNet-SampleReal (--task blur: blur)" in end.out
    assert photo.read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["a.jpg", "a_restored.png"]
    noise = read_image(tmp_path / "photos/a_restored.png")
    assert noise.shape == (40, 56, 3)
    assert run("restore", photo, "--task", "blur").code == 0
    assert abs(read_image(tmp_path / "photos/a_restored.png") - noise).max() > 0


def test_a_folder_and_nothing_else(run, tmp_path):
    for name in ("a.png", "b.png"):
        write(tmp_path / "photos" / name, picture(1, 24, 32))
    assert run("restore", tmp_path / "photos", "--tlc", "off").code == 0
    assert sorted(path.name for path in (tmp_path / "photos_restored").iterdir()) == ["a.png", "b.png"]
    assert len(list((tmp_path / "photos").iterdir())) == 2


def test_convert_prints_the_report_and_the_cost(run, root, monkeypatch):
    monkeypatch.setattr(measure, "in_a_process", measure.measure)  # the next test starts one
    monkeypatch.setattr(convert, "SECONDS", 0.2)
    end = run(
        "convert",
        "--net",
        "NAFNet",
        "--force_yml",
        "network_g:width=4",
        "--train-size",
        "32",
        "--window",
        "40",
        "--size",
        "48x40",
    )
    assert end.code == 0, end.err
    assert "trained on 32x32" in end.out
    assert "window 40x40" in end.out
    cost = re.search(r"cost of 48x40 on the cpu: ([\d.]+) s without TLC, ([\d.]+) s with it \(([\d.]+) times\)", end.out)
    plain, local, ratio = map(float, cost.groups())
    assert ratio == pytest.approx(local / plain, rel=0.03)
    assert not list(root.iterdir())


def test_a_network_of_ones_own_is_benchmarked(run, root, forget_own_code):
    (root / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 3, 1))\n"
        "    def forward(self, x):\n"
        "        return x + self.body(x)\n"
    )
    end = run(
        "benchmark", "--nets", "mine:Net", "--train-size", "32", "--sizes", "64x48", "--device", "cpu", "--seconds", "0.1"
    )
    assert end.code == 0, end.err
    (result,) = json.loads((root / "results/benchmark.json").read_text())["results"]
    assert result["case"]["local"]["tlc"] == {"train_size": 32}
    assert result["ratio"] > 0


def test_weights_of_ones_own_trainings_are_at_hand(run, root):
    said = About({"type": "MPRNet"}, 96).as_metadata()
    save_weights(root / "experiments/mine/models/net_g_best.pth", {"a": torch.zeros(3)}, said)
    save_weights(root / "experiments/mine/models/net_g_100.pth", {"a": torch.zeros(3)}, said)
    save_torch(root / "experiments/other/models/net_g_latest.pth", {"a": torch.zeros(3)})
    (root / "experiments/broken/models").mkdir(parents=True)
    (root / "experiments/broken/models/net_g_latest.pth").write_bytes(b"x")
    end = run("weights", "list")
    assert end.code == 0
    assert re.search(r"MB  experiments/mine/models/net_g_best\.pth  MPRNet, trained on 96x96$", end.out, re.MULTILINE)
    assert re.search(r"MB  experiments/other/models/net_g_latest\.pth$", end.out, re.MULTILINE)
    assert re.search(r"broken/models/net_g_latest\.pth  .* no readable checkpoint", end.out)
    assert "net_g_100" not in end.out


def test_weights_that_are_at_hand(run):
    end = run("weights", "list")
    assert end.code == 0
    assert re.search(r"^NAFNet-SampleReal  .* 31\.\d\d / \.\d{3} .*1\.8    MIT             bundled$", end.out, re.MULTILINE)
    assert run("weights").out == end.out


def test_a_number_of_photographs_to_validate_on(run, root):
    for number in range(6):
        write(root / f"photos/p{number}.png", picture(number, 40, 56))
    words = ("pairs", "--input", "photos", "--output", "out", "--crop", "32", "--workers", "1")
    assert run(*words, "--val", "2").code == 0
    names = {path.name for path in (root / "out/val/target").glob("*.png")}
    assert names == {f"p{number}_s00{crop}.png" for number in (1, 4) for crop in (1, 2)}  # of 40, as the photographs are high
    assert run(*words, "--val", "6", "--overwrite").code == 2


def test_figures_of_a_plain_network_are_not_compared_with_its_local_variant(run, root, test_options):
    make_pairs(root / "datasets/Set")
    file = write_yaml(root / "x.yml", {**test_options, "expected": {"psnr": 30.0}})
    assert "published 30" in run("test", "-opt", file, "--tlc", "both").out
    found = run("test", "-opt", file, "--tlc", "both", "--window", "24", "--train-size", "16").out
    assert "NAFNet psnr: published 30" in found
    assert "NAFNetLocal psnr: published" not in found


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_reader_that_has_seen_enough():
    code = "import sys\nfrom basicsr.utils.log import run_entry_point\n"
    code += "def main():\n    while True:\n        print('a line')\nsys.exit(run_entry_point(main))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "a line\n"
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""


def test_results_never_replace_what_is_read(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a.jpg"):
        write(tmp_path / name, picture(1, 24, 32))
    write(tmp_path / "gt/a.png", picture(2, 24, 32))
    truth = (tmp_path / "gt/a.png").read_bytes()
    end = run("restore", "a.png", "--output", "gt", "--target", "gt")
    assert (end.code, truth) == (2, (tmp_path / "gt/a.png").read_bytes())
    assert "would replace the input" in end.err
    end = run("restore", "a.png", "a.jpg")
    assert end.code == 0
    assert {path.name for path in tmp_path.glob("a_*")} == {"a_png_restored.png", "a_jpg_restored.png"}
    assert "in place of" not in run("restore", "a.png", "--tlc", "off").out
    assert "a_restored.png (in place of what was there)" in run("restore", "a.png", "--tlc", "off").out


def test_a_target_folder_without_the_picture_is_said(run, tmp_path):
    photo = write(tmp_path / "a.png", picture(1, 24, 32))
    write(tmp_path / "gt/b.png", picture(2, 24, 32))
    end = run("restore", photo, "--target", tmp_path / "gt")
    assert end.code == 0
    assert "gt has no picture called a, so that there is no PSNR" in end.out


def test_paths_in_messages_are_those_that_were_typed(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "error: nosuch.jpg: no photograph is there" in run("restore", "nosuch.jpg").err


def test_suffixes_are_found_by_check_data_as_by_test(run, root):
    make_pairs(root / "mine")
    for file in (root / "mine/input").iterdir():
        file.rename(file.with_name(f"{file.stem}_blur.png"))
    end = run("check-data", "--gt", "mine/target", "--lq", "mine/input", "--workers", "1")
    assert end.code == 0, end.out
    assert end.out.startswith("mine: 3 pairs")


def test_one_folder_is_no_pair(run, root):
    make_pairs(root / "mine")
    weights = REPOSITORY / "experiments/pretrained_models/NAFNet-SampleNoise.safetensors"
    end = run("test", "--weights", weights, "--gt", "mine/target", "--lq", root / "mine/target")
    assert end.code == 2
    assert "--gt and --lq are one folder, mine/target" in end.err
