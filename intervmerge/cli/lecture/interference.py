"""`intervmerge interference`: tau-Jp of every pair of tasks, and the accuracy that is lost on the same models."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from intervmerge.cli.lecture.flags import add_suite_arguments, caption, opened, write_pictured
from intervmerge.cli.program.values import whole

HELP = "measure whose images a task vector disturbs: tau-Jp by pairs of tasks, beside the accuracy that is lost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    words = "whose labels tell what is lost (default validation)"
    parser.add_argument("--split", default="validation", choices=["validation", "test"], help=words)
    parser.add_argument("--images", type=whole, default=500, metavar="N", help="of each task, at most (default 500)")
    add_suite_arguments(parser)


def run(chosen: argparse.Namespace) -> int:
    """Measure, print, and write if asked."""
    suite = opened(chosen)
    from intervmerge.analysis.shown.matrices import picture_of_interference, print_interference
    from intervmerge.analysis.tangent.interfering import interference
    from intervmerge.views.matrices.picture import write_matrices

    found = interference(suite, chosen.split, chosen.images, chosen.device)
    print_interference(suite.name, found)
    picture = picture_of_interference(suite.name, found, caption(suite, chosen.split, chosen.images))
    values = {**asdict(found), "pairs": found.pairs, "split": chosen.split}
    write_pictured(chosen.out, "interference", suite, values, lambda path: write_matrices(picture, path))
    return 0
