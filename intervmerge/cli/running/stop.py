"""`intervmerge stop`: end a search cleanly, from another terminal or machine."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

HELP = "end a search of another terminal or machine; all that is done is kept"
POLL_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")


def run(chosen: argparse.Namespace) -> int:
    """Ask the search to end, and wait until it has; Ctrl-C ends the waiting only."""
    from intervmerge.study.running import ask_to_stop, check_study, forget_stop, is_searched

    check_study(chosen.study)
    if not is_searched(chosen.study):
        print(f"{chosen.study}: no search runs there")
        return 0
    ask_to_stop(chosen.study)
    while is_searched(chosen.study):
        time.sleep(POLL_SECONDS)
    forget_stop(chosen.study)  # whoever held it may have been no search
    print(f"{chosen.study}: the search has ended; finished trials are kept, and the same command goes on")
    return 0
