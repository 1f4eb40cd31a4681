"""What lies in the folder of a study, and where."""

from __future__ import annotations

from pathlib import Path

JOURNAL, LOCK = "study.journal", "study.lock"
STOP = "study.stop"
"""A file that asks the search of a folder to end; whoever sees the folder can leave it there, on any machine."""
TRIALS = "trials"
"""Folder of a study with one folder a trial, named by its number."""


def trial_folder(study: Path, number: int) -> Path:
    """The folder of a trial."""
    return study / TRIALS / str(number)


def repeat_folder(study: Path, number: int, seed: int) -> Path:
    """The folder of a trial's repeat with another seed, in the trial's own."""
    return trial_folder(study, number) / f"seed-{seed}"
