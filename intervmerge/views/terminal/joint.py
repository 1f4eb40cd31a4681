"""What the joint evaluation prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from intervmerge.views.terminal import Terminal
from intervmerge.views.terminal.arithmetic import percent, table_of

if TYPE_CHECKING:
    from intervmerge.analysis.joint.measuring import Joint


def print_joint(title: str, rows: Mapping[str, Joint]) -> None:
    """One row a way to tell what an image is of: Hits@k among all classes, and its parameters."""
    ranks = list(next(iter(rows.values())).hits)
    columns = [f"hits@{rank}" for rank in ranks]
    table = table_of(title, "model", *columns, "task told", "router parameters")
    for name, found in rows.items():
        told = "-" if found.routed is None else percent(found.routed)
        table.add_row(name, *(percent(found.hits[rank]) for rank in ranks), told, f"{found.router_params:,}")
    Terminal().print(table)
