"""Tables of an evaluation, on the screen and for a paper: names of any length and script, special characters."""

import re

import pytest
from conftest import PSNR_AND_SSIM, SMALL_NETS, make_pairs, write_yaml

from basicsr.engine.testing.results import ImageResult, Run
from basicsr.engine.testing.tables import image_table, latex, markdown, table

PROTOCOLS = {"psnr": "PSNR, RGB, uint8", "my_ssim_100%": "SSIM & more"}


def runs(dataset: str, names: tuple[str, ...] = ("a", "b"), network: str = "NAFNet") -> list[Run]:
    """Plain: 30 dB and 0.9; -Local: 31.25 dB and 0.925; input: 20 dB and 0.5."""

    def run(tlc: bool, psnr: float, ssim: float) -> Run:
        before = dict(zip(PROTOCOLS, (20.0, 0.5), strict=True))
        after = dict(zip(PROTOCOLS, (psnr, ssim), strict=True))
        images = [ImageResult(name, (8, 8), after, before, 1.5) for name in names]
        return Run(network + "Local" * tlc, tlc, dataset, images)

    return [run(False, 30.0, 0.9), run(True, 31.25, 0.925)]


def columns(text: str) -> int:
    """Of a terminal; the tests' names have these wide characters and no others."""
    return len(text) + len(re.findall("[写真夜]", text)) - text.count("\u0301")


@pytest.mark.parametrize("name", ["a", "a" * 26, "a" * 27, "a" * 60, "写真" * 20, "cafe\u0301" * 9])
def test_long_and_wide_names_do_not_shift_the_row(name):
    lines = image_table(*runs("Set", ("short", name)), "psnr").splitlines()
    assert len({columns(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == ["psnr", "short", name]
    assert [line.split()[1:] for line in lines[1:]] == [["20.00", "30.00", "31.25", "+1.2500"]] * 2


@pytest.mark.parametrize("network", ["NAFNet", "AVeryLongNameOfANetwork", "夜" * 15])
def test_columns_are_as_wide_as_needed(network):
    found = table(runs("Set", network=network), PROTOCOLS)
    head, _, *rows = found.splitlines()[:6]
    ends = {columns(row[: row.index(value)]) for row, value in zip(rows[1:3], ("30.00", "31.25"), strict=True)}
    assert len(ends) == 1
    assert head.index("my_ssim_100%") + len("my_ssim_100%") == columns(rows[0])
    assert columns(rows[1]) == columns(rows[2]) == columns(head)


def test_short_names_look_as_they_always_did():
    found = table(runs("Set"), {"psnr": "PSNR, RGB, uint8"})
    assert found == (
        "                              psnr   s/image\n"
        "Set, 2 images\n"
        "  degraded input             20.00\n"
        "  NAFNet                     30.00      1.50\n"
        "  NAFNetLocal                31.25      1.50\n"
        "  gain of TLC              +1.2500\n"
        "psnr: PSNR, RGB, uint8"
    )


def test_markdown():
    assert markdown(runs("my_set|*2*"), PROTOCOLS) == (
        "| data set | network | psnr | my\\_ssim\\_100% |\n"
        "| --- | --- | ---: | ---: |\n"
        "| my\\_set\\|\\*2\\*, 2 images | degraded input | 20.00 | 0.5000 |\n"
        "| my\\_set\\|\\*2\\*, 2 images | NAFNet | 30.00 | 0.9000 |\n"
        "| my\\_set\\|\\*2\\*, 2 images | NAFNetLocal | 31.25 | 0.9250 |\n"
        "| my\\_set\\|\\*2\\*, 2 images | gain of TLC | +1.25 | +0.0250 |\n"
        "\n"
        "psnr: PSNR, RGB, uint8; my\\_ssim\\_100%: SSIM \\& more.\n"
    )


def test_latex():
    assert latex([*runs("my_set"), *runs("50%\\~{x}")[:1]], PROTOCOLS) == (
        "% \\usepackage{booktabs}\n"
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{psnr: PSNR, RGB, uint8; my\\_ssim\\_100\\%: SSIM \\& more.}\n"
        "\\begin{tabular}{llrr}\n"
        "\\toprule\n"
        "Data set & Network & psnr & my\\_ssim\\_100\\% \\\\\n"
        "\\midrule\n"
        "my\\_set, 2 images & degraded input & $20.00$ & $0.5000$ \\\\\n"
        " & NAFNet & $30.00$ & $0.9000$ \\\\\n"
        " & NAFNetLocal & $31.25$ & $0.9250$ \\\\\n"
        " & gain of TLC & $+1.25$ & $+0.0250$ \\\\\n"
        "\\midrule\n"
        "50\\%\\textbackslash{}\\textasciitilde{}\\{x\\}, 2 images & degraded input & $20.00$ & $0.5000$ \\\\\n"
        " & NAFNet & $30.00$ & $0.9000$ \\\\\n"
        "\\midrule\n"
        "average of 2 data sets & degraded input & $20.00$ & $0.5000$ \\\\\n"
        " & NAFNet & $30.00$ & $0.9000$ \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\end{table}\n"
    )


def test_a_test_writes_them_beside_its_report(root, run):
    make_pairs(root / "datasets/Set")
    options = {
        "name": "run",
        "num_gpu": 0,
        "datasets": {
            "test": {"name": "My_Set", "dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"},
        },
        "network_g": {"type": "NAFNet", **SMALL_NETS["NAFNet"]},
        "val": {"metrics": PSNR_AND_SSIM},
    }
    assert run("test", "-opt", write_yaml(root / "opt.yml", options), "--tlc", "both").code == 0
    rows = (root / "results/run/table.md").read_text(encoding="utf-8").splitlines()[2:6]
    assert [row.split(" | ")[1] for row in rows] == ["degraded input", "NAFNet", "NAFNetLocal", "gain of TLC"]
    assert all(row.startswith("| My\\_Set, 3 images |") for row in rows)
    assert "\\caption{psnr: PSNR, RGB, uint8, no border;" in (root / "results/run/table.tex").read_text(encoding="utf-8")
