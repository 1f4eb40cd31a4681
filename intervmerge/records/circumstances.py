"""What a trial was computed with, as far as its figures depend on it: kept with every record, and never mixed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Circumstances:
    """Plain values; a default means unknown, as of records that were written before there were circumstances."""

    device: str = ""
    """`cpu`, where all is fp32, or `cuda`, where the encoder computes in bf16."""
    device_name: str = ""
    """Of the GPU, in torch's words; empty on a CPU."""
    storage: str = ""
    """A row of STORAGES, what the class stream was kept in, or NOTHING_KEPT."""
    adapt: int | None = None
    """Images a task that memory left to adapt on, at most; ALL is no limit."""
    torch: str = ""
    """Version of torch."""
    package: str = ""
    """Version of this package."""

    def unlike(self, other: Circumstances, names: Iterable[str]) -> list[str]:
        """Of these fields those that differ where both are known."""
        unknown = {f.name: f.default for f in fields(self)}
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return [name for name, own, its in pairs if own != its and unknown[name] not in (own, its)]


UNKNOWN = Circumstances()
"""Of a record that says nothing."""
ALL, NOTHING_KEPT = 0, "none"

DECISIVE = ("device", "storage", "adapt")
"""Fields in which trials of one study never differ: they change figures in one direction, not by rounding alone."""
SAID = ("device_name", "torch", "package")
"""Fields in which they may differ, which is said aloud: results differ by rounding, as they do by threads."""
