"""The copy of a folder that lies on a store, among the caches of this machine; here a name becomes a folder.

A copy has a place of its own, named by the URI: the folder, the URI, what it has of the store, and a lock for those who
bring something in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from uuid import uuid4

from intervmerge.files import locked, state_of, write_whole
from intervmerge.machine import cache_folder
from intervmerge.quoting import as_file
from intervmerge.remote.store import Store
from intervmerge.remote.uris import path_of, uri_of

REMOTE, URI, SEEN, LOCK, OWN = "remote", "uri", "seen.json", "lock", "identity"
"""The folder of all copies; files beside one."""
AT_ONCE = 8
"""Objects that travel side by side."""


@dataclass(frozen=True)
class Copy:
    """A folder of this machine that holds what lies on a store."""

    store: Store
    folder: Path

    @property
    def identity(self) -> str:
        """Of this copy and no other, here or on another machine."""
        path = self.folder.parent / OWN
        with suppress(FileNotFoundError):
            return path.read_text()
        write_whole(path, uuid4().hex.encode())
        return path.read_text()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Against other processes that bring something in."""
        with locked(self.folder.parent / LOCK):
            yield

    @property
    def seen(self) -> dict[str, tuple[str, list[int]]]:
        """What the copy has of the store: by name what the store said of it then, and what the file was."""
        with suppress(OSError, ValueError):
            known = json.loads((self.folder.parent / SEEN).read_text())
            return {name: (version, state) for name, (version, state) in known.items()}
        return {}

    def note(self, seen: Mapping[str, tuple[str, list[int]]]) -> None:
        """Keep `seen`."""
        write_whole(self.folder.parent / SEEN, json.dumps(seen).encode())

    def bring(self, names: Iterable[str], objects: Mapping[str, str]) -> None:
        """Fetch objects, side by side; what has gone meanwhile is left out. Who calls this is alone.

        Args:
            names: of the objects.
            objects: what the store says of all.

        Raises:
            OSError: one cannot be read, or written here.
        """
        seen = self.seen

        def one(name: str) -> None:
            with suppress(FileNotFoundError):
                self.store.fetch(name, self.folder / name)
                seen[name] = (objects[name], state_of(self.folder / name))

        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(one, names))
        finally:
            self.note(seen)


def folder_of(name: str | Path) -> Path:
    """The folder of this machine that a name stands for: a path's own, or that of a URI's copy. Nothing is read there.

    Raises:
        ConfigError: it is a URI that cannot be read, or no folder is left for caches.
    """
    uri = uri_of(name)
    if uri is None:
        return Path(name)
    if (path := path_of(uri)) is not None:
        return path
    place = cache_folder() / REMOTE / sha256(uri.encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    if not (place / URI).is_file():
        write_whole(place / URI, uri.encode())
    return place / as_file(PurePosixPath(uri).name)


def copy_of(folder: Path) -> Copy | None:
    """The copy that a folder is; None where it is a folder like others."""
    if folder.parent.parent.name != REMOTE or not (folder.parent / URI).is_file():
        return None
    return Copy(Store((folder.parent / URI).read_text()), folder)


def shown(folder: str | Path) -> str:
    """What the user calls a folder."""
    copy = copy_of(Path(folder))
    return str(folder) if copy is None else copy.store.uri
