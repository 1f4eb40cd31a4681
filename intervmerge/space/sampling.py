"""From a space to configurations: what Optuna draws, what it is told, what is asked first."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from intervmerge.errors import ConfigError, lookup
from intervmerge.interventions import AUTO, InterventionConfig, Placement, extra_params, fit
from intervmerge.records.stopping import STOPPING
from intervmerge.settings import read_settings
from intervmerge.space.bases import Bases, searched
from intervmerge.space.samplers import GRID, SAMPLERS
from intervmerge.space.sources import Point, RandomSource, Source
from intervmerge.space.space import Space, domains
from intervmerge.space.values import ENUMERABLE, Choices, Range, WholeRange, drawn_value, extremes, holds, listed
from intervmerge.suites.encoder import Architecture
from intervmerge.trial.config import TrainingConfig, TrialConfig

MASK = "mask"
"""Of `blocks`: a 0 or 1 is drawn for every block."""

DRAWS = 2000
"""Random draws by which a space is described that is too large to list."""

PAPER: tuple[Mapping[str, Any], ...] = (
    {"formula": "noreft", "rank": 1, "blocks": "all", "token": "class", "slice_width": "1/1"},
    {"formula": "noreft", "rank": 4, "blocks": "all", "token": "class", "slice_width": "1/1"},
    {"formula": "noreft", "rank": 1, "blocks": "middle_1", "token": "class", "slice_width": "1/1"},
    {"formula": "lobireft", "rank": 1, "blocks": "all", "token": "class", "slice_width": "1/12",
     "slice_shift": "slice_width"},
    {"formula": "noreft", "rank": 1, "blocks": "all", "token": "class", "slice_width": "1/12",
     "slice_shift": "slice_width"},
)  # fmt: skip
"""The paper's own configurations (IntervMerge, Tables 1, 3 and 5), as far as a space holds them."""


@dataclass(frozen=True)
class Drawn:
    """A configuration in canonical form, and what it costs."""

    trial: TrialConfig
    extra_params: int
    base: Mapping[str, Any] = field(default_factory=dict)
    """Rule and complete settings of its merged base; empty where the space has one base for all."""

    @property
    def key(self) -> str:
        """Equal for equal configurations of one study."""
        values = asdict(self.trial)
        return key_of(values["intervention"], values["training"], values["seed"], self.base)


def key_of(
    intervention: Mapping[str, Any], training: Mapping[str, Any], seed: int, base: Mapping[str, Any] | None = None
) -> str:
    """Equal for equal canonical configurations, on equal bases where these are searched."""
    return json.dumps([intervention, training, seed, *([base] if base else [])], sort_keys=True)


def text_of(intervention: Mapping[str, Any]) -> str:
    """Equal for equal canonical interventions, whichever way they came here."""
    return json.dumps(intervention, sort_keys=True)


@dataclass(frozen=True)
class Sampling:
    """A space held against a model. Picklable."""

    space: Space
    shape: Architecture
    num_tasks: int

    @cached_property
    def bases(self) -> Bases | None:
        """What is searched of the merged base; None where the space has one for all."""
        return searched(self.space.bases[0])

    def check(self) -> None:
        """Refuse every value of the space that does not fit the model, before anything is computed.

        Raises:
            ConfigError: the first such value.
        """
        if self.space.search.sampler not in SAMPLERS:
            where, allowed = "search.sampler", ", ".join(SAMPLERS)
            raise ConfigError(where, repr(self.space.search.sampler), "it must be a known sampler", allowed)
        lookup(STOPPING, self.space.search.stopping, "search.stopping")
        for name, domain in domains(self.space).items():
            part, _, setting = name.partition(".")
            for value in extremes(domain):
                if value != MASK or setting != "blocks":
                    self._check_value(part, setting, value)
        tokens = [token for token in extremes(self.space.intervention.token) if token != "class"]
        if self.space.training.engine == "stream" and tokens:
            rule = "the class stream carries the class token alone"
            raise ConfigError("training.engine", f"stream, for token {tokens[0]}", rule, "auto, exact, or token: class")
        if self.space.search.sampler == GRID:
            self.axes()
        cheapest, budget = self.cost_range()[0], self.space.search.max_extra_params
        if budget is not None and budget < cheapest:
            rule = "no configuration of the space is so cheap"
            raise ConfigError("search.max_extra_params", budget, rule, f"{cheapest} or more")

    def _check_value(self, part: str, setting: str, value: Any) -> None:
        try:
            if part == "training":
                beside = {"engine": self.space.training.engine} if setting == "loss" else {}  # it asks for an engine
                read_settings(TrainingConfig, {**beside, setting: value}, "")
            else:
                self.fit({setting: value})
        except ConfigError as error:
            raise ConfigError(f"{part}.{setting}", *error.args[1:]) from error

    def holds_streams(self) -> bool:
        """Whether any trial may train in the class stream."""
        drawn = (d for d in self.sample(DRAWS) if d is not None)
        return self.space.training.engine != "exact" and any(d.trial.intervention.token == "class" for d in drawn)

    def batch_sizes(self) -> list[int]:
        """Batches that a trial could have, at least the extreme ones."""
        return [int(size) for size in extremes(self.space.training.batch)]

    def draw(self, source: Source) -> Drawn:
        """A configuration from what the source gives.

        Raises:
            ConfigError: this combination edits nothing, such as an empty mask.
        """
        base = self.bases.draw(source) if self.bases else {}
        intervention: dict[str, Any] = {}
        training: dict[str, Any] = {}
        for name, domain in domains(self.space).items():
            part, _, setting = name.partition(".")
            value = self._value(source, name, domain)
            (intervention if part == "intervention" else training)[setting] = value
        rungs = tuple(rung for rung in self.space.training.rungs if rung <= training["steps"])
        placement = self.fit(intervention)
        config = TrialConfig(
            intervention=placement.config,
            training=TrainingConfig(**training, rungs=rungs),
            seed=self.space.search.seed,
        )
        return Drawn(config, self.num_tasks * extra_params(placement), base)

    def fit(self, intervention: Mapping[str, Any]) -> Placement:
        """The canonical placement of a configuration.

        Raises:
            ConfigError: it does not fit the model, or edits nothing.
        """
        shape = self.shape
        config = InterventionConfig(**intervention)
        return fit(config, width=shape.width, num_blocks=shape.blocks, grid=shape.grid, features=shape.features)

    def _value(self, source: Source, name: str, domain: Any) -> Any:
        value = drawn_value(source, name, domain)
        if name == "intervention.blocks" and value == MASK:
            bits = [source.suggest_categorical(f"{name}[{i}]", [0, 1]) for i in range(self.shape.blocks)]
            return "".join(map(str, bits))
        return tuple(value) if isinstance(value, list) else value

    def cost_range(self) -> tuple[int, int]:
        """Extra parameters of the cheapest and of the dearest configuration of the space."""
        known = domains(self.space)
        names = ("formula", "blocks", "site", "token", "slice_width", "rank")
        axes = [extremes(known[f"intervention.{name}"]) for name in names]
        masks = ["1" + "0" * (self.shape.blocks - 1), "1" * self.shape.blocks]
        axes[1] = [value for option in axes[1] for value in (masks if option == MASK else [option])]
        costs = []
        for values in itertools.product(*axes):
            try:
                costs.append(extra_params(self.fit(dict(zip(names, values, strict=True)))) * self.num_tasks)
            except ConfigError:
                continue  # edits nothing
        if not costs:
            rule = "no configuration of the space edits anything that reaches the feature"
            raise ConfigError(
                "intervention.blocks", known["intervention.blocks"], rule, "other blocks, or token: class"
            )
        return min(costs), max(costs)

    def grid(self) -> Iterator[tuple[Drawn, dict[str, Any]]] | None:
        """Every configuration of the space with the values that give it; repeats are among them.

        None where the space is not finite or too large to list.
        """
        try:
            return self._points(self.axes())
        except ConfigError:
            return None

    def axes(self) -> dict[str, list[Any]]:
        """Every value of every setting, as a source gives it.

        Raises:
            ConfigError: the space is not finite or too large to list, by what this setting has.
        """
        axes: dict[str, list[Any]] = {}
        sizes: dict[str, int] = {}
        allowed = f"choices, fewer of them, or a sampler other than {GRID}"
        bases = {f"base.{name}": domain for name, domain in (self.bases.dimensions if self.bases else {}).items()}
        for name, domain in {**bases, **domains(self.space)}.items():
            values = listed(domain)
            if values is None:
                got = f"a range from {domain.low} to {domain.high}"
                raise ConfigError(name, got, "not every value of it can be listed", allowed)
            axes[name], sizes[name] = values, len(values)
            if name == "intervention.blocks" and MASK in values:
                axes |= {f"{name}[{i}]": [0, 1] for i in range(self.shape.blocks)}
                sizes[name] *= 2**self.shape.blocks
        points = prod(sizes.values())
        if points > ENUMERABLE:
            largest = max(sizes, key=lambda name: sizes[name])
            got = f"{sizes[largest]:,} values, in a grid of {points:,} points"
            raise ConfigError(largest, got, f"a grid of at most {ENUMERABLE:,} points is listed", allowed)
        return axes

    def _points(self, axes: Mapping[str, list[Any]]) -> Iterator[tuple[Drawn, dict[str, Any]]]:
        varied = {name for name, values in axes.items() if len(values) > 1}
        for point in itertools.product(*axes.values()):
            values = dict(zip(axes, point, strict=True))
            try:
                yield self.draw(Point(values)), {name: values[name] for name in varied}
            except ConfigError:
                continue  # a combination that edits nothing is no configuration

    def sample(self, count: int, seed: int = 0) -> Iterator[Drawn | None]:
        """So many random draws; None for one that edits nothing."""
        source = RandomSource(random.Random(seed))
        for _ in range(count):
            try:
                yield self.draw(source)
            except ConfigError:
                yield None

    def priors(self) -> list[dict[str, Any]]:
        """What is asked first, as parameters for Optuna's `enqueue_trial`."""
        return [] if self.space.search.priors == "none" else list(self.held().values())

    def held(self) -> dict[int, dict[str, Any]]:
        """The paper's configurations that the space holds: place in PAPER to parameters for `enqueue_trial`."""
        found = {}
        for place, prior in enumerate(PAPER):
            asked: dict[str, Any] = {}
            for name, domain in domains(self.space).items():
                setting = name.removeprefix("intervention.")
                wanted = prior.get(setting, 0 if setting.startswith("slice_s") else None)
                if setting == "site":  # the paper's own, under either name
                    wanted = AUTO if holds(domain, AUTO) else "attention"
                if name.startswith("training.") or wanted is None:
                    continue
                if not holds(domain, wanted):
                    break
                if isinstance(domain, Choices | WholeRange | Range):
                    asked[name] = wanted
            else:
                found[place] = asked
        return found

    def spared(self) -> set[str]:
        """The paper's configurations that the space holds, as `text_of` gives them; they are never stopped.

        Of a setting that the paper does not name, each with every value.
        """
        known = {name: domain for name, domain in domains(self.space).items() if name.startswith("intervention.")}
        names = [name.removeprefix("intervention.") for name in known]
        found: set[str] = set()
        for prior in self.priors():
            axes = [[prior[name]] if name in prior else extremes(domain) for name, domain in known.items()]
            for values in itertools.product(*axes):
                found.add(text_of(asdict(self.fit(dict(zip(names, values, strict=True))).config)))
        return found
