"""The lecture's claims, each a line: a difference, whose standard error is over seeds of fine-tuning, or over tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from intervmerge.paper.claims.table import OURS
from intervmerge.paper.claims.verdicts import Verdict, verdict
from intervmerge.paper.lecture.asking import INTERFERING
from intervmerge.paper.lecture.measuring import Found

AT_ONE, SEARCHED, REPAIRED = "as_it_is", "searched", "repaired"
Known = Mapping[str, Found]


@dataclass(frozen=True)
class SlideClaim:
    """A sentence on a difference by task."""

    words: str
    differences: Callable[[Known], Sequence[float]]
    """From what is known to one number a task; empty where something is missing."""
    direction: str = "more"
    """A row of DIRECTIONS."""
    source: str = "the slides"
    """Whose claim it is."""
    pairwise: bool = False
    """Whether a task's number is the mean of its pairs with every other task."""
    test_images: int | None = None
    """Of `test` of each task, at most, that it rests on; None are all."""


def less(first: tuple[str, str], second: tuple[str, str]) -> Callable[[Known], Sequence[float]]:
    """Accuracy of one figure of the table less that of another, by task; a figure is (row, AT_ONE, SEARCHED or
    REPAIRED)."""

    def differences(known: Known) -> Sequence[float]:
        own, other = (getattr(known[row], figure) if row in known else None for row, figure in (first, second))
        return [own[task] - other[task] for task in own] if own and other else []

    return differences


def smaller_gap(own: tuple[str, str], other: tuple[str, str]) -> Callable[[Known], Sequence[float]]:
    """By how much repaired models lack less of their individual models than others do of theirs, by task; rows as
    (merged, individual)."""
    gaps = [less((individual, AT_ONE), (merged, REPAIRED)) for merged, individual in (own, other)]

    def differences(known: Known) -> Sequence[float]:
        first, second = (gap(known) for gap in gaps)
        return [b - a for a, b in zip(first, second, strict=True)] if first and second else []

    return differences


def asked(name: str) -> Callable[[Known], Sequence[float]]:
    """What a question came to, by task."""

    def differences(known: Known) -> Sequence[float]:
        return list(((known[name].as_it_is if name in known else None) or {}).values())

    return differences


# fmt: off
CLAIMS: tuple[SlideClaim, ...] = (
    SlideClaim("task vectors add up: their sum beats the pre-trained model",
               less(("non-linear", SEARCHED), ("pre-trained", AT_ONE))),
    SlideClaim("a task is forgotten by its negation, 95 % of the control kept", asked("negation")),
    SlideClaim("the coefficient matters: a searched λ beats λ = 1",
               less(("non-linear", SEARCHED), ("non-linear", AT_ONE))),
    SlideClaim("at λ = 1 linear fine-tuning merges better than non-linear",
               less(("linear", AT_ONE), ("non-linear", AT_ONE))),
    SlideClaim("with λ searched linear fine-tuning merges better than non-linear",
               less(("linear", SEARCHED), ("non-linear", SEARCHED))),
    SlideClaim("TIES beats task arithmetic", less(("ties", SEARCHED), ("non-linear", SEARCHED))),
    SlideClaim("AdaMerging beats TIES", less(("adamerging", AT_ONE), ("ties", SEARCHED))),
    SlideClaim("tau-Jp beats linear fine-tuning", less(("tau-Jp", SEARCHED), ("linear", SEARCHED))),
    SlideClaim("tau-Jp beats AdaMerging", less(("tau-Jp", SEARCHED), ("adamerging", AT_ONE))),
    SlideClaim("tau-Jp needs no search: λ = 1 and a searched λ are close",
               less(("tau-Jp", SEARCHED), ("tau-Jp", AT_ONE)), "close"),
    SlideClaim("one model trained on all tasks beats AdaMerging", less(("multi-task", AT_ONE), ("adamerging", AT_ONE))),
    SlideClaim("tau-Jp tells who loses when a task is added (rank correlation, in hundredths)", asked("tau-Jp tells"),
               test_images=INTERFERING),
    SlideClaim("updates of full fine-tuning are more alike than LoRA's (CKA, in hundredths)", asked("full above LoRA"),
               pairwise=True, test_images=0),
    SlideClaim("seen by KnOTS, LoRA's updates are more alike (CKA, in hundredths)", asked("KnOTS above LoRA"),
               pairwise=True, test_images=0),
    SlideClaim("on LoRA KnOTS-TIES beats TIES", less(("lora knots", SEARCHED), ("lora ties", SEARCHED))),
    SlideClaim("interventions of rank 1 repair what is merged of full fine-tuning",
               less(("non-linear", REPAIRED), ("non-linear", SEARCHED)), source=OURS),
    SlideClaim("interventions of rank 1 repair what is merged of LoRA by KnOTS-TIES",
               less(("lora knots", REPAIRED), ("lora knots", SEARCHED)), source=OURS),
    SlideClaim("interventions of rank 1 repair what is merged of linear fine-tuning",
               less(("linear network", REPAIRED), ("linear network", SEARCHED)), source=OURS),
    SlideClaim("interventions of rank 1 repair what is merged of tau-Jp fine-tuning",
               less(("tau-Jp network", REPAIRED), ("tau-Jp network", SEARCHED)), source=OURS),
    SlideClaim("repaired, full fine-tuning beats tau-Jp's tangent model",
               less(("non-linear", REPAIRED), ("tau-Jp", SEARCHED)), source=OURS),
    SlideClaim("repaired, LoRA lacks less of its individual models than full fine-tuning does of its own",
               smaller_gap(("lora knots", "lora individual"), ("non-linear", "individual")), source=OURS),
)
# fmt: on
"""One line each in RESULTS.md."""


def held(claim: SlideClaim, known: Sequence[Known]) -> Verdict:
    """What came of a claim; what would be "seeds" are tasks where there is one seed of fine-tuning.

    Args:
        claim: what is claimed.
        known: of each seed of fine-tuning, also of one with which nothing is measured yet.
    """
    by_task = [claim.differences(own) for own in known]
    if len(known) == 1:
        return verdict(by_task[0], claim.direction, pairwise=claim.pairwise)
    return verdict([fmean(own) for own in by_task if own], claim.direction)
