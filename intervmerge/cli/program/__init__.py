"""What every command of ours does: read its flags, run, and end in an exit code and words, never a traceback.

Exit codes: 0 success; 1 a finding or failure; 2 input that was refused; 3 a search that `intervmerge stop` ended;
130 Ctrl-C, 143 SIGTERM, 129 SIGHUP; 141 nobody reads the output.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn

from intervmerge.errors import ConfigError, InputError, IntervMergeError
from intervmerge.quoting import as_text

INTERRUPTED, UNREAD = 130, 141


class Parser(argparse.ArgumentParser):
    """Refuses flags as everything else is refused: in four parts."""

    def error(self, message: str) -> NoReturn:
        """Refuse.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(self.prog, message, "flags are those of the command", f"see {self.prog} --help")


def ended(program: str, run: Callable[[], int]) -> int:
    """Run a command to its exit code; what it raises on purpose is said on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed before we began
            stream.reconfigure(errors="backslashreplace")  # what its encoding lacks is shown all the same
    try:
        try:
            return run()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where what becomes of it can be said
    except IntervMergeError as error:
        print(f"{program}: {as_text(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt as pressed:
        print(getattr(pressed, "words", "stopped"), file=sys.stderr)
        return int(getattr(pressed, "exit_code", INTERRUPTED))  # a signal that is not Ctrl-C says which
    except OSError as error:  # a disk, a pipe, a folder: what we know nothing to say of but its own words
        if not _still_read():
            return UNREAD
        print(f"{program}: {type(error).__name__}: {as_text(str(error))}", file=sys.stderr)
        return 1


def _still_read() -> bool:
    """Whether somebody reads stdout; what it does not take is let go, so that nothing is said of it at exit."""
    if sys.stdout is None:
        return True
    try:
        sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout, 0)
        read = not any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError) as error:
        read = not isinstance(error, BrokenPipeError)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        own = sys.stdout.fileno()
        if sys.stdout is sys.__stdout__:
            os.dup2(os.open(os.devnull, os.O_WRONLY), own)
    return read
