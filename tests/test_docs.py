"""README and docs: their commands and those of every `--help` run on small data, their code runs, their links lead somewhere.

The files that the commands name lie in a small copy of the repository: shipped options with little to do, small weights under
the published names, small pictures. QUICK is what is added to a command to make it quick; NOT_RUN is what cannot be run here.
"""

import importlib.util
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, SMALL_NETS, film, make_pairs, picture, smooth, write, write_yaml

from basicsr import __version__, commands, options
from basicsr.archs import base_type, build_network
from basicsr.commands import benchmark
from basicsr.commands.parser import Parser
from basicsr.engine.benchmark import measure, meters
from basicsr.options import load
from basicsr.tlc import rules
from basicsr.utils.video import is_video

FOLDERS = ("*", "docs/*", "datasets/**/*", "options/**/*", "experiments/pretrained_models/*", "examples/**/*")
ALL_PAGES = sorted({page.relative_to(REPOSITORY).as_posix() for place in FOLDERS for page in REPOSITORY.glob(f"{place}.md")})
ELSEWHERE = ("examples/my_arch/README.md",)  # test_examples.py follows it
HELPS = [f"tlc {name} --help" for name in commands.COMMANDS]

# What makes a command quick: words, which replace those of the page, and overrides.
ONE = ("--workers", "1")
QUICK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "train": ((), ("train:total_iter=2",)),
    "pairs": (("--crop", "40", "--val_crop", "48", *ONE), ()),
    "crops": (("--crop_size", "32", "--step", "16", *ONE), ()),
    "check-data": (("--crop", "16", *ONE), ()),
    "degrade": (ONE, ()),
    "lmdb": (ONE, ()),
    "prepare": (ONE, ()),
    "export": (("--sizes", "32x40"), ()),
    "sweep": (("--max_images", "1"), ()),
    "flicker": (("--max_images", "2"), ()),
    "convert": (("--size", "none"), ()),
    "benchmark": (("--sizes", "32x32", "--gt_size", "16", "--seconds", "0.1", "--device", "cpu", *ONE), ()),
}
# By their first word; where a command of `tlc` is behind it, its words are checked.
NOT_RUN = {
    "torchrun": "needs as many GPUs as it says; two processes on a CPU are tested in test_distributed.py",
    "srun": "needs slurm; its variables are tested in test_distributed.py",
    "make": "sets up an environment of its own; what it calls there stands on these pages, or is tested elsewhere",
}
PYAV = importlib.util.find_spec("av") is not None  # without it, commands on videos are not run
# Blocks of Python on a page may use `net`: one of these.
NETS = {"docs/when_tlc_hurts.md": "HINet"}


# ---- what the pages hold


@cache
def text_of(source: str) -> str:
    """A page, or what a command's help says."""
    if source in HELPS:
        examples = parsers()[source.split()[1]].description.partition("examples:\n")[2].partition("\n\n")[0]
        return f"```\n{examples}\n```\n"
    return (REPOSITORY / source).read_text(encoding="utf-8")


def prose(source: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text_of(source), flags=re.DOTALL | re.MULTILINE)


def blocks(source: str, language: str) -> list[str]:
    """The blocks of code in a language; commands have none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text_of(source), flags=re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def commands_of(source: str) -> list[list[str]]:
    """The words of every command; a backslash goes on in the next line, what follows on # is a comment."""
    lines = [line for block in blocks(source, "") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def spans(source: str) -> Iterator[str]:
    """Code between words, in one line."""
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(source)))


@cache
def parsers() -> dict[str, Parser]:
    (action,) = (action for action in commands.build_parser()._actions if action.dest == "command")
    return dict(action.choices)


def flags(parser: Parser) -> set[str]:
    """All words of a command that begin with a hyphen, with those of its subcommands."""
    own = {flag for action in parser._actions for flag in action.option_strings}
    below = (action.choices.values() for action in parser._actions if isinstance(action.choices, dict))
    return own.union(*(flags(sub) for subs in below for sub in subs))


PAGES = [page for page in ALL_PAGES if page not in ELSEWHERE and commands_of(page)]
ON_PAGES = [words for page in PAGES for words in commands_of(page)]


# ---- a small copy of the repository


def small(opt: dict) -> dict:
    """Options of a shipped file with little to do: published networks small, two steps, tiny patches."""
    if "Sample" not in str(opt.get("path", {}).get("pretrain_network_g")) or "train" in opt:
        opt["network_g"] |= SMALL_NETS[base_type(opt["network_g"]["type"])]
    if "train" in opt:
        opt["train"] |= {"total_iter": 2, "scheduler": {"type": "TrueCosineAnnealingLR", "T_max": 2, "eta_min": 1e-7}}
        opt["train"].pop("warmup_iter", None)
        opt["datasets"]["train"] |= {"gt_size": 16, "batch_size_per_gpu": 2, "batch_size": 2, "num_worker_per_gpu": 0}
        opt["datasets"]["train"].pop("progressive", None)
        opt["val"]["val_freq"] = 2
        opt["logger"] = {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False}
    return opt


def photographs(folder: Path, *names: str, size: tuple[int, int] = (56, 64), brighter: int = 0) -> None:
    for seed, name in enumerate(names):
        write(folder / name, np.clip(picture(seed, *size).astype(int) + brighter, 0, 255).astype(np.uint8))


def archives(root: Path) -> None:
    """The published archives, one clip each; what is blurred in them is brighter here."""
    for split, seed in (("train", 0), ("test", 1)):
        for side, brighter in (("blur", 9), ("sharp", 0)):
            names = ("000001.png", "000002.png")[seed:]
            photographs(root / f"GOPRO_Large/{split}/{split}_clip/{side}", *names, size=(56, 72), brighter=brighter)
    for folder, brighter in (("test/test-close-ups", 9), ("GT", 0)):
        photographs(root / "HIDE_dataset" / folder, "1fromGOPR0950.png", size=(56, 72), brighter=brighter)
    for folder, suffix, brighter in (("val_blur_jpeg", "jpg", 9), ("val_sharp", "png", 0)):
        photographs(
            root / f"REDS/val/{folder}/000", f"00000009.{suffix}", f"00000019.{suffix}", size=(56, 72), brighter=brighter
        )
    photographs(root / "REDS/val/blur_300", "000_00000009.png")
    for seed, side in enumerate(("input", "target")):
        write(root / "Rain13K/train" / side / "1.jpg", picture(seed))
    for seed, word in enumerate(("NOISY", "GT")):
        write(root / f"SIDD_Medium_Srgb/Data/0001/0001_{word}_SRGB_010.PNG", picture(seed, 512, 520))
    for seed, side in enumerate(("inputL", "inputR", "inputC", "target")):
        write(root / "DPDD/train" / side / "1.png", picture(seed, 512, 520, np.uint16))
    for folder in ("DIV2K", "Flickr2K", "WaterlooED", "BSD400"):
        write(root / "Downloads" / folder / "1.png", picture(0))
    for seed, side in enumerate(("blur", "gt")):
        write(root / f"RealBlur/J/scene001/{side}/{side}_1.png", picture(seed))
    (root / "RealBlur/RealBlur_J_test_list.txt").write_text("J/scene001/gt/gt_1.png J/scene001/blur/blur_1.png\n")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("template")
    for file in (REPOSITORY / "options").rglob("*.yml"):
        write_yaml(root / file.relative_to(REPOSITORY), small(yaml.safe_load(file.read_text(encoding="utf-8"))))
    folder = root / "experiments/pretrained_models"
    folder.mkdir(parents=True)
    for file in (REPOSITORY / "experiments/pretrained_models").glob("*.safetensors"):
        (folder / file.name).symlink_to(file)
    for name in ("HINet-GoPro", "MPRNet-GoPro", "Restormer-GoPro", "NAFNet-GoPro-width32"):
        net = build_network({"type": name.split("-")[0], **SMALL_NETS[name.split("-")[0]]})
        torch.save({"params": net.state_dict()}, folder / f"{name}.pth")
    shutil.copy(folder / "Restormer-GoPro.pth", root / "motion_deblurring.pth")
    (root / "experiments/MyNet/models").mkdir(parents=True)
    shutil.copy(folder / "Restormer-GoPro.pth", root / "experiments/MyNet/models/net_g_9000.pth")

    names = [path.stem for path in sorted((REPOSITORY / "datasets/Sample/test/target").iterdir())]
    for kind in ("noise", "blur"):
        make_pairs(root / "datasets/Sample/test", tuple(names[:3]), 56, 64)
        (root / "datasets/Sample/test/input").rename(root / f"datasets/Sample/test/input_{kind}")
    (root / f"datasets/Sample/test/target/{names[1]}.png").unlink()
    photographs(root / "datasets/Sample/test/target", f"{names[1]}.jpg")  # which the files of options/demo name
    photographs(root / "datasets/Sample/demo", "02_colosseum_blur.jpg", "02_colosseum_noise.png", "05_spices_noise.png")
    for split in ("train", "test"):
        make_pairs(root / f"datasets/GoPro/{split}", ("c-000001", "c-000002", "c-000003"), height=56, width=64)
    make_pairs(root / "clips", ("000_00000001", "000_00000002"), height=56, width=64)
    (root / "clips/target").rename(root / "clips/sharp")
    (root / "clips/input").rename(root / "clips/blurry")
    for folder in ("my/val", "my"):
        make_pairs(root / folder, height=56, width=64)
        (root / folder / "target").rename(root / folder / "sharp")
        shutil.copytree(root / folder / "input", root / folder / "noisy")
        (root / folder / "input").rename(root / folder / "blurry")
    photographs(root, "photo.jpg")
    if PYAV:
        film(root / "clip.mp4", [smooth(number) for number in range(2)])
    photographs(root / "photos", "a.jpg", "b.png")
    shutil.copytree(root / "photos", root / "my/photos")
    photographs(root / "photographs", "large.png", size=(512, 512))
    own = [f"{name}.jpg" for name in ("one", "two", "three", "holiday1", "holiday2", "four", "five")]
    photographs(root / "my_photographs", *own)
    archives(root)
    (root / "my_package").mkdir()
    (root / "my_package/my_file.py").write_text(
        "from torch import nn\n\n\nclass MyNet(nn.Module):\n    def __init__(self, width=8):\n        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(3, width, 1), nn.InstanceNorm2d(width), nn.Conv2d(width, 3, 1))\n\n"
        "    def forward(self, x):\n        return x + self.body(x)\n"
    )
    (root / "examples/my_arch").mkdir(parents=True)
    shutil.copy(REPOSITORY / "examples/my_arch/my_arch.py", root / "examples/my_arch")
    shutil.copy(REPOSITORY / "hubconf.py", root)
    return root


@pytest.fixture
def place(template, tmp_path, monkeypatch, forget_own_code) -> Path:
    root = tmp_path / "root"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.setattr(options, "ROOT", root)
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))  # rules that a page registers end with it
    monkeypatch.setattr(measure, "in_a_process", measure.measure)  # this one: another would import torch anew
    monkeypatch.setattr(meters.Meter, "rows", 64)
    monkeypatch.setattr(benchmark, "NETS", SMALL_NETS)
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    return root


def quick(words: list[str]) -> list[str]:
    """A command with what makes it quick; overrides come last, as they take all words that follow."""
    more, overrides = QUICK.get(words[1], ((), ()))
    known = flags(parsers()[words[1]])
    assert {flag for flag in more if flag.startswith("-")} <= known
    at = words.index("--force_yml") if "--force_yml" in words else len(words)
    force = [*(words[at:] or ["--force_yml"]), *overrides] if overrides or words[at:] else []
    return [*words[:at], *more, *force]


# ---- the tests


@pytest.mark.parametrize("source", PAGES + HELPS)
def test_commands_run(source, place, run, forget_own_code):
    if "options/train/Sample" in text_of(source):  # its pairs, made as the pages say
        pairs = ["tlc", "pairs", "--input", "my_photographs", "--kind", "noise", "--val", "one", "two", "three"]
        assert run(*quick(pairs)[1:]).code == 0
    given = set(place.rglob("*"))
    for words in commands_of(source):
        forget_own_code()  # each command is a process of its own
        if source in HELPS and words in ON_PAGES:  # run there
            continue
        if source in HELPS:  # its examples do not follow one another
            for path in sorted(set(place.rglob("*")) - given, reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        if words[0] in NOT_RUN:
            behind = next((words[i + 1 :] for i, word in enumerate(words) if word in ("tlc", "basicsr")), None)
            if behind:
                commands.build_parser().parse_args(behind)
            continue
        if not PYAV and any(is_video(Path(word)) for word in words):
            continue
        assert words[0] == "tlc", f"{' '.join(words)}: is no command of tlc, and NOT_RUN does not say why it cannot be run"
        outcome = run(*quick(words)[1:])
        assert outcome.code == 0, (" ".join(words), outcome)
        assert "random initial weights" not in outcome.out


@pytest.mark.parametrize("source", [page for page in ALL_PAGES if page not in ELSEWHERE and blocks(page, "python")])
def test_code_runs(source, place):
    torch.manual_seed(0)
    name = NETS.get(source, "NAFNet")
    names = {"net": build_network({"type": name, **SMALL_NETS[name]}).eval()}
    for block in blocks(source, "python"):
        exec(compile(block, source, "exec"), names)


@pytest.mark.parametrize("source", [page for page in ALL_PAGES if blocks(page, "yaml")])
def test_options_are_options(source, place):
    """Every piece of YAML, put into a shipped file, is accepted."""
    for block in blocks(source, "yaml"):
        base = yaml.safe_load(Path("options/train/Sample/NAFNet-SampleNoise.yml").read_text(encoding="utf-8"))
        for key, value in yaml.safe_load(block).items():
            base[key] = {**base[key], **value} if key in ("train", "val") else value
        load(write_yaml(place / "piece.yml", base))


@pytest.mark.parametrize("source", ALL_PAGES)
def test_words_between_words_exist(source):
    """Commands, their flags, scripts and targets of make that prose names."""
    if source == "CHANGELOG.md":  # names what is gone
        return
    everywhere = set().union(*map(flags, parsers().values())) | flags(commands.build_parser())
    everywhere |= set(re.findall(r'"(--\w+)"', "".join(p.read_text() for p in (REPOSITORY / "scripts").glob("*.py"))))
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    for span in spans(source):
        program, *words = re.split(r"\s+", span)
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        if program == "tlc" and words and words[0] != "COMMAND" and not words[0].startswith("-"):
            assert words[0] in parsers(), span
            assert given <= flags(parsers()[words[0]]), span
        elif re.match(r"--[a-z]", program):
            assert program.partition("=")[0] in everywhere, span
        elif program == "make":
            assert words[0] in targets, span
        for path in re.findall(r"(?:scripts|basicsr|options|docs|tests|examples)/[\w/.-]+\.\w+", span):
            assert (REPOSITORY / path).exists(), span


def anchors(source: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(source), flags=re.MULTILINE)
    words = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in words}


@pytest.mark.parametrize("source", ALL_PAGES)
def test_links_lead_somewhere(source):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(source)):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = os.path.normpath(Path(source).parent / target) if target else source
        assert (REPOSITORY / file).exists(), link
        assert not anchor or anchor in anchors(file), link


OPTIONS = sorted(file.relative_to(REPOSITORY).as_posix() for file in (REPOSITORY / "options").rglob("*.yml"))


@pytest.mark.parametrize("file", OPTIONS)
def test_commands_in_comments_of_options_exist(file):
    comments = re.findall(r"#(.*)$", (REPOSITORY / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name, rest in re.findall(r"\btlc ([a-z-]+)(.*)", "\n".join(comments)):
        assert set(re.findall(r"(?<=\s)--?[a-z][\w-]*", rest)) <= flags(parsers()[name]), rest
    for path in re.findall(r"\b(?:scripts|docs|examples)/[\w/.-]+\.\w+", "\n".join(comments)):
        assert (REPOSITORY / path).exists()


def test_the_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 140


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    paper = citation["preferred-citation"]
    assert {author["family-names"] for author in paper["authors"]} == {"Chu", "Chen", "Lu"}
    assert paper["title"] in text_of("README.md")
    released = re.findall(r"^## \[([\d.]+)\]", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    assert released[0] == __version__


def test_the_workflow_tests_the_pythons_that_the_readme_names():
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    pythons = job["strategy"]["matrix"]["python"]
    assert f"Python {pythons[0]} to {pythons[-1]}" in text_of("README.md")
    assert {"make", "test"} < set(shlex.split(job["steps"][-1]["run"]))
    torch_of_make = re.search(r"^TORCH \?= (\S+)$", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)[1]
    assert torch_of_make in job["env"]["TORCH"]
