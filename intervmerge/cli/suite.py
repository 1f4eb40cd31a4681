"""`intervmerge suite`: list, check, convert or build suites."""

from __future__ import annotations

import argparse
from pathlib import Path

from intervmerge.cli import convert

HELP = "list, check or build suites, or convert checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands list, check, convert and build."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|check|convert|build")
    actions.add_parser("list", help="names of the packaged suites")
    check = actions.add_parser("check", help="verify hashes, values, splits, heads and accuracy of a suite")
    check.add_argument("suite", metavar="NAME|PATH")
    words = "first write the hashes of its files, as they are now, into suite.yaml"
    check.add_argument("--repair", action="store_true", help=words)
    convert.add_arguments(actions.add_parser("convert", help=convert.HELP))
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
    return {"list": _list, "check": _check, "convert": convert.run, "build": _build}[chosen.action](chosen)


def _list(chosen: argparse.Namespace) -> int:
    from intervmerge.suites.suite import packaged

    for name, path in packaged().items():
        print(f"{name}  {path.parent}")
    return 0


def _check(chosen: argparse.Namespace) -> int:
    from dataclasses import replace

    from intervmerge.suites.check import check, check_hashes
    from intervmerge.suites.suite import load_suite, suite_path
    from intervmerge.suites.suite_file import read_suite_file, write_hashes

    suite = load_suite(chosen.suite)
    wrong = list(check_hashes(suite))
    if chosen.repair and wrong:
        path = suite_path(chosen.suite)
        write_hashes(path, suite.hashes)
        print(*wrong, f"{path}: {len(wrong)} hashes are now those of the files", sep="\n")
        suite = replace(suite, file=read_suite_file(path))
        wrong = []
    findings = list(check(suite))
    for finding in findings:
        print(finding)
    tasks = f"{len(suite.tasks)} tasks, {suite.architecture.blocks} blocks of width {suite.architecture.width}"
    print(f"{suite.name} ({tasks}, fingerprint {suite.fingerprint}): {len(findings)} findings")
    if wrong:
        print("If these files are the right ones, --repair writes their hashes into suite.yaml.")
    return 1 if findings else 0


def _build(chosen: argparse.Namespace) -> int:
    import torch
    from rich.progress import Progress, TaskID

    from intervmerge.machine import cache_folder
    from intervmerge.suite_build.build import build_mini8

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
