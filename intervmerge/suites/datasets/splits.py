"""Three splits by purpose from the official parts of a data set: by a rule and a seed, which are recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from intervmerge.errors import ConfigError, nearest
from intervmerge.seeding import generator
from intervmerge.settings import settings
from intervmerge.suites.datasets.sources.source import official


@settings
class SplitRule:
    """Which images are for what: `test` is the official test part; `adapt` and `validation` are never in it."""

    train: str | None = None
    """Official part to draw `adapt` from; None is the one that is named for training."""
    test: str | None = None
    """Official part for `test`; None is the one named test, else the one named for validation."""
    validation_from: Literal["official", "train"] = "official"
    """`official`: the part named for validation, where there is one beside train and test; else, and with `train`,
    images of the training part that are not in `adapt`."""
    validation: float = 0.1
    """Share of the training part that is drawn for `validation`."""
    most_validation: int = 5_000
    """Images that are drawn for `validation`, at most."""
    draw: Literal["stratified", "random"] = "stratified"
    """`stratified`: every class has its share; `random`: by lot."""
    seed: int = 0
    """Of all that is drawn."""
    limit_adapt: int | None = None
    """Images of `adapt`, at most, drawn likewise; None is all."""
    limit_validation: int | None = None
    """Images of `validation`, at most."""
    limit_test: int | None = None
    """Images of `test`, at most."""
    most_corrupt: float = 0.01
    """Share of the images that may be corrupt; they are left out. More are refused."""

    def __post_init__(self) -> None:
        for name in ("validation", "most_corrupt"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ConfigError(name, share, "it is a share", "0 or more, less than 1")
        for name in ("most_validation", "limit_adapt", "limit_validation", "limit_test"):
            most = getattr(self, name)
            if most is not None and most < 1:
                raise ConfigError(name, most, "every split has images", "1 or more")

    @property
    def note(self) -> str:
        """What every caption must say; empty where nothing was limited."""
        limits = {split: getattr(self, f"limit_{split}") for split in ("adapt", "validation", "test")}
        said = [f"{most:,} of {split}" for split, most in limits.items() if most is not None]
        return f"at most {', '.join(said)} images a task" if said else ""


@dataclass(frozen=True)
class Chosen:
    """Images of one official part, for one purpose."""

    part: str
    numbers: Sequence[int]
    """Of the images, in their part; ascending."""


def chosen(rule: SplitRule, parts: Mapping[str, Sequence[int]], where: object) -> dict[str, Chosen]:
    """Which images are for what, by split.

    Args:
        rule: the rule.
        parts: labels of the images of each official part.
        where: the data set, for errors.

    Raises:
        ConfigError: a part is not there, or cannot be told by its name; or a split would be empty.
    """
    train = _part(parts, rule.train, ("train",), "train", where)
    test = _part({n: v for n, v in parts.items() if n != train}, rule.test, ("test", "validation"), "test", where)
    left = [name for name in official(parts, "validation") if name not in (train, test)]
    whole = range(len(parts[train]))
    if rule.validation_from == "official" and left:
        validation = Chosen(left[0], range(len(parts[left[0]])))
    else:
        count = min(round(rule.validation * len(whole)), rule.most_validation)
        validation = Chosen(train, drawn(rule, whole, parts[train], count, "validation"))
    taken = set(validation.numbers) if validation.part == train else set()
    found = {
        "adapt": Chosen(train, [number for number in whole if number not in taken]),
        "validation": validation,
        "test": Chosen(test, range(len(parts[test]))),
    }
    for split, row in found.items():
        most = getattr(rule, f"limit_{split}")
        if most is not None and most < len(row.numbers):
            found[split] = Chosen(row.part, drawn(rule, row.numbers, parts[row.part], most, f"limit {split}"))
        if not len(row.numbers):
            got = f"{len(whole)} images in {train}, and none left for {split}"
            raise ConfigError(where, got, "every split has images", "a larger part, or another share for validation")
    return found


def _part(
    parts: Mapping[str, Sequence[int]], named: str | None, purposes: Sequence[str], setting: str, where: object
) -> str:
    """The part of this name, or the one whose name says its purpose, the first purpose that has one."""
    if named is not None:
        if named in parts:
            return named
        raise ConfigError(
            f"{where}, {setting}", repr(named), "it is another of the official parts", nearest(named, parts)
        )
    for purpose in purposes:
        found = official(parts, purpose)
        if len(found) == 1:
            return found[0]
        if found:
            break
    got = f"the parts {', '.join(parts) or 'none'}"
    raise ConfigError(where, got, f"one of them is named {' or '.join(purposes)}", f"{setting}: the name of one")


def drawn(rule: SplitRule, numbers: Sequence[int], labels: Sequence[int], count: int, purpose: str) -> list[int]:
    """So many of these images, ascending.

    Args:
        rule: how, and the seed.
        numbers: of images.
        labels: of all images of their part.
        count: how many.
        purpose: another word draws others.
    """
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault(labels[number] if rule.draw == "stratified" else 0, []).append(number)
    exact = {group: count * len(members) / len(numbers) for group, members in groups.items()}
    shares = {group: int(share) for group, share in exact.items()}
    dearest = sorted(groups, key=lambda group: (shares[group] - exact[group], group))
    for group in dearest[: count - sum(shares.values())]:  # largest remainder
        shares[group] += 1
    found = []
    for group, members in groups.items():
        order = torch.randperm(len(members), generator=generator(rule.seed, purpose, group))
        found += [members[at] for at in order[: shares[group]].tolist()]
    return sorted(found)
