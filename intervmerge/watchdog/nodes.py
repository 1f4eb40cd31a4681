"""Which nodes rest: one whose processes fail again and again is given no work for a while, and ever longer."""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES = 3
"""In a row, of processes on one node, before it rests."""
REST_SECONDS, LONGEST_SECONDS = 30.0, 1_800.0
"""The first rest, and the longest; each is twice as long as the one before."""


class Nodes:
    """What is known of the nodes by how their processes fare.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def well(self, node: str) -> None:
        """A trial ended there."""
        self._failures.pop(node, None)
        self._until.pop(node, None)

    def failed(self, node: str) -> float:
        """A process failed there by no fault of its trial; seconds that the node rests from now on, mostly 0.

        A process that fails while its node rests had begun before: many of them, side by side, are one reason to rest.
        """
        if node in self.resting():
            return 0.0
        count = self._failures[node] = self._failures.get(node, 0) + 1
        if count < FAILURES:
            return 0.0
        rest = min(LONGEST_SECONDS, REST_SECONDS * 2.0 ** (count - FAILURES))
        self._until[node] = self._clock() + rest
        return rest

    def resting(self) -> dict[str, float]:
        """Node to the seconds that it still rests."""
        now = self._clock()
        return {node: until - now for node, until in self._until.items() if until > now}
