"""Several test sets in one file, each with figures of its own; their average; groups of a set's images."""

import json

import numpy as np
import pytest
import torch
from conftest import make_pairs, write_yaml

from basicsr.engine.testing.evaluate import evaluate
from basicsr.engine.testing.groups import groups_of

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def sets(root, test_options) -> dict:
    """Options of a test on two sets, of one and of three pictures."""
    make_pairs(root / "datasets/One", names=("x",))
    make_pairs(root / "datasets/Three", names=("a", "b", "c"), height=20, width=30)
    del test_options["datasets"]["test"]
    for key, name in (("test_1", "One"), ("test_2", "Three")):
        folder = f"datasets/{name}"
        test_options["datasets"][key] = {"name": name, "dataroot_gt": f"{folder}/target", "dataroot_lq": f"{folder}/input"}
    test_options["val"]["metrics"]["ssim"] = {"type": "calculate_ssim"}
    return test_options


def measured(root, run, options, *args) -> tuple[dict, str]:
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", options), *args)
    assert outcome.code == 0, outcome
    return json.loads((root / "results/run/report.json").read_text()), outcome.out


def test_the_average_counts_each_set_alike(sets, root, run):
    report, out = measured(root, run, sets, "--tlc", "both")
    for network in ("NAFNet", "NAFNetLocal"):
        of_sets = [one["metrics"] for one in report["runs"] if one["network"] == network]
        for name in ("psnr", "ssim"):
            assert report["average"][network][name] == pytest.approx(np.mean([values[name] for values in of_sets]), abs=1e-12)
        of_images = [image["metrics"]["psnr"] for one in report["runs"] if one["network"] == network for image in one["images"]]
        assert np.mean(of_images) != report["average"][network]["psnr"]
    rows = out[out.index("average of 2 data sets") :].splitlines()
    assert [row[:24].strip() for row in rows[1:5]] == ["degraded input", "NAFNet", "NAFNetLocal", "gain of TLC"]
    assert f"{report['average']['NAFNet']['psnr']:.2f}" in rows[2]
    gain = np.mean([report["gain"][name]["psnr"] for name in ("One", "Three")])
    assert float(rows[4].split()[3]) == pytest.approx(gain, abs=0.005)
    for file in ("table.md", "table.tex"):
        assert "average of 2 data sets" in (root / "results/run" / file).read_text()


def test_one_set_has_no_average(sets, root, run):
    del sets["datasets"]["test_2"]
    report, out = measured(root, run, sets)
    assert report["average"] == {}
    assert "average" not in out


def test_every_set_has_its_figures_and_the_average_those_of_the_file(sets, root, run):
    sets["datasets"]["test_1"] |= {"expected": {"psnr": 20}, "expected_local": {"psnr": 21}, "expected_images": 1}
    sets["datasets"]["test_2"] |= {"expected": {"psnr": 30, "ssim": 0.9}, "expected_images": 7}
    sets["expected"] = {"psnr": 25}
    report, out = measured(root, run, sets, "--tlc", "both")
    found = report["expected"]
    assert set(found) == {"NAFNet on One", "NAFNetLocal on One", "NAFNet on Three", "NAFNet, average"}
    psnr = {one["dataset"]: one["metrics"]["psnr"] for one in report["runs"] if not one["tlc"]}
    assert found["NAFNet on One"]["psnr"]["difference"] == pytest.approx(psnr["One"] - 20)
    assert found["NAFNet on Three"]["psnr"] == {
        **{"published": 30, "measured": psnr["Three"], "difference": None, "published_images": 7, "images": 3}
    }
    assert found["NAFNet, average"]["psnr"]["measured"] == pytest.approx((psnr["One"] + psnr["Three"]) / 2)
    assert found["NAFNet, average"]["psnr"]["difference"] is None  # 8 pictures are published, here are 4
    assert "NAFNet, average psnr: published 25 on 8 images, measured" in out
    sets["datasets"]["test_2"]["expected_images"] = 3
    report, out = measured(root, run, sets)
    mean = np.mean([one["metrics"]["psnr"] for one in report["runs"]])
    assert report["expected"]["NAFNet, average"]["psnr"]["difference"] == pytest.approx(mean - 25)


def test_without_figures_of_their_own_those_of_the_file_are_of_the_first_set(sets, root, run):
    sets["expected"] = {"psnr": 25}
    report, _ = measured(root, run, sets)
    assert list(report["expected"]) == ["NAFNet"]
    assert report["expected"]["NAFNet"]["psnr"]["measured"] == report["runs"][0]["metrics"]["psnr"]


@pytest.fixture
def grouped(root, test_options) -> dict:
    make_pairs(root / "datasets/Set", names=NAMES)
    np.save(root / "datasets/indoor.npy", np.array([1, 3]))
    (root / "datasets/outdoor.txt").write_text("2\n4\n")
    groups = {"indoor": {"labels": "datasets/indoor.npy"}, "outdoor": {"labels": "./datasets/outdoor.txt"}}
    test_options["datasets"]["test"]["groups"] = groups
    return test_options


def test_groups_have_means_of_their_own(grouped, root, run):
    grouped["datasets"]["test"]["expected"] = {"psnr": 26}
    grouped["datasets"]["test"]["groups"]["indoor"]["expected"] = {"psnr": 28.87}
    report, out = measured(root, run, grouped, "--tlc", "both")
    psnr = {image["name"]: image["metrics"]["psnr"] for image in report["runs"][0]["images"]}
    groups = {(one["dataset"], one["network"]): one for one in report["groups"]}
    assert len(groups) == 4
    assert len(report["runs"]) == 2
    for title, names in (("Set, indoor", "ac"), ("Set, outdoor", "bd")):
        assert groups[title, "NAFNet"]["metrics"]["psnr"] == pytest.approx(np.mean([psnr[name] for name in names]), abs=1e-12)
        assert groups[title, "NAFNet"]["count"] == 2
        assert f"{title}, 2 images" in out
        assert title in report["gain"]
    assert report["expected"]["NAFNet on Set, indoor"]["psnr"]["measured"] == groups["Set, indoor", "NAFNet"]["metrics"]["psnr"]
    assert report["expected"]["NAFNet"]["psnr"]["published"] == 26
    assert report["average"] == {}
    assert (root / "results/run/images.csv").read_text().count("\n") == 1 + 8


def test_a_part_of_a_group_is_not_compared(grouped, root, run):
    grouped["datasets"]["test"]["groups"]["indoor"]["expected"] = {"psnr": 28.87}
    report, out = measured(root, run, grouped, "--force_yml", "val:max_images=1")
    assert report["expected"]["NAFNet on Set, indoor"]["psnr"]["difference"] is None
    assert "Set, outdoor" not in out  # none of its pictures was measured


def test_positions_are_in_natural_order(tmp_path):
    (tmp_path / "labels.txt").write_text("2 3")
    found = groups_of(["a_1", "a_10", "a_2", "b"], {"g": tmp_path / "labels.txt"}, "groups")
    assert found == {"g": {"a_2", "a_10"}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "indoor.npy does not exist; give a .npy or .txt file of positions, the first one 1"),
        (np.array([0, 1]), "datasets.test.groups.indoor.labels:"),
        (np.array([0, 1]), "holds 0, but the positions are 1 to 4"),
        (np.array([4, 5]), "holds 5, but the positions are 1 to 4"),
        (np.array([1.5]), "must hold a row of whole numbers"),
        (np.ones((2, 2)), "must hold a row of whole numbers"),
        (np.array(["a"]), "must hold a row of whole numbers"),
        (np.array([{}]), "cannot be read"),
    ],
)
def test_labels_that_are_none(grouped, root, run, content, says):
    (root / "datasets/indoor.npy").unlink()
    if content is not None:
        np.save(root / "datasets/indoor.npy", content)
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", grouped))
    assert outcome.code == 2
    assert says in outcome.err
    assert not (root / "results").exists()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("datasets.test.expected", "datasets.test.expected.pnsr: val.metrics has no `pnsr`. Did you mean `psnr`?"),
        ("datasets.test.groups.indoor.expected_local", "datasets.test.groups.indoor.expected_local.pnsr: val.metrics has no"),
    ],
)
def test_figures_of_no_metric(grouped, root, run, where, says):
    section = grouped
    *path, last = where.split(".")
    for word in path:
        section = section[word]
    section[last] = {"pnsr": 30}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", grouped))
    assert outcome.code == 2
    assert says in outcome.err


class Server(torch.utils.data.Dataset):
    """Images whose server wants one file of all."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict:
        return {"lq": torch.full((3, 8, 8), index / 10), "name": self.name(index)}

    def name(self, index: int) -> str:
        return f"{index:02d}"

    def saver(self, folder):
        return Crops(folder)


class Crops:
    def __init__(self, folder) -> None:
        self.folder, self.held = folder, {}

    def has(self, name: str) -> bool:
        return (self.folder / "all.npy").is_file()

    def write(self, name: str, restored: torch.Tensor) -> None:
        self.held[name] = restored.numpy()

    def finish(self) -> None:
        if not self.held:
            return
        self.folder.mkdir(exist_ok=True)
        np.save(self.folder / "all.npy", np.stack([self.held[name] for name in sorted(self.held)]))


def test_a_data_set_may_say_what_becomes_of_restored_images(tmp_path):
    data = Server(tmp_path)
    found = evaluate(lambda image: image * 2, data, {}, save_dir=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["all.npy"]
    np.testing.assert_allclose(np.load(tmp_path / "out/all.npy")[:, 0, 0, 0], [0, 0.2, 0.4], atol=1e-7)
    again = evaluate(None, data, {}, save_dir=tmp_path / "out", done={image.name: image for image in found.images})
    assert [image.name for image in again.images] == ["00", "01", "02"]


def test_figures_of_groups_are_of_as_many_pictures_as_published_and_of_the_network_as_it_was(grouped, root, run):
    indoor = grouped["datasets"]["test"]["groups"]["indoor"]
    indoor |= {"expected": {"psnr": 28.87}, "expected_images": 37}
    grouped["datasets"]["test"]["expected"] = {"psnr": 25.98}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", grouped), "--tlc", "both", "--window", "12")
    assert outcome.code == 0
    assert "indoor psnr: published 28.87 on 37 images" in outcome.out + outcome.err
    expected = json.loads((root / "results" / grouped["name"] / "report.json").read_text())["expected"]
    assert expected
    assert not [name for name in expected if "Local" in name]
