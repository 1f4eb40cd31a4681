"""`intervmerge ui`: browse studies in MLflow, on 127.0.0.1."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from intervmerge.cli.program.values import whole
from intervmerge.errors import ConfigError

HELP = "browse a study in MLflow, on 127.0.0.1"
HOST = "127.0.0.1"
START_SECONDS = 180.0
"""For the server to answer; about ten on a quiet machine."""
END_SECONDS = 10.0
"""For the server to end when it is told to; then it is killed."""
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="a study's folder (default: the newest)")
    parser.add_argument("--port", type=whole, default=5000, help="to listen on (default 5000); 0 is any free one")


def run(chosen: argparse.Namespace) -> int:
    """Start MLflow's server, say where the front's page is once it answers, and wait until it ends."""
    from intervmerge.mlflow_uris import local_uri
    from intervmerge.remote.copies import shown
    from intervmerge.search.views.again import front_page
    from intervmerge.study.remote import brought
    from intervmerge.views.terminal.screen import Screen

    port = free_port(chosen.port)
    folder = newest() if chosen.study is None else brought(chosen.study)
    page = front_page(folder, Screen())
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", local_uri(folder)]
    command += ["--host", HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    with _served(command) as server:
        if not _answers(server, port):
            print(f"intervmerge ui: MLflow's server on port {port} does not answer", file=sys.stderr)
            return 1
        print(f"{shown(folder)}: open http://{HOST}:{port}{page or ''} ; Ctrl-C ends it", flush=True)
        return server.wait()


def free_port(port: int) -> int:
    """The port, or any free one for 0.

    Raises:
        ConfigError: it is no port, or nobody may listen on it now.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        allowed = "another port from 1024 to 65535, or 0 for any free one"
        raise ConfigError("--port", f"{port} ({error})", "the server listens on it", allowed) from error


@contextmanager
def _served(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a group of processes that ends with this one, also if that is told to end."""
    told = [signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else [])]
    before = {number: signal.signal(number, _leave) for number in told}
    chatter = 2  # its output goes where errors go: ours is the address
    server = subprocess.Popen(command, env={**os.environ, **LEAN}, stdout=chatter, start_new_session=True)
    try:
        yield server
    finally:
        for number, limit in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(server.pid, number)
                server.wait(limit)
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server says that it is well, before it ends or its time is over."""
    until = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException):
            asked = http.client.HTTPConnection(HOST, port, timeout=5)
            asked.request("GET", "/health")
            if asked.getresponse().status == http.client.OK:
                return True
        time.sleep(0.2)
    return False


def newest(folder: Path = Path("studies")) -> Path:
    """The study below `studies` that was written to last.

    Raises:
        ConfigError: there is none.
    """
    found = sorted(folder.rglob("study.journal"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError("study", f"nothing below {folder}/", "a study is needed", "intervmerge ui STUDY")
    return found[-1].parent
