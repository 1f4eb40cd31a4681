"""Processes of one thread each that decode pieces side by side; they end when whoever started them does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice

from intervmerge.suites.datasets.pieces import Piece

AHEAD = 2
"""Pieces a process that are handed out at once; the images of some cross with them."""


def done(pieces: Iterable[Piece], processes: int) -> Iterator[int]:
    """Decode pieces; how many images each had, as soon as it is done.

    Args:
        pieces: asked for one by one.
        processes: how many; with 1 it is this one.

    Raises:
        BrokenProcessPool: a process died.
    """
    if processes == 1:
        yield from (piece.decode() for piece in pieces)
        return
    left = iter(pieces)
    running: set[Future[int]] = set()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin) as pool:
        try:
            while True:
                running |= {pool.submit(piece.decode) for piece in islice(left, AHEAD * processes - len(running))}
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in ended)
        finally:
            pool.shutdown(cancel_futures=True)


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
