"""Code of users: files that `custom_modules` lists, and classes and functions that are written as `package.module:Name`.

A file is imported as Python itself would from the file's folder, which joins `sys.path`: it may import its neighbours, and
processes that are spawned, such as data workers, find its classes again.
"""

import importlib
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from basicsr.errors import UserError, did_you_mean

_NOT_THE_USERS = (Path(__file__).parent, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
_searched: list[str] = []  # the files that were imported, as the options name them


def searched() -> str:
    """Where names are looked for, for messages."""
    return " and ".join(["basicsr", *_searched])


def import_file(file: Path, shown: str) -> None:
    """Import a Python file once, so that what it defines is registered; `shown` is its name in the options.

    Raises:
        UserError: no such file (with the nearest one there is), a module of its name that lies elsewhere, an error in it.
    """
    file = file.resolve()
    if fault := _fault(file):
        raise UserError(f"custom_modules: {shown} {fault}")
    module = _import(file.stem, file.parent, f"custom_modules: {shown}")
    found = getattr(module, "__file__", None)
    if found is None or Path(found).resolve() != file:
        raise UserError(
            f"custom_modules: {shown} has the name of another module, {found or 'a built-in one'}, which is found in its "
            "place; rename the file."
        )
    if shown not in _searched:
        _searched.append(shown)


def import_object(reference: str, where: str) -> Callable:
    """What `package.module:Name` stands for; the module is looked for on `sys.path` and in the current folder.

    Raises:
        UserError: no such module or name (with the nearest one), or an error in the module; `where` is the YAML path.
    """
    name, _, attribute = reference.partition(":")
    if not all(part.isidentifier() for part in (*name.split("."), attribute)):
        raise UserError(f"{where}: write `{reference}` as package.module:Name, such as my_package.my_file:MyNet.")
    module = _import(name, Path.cwd(), where)
    if not callable(found := getattr(module, attribute, None)):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = did_you_mean(attribute, known)
        raise UserError(f"{where}: {name} has no class or function `{attribute}`.{near} It has: {', '.join(known) or 'none'}.")
    return found


def _import(name: str, folder: Path, where: str) -> ModuleType:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: no neighbour of the file may take the place of another module
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            near = did_you_mean(missing, _modules_beside(missing))
            raise UserError(f"{where}: there is no module `{missing}` in {folder} or on sys.path.{near}") from None
        raise UserError(f"{where}: {_place(error)}: {type(error).__name__}: {str(error).partition(chr(10))[0]}.") from error


def _modules_beside(name: str) -> Iterable[str]:
    """Full names of the modules in the package of the module `name`, which may not exist itself."""
    package, dot, _ = name.rpartition(".")
    paths = getattr(importlib.import_module(package), "__path__", []) if package else [p or "." for p in sys.path]
    found = {module.name for module in pkgutil.iter_modules(paths)}
    found |= {folder.parent.name for path in paths for folder in Path(path).glob("*/*.py")}  # packages without __init__.py
    return [f"{package}{dot}{module}" for module in found]


def _place(error: Exception) -> str:
    """File and line of an error: in the code of the user, who may have called something else."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    own = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(folder) for folder in _NOT_THE_USERS)]
    frame = (own or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _fault(file: Path) -> str | None:
    """What is wrong with a path that shall be a Python file, and the file that may be meant."""
    if file.is_dir() or file.suffix != ".py":
        return "is no Python file; name one that ends in .py."
    if "." in file.stem:
        return "has a dot in its name, which Python takes for a package; rename the file."
    if not file.parent.is_dir():
        return f"does not exist: there is no folder {file.parent}."
    if file.exists() and not file.is_file():
        return "is no file, but a pipe, a socket or a device."
    if not file.is_file():
        return f"does not exist in {file.parent}.{did_you_mean(file.name, (other.name for other in file.parent.glob('*.py')))}"
    return None
