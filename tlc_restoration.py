"""The command `tlc`. It stands outside of `basicsr`, whose place another package of that name may have taken: PyPI has one."""

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

OWN = Path(__file__).resolve().parent / "basicsr"
AGAIN = "run `pip uninstall basicsr tlc-restoration`, then install tlc-restoration again"


def main() -> int:
    if fault := other_basicsr():
        print(f"error: {fault}", file=sys.stderr)  # noqa: T201
        return 2
    from basicsr.commands import main as run

    return run()


def other_basicsr() -> str | None:
    """One sentence where `import basicsr` would run another package or a mixture of two; nothing is imported to find out."""
    spec = importlib.util.find_spec("basicsr")
    if spec is not None and spec.origin and Path(spec.origin).resolve().parent != OWN:
        return f"another basicsr is imported, {spec.origin}: uninstall it (pip uninstall basicsr)."
    for other in metadata.distributions(name="basicsr"):
        if Path(other.locate_file("basicsr")).resolve() == OWN:
            return f"basicsr {other.version} is installed into the same folder, {OWN}, and mixes with this package: {AGAIN}."
    if not (OWN / "__init__.py").is_file():  # pip removed it with the other package
        return f"files of this package are missing from {OWN}: {AGAIN}."
    return None


if __name__ == "__main__":
    sys.exit(main())
