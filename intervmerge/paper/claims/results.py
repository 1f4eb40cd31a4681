"""RESULTS.md: every claim as one line, every table beside the paper's. No number in it is typed by hand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from intervmerge.files import write_whole
from intervmerge.paper.claims.comparing import Outcome, outcome
from intervmerge.paper.claims.table import CLAIMS
from intervmerge.paper.claims.verdicts import BEYOND, CLOSE, OPEN, Verdict, false_alarm
from intervmerge.paper.lecture import slides
from intervmerge.paper.lecture.claims import CLAIMS as SLIDE_CLAIMS
from intervmerge.paper.lecture.claims import held
from intervmerge.paper.lecture.kept import write_figures
from intervmerge.paper.lecture.standing import Standing
from intervmerge.paper.occasion import Occasion
from intervmerge.paper.order import Order
from intervmerge.paper.tables.measured import Reader
from intervmerge.paper.tables.published import TABLES
from intervmerge.paper.tables.sheets import markdown

FILE, FIGURES = "RESULTS.md", "RESULTS.json"
COLUMNS = ("claim", "verdict", "difference, points", "standard error", "seeds", "test images", "source")


def line(claim: str, own: Verdict, test_images: int, source: str, suite: str) -> list[str]:
    """The cells of a claim, in the order of COLUMNS."""
    words = f"{own.words} on {suite}" if own.words == OPEN else own.words
    return [
        claim,
        f"*{words}*" + ("" if own.seeds else ": not measured"),
        "-" if own.difference is None else f"{100 * own.difference:+.2f}",
        "-" if own.error is None else f"{100 * own.error:.2f}",
        str(own.seeds),
        f"{test_images:,}",
        source,
    ]


def results(order: Order, occasion: Occasion, at: Standing) -> str:
    """All claims and tables as Markdown, as far as they were made."""
    reader = Reader(order)
    found = [outcome(claim, reader.row, order.suite.architecture.blocks) for claim in CLAIMS]
    tables = [markdown(name, table, order, reader.table(table)) for name, table in TABLES.items()]
    head = _head(order, occasion, reader.steps)
    lecture = slides.markdown(order, at)
    return "\n".join([head, _claims(found, order.suite.name), _slides(order, at), *tables, lecture])


def _head(order: Order, occasion: Occasion, trained: Collection[int]) -> str:
    steps = ", ".join(map(str, sorted(trained))) or "none yet"
    seeds = f"seeds 0 to {order.seeds - 1}" if order.seeds > 1 else "seed 0"
    return (
        f"# Results on {order.suite.name}\n\n{occasion.date}, {occasion.code}; "
        f"{seeds}; training steps: {steps}.{order.note} Interventions are trained on `adapt` without "
        "labels and measured exactly on `test`; wherever one of several is chosen, it is by `validation`.\n"
    )


def _claims(found: Sequence[Outcome], suite: str) -> str:
    lines = ["## Claims", "", *_columns(COLUMNS)]
    for own in found:
        lines.append(f"| {' | '.join(line(own.claim.words, own.verdict, own.test_images, own.claim.source, suite))} |")
    rule = (
        f"A claim *holds* if its difference, seed by seed, is beyond {BEYOND:g} standard errors above 0; one that two "
        f"are close, if the difference and {BEYOND:g} standard errors are within {100 * CLOSE:g} point. It *does not "
        "hold* where the same is true of the opposite, and else it *cannot be told*. Standard errors are over seeds of "
        "training interventions, each base being made once; those of the choice of test images come on top."
    )
    return "\n".join([*lines, "", f"{rule}{_chance([own.verdict for own in found])}", ""])


def _chance(found: Sequence[Verdict], replicates: str = "seeds") -> str:
    """How often luck alone decides a claim, after a space; empty where nothing has a standard error."""
    seeds = sorted({own.seeds for own in found if own.error is not None})
    shares = ", ".join(f"{100 * false_alarm(count):.0f} % of cases with {count} {replicates}" for count in seeds)
    luck = f"Where there is no difference, one is found all the same, one way or the other, in {shares} (Student's t)"
    return f" {luck}: of many claims some are decided by luck alone." if seeds else ""


def _slides(order: Order, at: Standing) -> str:
    """The lecture's claims; of one seed of fine-tuning tasks are the replicates."""
    known, tests = list(at.known.values()), [len(task.splits["test"]) for task in order.suite.tasks]
    one, found = len(known) == 1, [held(claim, known) for claim in SLIDE_CLAIMS]
    names = [name.replace("seeds", "tasks") for name in COLUMNS] if one else COLUMNS
    lines = ["## Claims of the lecture", "", *_columns(names)]
    for claim, own in zip(SLIDE_CLAIMS, found, strict=True):
        most = [images if claim.test_images is None else min(images, claim.test_images) for images in tests]
        cells = line(claim.words, own, sum(most) if own.seeds else 0, claim.source, order.suite.name)
        lines.append(f"| {' | '.join(cells)} |")
    rule = (
        "Differences are by task, and standard errors over tasks, of CKA by the jackknife, as every pair is in two of "
        "them: one model a method was fine-tuned, with one seed."
        if one
        else "Standard errors are over seeds of fine-tuning. The first has the suite's own models, however they were "
        "made; the one model trained on all tasks is the same in each."
    )
    rest = [
        *_commands("Measured before, on suites that are not here; such are built by", at.elsewhere),
        *_commands("Not built; a further seed counts once all its suites are, or were measured before:", at.lacking),
    ]
    return "\n".join([*lines, "", f"{rule}{_chance(found, 'tasks' if one else 'seeds')}", *rest, ""])


def _commands(words: str, commands: Sequence[str]) -> list[str]:
    return ["", words, "", "```", *commands, "```"] if commands else []


def _columns(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---|---|" + "---:|" * 4 + "---|"]


def write_results(order: Order, occasion: Occasion) -> list[Path]:
    """Write RESULTS.md into the order's folder, and the lecture's figures in it for who has not its suites; where they
    are."""
    at, path, figures = Standing(order), order.folder / FILE, order.folder / FIGURES
    write_figures(figures, at.kept)
    write_whole(path, results(order, occasion, at).encode())
    return [path, figures]
