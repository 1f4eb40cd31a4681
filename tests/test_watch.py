"""A search watched and ended from another terminal: by its folder alone, of which the watcher only reads."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from holding import holding
from test_ends import PROGRAM, SPACE, command, running, wait_for, write
from test_growth import begun, drawn

from intervmerge.cli.main import main as intervmerge
from intervmerge.errors import ConfigError
from intervmerge.records.record import Record
from intervmerge.records.study import StudyRecord
from intervmerge.search.views.following import Following, follow
from intervmerge.search.watch import Silence
from intervmerge.session.interrupt import Interrupt, Stopped
from intervmerge.study.journal import held
from intervmerge.study.layout import JOURNAL, LOCK
from intervmerge.study.running import STOP, ask_to_stop, is_searched, stop_asked
from intervmerge.study.study import Study, load_study

TOGETHER = str(Path(sys.executable).with_name("intervmerge"))


class Ear(Silence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int]] = []
        self.words: list[str] = []

    def phase(self, text: str) -> None:
        self.words.append(text)

    def began(self, study: StudyRecord, trials: int) -> None:
        self.words.append(f"{len(study.trained)} trained")

    def started(self, record: Record) -> None:
        self.events.append(("started", record.number, 0))

    def measured(self, record: Record) -> None:
        self.events.append(("measured", record.number, len(record.rungs)))

    def ended(self, record: Record, study: StudyRecord) -> None:
        assert study.trial(record.number) == record
        self.events.append(("ended", record.number, len(record.rungs)))


def train(study: Study, record: Record, told: Callable[[tuple[str, int, int]], None]) -> None:
    """Write a trial down step by step, as a search does; `told` hears what a search tells."""
    asked = study.journal.study.ask()
    record = replace(record, number=asked.number)
    for count in range(len(record.rungs)):
        study.journal.keep(asked, replace(record, state="running", rungs=record.rungs[:count]))
        told(("measured" if count else "started", asked.number, count))
    study.journal.tell(asked, record, "accuracy")
    told(("ended", asked.number, len(record.rungs)))


def trained(number: int, chance: random.Random) -> Record:
    """A trial that somebody waited for."""
    return next(record for record in iter(lambda: drawn(number, chance), None) if record.rungs)


def test_who_follows_a_journal_is_told_what_the_search_itself_tells(tmp_path: Path) -> None:
    chance, study, ear = random.Random(0), begun(holding(tmp_path)), Ear()
    train(study, trained(0, chance), lambda event: None)
    following, expected = Following(Study(tmp_path), ear), []

    def told(event: tuple[str, int, int]) -> None:
        expected.append(event)
        following.hear()

    for number in range(1, 8):
        train(study, trained(number, chance), told)
        following.hear()  # nothing is told twice
    assert ear.words == ["1 trained"]
    assert ear.events == expected


def test_who_looks_late_is_told_of_every_trial_once(tmp_path: Path) -> None:
    chance, study, ear = random.Random(1), begun(holding(tmp_path)), Ear()
    following = Following(Study(tmp_path), ear)
    for number in range(5):
        train(study, trained(number, chance), lambda event: None)
    following.hear()
    assert [event[:2] for event in ear.events] == [(what, n) for n in range(5) for what in ("started", "ended")]


def test_following_ends_with_the_search_and_sees_its_last_word(tmp_path: Path) -> None:
    chance, study, ear = random.Random(2), begun(holding(tmp_path)), Ear()
    turns = iter(range(4))

    with held(tmp_path):
        assert is_searched(tmp_path)

        def sleep(seconds: float) -> None:
            train(study, trained(next(turns), chance), lambda event: None)

        with pytest.raises(StopIteration):
            follow(tmp_path, ear, sleep=sleep)
    assert [number for what, number, _ in ear.events if what == "ended"] == [0, 1, 2, 3]
    found = follow(tmp_path, ear, sleep=lambda seconds: pytest.fail("there is nothing to wait for"))
    assert [trial.number for trial in found.record.trials] == [0, 1, 2, 3]
    assert "no search runs there: this is what the study holds" in ear.words


def test_a_folder_is_searched_for_as_long_as_it_is_held_and_looking_holds_nobody_up(tmp_path: Path) -> None:
    folder, looking = tmp_path / "study", threading.Event()
    assert not is_searched(folder)

    def look() -> None:
        while not looking.is_set():
            is_searched(folder)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    folder.mkdir()
    (folder / LOCK).touch()
    for looker in lookers:
        looker.start()
    try:
        for _ in range(20):
            with held(folder):
                assert is_searched(folder)
    finally:
        looking.set()
        for looker in lookers:
            looker.join()
    assert not is_searched(folder)


def test_watching_writes_nothing_and_needs_no_right_to(tmp_path: Path) -> None:
    study = begun(holding(tmp_path))
    train(study, trained(0, random.Random(3)), lambda event: None)
    (tmp_path / LOCK).touch()
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.iterdir()}
    for path in (tmp_path / JOURNAL, tmp_path / LOCK):
        path.chmod(0o444)
    assert intervmerge(["watch", str(tmp_path)]) == 0
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.iterdir()} == before


# ---- stop


def test_a_search_hears_that_it_is_to_end_and_what_was_asked_of_a_former_one_is_forgotten(tmp_path: Path) -> None:
    ask_to_stop(tmp_path)
    with Interrupt(stop_asked(tmp_path)) as interrupt:
        interrupt.check()
        ask_to_stop(tmp_path)
        interrupt._ask_again = 0.0
        with pytest.raises(Stopped) as ended:
            interrupt.check()
        assert ended.value.exit_code == 3
        interrupt.forget()
        interrupt.check()  # its end is not broken off by what began it


@pytest.mark.parametrize("verb", ["watch", "stop"])
def test_a_folder_without_a_study_is_refused(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert intervmerge([verb, str(tmp_path)]) == 2
    assert "a study is a folder with study.journal" in capsys.readouterr().err


def test_a_study_that_nobody_searches_is_watched_once_and_not_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(tmp_path):
        pass
    assert intervmerge(["stop", str(tmp_path)]) == 0
    assert "no search runs there" in capsys.readouterr().out
    assert not (tmp_path / STOP).exists()
    with pytest.raises(ConfigError, match="a study is a folder with"):
        follow(tmp_path, Silence())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_search_is_watched_from_another_terminal_and_stopped_from_a_third(odd_folder: Path, tmp_path: Path) -> None:
    space, out, log, seen = tmp_path / "s.yaml", tmp_path / "study", tmp_path / "log", tmp_path / "seen"
    write(space, SPACE.replace("steps: 4", "steps: 30000"))
    with running([PROGRAM, *command(space, odd_folder, out)], log) as process:
        wait_for(b" step ", log, process)
        with running([TOGETHER, "watch", str(out)], tmp_path / "left") as watcher:
            wait_for(b"validation: merged base", tmp_path / "left", watcher)
            os.kill(watcher.pid, signal.SIGINT)
            assert watcher.wait(60) == 130
        assert b"no longer watched; the search goes on" in (tmp_path / "left").read_bytes()
        assert process.poll() is None
        with running([TOGETHER, "watch", str(out)], seen) as watcher:
            wait_for(b"validation: merged base", seen, watcher)
            done = subprocess.run([TOGETHER, "stop", str(out)], capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            assert "the same command goes on" in done.stdout
            assert process.wait(60) == 3, log.read_text()
            assert watcher.wait(60) == 1, seen.read_text()  # no trial had ended
    assert "stopped, as was asked by `intervmerge stop`" in log.read_text()
    assert "Traceback" not in log.read_text() + seen.read_text()
    assert not (out / STOP).exists()
    assert "running" in [trial.state for trial in load_study(out).record.trials]
