"""Who writes to a study on a store: one driver at a time, over all machines, with nothing asked of the store but that
it lists what was written.

Each driver puts down a claim of its own, then looks for others: of two that come at once at least one sees the other,
and goes. A claim is renewed as long as its driver lives; one that stays as it is while another watches is a dead
driver's. No two clocks are compared but by those who only read.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

from intervmerge.errors import ConfigError
from intervmerge.remote.copies import Copy
from intervmerge.study.layout import STOP
from intervmerge.study.remote.bringing import LEASES

BEAT, DEAD = 5.0, 30.0
"""Seconds from renewal to renewal, and after which a claim that was not renewed is a dead driver's."""
ASKED = f"{LEASES}/{STOP}"
"""Asks the driver to end."""
PROBE = f"{LEASES}/probe"
"""Is written to see whether anything can be."""
NO_CLAIMS = (ASKED, PROBE)


class Lease:
    """The claim of a driver.

    Args:
        copy: of the study.
        say: is told what is waited for.
    """

    def __init__(self, copy: Copy, say: Callable[[str], None]) -> None:
        self._copy, self._say = copy, say
        self._name = f"{LEASES}/{uuid4().hex}"
        self._beats, self._holds, self._renewed = 0, False, 0.0
        self._over, self._thread = threading.Event(), threading.Thread(target=self._renew, daemon=True)
        self.lost = False
        """Whether another driver took this one for dead, and writes now."""

    @property
    def sure(self) -> bool:
        """Whether nobody can have taken this driver for dead."""
        return not self.lost and time.monotonic() - self._renewed < DEAD - BEAT

    def take(self) -> None:
        """Hold the study.

        Raises:
            ConfigError: another driver holds it, or comes at the same time.
            OSError: the store fails.
        """
        try:
            self._put()
            before = self._others()
            for name, claim in list(before.items()):
                if claim.get("copy") == self._copy.identity:  # this machine's own lock says that it is dead
                    self._copy.store.remove(name)
                    del before[name]
            if before:
                self._outlive(before)
            self._holds = True
            self._put()
        except BaseException:
            self.release()
            raise
        self._thread.start()

    def _outlive(self, before: dict[str, dict[str, Any]]) -> None:
        """Wait until the claims of others are gone, or are a dead driver's, and remove these."""
        hosts = ", ".join(sorted(str(claim.get("host")) for claim in before.values()))
        self._say(f"{self._copy.store.uri}: a search on {hosts} holds it; {DEAD:.0f} s without a sign, and it is dead")
        until = time.monotonic() + DEAD
        while before and time.monotonic() < until:
            time.sleep(BEAT / 2)
            self._put()
            now = self._others()
            before = {name: claim for name, claim in before.items() if name in now}
            if any(now[name] != claim for name, claim in before.items()):
                rule = "one search at a time writes to a study"
                raise ConfigError(
                    self._copy.store.uri,
                    f"a study that is being searched, on {hosts}",
                    rule,
                    "wait for it, or another --out",
                )
        for name in before:
            self._copy.store.remove(name)

    def _put(self) -> None:
        began = time.monotonic()
        self._beats += 1
        told = {"host": socket.gethostname(), "copy": self._copy.identity, "beats": self._beats}
        self._copy.store.write(self._name, json.dumps({**told, "holds": self._holds, "at": time.time()}).encode())
        self._renewed = began

    def _others(self) -> dict[str, dict[str, Any]]:
        return {name: claim for name, claim in claims(self._copy).items() if name != self._name}

    def _renew(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):  # a store that fails is said by who writes there
                now = claims(self._copy)
                others = [claim for name, claim in now.items() if name != self._name]
                if self._name not in now or any(claim.get("holds") for claim in others):
                    self.lost = True
                    (self._copy.folder / STOP).touch()  # the search ends
                    return
                self._put()
                if ASKED in self._copy.store.objects(LEASES):
                    (self._copy.folder / STOP).touch()
                    self._copy.store.remove(ASKED)

    def release(self) -> None:
        """Hold it no more; what cannot be removed is a dead driver's before long."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(DEAD)
        with suppress(OSError):
            if not self.lost:
                self._copy.store.remove(self._name)


def claims(copy: Copy) -> dict[str, dict[str, Any]]:
    """What drivers claim, by name.

    Raises:
        OSError: the store cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in copy.store.objects(LEASES):
        if name in NO_CLAIMS:
            continue
        with suppress(FileNotFoundError):  # gone meanwhile
            content = copy.store.read(name)
            try:
                found[name] = dict(json.loads(content))
            except ValueError:  # just being written, on a store that does so bit by bit: like no other, and alive
                found[name] = {"at": time.time()}
    return found


def is_leased(copy: Copy) -> bool:
    """Whether a driver writes to a study, by the clocks of two machines; not where the store does not answer."""
    with suppress(OSError):
        return any(abs(time.time() - float(claim.get("at", 0))) < DEAD for claim in claims(copy).values())
    return False


def ask_holder(copy: Copy) -> None:
    """Ask the driver that holds a study to end.

    Raises:
        OSError: the store cannot be written.
    """
    copy.store.write(ASKED, b"")
