"""`intervmerge finetune`: train the encoder of a suite on labelled images of a task, its head frozen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intervmerge.cli.arguments import KINDS, open_suite
from intervmerge.cli.program.values import check_out, check_out_file, number, whole
from intervmerge.errors import ConfigError

if TYPE_CHECKING:
    from intervmerge.suites.suite import Suite
    from intervmerge.training.checkpoint import Point
    from intervmerge.training.recipe import Recipe

HELP = "fine-tune the encoder on a task's labelled images, on all tasks together, or on each in turn"
RECIPE = {
    "steps": ("int", "optimizer steps (default 2000)"),
    "batch": ("int", "images a step (default 128)"),
    "learning_rate": ("float", "the highest (default 1e-5, for CLIP; mini8 was made with 8e-4)"),
    "weight_decay": ("float", "of AdamW (default 0.1)"),
    "warmup_steps": ("int", "over which the learning rate rises (default 500, at most a quarter of the steps)"),
    "gradient_norm": ("float", "longer gradients are cut to this (default 1)"),
    "label_smoothing": ("float", "share of the target that is spread over a task's classes (default 0)"),
    "shift": ("int", "images are moved by up to so many pixels (default 0; mini8 was made with 2)"),
}
"""Flags that are settings of Recipe, their types, and words."""
ALL, EACH = "all", "each"
TRUTHS = {"true": True, "false": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command; those left out have the defaults of Recipe."""
    parser.add_argument("--suite", default="mini8", metavar="NAME|PATH", help="with the split `train` among its images")
    words = "one; all together, the multi-task model; or each in turn, which makes a suite of them"
    parser.add_argument("--task", required=True, metavar="TASK|all|each", help=words)
    words = "the safetensors file to write, new; with --task each the new suite's folder"
    parser.add_argument("--out", type=Path, required=True, metavar="FILE|DIR", help=words)
    parser.add_argument(
        "--method",
        default="standard",
        metavar="METHOD[:NAME=VALUE,...]",
        help="standard, linearized, tau_jp, or lora, such as lora:rank=16,alpha=32,parts=q+v (default standard)",
    )
    words = "write fine-tuned minus pre-trained weights, as suite.yaml's task_vector and multitask have them"
    parser.add_argument("--task-vector", action="store_true", help=words)
    parser.add_argument(
        "--adapter", type=Path, metavar="DIR", help="keep a LoRA apart too, in a folder as PEFT saves it"
    )
    recipe = parser.add_argument_group("recipe")
    for name, (kind, words) in RECIPE.items():
        recipe.add_argument(f"--{name.replace('_', '-')}", type=KINDS[kind], help=words)
    parser.add_argument("--seed", type=whole, default=0, help="of the order of images, and of initial values")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=whole, help="CPU threads; results are bit-equal only for an equal number")


def run(chosen: argparse.Namespace) -> int:
    """Fine-tune, write, and say what to write into suite.yaml."""
    from intervmerge.settings import read_settings
    from intervmerge.suites.teachers.tangent import TANGENT
    from intervmerge.training.finetune import finetune
    from intervmerge.training.methods.adapter import write_adapter
    from intervmerge.training.methods.lora import Lora
    from intervmerge.training.recipe import Recipe
    from intervmerge.views.terminal.screen import Screen

    method, options = read_method(chosen.method)
    if chosen.adapter is not None:
        if method != "lora":
            raise ConfigError("--adapter", f"method {method}", "an adapter is what LoRA trains", "--method lora")
        check_out(chosen.adapter)
    given = {name: getattr(chosen, name) for name in RECIPE}
    recipe = read_settings(Recipe, {name: value for name, value in given.items() if value is not None}, "training")
    suite = open_suite(chosen)
    if chosen.task == EACH and EACH not in suite.task_names:
        return _each(chosen, suite, recipe, method, options)
    tasks = suite.task_names if chosen.task == ALL and ALL not in suite.task_names else [chosen.task]
    check_out_file(chosen.out)
    screen, phase = Screen(), f"fine-tuning {chosen.task}"

    def on_point(point: Point) -> None:
        screen.phase(
            f"step {point['step']} of {recipe.steps}: loss {point['loss']:.4f}, "
            f"validation {100 * point['accuracy']:.1f} %"
        )

    screen.progress(phase, 0, recipe.steps)
    try:
        found = finetune(
            suite,
            tasks,
            chosen.out,
            recipe,
            method=method,
            options=options,
            seed=chosen.seed,
            device=chosen.device,
            as_task_vector=chosen.task_vector,
            on_step=lambda step: screen.progress(phase, step, recipe.steps),
            on_point=on_point,
        )
    finally:
        screen.close()
    if isinstance(found.student, Lora) and chosen.adapter is not None:
        write_adapter(found.student, chosen.adapter)
    whose = ", of the tangent model" if method in TANGENT else ""
    screen.phase(f"written: {chosen.out} (validation {100 * found.accuracy:.1f} %{whose})")
    return 0


def _each(chosen: argparse.Namespace, suite: Suite, recipe: Recipe, method: str, options: Mapping[str, Any]) -> int:
    from intervmerge.training.sibling import finetune_each
    from intervmerge.views.terminal.screen import Screen

    if chosen.adapter is not None:
        raise ConfigError("--adapter", "--task each", "an adapter is of one model", "one task")
    check_out(chosen.out)
    screen = Screen()
    try:
        found = finetune_each(
            suite,
            chosen.out,
            lambda task: recipe,
            method=method,
            options=options,
            seed=chosen.seed,
            device=chosen.device,
            progress=lambda task, share: screen.progress(
                f"fine-tuning {task}", round(share * recipe.steps), recipe.steps
            ),
        )
    finally:
        screen.close()
    screen.phase(f"written: {found.folder}, {found.name}: {found.file.note}")
    return 0


def read_method(text: str) -> tuple[str, dict[str, Any]]:
    """`lora:rank=16,parts=q+v` as the row's name and its settings.

    Raises:
        ConfigError: a setting has no value, or stands twice.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key in options:
            allowed = "METHOD:NAME=VALUE,..., such as lora:rank=16,parts=q+v"
            raise ConfigError("--method", repr(text), f"{part!r} is no setting, or stands twice", allowed)
        options[key] = _value(value)
    return name, options


def _value(text: str) -> Any:
    """true, false or a number where it is one, else the text."""
    if text in TRUTHS:
        return TRUTHS[text]
    for kind in (whole, number):
        try:
            return kind(text)
        except argparse.ArgumentTypeError:
            continue
    return text
