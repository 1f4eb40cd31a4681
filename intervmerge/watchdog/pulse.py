"""The pulse of a search: workers say every few seconds that their steps advance, and the driver hears it.

Through the store that every session of Ray has for small values, as no file system need be shared; an actor would be a
process more, with all that it imports.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from uuid import uuid4

import ray
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

BEAT_SECONDS = 5.0
"""A worker says so at most so often, and the driver asks."""


class Beating:
    """A worker's side: called at every step, it speaks every few seconds.

    Args:
        pulse: name of the search's; empty for a worker that nobody listens to.
    """

    def __init__(self, pulse: str) -> None:
        self._pulse, self._trial, self._beats, self._last = pulse, "", 0, 0.0
        self.node = ray.get_runtime_context().get_node_id() if pulse else ""

    def begin(self, trial: str) -> None:
        """Another trial begins, which is said at once."""
        self._trial, self._last = trial, 0.0
        self()

    def __call__(self) -> None:
        """A step was done."""
        now = time.monotonic()
        if self._pulse and now - self._last > BEAT_SECONDS:
            self._last, self._beats = now, self._beats + 1
            with suppress(RayError, RuntimeError):  # who hears nothing for so long as to matter will end this
                _internal_kv_put(key(self._pulse, self._trial), f"{self._beats} {self.node}".encode())


class Pulse:
    """The driver's side."""

    def __init__(self) -> None:
        self.name = uuid4().hex
        self._known: dict[str, bytes] = {}
        self._last = 0.0

    def listen(self, trials: Iterable[str]) -> set[str]:
        """Those of these trials whose steps advanced since it was last asked; asks every few seconds."""
        now = time.monotonic()
        if now - self._last < BEAT_SECONDS:
            return set()
        self._last = now
        before = dict(self._known)
        return {trial for trial in trials if self._heard(trial) not in (None, before.get(trial))}

    def node_of(self, trial: str) -> str:
        """Where a trial runs, or ran last; empty if nothing was heard of it."""
        self._heard(trial)
        return self._known.get(trial, b"").decode().partition(" ")[2]

    def forget(self, trial: str) -> None:
        """It has ended."""
        self._known.pop(trial, None)
        with suppress(RayError, RuntimeError):
            _internal_kv_del(key(self.name, trial))

    def _heard(self, trial: str) -> bytes | None:
        """What is heard of a trial now."""
        found: bytes | None = None
        with suppress(RayError, RuntimeError):
            found = _internal_kv_get(key(self.name, trial))
        if found is not None:
            self._known[trial] = found
        return found


def key(pulse: str, trial: str) -> bytes:
    """Under which a worker speaks of a trial."""
    return f"intervmerge/{pulse}/{trial}".encode()
