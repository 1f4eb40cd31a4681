"""Models of the Hugging Face hub by their ids: fetched once, by the hub's own client, into its own folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from intervmerge.errors import CheckpointError
from intervmerge.suites.readers.containers.opening import holds_weights

SAFE, PICKLED = ("*.json", "*.safetensors"), ("*.json", "*.bin", "*.pt")
"""Files that are fetched: the second only where the first hold no weights."""
_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.pt)(?<!\.bin)(?<!\.safetensors)")
"""Of the hub, such as `openai/clip-vit-base-patch32`; what ends as a file does is a path that was mistyped."""


def located(given: str | Path) -> Path:
    """Where a model lies: the path that is given, or the folder that the hub's client keeps for an id.

    What is not there yet is downloaded, unless HF_HUB_OFFLINE is set.

    Raises:
        CheckpointError: an id of which nothing is there, and nothing can be had.
    """
    path = Path(given)
    if path.exists() or path.parent.exists() or not _ID.fullmatch(str(given)):
        return path
    folder = _fetched(str(given), SAFE)
    if any(file.is_file() and holds_weights(file) for file in folder.iterdir()):
        return folder
    return _fetched(str(given), PICKLED)


def _fetched(name: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's errors are of its own kinds
        words = " ".join(str(error).split())[:200]
        got = f"no such path, and not had from the Hugging Face hub ({type(error).__name__}: {words})"
        rule = "a model is a path that is there, or an id of the hub that was, or can be, downloaded"
        allowed = f"a path; or where there is a network: hf download {name} --local-dir DIR, then DIR"
        raise CheckpointError(name, got, rule, allowed) from error
