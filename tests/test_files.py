"""Files: whole or not at all; a hash that is kept is never one of other bytes; a lock has one holder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from intervmerge.files import FRESH_SECONDS, append_whole, locked, replacing, sha256_of, write_whole


def settled(path: Path, content: bytes) -> Path:
    """A file that was written long ago."""
    path.write_bytes(content)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json")) if folder.is_dir() else []


def in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"2")


def replaced(path: Path) -> None:
    write_whole(path, b"2bc")


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"d")


@pytest.mark.parametrize("change", [in_place, replaced, longer])
def test_a_file_that_changed_has_another_hash_whatever_its_times_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """When content changed can be set back; when the inode did, cannot."""
    monkeypatch.setattr("intervmerge.files.FRESH_SECONDS", -1.0)
    path = settled(tmp_path / "file", b"1bc")
    before = sha256_of(path, tmp_path / "kept")
    assert len(kept(tmp_path / "kept")) == 1
    change(path)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    after = sha256_of(path, tmp_path / "kept")
    assert (before, after) == (hashlib.sha256(b"1bc").hexdigest(), hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_hash_is_kept_only_of_a_file_that_has_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    for seconds, count in ((FRESH_SECONDS + 60, 0), (-1.0, 1)):
        monkeypatch.setattr("intervmerge.files.FRESH_SECONDS", seconds)
        assert sha256_of(path, tmp_path / "kept") == hashlib.sha256(b"abc").hexdigest()
        assert len(kept(tmp_path / "kept")) == count


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"state": []}', b"\xff", b"null"])
def test_a_kept_hash_that_cannot_be_read_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: bytes
) -> None:
    monkeypatch.setattr("intervmerge.files.FRESH_SECONDS", -1.0)
    path = settled(tmp_path / "file", b"abc")
    found = sha256_of(path, tmp_path / "kept")
    kept(tmp_path / "kept")[0].write_bytes(note)
    assert sha256_of(path, tmp_path / "kept") == found


def test_a_folder_of_hashes_that_cannot_be_written_costs_time_alone(tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"abc")
    assert sha256_of(path, path / "kept") == sha256_of(path)


def test_what_could_not_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")

    def fail() -> None:
        with replacing(path) as fresh:
            fresh.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"before", [path])


def test_what_could_not_be_appended_is_taken_back(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: it takes a part, then refuses."""
    path = tmp_path / "file"
    path.write_bytes(b"0" * 10)
    code = (
        "import resource, signal, sys; from pathlib import Path; from intervmerge.files import append_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (15, 15))\n"
        "try: append_whole(Path(sys.argv[1]), b'1' * 10)\n"
        "except OSError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert (done.stdout, path.read_bytes()) == ("refused\n", b"0" * 10)
    append_whole(path, b"1")
    assert path.read_bytes() == b"0" * 10 + b"1"


def test_a_lock_has_one_holder_and_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from intervmerge.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
        holder.kill()
    with locked(path, wait=False):
        pass
