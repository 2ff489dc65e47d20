"""Names of files that would steer a terminal, break lines of lists, or lead out of a folder; and texts that hold them."""

import csv
import logging
import os
from pathlib import Path

import pytest
from conftest import make_pairs, picture, write, write_yaml

from basicsr.data.pairs import folder_names
from basicsr.errors import UserError, printable
from basicsr.utils.image import scan

CONTROLS = [b"new\nline", b"esc\x1b[31m", b"tab\there", b"\xff\xfe", "a\u2028b".encode(), "a\x85b".encode()]
MARKUP = ["<script>", "=1+1|x", 'a,b"c', "*a*_b_", "[a](b)", "`a`", "$a$", "na\u200cme"]


@pytest.fixture
def names(root) -> Path:
    make_pairs(root / "Set", ("a", *MARKUP))
    for side in ("target", "input"):
        data = (root / "Set" / side / "a.png").read_bytes()
        for name in CONTROLS:
            with open(os.path.join(os.fsencode(root / "Set" / side), name + b".png"), "wb") as file:
                file.write(data)
    return root / "Set"


def test_names_that_no_list_can_hold_are_left_out_and_said(names):
    found = scan(names / "target")
    assert sorted(path.stem for path in found.files) == sorted(["a", *MARKUP])
    ((reason, left),) = found.left_out.items()
    assert "rename it" in reason
    assert sorted(left) == sorted(
        ["new\\nline.png", "esc\\x1b[31m.png", "tab\\there.png", "\\udcff\\udcfe.png", "a\\u2028b.png", "a\\x85b.png"]
    )
    assert found.summary().isprintable()


def test_a_folder_of_such_a_name_is_left_out(root):
    write(root / "Set" / "x\ny" / "a.png", picture(0))
    write(root / "Set" / "b.png", picture(0))
    found = scan(root / "Set")
    assert [path.name for path in found.files] == ["b.png"]
    assert list(found.left_out.values()) == [["x\\ny"]]


def test_reports_hold_markup_as_text(names, root, run, test_options):
    test_options["datasets"]["test"] |= {"name": "<b>|Set*", "dataroot_gt": "Set/target", "dataroot_lq": "Set/input"}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options), "--tlc", "both")
    assert outcome.code == 0, outcome
    folder = root / "results/run"
    with open(folder / "images.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted({row["image"] for row in rows}) == sorted(["a", *MARKUP])
    assert {row["dataset"] for row in rows} == {"<b>|Set*"}
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert r"\<b\>\|Set\*" in table
    assert "<b>" not in table


@pytest.mark.parametrize(
    "command",
    [
        ("lmdb", "--input", "Set/target", "--output", "x.lmdb"),
        ("crops", "--input", "Set/target", "--output", "crops", "--crop_size", "16", "--step", "8"),
        ("degrade", "--input", "Set/target", "--output", "worse", "--kind", "noise"),
    ],
    ids=lambda words: words[0],
)
def test_commands_take_the_others(command, names, run):
    outcome = run(*command)
    assert outcome.code == 0, outcome
    assert "\\udcff\\udcfe.png" in outcome.out or "..." in outcome.out


@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"new\nline.png"])
def test_a_picture_of_such_a_name_can_be_named_itself(name, names, root, run, test_options):
    opt = write_yaml(root / "opt.yml", {"name": "x", "num_gpu": 0, "network_g": test_options["network_g"]})
    outcome = run("restore", os.path.join("Set/input", os.fsdecode(name)), "-opt", opt, "--output", "out")
    assert outcome.code == 0, outcome
    assert os.listdir(os.fsencode(root / "out")) == [name]


def test_a_mistake_about_such_a_file_is_one_line(root, run, test_options):
    (root / "bad\n\x1b[2Jname.png").write_bytes(b"x")
    opt = write_yaml(root / "opt.yml", {"name": "x", "num_gpu": 0, "network_g": test_options["network_g"]})
    outcome = run("restore", "bad\n\x1b[2Jname.png", "-opt", opt, "--output", "out.png")
    assert outcome.code == 2
    assert "bad\\n\\x1b[2Jname.png: is not a readable image" in outcome.err
    assert "\x1b[2J" not in outcome.err


def test_messages_do_not_steer_the_terminal(capsys):
    from basicsr.utils.log import setup_logging

    setup_logging()
    logging.getLogger("basicsr").warning("%s", "a\x1b]0;x\x07\udcff\nb")
    assert capsys.readouterr().out == "warning: a\\x1b]0;x\\x07\\udcff\nb\n"


def test_what_prints_is_kept():
    text = "Ärger 圖 می‌خواهم 👩‍🔬 a\\b"
    assert printable(text) == text
    assert str(UserError("a\nb")) == "a\\nb"


def test_an_error_of_a_data_worker_is_its_sentence():
    text = "Caught UserError in DataLoader worker process 0.\nTraceback:\n  x\nbasicsr.errors.UserError: a.png: is damaged.\n"
    assert str(UserError(text)) == "a.png: is damaged."


def test_folders_above_are_no_part_of_names():
    assert folder_names([Path(".."), Path("b")]) == ("1/", "2/")
    assert folder_names([Path("x/a"), Path("x/b")]) == ("a/", "b/")
