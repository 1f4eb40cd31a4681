"""Processes of one thread each that do calls side by side; they end when whoever started them does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Found = TypeVar("Found")


def each(calls: Iterable[Callable[[], Found]], processes: int, ahead: int = 0) -> Iterator[Found]:
    """Do calls; what each gives, as soon as it is there.

    Whatever ends this early, an error of a call or Ctrl-C, ends the calls that run.

    Args:
        calls: asked for one by one; they and what they give cross to processes and back.
        processes: how many; with 1 it is this one.
        ahead: calls a process that are handed out before one is free.

    Raises:
        BrokenProcessPool: a process died.
    """
    if processes == 1:
        yield from (call() for call in calls)
        return
    left, others = iter(calls), set(multiprocessing.active_children())
    running: set[Future[Found]] = set()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin) as pool:
        try:
            while True:
                running |= {pool.submit(call) for call in islice(left, (1 + ahead) * processes - len(running))}
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (done.result() for done in ended)
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def _begin() -> None:
    """At the start of a process."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is heard by whoever started this, who ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
