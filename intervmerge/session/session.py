"""A session of Ray: quiet, on this machine unless told otherwise, and gone afterwards."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from intervmerge.errors import ConfigError
from intervmerge.machine import cache_folder
from intervmerge.session.interrupt import deaf, handlers_kept

ENVIRONMENT = {
    "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",  # shared weights are mapped, not copied
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of the user stay what they are
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study's records are ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the search at once; what is told is kept
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints nothing of its own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Read by Ray when it is imported, in the driver and in every worker; a value that the user has set stands."""

LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its servers then listen on 127.0.0.1, as always on those systems;
    # elsewhere Ray takes 127.0.0.1 for a mistake and listens on every address
    "RAY_worker_niceness": "0",  # Ray's own 15 leaves a worker a twentieth of a core that anything else wants too
}
"""For a session on this machine alone."""

LONGEST_FOLDER = 42
"""Characters of the path of Ray's folder: with what Ray puts below it, a socket's path has 107 at most."""
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Where Ray's folder may lie if the machine's own temporary one is too deep, or cannot be written to."""
STARTS, SLOW = 3, "timed out during startup"
"""Ray is started so often where it says this."""
ANSWER_SECONDS = 5.0
"""So long a cluster has to answer."""
FRAME, SETTINGS = 9, 4
"""Bytes of the head of an HTTP/2 frame, and its fourth one where it is SETTINGS: so Ray greets (RFC 9113, 3.4)."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
"""And so its clients do."""


@contextmanager
def ray_session(address: str | None, cpus: int, gpu: int | None = None) -> Iterator[None]:
    """Ray, started here with room for so many threads, or joined at `address`; one that runs already is used as it is.

    Args:
        address: of a cluster, or `auto` for the one that runs here; None starts Ray on this machine, on 127.0.0.1.
        cpus: that workers ask for together, one a thread.
        gpu: the only GPU that workers of this machine see; None is all.

    Raises:
        ConfigError: nobody answers at the address, or this machine has no place for Ray.
    """
    for name, value in (ENVIRONMENT if address is not None else {**ENVIRONMENT, **LOCAL}).items():
        os.environ.setdefault(name, value)
    if address is not None and (os.environ.get("RAY_AUTH_TOKEN") or has_token()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray itself does so for local sessions only
    give_home()
    import ray

    if ray.is_initialized():
        yield
        return
    start = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    with own_token(address is None), own_folder() if address is None else joined(address) as place:
        if address is None:
            cores = max(os.cpu_count() or 1, cpus)
            options = {"num_cpus": cores, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            start = partial(start, address="local", _temp_dir=place, **options)
        else:
            start = partial(start, address=place, runtime_env={"env_vars": ENVIRONMENT})
        with handlers_kept(), seen_alone(gpu):  # Ray's own handler ends in an abort
            patiently(start, ray.shutdown)
        try:
            yield
        finally:
            with deaf():
                ray.shutdown()


def give_home() -> None:
    """Ray asks for a home when it is imported; a container's user, who has none, is given the folder of our caches."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(cache_folder())


def patiently(start: Callable[[], object], clean: Callable[[], None]) -> None:
    """Start Ray; its half minute is short on a machine whose cores are shared, so that it has several.

    Args:
        start: starts or joins it.
        clean: removes what a failed start left.

    Raises:
        ConfigError: it cannot be started.
    """
    for left in reversed(range(STARTS)):
        try:
            start()
            return
        except Exception as error:
            clean()
            if left and SLOW in str(error):
                continue
            words = " ".join(str(error).split())[:300]
            rule, allowed = "Ray starts, or is joined", "another machine or --address, more room, or the cause mended"
            raise ConfigError("Ray", f"{type(error).__name__}: {words}", rule, allowed) from error


def has_token() -> bool:
    """Whether Ray keeps a token in the user's home, by which the processes of a session know each other."""
    try:
        return (Path.home() / ".ray" / "auth_token").is_file()
    except (OSError, RuntimeError):  # nobody's home, or one that cannot be looked into
        return False


@contextmanager
def own_token(wanted: bool) -> Iterator[None]:
    """A session without a token of the user's has one of its own; Ray would write one into a home that may not be."""
    name = "RAY_AUTH_TOKEN"
    if not wanted or os.environ.get(name) or os.environ.get("RAY_AUTH_TOKEN_PATH") or has_token():
        yield
        return
    os.environ[name] = process_token()
    try:
        yield
    finally:
        os.environ.pop(name)


@cache
def process_token() -> str:
    """The token of all sessions that this process raises: Ray reads it once and knows no other later."""
    return secrets.token_hex(32)


@contextmanager
def own_folder() -> Iterator[str]:
    """A folder for Ray's sockets, logs and files, with a path that is short enough; it is gone afterwards.

    Raises:
        ConfigError: there is no place for it.
    """
    tried = []
    for parent in dict.fromkeys([os.environ.get("RAY_TMPDIR") or temporary(), *FOLDERS]):
        try:
            found = tempfile.mkdtemp(prefix="im-", dir=parent)
        except OSError as error:
            tried.append(f"{parent}: {error.strerror}")
            continue
        if len(found) <= LONGEST_FOLDER:
            break
        os.rmdir(found)
        tried.append(f"{parent}: its path is too long for a socket")
    else:
        rule = f"Ray needs a folder whose path has at most {LONGEST_FOLDER} characters"
        raise ConfigError("TMPDIR", "; ".join(tried), rule, "RAY_TMPDIR=/a/short/folder that can be written to")
    try:
        yield found
    finally:
        shutil.rmtree(found, ignore_errors=True)


def temporary() -> str:
    """The machine's temporary folder, or what it was told to be."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # none that can be written to
        return os.environ.get("TMPDIR", "/tmp")


@contextmanager
def joined(address: str) -> Iterator[str]:
    """The address of a cluster, once somebody has answered there.

    Raises:
        ConfigError: nobody does.
    """
    found = resolved(address, os.environ)
    host, _, port = found.rpartition(":")
    rule, allowed = "a Ray cluster answers there", "its address, HOST:6379; or without --address Ray is started here"
    if "://" in found or not host or not port.isdecimal():
        raise ConfigError("--address", repr(found), "it is where Ray's head listens", "HOST:PORT, or auto")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as line:
            _greet(line)
    except (OSError, OverflowError) as error:
        raise ConfigError("--address", f"{found} ({error})", rule, allowed) from error
    yield found


def _greet(line: socket.socket) -> None:
    """Refuse, as an OSError, what answers otherwise than Ray's head would: Ray itself would ask on without end."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("", "0", "false"):
        return  # what is said there is for Ray alone
    line.sendall(GREETING)
    answer = b""
    while len(answer) < FRAME and (more := line.recv(FRAME - len(answer))):
        answer += more
    if len(answer) < FRAME or answer[3] != SETTINGS:
        raise ConnectionError("something else than Ray listens there")


def resolved(address: str, environment: Mapping[str, str]) -> str:
    """HOST:PORT of a cluster; `auto` is what RAY_ADDRESS says, or what runs on this machine.

    Raises:
        ConfigError: nothing runs here.
    """
    if address != "auto":
        return address
    from ray._private.services import canonicalize_bootstrap_address

    given = environment.get("RAY_ADDRESS", "")
    if given not in ("", "auto"):
        return given
    try:
        return canonicalize_bootstrap_address("auto") or ""
    except (ConnectionError, ValueError) as error:
        rule = "a Ray cluster runs on this machine"
        raise ConfigError("--address", "auto", rule, "HOST:6379; or without --address Ray is started here") from error


def only_gpu(device: str) -> int | None:
    """Number of the one GPU that is asked for, as torch counts them; None for any: `1` of `cuda:1`."""
    kind, _, number = device.partition(":")
    return int(number) if kind == "cuda" and number.isdecimal() else None


@contextmanager
def seen_alone(gpu: int | None) -> Iterator[None]:
    """What is started in here sees one GPU of those that this process sees, or all."""
    name = "CUDA_VISIBLE_DEVICES"
    if gpu is None:
        yield
        return
    before = os.environ.get(name)
    shown = before.split(",") if before else []
    os.environ[name] = shown[gpu] if gpu < len(shown) else str(gpu)
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
