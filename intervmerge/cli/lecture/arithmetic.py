"""`intervmerge arithmetic`: adding, negation and analogies of task vectors, by their protocols."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from intervmerge.cli.lecture.flags import add_scalings, add_suite_arguments, caption, opened, write
from intervmerge.cli.program.values import number
from intervmerge.errors import ConfigError

if TYPE_CHECKING:
    from intervmerge.suites.suite import Suite

HELP = "evaluate task arithmetic: add, negate, or draw an analogy; λ on validation, test read once"
MOST_SUBSETS = 300
"""Of tasks, in one run: all those of eight tasks are 247."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands add, negate and analogy."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="add|negate|analogy")
    add = kinds.add_parser("add", help="several tasks in one model: every pair, and all")
    words = "pairs (and all tasks together; default), or all subsets of two tasks and more"
    add.add_argument("--subsets", choices=["pairs", "all"], default="pairs", help=words)
    add_scalings(add, "0:1:21")
    negate = kinds.add_parser("negate", help="forget a task and keep the control")
    negate.add_argument("--target", nargs="+", metavar="TASK", help="tasks to forget, each in a run (default: each)")
    negate.add_argument("--control", nargs="+", metavar="TASK", help="what must be kept (default: all other tasks)")
    words = "share of the pre-trained model's control accuracy that must be left (default 0.95)"
    negate.add_argument("--kept", type=number, default=0.95, help=words)
    add_scalings(negate, "0:1:21")
    analogy = kinds.add_parser("analogy", help="A is to B as C is to D: C + (B - A), on D")
    analogy.add_argument("tasks", nargs=4, metavar=("A", "B", "C", "D"))
    add_scalings(analogy, "0:1:21")
    for kind in (add, negate, analogy):
        add_suite_arguments(kind)


def run(chosen: argparse.Namespace) -> int:
    """Evaluate, print, and write if asked."""
    suite = opened(chosen)
    return {"add": _add, "negate": _negate, "analogy": _analogy}[chosen.kind](chosen, suite)


def _add(chosen: argparse.Namespace, suite: Suite) -> int:
    from intervmerge.analysis.arithmetic.adding import SUBSETS, add
    from intervmerge.analysis.arithmetic.lines import Gauge
    from intervmerge.analysis.shown.pictures import picture_of_sums
    from intervmerge.analysis.shown.tables import print_sums

    count = len(suite.tasks)
    if count < 2:
        raise ConfigError("--suite", f"{suite.name} of one task", "adding needs two", "a suite of two tasks or more")
    if chosen.subsets == "all" and 2**count - count - 1 > MOST_SUBSETS:
        got, allowed = f"all subsets of {count} tasks", "--subsets pairs, or a suite of at most eight tasks"
        raise ConfigError("--subsets", got, f"at most {MOST_SUBSETS} subsets are added in one run", allowed)
    subsets = SUBSETS[chosen.subsets](suite.task_names)
    sums = list(add(Gauge(suite, chosen.device), subsets, chosen.lambdas))
    print_sums(suite.name, sums)
    picture = picture_of_sums(suite.name, sums, caption(suite, "test"))
    write(chosen.out, "add", suite, {"sums": [asdict(found) for found in sums]}, picture)
    return 0


def _negate(chosen: argparse.Namespace, suite: Suite) -> int:
    from intervmerge.analysis.arithmetic.lines import Gauge
    from intervmerge.analysis.arithmetic.negating import negate
    from intervmerge.analysis.shown.pictures import picture_of_negations
    from intervmerge.analysis.shown.tables import print_negations

    if not 0 <= chosen.kept <= 1:
        raise ConfigError("--kept", chosen.kept, "it is a share of the control accuracy", "0 to 1")
    targets = [suite.task(name).name for name in chosen.target or suite.task_names]
    controls = {t: chosen.control or [name for name in suite.task_names if name != t] for t in targets}
    gauge = Gauge(suite, chosen.device)
    found = [negate(gauge, target, controls[target], chosen.lambdas, chosen.kept) for target in targets]
    print_negations(suite.name, found)
    values = {"kept": chosen.kept, "negations": [asdict(negation) for negation in found]}
    write(chosen.out, "negate", suite, values, picture_of_negations(suite.name, found, caption(suite, "validation")))
    return 0


def _analogy(chosen: argparse.Namespace, suite: Suite) -> int:
    from intervmerge.analysis.arithmetic.analogies import draw_analogy
    from intervmerge.analysis.arithmetic.lines import Gauge
    from intervmerge.analysis.shown.pictures import picture_of_analogy
    from intervmerge.analysis.shown.tables import print_analogy

    a, b, c, d = chosen.tasks
    found = draw_analogy(Gauge(suite, chosen.device), a, b, c, d, chosen.lambdas)
    print_analogy(suite.name, found)
    picture = picture_of_analogy(suite.name, found, caption(suite, "validation"))
    write(chosen.out, "analogy", suite, {"analogy": asdict(found)}, picture)
    return 0
