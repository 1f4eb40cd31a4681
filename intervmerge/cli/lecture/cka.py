"""`intervmerge cka`: how alike what task vectors do to the same inputs is: full fine-tuning, LoRA, LoRA by KnOTS."""

from __future__ import annotations

import argparse
from typing import Any

from intervmerge.cli.lecture.flags import add_suite_arguments, caption, opened, write_pictured
from intervmerge.cli.program.values import whole
from intervmerge.errors import ConfigError

HELP = "compare what task vectors do to the same inputs: CKA of full fine-tuning, of LoRA, and as KnOTS sees LoRA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    words = "images of adapt that enter the layers, of each task (default 16)"
    parser.add_argument("--images", type=whole, default=16, metavar="N", help=words)
    words = "biased is linear CKA of all rows together; unbiased a mean over minibatches (default biased)"
    parser.add_argument("--estimator", default="biased", choices=["biased", "unbiased"], help=words)
    add_suite_arguments(parser)


def run(chosen: argparse.Namespace) -> int:
    """Measure, print, and write if asked; what is not built is said."""
    suite = opened(chosen)
    if chosen.images < 1:
        raise ConfigError("--images", chosen.images, "layers need inputs", "1 or more")
    from intervmerge.analysis.alignment import KNOTS, LORA, compare, with_others
    from intervmerge.analysis.shown.matrices import picture_of_cka, print_matrix
    from intervmerge.analysis.siblings import how_to_build, sibling
    from intervmerge.views.matrices.picture import write_matrices
    from intervmerge.views.terminal import Terminal

    adapted = sibling(suite, chosen.suite, "lora")
    missing = {} if adapted else dict.fromkeys((LORA, KNOTS), how_to_build(chosen.suite, "lora"))
    found = compare(suite, adapted, chosen.images, chosen.estimator, chosen.device)
    means = {kind: own.mean.tolist() for kind, own in found.items()}
    for kind, own in found.items():
        pairs = f"mean over pairs of tasks {float(with_others(own.mean).mean()):.3f}, over {len(own.compared)} layers"
        print_matrix(f"{suite.name}, {kind}: CKA of updates ({pairs})", "", suite.task_names, means[kind])
    for kind, command in missing.items():
        Terminal().say(f"{kind}: not built; {command}")
    values: dict[str, Any] = {
        "tasks": suite.task_names,
        "estimator": chosen.estimator,
        "images": chosen.images,
        "mean": means,
        "by_layer": {kind: {n: m.tolist() for n, m in own.moved.items()} for kind, own in found.items()},
        "missing": missing,
    }
    picture = picture_of_cka(suite.name, means, suite.task_names, caption(suite, "adapt", chosen.images))
    write_pictured(chosen.out, "cka", suite, values, lambda path: write_matrices(picture, path))
    return 0
