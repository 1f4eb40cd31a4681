"""`intervmerge suite`: list, begin, check, convert or build suites."""

from __future__ import annotations

import argparse

from intervmerge.cli.suites import build, check, convert, init, template

HELP = "list, begin, check or build suites, or convert checkpoints"
ACTIONS = {"init": init, "template": template, "check": check, "convert": convert, "build": build}
"""Sub-commands that have a file of their own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands list and those of ACTIONS."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(["list", *ACTIONS]))
    actions.add_parser("list", help="names of the packaged suites")
    for name, module in ACTIONS.items():
        module.add_arguments(actions.add_parser(name, help=module.HELP, description=module.HELP))


def run(chosen: argparse.Namespace) -> int:
    """Do what was asked; 1 if a check found something."""
    own = {"list": _list, **{name: module.run for name, module in ACTIONS.items()}}
    return int(own[chosen.action](chosen))


def _list(chosen: argparse.Namespace) -> int:
    from intervmerge.suites.suite import packaged

    for name, path in packaged().items():
        print(f"{name}  {path.parent}")
    return 0
