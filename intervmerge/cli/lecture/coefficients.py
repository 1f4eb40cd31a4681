"""`intervmerge coefficients`: accuracy of a rule over its coefficient λ, and how sensitive it is to it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from intervmerge.cli.arguments import read_base
from intervmerge.cli.lecture.flags import add_scalings, add_suite_arguments, caption, opened, write

HELP = "measure a merging rule over its coefficient, with weight averaging beside it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    words = "a merging rule with a coefficient (default task_arithmetic)"
    parser.add_argument("--rule", default="task_arithmetic", metavar="RULE[:NAME=VALUE,...]", help=words)
    words = "which images to report on (default validation)"
    parser.add_argument("--split", default="validation", choices=["validation", "test"], help=words)
    add_scalings(parser, "0:1.5:16")
    add_suite_arguments(parser)


def run(chosen: argparse.Namespace) -> int:
    """Measure, print, and write if asked."""
    suite = opened(chosen)
    from intervmerge.analysis.arithmetic.lines import Gauge
    from intervmerge.analysis.arithmetic.scalings import over_scalings
    from intervmerge.analysis.shown.pictures import picture_of_scalings
    from intervmerge.analysis.shown.tables import print_scalings

    named = read_base(chosen.rule)
    settings: dict[str, Any] = {"rule": named} if isinstance(named, str) else dict(named)
    rule = settings.pop("rule")
    found = over_scalings(Gauge(suite, chosen.device), rule, settings, chosen.lambdas, chosen.split)
    print_scalings(suite.name, found)
    values = asdict(found) | {"sensitivity": found.region.width}
    picture = picture_of_scalings(suite.name, found, caption(suite, chosen.split))
    write(chosen.out, f"coefficients_{rule}", suite, values, picture)
    return 0
