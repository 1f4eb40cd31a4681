"""Words of more data sets, read from clip_benchmark where it is installed; it is not imported, as it loads much."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from intervmerge.errors import ConfigError

PACKAGE = "clip_benchmark"
CLASSES, TEMPLATES = (f"datasets/en_{name}.json" for name in ("classnames", "zeroshot_classification_templates"))
"""Its files: a row a data set."""


@dataclass(frozen=True)
class Row:
    """A data set there."""

    key: str
    """Of the rows there."""
    rule: str = ""
    """How words follow from the names of classes, a row of words.RULES, where there is no list of them."""
    also: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Words to names that data sets give a class besides."""


ROWS: Mapping[str, Row] = {
    "cifar100": Row("cifar100", "by spaces"),
    "stl10": Row("stl10", "by spaces"),
    "flowers102": Row("flowers"),
    "oxfordiiitpet": Row("pets"),
    "pcam": Row("pcam"),
    "fer2013": Row("fer2013", also={"disgusted": ["disgust"], "fearful": ["fear"], "surprised": ["surprise"]}),
    "cifar10": Row("cifar10", "by spaces"),
    "food101": Row("food101", "by spaces"),
    "renderedsst2": Row("renderedsst2", "as written"),
}
"""By the name that the tables have of a data set."""


def templates_and_classes(dataset: str) -> tuple[tuple[str, ...], Mapping[str, Sequence[str]] | str]:
    """Sentences with `{}` in the place of a class's words, and the words: to other names, or a row of words.RULES.

    Raises:
        ConfigError: clip_benchmark is not installed, or lacks the data set.
    """
    row = ROWS[dataset]
    templates = tuple(text.replace("{c}", "{}") for text in _row(TEMPLATES, row, dataset))
    if row.rule:
        return templates, row.rule
    return templates, {words: row.also.get(words, ()) for words in _row(CLASSES, row, dataset)}


def _row(file: str, row: Row, dataset: str) -> list[str]:
    rule, allowed = f"they are {PACKAGE}'s", "pip install 'intervmerge[heads]', or a head made elsewhere (--head)"
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(f"words of {dataset}", f"{PACKAGE} is not installed", rule, allowed)
    path = Path(spec.origin).parent / file
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return [str(text) for text in content[row.key]]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"words of {dataset}", f"{path}: {type(error).__name__} {error}", rule, allowed) from error
