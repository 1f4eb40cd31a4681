"""How far the lecture's table and claims are: which seeds of fine-tuning count, and what is known of each.

Fine-tuning all suites takes hours, measuring them minutes: so a figure outlives its suite. It counts as long as the
suite that was asked for is the same, and no other suite lies where its own one would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from intervmerge.analysis.siblings import how_to_build, sibling
from intervmerge.errors import SuiteError
from intervmerge.paper.lecture.asking import ASKED, Question
from intervmerge.paper.lecture.kept import Kept
from intervmerge.paper.lecture.measuring import Found
from intervmerge.paper.lecture.rows import ROWS, SlideRow
from intervmerge.paper.occasion import Occasion
from intervmerge.paper.order import Order
from intervmerge.suites.suite import Suite
from intervmerge.suites.teachers.tangent import TANGENT

ENTRIES: Mapping[str, SlideRow | Question] = MappingProxyType({**ROWS, **ASKED})
SAME = "standard"
"""The row of training's METHODS by which a suite's own models were fine-tuned, for seeds beyond them."""


def method_of(key: str) -> str:
    """The row of training's METHODS whose models an entry is measured on."""
    return ENTRIES[key].method or SAME


def needed(key: str) -> list[str]:
    """That, and what it is measured beside."""
    return list(dict.fromkeys((method_of(key), SAME)))


def name_of(key: str, seed: int) -> str:
    """How an entry, or a method, is named in files: by itself, and with models of another seed as `ties/1`."""
    return f"{key}/{seed}" if seed else key


@dataclass(frozen=True)
class Models:
    """The fine-tuned models of one seed, by method; `SAME` are, of the first, those of the suite that was asked for."""

    suites: Mapping[str, Suite | None]
    """None where it is not built."""
    fingerprints: Mapping[str, str | None]
    """Of a suite that is not here, that of the one that was measured on; None where none was."""


class Standing:
    """What an order knows of the lecture; every suite is opened once.

    Args:
        order: whose suite, folder, and seeds of fine-tuning.

    Raises:
        SuiteError: what lies where a sibling would is none.
        ConfigError: a file of figures that is none.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        given = Kept() if order.measured is None else Kept.read(order.measured)
        self.kept = given | Kept.read(self.path)
        """What was measured, with others' figures that the order was given."""
        own = order.suite.file.finetuned_by in ("", SAME)  # else further seeds of its own method would be SAME
        self.models = {seed: self._models(seed) for seed in range(order.seeds if own else 1)}
        """By seed of fine-tuning."""

    @property
    def path(self) -> Path:
        """Where figures are kept."""
        return self._order.folder / "slides.json"

    @cached_property
    def known(self) -> Mapping[int, Mapping[str, Found]]:
        """By seed that counts, the suite's own models first, what is known; what needs a suite that is not built says
        so. Further seeds count where every figure of them and of the first is known or can be measured.

        Raises:
            SuiteError: two seeds have the same models.
        """
        whole = [seed for seed in self.models if not self._lacking(seed)]
        found = whole if 0 in whole else [0]
        self._check_others(found)
        return {seed: self._known(seed) for seed in found}

    @property
    def lacking(self) -> list[str]:
        """Commands that build the suites without which something, or a further seed, is not known."""
        return [self._how(method, seed) for seed in self.models for method in self._lacking(seed)]

    @property
    def elsewhere(self) -> list[str]:
        """Commands that build the suites that are not here, but whose figures are known."""
        return [
            self._how(method, seed)
            for seed in self.known
            for method, suite in self.models[seed].suites.items()
            if suite is None and method not in self._lacking(seed)
        ]

    @property
    def occasions(self) -> Mapping[Occasion, int]:
        """When figures that count were measured, and how many then; older ones do not say."""
        names = (name_of(key, seed) for seed in self.known for key in ENTRIES if self._is_kept(key, seed))
        return Counter(self.kept.made[name] for name in names if name in self.kept.made)

    def measured_on(self, key: str, seed: int) -> str | None:
        """What decides the figures of an entry; None where no suite is known that it could be measured on."""
        models, method = self.models[seed], method_of(key)
        own, beside, suite = models.fingerprints[method], models.fingerprints[SAME], models.suites[method]
        if own is None or beside is None:
            return None
        tangent = suite.is_tangent if suite else method in TANGENT
        taught = " taught by tangent models" if tangent else ""
        return f"{beside}/{own}/{self._order.training.steps} steps{taught}"

    def _is_kept(self, key: str, seed: int) -> bool:
        """Whether a figure is kept, and is of these models."""
        on = self.measured_on(key, seed)
        return on is not None and self.kept.suites.get(name_of(key, seed)) == on

    def _known(self, seed: int) -> dict[str, Found]:
        found = {}
        for key in ENTRIES:
            if self._is_kept(key, seed):
                found[key] = self.kept.found[name_of(key, seed)]
            elif absent := [method for method in needed(key) if self.models[seed].suites[method] is None]:
                found[key] = Found(missing=f"not built: {self._how(absent[0], seed)}")
        return found

    def _lacking(self, seed: int) -> list[str]:
        """Methods whose suites are not here, though figures that are not kept need them."""
        missing = {method for key in ENTRIES if not self._is_kept(key, seed) for method in needed(key)}
        return [method for method, suite in self.models[seed].suites.items() if suite is None and method in missing]

    def _models(self, seed: int) -> Models:
        methods = sorted({method for key in ENTRIES for method in needed(key)})
        suites = {method: suite_of(self._order, method, seed) for method in methods}
        own = self._order.suite.fingerprint

        def fingerprint(method: str) -> str | None:
            if suite := suites[method]:
                return suite.fingerprint
            seen = self.kept.seen.get(name_of(method, seed))
            return seen.fingerprint if seen and seen.beside == own else None

        return Models(suites, {method: fingerprint(method) for method in methods})

    def _check_others(self, seeds: list[int]) -> None:
        first: dict[tuple[str, str | None], int] = {}
        for seed in seeds:
            for method, fingerprint in self.models[seed].fingerprints.items():
                if fingerprint and (other := first.setdefault((method, fingerprint), seed)) != seed:
                    suite = self.models[seed].suites[method]
                    got, rule = f"the models of seed {other}", "models of another seed are others"
                    allowed = f"that folder removed, and {self._how(method, seed)}"
                    raise SuiteError(suite.folder if suite else name_of(method, seed), got, rule, allowed)

    def _how(self, method: str, seed: int) -> str:
        return how_to_build(self._order.place, method, seed)


def suite_of(order: Order, method: str, seed: int) -> Suite | None:
    """A suite by method and seed; None where it is not built."""
    return order.suite if (method, seed) == (SAME, 0) else sibling(order.suite, order.place, method, seed)
