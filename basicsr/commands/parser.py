"""The parser of the command line: mistakes are one sentence with the nearest word, `--some-word` is also `--some_word`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from basicsr.errors import UserError, did_you_mean
from basicsr.paths import require_path


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows one of a word's two spellings, and docstrings as they are."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = action.option_strings
        action.option_strings = [name for i, name in enumerate(shown) if _other_spelling(name) not in shown[:i]]
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = shown


class Parser(argparse.ArgumentParser):
    """argparse's, with the house's manners."""

    def __init__(self, **settings: object) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **settings)

    def add_argument(self, *names: str, **settings: object) -> argparse.Action:
        """Words joined by `-` may be joined by `_`, as BasicSR's are, and the other way round."""
        both = [name for own in names for name in (own, _other_spelling(own)) if name]
        return super().add_argument(*dict.fromkeys(both), **settings)

    def parse_args(self, words: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        args, unknown = self.parse_known_args(words, namespace)
        if unknown:
            command = self._command(args)
            word = unknown[0].partition("=")[0]
            known = [action.option_strings[0] for action in command._actions if action.option_strings]
            near = did_you_mean(word, known) if word.startswith("-") else ""
            raise UserError(f"{word}: `{command.prog}` has no such argument.{near} See `{command.prog} --help`.")
        for action in self._command(args)._actions:
            value = vars(args).get(action.dest)
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, (str, Path)):
                    require_path(one, action.option_strings[0] if action.option_strings else str(action.metavar))
        return args

    def error(self, message: str) -> None:
        """argparse's own complaints."""
        message = re.sub(r"^argument ([^/: ]+)\S*: ", r"\1: ", message.rstrip("."))  # one of the spellings
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        near = did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2])) if wrong else ""
        raise UserError(f"{message}.{near} See `{self.prog} --help`.")

    def _command(self, args: argparse.Namespace) -> "Parser":
        """The parser of the command that was given."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return action.choices[getattr(args, action.dest)]._command(args)
        return self


def _other_spelling(name: str) -> str | None:
    if not name.startswith("--"):
        return None
    word = name[2:]
    return "--" + (word.replace("-", "_") if "-" in word else word.replace("_", "-"))


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def width_x_height(text: str) -> tuple[int, int]:
    """'1280x720' -> (1280, 720)."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 1280x720")
    return int(width), int(height)
