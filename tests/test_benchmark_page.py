"""What docs/performance.md and the README say of speed: made of figures/benchmark*.json."""

from dataclasses import replace

from conftest import REPOSITORY
from test_benchmark_gpu import result

from basicsr.engine.benchmark.page import performance_block, read, readme_block
from basicsr.engine.benchmark.results import Kernels, as_dict


def between(page: str) -> str:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return text.partition("<!-- speed:begin -->\n")[2].partition("\n<!-- speed:end -->")[0]


def test_the_pages_are_made_of_what_was_measured():
    documents = read(REPOSITORY / "figures")
    assert next(iter(documents)) == "benchmark"  # that of the CPU
    assert between("docs/performance.md") == performance_block(documents), "run python scripts/make_reference.py"
    assert between("README.md") == readme_block(documents), "run python scripts/make_reference.py"


def documents() -> dict[str, dict]:
    """A CPU, on which one of two sizes was measured in common with a GPU."""
    on_gpu = [result("NAFNet", "bf16", 0.9, 1.25), result("HINet", "bf16", 0.02, None), result("HINet", "fp32", 0.2, 0.25)]
    on_cpu = []
    for net, size in (("HINet", (1280, 720)), ("HINet", (1920, 1080)), ("NAFNet", (1280, 720))):
        r = result(net, "fp32", 40.0, 41.5, size)
        plain, local = (replace(t, kernels=None) for t in (r.plain, r.local))
        on_cpu.append(replace(r, plain=plain, local=local, traffic=None, copy_rate=None, matrix_rate=150.0))
    assert isinstance(on_gpu[0].plain.kernels, Kernels)
    return {
        "benchmark": {"device": "A CPU", "torch": "2.0+cpu", "note": "It was busy.", "results": [as_dict(r) for r in on_cpu]},
        "benchmark-card": {"device": "A card", "torch": "2.0", "results": [as_dict(r) for r in on_gpu]},
    }


def test_the_readme_has_both_side_by_side():
    assert readme_block(documents()).splitlines() == [
        "| 1280x720, plain / with TLC | HINet | NAFNet |",
        "|---|---|---|",
        "| A CPU, fp32 | 40 / 41.5 s | 40 / 41.5 s |",
        "| A card, bf16 | 20 ms / out of memory | 900 ms / 1.25 s |",
        "| A card, fp32 | 200 / 250 ms |  |",
    ]


def test_the_page_has_table_picture_and_rates_of_each():
    cpu, card = performance_block(documents()).split("### A card")
    assert cpu.startswith("### A CPU\n\ntorch 2.0+cpu. It was busy.\n\n```text\nnetwork")
    assert "HINet     1920x1080 fp32      40 s          41.5 s" in cpu
    assert "(../figures/benchmark.png)" in cpu
    assert "floor" not in cpu
    assert "bf16 500 TFLOP/s, fp32 500 TFLOP/s; a copy 3 TB/s" in " ".join(card.split())
    assert "NAFNet    1280x720  bf16      900 ms        1.25 s        1.39  8 ms" in card
    assert "(../figures/benchmark-card.png)" in card


def test_compiled_networks_are_said_to_be():
    (name, document), _ = documents().items()
    for found in document["results"]:
        found["case"]["compiled"] = True
    assert "torch 2.0+cpu, through torch.compile." in performance_block({name: document})
