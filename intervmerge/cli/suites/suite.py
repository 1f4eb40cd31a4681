"""`intervmerge suite`: list, begin, check, convert or build suites."""

from __future__ import annotations

import argparse
from pathlib import Path

from intervmerge.cli.suites import check, convert, init, template

HELP = "list, begin, check or build suites, or convert checkpoints"
ACTIONS = {"init": init, "template": template, "check": check, "convert": convert}
"""Sub-commands that have a file of their own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands list, build and those of ACTIONS."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(["list", *ACTIONS, "build"]))
    actions.add_parser("list", help="names of the packaged suites")
    for name, module in ACTIONS.items():
        module.add_arguments(actions.add_parser(name, help=module.HELP, description=module.HELP))
    build = actions.add_parser(
        "build",
        help="make mini8 again from its sources; needs intervmerge[suite-build]",
        description="Make a packaged suite again from its sources. Sources that are missing on this machine, Python, "
        "Debian and npm packages, are all named before anything starts.",
    )
    build.add_argument("suite", choices=["mini8"])
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="the suite's folder, made anew")
    build.add_argument("--work", type=Path, metavar="DIR", help="finished stages are kept here; the same again resumes")
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--train", action="store_true", help="write the images to fine-tune on too, about 64,000")
    build.add_argument("--threads", type=int, default=2, help="another number gives weights a little different")


def run(chosen: argparse.Namespace) -> int:
    """Do what was asked; 1 if a check found something."""
    own = {"list": _list, "build": _build, **{name: module.run for name, module in ACTIONS.items()}}
    return int(own[chosen.action](chosen))


def _list(chosen: argparse.Namespace) -> int:
    from intervmerge.suites.suite import packaged

    for name, path in packaged().items():
        print(f"{name}  {path.parent}")
    return 0


def _build(chosen: argparse.Namespace) -> int:
    import torch
    from rich.progress import Progress, TaskID

    from intervmerge.machine import cache_folder
    from intervmerge.remote.uris import check_here
    from intervmerge.suite_build.build import build_mini8

    check_here("--out", chosen.out)
    torch.set_num_threads(chosen.threads)
    work = chosen.work or cache_folder() / "mini8-build"
    with Progress() as progress:
        bars: dict[str, TaskID] = {}

        def report(stage: str, share: float) -> None:
            bar = bars.get(stage)
            if bar is None:
                bar = bars[stage] = progress.add_task(stage, total=1.0)
            progress.update(bar, completed=share)

        build_mini8(chosen.out, work, chosen.seed, train=chosen.train, report=report)
    return _table(chosen.out)


def _table(folder: Path) -> int:
    """The table of accuracies that a build ends with: bases on validation, models on test."""
    from intervmerge.engines.caches import NO_CACHES
    from intervmerge.suites.suite import load_suite
    from intervmerge.trial.bench import Bench
    from intervmerge.trial.references import references
    from intervmerge.trial.sweep import best, sweep
    from intervmerge.views.terminal.tables import print_scores, print_sweep

    suite = load_suite(folder)
    found = sweep(suite)
    print_sweep(found)
    bench = Bench(best(found).merged(suite), plan=NO_CACHES)
    print_scores(f"{suite.name}, test", suite, {**references(bench, "test"), "merged": bench.measure(None, "test")})
    return 0
