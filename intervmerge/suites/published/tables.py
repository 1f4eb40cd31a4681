"""The two tables: data sets by any of their spellings, families by theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from intervmerge.suites.encoder import Architecture

TOWERS: Mapping[str, tuple[str, tuple[int, int, int]]] = {
    "b32": ("ViT-B-32-quickgelu", (32, 768, 12)),
    "b16": ("ViT-B-16-quickgelu", (16, 768, 12)),
    "l14": ("ViT-L-14-quickgelu", (14, 1024, 24)),
}
"""Short name to open_clip's, and patch size, width and blocks. All known families descend from OpenAI's weights, whose
activation is QuickGELU."""


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set."""

    name: str
    classes: int | None = None
    train: tuple[int, ...] = ()
    """Images of the official training part; several where several circulate, none where unknown."""
    test: tuple[int, ...] = ()
    also: tuple[str, ...] = ()
    note: str = ""

    def named(self, text: str) -> bool:
        """Whether a text is one of its spellings; the `Val` at the end of some folders does not count."""
        plain, spelt = _plain(text), {_plain(name) for name in (self.name, *self.also)}
        return plain in spelt or plain.removesuffix("val") in spelt


_DATASET = TypeAdapter(Dataset)


@dataclass(frozen=True)
class Figures:
    """Published accuracies on test, 0..1, by name of the data set."""

    pretrained: Mapping[str, float] = field(default_factory=dict)
    individual: Mapping[str, float] = field(default_factory=dict)


def datasets() -> tuple[Dataset, ...]:
    """Every row, in the order of the tables of 8, 14 and 20 tasks."""
    return tuple(_DATASET.validate_python({"name": name, **row}) for name, row in _read("datasets").items())


def dataset_of(text: str) -> Dataset | None:
    """The data set of a spelling; None where there is none."""
    return next((dataset for dataset in datasets() if dataset.named(text)), None)


def family_of(text: str) -> str | None:
    """The row of a family, by any of its names; None for one of a user's own."""
    asked = _plain(text)
    found = (name for name, row in _read("families").items() if asked in map(_plain, (name, *row.get("also", []))))
    return next(found, None)


def families() -> Mapping[str, str]:
    """Every known family and what it is."""
    return {name: row["about"] for name, row in _read("families").items()}


def figures_of(family: str, architecture: Architecture) -> Figures:
    """What is published of a family's models of a tower; empty where nothing is known here."""
    shape = (architecture.patch_size, architecture.width, architecture.blocks)
    tower = next((short for short, (_, known) in TOWERS.items() if known == shape), None)
    row = _read("families").get(family_of(family) or "", {}).get("figures", {}).get(tower, {})
    return Figures(*(_by_name(row.get(kind, [])) for kind in ("pretrained", "individual")))


def _by_name(percent: Sequence[float]) -> dict[str, float]:
    return {dataset.name: value / 100 for dataset, value in zip(datasets(), percent, strict=False)}


@cache
def _read(name: str) -> Any:
    return yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))


def _plain(name: str) -> str:
    """A name without case, spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
