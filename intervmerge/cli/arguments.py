"""Flags that several commands share: which suite, which base, on what device."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from intervmerge.cli.program.values import number, whole
from intervmerge.errors import ConfigError

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
        metavar="RULE[:NAME=VALUE,...]|auto",
        help="a merging rule, such as wudi; auto (default) sweeps weight averaging, task arithmetic and TIES",
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


KINDS: dict[str, Callable[[str], Any]] = {"int": whole, "float": number, "str": str}
"""Type of a setting to what reads its flag."""


def add_knobs(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting of SearchSettings, in its own words; one left out has the space's value."""
    from intervmerge.settings import described
    from intervmerge.space.search import SearchSettings

    words = described(SearchSettings)
    knobs = parser.add_argument_group("how it is searched, instead of as the space says")
    for knob in fields(SearchSettings):
        kind = KINDS[str(knob.type).removesuffix(" | None")]
        about = f"{words[knob.name].rstrip('.')} (default {knob.default})".replace("%", "%%")
        knobs.add_argument(f"--{knob.name.replace('_', '-')}", type=kind, help=about)


def read_base(text: str) -> Any:
    """`ties_sum:scaling=0.3` as the space's own `{rule: ties_sum, scaling: 0.3}`."""
    rule, colon, rest = text.partition(":")
    if not colon:
        return rule
    settings: dict[str, Any] = {"rule": rule}
    allowed = "RULE:NAME=VALUE,..., such as ties_sum:scaling=0.3"
    for part in rest.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name in settings:
            raise ConfigError("--base", repr(text), f"{name!r} stands twice", allowed)
        try:
            settings[name] = int(value) if value.lstrip("+-").isdecimal() else number(value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ConfigError("--base", repr(text), f"{name!r} has no number after it", allowed) from error
    return settings


def open_suite(chosen: argparse.Namespace) -> Suite:
    """The suite of the flags; also sets the number of threads."""
    import torch

    from intervmerge.suites.suite import load_suite

    if chosen.threads is not None:
        if not 1 <= chosen.threads <= MOST_THREADS:
            raise ConfigError("--threads", chosen.threads, "it is a count of CPU threads", f"1 to {MOST_THREADS}")
        torch.set_num_threads(chosen.threads)
    return load_suite(chosen.suite)


def choose_base(chosen: argparse.Namespace, suite: Suite) -> MergedBase:
    """The base that the flags name; with --rule auto, the best of a sweep, which is printed."""
    from intervmerge.bases.merged import merge
    from intervmerge.trial.sweep import best, sweep
    from intervmerge.views.terminal.tables import print_sweep

    settings: dict[str, Any] = {name: getattr(chosen, name) for name in RULE_SETTINGS}
    settings = {name: value for name, value in settings.items() if value is not None}
    if chosen.rule != "auto":
        named = read_base(chosen.rule)
        own = {"rule": named} if isinstance(named, str) else named
        return merge(suite, device=chosen.device, **{**own, **settings})
    if settings:
        allowed = f"--rule NAME, or no {', '.join('--' + name for name in settings)}"
        raise ConfigError("--rule", "auto", "the sweep sets the settings itself", allowed)
    found = sweep(suite, device=chosen.device)
    print_sweep(found)
    return best(found).merged(suite)
