"""`intervmerge report`: make the views of a study again from its records."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make tables, plots and MLflow runs of a study again, also after its folder has moved"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    parser.add_argument("--mlflow", metavar="URI", help="a tracking server (default: a file in the study's folder)")


def run(chosen: argparse.Namespace) -> int:
    """Rebuild, and print the front."""
    from intervmerge.mlflow_uris import check_uri
    from intervmerge.search.views.again import report_again
    from intervmerge.views.terminal.fronts import print_front
    from intervmerge.views.terminal.screen import Screen

    if chosen.mlflow is not None:
        check_uri(chosen.mlflow)
    study, whole = report_again(chosen.study, chosen.mlflow, Screen())
    print_front(study)
    return 0 if whole else 1
