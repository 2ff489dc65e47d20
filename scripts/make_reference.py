"""Write options/schema.json, docs/options.md and docs/networks.md from the code: python scripts/make_reference.py"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from basicsr.engine.networks.page import networks_text
from basicsr.engine.reference.page import page_text
from basicsr.engine.reference.schema import schema_text
from basicsr.utils.files import write_bytes

if __name__ == "__main__":
    write_bytes(ROOT / "options/schema.json", schema_text().encode())
    write_bytes(ROOT / "docs/options.md", page_text().encode())
    write_bytes(ROOT / "docs/networks.md", networks_text().encode())
