"""The words of a data set's classes, found by the name that a data set gives a class and never by its number.

Data sets order their classes in ways of their own, and a head in another order fails without a sound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from intervmerge.errors import ConfigError, nearest
from intervmerge.suites.heads.installed import ROWS, templates_and_classes
from intervmerge.suites.published.tables import dataset_of

RULES: Mapping[str, Callable[[str], str]] = {
    "as written": lambda name: name,
    "by spaces": lambda name: name.replace("_", " "),
    # SUN397's folders: a_abbey or /a/abbey, and /a/apse/indoor within; torchvision cuts the letter itself
    "by letter": lambda name: re.sub(r"[_/]+", " ", re.sub(r"^/?([a-z])[_/](?=\1)", "", name)),
}
"""How the words of a class follow from its name, where there is no list of them."""


@dataclass(frozen=True)
class Prompts:
    """How a data set's classes are put in words."""

    dataset: str
    templates: tuple[str, ...]
    """Sentences with `{}` in the place of a class's words."""
    classes: Mapping[str, Sequence[str]] | str
    """Words of a class to the names that data sets give it; or a row of RULES."""

    def words(self, names: Sequence[str]) -> list[str]:
        """The words of classes, by their names in a data set, in its order.

        Raises:
            ConfigError: names that are not known, or two of one class; all in one message.
        """
        if isinstance(self.classes, str):
            found = [RULES[self.classes](name) for name in names]
            unknown: list[str] = []
        else:
            known = {_plain(name): words for words, also in self.classes.items() for name in (words, *also)}
            unknown = [name for name in names if _plain(name) not in known]
            found = [known.get(_plain(name), name) for name in names]
        twice = sorted({words for words in found if found.count(words) > 1})
        if unknown or twice:
            got = "; ".join([*([f"unknown {unknown}"] if unknown else []), *([f"twice {twice}"] if twice else [])])
            allowed = self.classes if isinstance(self.classes, str) else ", ".join(self.classes)
            raise ConfigError(
                f"classes of {self.dataset}", got, "a class is named, once, as its data set does", allowed
            )
        return found


def prompts_of(dataset: str) -> Prompts:
    """The words and templates of a data set that the package knows, such as `sun397` or `Stanford Cars`.

    Raises:
        ConfigError: it is not known, or its words are in a package that is not installed.
    """
    found = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted(Path(__file__).parent.glob("*.yaml"))
    }
    asked = _plain(dataset).removesuffix("val")
    for name, content in found.items():
        if asked in (name, *content.get("also", [])):
            return Prompts(name, tuple(content["templates"]), content["classes"])
    row = dataset_of(dataset)
    if row is not None and row.name in ROWS:
        return Prompts(row.name, *templates_and_classes(row.name))
    rule = "its words must be known, or be given"
    raise ConfigError("data set", repr(dataset), rule, nearest(dataset, [*found, *ROWS]))


def _plain(name: str) -> str:
    """A name without case, spaces and signs: PermanentCrop and permanent_crop are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
