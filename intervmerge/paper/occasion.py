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
    code: str
    """`commit 0123456789ab`, or `version 0.1.0`."""

    @classmethod
    def now(cls) -> Occasion:
        """Today, and the commit of the checkout that this package runs from, or its version; `-dirty` where package or
        spaces are not as they were committed."""
        try:
            _git("ls-files", "--error-unmatch", "__init__.py")  # else it is installed within somebody's checkout
            changed = _git("status", "--porcelain", "--", ".", "../search_spaces")
            found = f"commit {_git('describe', '--always', '--abbrev=12')}{'-dirty' if changed else ''}"
        except (OSError, subprocess.SubprocessError):  # installed from a wheel, or no git
            found = f"version {own_version() or 'unknown'}"
        return cls(datetime.now(UTC).date().isoformat(), found)


def _git(*asked: str) -> str:
    """What git says of the package's folder."""
    command = ["git", "-C", str(Path(__file__).parents[1]), *asked]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
