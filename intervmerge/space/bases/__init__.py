"""The merged base as a user writes it: one, the sweep, or one that is searched with all else of a space.

A searched base is a rule and settings of which some are choices or steps. It is one of finitely many, so that what is
kept of each is used again; a setting that a rule does not have is absent where that rule is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from intervmerge.bases.rules import resolve, settings_known
from intervmerge.errors import ConfigError, nearest
from intervmerge.records.elimination import base_key
from intervmerge.settings import settings
from intervmerge.space.sources import Source, Traced
from intervmerge.space.values import Choices, Steps, drawn_value, kind_of, label, listed, typical

MOST = 500
"""Bases of a space, at most: far beyond what anybody merges."""

SWEPT = ("auto", "best")
"""Names that are no rules: a sweep over the rules' table that hands a few to the search, and the best of the classic
rules alone."""
Fixed = str | dict[str, str | float | int]
"""One of SWEPT, or a rule and its settings: `{rule: task_arithmetic, scaling: 0.3}`."""
Searched = Annotated[
    Annotated[str | float | int, Tag("<value>")]
    | Annotated[Choices, Tag("<choices>")]
    | Annotated[Steps, Tag("<range>")],
    Discriminator(kind_of),
]


@settings
class AnyOf:
    """One of several bases: `{choices: [{rule: wudi}, {rule: iso_c, scaling: 0.7}]}`."""

    choices: list[Fixed]


def _shape(value: object) -> str:
    """The alternative of a base that a user's value is."""
    if isinstance(value, list):
        return "<several>"
    if isinstance(value, AnyOf) or (isinstance(value, Mapping) and "choices" in value):
        return "<any>"
    return "<settings>" if isinstance(value, Mapping) else "<name>"


Base = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[dict[str, Searched], Tag("<settings>")] | Annotated[AnyOf, Tag("<any>")],
    Discriminator(_shape),
]
"""One of SWEPT, a rule, a rule and its settings, each of which may be choices or steps, or one of several."""
SomeBase = Annotated[
    Annotated[str, Tag("<name>")]
    | Annotated[dict[str, Searched], Tag("<settings>")]
    | Annotated[AnyOf, Tag("<any>")]
    | Annotated[list[Base], Tag("<several>")],
    Discriminator(_shape),
]


@dataclass(frozen=True)
class Bases:
    """Every merged base that a trial of a space may have. Picklable."""

    dimensions: Mapping[str, Any]
    """Setting to its domain, the rule first; a rule may bring settings of its own, as a mapping."""

    def draw(self, source: Source) -> dict[str, Any]:
        """Rule and complete settings of one, from what the source gives.

        Raises:
            ConfigError: a value is out of the rule's range.
        """
        rule = drawn_value(source, "base.rule", self.dimensions["rule"])
        own = named(rule)
        for name, domain in self.dimensions.items():
            if name != "rule" and name in settings_known(own["rule"]):
                own[name] = drawn_value(source, f"base.{name}", domain)
        return complete(own)

    @cached_property
    def points(self) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """Key of each different base to the base and the values that a source gives for it.

        Raises:
            ConfigError: there are too many, or one of them is out of its rule's range.
        """
        axes = {f"base.{name}": listed(domain) or [] for name, domain in self.dimensions.items()}
        count = prod(map(len, axes.values()))
        if count > MOST:
            raise ConfigError(
                "base", f"{count:,} bases", f"a space has at most {MOST:,}", "fewer choices, larger steps"
            )
        found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        for values in product(*axes.values()):
            traced = Traced(dict(zip(axes, values, strict=True)))
            base = self.draw(traced)
            found.setdefault(base_key(base), (base, traced.params))
        return found

    @property
    def every(self) -> list[dict[str, Any]]:
        """Rule and complete settings of each different base."""
        return [base for base, _ in self.points.values()]

    @cached_property
    def reference(self) -> dict[str, Any]:
        """The base that fronts are measured from: the first rule, each setting next to that rule's default."""
        return self._next_to_defaults(self._rules[0])

    @property
    def _rules(self) -> list[Any]:
        rule = self.dimensions["rule"]
        return list(rule.choices) if isinstance(rule, Choices) else [rule]

    def _next_to_defaults(self, rule: Any) -> dict[str, Any]:
        own = named(rule)
        known = complete(own)
        others = {name: domain for name, domain in self.dimensions.items() if name in settings_known(own["rule"])}
        return complete({**own, **{name: typical(domain, known.get(name)) for name, domain in others.items()}})

    def wide(self, count: int) -> list[dict[str, Any]]:
        """About so many bases that differ, those of one rule side by side: of every rule as many, one at least.

        One is next to the rule's defaults; several lie evenly among the rule's, in their order.
        """
        each = max(1, count // len(self._rules))
        found: dict[str, dict[str, Any]] = {}
        for rule in self._rules:
            mine = Bases({**self.dimensions, "rule": rule}).every
            some = [mine[(2 * n + 1) * len(mine) // (2 * each)] for n in range(each)] if each > 1 else []
            found |= {base_key(base): base for base in some or [self._next_to_defaults(rule)]}
        return list(found.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values: what a study keeps of them."""
        return {name: asdict(of) if is_dataclass(of) and not isinstance(of, type) else of
                for name, of in self.dimensions.items()}  # fmt: skip


def named(base: Any) -> dict[str, Any]:
    """A rule, a mapping or the text of one, as rule and settings."""
    if isinstance(base, str):
        return dict(json.loads(base)) if base.startswith("{") else {"rule": base}
    return dict(base)


def one_base(base: Fixed, key: str) -> dict[str, Any]:
    """Rule and all settings of a base that leaves no choice.

    Args:
        base: a rule, or a rule and its settings.
        key: of the space, under which it stands.

    Raises:
        ConfigError: a sweep; no such rule or setting, or a value out of range.
    """
    values = {"rule": base} if isinstance(base, str) else base
    if values.get("rule") in (*SWEPT, None):
        raise ConfigError(key, base, "it is one base, as it is", "{rule: wudi_flow, depth: 1.1}")
    return complete(values, key)


def complete(base: Mapping[str, Any], key: str = "base") -> dict[str, Any]:
    """Rule and all settings, defaults filled in, as JSON has them; `key` of the space is named in errors.

    Raises:
        ConfigError: no such rule or setting, or a value out of range.
    """
    try:
        settings = resolve(str(base["rule"]), {name: value for name, value in base.items() if name != "rule"})
    except ConfigError as error:
        raise ConfigError(f"{key}.{error.args[0]}", *error.args[1:]) from error
    found: dict[str, Any] = json.loads(json.dumps({"rule": base["rule"], **settings}))
    return found


def in_words(base: Mapping[str, Any]) -> str:
    """`ties_sum(density=0.2, scaling=0.3)`."""
    return f"{base['rule']}({', '.join(f'{name}={value}' for name, value in base.items() if name != 'rule')})"


def searched(base: Any) -> Bases | None:
    """What is searched of a base; None where it is one, or the sweep."""
    found = _bases(base)
    return found if found is not None and len(found.points) > 1 else None


def _bases(base: Any) -> Bases | None:
    if isinstance(base, AnyOf):
        return Bases({"rule": Choices(choices=[label(named(choice)) for choice in base.choices])})
    if isinstance(base, str) or not any(isinstance(value, Choices | Steps) for value in base.values()):
        return None
    return Bases({"rule": base["rule"], **{name: of for name, of in base.items() if name != "rule"}})


def plain(base: Any) -> Any:
    """The same base, without choices where they leave none."""
    found = _bases(base)
    return found.every[0] if found is not None and len(found.points) == 1 else base


def _check_rule(base: Any) -> None:
    """Refuse a base whose rule is no name, nor choices of names."""
    if isinstance(base, str):
        return
    if "rule" not in base:
        raise ConfigError("base", base, "a base has a rule", "auto, or {rule: task_arithmetic, scaling: 0.3}")
    rule = base["rule"]
    if not all(isinstance(name, str) for name in (rule.choices if isinstance(rule, Choices) else [rule])):
        raise ConfigError("base.rule", rule, "it is a rule's name, or choices of several", "{choices: [wudi, iso_c]}")


def check_base(base: Any) -> None:
    """Refuse an unknown rule or setting of a rule, and a setting that no rule of a searched base has."""
    if isinstance(base, str) and base in SWEPT:
        return
    for one in base.choices if isinstance(base, AnyOf) else [base]:
        _check_rule(one)
    found = _bases(base)
    if found is None:
        complete(named(base))
        return
    known = {name for one in found.every for name in settings_known(one["rule"])}
    for name in found.dimensions:
        if name not in {"rule", *known}:
            rule = "a setting of a searched base is one of a rule that may be drawn"
            raise ConfigError(f"base.{name}", found.dimensions[name], rule, nearest(name, known))
