"""Write what is made of the code, and of what was measured: python scripts/make_reference.py

That is options/schema.json, docs/options.md, docs/networks.md, the table of experiments/pretrained_models/README.md; and of
figures/benchmark*.json, which `make benchmark` measures, the tables of docs/performance.md and README.md.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from basicsr.engine.benchmark.page import performance_block, read, readme_block
from basicsr.engine.networks.page import networks_text
from basicsr.engine.reference.page import page_text
from basicsr.engine.reference.schema import schema_text
from basicsr.engine.weights.listing import page_of_published
from basicsr.utils.files import write_bytes


def put(name: str, marker: str, block: str) -> None:
    """Between the two lines that name the marker, which the page has."""
    page = ROOT / name
    begin, end = f"<!-- {marker}:begin -->\n", f"<!-- {marker}:end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    write_bytes(page, f"{before}{begin}{block}\n{end}{rest.partition(end)[2]}".encode())


if __name__ == "__main__":
    write_bytes(ROOT / "options/schema.json", schema_text().encode())
    write_bytes(ROOT / "docs/options.md", page_text().encode())
    write_bytes(ROOT / "docs/networks.md", networks_text().encode())
    put("experiments/pretrained_models/README.md", "published", page_of_published())
    documents = read(ROOT / "figures")
    put("docs/performance.md", "speed", performance_block(documents))
    put("README.md", "speed", readme_block(documents))
