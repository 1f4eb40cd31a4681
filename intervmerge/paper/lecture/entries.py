"""What is measured of the lecture, rows of its table and questions of its claims, on whose models, and how."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from intervmerge.paper.lecture.asking import ASKED, Question
from intervmerge.paper.lecture.measuring import PROTOCOL, ada_merging
from intervmerge.paper.lecture.rows import ROWS, SlideRow
from intervmerge.paper.order import Order, rest_of
from intervmerge.paper.tables.published import METHODS
from intervmerge.paper.tables.rows import LAYER_WISE

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


def adamerging(order: Order) -> Mapping[str, Any]:
    """AdaMerging's settings, those of the paper's table."""
    return rest_of(order.bases(METHODS)[LAYER_WISE])


def settings(order: Order, key: str) -> str:
    """What decides the figures of an entry beside suites."""
    entry = ENTRIES[key]
    learned = adamerging(order) if entry.measure is ada_merging else {}
    words = [entry.how, *(f"{name} {value}" for name, value in sorted(learned.items()))]
    return settings_of(order.training.steps, ", ".join(filter(None, words)))


def settings_of(steps: int, more: str = "", protocol: int = PROTOCOL) -> str:
    """What decides a figure beside suites, in words.

    Args:
        steps: of training interventions.
        more: what is particular to a row.
        protocol: how it was measured.
    """
    return f"protocol {protocol}, {steps} steps{more and f', {more}'}"
