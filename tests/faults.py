"""Kills searches at random moments, resumes them until they end, checks that nothing was computed twice or lost.

    python tests/faults.py --kills 20 --seed 0
    python tests/faults.py --only disk server

Real searches of `intervmerge-search` with two workers on the odd suite. A killed driver's processes are ended by their
ids, found before it is killed; nothing is ended by name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import optuna
from odd_suite import write_odd_suite

from intervmerge.interventions import Interventions
from intervmerge.mlflow_uris import local_uri
from intervmerge.records.record import ENDED
from intervmerge.study.journal import Journal
from intervmerge.study.layout import JOURNAL, TRIALS, trial_folder
from intervmerge.study.study import load_study
from intervmerge.trial.run import FILE
from intervmerge.views.runs import NUMBER

ONE_BASE = """\
suite: nowhere
base: {rule: task_arithmetic, scaling: 0.3}
training: {steps: 120, batch: 8, rungs: [20, 60]}
intervention:
  formula: {choices: [noreft, lobireft, consreft]}
  rank: {low: 1, high: 4}
  blocks: {choices: [all, mask]}
  slice_width: {choices: ["1/1", "1/6"]}
search: {stopping: task}
"""
BASES = ONE_BASE.replace(
    "base: {rule: task_arithmetic, scaling: 0.3}",
    "base: {rule: {choices: [task_arithmetic, ties_sum]}, scaling: {choices: [0.3, 0.6]}}",
)
"""The same, whose base is searched."""
RUNGS = (20, 60, 120)
FAULTS = ("actor", "locked", "disk", "server", "kills")
PROGRAM = str(Path(sys.executable).with_name("intervmerge-search"))


# ---- processes


def started(pid: int) -> str | None:
    """When a process started, in the kernel's own ticks; with the id it names the process. None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def descendants(pid: int) -> dict[int, str]:
    """Processes below one, at any depth: id to when it started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = {}, [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if (when := started(child)) is not None:
                found[child] = when
                waiting.append(child)
    return found


def end(family: dict[int, str]) -> None:
    """Kill these very processes, and what they started meanwhile, until none is left."""
    for _ in range(100):
        for pid in [pid for pid, when in family.items() if started(pid) == when]:
            family = {**descendants(pid), **family}
        left = [pid for pid, when in family.items() if started(pid) == when and not is_zombie(pid)]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    raise RuntimeError(f"still alive: {left}")


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and nobody has asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def title(pid: int) -> str:
    """What a process calls itself."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


# ---- searches


@dataclass(frozen=True)
class Faulty:
    """One study that is searched again and again, and what it must come to."""

    root: Path
    folder: Path
    trials: int
    mlflow: str | None = None
    """URI of a server."""
    store: str | None = None
    """URI of the server's own database."""
    rungs: tuple[int, ...] = RUNGS
    """Steps at which its trials are measured."""

    @property
    def command(self) -> list[str]:
        """The same every time."""
        server = [] if self.mlflow is None else ["--mlflow", self.mlflow]
        return [PROGRAM, "--space", str(self.root / "space.yaml"), "--suite", str(self.root / "odd"), "--workers", "2",
                "--trials", str(self.trials), "--out", str(self.folder), *server]  # fmt: skip

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """A search, started or taken up; afterwards neither it nor a process of it is left."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield process
        finally:
            family = descendants(process.pid)
            process.kill()
            process.wait()
            end(family)

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a search, which must be a good one."""
        code = process.wait(300)
        assert code == 0, f"exit code {code}:\n{self.log.read_text()[-3000:]}"

    @property
    def log(self) -> Path:
        """What its searches printed."""
        return self.root / f"{self.folder.name}.log"

    @property
    def written(self) -> int:
        """Records in the journal: a trial writes one when it begins, at every rung, and when it ends."""
        journal = self.folder / JOURNAL
        return journal.read_bytes().count(b'"record"') if journal.is_file() else 0

    def complete(self) -> int:
        """Complete trials so far."""
        if not self.written:
            return 0
        return sum(record.state in ENDED for record in Journal(self.folder).records())


@contextmanager
def world(root: Path, space: str = ONE_BASE) -> Iterator[Callable[[str, int], Faulty]]:
    """A suite, a space, and a place of its own for what Ray leaves behind; gives studies by name and trials."""
    write_odd_suite(root / "odd")
    (root / "space.yaml").write_text(space, encoding="utf-8")
    ray = tempfile.mkdtemp(prefix="r", dir="/tmp")  # the paths of Ray's sockets must be short
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = ray
    try:
        yield lambda name, trials: Faulty(root, root / name, trials)
    finally:
        shutil.rmtree(ray, ignore_errors=True)
        os.environ.pop("RAY_TMPDIR")
        if before is not None:
            os.environ["RAY_TMPDIR"] = before


def wait_for(happens: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120) -> bool:
    """Wait until something happens; False if the process ended, or the time, before it did."""
    deadline = time.monotonic() + seconds
    while not happens():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def kill_driver(study: Faulty, chance: random.Random) -> str | None:
    """Start the search and kill its driver at a random moment; what was done, or None if it ended before."""
    known, began = study.written, time.monotonic()
    writes, wait = (chance.randint(1, 12), 0.5) if chance.random() < 0.8 else (0, 12)
    with study.running() as process:
        wait_for(lambda: study.written >= known + writes, process)
        try:
            process.wait(chance.uniform(0, wait))
            return None
        except subprocess.TimeoutExpired:
            after = time.monotonic() - began
    return f"driver killed after {after:.1f} s and {writes} records; {study.complete()} trials complete"


def kill_actor(study: Faulty) -> str:
    """Kill a process that trains; the search must go on to its end by itself."""
    with study.running() as process:
        victims: list[int] = []

        def training() -> bool:
            victims[:] = [pid for pid in descendants(process.pid) if title(pid).endswith("Trainable.train")]
            return bool(victims) and b" step " in study.log.read_bytes()

        assert wait_for(training, process), study.log.read_text()
        os.kill(victims[0], signal.SIGKILL)
        study.ended(process)
    return f"actor killed; the search ended by itself with {study.complete()} trials complete"


def second_search(study: Faulty) -> str:
    """A second search on the folder must be refused while the first goes on undisturbed."""
    with study.running() as process:
        assert wait_for(lambda: study.written > 0, process), study.log.read_text()
        second = subprocess.run(study.command, capture_output=True, text=True, timeout=120)
        assert second.returncode == 2, second.stderr
        assert "one process at a time writes to a study" in second.stderr, second.stderr
        study.ended(process)
    return "second search on the folder refused"


# ---- what must hold


def violations(study: Faulty) -> list[str]:
    """What is wrong with a study that has ended; nothing should be."""
    record, wrong = load_study(study.folder).record, []
    keys = [json.dumps([dict(t.base), dict(t.intervention), dict(t.training), t.seed], sort_keys=True)
            for t in record.ended]  # fmt: skip
    if len(keys) != study.trials or len(set(keys)) != len(keys):
        wrong.append(f"{len(keys)} complete trials, {len(set(keys))} of them different, for {study.trials}")
    # an empty mask edits nothing, and is told as pruned
    if others := {t.state for t in record.trials} - {*ENDED, "duplicate", "pruned"}:
        wrong.append(f"trials {sorted(others)}")
    for trial in record.ended:
        file = trial_folder(study.folder, trial.number) / FILE
        Interventions.load(file)
        if sha256(file.read_bytes()).hexdigest() != trial.sha256:
            wrong.append(f"trial {trial.number}: its file is not that of its record")
        steps, planned = tuple(rung.steps for rung in trial.rungs), study.rungs[: 1 if trial.probe else None]
        if steps != planned[: len(steps)] or (trial.state == "stopped") != (steps != planned):
            wrong.append(f"trial {trial.number}: {trial.state} with rungs {steps}")
    known = {base.fingerprint for base in record.measured_bases}
    if unknown := [trial.number for trial in record.ended if trial.base_fingerprint not in {"", *known}]:
        wrong.append(f"trials {unknown} have bases that were not measured")
    if stray := [p.name for p in (study.folder / TRIALS).glob("*/*") if p.name != FILE]:
        wrong.append(f"left behind: {sorted(stray)}")
    running = Journal(study.folder).study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    if running:
        wrong.append(f"running in Optuna: {[trial.number for trial in running]}")
    front = [point["number"] for point in json.loads((study.folder / "front.json").read_text())["front"]]
    if front != [trial.number for trial in record.front]:
        wrong.append(f"front.json has {front}, the records {[trial.number for trial in record.front]}")
    return wrong + wrong_runs(study, [trial.number for trial in record.trials])


def check(study: Faulty) -> None:
    """Raise AssertionError if anything is wrong."""
    wrong = violations(study)
    assert not wrong, "\n".join(wrong)


def wrong_runs(study: Faulty, numbers: list[int]) -> list[str]:
    """What is wrong with MLflow's runs: one of the study, one a trial, none running."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=study.store or local_uri(study.folder))
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
    wrong = [f"run {run.info.run_id} is {run.info.status}" for run in runs if run.info.status == "RUNNING"]
    named = sorted(run.data.tags[NUMBER] for run in runs)
    if named != sorted(["parent", *map(str, numbers)]):
        wrong.append(f"MLflow has runs {named}, the study trials {numbers}")
    return wrong


def kill_and_resume(study: Faulty, kills: int, chance: random.Random, say: Callable[[str], None]) -> int:
    """Kill a study's driver at most so often, let it end, and check it; how often it was killed."""
    done = 0
    while done < kills and (told := kill_driver(study, chance)) is not None:
        done += 1
        say(f"{study.folder.name}: {told}")
    with study.running() as process:
        study.ended(process)
    check(study)
    say(f"{study.folder.name}: ended with {study.complete()} trials complete after {done} kills, nothing wrong")
    return done


def say(text: str) -> None:
    """Print it now."""
    print(text, flush=True)


def main() -> int:
    """Run the faults; 1 if anything was violated."""
    from outages import again_where_mounting, fill_and_resume, hang, lose, lose_server

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of drivers, all studies together")
    parser.add_argument("--each", type=int, default=5, help="kills of a study at most")
    parser.add_argument("--trials", type=int, default=8, help="of a study")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="kept there; by default removed if nothing was wrong")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=FAULTS, help="of these faults")
    parser.add_argument("--fills", type=int, default=5, help="of a study's disk, at most")
    parser.add_argument("--mounting", action="store_true", help="file systems can be mounted: given by itself")
    chosen = parser.parse_args()
    if "disk" in chosen.only:
        again_where_mounting(sys.argv[1:])
    root = chosen.out or Path(tempfile.mkdtemp(prefix="faults-"))
    chance, began, kills, studies, fills = random.Random(chosen.seed), time.monotonic(), 0, 0, 0
    with world(root) as study:
        try:
            for fault, faulty in ((kill_actor, study("actor", 4)), (second_search, study("locked", 3))):
                if faulty.folder.name in chosen.only:
                    print(f"{faulty.folder.name}: {fault(faulty)}", flush=True)
                    check(faulty)
            if "disk" in chosen.only and chosen.mounting:
                fills = fill_and_resume(study("disk", chosen.trials), chosen.fills, chance, say)
            if "server" in chosen.only:
                lose_server(study("server", chosen.trials), lose, say)
                lose_server(study("silent_server", chosen.trials), hang, say)
            while "kills" in chosen.only and kills < chosen.kills:
                each = min(chosen.each, chosen.kills - kills)
                kills += kill_and_resume(study(f"study{studies}", chosen.trials), each, chance, say)
                studies += 1
        except AssertionError as error:
            print(f"VIOLATED, seed {chosen.seed}, kept in {root}: {error}")
            return 1
    if chosen.out is None:
        shutil.rmtree(root)
    minutes = (time.monotonic() - began) / 60
    print(
        f"{', '.join(chosen.only)}: {kills} kills over {studies} studies, {fills} full disks: nothing wrong, "
        f"{minutes:.1f} minutes"
    )
    if "disk" in chosen.only and not chosen.mounting:
        print("NOT INJECTED: a full disk. No file system can be mounted here, not by root nor in a user's namespace")
    return 0


if __name__ == "__main__":
    sys.exit(main())
