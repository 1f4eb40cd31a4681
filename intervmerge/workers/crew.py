"""A crew: processes of Ray, each of few threads, that do many small things side by side on one merged base.

Threads of one process wait for each other wherever cores are shared; processes do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from torch import Tensor

from intervmerge.engines.caches import Part
from intervmerge.errors import IntervMergeError
from intervmerge.session.object_store import OtherBase, put, taken
from intervmerge.trial.bench import Bench
from intervmerge.watchdog.faults import SPOILT, fault_of, own
from intervmerge.workers.seat import Seat, sit_down

LISTEN_SECONDS = 0.3
"""So long nobody asks whether the search is to end."""
STARTS = 3
"""Processes that do not come up, one after another, before the crew gives up."""

Call = tuple[Any, ...]


class Hand:
    """An actor of Ray: sits down at a bench, and does one thing after another there."""

    def __init__(self) -> None:
        self._bench: Bench | None = None
        self._seat: Seat | None = None

    def sit(self, base: Any, tensors: Mapping[str, Tensor], seat: Seat, other: OtherBase | None = None) -> None:
        """At a bench; base and tensors are mapped, not copied. On another base of its suite, if one is given."""
        self._bench, self._seat = sit_down(base if other is None else other.on(base), tensors, seat), seat

    def hold(self, split: str) -> list[Part]:
        """The parts of a cache that is to be filled, held by this process until `release`."""
        assert self._bench is not None
        self._held = ExitStack()
        return self._held.enter_context(self._bench.caches.parts(split))

    def release(self) -> None:
        """All parts are filled; seal the whole."""
        self._held.close()

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives on the bench."""
        return function(self._bench, self._seat, *arguments)


class Crew:
    """Hands, as long as this is entered.

    Args:
        base: reference to the merged base in the object store.
        seat: of every hand.
        workers: hands at once.
        gpus: share of a GPU that each has.
        check: called often; raises what ends the search.
        cpus: that each asks for.
    """

    def __init__(
        self,
        base: Any,
        seat: Seat,
        workers: int,
        gpus: float = 0.0,
        check: Callable[[], None] = lambda: None,
        cpus: float = 1.0,
    ) -> None:
        self._cpus = cpus
        self._base, self._seat, self._workers, self._gpus, self._check = base, seat, workers, gpus, check
        self._tensors: Any = put({})
        self._other: OtherBase | None = None
        self._idle: list[Any] = []
        self._coming: dict[Any, Any] = {}
        self._failed_starts = 0

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for hand in (*self._idle, *self._coming.values()):
            ray.kill(hand)
        self._idle, self._coming = [], {}

    def sit(self, seat: Seat, tensors: Mapping[str, Tensor]) -> None:
        """From here on, all sit so, and share these tensors."""
        self._seat, self._tensors = seat, put(dict(tensors))
        self._sit_again()

    def move(self, other: OtherBase) -> None:
        """From here on, all work on another base of the suite."""
        self._other = other
        self._sit_again()

    def _sit_again(self) -> None:
        hands = [*self._idle, *self._coming.values()]
        self._idle, self._coming = [], {}
        for hand in hands:
            self._seat_hand(hand)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of tasks.py gives, in one process."""
        ((_, found),) = self.each(function, [arguments])
        if isinstance(found, Exception):
            raise found
        return found

    @contextmanager
    def filling(self, split: str) -> Iterator[list[Part]]:
        """The parts of a split's cache on this machine, each to be filled in here; one hand holds the whole meanwhile.

        Raises:
            OSError: there is no room.
        """
        self._call_in(1)
        while not self._idle:
            for reference in ray.wait(list(self._coming), timeout=LISTEN_SECONDS)[0]:
                self._arrived(reference)
            self._call_in(1)
            self._check()
        holder = self._idle[0]
        try:
            parts: list[Part] = taken(holder.hold.remote(split))
            yield parts
            taken(holder.release.remote())
        except Exception as error:
            with suppress(Exception):
                taken(holder.release.remote())
            raise own(error) from None

    def each(
        self, function: Callable[..., Any], calls: Iterable[Sequence[Any]]
    ) -> Iterator[tuple[Call, Any | Exception]]:
        """(arguments, what a function of tasks.py gives for them, or the error), each as soon as it is there.

        After an error of the machine the process is replaced, and the call made once more, in another.
        """
        waiting = deque((tuple(call), True) for call in calls)
        running: dict[Any, tuple[Any, Call, bool]] = {}
        try:
            while waiting or running:
                self._call_in(min(self._workers - len(running), len(waiting)))
                while waiting and self._idle:
                    hand, (call, again) = self._idle.pop(), waiting.popleft()
                    running[hand.do.remote(function, *call)] = (hand, call, again)
                for done in ray.wait([*running, *self._coming], timeout=LISTEN_SECONDS)[0]:
                    if done in self._coming:
                        self._arrived(done)
                        continue
                    hand, call, again = running.pop(done)
                    found = self._result(done, hand)
                    if again and isinstance(found, Exception) and fault_of(found).whose == "machine":
                        waiting.append((call, False))
                    else:
                        yield call, found
                self._check()
        finally:
            for hand, _, _ in running.values():
                ray.kill(hand)

    def _call_in(self, hands: int) -> None:
        """Start processes, until there are so many."""
        for _ in range(hands - len(self._idle) - len(self._coming)):
            self._seat_hand(ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(Hand).remote())

    def _seat_hand(self, hand: Any) -> None:
        self._coming[hand.sit.remote(self._base, self._tensors, self._seat, self._other)] = hand

    def _arrived(self, reference: Any) -> None:
        hand = self._coming.pop(reference)
        try:
            taken(reference)
        except (RayActorError, OutOfMemoryError) as error:  # it died, or Ray ended it as memory ran out
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                rule, allowed = (
                    f"of {STARTS} processes one comes up",
                    "memory and disk for the workers, or fewer of them",
                )
                raise IntervMergeError("Ray", str(error).splitlines()[0], rule, allowed) from error
            return
        except Exception as error:
            raise own(error) from None
        self._failed_starts = 0
        self._idle.append(hand)

    def _result(self, reference: Any, hand: Any) -> Any | Exception:
        try:
            found = taken(reference)
        except Exception as error:  # whatever it is, the others go on
            if fault_of(error).whose in SPOILT:
                ray.kill(hand)
            else:
                self._idle.append(hand)
            return own(error)
        self._idle.append(hand)
        return found
