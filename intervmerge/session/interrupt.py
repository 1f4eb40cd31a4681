"""Ctrl-C, a request to end and a signal from outside that end a search at a safe place: raised between two events,
never inside a destructor that drops it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a user, a scheduler and a terminal that closes say to end a search."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the search.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        """As a shell says it."""


class Stopped(KeyboardInterrupt):
    """Somebody beside the search asked it to end."""

    exit_code = 3
    words = "stopped, as was asked by `intervmerge stop`"


ASK_SECONDS = 1.0
"""So often is asked, at most, whether somebody beside the search asks it to end."""


class Interrupt:
    """While entered, the first signal waits for the next `check`; a second one is raised at once, as Interrupted.

    What the process was told to ignore, as by nohup, stays ignored.

    Args:
        stop: whether somebody beside the search asks it to end.
    """

    def __init__(self, stop: Callable[[], bool] = lambda: False) -> None:
        self._asked: int | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._stop, self._ask_again = stop, 0.0

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            heard = (number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN)
            self._before = {number: signal.signal(number, self._remember) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None:
            raise Interrupted(number)
        self._asked = number

    def check(self) -> None:
        """Raise Interrupted if a signal came, Stopped if somebody beside the search asks it to end."""
        if self._asked is not None:
            raise Interrupted(self._asked)
        if (now := time.monotonic()) >= self._ask_again:
            self._ask_again = now + ASK_SECONDS
            if self._stop():
                raise Stopped

    def forget(self) -> None:
        """The search is ending: what is to be done for that takes two further signals to be broken off."""
        self._asked, self._stop = None, lambda: False


@contextmanager
def handlers_kept() -> Iterator[None]:
    """The process hears signals afterwards as it did before, whatever is done in here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def deaf() -> Iterator[None]:
    """What is done in here takes a moment, and no signal breaks it off."""
    with handlers_kept():
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        yield
