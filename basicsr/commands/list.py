"""List networks, data sets, losses, metrics, schedulers and optimisers, with their arguments.

examples:
    tlc list
    tlc list networks
    tlc list losses

Without a kind: all names, with what each is. Networks exist with the suffix Local, too, and then take the arguments of `tlc`.
The words of the sections of an options file are in docs/options.md.
"""

import argparse

from basicsr.commands.parser import Parser


def add_arguments(parser: Parser) -> None:
    kinds = "networks, tlc, datasets, losses, metrics, schedulers or optimisers"
    parser.add_argument("kind", nargs="?", metavar="KIND", help=f"{kinds}: all about these")


def run(args: argparse.Namespace) -> None:
    from basicsr.engine.reference.listing import kind_called, listing

    print(listing(kind_called(args.kind) if args.kind else None))
