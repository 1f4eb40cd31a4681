"""What a search costs beside its trials: overhead a trial, one against two workers, memory of a second worker.

    python tests/benchmarks/search_cost.py [--trials 8]

Runs `intervmerge-search` on mini8, a stand-in, for the class token alone, with one worker and with two, in folders of
their own, on caches that a first search has filled. Memory is private memory (USS: clean pages of mapped files that no
other process maps count too; `anonymous` leaves them out) of the workers, sampled while they train, beside an idle
process with the same imports. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults import descendants, title

from intervmerge.bases.merged import merge
from intervmerge.interventions import InterventionConfig
from intervmerge.space.space import shipped
from intervmerge.study.study import load_study
from intervmerge.suites.suite import load_suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrialConfig

MIB = 2**20


def class_space(folder: Path) -> Path:
    """The default space for the class token alone."""
    text = shipped()["mini_interventions"].read_text(encoding="utf-8").replace("{choices: [class, all]}", "class")
    path = folder / "class_token.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def private(pid: int) -> tuple[float, float]:
    """USS and anonymous private memory of a process, MiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in rollup.splitlines()[1:]}
    return sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Anonymous"]


def search(space: Path, out: Path, workers: int, trials: int) -> tuple[float, dict[int, tuple[float, float]]]:
    """Seconds of a search, and the largest private memory of each of its training workers."""
    program = Path(sys.executable).with_name("intervmerge-search")
    command = [str(program), "--space", str(space), "--out", str(out), "--workers", str(workers)]
    began, peaks = time.perf_counter(), {}
    running = subprocess.Popen([*command, "--trials", str(trials), "--quiet"], stdout=subprocess.DEVNULL)
    while running.poll() is None:
        for child in descendants(running.pid):
            if "Trainable" in title(child):
                try:
                    now = private(child)
                except OSError:
                    continue  # it ended just now
                before = peaks.get(child, (0.0, 0.0))
                peaks[child] = (max(now[0], before[0]), max(now[1], before[1]))
        time.sleep(0.2)
    assert running.returncode == 0
    return time.perf_counter() - began, peaks


def idle() -> tuple[float, float]:
    """Private memory of a process with a worker's imports, whose mapped files another such process maps too."""
    code = (
        "import sys, torch, intervmerge.workers.worker; torch.set_num_threads(1); print(1, flush=True); "
        "sys.stdin.read()"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    for one in both:
        assert one.stdout is not None
        one.stdout.readline()
    found = private(both[1].pid)
    for one in both:
        one.communicate()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        space = class_space(folder)
        search(space, folder / "first", 2, 1)
        print(f"mini8, a stand-in, class token, {chosen.trials} trials of 100 steps, warm caches")
        for workers in (1, 2):
            out = folder / str(workers)
            seconds, peaks = search(space, out, workers, chosen.trials)
            trials = load_study(out).record.complete
            trained = sum(trial.seconds for trial in trials)
            print(
                f"{workers} workers: {seconds:.1f} s in all; trials {trained:.1f} s, {trained / len(trials):.2f} each; "
                f"beside them {(seconds - trained / workers) / len(trials):.2f} s a trial, start and test included"
            )
            for uss, anonymous in peaks.values():
                print(f"  a worker, at most: USS {uss:.0f} MiB, anonymous {anonymous:.0f} MiB")
    uss, anonymous = idle()
    print(f"an idle process with the same imports: USS {uss:.0f} MiB, anonymous {anonymous:.0f} MiB")
    bench = Bench(merge(load_suite("mini8"), "ties_sum", scaling=0.3), "cpu")
    place = bench.place(TrialConfig(intervention=InterventionConfig()))
    for engine in (bench.stream, bench.exact):
        size = engine.step_bytes(16 * len(bench.base.suite.tasks), place.blocks[0]) / MIB
        print(f"one step's activations, {engine.name}: {size:.0f} MiB")


if __name__ == "__main__":
    main()
