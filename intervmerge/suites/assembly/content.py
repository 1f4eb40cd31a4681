"""What was read to make a file: kept in the file, so that what is done is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from intervmerge.files import sha256_of
from intervmerge.machine import cache_folder

KEY = "made_of"
"""Of the metadata of a file that a suite's assembly wrote."""


def content_of(path: Path) -> str:
    """Hash of a file, or of the names and bytes of the files of a folder.

    Raises:
        OSError: one cannot be read.
    """
    kept = cache_folder() / "hashes"
    if path.is_file():
        return sha256_of(path, kept)
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    return hashlib.sha256(json.dumps([(file.name, sha256_of(file, kept)) for file in files]).encode()).hexdigest()


def is_made(path: Path, made_of: Mapping[str, str]) -> bool:
    """Whether a safetensors file is there, whole, and was made of just this."""
    try:
        with safe_open(path, framework="pt") as file:
            return bool((file.metadata() or {}).get(KEY) == noted(made_of)[KEY])
    except (OSError, SafetensorError):
        return False


def noted(made_of: Mapping[str, str]) -> dict[str, str]:
    """The metadata that says so."""
    return {KEY: json.dumps(dict(made_of), sort_keys=True)}
