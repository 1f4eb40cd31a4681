"""Ctrl-C that ends a search at a safe place: raised between two events, never inside a destructor that drops it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from ray.tune import Callback


class Interrupt(Callback):
    """While entered, the first Ctrl-C waits for the next `check`; a second one raises KeyboardInterrupt at once.

    As a callback of Tune it checks at every turn of Tune's loop, several times a second.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._asked:
            raise KeyboardInterrupt

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop turns."""
        self.check()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing; Tune pickles its callbacks into a snapshot that is never restored."""
        return {}
