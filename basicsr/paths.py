"""Where the files lie that come with the package, how paths are shown, and what is no path at all."""

import os
import re
from pathlib import Path

from platformdirs import user_cache_path

from basicsr.errors import UserError

PACKAGE = Path(__file__).resolve().parent
BUNDLED = PACKAGE / "bundled"  # files with the paths that they have in the repository; setup.py puts them into wheels alone
REPOSITORY = None if BUNDLED.is_dir() else PACKAGE.parent  # None where the package was installed without it


def display(path: str | Path) -> str:
    """A path that can be pasted where the user stands: relative in the current folder, absolute outside of it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def cache() -> Path:
    """The user's folder for what can be made again; the environment variable TLC_CACHE names another one."""
    return Path(os.environ["TLC_CACHE"]) if os.environ.get("TLC_CACHE") else user_cache_path("tlc-restoration", appauthor=False)


def guide(name: str) -> str:
    """A file to read, such as datasets/README.md, for messages."""
    return display((REPOSITORY or BUNDLED) / name)


def expanded(path: str | Path) -> Path:
    """With ~ as the user's home folder; raises UserError where there is none of that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user's home folder; write the path in full.") from None


def require_path(path: str | Path, where: str) -> None:
    """UserError for a web address such as https://example.org/net.pth, or a path made of one: nothing is downloaded; and for
    what no system takes for a path."""
    if "\0" in str(path):
        raise UserError(f"{where}: {str(path)!r} holds a NUL character, which no path does; write it anew.")
    found = re.match(r"([A-Za-z][\w+.-]+):/+(?=[^/])", str(path))  # a drive such as C:/ has one letter
    if found:
        address = f"{found[1]}://{str(path)[found.end() :]}"
        raise UserError(f"{where}: {address} is a web address, not a file: download it, and give the path of what you have.")
