"""`intervmerge suite init`: a suite made of the checkpoints and data sets that lie there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.cli.program.values import whole

if TYPE_CHECKING:
    from intervmerge.suites.assembly.names import Wanted
    from intervmerge.suites.assembly.plan import Plan

HELP = "look at the checkpoints and data sets that lie there, and make a suite of them"
CHOICES = {
    "finetuned": "the fine-tuned model of a task, where several or none are found; or an id of the hub",
    "head": "the head of a task; without one it is made from text",
    "images": "the folder of a task's data set",
}
"""Flags that name a path for a task."""
LIMITS = ("adapt", "validation", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to look, what for, and what to take where names do not tell."""
    parser.description = (
        "Recognises checkpoints by their content, and by names of files and folders which task they are of. What is "
        "missing or could be several is said, in one table, before anything is written. The same again goes on from "
        "where it was stopped."
    )
    parser.add_argument("folder", type=Path, metavar="NAME|FOLDER", help="the suite's folder, made anew")
    parser.add_argument("--checkpoints", type=Path, required=True, metavar="DIR", help="looked through for models")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="looked through for data sets")
    words = "whose checkpoints: task_vectors, tall_masks, fusionbench, knots, or a name of your own; figures of "
    parser.add_argument("--family", required=True, help=words + "different families are never put in one table")
    words = "b32, b16, l14 (of OpenAI's weights, QuickGELU) or the name of an open_clip model"
    parser.add_argument("--architecture", required=True, metavar="NAME", help=words)
    words = "8, 14 or 20 of the literature, or names with commas between (default 8)"
    parser.add_argument("--tasks", default="8", metavar="NUMBER|NAMES", help=words)
    which = parser.add_argument_group("which, where names do not tell")
    words = "the pre-trained model; or an id of the Hugging Face hub, which is downloaded where it is not there"
    which.add_argument("--pretrained", metavar="PATH|ID", help=words)
    words = "a whole CLIP model, to make heads from text; or an id of the hub"
    which.add_argument("--text", metavar="PATH|ID", help=words)
    for flag, text in CHOICES.items():
        which.add_argument(f"--{flag}", action="append", default=[], metavar="TASK=PATH", help=text)
    how = parser.add_argument_group("how")
    how.add_argument("--lossy", action="store_true", help="take fine-tuned models in half precision, losing of them")
    words = "keep task vectors rounded to bf16, half the bytes, instead of fine-tuned models; said beside every figure"
    how.add_argument("--halve", action="store_true", help=words)
    for split in LIMITS:
        how.add_argument(f"--limit-{split}", type=whole, metavar="N", help=f"images of {split} a task, at most")
    how.add_argument("--seed", type=whole, default=0, help="of the splits (default 0)")
    how.add_argument("--processes", type=whole, default=1, help="that decode images (default 1)")


def run(chosen: argparse.Namespace) -> int:
    """Look, say what was found, make the suite."""
    from rich.progress import Progress, TaskID

    from intervmerge.cli.program.values import check_out
    from intervmerge.errors import ConfigError
    from intervmerge.suites.assembly.assemble import Assembly
    from intervmerge.views.terminal import Terminal

    if (chosen.folder / "suite.yaml").exists():
        got = chosen.folder / "suite.yaml"
        raise ConfigError("NAME|FOLDER", got, "nothing is written over", "a new folder, or this one without suite.yaml")
    console = Terminal()
    plan = _plan(chosen)
    console.print(_table(plan))
    plan.check()
    check_out(chosen.folder)
    with Progress(console=console) as progress:
        bars: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        path = Assembly(plan, chosen.folder, chosen.processes, report).write()
    print(f"written: {path}\nnext:\n  intervmerge suite check {chosen.folder}")
    return 0


def _plan(chosen: argparse.Namespace) -> Plan:
    from intervmerge.suites.assembly.names import wanted
    from intervmerge.suites.assembly.plan import Asked, plan
    from intervmerge.suites.datasets import SplitRule
    from intervmerge.suites.readers.hub import located

    tasks = wanted(chosen.tasks)
    rule = SplitRule(seed=chosen.seed, **{f"limit_{split}": getattr(chosen, f"limit_{split}") for split in LIMITS})
    finetuned, heads, images = (_by_task(f"--{flag}", getattr(chosen, flag), tasks) for flag in CHOICES)
    return plan(
        Asked(
            chosen.checkpoints,
            chosen.data,
            chosen.family,
            chosen.architecture,
            tasks,
            pretrained=located(chosen.pretrained) if chosen.pretrained else None,
            text=located(chosen.text) if chosen.text else None,
            finetuned={task: located(path) for task, path in finetuned.items()},
            heads=heads,
            images=images,
            rule=rule,
            lossy=chosen.lossy,
            halved=chosen.halve,
        )
    )


def _by_task(flag: str, given: Sequence[str], tasks: Sequence[Wanted]) -> dict[str, Path]:
    """`sun397=PATH`, the task in any of its spellings."""
    from intervmerge.errors import ConfigError

    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        task = next((task.name for task in tasks if task.dataset.named(name)), name)
        if not equals or not path or task in found:
            raise ConfigError(flag, repr(text), "it names a path for a task, once", "TASK=PATH")
        found[task] = Path(path)
    return found


def _table(plan: Plan) -> object:
    from rich.table import Table

    top = plan.asked
    start = plan.pretrained.words if plan.pretrained else "missing"
    where = plan.pretrained.path if plan.pretrained else "-"
    table = Table(title=f"{top.family}, {top.model_name}; pre-trained: {where} ({start})")
    for column in ("task", "fine-tuned", "head", "images", "missing or unclear"):
        table.add_column(column, overflow="fold")
    for part in plan.parts:
        tuned = f"{part.finetuned.path.name} ({part.finetuned.words})" if part.finetuned else "-"
        head = part.head.path.name if part.head else "from text"
        parts = {name: len(rows.labels) for name, rows in part.source.parts.items()} if part.source else {}
        counts = ", ".join(f"{name} {count:,}" for name, count in parts.items())
        images = f"{part.source.folder.name}: {counts}" if part.source else "-"
        table.add_row(part.task.name, tuned, head, images, "; ".join(part.problems))
    if plan.unused:
        table.caption = "not taken: " + "; ".join(f"{one.path.name} ({one.words})" for one in plan.unused[:12])
    return table
