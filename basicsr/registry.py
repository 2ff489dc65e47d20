"""Registries: names in a YAML file to classes or functions, with two refusals: duplicates and unknown names."""

import functools
import inspect
import pkgutil
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from basicsr.custom import import_object, searched
from basicsr.errors import UserError, did_you_mean
from basicsr.texts import of_items, text_of, wants_text


class Registry:
    """A dict from type names to callables.

    >>> ARCHS = Registry("network")
    >>> @ARCHS.register
    ... class MyNet(torch.nn.Module): ...
    >>> net = ARCHS.build("MyNet", {"width": 32}, where="network_g")

    Where a `base` is given, `package.module:Name` stands for what a module holds under that name, registered or not.

    Args:
        kind: what messages call an entry.
        base: what `package.module:Name` has to be: a class derived from this one, itself written so, or any "function".
    """

    def __init__(self, kind: str, base: str | None = None) -> None:
        self.kind, self.base = kind, base
        self._entries: dict[str, Callable] = {}

    def register(self, entry: Callable) -> Callable:
        name = entry.__name__
        if name in self._entries:
            raise ValueError(f"a {self.kind} named {name} is registered already ({self._entries[name].__module__})")
        self._entries[name] = entry
        return entry

    def names(self) -> list[str]:
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str, where: str = "type") -> Callable:
        """The entry called `name`; UserError with the nearest known name otherwise. `where`: the YAML path to blame."""
        if self.base and ":" in name:
            return self._imported(name, where)
        if name not in self._entries:
            raise self.unknown(name, where, self.names())
        return self._entries[name]

    def unknown(self, name: str, where: str, known: list[str]) -> UserError:
        """The error of a name that is none of the known ones."""
        if name.endswith(".py"):
            module = name.removesuffix(".py").replace("\\", "/").removeprefix("./").replace("/", ".")
            return UserError(
                f"{where}: `{name}` is a file; write package.module:Name, such as {module}:MyNet for the class MyNet in it."
            )
        return UserError(
            f"{where}: no {self.kind} is called `{name}`.{did_you_mean(name, known)} Known: {', '.join(known)} "
            f"(from {searched()}; custom_modules names files with more)."
        )

    def _imported(self, reference: str, where: str) -> Callable:
        """What `reference` stands for. A YAML file can call what fits here, not everything that Python has."""
        entry = import_object(reference, where)
        if self.base == "function":
            fits, wanted = inspect.isfunction(entry), "function"
        else:
            fits = inspect.isclass(entry) and issubclass(entry, pkgutil.resolve_name(self.base))
            wanted = f"class derived from {self.base.replace(':', '.')}"
        if not fits:
            article = "an" if self.kind[0] in "aeiou" else "a"
            raise UserError(f"{where}: `{reference}` cannot be {article} {self.kind}, as it is no {wanted}.")
        return entry

    def build(self, name: str, arguments: Mapping[str, Any], where: str = "type") -> Any:
        """Call the entry with keyword arguments that were checked against its signature first."""
        entry = self.get(name, where)
        arguments = checked_arguments(entry, arguments, where)
        try:
            return entry(**arguments)
        except UserError:
            raise
        except (ValueError, RuntimeError, ArithmeticError) as error:  # such as a layer of no or negative width
            reason = (str(error) or type(error).__name__).splitlines()[0]
            defaults = {key: parameter.default for key, parameter in inspect.signature(entry).parameters.items()}
            if low := [key for key, value in arguments.items() if _is_below(value, defaults[key])]:
                where, reason = f"{where}.{low[0]}", f"it is {arguments[low[0]]}, which {entry.__name__} cannot have ({reason})"
            raise UserError(f"{where}: {reason}.") from error

    def bind(self, name: str, arguments: Mapping[str, Any], where: str = "type", later: Collection[str] = ()) -> Callable:
        """The entry with some keyword arguments, checked now, filled in; `later` names those that each call gives."""
        entry = self.get(name, where)
        return functools.partial(entry, **checked_arguments(entry, arguments, where, later))


def _is_below(value: Any, default: Any) -> bool:
    """Whether a number is 0 or less, such as a width, whose default is more."""
    numbers = all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in (value, default))
    return numbers and value <= 0 < default


def checked_arguments(
    function: Callable, arguments: Mapping[str, Any], where: str, later: Collection[str] = ()
) -> dict[str, Any]:
    """`arguments` converted to the types that the signature of `function` names; those named in `later` need not be given.

    Raises:
        UserError: an unknown, missing or ill-typed argument, with its YAML path and the nearest valid name.
    """
    parameters = inspect.signature(function).parameters
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [p.name for p in parameters.values() if p.kind in kinds and p.name not in later]
    unknown = [name for name in arguments if name not in known]
    if len(unknown) == 1:
        raise UserError(
            f"{where}.{unknown[0]}: {function.__name__} has no option `{unknown[0]}`.{did_you_mean(unknown[0], known)} "
            f"Its options: {', '.join(known) or 'none'}."
        )
    if unknown:
        named = ", ".join(f"`{name}`{did_you_mean(name, known)}" for name in unknown)
        raise UserError(f"{where}: {function.__name__} has no options {named}. Its options: {', '.join(known) or 'none'}.")
    missing = [n for n in known if parameters[n].default is inspect.Parameter.empty and n not in arguments]
    if missing:
        raise UserError(f"{where}: {function.__name__} needs the option `{missing[0]}`; add `{missing[0]}: ...` there.")
    try:
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError):  # they name what only type checkers import
        hints = {}
    return {name: _converted(value, hints.get(name, Any), f"{where}.{name}") for name, value in arguments.items()}


def _converted(value: Any, hint: Any, where: str) -> Any:
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, TypeError):  # a hint that only type checkers understand
        return value
    value = _texts(value, hint)
    try:
        converted = adapter.validate_python(value)
    except ValidationError as error:
        if choices := _choices(hint):
            near = did_you_mean(value, map(str, choices))
            raise UserError(f"{where}: `{value}` is unknown.{near} It is {' or '.join(map(str, choices))}.") from None
        raise UserError(f"{where}: {value!r} does not fit: {error.errors()[0]['msg']}.") from None
    if isinstance(value, (str, bool)) and type(converted) is not type(value):  # no silent conversion, as in the options
        raise UserError(f"{where}: {value!r} does not fit: it must be of type {type(converted).__name__}.")
    return converted


def _choices(hint: Any) -> tuple[Any, ...]:
    """Of a Literal, or of one that may be absent."""
    inner = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return typing.get_args(inner[0]) if len(inner) == 1 and typing.get_origin(inner[0]) is Literal else ()


def _texts(value: Any, hint: Any) -> Any:
    """Text where the type wants it: YAML takes names such as 2024 for numbers."""
    if isinstance(value, (list, tuple)):
        return [_texts(item, of_items(hint)) for item in value] if wants_text(of_items(hint)) else value
    return text_of(value) if wants_text(hint) else value


ARCHS = Registry("network", base="torch.nn:Module")
DATASETS = Registry("dataset", base="torch.utils.data:Dataset")
LOSSES = Registry("loss", base="torch.nn:Module")
METRICS = Registry("metric", base="function")
MODELS = Registry("model", base="basicsr.models:ImageRestorationModel")
