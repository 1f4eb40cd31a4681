"""`intervmerge reproduce`: a table or figure of the paper, ours beside the published one."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.cli.program.values import check_out, number, whole
from intervmerge.errors import ConfigError, lookup
from intervmerge.quoting import as_file

if TYPE_CHECKING:
    from intervmerge.paper.order import Order

HELP = "make a table or figure of the IntervMerge paper, or the lecture's table, beside the published one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="table1 ... table8, strong_bases, figure1, figure4, figure5, figure6, sensitivity, coefficients, "
        "few_images; slides, the lecture's table of ways to fine-tune and merge; "
        "results writes RESULTS.md of what was made; all makes everything. The same command goes on",
    )
    parser.add_argument("--suite", default="mini8", metavar="NAME|PATH", help="a packaged suite or a folder")
    parser.add_argument("--seeds", type=whole, default=3, metavar="N", help="seeds 0 to N - 1 (default 3)")
    parser.add_argument("--steps", type=whole, metavar="N", help="training steps (default: those of the spaces, 100)")
    parser.add_argument("--minutes", type=number, metavar="N", help="nothing is begun after so many")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of all studies (default studies/paper-<suite>)")
    parser.add_argument(
        "--measured",
        type=Path,
        metavar="FILE",
        help="figures of the lecture that were measured before, as RESULTS.json of `results`: those of "
        "suites that are not here now count too",
    )
    parser.add_argument("--workers", type=whole, help="actors at once (default: one a CPU core)")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda")
    parser.add_argument("--quiet", action="store_true", help="print the table only")


def order_of(chosen: argparse.Namespace) -> Order:
    """What the flags ask for, checked.

    Raises:
        InputError: the first thing that is wrong.
    """
    from intervmerge.machine import find_device
    from intervmerge.paper.lecture.standing import Standing
    from intervmerge.paper.order import Order
    from intervmerge.paper.targets import LECTURE

    if chosen.minutes is not None and chosen.minutes <= 0:
        raise ConfigError("--minutes", chosen.minutes, "it is a time", "more than 0")
    if chosen.measured is not None and chosen.target not in LECTURE:
        raise ConfigError("--measured", chosen.target, "it has figures of the lecture", ", ".join(LECTURE))
    if chosen.measured is not None and not os.path.isfile(chosen.measured):
        raise ConfigError("--measured", chosen.measured, "figures are read from it", "a file that is there")
    if chosen.workers is not None and not 1 <= chosen.workers <= 10_000:
        raise ConfigError("--workers", chosen.workers, "it is a count of processes", "1 to 10,000")
    find_device(chosen.device)
    until = None if chosen.minutes is None else time.monotonic() + 60 * chosen.minutes
    given = (chosen.suite, Path(), chosen.seeds, chosen.steps, chosen.workers, chosen.device, until)
    suite = Order(*given).suite
    folder = chosen.out or Path("studies") / f"paper-{as_file(suite.name)}"
    check_out(folder)
    order = Order(given[0], folder, *given[2:], chosen.measured)
    if chosen.target in LECTURE:
        Standing(order)  # what is refused there is refused before anything is computed
    return order


def run(chosen: argparse.Namespace) -> int:
    """Make the target, print it, and say where it is."""
    from intervmerge.paper.targets import TARGETS
    from intervmerge.search.watch import Silence
    from intervmerge.views.terminal import Terminal
    from intervmerge.views.terminal.screen import Screen

    target = lookup(TARGETS, chosen.target, "TARGET")
    order = order_of(chosen)
    screen = Silence() if chosen.quiet else Screen()
    try:
        made = target(order, screen)
    finally:
        if isinstance(screen, Screen):
            screen.close()
    terminal = Terminal()
    for each in made.shown:
        terminal.print(each)
    for path in made.files:
        terminal.say(str(path))
    if not made.whole:
        terminal.say("something is missing: the same command goes on")
    return 0 if made.whole or order.is_over else 1
