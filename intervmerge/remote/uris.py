"""Names of folders that lie elsewhere: URIs of what pyarrow reads by itself (S3, Google, Azure), or fsspec.

They tell no secrets, as they are printed and kept: who asks, and by which password, is found where these libraries find
it by themselves, in the environment or the user's own files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from intervmerge.errors import ConfigError
from intervmerge.quoting import without_secrets

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
"""`s3://bucket/study`, and what a Path makes of it: `s3:/bucket/study`."""
LOCAL = "file"
SECONDS = 30.0
"""After which a store that does not answer is taken to fail."""
ENDPOINTS, REGIONS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), ("AWS_REGION", "AWS_DEFAULT_REGION")
"""Environment variables in which AWS' own tools look for another server than theirs, and for the region."""


def uri_of(name: str | Path) -> str | None:
    """The URI that a name is, as it is written; None for a path of this machine.

    Raises:
        ConfigError: it is of no store that can be read, or tells what should not be told.
    """
    found = _URI.fullmatch(str(name))
    if found is None:
        return None
    scheme, rest = found[1].lower(), found[2].rstrip("/")
    if not _is_known(scheme):
        if "://" not in str(name):  # a folder may be called so
            return None
        rule, allowed = "it is read by pyarrow, or by fsspec", "a path, s3://BUCKET/..., gs://BUCKET/..."
        raise ConfigError("URI", repr(without_secrets(str(name))), rule, allowed)
    host = rest.partition("/")[0]
    if "?" in rest or "::" in rest or ":" in host.rpartition("@")[0]:
        rule = "a URI is printed and kept, and tells neither passwords nor settings"
        allowed = f"{scheme}://BUCKET/FOLDER, and the rest in the environment (AWS_ENDPOINT_URL, AWS_PROFILE ...)"
        raise ConfigError("URI", repr(without_secrets(str(name).partition("?")[0])), rule, allowed)
    return f"{scheme}://{'/' if scheme == LOCAL else ''}{rest}"


def path_of(uri: str) -> Path | None:
    """The path of a folder of this machine that is named by a URI; None for any other."""
    return Path(uri.removeprefix(f"{LOCAL}://")) if uri.startswith(f"{LOCAL}:") else None


def check_here(where: object, path: str | Path) -> None:
    """Refuse a URI for what is written on this machine alone; as a path it would be a folder called `s3:`.

    Raises:
        ConfigError: it is one.
    """
    if (uri := uri_of(path)) is not None:
        allowed = "a path of this machine; only the --out of a search may lie on a store"
        raise ConfigError(where, uri, "files are written there", allowed)


def _is_known(scheme: str) -> bool:
    from fsspec.registry import known_implementations, registry

    return scheme in ARROW or scheme in known_implementations or scheme in registry


def filesystem_of(uri: str) -> tuple[Any, str]:
    """What reads and writes a store (a FileSystem of pyarrow, or one of fsspec), and the path of a URI there.

    Raises:
        ConfigError: a package for it is not installed.
    """
    scheme, _, rest = uri.partition("://")
    if scheme in ARROW:
        return ARROW[scheme](uri), rest
    import fsspec

    try:
        found = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        rule = "fsspec reads it, with the package that knows it"
        raise ConfigError("URI", f"{uri} ({error})", rule, "that package installed, or s3://, gs://, a path") from error
    return found[0], str(found[1])


def _s3(uri: str) -> Any:
    from pyarrow.fs import S3FileSystem, resolve_s3_region

    given = [found for name in ENDPOINTS if (found := os.environ.get(name))]
    region = next((found for name in REGIONS if (found := os.environ.get(name))), None)
    settings: dict[str, Any] = {"connect_timeout": SECONDS, "request_timeout": SECONDS, "region": region}
    settings["allow_delayed_open"] = True  # what is small is put by one request
    if given:
        server = urlsplit(given[0])
        settings |= {"endpoint_override": server.netloc + server.path.rstrip("/"), "scheme": server.scheme}
    elif region is None:
        settings["region"] = resolve_s3_region(urlsplit(uri).netloc)
    return S3FileSystem(**settings)


def _by_uri(uri: str) -> Any:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)[0]


ARROW: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {"s3": _s3, "gs": _by_uri, "gcs": _by_uri, "abfs": _by_uri, "abfss": _by_uri}
)
"""Scheme to what pyarrow reads it with, with no other package."""
