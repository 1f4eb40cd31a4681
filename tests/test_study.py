"""A study on disk: who writes to it, what it survives, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from intervmerge.space.samplers import SAMPLERS
from intervmerge.study.journal import JOURNAL, Journal, held
from intervmerge.study.journal_file import HELD, JournalFile

pytestmark = pytest.mark.filterwarnings("default")  # Optuna warns of its own affairs

# ---- one writer

WRITER = """\
import sys
from pathlib import Path
from intervmerge.study.journal_file import HELD, JournalFile

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
HELD.add(path.parent.resolve())
file = JournalFile(str(path))
for number in range(count):
    file.append_logs([{"writer": name, "number": number, "filler": "x" * (number % 97)}])
"""


def test_of_two_processes_that_append_to_a_journal_no_line_is_lost(tmp_path: Path) -> None:
    path, count = tmp_path / JOURNAL, 400
    path.touch()
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name, str(count)]) for name in ("a", "b")]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0]
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for name in ("a", "b"):
        assert [line["number"] for line in lines if line["writer"] == name] == list(range(count))


def test_nobody_writes_to_a_study_without_holding_its_folder(tmp_path: Path) -> None:
    sampler = SAMPLERS["random"](0)
    with pytest.raises(AssertionError, match="does not hold it"):
        Journal(tmp_path, sampler)
    with held(tmp_path):
        journal = Journal(tmp_path, sampler)
        journal.note("a", 1)
    with pytest.raises(AssertionError, match="does not hold its folder"):
        journal.note("b", 2)
    with pytest.raises(AssertionError, match="does not hold its folder"):
        Journal(tmp_path).note("b", 2)
    assert Journal(tmp_path).noted("b") is None
    assert not HELD & {tmp_path.resolve()}


def test_a_journal_never_has_a_number_that_json_has_not(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).touch()
    with held(tmp_path), pytest.raises(ValueError, match="not JSON compliant"):
        JournalFile(str(tmp_path / JOURNAL)).append_logs([{"figure": float("nan")}])
    assert (tmp_path / JOURNAL).read_bytes() == b""
