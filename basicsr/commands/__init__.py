"""The commands of `tlc`, one file each: `add_arguments`, its words; `run`, which hands them to the engine and prints.

A new command is a file here and its name in COMMANDS; the first line of its docstring is its help. Importing them all takes
no time, as torch is imported when one runs.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import shtab

from basicsr import __version__
from basicsr.commands.parser import Parser
from basicsr.commands.words import named_weights
from basicsr.utils.log import run_entry_point

COMMANDS = (
    "restore",
    "test",
    "train",
    "convert",
    "sweep",
    "flicker",
    "benchmark",
    "export",
    "weights",
    "init",
    "list",
    "check-data",
    "degrade",
    "pairs",
    "crops",
    "lmdb",
    "prepare",
)


def build_parser() -> Parser:
    """The command line of `tlc` as a whole."""
    parser = Parser(
        prog="tlc",
        description="Image restoration with the Test-time Local Converter (TLC). `tlc COMMAND --help` has examples.",
    )
    parser.add_argument("--version", action="version", version=f"tlc-restoration {__version__}")
    shtab.add_argument_to(parser, "--print-completion", help="print a script that completes this command line in a shell")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"{__name__}.{name.replace('-', '_')}")
        command = commands.add_parser(name, help=module.__doc__.partition("\n")[0], description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def run(words: Sequence[str]) -> int:
    """Run one command, such as ["test", "-opt", "file.yml"]; its exit code.

    Raises:
        UserError: whatever the user can put right.
    """
    args = build_parser().parse_args(words)
    named_weights(args)
    return args.run(args) or 0


def main() -> int:
    """The console script `tlc`."""
    return run_entry_point(lambda: run(sys.argv[1:]))
