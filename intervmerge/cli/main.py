"""`intervmerge`: the commands, and what they have in common. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from intervmerge.cli import export, merge, report, space, suite, trial, ui
from intervmerge.errors import InputError, IntervMergeError

COMMANDS = {
    "merge": merge,
    "trial": trial,
    "report": report,
    "ui": ui,
    "export": export,
    "space": space,
    "suite": suite,
}
"""Sub-command to the module that has its HELP, `add_arguments` and `run`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 is success, 1 a finding or failure, 2 input that was refused."""
    parser = argparse.ArgumentParser(
        prog="intervmerge", description="Merge fine-tuned vision models and repair the merge with interventions."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    chosen = parser.parse_args(arguments)
    try:
        return int(COMMANDS[chosen.command].run(chosen))
    except IntervMergeError as error:
        print(f"intervmerge {chosen.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
