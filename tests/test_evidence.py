"""scripts/evidence.py with tiny nets and pictures: what it measures, keeps, and writes into README, figures and cards."""

import csv
import io
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PSNR_AND_SSIM, REPOSITORY, SMALL_NETS, Outcome, make_pairs, picture, write, write_yaml
from PIL import Image

from basicsr.archs import build_network
from basicsr.errors import UserError
from basicsr.utils.checkpoint import save_safetensors
from basicsr.utils.image import read_image
from basicsr.utils.log import run_entry_point

NAMES = ("a", "b", "c")
PATCH, WINDOW = 16, 24
README = "# Toolbox\n\nbefore\n\n<!-- evidence:begin -->\nold numbers\n<!-- evidence:end -->\n\nafter\n"
PICTURE = "<!-- picture:begin -->\nold picture\n<!-- picture:end -->\n"
PAGE = "docs/evidence.md"
CARDS = "experiments/pretrained_models"


@pytest.fixture
def evidence(script):
    return script("evidence")


@pytest.fixture
def tables(script):
    return script("gains.tables")


@pytest.fixture
def run_evidence(evidence, monkeypatch, capsys):
    """The script as the command line would run it."""

    def call(*args: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["evidence.py", *args])
        capsys.readouterr()
        return Outcome(run_entry_point(evidence.main), *capsys.readouterr())

    return call


@pytest.fixture
def counted(evidence, script, monkeypatch):
    """The labels of all pictures that are evaluated from now on; figures, which take longer, are left out."""
    labels, measure = [], script("gains.measure")
    evaluate = measure.evaluate

    def counting(*args, label, **kwargs):
        labels.append(label)
        return evaluate(*args, label=label, **kwargs)

    monkeypatch.setattr(measure, "evaluate", counting)
    for draw in ("draw_gains", "draw_base_size"):
        monkeypatch.setattr(evidence, draw, lambda *_: None)
    return labels


def add_net(root, net: str, task: str = "SampleNoise", seed: int = 0) -> None:
    """Weights that make the net do something, and its -Local options."""
    torch.manual_seed(seed)
    network = build_network({"type": net, **SMALL_NETS[net]})
    weights = {key: value + 0.2 * torch.randn_like(value) for key, value in network.state_dict().items()}
    save_safetensors(root / f"{CARDS}/{net}-{task}.safetensors", weights)
    options = {
        "name": f"{net}Local-{task}",
        "num_gpu": 0,
        "datasets": {"test": {"name": task, "dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}},
        "network_g": {"type": f"{net}Local", **SMALL_NETS[net], "train_size": [1, 3, PATCH, PATCH], "base_size": WINDOW},
        "path": {"pretrain_network_g": f"{CARDS}/{net}-{task}.safetensors"},
        "val": {"metrics": PSNR_AND_SSIM},
    }
    write_yaml(root / f"options/test/Sample/{net}Local-{task}.yml", options)


@pytest.fixture
def sample(root):
    """A repository with one trained net, its card, a page and a README with markers."""
    make_pairs(root / "datasets/Set", NAMES, height=40, width=48)
    add_net(root, "NAFNet")
    (root / CARDS / "NAFNet-SampleNoise.md").write_text("# Card\n\n## Measured\n\nwords\n\n## Photographs\n")
    (root / "README.md").write_text(README + PICTURE)
    (root / "docs").mkdir()
    (root / PAGE).write_text(README)
    return root


def table_rows(text: str) -> list[dict[str, str]]:
    """The Markdown table as dictionaries."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_the_table_says_what_test_py_reports(sample, run, run_evidence):
    assert run_evidence("--no_sweep").code == 0
    page = (sample / PAGE).read_text()
    options = "options/test/Sample/NAFNetLocal-SampleNoise.yml"
    assert run("test", "-opt", options, "--tlc", "both").code == 0
    plain, local = json.loads((sample / "results/NAFNetLocal-SampleNoise/report.json").read_text())["runs"]
    assert run("test", "-opt", options, "--tlc", "off", "--force_yml", "val:grids=true", f"val:crop_size={PATCH}").code == 0
    (patches,) = json.loads((sample / "results/NAFNetLocal-SampleNoise/report.json").read_text())["runs"]

    (row,) = table_rows(page)
    columns = {
        "input": plain["input_metrics"],
        "plain": plain["metrics"],
        "overlapped patches": patches["metrics"],
        "Local": local["metrics"],
    }
    for column, metrics in columns.items():
        assert row[column] == f"{metrics['psnr']:.2f} / {metrics['ssim']:.4f}".replace(" 0.", " .")
    pairs = [(a["metrics"]["psnr"], b["metrics"]["psnr"]) for a, b in zip(plain["images"], local["images"], strict=True)]
    assert row["gain of TLC"] == f"**{sum(b - a for a, b in pairs) / len(pairs):+.3f} dB**"
    assert row["pictures that gain"] == f"{sum(b > a for a, b in pairs)}/{len(pairs)}"
    assert any(a != b for a, b in pairs), "the windows are too large for this test to see TLC"
    parameters = sum(p.numel() for p in build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).parameters())
    assert row["parameters"] == f"{parameters / 1e6:.2f} M"
    assert row["patch, window"] == f"{PATCH}, {WINDOW}"


def test_what_is_written(sample, run_evidence):
    add_net(sample, "HINet", "SampleBlur")
    outcome = run_evidence("--sweep_images", "2")
    assert outcome.code == 0, outcome
    page = (sample / PAGE).read_text()
    assert page.startswith("# Toolbox\n\nbefore\n\n<!-- evidence:begin -->\n")
    assert "<!-- evidence:end -->\n\nafter\n" in page
    assert "old numbers" not in page
    assert [(row["network"], row["task"]) for row in table_rows(page)] == [("NAFNet", "noise"), ("HINet", "blur")]
    for name in ("evidence_gain.png", "evidence_base_size.png"):
        assert f"](../figures/{name})" in page
        with Image.open(sample / "figures" / name) as image:
            assert image.width >= 400
            assert image.height >= 150
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    assert re.search(r"Measured in \d+ seconds .* cpu, ", page)
    assert "means over 2 of the photographs" in page
    noise, blur = (row["plain"].split()[0] + " → " + row["Local"].split()[0] for row in table_rows(page))
    short = table_rows((sample / "README.md").read_text())
    assert [(row["PSNR in dB"], bool(row["noise"]), bool(row["blur"])) for row in short] == [
        ("NAFNet → NAFNet-Local", True, False),
        ("HINet → HINet-Local", False, True),
    ]
    assert short[0]["noise"].startswith(f"{noise} (")
    assert short[1]["blur"].startswith(f"{blur} (")

    missing = ["HINet-SampleNoise", "MPRNet-SampleNoise", "Restormer-SampleBlur", "NAFNet-SampleBlur"]
    for name in missing:
        assert f"not measured: {name} (there is no options/test/Sample/" in outcome.out
        assert name in page
    assert "HINet-SampleBlur has no card" in outcome.out

    card = (sample / CARDS / "NAFNet-SampleNoise.md").read_text()
    assert card.startswith("# Card\n\n## Measured\n\n<!-- evidence:begin -->\n```text\npsnr ")
    assert card.endswith("<!-- evidence:end -->\n\nwords\n\n## Photographs\n")
    rows = list(csv.DictReader((sample / "results/evidence/evidence.csv").open()))
    assert len(rows) == 2 * (3 * 3 + 5 * 2)
    sizes = [16, 24, 32, 48, 64]
    assert [int(r["base_size"]) for r in rows if r["mode"] == "sweep" and r["network"] == "HINet"][::2] == sizes
    for row in rows:
        assert float(row["psnr"]) > 0
        assert float(row["input_ssim"]) > 0


def test_a_window_over_the_whole_picture_is_the_plain_net(sample, run_evidence):
    run_evidence("--sweep_images", "3")
    rows = list(csv.DictReader((sample / "results/evidence/evidence.csv").open()))
    by_mode = {
        mode: [float(r["psnr"]) for r in rows if (r["mode"], r["base_size"]) == mode]
        for mode in {("plain", ""), ("sweep", "64")}
    }
    assert by_mode["sweep", "64"] == pytest.approx(by_mode["plain", ""], abs=2e-3)
    assert "64 +0.000 dB" in (sample / CARDS / "NAFNet-SampleNoise.md").read_text().replace("-0.000", "+0.000")


def test_nothing_is_measured_twice(sample, run_evidence, counted):
    assert run_evidence("--sweep_images", "2").code == 0
    assert len(counted) == 3 * 3 + 4 * 2  # the window of the YAML is one of the sweep's five
    files = [sample / PAGE, sample / "README.md", sample / CARDS / "NAFNet-SampleNoise.md"]
    before = [file.read_bytes() for file in files]
    counted.clear()
    assert run_evidence("--sweep_images", "2").code == 0
    assert counted == []
    assert [file.read_bytes() for file in files] == before
    assert run_evidence("--sweep_images", "3").code == 0
    assert len(counted) == 4  # one picture more at the other four windows
    counted.clear()
    assert run_evidence("--sweep_images", "2", "--force").code == 0
    assert len(counted) == 3 * 3 + 4 * 2


def test_restored_pictures_are_kept(sample, run_evidence, counted):
    """Of the plain network and of TLC with the window of the YAML, and without one its figures do not count."""
    assert run_evidence("--sweep_images", "2").code == 0
    pictures = {file: file.read_bytes() for file in (sample / "results/evidence/pictures").glob("*/*")}
    assert sorted(file.name for file in pictures) == ["a.png", "a.png", "b.png", "b.png", "c.png", "c.png"]
    rows = list(csv.DictReader((sample / "results/evidence/evidence.csv").open()))
    psnr = {mode: next(float(r["psnr"]) for r in rows if (r["mode"], r["image"]) == (mode, "b")) for mode in ("plain", "local")}
    target = read_image(sample / "datasets/Set/target/b.png")
    of_files = [-10 * np.log10(np.mean((read_image(file) - target) ** 2)) for file in pictures if file.stem == "b"]
    assert sorted(of_files) == pytest.approx(sorted(psnr.values()), abs=1e-4)

    counted.clear()
    for file in (file for file in pictures if file.stem == "b"):
        file.unlink()
    assert run_evidence("--sweep_images", "2").code == 0
    assert [label.split(", ")[1] for label in counted] == ["plain", "local (window 24)"]
    assert {file: file.read_bytes() for file in pictures} == pictures


def test_an_interrupted_run_goes_on(sample, script, run_evidence, counted, monkeypatch):
    measure = script("gains.measure")
    counting = measure.evaluate

    def until_the_fifth(*args, **kwargs):
        if len(counted) == 4:
            raise KeyboardInterrupt
        return counting(*args, **kwargs)

    monkeypatch.setattr(measure, "evaluate", until_the_fifth)
    assert run_evidence("--no_sweep").code == 130
    assert "old numbers" in (sample / PAGE).read_text()
    monkeypatch.setattr(measure, "evaluate", counting)
    assert run_evidence("--no_sweep").code == 0
    assert len(counted) == 9
    assert [label.split(", ")[1] for label in counted] == ["plain"] * 3 + ["patches"] * 3 + ["local (window 24)"] * 3


def change_weights(root):
    add_net(root, "NAFNet", seed=1)


def change_picture(root):
    write(root / "datasets/Set/input/b.png", picture(9, 40, 48))


def change_metric(root):
    file = root / "options/test/Sample/NAFNetLocal-SampleNoise.yml"
    file.write_text(file.read_text().replace("crop_border: 0", "crop_border: 2"))


def damage_files(root):
    for file in (root / "results/evidence").glob("*.json"):
        file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize("change", [change_weights, change_picture, change_metric, damage_files])
def test_a_change_is_measured_anew(sample, run_evidence, counted, change):
    assert run_evidence("--no_sweep").code == 0
    before = (sample / PAGE).read_text()
    counted.clear()
    change(sample)
    assert run_evidence("--no_sweep").code == 0
    assert len(counted) == 9
    assert ((sample / PAGE).read_text() != before) or change is damage_files


def test_a_choice_of_nets_keeps_what_was_measured_before(sample, run_evidence, counted):
    add_net(sample, "HINet")
    outcome = run_evidence("--no_sweep", "--nets", "HINet")
    assert outcome.code == 0, outcome
    page = (sample / PAGE).read_text()
    assert [row["network"] for row in table_rows(page)] == ["HINet"]
    assert re.search(r"Not measured yet: .*NAFNet-SampleNoise", page)
    counted.clear()
    assert run_evidence("--no_sweep", "--nets", "NAFNet", "--tasks", "SampleNoise").code == 0
    assert all(label.startswith("NAFNet") for label in counted)
    assert [row["network"] for row in table_rows((sample / PAGE).read_text())] == ["HINet", "NAFNet"]
    assert "evidence_base_size" not in (sample / PAGE).read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no markers\n", "README.md: put the lines"),
        ("<!-- evidence:end -->\n<!-- evidence:begin -->\n", "README.md: put the lines"),
        (README + README, "once each"),
        (README, "<!-- picture:begin --> and <!-- picture:end --> once each"),
    ],
)
def test_a_readme_without_its_markers_is_refused_before_any_work(sample, run_evidence, counted, text, says):
    (sample / "README.md").write_text(text)
    outcome = run_evidence()
    assert outcome.code == 2
    assert says in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert counted == []
    assert (sample / "README.md").read_text() == text
    assert not (sample / "results").exists()


def test_wrong_words_are_refused(sample, run_evidence):
    for args, says in (
        (("--nets", "NAFNt"), "Did you mean `NAFNet`?"),
        (("--tasks", "SampleRain"), "Known: SampleNoise, SampleBlur"),
        (("--sweep_images", "0"), "must be positive"),
        (("--nets", "HINet"), "nothing was measured: HINet-SampleNoise (there is no options/"),
    ):
        outcome = run_evidence(*args)
        assert outcome.code == 2, outcome
        assert says in outcome.err


def test_weights_that_are_not_there_are_named(sample, run_evidence):
    (sample / CARDS / "NAFNet-SampleNoise.safetensors").unlink()
    outcome = run_evidence()
    assert outcome.code == 2
    assert f"NAFNet-SampleNoise (there is no {CARDS}/NAFNet-SampleNoise.safetensors)" in outcome.err


def test_a_block_is_replaced_and_stays(tables):
    once = tables.replaced(README, "new", "README.md")
    assert once == README.replace("old numbers", "new")
    assert tables.replaced(once, "new", "README.md") == once
    assert tables.replaced(README + PICTURE, "new", "README.md", tables.PICTURE) == README + PICTURE.replace(
        "old picture", "new"
    )
    with pytest.raises(UserError, match=r"x\.md: put the lines"):
        tables.replaced("text", "new", "x.md")


def test_a_card_without_the_block_gets_one(root, tables):
    card = root / "card.md"
    card.write_text("# Card\n\ntext\n")
    for _ in range(2):
        tables.refresh(card, "numbers", create=True)
        assert card.read_text() == f"# Card\n\ntext\n\n## Measured\n\n{tables.BEGIN}\nnumbers\n{tables.END}\n"


def test_the_shipped_pages_have_the_markers(tables):
    for name, markers in (("README.md", tables.MARKERS), ("README.md", tables.PICTURE), (PAGE, tables.MARKERS)):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert tables.replaced(text, "new", name, markers) != text


# ---- where the gain is seen best


def restored(root, name: str, gain_at: tuple[int, int], was: float = 12, becomes: float = 4) -> SimpleNamespace:
    """A photograph whose error has waves of 4 pixels, `was` levels high; in a square of 200 TLC makes them `becomes` high.

    In the sky at the left, a third of the picture, the error is a step of one level, and TLC leaves nothing of it.
    """
    waves = np.sin(np.arange(400) * 2 * np.pi / 4)[:, None].repeat(600, 1)
    before = was * waves
    before[:, :200] = 1
    after = before.copy()
    after[:, :200] = 0
    top, left = gain_at
    after[top : top + 200, left : left + 200] *= becomes / was
    target = np.full((400, 600), 120.0)
    images = {"gt": target, "lq": target + before, "plain": target + before, "local": target + after}
    images = {key: np.rint(image).astype(np.uint8)[..., None].repeat(3, 2) for key, image in images.items()}
    settings = []
    for mode in ("plain", "local"):
        write(root / mode / f"{name}.png", images[mode])
        settings.append(SimpleNamespace(mode=mode, pictures=root / mode))
    sample = {key: torch.from_numpy(images[key].transpose(2, 0, 1) / np.float32(255)) for key in ("gt", "lq")}
    case = SimpleNamespace(
        net="Net", task="SampleBlur", settings=settings, pictures=SimpleNamespace(dataset=[{"name": name, **sample}])
    )
    whole = SimpleNamespace(name=name, metrics={"psnr": 30.0}, input_metrics={"psnr": 28.0})
    better = SimpleNamespace(name=name, metrics={"psnr": 32.5}, input_metrics={"psnr": 28.0})
    return SimpleNamespace(case=case, plain=[whole], local=[better])


def test_the_gain_is_seen_where_waves_go_and_not_in_the_sky(root, script):
    best = script("gains.best_seen")
    little = restored(root, "little", (50, 300), becomes=9)
    much = restored(root, "much", (150, 350))
    noise = restored(root, "noise", (0, 0))
    noise.case.task = "SampleNoise"
    view = best.find_view([little, much, noise])
    assert view.name == "much"
    for mode, amplitude in (("input", 12), ("plain", 12), ("local", 4)):
        error = 255 * view.error(mode)
        assert error.shape == (200, 200, 3)
        assert np.abs(error).mean() == pytest.approx(amplitude / 2, rel=0.05)
    assert best.find_view([noise]) is None
    assert best.find_view([restored(root, "worse", (50, 300), becomes=15)]).worth < 0.01 * view.worth


def test_the_picture_and_its_caption(root, script):
    best = script("gains.best_seen")
    view = best.find_view([restored(root, "a_b", (150, 350))])
    with Image.open(io.BytesIO(best.draw_view(view))) as image:
        assert image.format == "JPEG"
        assert image.width >= 1000
    text = best.caption(view, "figures/x.jpg")
    assert "by Net without and with TLC" in text
    assert "](figures/x.jpg)\n\nNet on a_b (" in text
    assert "the 200x200 pixels" in text
    here, whole = map(float, re.search(r"there ([\d.]+) dB, in the whole picture ([\d.]+) dB\.", text).groups())
    assert abs(here - 20 * np.log10(3)) < 0.3
    assert whole == 2.5


def test_the_readme_shows_it(sample, run_evidence):
    """Two nets, of which one removes noise and is not asked."""
    add_net(sample, "Restormer", "SampleBlur")
    assert run_evidence("--no_sweep").code == 0
    readme = (sample / "README.md").read_text()
    assert readme.endswith("<!-- picture:end -->\n")
    assert "old picture" not in readme
    assert re.search(r"!\[.*\]\(figures/tlc_gain.jpg\)\n\nRestormer on [abc] \(", readme)
    assert (sample / "figures/tlc_gain.jpg").is_file()


def test_networks_and_tasks_that_do_not_meet_are_refused(script):
    chosen = script("evidence").chosen
    missing = ["HINet-SampleNoise (there is no x)", "NAFNet-SampleReal (there is no y)"]
    with pytest.raises(UserError, match=r"no such pair\. Known: HINet-SampleNoise, NAFNet-SampleReal"):
        chosen([], missing, ["HINet"], ["SampleReal"])
    assert chosen([], missing, ["HINet"], ["SampleNoise"]) == []


DAMAGED = ["[]", "null", '{"pictures": []}', '{"pictures": {"a": {}}}', '{"pictures": {"a": 1}}', "\udcff"]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_records_count_as_not_measured(tmp_path, script, text):
    file = tmp_path / "x.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert script("gains.cases").read_records(file) == {}
