"""Options: the only reader of YAML. `load(path, overrides)` -> frozen, typed `Options`. Imports no torch.

The words are BasicSR's and the published repositories'. Unknown words are errors that name their YAML path and the nearest
known word; words of the published files that have no meaning here are accepted and said to have none (`RETIRED`).
"""

import copy
import logging
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from basicsr.custom import import_file
from basicsr.errors import UserError, did_you_mean
from basicsr.paths import BUNDLED, REPOSITORY, expanded, guide, require_path
from basicsr.paths import display as display  # imported from here by who reads options
from basicsr.published import in_our_words
from basicsr.sections import Options
from basicsr.texts import as_written, is_section, with_texts

ROOT = REPOSITORY  # relative paths in a YAML file start here; None: at the current folder
logger = logging.getLogger("basicsr")

# Words of the published files that ask for nothing here, with the reason that is logged.
RETIRED = {
    "dist_params": "the backend follows from the device",
    "datasets.prefetch_mode": "workers prefetch",
    "datasets.use_shuffle": "training shuffles, evaluation does not",
    "datasets.pin_memory": "memory is pinned where it helps",
    "val.rgb2bgr": "pictures are written with the right colours",
    "val.max_minibatch": "patches run one by one",
    "train.mixup": "train.mixing_augs mixes samples",
}
_MOST_VALUES = 100_000  # in an options file
_PATHS = ("dataroot", "filename_tmpl", "meta_info_file")  # words of data sets that are texts, whatever their type


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 2e-4 is a number and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue  # construct_mapping refuses the former and resolves the latter
            key = self.construct_object(key_node, deep=True)
            if key is None:
                raise yaml.MarkedYAMLError(problem="a key is empty", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key `{key}` stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _TextLoader(_Loader):
    """The same file, with numbers, dates and truths as they are written."""


for _kind in ("int", "float", "bool", "timestamp"):
    _TextLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", yaml.SafeLoader.construct_yaml_str)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Options:
    """Read a YAML file, and import the files that its `custom_modules` list.

    Args:
        path: as `resolve_input` takes it: in the current folder, in the repository, or bundled.
        overrides: `section:key=value` as in BasicSR's --force_yml, the value parsed as YAML.

    Raises:
        UserError: a missing or malformed file, an unknown word, an ill-typed value; custom modules that cannot be imported.
    """
    file = resolve_input(path)
    if not file.is_file():
        places = " and ".join(dict.fromkeys(map(str, (Path.cwd(), ROOT or BUNDLED))))
        raise UserError(f"{path}: there is no such options file (looked in {places}).")
    try:
        text = file.read_text(encoding="utf-8")
        data, written = (_plain(text, loader) for loader in (_Loader, _TextLoader))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path}{line}: is not valid YAML ({why}).") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: must be a mapping with `name`, `network_g` and so on.")
    opt = _parsed(data, written, str(path), overrides)
    for module in opt.custom_modules or ():
        import_file(resolve(module), module)
    return opt


def overrides_of(section: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What `section:key=value` overrides say of one section."""
    data: dict[str, Any] = {}
    for override in overrides:
        _override(data, override, _Loader)
    return data.get(section, {})


def parse(data: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Options:
    """Options from a mapping; `source` names it in messages. overrides: see `load`."""
    return _parsed(dict(data), as_written(data), source, overrides)


def _parsed(data: dict[str, Any], written: dict[str, Any], source: str, overrides: Sequence[str]) -> Options:
    """written: the same in text, see `basicsr.texts`."""
    data, written = copy.deepcopy((data, written))
    for override in overrides:
        _override(data, override, _Loader)
        _override(written, override, _TextLoader)
    data, faults = in_our_words(with_texts(data, written, Options, _PATHS))
    data = _without_empty(_without_retired(data, ""))
    _require_paths(data, source)
    try:
        opt = Options.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: {'; '.join([*faults, _explain(error, data)])}") from None
    if faults:
        raise UserError(f"{source}: {'; '.join(faults)}.")
    return opt


def resolve(path: str | Path) -> Path:
    """A path from a YAML file: relative ones start at the repository's root, or at the current folder of an installed package.

    A file that is not there may be a bundled one; a folder never, so that results/ and the like do not come to lie in there.
    """
    path = expanded(path)
    if path.is_absolute():
        return path
    here, bundled = (ROOT or Path.cwd()) / path, BUNDLED / path
    return bundled if not here.exists() and bundled.is_file() else here


def resolve_input(path: str | Path) -> Path:
    """A path from the command line: in the current folder or, where it is only there, as one from a YAML file."""
    path = expanded(path)
    there = resolve(path)
    return there if there.exists() and not path.exists() else path


def _plain(text: str, loader: type[_Loader]) -> Any:
    """What YAML makes of a text; raises YAMLError whatever is wrong with it."""
    try:
        value = yaml.load(text, loader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of 2020-13-45, `!!bool maybe`, ...
        raise yaml.YAMLError(f"a value is not of its type: {error}") from None
    waiting, count = [value], 0
    while waiting:  # aliases make a tree of any size of a few lines, or one without an end
        item, count = waiting.pop(), count + 1
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        if count + len(waiting) > _MOST_VALUES:
            raise yaml.YAMLError(f"it holds more than {_MOST_VALUES} values, or repeats itself without end")
    return value


def _override(data: dict, text: str, loader: type[_Loader]) -> None:
    keys, equals, value = text.partition("=")
    if not equals or not all(keys.split(":")):
        raise UserError(f"--force_yml {text}: write it as section:key=value, such as val:save_img=true.")
    try:
        parsed = _plain(value, loader)
    except yaml.YAMLError:
        quoted = f"{keys}='\"{value}\"'"
        raise UserError(f"--force_yml {text}: `{value}` is not a YAML value; if it is text, quote it: {quoted}.") from None
    *sections, last = keys.split(":")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            raise UserError(f"--force_yml {text}: `{section}` is no section.")
    data[last] = parsed


def _require_paths(data: Mapping[str, Any], source: str) -> None:
    """UserError for a web address where a path belongs."""
    places = {"path": data.get("path"), "img_path": data.get("img_path"), "custom_modules": data.get("custom_modules")}
    datasets = data.get("datasets")
    for phase, dataset in datasets.items() if isinstance(datasets, dict) else ():
        for word in dataset if isinstance(dataset, dict) else ():
            if re.search("dataroot|meta_info|file|folder|path", str(word)):  # other words are the data set's own business
                places[f"datasets.{phase}.{word}"] = dataset[word]
    for where, value in places.items():
        parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ((None, value),)
        for part, text in parts:
            if isinstance(text, str):
                require_path(text, f"{source}: {where if part is None else f'{where}.{part}'}")


def _without_retired(data: dict, prefix: str) -> dict:
    """Drop words without meaning here, saying so once where a value was given."""
    kept = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        reason = RETIRED.get(name)
        if reason:
            if value is not None:
                logger.info("%s has no effect: %s.", name, reason)
        elif prefix == "" and key == "datasets" and isinstance(value, dict):
            kept[key] = {k: _without_retired(v, "datasets.") if isinstance(v, dict) else v for k, v in value.items()}
        elif prefix == "" and key in ("val", "train", "logger") and isinstance(value, dict):
            kept[key] = _without_retired(value, f"{key}.")
        else:
            kept[key] = value
    return kept


def _without_empty(data: dict, depth: int = 0) -> dict:
    """`key: ~` means the default, in every section but network_g, where None may be an argument."""
    kept = {}
    for key, value in data.items():
        if isinstance(value, dict) and key != "network_g" and depth < 2:
            kept[key] = _without_empty(value, depth + 1)
        elif value is not None:
            kept[key] = value
    return kept


def _explain(error: ValidationError, data: Mapping[str, Any]) -> str:
    """One sentence for all unknown words, or else for the first of pydantic's complaints: path, what is wrong, nearest word."""
    unknown = [_path(complaint) for complaint in error.errors() if complaint["type"] == "extra_forbidden"]
    if len(unknown) == 1:
        known = _known_words(unknown[0][:-1])
        near = did_you_mean(str(unknown[0][-1]), known)
        return f"unknown option `{_dotted(unknown[0])}`.{near} Known there: {', '.join(sorted(known))}."
    if unknown:
        named = [f"`{_dotted(path)}`{did_you_mean(str(path[-1]), _known_words(path[:-1]))}" for path in unknown]
        return f"unknown options: {', '.join(named)}; {guide('docs/options.md')} lists all words."
    first = error.errors()[0]
    where = _dotted(_path(first))
    if first["type"] == "missing":
        return f"`{where}` is missing; add it."
    message = "must be a list" if first["type"] == "tuple_type" else first["msg"].removeprefix("Value error, ")
    if (*first["loc"][:-1], "bool") in [complaint["loc"] for complaint in error.errors()[1:]]:  # `auto`, or a truth value
        message += ", true or false"
    value = first.get("input")
    shown = f" (it is {value!r})" if isinstance(value, (str, int, float, bool)) and repr(value) not in message else ""
    return f"{where or 'options'}: {message[0].lower()}{message[1:]}{shown}."


def _path(complaint: Mapping[str, Any]) -> list[Any]:
    """Where it is, without pydantic's own names for parts of types."""
    kinds = re.compile(r"(function|literal|tuple|constrained)")
    return [part for part in complaint["loc"] if not (isinstance(part, str) and kinds.match(part))]


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))


def _known_words(parts: Sequence[Any]) -> list[str]:
    """The words that the section at this path of the options knows."""
    model: type[BaseModel] | None = Options
    for part in parts:
        if model is not None and part in model.model_fields:  # else it is a key of a mapping or a place in a list
            model = _section_of(model.model_fields[part].annotation)
    return list(model.model_fields) if model is not None else []


def _section_of(hint: Any) -> type[BaseModel] | None:
    """The section in a type such as tuple[StageOptions, ...] | None."""
    if is_section(hint):
        return hint
    return next((section for inner in typing.get_args(hint) if (section := _section_of(inner))), None)
