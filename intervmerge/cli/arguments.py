"""Flags that several commands share: which suite, which base, on what device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from intervmerge.cli.program.values import number, whole

if TYPE_CHECKING:
    from intervmerge.bases.merged import MergedBase
    from intervmerge.suites.suite import Suite

MOST_THREADS = 1024

RULE_SETTINGS = {
    "scaling": (number, "λ of the task vectors"),
    "density": (number, "share of entries that TIES keeps"),
    "drop": (number, "probability with which DARE drops an entry"),
}
"""Settings of merging rules that a flag can set."""


def add_base_arguments(parser: argparse.ArgumentParser) -> None:
    """--suite, --rule with its settings, --device, --threads."""
    parser.add_argument(
        "--suite", default="mini8", metavar="NAME|PATH", help="a packaged suite or a folder with suite.yaml"
    )
    parser.add_argument(
        "--rule",
        default="auto",
        help="a merging rule; auto sweeps weight averaging, task arithmetic and TIES (default)",
    )
    for name, (kind, text) in RULE_SETTINGS.items():
        parser.add_argument(f"--{name}", type=kind, help=f"{text}; not with --rule auto")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=whole, help="CPU threads; results are bit-equal only for an equal number")


def add_limits(parser: argparse._ActionsContainer) -> None:
    """--cache-gib, --step-gib and --cuda-graphs."""
    rest = "default a quarter of the memory"
    parser.add_argument(
        "--cache-gib", type=number, metavar="GIB", help=f"for caches of the merged base ({rest}; 0: none)"
    )
    parser.add_argument("--step-gib", type=number, metavar="GIB", help=f"for the activations of a step ({rest})")
    words = "record the class stream's steps and replay them: fewer launches (new; off unless asked for)"
    parser.add_argument("--cuda-graphs", action="store_true", help=words)


def open_suite(chosen: argparse.Namespace) -> Suite:
    """The suite of the flags; also sets the number of threads."""
    import torch

    from intervmerge.errors import ConfigError
    from intervmerge.suites.suite import load_suite

    if chosen.threads is not None:
        if not 1 <= chosen.threads <= MOST_THREADS:
            raise ConfigError("--threads", chosen.threads, "it is a count of CPU threads", f"1 to {MOST_THREADS}")
        torch.set_num_threads(chosen.threads)
    return load_suite(chosen.suite)


def choose_base(chosen: argparse.Namespace, suite: Suite) -> MergedBase:
    """The base that the flags name; with --rule auto, the best of a sweep, which is printed."""
    from intervmerge.bases.merged import merge
    from intervmerge.errors import ConfigError
    from intervmerge.trial.sweep import best, sweep
    from intervmerge.views.terminal.tables import print_sweep

    settings: dict[str, Any] = {name: getattr(chosen, name) for name in RULE_SETTINGS}
    settings = {name: value for name, value in settings.items() if value is not None}
    if chosen.rule != "auto":
        return merge(suite, chosen.rule, **settings)
    if settings:
        allowed = f"--rule NAME, or no {', '.join('--' + name for name in settings)}"
        raise ConfigError("--rule", "auto", "the sweep sets the settings itself", allowed)
    found = sweep(suite, device=chosen.device)
    print_sweep(found)
    return best(found).merged(suite)
