"""How far the lecture's table and claims are: which seeds of fine-tuning count, and what is known of each.

Fine-tuning all suites takes hours, measuring them minutes: so a figure outlives its suite. It counts as long as the
suite that was asked for is the same, and no other suite lies where its own one would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from intervmerge.analysis.siblings import how_to_build, sibling
from intervmerge.errors import SuiteError
from intervmerge.paper.lecture.entries import ENTRIES, SAME, entries, is_fixed, needed, settings
from intervmerge.paper.lecture.kept import Figure, read_figures, union
from intervmerge.paper.lecture.measuring import Found
from intervmerge.paper.occasion import Occasion
from intervmerge.paper.order import Order
from intervmerge.suites.suite import Suite


class Standing:
    """What an order knows of the lecture; every suite is opened once.

    Args:
        order: whose suite, folder, and seeds of fine-tuning.

    Raises:
        SuiteError: what lies where a sibling would is none, or two seeds have the same models.
        ConfigError: a file of figures that is none.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        own = order.suite.file.finetuned_by in ("", SAME)  # else further seeds of its own method would be SAME
        methods = sorted({method for key in ENTRIES for method in needed(key)})
        self.suites: Mapping[int, Mapping[str, Suite | None]] = {
            seed: {method: suite_of(order, method, seed) for method in methods}
            for seed in range(order.seeds if own else 1)
        }
        """By seed of fine-tuning and method; None where it is not built."""
        own_figures = read_figures(self.path)
        given = [] if order.measured is None else read_figures(order.measured)
        self.kept = union(given, own_figures)
        """What the order was given and has measured, whether it counts or not."""
        self._figures = self._counting([*(of for of in given if not self._is_here(of)), *own_figures])

    @property
    def path(self) -> Path:
        """Where figures are kept."""
        return self._order.folder / "slides.json"

    @cached_property
    def known(self) -> Mapping[int, Mapping[str, Found]]:
        """By seed that counts, the suite's own models first, what is known; what needs a suite that is not built says
        so. Further seeds count where every figure of them and of the first is known or can be measured."""
        whole = [seed for seed in self.suites if not self._lacking(seed)]
        return {seed: self._known(seed) for seed in (whole if 0 in whole else [0])}

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Entries and seeds that are not known and can be measured here, also of a seed that does not count yet."""
        return [(key, seed) for seed in self.suites for key in entries(seed) if key not in self._known(seed)]

    @property
    def figures(self) -> list[Figure]:
        """The figures that count, by seed and in the order of the table."""
        pairs = ((key, seed) for seed in self.known for key in entries(seed))
        return [self._figures[pair] for pair in pairs if pair in self._figures]

    @property
    def lacking(self) -> list[str]:
        """Commands that build the suites without which something, or a further seed, is not known."""
        return [self._how(method, seed) for seed in self.suites for method in self._lacking(seed)]

    @property
    def elsewhere(self) -> list[str]:
        """Commands that build such suites as are not here, but whose figures are known."""
        return [
            self._how(method, seed)
            for seed in self.known
            for method, suite in self.suites[seed].items()
            if suite is None and method not in self._lacking(seed)
        ]

    @property
    def occasions(self) -> Mapping[Occasion | None, int]:
        """When figures that count were measured, and how many then; None where a file of an older format has it."""
        return Counter(figure.made for figure in self.figures)

    def _print(self, method: str, seed: int) -> str | None:
        suite = self.suites[seed][method]
        return suite.identity if suite else None

    def _is_here(self, figure: Figure) -> bool:
        """Whether all that it was measured on could be measured now, be it the same or not."""
        return figure.seed in self.suites and all(self.suites[figure.seed].get(method) for method in figure.suites)

    def _fits(self, figure: Figure) -> bool:
        """Whether a figure is of this order, as far as suites are here."""
        tasks = self._order.suite.task_names
        known = (
            own for own in (figure.found.as_it_is, figure.found.searched, figure.found.repaired) if own is not None
        )
        return (
            figure.seed in self.suites
            and figure.entry in entries(figure.seed)
            and (figure.suite, figure.settings) == (self._order.suite.identity, settings(self._order, figure.entry))
            and figure.suites.keys() == set(needed(figure.entry))
            and all(sorted(own) == sorted(tasks) for own in known)
            and all(self._print(method, figure.seed) in (None, on) for method, on in figure.suites.items())
        )

    def _counting(self, figures: Iterable[Figure]) -> dict[tuple[str, int], Figure]:
        """The figures that count, by entry and seed; of a suite that is not here, those of the one measured last.

        Raises:
            SuiteError: two seeds have the same models.
        """
        fitting = [figure for figure in figures if self._fits(figure)]
        prints: dict[tuple[str, int], str] = {}
        for seed, suites in self.suites.items():
            for method, suite in suites.items():
                others = {prints.get((method, other)): other for other in range(seed)}
                if suite and (own := suite.identity) in others:
                    got, rule = f"the models of seed {others[own]}", "models of another seed are others"
                    raise SuiteError(suite.folder, got, rule, f"that folder removed, and {self._how(method, seed)}")
                seen = [of.suites[method] for of in fitting if of.seed == seed and method in of.suites]
                last = [fingerprint for fingerprint in seen if fingerprint not in others][-1:]
                for fingerprint in [suite.identity] if suite else last:
                    prints[method, seed] = fingerprint
        return {
            (figure.entry, figure.seed): figure
            for figure in fitting
            if all(prints.get((method, figure.seed)) == on for method, on in figure.suites.items())
        }

    def _figure(self, key: str, seed: int) -> Figure | None:
        return self._figures.get((key, 0 if is_fixed(key) else seed))

    def _known(self, seed: int) -> dict[str, Found]:
        found = {}
        for key in ENTRIES:
            if own := self._figure(key, seed):
                found[key] = own.found
            elif absent := self._absent(key, seed):
                found[key] = Found(missing=f"not built: {self._how(absent[0], seed)}")
        return found

    def _absent(self, key: str, seed: int) -> Sequence[str]:
        """Methods whose suites an entry needs and are not here."""
        return [method for method in needed(key) if self.suites[seed][method] is None]

    def _lacking(self, seed: int) -> list[str]:
        """Methods whose suites are not here, though figures that are not known need them."""
        unknown = [key for key in entries(seed) if not self._figure(key, seed)]
        missing = {method for key in unknown for method in self._absent(key, seed)}
        return [method for method in self.suites[seed] if method in missing]

    def _how(self, method: str, seed: int) -> str:
        return how_to_build(self._order.place, method, seed)


def suite_of(order: Order, method: str, seed: int) -> Suite | None:
    """A suite by method and seed; None where it is not built."""
    return order.suite if (method, seed) == (SAME, 0) else sibling(order.suite, order.place, method, seed)
