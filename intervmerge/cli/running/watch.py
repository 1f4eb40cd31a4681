"""`intervmerge watch`: the screen of a search that runs elsewhere, from its journal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from intervmerge.cli.program import INTERRUPTED

HELP = "watch a search of another terminal or machine; Ctrl-C ends the watching only"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")


def run(chosen: argparse.Namespace) -> int:
    """Show the search until it ends, then the front."""
    from intervmerge.search.views.following import follow
    from intervmerge.views.terminal.fronts import print_front
    from intervmerge.views.terminal.screen import Screen

    screen = Screen()
    try:
        study = follow(chosen.study, screen)
    except KeyboardInterrupt:
        screen.close()
        print("no longer watched; the search goes on", file=sys.stderr)
        return INTERRUPTED
    finally:
        screen.close()
    print_front(study)
    return 0 if study.record.ended else 1
