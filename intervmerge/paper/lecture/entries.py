"""What is measured of the lecture, rows of its table and questions of its claims, and on whose models."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from intervmerge.paper.lecture.asking import ASKED, Question
from intervmerge.paper.lecture.rows import ROWS, SlideRow

ENTRIES: Mapping[str, SlideRow | Question] = MappingProxyType({**ROWS, **ASKED})
SAME = "standard"
"""The row of training's METHODS by which a suite's own models were fine-tuned, for seeds beyond them."""


def method_of(key: str) -> str:
    """The row of training's METHODS whose models an entry is measured on."""
    return ENTRIES[key].method or SAME


def needed(key: str) -> list[str]:
    """Methods whose models it reads: its own, and where updates are compared those that they are compared with."""
    entry = ENTRIES[key]
    return list(dict.fromkeys((method_of(key), *([SAME] if isinstance(entry, Question) and entry.beside else []))))


def is_fixed(key: str) -> bool:
    """Whether no seed of fine-tuning changes it."""
    entry = ENTRIES[key]
    return isinstance(entry, SlideRow) and entry.fixed


def entries(seed: int) -> list[str]:
    """What is measured with the models of a seed of fine-tuning; what no seed changes, with the first."""
    return [key for key in ENTRIES if seed == 0 or not is_fixed(key)]
