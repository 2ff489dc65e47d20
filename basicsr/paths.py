"""Where the files lie that come with the package, and how paths are shown."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
BUNDLED = PACKAGE / "bundled"  # files with the paths that they have in the repository; setup.py puts them into wheels alone
REPOSITORY = None if BUNDLED.is_dir() else PACKAGE.parent  # None where the package was installed without it


def display(path: str | Path) -> str:
    """A path that can be pasted where the user stands: relative in the current folder, absolute outside of it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def guide(name: str) -> str:
    """A file to read, such as datasets/README.md, for messages."""
    return display((REPOSITORY or BUNDLED) / name)
