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
    from intervmerge.remote.copies import folder_of, shown
    from intervmerge.study.remote import refresh
    from intervmerge.study.running import ask_to_stop, check_study, forget_stop, is_searched

    folder = folder_of(chosen.study)
    refresh(folder, whole=False)
    check_study(folder)
    if not is_searched(folder):
        print(f"{shown(folder)}: no search runs there")
        return 0
    ask_to_stop(folder)
    while is_searched(folder):
        time.sleep(POLL_SECONDS)
    forget_stop(folder)  # whoever held it may have been no search
    print(f"{shown(folder)}: the search has ended; finished trials are kept, and the same command goes on")
    return 0
