"""`intervmerge-search`: the whole trade-off of accuracy against extra parameters, by one command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intervmerge.cli.arguments import add_knobs, add_limits, read_base
from intervmerge.cli.program import Parser, ended
from intervmerge.cli.program.values import number, whole
from intervmerge.errors import ConfigError
from intervmerge.quoting import as_file

if TYPE_CHECKING:
    from intervmerge.search.plan import Prepared, SearchPlan

HELP = "search a space of interventions on one merged base"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command; those left out have the values of the space, or the machine's own."""
    parser.add_argument("--space", required=True, metavar="FILE|NAME", help="a YAML file, or the name of a shipped one")
    parser.add_argument("--suite", metavar="NAME|PATH", help="instead of the space's")
    parser.add_argument("--preset", help="paper-text or paper-code: fills what the space leaves open")
    parser.add_argument(
        "--base",
        metavar="RULE[:NAME=VALUE,...]|auto|best",
        help="instead of the space's, and of its `bare`: ties_sum:scaling=0.3,density=0.2; auto searches a few of a "
        "sweep, best takes one",
    )
    parser.add_argument("--workers", type=whole, help="actors at once (default: one a CPU core, or --workers-per-gpu)")
    parser.add_argument(
        "--workers-per-gpu", type=whole, default=1, metavar="N", help="actors that share a GPU (default 1)"
    )
    parser.add_argument("--gpus-per-trial", type=number, metavar="SHARE",
                        help="the same as a share of a GPU: 0.25 of its memory, caches divided among 4")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="the study's folder (default studies/<space>-<suite>)")
    add_knobs(parser)
    parser.add_argument("--time-budget", type=number, metavar="MINUTES", help="of training; trials that run then stop")
    parser.add_argument(
        "--warm-start",
        action="append",
        default=[],
        type=Path,
        metavar="STUDY",
        help="a study whose trials are not trained again, on this base, or any if searched",
    )
    parser.add_argument("--protocol", default="fair", help="fair, or paper: adapt to and report on the test images")
    words = "accuracy; teacher_agreement, which chooses without labels; or joint_accuracy: among the classes of all "
    parser.add_argument(
        "--select", default="accuracy", help=words + "tasks, each image sent by a router to one of them"
    )
    parser.add_argument("--selection", default="shrunk", help="each task's trial is chosen by shrunk figures, or raw")
    parser.add_argument("--address", help="of a Ray cluster, or auto (default: in a Ray job its own cluster; elsewhere "
                        "Ray is started here, and ends with the search)")  # fmt: skip
    parser.add_argument("--mlflow", metavar="URI", help="a tracking server (default: a file in the study's folder)")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda")
    parser.add_argument("--engine", help="auto, exact, or stream (default auto: the class stream where it can be had)")
    add_limits(parser)
    parser.add_argument("--dry-run", action="store_true", help="train nothing: how large the space is, what it costs")
    parser.add_argument("--quiet", action="store_true", help="print the final front only")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the search; its exit code (see program.py)."""
    parser = Parser(prog="intervmerge-search", description=HELP + ", on this machine or a Ray cluster.")
    add_arguments(parser)
    return ended("intervmerge-search", lambda: run(parser.parse_args(arguments)))


def run(chosen: argparse.Namespace) -> int:
    """Search, or say what the search would be; several bases are searched one after another."""
    from intervmerge.search.plan import prepare

    prepared = [prepare(plan) for plan in plans(chosen)]
    if chosen.dry_run:
        from intervmerge.cli.dry_run import print_plan

        for each in prepared:
            print_plan(each)
        return 0
    return max(_search(each, chosen.quiet) for each in prepared)


def _search(prepared: Prepared, quiet: bool) -> int:
    from intervmerge.search.run import search
    from intervmerge.search.watch import Silence
    from intervmerge.views.terminal.fronts import print_front
    from intervmerge.views.terminal.screen import Screen

    screen = Silence() if quiet else Screen()
    try:
        study = search(prepared, screen)
    finally:
        if isinstance(screen, Screen):
            screen.close()
    print_front(study)
    return 0 if study.record.ended else 1


def plans(chosen: argparse.Namespace) -> list[SearchPlan]:
    """One plan a base."""
    from intervmerge.search.plan import SearchPlan
    from intervmerge.space.space import find_space, read_space

    given = {name: value for name, value in vars(chosen).items() if name not in ("dry_run", "quiet", "base")}
    if given["time_budget"] is not None:
        given["time_budget"] *= 60
    plan = SearchPlan.of(**given, base=None if chosen.base is None else read_base(chosen.base))
    bases = read_space(plan.space).bases if plan.base is None else [plan.base]
    if len(bases) == 1:
        return [plan]
    if plan.warm_start:
        got = f"{len(chosen.warm_start)} studies, for {len(bases)} bases"
        raise ConfigError("--warm-start", got, "a study has one base", "one of the bases with --base")
    space = find_space(plan.space).stem
    suite = Path(plan.suite or read_space(plan.space).suite).resolve().name
    parent = plan.out if plan.out is not None else Path("studies") / f"{space}-{as_file(suite)}"
    return [replace(plan, base=base, out=f"{parent}/{number}-{_name(base)}") for number, base in enumerate(bases)]


def _name(base: Any) -> str:
    rule = base if isinstance(base, str) else base.get("rule") if isinstance(base, dict) else None
    return rule if isinstance(rule, str) else "searched"


if __name__ == "__main__":
    sys.exit(main())
