"""`intervmerge suite template`: the beginning of a suite.yaml, with comments, to be filled in by hand."""

from __future__ import annotations

import argparse

HELP = "print the beginning of a suite.yaml, with comments, to be filled in by hand"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tower, tasks and family."""
    parser.add_argument("--architecture", required=True, metavar="b32|b16|l14")
    words = "8, 14 or 20 of the literature, or names with commas between (default 8)"
    parser.add_argument("--tasks", default="8", metavar="NUMBER|NAMES", help=words)
    parser.add_argument("--family", required=True, help="whose checkpoints: task_vectors, fusionbench, or your own")


def run(chosen: argparse.Namespace) -> int:
    """Print it."""
    from intervmerge.suites.templates import beginning

    print(beginning(chosen.architecture, chosen.tasks, chosen.family), end="")
    return 0
