"""Where the runs of a study are kept: URIs of MLflow's servers and databases."""

from __future__ import annotations

from pathlib import Path

from intervmerge.errors import ConfigError
from intervmerge.quoting import without_secrets

DATABASE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"
"""A store in the folder of a study: its runs, and their files."""
SERVERS, DATABASES = ("http", "https", "databricks"), ("sqlite", "postgresql", "mysql", "mssql")
"""Schemes of the URIs that MLflow takes: of servers, and of databases that it opens itself."""


def local_uri(folder: Path) -> str:
    """The store of a study that was given no server: a SQLite file in its folder."""
    from sqlalchemy import URL  # MLflow's own; it quotes as it reads

    # with its driver, as MLflow would else make a folder of the URI's quoted path
    return URL.create("sqlite+pysqlite", database=str(folder.resolve() / DATABASE)).render_as_string()


def check_uri(uri: str) -> None:
    """Refuse what MLflow cannot take for a store, before anything is computed.

    Raises:
        ConfigError: it is empty, a path, or of another scheme; it is said without its password.
    """
    scheme, _, rest = uri.partition(":")
    kind = scheme.lower().partition("+")[0]
    whole = rest.startswith("//") and rest[2:].strip("/") != ""
    if not (whole and kind in SERVERS + DATABASES) and uri != "databricks":
        allowed = "http://HOST:PORT, https://..., databricks, sqlite:////FOLDER/FILE.db, postgresql://..., mysql://..."
        rule = "runs are written to a server of MLflow or to a database, not to a folder"
        raise ConfigError("--mlflow", repr(without_secrets(uri)), rule, f"{allowed}, or no --mlflow")


def artifacts_of(uri: str, folder: Path) -> str | None:
    """Where artifacts of an experiment go: beside a SQLite file, below the study for another database; None leaves it
    to the server. MLflow's own choice would be the working directory.
    """
    kind = uri.partition(":")[0].partition("+")[0]
    if kind not in DATABASES:
        return None
    if kind == "sqlite":
        from sqlalchemy import make_url

        folder = Path(make_url(uri).database or folder / DATABASE).parent
    return (folder.resolve() / ARTIFACTS).as_uri()
