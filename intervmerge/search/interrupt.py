"""Ctrl-C that is not lost: Python drops a KeyboardInterrupt that is raised inside a destructor."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """While entered, Ctrl-C raises KeyboardInterrupt as ever, and is remembered until `check` finds it."""

    def __init__(self) -> None:
        self._asked = False
        self._before: signal._HANDLER = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed and the first one got lost."""
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt
