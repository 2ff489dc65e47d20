"""Write what is made of the code: python scripts/make_reference.py

That is options/schema.json, docs/options.md, docs/networks.md, and the table of experiments/pretrained_models/README.md.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from basicsr.engine.networks.page import networks_text
from basicsr.engine.reference.page import page_text
from basicsr.engine.reference.schema import schema_text
from basicsr.engine.weights.listing import page_of_published
from basicsr.utils.files import write_bytes

if __name__ == "__main__":
    write_bytes(ROOT / "options/schema.json", schema_text().encode())
    write_bytes(ROOT / "docs/options.md", page_text().encode())
    write_bytes(ROOT / "docs/networks.md", networks_text().encode())
    page = ROOT / "experiments/pretrained_models/README.md"
    before, begin, rest = page.read_text(encoding="utf-8").partition("<!-- published:begin -->\n")
    after = rest.partition("<!-- published:end -->")[2]
    write_bytes(page, f"{before}{begin}{page_of_published()}\n<!-- published:end -->{after}".encode())
