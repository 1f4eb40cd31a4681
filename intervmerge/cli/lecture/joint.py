"""`intervmerge joint`: a merged model among the classes of all tasks, without being told the task."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.cli.arguments import open_suite, read_base
from intervmerge.cli.lecture.flags import add_machine_arguments, caption, write
from intervmerge.cli.program.values import check_out, whole
from intervmerge.errors import ConfigError

if TYPE_CHECKING:
    from intervmerge.bases.merged import MergedBase
    from intervmerge.interventions import Interventions

HELP = "classify among the classes of all tasks, without task identity; interventions get a router"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    words = "a study's folder: its base, and the interventions of a trial behind routers"
    parser.add_argument("study", nargs="?", type=Path, metavar="STUDY", help=words)
    words = "instead, a merged base alone (default task_arithmetic)"
    parser.add_argument("--rule", metavar="RULE[:NAME=VALUE,...]", help=words)
    words = "of --rule (default mini8); or where the study's suite is now, if it has moved"
    parser.add_argument("--suite", metavar="NAME|PATH", help=words)
    parser.add_argument("--trial", type=whole, metavar="N", help="which trial (default: the front's most accurate)")
    parser.add_argument("--max-extra-params", type=whole, metavar="N", help="the front's most accurate within this")
    words = "which images to report on (default validation)"
    parser.add_argument("--split", default="validation", choices=["validation", "test"], help=words)
    add_machine_arguments(parser)


def run(chosen: argparse.Namespace) -> int:
    """Measure, print, and write if asked."""
    if chosen.study is not None and chosen.rule is not None:
        raise ConfigError("--rule", chosen.rule, "a study has its own base", "STUDY or --rule, not both")
    if chosen.study is None and (chosen.trial is not None or chosen.max_extra_params is not None):
        raise ConfigError("--trial", "no STUDY", "trials are of a study", "STUDY with --trial or --max-extra-params")
    if chosen.out is not None:
        check_out(chosen.out)
    base, interventions, name = _of_rule(chosen) if chosen.study is None else _of_study(chosen)
    from intervmerge.analysis.joint.measuring import joint_of_base, joint_of_interventions
    from intervmerge.analysis.shown.pictures import picture_of_hits
    from intervmerge.analysis.shown.tables import print_joint
    from intervmerge.engines.caches import NO_CACHES
    from intervmerge.trial.bench import Bench

    bench, suite = Bench(base, chosen.device, plan=NO_CACHES), base.suite
    found = joint_of_base(bench, chosen.split)
    if interventions is not None:
        repaired = joint_of_interventions(bench, interventions, chosen.split)
        found |= {f"repaired, {words}": joint for words, joint in repaired.items()}
    title = f"{suite.name}, {name}: all classes of {len(suite.tasks)} tasks"
    print_joint(f"{title}, {chosen.split} (%)", found)
    rows = {model: joint.hits for model, joint in found.items()}
    picture = picture_of_hits(title, rows, chosen.split, caption(suite, chosen.split))
    values = {"model": name, "split": chosen.split, "joint": {model: asdict(joint) for model, joint in found.items()}}
    write(chosen.out, "joint", suite, values, picture)
    return 0


def _of_rule(chosen: argparse.Namespace) -> tuple[MergedBase, Interventions | None, str]:
    from intervmerge.bases.merged import merge

    chosen.suite = chosen.suite or "mini8"
    named = read_base(chosen.rule or "task_arithmetic")
    own = {"rule": named} if isinstance(named, str) else named
    base = merge(open_suite(chosen), device=chosen.device, **own)
    return base, None, base.label


def _of_study(chosen: argparse.Namespace) -> tuple[MergedBase, Interventions | None, str]:
    """Base and interventions of a trial; of the front's most accurate within the budget unless one is named."""
    from intervmerge.bundle.exporting import measured_bytes
    from intervmerge.interventions import Interventions
    from intervmerge.study.layout import trial_folder
    from intervmerge.study.study import load_study
    from intervmerge.trial.run import FILE

    study = load_study(chosen.study, suite=chosen.suite)
    complete = {trial.number: trial for trial in study.record.complete}
    best = study.best(chosen.max_extra_params)
    trial = best if chosen.trial is None else complete.get(chosen.trial)
    if trial is None:
        got = "no trial on the front within it" if chosen.trial is None else chosen.trial
        allowed = ", ".join(map(str, complete)) or "none; no trial is complete"
        raise ConfigError(f"study {study.record.name}, --trial", got, "it must be a complete trial", allowed)
    measured_bytes(study.folder, trial)  # refused where it is not the file that was measured
    interventions = Interventions.load(trial_folder(study.folder, trial.number) / FILE)
    base = study.base()
    return base, interventions, f"trial {trial.number} on {base.label}"
