"""A disk without room. It is no fault of a trial: the search ends in words, and the same command goes on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from intervmerge.errors import DiskError, IntervMergeError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The disk has no room, or the user's share of it."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then what it was raised for, then what that was raised for."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__  # the first is Ray's own


def full_disk(error: BaseException) -> OSError | None:
    """The error of a full disk that this one was raised for, or is; None if there is none."""
    found = (cause for cause in causes(error) if isinstance(cause, OSError) and cause.errno in FULL)
    return next(found, None)


def refusal(where: object, error: OSError) -> DiskError:
    """What to raise for a write that failed."""
    got = f"a full disk ({error})" if error.errno in FULL else f"{type(error).__name__}: {error}"
    rule = "a search keeps all that it has done, and ends where it cannot"
    return DiskError(where, got, rule, "the same command once there is room: it goes on from here")


@contextmanager
def plainly(where: object, *wrappers: type[Exception]) -> Iterator[None]:
    """Raises what the user should read: that a disk is full, and errors of our own as they are.

    Args:
        where: what is written to in here.
        wrappers: errors that may hide one of our own.
    """
    try:
        yield
    except IntervMergeError:
        raise
    except Exception as error:
        own = next((cause for cause in causes(error) if isinstance(cause, IntervMergeError)), None)
        if own is not None and isinstance(error, wrappers):
            raise own from None
        if full := full_disk(error):
            raise refusal(where, full) from error
        raise
