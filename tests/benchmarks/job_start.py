"""Seconds from `ray job submit` to the first rung that the job's log shows, on a local head that runs already.

    python tests/benchmarks/job_start.py [--runs 3]

Beside it the same search without a cluster, which starts a Ray of its own; both on the small suite of the tests.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from odd_suite import write_odd_suite
from test_ends import PROGRAM, SPACE, write
from test_job import RAY, raised


def first_rung(line: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds until a command prints that a trial was measured; it is let run to its end."""
    began, found, said = time.monotonic(), 0.0, ""
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as done:
        assert done.stdout is not None
        for text in done.stdout:
            said += text
            if " step " in text and not found:
                found = time.monotonic() - began
    assert found, f"nothing was measured:\n{said}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="job-") as place:
        folder = Path(place)
        suite, space = write_odd_suite(folder / "suite"), write(folder / "s.yaml", SPACE)
        (folder / "head").mkdir()
        with raised(folder / "head") as head:
            for turn in range(runs):
                line = [PROGRAM, "--space", str(space), "--suite", str(suite), "--trials", "1", "--workers", "1"]
                submit = [RAY, "job", "submit", "--address", head.url, "--entrypoint-num-cpus", "1", "--", *line]
                job = first_rung([*submit, "--out", str(folder / f"job-{turn}")], head.environment)
                plain = {name: value for name, value in head.environment.items() if not name.startswith("RAY_")}
                here = first_rung([*line, "--out", str(folder / f"here-{turn}")], plain)
                print(f"{job:.1f} s as a job, {here:.1f} s without a cluster", flush=True)


if __name__ == "__main__":
    main()
