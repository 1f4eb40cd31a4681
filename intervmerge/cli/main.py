"""`intervmerge`: the commands, and what they have in common. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from intervmerge.cli import lecture, merge, report, space, trial
from intervmerge.cli.models import export, finetune, predict
from intervmerge.cli.program import Parser, ended
from intervmerge.cli.results import reproduce
from intervmerge.cli.running import cluster, stop, ui, watch
from intervmerge.cli.suites import suite

COMMANDS = {
    "merge": merge,
    "trial": trial,
    "watch": watch,
    "stop": stop,
    "report": report,
    "ui": ui,
    "export": export,
    "predict": predict,
    "space": space,
    "suite": suite,
    "finetune": finetune,
    "cluster": cluster,
    "reproduce": reproduce,
    **lecture.COMMANDS,
}
"""Sub-command to the module that has its HELP, `add_arguments` and `run`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code (see program.py)."""
    parser = Parser(
        prog="intervmerge", description="Merge fine-tuned vision models and repair the merge with interventions."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))

    def run() -> int:
        chosen = parser.parse_args(arguments)
        return int(COMMANDS[chosen.command].run(chosen))

    return ended("intervmerge", run)


if __name__ == "__main__":
    sys.exit(main())
