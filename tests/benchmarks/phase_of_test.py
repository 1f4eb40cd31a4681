"""How long the test phase of a study takes quiet, and beside one busy process per core.

    python tests/benchmarks/phase_of_test.py studies/mini_interventions-mini8 --runs 2

The study has ended; each run copies it, forgets what was measured on `test`, and lets the same search go on: it
measures the fronts again, and nothing else. Seconds are those between the first and the last pair of trial and task.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from intervmerge.machine import cores
from intervmerge.search.run import run_search
from intervmerge.search.watch import Silence
from intervmerge.space.samplers import SAMPLERS
from intervmerge.study.journal import Journal, held
from intervmerge.study.study import load_study

BUSY = "while True: pass"


class Clock(Silence):
    """Notes when the fronts on `test` begin and end."""

    def __init__(self) -> None:
        self.first = self.last = 0.0
        self.pairs = 0

    def progress(self, phase: str, done: int, total: int) -> None:
        """See Watcher."""
        if phase.startswith("the fronts on test"):
            self.pairs = total
            if done == 0:
                self.first = time.monotonic()
            self.last = time.monotonic()


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute for nothing."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds(study: Path, space: Path, beside: int) -> tuple[float, float, int]:
    """Of the pairs, of the whole call, and how many pairs."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(study, Path(place) / "study"))
        with held(folder):
            journal = Journal(folder, SAMPLERS["random"](0))
            for trial in load_study(folder).record.trials:
                if trial.test:
                    journal.note(f"test/{trial.number}", {})
        clock, began = Clock(), time.monotonic()
        settings = load_study(folder).settings
        with busy(beside):
            run_search(space, suite=settings["suite_path"], out=folder, trials=settings["search"]["trials"],
                       watch=clock)  # fmt: skip
        return clock.last - clock.first, time.monotonic() - began, clock.pairs


def main() -> None:
    """Print quiet, beside busy processes, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--space", default="mini_interventions.yaml", help="that the study was made with")
    parser.add_argument("--runs", type=int, default=1)
    chosen = parser.parse_args()
    for _ in range(chosen.runs):
        quiet, quiet_whole, pairs = seconds(chosen.study, chosen.space, 0)
        shared, shared_whole, _ = seconds(chosen.study, chosen.space, cores())
        print(
            f"{pairs} pairs: {quiet:.1f} s quiet, {shared:.1f} s beside {cores()} busy processes, "
            f"ratio {shared / quiet:.2f}; with all around it {quiet_whole:.1f} and {shared_whole:.1f} s, "
            f"ratio {shared_whole / quiet_whole:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
