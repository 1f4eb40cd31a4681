"""Calls side by side in processes of one thread each."""

from __future__ import annotations

import multiprocessing
import operator
import os
import time
from functools import partial

import pytest
import torch

from intervmerge.processes import each

LONG = 300.0
"""Seconds of a call that nobody waits for."""


@pytest.mark.parametrize("processes", [1, 2])
def test_every_call_is_done_once(processes: int) -> None:
    assert sorted(each((partial(pow, number, 2) for number in range(7)), processes, ahead=1)) == [
        number**2 for number in range(7)
    ]
    assert list(each(iter(()), processes)) == []


def test_one_process_is_this_one_and_more_are_others_of_one_thread() -> None:
    assert set(each([os.getpid], 1)) == {os.getpid()}
    assert os.getpid() not in set(each([os.getpid] * 2, 2))
    assert set(each([torch.get_num_threads] * 2, 2)) == {1}


def test_calls_are_asked_for_when_somebody_is_free() -> None:
    asked = []

    def calls() -> object:
        for number in range(6):
            asked.append(number)
            yield partial(abs, number)

    for done, _ in enumerate(each(calls(), 2), start=1):  # type: ignore[arg-type]
        assert len(asked) <= done + 2


def test_an_error_ends_the_calls_that_run() -> None:
    start, before = time.monotonic(), set(multiprocessing.active_children())
    with pytest.raises(ZeroDivisionError):
        list(each([partial(time.sleep, LONG), partial(operator.truediv, 1, 0)], 2))
    assert time.monotonic() - start < LONG / 2
    assert set(multiprocessing.active_children()) <= before


def test_who_stops_listening_ends_the_calls_that_run() -> None:
    start = time.monotonic()
    for found in each([partial(time.sleep, LONG), partial(abs, -3)], 2):
        assert found == 3
        break
    assert time.monotonic() - start < LONG / 2
