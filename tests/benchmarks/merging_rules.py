"""Accuracy on validation and seconds of every merging rule on a suite.

    python tests/benchmarks/merging_rules.py                          # each rule at its defaults, scalings swept
    python tests/benchmarks/merging_rules.py --rules tsv_m:scaling=0.7,matrices=all wudi:depth=1.1

Of each rule the scaling of best validation accuracy is shown beside the default; the test split is not read.
Seconds are those of one merge.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from intervmerge.bases.merged import merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.merging import RULES
from intervmerge.records.scores import accuracy
from intervmerge.stores.store import InProcessStore
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.trial.run import Bench

SCALINGS = (0.15, 0.3, 0.5, 0.7, 0.85, 1.0, 1.3)


def read(text: str) -> tuple[str, dict[str, Any]]:
    """`tsv_m:scaling=0.7,matrices=all` as a rule and its settings."""
    rule, _, rest = text.partition(":")
    pairs = (pair.partition("=")[::2] for pair in rest.split(",") if pair)
    return rule, {name: _plain(value) for name, value in pairs}


def _plain(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def swept(scalings: tuple[float, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every rule at its defaults, and at every scaling if it has one."""
    for name, row in RULES.items():
        yield name, {}
        if "scaling" in row.defaults:
            yield from ((name, {"scaling": scaling}) for scaling in scalings)


def measure(suite: Suite, store: InProcessStore, rule: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge once and measure on validation."""
    start, cpu = time.perf_counter(), time.process_time()
    base = merge(suite, rule, store=store, **settings)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    scores = Bench(base, "cpu", plan=NO_CACHES).measure(None)
    worst = min(score.accuracy for score in scores.values())
    return {
        "rule": rule,
        "settings": dict(settings),
        "validation": round(100 * accuracy(scores), 2),
        "worst_task": round(100 * worst, 1),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--suite", default="mini8")
    parser.add_argument("--rules", nargs="+", metavar="RULE[:NAME=VALUE,...]", help="these only; default: the sweep")
    parser.add_argument("--scalings", type=float, nargs="+", default=SCALINGS)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no table")
    args = parser.parse_args()
    suite, store = load_suite(args.suite), InProcessStore()
    wanted = [read(text) for text in args.rules] if args.rules else list(swept(tuple(args.scalings)))
    if not args.json:
        print(f"{'rule':<28}{'settings':<44}{'validation':>10}{'worst':>7}{'seconds':>9}{'cpu':>8}")
    for rule, settings in wanted:
        row = measure(suite, store, rule, settings)
        words = ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"
        numbers = f"{row['validation']:>10}{row['worst_task']:>7}{row['seconds']:>9}{row['cpu_seconds']:>8}"
        print(json.dumps(row) if args.json else f"{rule:<28}{words:<44}{numbers}", flush=True)


if __name__ == "__main__":
    main()
