"""All merged bases on mini8: accuracy, seconds, images and memory of each, beside what prototypes of them gave.

    python tests/benchmarks/bases.py [--only regmean fisher] [--folder DIR] [--processes 2]

Each base is made in a process of its own, whose memory is the peak beyond what it held after loading the suite. The
prototypes' figures are percents measured once, before the product had these rules: `validation`, `test`.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from intervmerge.bases.by_images import make
from intervmerge.merging import RULES, merge_states
from intervmerge.suites.suite import Suite, load_suite

MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A base, and what its prototype gave on validation and on test, in percent."""

    rule: str
    settings: dict[str, Any] = field(default_factory=dict)
    prototype: tuple[float | None, float | None] = (None, None)


WUDI = {"rule": "wudi", "matrices": "all"}
LEARNED = {"steps": 100, "learning_rate": 1e-2}
STRONG = {"extrapolation": 1.0}
EVERY = {"matrices": "all"}
SPLIT = {"qkv": "split"}
CASES = (
    Case("weight_average", {}, (59.1, 58.4)),
    Case("task_arithmetic", {"scaling": 0.15}, (60.4, 59.3)),
    Case("task_arithmetic", {"depth": 0.3}, (67.8, 67.8)),
    Case("task_arithmetic", {"svc": "authors", "svc_scaling": 0.5}, (68.3, 68.8)),
    Case("task_arithmetic", {"svc": "paper"}, (58.9, 59.5)),
    Case("ties_sum", {}, (62.8, 62.9)),
    Case("ties_sum", {"scaling": 0.35}, (62.8, 63.4)),
    Case("ties_sum", {"scaling": 0.5}, (60.3, 60.9)),
    Case("ties_sum", {"depth": 0.5}, (68.8, 68.6)),
    Case("ties_mean"),
    Case("dare_task_arithmetic"),
    Case("dare_ties_mean"),
    Case("dare_ties_sum"),
    Case("breadcrumbs", {}, (59.9, 58.9)),
    Case("magmax", {}, (56.8, 56.7)),
    Case("consensus_task_arithmetic", {"scaling": 0.5}, (60.2, 61.2)),
    Case("consensus_ties"),
    Case("pcb", {"density": 0.05, "scaling": 0.8}, (64.0, 64.1)),
    Case("iso_c", {"scaling": 0.7}, (70.0, 69.7)),
    Case("iso_c", {"scaling": 0.7, **SPLIT}, (None, 70.2)),
    Case("iso_c", {"scaling": 0.7, **EVERY}, (67.8, 67.6)),
    Case("iso_c", {"scaling": 1.0, **EVERY}, (61.1, 61.3)),
    Case("iso_cts", {"scaling": 0.5, **EVERY}, (68.1, 68.7)),
    Case("tsv_m", {"scaling": 0.85, **SPLIT}, (70.9, 70.8)),
    Case("tsv_m", {"scaling": 0.7, **EVERY}, (70.4, 70.3)),
    Case("tsv_m", {"scaling": 1.0, **EVERY}, (70.1, 69.2)),
    Case("tsv_m", {"depth": 0.9, **EVERY}, (71.7, 71.8)),
    Case("cart", {"rank_share": 0.16}, (71.4, 70.7)),
    Case("wudi", EVERY, (72.9, 72.3)),
    Case("wudi", {"scaling": 1.3, **EVERY}, (69.4, 69.0)),
    Case("wudi", {"depth": 1.1}, (73.8, 73.9)),
    Case("wudi_flow", {}, (72.5, 72.0)),
    Case("wudi_flow", {"depth": 1.1}),
    Case("wudi_ridge", {}, (71.9, 71.6)),
    Case("knots_ties"),
    Case("knots_dare_ties"),
    Case("regmean", {"off_diagonal": 1.0}, (66.4, 66.0)),
    Case("regmean"),
    Case("regmean_pp", {"off_diagonal": 1.0}, (66.9, 67.4)),
    Case("regmean_pp"),
    Case("fisher", {}, (60.9, 60.3)),
    Case("featcal", {}, (71.2, 71.5)),
    Case("featcal", {"images": 8}),
    Case("featcal", {"images": 32}),
    Case("featcal", {"first": WUDI, **STRONG}, (74.5, 74.4)),
    Case("regmean", {"anchor": WUDI, "ridge": 0.5, "off_diagonal": 1.0}, (71.4, 71.1)),
    Case("adamerging_task_wise", LEARNED),
    Case("adamerging_layer_wise", LEARNED, (71.7, 72.0)),
    Case("adamerging_layer_wise", {**LEARNED, "images": 512}, (71.7, 72.0)),
    Case("adamerging_layer_wise", {**LEARNED, "loss": "distance", "steps": 200}, (71.8, 71.5)),
    Case("adamerging_pp_task_wise", LEARNED),
    Case("adamerging_pp_layer_wise", LEARNED),
    Case("adarank_mean", {"steps": 100}, (66.1, 66.6)),
    Case("adarank_mean", {"steps": 100, "start": 1.0}),
    Case("adarank_sum", {"steps": 100}),
)


def accuracy(suite: Suite, state: dict[str, torch.Tensor], split: str) -> float:
    """Mean over tasks, percent."""
    encoder = suite.encoder(state)
    right = []
    for task in suite.tasks:
        images = task.splits[split]
        assert images.labels is not None
        found = task.logits(suite.features(encoder, images.pixels)).argmax(-1)
        right.append(float((found == images.labels).float().mean()))
    return 100 * sum(right) / len(right)


def measured(case: Case, folder: Path) -> tuple[float, float, float, int, float]:
    """Validation, test, seconds, images of a task, and MiB of memory at the peak."""
    torch.set_num_threads(1)
    suite = load_suite("mini8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if case.rule in RULES:
        vectors = {task.name: task.task_vector for task in suite.tasks}
        start = time.perf_counter()
        state, images = merge_states(suite.pretrained, vectors, case.rule, **case.settings), 0
        seconds = time.perf_counter() - start
    else:
        made = make(suite, case.rule, device="cpu", folder=folder, **case.settings)
        state, seconds, images = dict(made.state), made.seconds, made.images
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / MIB
    return accuracy(suite, state, "validation"), accuracy(suite, state, "test"), seconds, images, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--folder", type=Path, default=None, help="where bases are kept; by default nowhere")
    parser.add_argument("--processes", type=int, default=1)
    chosen = parser.parse_args()
    cases = [case for case in CASES if chosen.only is None or case.rule in chosen.only]
    known = [case for case in cases if all(v.get("rule") in RULES for v in case.settings.values() if type(v) is dict)]
    for case in cases:
        if case not in known:
            print(f"left out, its first base is not among the rules: {case.rule} {case.settings}")
    print(f"{'base':96s} {'validation':>18s} {'test':>18s} {'seconds':>8s} {'images':>7s} {'MiB':>6s}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        # a process each, so that a peak is the case's own
        pool = ProcessPoolExecutor(chosen.processes, get_context("spawn"), max_tasks_per_child=1)
        with pool:
            for case, found in zip(known, pool.map(measured, known, [folder] * len(known)), strict=True):
                settings = ", ".join(f"{name}={value}" for name, value in case.settings.items())
                columns = [beside(value, prototype) for value, prototype in zip(found, case.prototype, strict=False)]
                seconds, images, peak = found[2:]
                columns += [f"{seconds:8.1f} {images:7d} {peak:6.0f}"]
                print(f"{case.rule}({settings})".ljust(96), *columns, flush=True)


def beside(value: float, prototype: float | None) -> str:
    """`66.3 (66.4 -0.1)`, or the value alone."""
    return f"{value:.1f}" + (f" ({prototype:.1f} {value - prototype:+.1f})" if prototype else "").rjust(13)


if __name__ == "__main__":
    main()
