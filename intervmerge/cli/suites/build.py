"""`intervmerge suite build`: mini8 from its sources, or with models that were fine-tuned in another way."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.cli.program.values import check_out, whole
from intervmerge.errors import ConfigError

if TYPE_CHECKING:
    from intervmerge.suite_build.build import Report

HELP = "make mini8 again from its sources, or fine-tuned in another way; needs intervmerge[suite-build]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.description = (
        "Make a packaged suite again from its sources; or, with --method, fine-tune its packaged tower in another way, "
        "on the same images and budget. Sources that are missing on this machine, Python, Debian and npm packages, are "
        "all named before anything starts."
    )
    parser.add_argument("suite", choices=["mini8"])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the suite's folder, made anew")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="finished stages are kept here; the same again resumes"
    )
    parser.add_argument("--seed", type=whole, default=0, help="of all, or with --method of the fine-tuning")
    parser.add_argument("--train", action="store_true", help="write the images to fine-tune on too, about 64,000")
    parser.add_argument(
        "--method",
        metavar="METHOD[:NAME=VALUE,...]",
        help="fine-tune by standard, linearized, tau_jp or lora:rank=8, from the packaged tower on",
    )
    parser.add_argument("--threads", type=whole, default=2, help="another number gives weights a little different")


def run(chosen: argparse.Namespace) -> int:
    """Build, and print the table of accuracies."""
    import torch

    from intervmerge.machine import cache_folder
    from intervmerge.remote.uris import check_here
    from intervmerge.suite_build.build import build_mini8

    check_here("--out", chosen.out)
    if chosen.method is not None and chosen.train:
        rule = "the images to fine-tune on stand beside the packaged models"
        raise ConfigError("--train", f"--method {chosen.method}", rule, "one of the two")
    if chosen.threads < 1:
        raise ConfigError("--threads", chosen.threads, "it is a count of CPU threads", "1 or more")
    torch.set_num_threads(chosen.threads)
    work = chosen.work or cache_folder() / "mini8-build"
    if chosen.method is not None:
        return _copy(chosen, work)
    with _bars() as report:
        build_mini8(chosen.out, work, chosen.seed, train=chosen.train, report=report)
    return _table(chosen.out)


def _copy(chosen: argparse.Namespace, work: Path) -> int:
    from intervmerge.cli.models.finetune import read_method
    from intervmerge.suite_build.copies import build_copy

    method, options = read_method(chosen.method)
    check_out(chosen.out)
    with _bars() as report:
        suite = build_copy(chosen.out, work, method, options or None, chosen.seed, report=report)
    print(f"{suite.name}: {suite.file.note}")
    return _table(chosen.out)


@contextmanager
def _bars() -> Iterator[Report]:
    """What a build tells how far it is: a bar a stage."""
    from rich.progress import Progress, TaskID

    with Progress() as progress:
        bars: dict[str, TaskID] = {}

        def report(stage: str, share: float) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=1.0)
            progress.update(bars[stage], completed=share)

        yield report


def _table(folder: Path) -> int:
    """The table of accuracies that a build ends with: bases on validation, models on test."""
    from intervmerge.engines.caches import NO_CACHES
    from intervmerge.suites.suite import load_suite
    from intervmerge.trial.bench import Bench
    from intervmerge.trial.scoring.references import references
    from intervmerge.trial.sweep import best, sweep
    from intervmerge.views.terminal.tables import print_scores, print_sweep

    suite = load_suite(folder)
    found = sweep(suite)
    print_sweep(found)
    bench = Bench(best(found).merged(suite), plan=NO_CACHES)
    print_scores(f"{suite.name}, test", suite, {**references(bench, "test"), "merged": bench.measure(None, "test")})
    return 0
