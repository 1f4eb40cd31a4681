"""`intervmerge export`: write a point of a study as a bundle, a folder that loads and predicts on its own."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write a point of a study as a folder that loads and predicts on its own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    parser.add_argument(
        "--max-extra-params", type=int, metavar="N", help="take the front's most accurate point within this budget"
    )
    parser.add_argument("--trial", type=int, metavar="N", help="take this trial instead, on the front or not")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="a new or empty folder")


def run(chosen: argparse.Namespace) -> int:
    """Export, and say what was written and how to load it."""
    from intervmerge.bundle import export
    from intervmerge.bundle.card import loading
    from intervmerge.search.study import load_study

    study = load_study(chosen.study)
    bundle = export(study, path=chosen.out, max_extra_params=chosen.max_extra_params, trial=chosen.trial)
    print(f"bundle: {bundle.path} (trial {bundle.file.provenance.trial}; {study.record.caption})")
    print(f"accuracy: {100 * bundle.accuracy:.1f} % (validation), {bundle.extra_params:,} extra parameters")
    print(loading(chosen.out, bundle.file))
    return 0
