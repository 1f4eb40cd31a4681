"""When and by which code something was made."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from intervmerge.trial.bench import own_version


@dataclass(frozen=True)
class Occasion:
    """When and by which code figures were measured, or results written."""

    date: str
    commit: str

    @classmethod
    def now(cls) -> Occasion:
        """Today, and the commit of the checkout that this package runs from, or its version."""
        asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            found = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
        except (OSError, subprocess.SubprocessError):  # installed from a wheel, or no git
            found = f"version {own_version() or 'unknown'}"
        return cls(datetime.now(UTC).date().isoformat(), found)
