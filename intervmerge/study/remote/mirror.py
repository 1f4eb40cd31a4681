"""From the copy to the store, by one thread: whole objects, files before the journal that tells of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from intervmerge.files import state_of
from intervmerge.remote.copies import AT_ONCE, Copy
from intervmerge.study.layout import JOURNAL
from intervmerge.study.remote.bringing import travels, whole_lines
from intervmerge.study.remote.lease import Lease

POLL, PATIENCE = 1.0, 4.0
"""Seconds between two looks at the copy, and at least so many times what the last one took."""
AGAIN, LAST = 60.0, 60.0
"""Seconds between two tries at a store that fails, at most; and for how long it is tried at the end."""


class Mirror:
    """Takes to the store what is written to a copy, from now on until `end`.

    A store that fails holds nobody up: what waits for it is in the copy.

    Args:
        copy: of the study; it has what is on the store.
        lease: held.
        say: is told when the store fails, and when it does not any more.
    """

    def __init__(self, copy: Copy, lease: Lease, say: Callable[[str], None]) -> None:
        self._copy, self._lease, self._say = copy, lease, say
        self._sent = {name: state for name, (_, state) in copy.seen.items()}
        self._failing = ""
        self._over, self._thread = threading.Event(), threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause, failed = POLL, 0
        while not self._over.wait(pause):
            began = time.monotonic()
            failed = 0 if self._try() else failed + 1
            pause = max(POLL, PATIENCE * (time.monotonic() - began))
            if failed:
                pause = min(AGAIN, POLL * 2**failed)

    def _try(self) -> bool:
        """Whether all is on the store; said when that changes."""
        try:
            if self._lease.lost:
                raise OSError("another search took this one for dead, and goes on with the study")
            if not self._lease.sure:
                raise OSError("the store does not answer, and another search may go on with the study")
            self.push()
        except OSError as error:
            if not self._failing:
                self._say(f"{self._copy.store.uri} cannot be written ({error}); what waits for it is in "
                          f"{self._copy.folder}")  # fmt: skip
            self._failing = str(error)
            return False
        if self._failing:
            self._failing = ""
            self._say(f"{self._copy.store.uri} is written again")
        return True

    def push(self) -> None:
        """Take what is new to the store.

        The journal is read before the files and written after them, so that it tells of none that is not there; a file
        goes when the journal there knows that it has gone.

        Raises:
            OSError: the store cannot be written; what is there is older, and whole.
        """
        before = set(self._files())
        journal = whole_lines(self._copy)
        states = {}
        for name in self._files():
            with suppress(FileNotFoundError):
                states[name] = state_of(self._copy.folder / name)
        changed = [name for name, state in states.items() if self._sent.get(name) != state]
        new = self._sent.get(JOURNAL) != [len(journal)] and bool(journal)
        gone = [name for name in self._sent if name != JOURNAL and name not in before and name not in states]
        if not (changed or new or gone):
            return
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for name in pool.map(self._send, changed):
                    self._sent[name] = states[name]
            if new:
                self._copy.store.write(JOURNAL, journal)
                self._sent[JOURNAL] = [len(journal)]
            for name in gone:
                self._copy.store.remove(name)
                del self._sent[name]
        finally:
            self._copy.note({name: ("", state) for name, state in self._sent.items()})

    def _send(self, name: str) -> str:
        with suppress(FileNotFoundError):  # gone meanwhile: the next look sees that
            self._copy.store.write(name, (self._copy.folder / name).read_bytes())
        return name

    def _files(self) -> Iterator[str]:
        """What travels besides the journal, by name."""
        waiting = [self._copy.folder]
        while waiting:
            folder = waiting.pop()
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    name = Path(entry.path).relative_to(self._copy.folder).as_posix()
                    if not travels(name):
                        continue
                    if entry.is_dir():
                        waiting.append(Path(entry.path))
                    else:
                        yield name

    def end(self) -> str:
        """Take the last to the store, for as long as may be; why it could not, or nothing."""
        self._over.set()
        self._thread.join()
        until = time.monotonic() + LAST
        while not self._try():
            if self._lease.lost or time.monotonic() > until:
                return self._failing
            time.sleep(POLL)
        return ""
