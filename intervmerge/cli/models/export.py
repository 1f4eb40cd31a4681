"""`intervmerge export`: write a point of a study as a bundle, a folder that loads and predicts on its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.cli.program.values import whole
from intervmerge.quoting import as_text

if TYPE_CHECKING:
    from intervmerge.bundle.model import Provenance

HELP = "write a point of a study as a folder that loads and predicts on its own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    parser.add_argument(
        "--max-extra-params", type=whole, metavar="N", help="take the front's most accurate point within this budget"
    )
    parser.add_argument("--trial", type=whole, metavar="N", help="take this trial instead, on the front or not")
    parser.add_argument("--composed", action="store_true", help="of the front in which each task has its own trial")
    parser.add_argument("--suite", metavar="NAME|PATH", help="where the study's suite is now, if it has moved")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="a new or empty folder")


def run(chosen: argparse.Namespace) -> int:
    """Export, and say what was written and how to load it."""
    from intervmerge.bundle import export
    from intervmerge.bundle.card import loading
    from intervmerge.study.study import load_study

    study = load_study(chosen.study, suite=chosen.suite)
    bundle = export(
        study,
        path=chosen.out,
        max_extra_params=chosen.max_extra_params,
        trial=chosen.trial,
        composed=chosen.composed,
    )
    made = bundle.file.provenance
    print(as_text(f"bundle: {bundle.path} ({_whence(made)}; {study.record.caption})"))
    if made.tasks:
        taken = (f"{task} {'none' if origin is None else origin.trial}" for task, origin in made.tasks.items())
        print(as_text("trials: " + ", ".join(taken)))
    print(f"accuracy: {100 * bundle.accuracy:.1f} % (validation), {bundle.extra_params:,} extra parameters")
    print(loading(chosen.out, bundle.file))
    return 0


def _whence(made: Provenance) -> str:
    return "each task from its own trial" if made.tasks else f"trial {made.trial}"
