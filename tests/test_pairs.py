"""Which images belong together: by patterns, lists, and folders in order; in data sets and in the commands."""

import json

import pytest
import yaml
from conftest import SMALL_NETS, picture, write, write_yaml

from basicsr.data import PairedImageDataset, SyntheticDegradationDataset
from basicsr.data.pairs import Pairing, folder_names, templates
from basicsr.errors import UserError

RAIN = (["norain-001", "norain-002", "norain-010"], ["rain-001", "rain-002", "rain-010"])
SIDD = (["0001_GT_SRGB", "0002_GT_SRGB"], ["0001_NOISY_SRGB", "0002_NOISY_SRGB"])
HAZE = (["1", "2", "12"], ["12_1_0.9", "1_1_0.95", "1_2_0.8", "2_1_0.7"])


def make(root, gt: list[str], lq: list[str], folder: str = "set"):
    """Files of these names, and a number in them that tells which belong together: their grey level."""
    for side, names in (("gt", gt), ("lq", lq)):
        for number, name in enumerate(names):
            write(root / folder / side / f"{name}.png", picture(number, 20, 24))
    return {f"dataroot_{side}": str(root / folder / side) for side in ("gt", "lq")}


@pytest.mark.parametrize(
    ("names", "words", "pairs"),
    [
        (RAIN, {"filename_tmpl": "rain-{}", "filename_tmpl_gt": "norain-{}"}, list(zip(*RAIN, strict=True))),
        (SIDD, {"filename_tmpl": "{}_NOISY_SRGB", "filename_tmpl_gt": "{}_GT_SRGB"}, list(zip(*SIDD, strict=True))),
        (HAZE, {"filename_tmpl": "{}_*"}, [("1", "1_1_0.95"), ("1", "1_2_0.8"), ("12", "12_1_0.9"), ("2", "2_1_0.7")]),
        ((["a/x", "b/x"], ["a/x_1", "b/x_2"]), {"filename_tmpl": "{}_*"}, [("a/x", "a/x_1"), ("b/x", "b/x_2")]),
        (
            (["x"], ["noisy 3 of x", "noisy 4 of x"]),
            {"filename_tmpl": "noisy * of {}"},
            [("x", "noisy 3 of x"), ("x", "noisy 4 of x")],
        ),
        ((["a.b(1)"], ["a.b(1)+"]), {"filename_tmpl": "{}+"}, [("a.b(1)", "a.b(1)+")]),
    ],
)
def test_patterns(names, words, pairs):
    assert Pairing(**words).match(*names) == (pairs, [], [])


def test_one_folder_may_hold_both_sides():
    names = ["0001_GT", "0001_NOISY", "0002_GT", "0002_NOISY", "0003_GT", "readme"]
    found = Pairing("{}_NOISY", "{}_GT").match(names, names)
    assert found == ([("0001_GT", "0001_NOISY"), ("0002_GT", "0002_NOISY")], ["0003_GT", "readme"], [])


def test_who_has_no_partner_is_listed():
    pairing = Pairing("rain-{}", "norain-{}")
    assert pairing.match(["norain-1", "norain-2", "x"], ["rain-1", "rain-3"]) == (
        [("norain-1", "rain-1")],
        ["norain-2", "x"],
        ["rain-3"],
    )
    assert Pairing("{}_*").match(["a", "b"], ["a_1", "c_1"]) == ([("a", "a_1")], ["b"], ["c_1"])


def test_a_name_that_fits_several_is_refused():
    with pytest.raises(UserError, match=r"1_1_1 fits several ground truths, 1, 1_1; list the pairs in a meta_info_file"):
        Pairing("{}_*").match(["1", "1_1"], ["1_1_1"])


@pytest.mark.parametrize("names", [RAIN, SIDD, HAZE, (["a", "b"], ["a", "b"]), (["a", "b"], ["a_blur", "b_blur"])])
def test_patterns_are_found_from_the_names(names):
    pairing = Pairing(**templates(*names))
    pairs, alone_gt, alone_lq = pairing.match(*names)
    assert not alone_gt + alone_lq
    assert len(pairs) == len(names[1])


def test_names_without_a_pattern_have_none():
    assert templates(["a", "b"], ["x", "y"]) == {}
    assert templates(["a1", "b2"], ["x1", "y3"]) == {}


def test_of_many_to_one_the_degraded_picture_names_the_sample(root):
    data = PairedImageDataset(**make(root, *HAZE), filename_tmpl="{}_*")
    data.check()
    assert [data[i]["name"] for i in range(4)] == ["1_1_0.95", "1_2_0.8", "12_1_0.9", "2_1_0.7"]
    assert data.sizes == dict.fromkeys(["1_1_0.95", "1_2_0.8", "12_1_0.9", "2_1_0.7"], (20, 24))
    one = PairedImageDataset(**make(root, *RAIN, folder="rain"), filename_tmpl="rain-{}", filename_tmpl_gt="norain-{}")
    assert [one[i]["name"] for i in range(3)] == RAIN[0]


LISTS = {
    "tab": "x.png\tdeg/p.png\ny z.png\tdeg/q.png\n",
    "comma": "x.png, deg/p.png\ny z.png, deg/q.png",
    "no suffixes": "x,deg/p\r\n\r\ny z,deg/q\r\n",
    "sizes": "x.png\tdeg/p.png (20,24,3)\ny z.png\t./deg/q.png (20,24,3) 1\n",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_a_list_of_pairs(text, root):
    roots = make(root, ["x", "y z", "unlisted"], ["deg/p", "deg/q", "deg/r"])
    (root / "pairs.txt").write_text(text)
    data = PairedImageDataset(**roots, meta_info_file=str(root / "pairs.txt"))
    assert data.names == [("x", "deg/p"), ("y z", "deg/q")]


def test_a_list_may_name_one_ground_truth_often_or_alone(root):
    roots = make(root, ["1", "2"], ["1_a", "1_b", "2_a"])
    (root / "many.txt").write_text("1.png 1_b.png\n1.png 1_a.png\n")
    assert PairedImageDataset(**roots, meta_info_file=str(root / "many.txt")).names == [("1", "1_b"), ("1", "1_a")]
    (root / "alone.txt").write_text("2.png (20,24,3)\n")  # as BasicSR's lists
    assert PairedImageDataset(**roots, filename_tmpl="{}_a", meta_info_file=str(root / "alone.txt")).names == [("2", "2_a")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x.png\tdeg/z.png\n", "line 1: dataroot_lq has no `deg/z`"),
        ("xx.png\tdeg/p.png\n", "line 1: dataroot_gt has no `xx` Did you mean `x`?"),
        ("x\tdeg/p\nx\tdeg/p\n", "line 2 repeats line 1"),
        ("x\tdeg/p\tdeg/q\n", "line 1: 'x\\tdeg/p\\tdeg/q' is not one name or two"),
        ("x\t../../../etc/passwd\n", "line 1: dataroot_lq has no `../../../etc/passwd`"),
        ("\n", "lists no pairs"),
        (b"\xff\xfe\x00x", "no text in UTF-8"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_list_that_is_wrong(text, says, root):
    roots = make(root, ["x"], ["deg/p", "deg/q"])
    if text is not None:
        (root / "pairs.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        PairedImageDataset(**roots, meta_info_file=str(root / "pairs.txt"))
    assert str(error.value).startswith(f"meta_info_file {root / 'pairs.txt'}")
    assert says in str(error.value)


def test_several_folders_are_paired_in_order(root):
    one, two = make(root, ["a"], ["a"], "one"), make(root, ["a", "b"], ["a", "b"], "two")
    roots = {word: [one[word], two[word]] for word in one}
    data = PairedImageDataset(**roots)
    assert data.names == [(f"{n}",) * 2 for n in ("one/a", "two/a", "two/b")]
    assert [data[i]["name"] for i in range(3)] == ["one/a", "two/a", "two/b"]
    assert PairedImageDataset(dataroot_gt=[one["dataroot_gt"]], dataroot_lq=one["dataroot_lq"]).names == [("a", "a")]
    sharp = SyntheticDegradationDataset(dataroot_gt=roots["dataroot_gt"], kind="noise")
    assert len(sharp) == 3
    with pytest.raises(UserError, match=r"dataroot_gt names 2 folders, dataroot_lq 1: name as many"):
        PairedImageDataset(dataroot_gt=roots["dataroot_gt"], dataroot_lq=one["dataroot_lq"])
    with pytest.raises(UserError, match=r"dataroot_lq\.1: the folder .* does not exist"):
        PairedImageDataset(dataroot_gt=roots["dataroot_gt"], dataroot_lq=[one["dataroot_lq"], str(root / "none")])


def test_lists_of_several_folders(root):
    one, two = make(root, ["a"], ["p"], "one"), make(root, ["a"], ["q"], "two")
    roots = {word: [one[word], two[word]] for word in one}
    for name, partner in (("1.txt", "p"), ("2.txt", "q")):
        (root / name).write_text(f"a.png,{partner}.png\n")
    files = [str(root / "1.txt"), str(root / "2.txt")]
    assert PairedImageDataset(**roots, meta_info_file=files).names == [("one/a", "one/p"), ("two/a", "two/q")]
    with pytest.raises(UserError, match="meta_info_file names 1 files for 2 folders"):
        PairedImageDataset(**roots, meta_info_file=files[:1])


def test_folders_are_told_apart_by_what_differs(tmp_path):
    assert folder_names([tmp_path / "a/gt"]) == ("",)
    assert folder_names([tmp_path / "a/gt", tmp_path / "b/gt"]) == ("a/", "b/")
    assert folder_names([tmp_path / "x/y", tmp_path / "x/y"]) == ("1/", "2/")


# Through the commands.


@pytest.fixture
def weights(root):
    import torch

    from basicsr.archs import build_network

    net = build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]})
    torch.save({"params": net.state_dict()}, root / "w.pth")
    return root / "w.pth"


def test_a_training_on_rain_and_a_test_of_haze(root, run, train_options, test_options):
    """Roots and lists are relative to the repository, as all paths of a file."""
    make(root, *RAIN, folder="rain")
    make(root, *HAZE, folder="haze")
    make(root, ["a"], ["a"], folder="more")
    (root / "pairs.txt").write_text("1.png,1_2_0.8.png\n")
    rain = {"dataroot_gt": "rain/gt", "dataroot_lq": "rain/lq", "filename_tmpl": "rain-{}", "filename_tmpl_gt": "norain-{}"}
    train_options["datasets"]["train"] |= rain
    train_options["datasets"]["val"] = {"dataroot_gt": "haze/gt", "dataroot_lq": "haze/lq", "meta_info_file": "pairs.txt"}
    train_options["datasets"]["val_2"] = {"dataroot_gt": ["rain/gt", "more/gt"], "dataroot_lq": ["rain/lq", "more/lq"]}
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options), "--dry_run")
    assert outcome.code == 2
    assert "datasets.val_2.dataroot_gt and dataroot_lq do not match" in outcome.err
    del train_options["datasets"]["val_2"]
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options))
    assert outcome.code == 0, outcome
    assert "3 training images, 1 for validation" in outcome.out
    test_options["datasets"]["test"] = {"dataroot_gt": "haze/gt", "dataroot_lq": "haze/lq", "filename_tmpl": "{}_*"}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options), "--force_yml", "val:save_img=true")
    assert outcome.code == 0, outcome
    names = sorted(p.stem for p in (root / "results/run/visualization/test/NAFNet").iterdir())
    assert names == sorted(HAZE[1])


@pytest.mark.parametrize("names", [RAIN, SIDD, HAZE])
def test_weights_on_folders_whose_names_follow_a_pattern(names, root, run, weights):
    make(root, *names)
    outcome = run("test", "--weights", weights, "--gt", "set/gt", "--lq", "set/lq", "--force_yml", "name=t", "num_gpu=0")
    assert outcome.code == 0, outcome
    (one,) = json.loads((root / "results/t/report.json").read_text())["runs"]
    assert len(one["images"]) == len(names[1])


def test_weights_on_several_folders_and_on_degraded_pictures_alone(root, run, weights):
    make(root, ["a"], ["a"], "one")
    make(root, ["a", "b"], ["a", "b"], "two")
    more = ("--force_yml", "name=t", "num_gpu=0")
    outcome = run("test", "--weights", weights, "--gt", "one/gt", "two/gt", "--lq", "one/lq", "two/lq", *more)
    assert outcome.code == 0, outcome
    (one,) = json.loads((root / "results/t/report.json").read_text())["runs"]
    assert [image["name"] for image in one["images"]] == ["one/a", "two/a", "two/b"]
    outcome = run("test", "--weights", weights, "--lq", "one/lq", "two/lq", *more)
    assert outcome.code == 0, outcome
    written = (root / "results/t/visualization").rglob("*.png")
    assert sorted("/".join(p.parts[-2:]) for p in written) == ["one/a.png", "two/a.png", "two/b.png"]
    outcome = run("test", "--weights", weights, "--gt", "one/gt", "two/gt", "--lq", "one/lq", *more)
    assert outcome.code == 2
    assert "--gt and --lq: 2 and 1 folders are no pairs" in outcome.err
    assert run("test", "--weights", weights, "--gt", "one/gt", *more).code == 2


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (RAIN, ()),
        (RAIN, ("--filename_tmpl", "rain-{}", "--filename_tmpl_gt", "norain-{}")),
        (HAZE, ("--filename_tmpl", "{}_*")),
        (HAZE, ("--meta_info_file", "pairs.txt")),
    ],
)
def test_check_data(names, words, root, run):
    make(root, *names)
    (root / "pairs.txt").write_text(
        "".join(f"{next(g for g in names[0] if n.startswith(g + '_'))},{n}\n" for n in names[1] if "_" in n)
    )
    outcome = run("check-data", "--gt", "set/gt", "--lq", "set/lq", "--min_psnr", "0", *words)
    assert f"{len(names[1])} pairs" in outcome.out
    assert "no degraded image" not in outcome.out
    options = {"name": "x", "network_g": {"type": "NAFNet"}}
    said = {words[i].removeprefix("--"): words[i + 1] for i in range(0, len(words), 2)}
    options["datasets"] = {"test": {"name": "T", "dataroot_gt": ["set/gt"], "dataroot_lq": ["set/lq"], **said}}
    if words:
        outcome = run("check-data", "-opt", write_yaml(root / "x.yml", options), "--min_psnr", "0")
        assert f"T: {len(names[1])} pairs" in outcome.out


def test_init_writes_patterns_folders_and_degraded_pictures_alone(root, run, weights):
    make(root, *RAIN)
    make(root, ["norain-7"], ["rain-7"], "two")
    both = ("--gt", "set/gt", "two/gt", "--lq", "set/lq", "two/lq")
    assert run("init", "test", *both, "--weights", weights, "--output", "t.yml").code == 0
    section = yaml.safe_load((root / "t.yml").read_text())["datasets"]["test"]
    assert section["dataroot_gt"] == ["set/gt", "two/gt"]
    assert Pairing(section.get("filename_tmpl", "{}"), section.get("filename_tmpl_gt", "{}")).match(*RAIN)[1:] == ([], [])
    outcome = run("test", "-opt", "t.yml", "--force_yml", "num_gpu=0")
    assert outcome.code == 0, outcome
    assert run("init", "test", "--lq", "set/lq", "--weights", weights, "--output", "lq.yml").code == 0
    outcome = run("test", "-opt", "lq.yml", "--force_yml", "num_gpu=0")
    assert outcome.code == 0, outcome
    assert len(list((root / "results/lq/visualization").rglob("*.png"))) == 3
    outcome = run("init", "test", "--weights", weights)
    assert outcome.code == 2
    assert "name pictures: --gt and --lq" in outcome.err
