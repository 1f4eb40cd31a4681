"""Where a search runs: on this machine alone, or in the cluster whose job it is."""

from __future__ import annotations

import os
from collections.abc import Mapping

ADDRESS = "RAY_ADDRESS"
"""Set by Ray in every job that is submitted, and by users, for all of Ray's own commands."""
ALONE = ("", "local")
DASHBOARDS = ("http://", "https://")
"""Beginnings of what `ray job submit` speaks to, under the same name; nothing that a search could join."""


def address_here(given: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The address of the cluster to join: as the user says, or that of the Ray job that this process is.

    Args:
        given: what the user says; `local` is this machine alone, wherever it is.
        environment: in which Ray says where its job runs.

    Returns:
        None for a session on this machine.
    """
    found = environment.get(ADDRESS, "") if given is None else given
    return None if found in ALONE or (given is None and found.startswith(DASHBOARDS)) else found
