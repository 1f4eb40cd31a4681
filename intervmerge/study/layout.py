"""Where the trials of a study lie in its folder."""

from __future__ import annotations

from pathlib import Path

TRIALS = "trials"
"""Folder of a study with one folder a trial, named by its number."""


def trial_folder(study: Path, number: int) -> Path:
    """The folder of a trial."""
    return study / TRIALS / str(number)


def repeat_folder(study: Path, number: int, seed: int) -> Path:
    """The folder of a trial's repeat with another seed, in the trial's own."""
    return trial_folder(study, number) / f"seed-{seed}"
