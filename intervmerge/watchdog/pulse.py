"""The pulse of a search: workers say every few seconds that their steps advance, and the driver hears it.

An actor of Ray, as no file system need be shared.
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import RayError

BEAT_SECONDS = 5.0
"""A worker says so at most so often, and the driver asks."""
PATIENCE_SECONDS = 10.0
"""So long the driver waits for an answer where it needs one."""


class Heart:
    """The actor: of every trial how often it beat, and on which node."""

    def __init__(self) -> None:
        self._beats: dict[str, tuple[int, str]] = {}

    def beat(self, trial: str, node: str) -> None:
        """A worker's steps advance."""
        count, _ = self._beats.get(trial, (0, ""))
        self._beats[trial] = (count + 1, node)

    def heard(self) -> dict[str, tuple[int, str]]:
        """Trial to how many beats, and the node of the last."""
        return self._beats


class Beating:
    """A worker's side: called at every step, it speaks every few seconds."""

    def __init__(self, heart: Any) -> None:
        self._heart, self._trial, self._last = heart, "", 0.0
        self.node: str = ray.get_runtime_context().get_node_id()

    def begin(self, trial: str) -> None:
        """Another trial begins, which is said at once."""
        self._trial, self._last = trial, 0.0
        self()

    def __call__(self) -> None:
        """A step was done."""
        now = time.monotonic()
        if self._heart is not None and now - self._last > BEAT_SECONDS:
            self._last = now
            self._heart.beat.remote(self._trial, self.node)


class Pulse:
    """The driver's side."""

    def __init__(self) -> None:
        self.heart: Any = ray.remote(num_cpus=0)(Heart).remote()
        self._known: dict[str, tuple[int, str]] = {}
        self._asked: Any = None
        self._last = 0.0

    def listen(self) -> set[str]:
        """The trials whose steps advanced since it was last asked; never waits."""
        now = time.monotonic()
        if self._asked is None and now - self._last > BEAT_SECONDS:
            self._asked, self._last = self.heart.heard.remote(), now
        if self._asked is None or not ray.wait([self._asked], timeout=0)[0]:
            return set()
        return self._take()

    def node_of(self, trial: str) -> str:
        """Where a trial runs, or ran last; empty if nothing was heard of it."""
        if self._asked is None:
            self._asked = self.heart.heard.remote()
        if ray.wait([self._asked], timeout=PATIENCE_SECONDS)[0]:
            self._take()
        return self._known.get(trial, (0, ""))[1]

    def _take(self) -> set[str]:
        asked, self._asked = self._asked, None
        try:
            found: dict[str, tuple[int, str]] = ray.get(asked)
        except RayError:  # its node is gone, and another heart begins
            self.heart = ray.remote(num_cpus=0)(Heart).remote()
            return set()
        advanced = {trial for trial, beats in found.items() if beats != self._known.get(trial)}
        self._known = found
        return advanced
