"""`intervmerge ui`: browse studies in MLflow, on 127.0.0.1."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from intervmerge.errors import ConfigError

HELP = "browse a study in MLflow, on 127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="a study's folder (default: the newest)")
    parser.add_argument("--port", type=int, default=5000)


def run(chosen: argparse.Namespace) -> int:
    """Start MLflow's server and wait until it ends."""
    from intervmerge.search.views import report
    from intervmerge.study.study import load_study
    from intervmerge.views.runs import DATABASE, local_uri
    from intervmerge.views.screen import Screen

    study = load_study(chosen.study or newest())
    if not (study.folder / DATABASE).is_file():
        report(study, None, Screen())
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", local_uri(study.folder)]
    command += ["--host", "127.0.0.1", "--port", str(chosen.port), "--workers", "1"]
    print(f"{study.folder}: open http://127.0.0.1:{chosen.port} (experiment intervmerge); Ctrl-C ends it", flush=True)
    return subprocess.run(command, env={**os.environ, **lean}, check=False).returncode


def newest(folder: Path = Path("studies")) -> Path:
    """The study below `studies` that was written to last.

    Raises:
        ConfigError: there is none.
    """
    found = sorted(folder.rglob("study.journal"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError("study", f"nothing below {folder}/", "a study is needed", "intervmerge ui STUDY")
    return found[-1].parent
