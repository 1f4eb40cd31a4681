"""A folder on a store: objects by name, each written whole. What fails there is an OSError, whatever library raised."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from intervmerge.errors import ConfigError
from intervmerge.files import replacing
from intervmerge.quoting import without_secrets
from intervmerge.remote.uris import filesystem_of

PIECE = 2**22
"""Bytes that are in memory of what is fetched."""
PASSING = ("name", "islink", "ino", "nlink", "StorageClass")
"""What fsspec tells of an object that says nothing of its content."""


class Store:
    """A folder on a store.

    Args:
        uri: of the folder.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @cached_property
    def _opened(self) -> tuple[Any, Any, str]:
        """pyarrow's own file system, or fsspec's under pyarrow's face and bare; and the folder's path there."""
        from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

        found, root = filesystem_of(self.uri)
        if isinstance(found, FileSystem):
            return found, None, root
        under: Any = FSSpecHandler  # its types call it abstract
        return PyFileSystem(under(found)), found, root

    def objects(self, below: str = "") -> dict[str, str]:
        """All objects by name, and what changes when one is written again.

        Args:
            below: only of what lies below this name.

        Raises:
            OSError: the store cannot be read.
            ConfigError: a name leads out of the folder.
        """
        with self._speaking():
            found = dict(self._listed(f"{self._opened[2]}/{below}".rstrip("/")))
        names = {name.removeprefix(self._opened[2]).lstrip("/"): version for name, version in found.items()}
        for name in names:
            check_inside(self.uri, name)
        return names

    def _listed(self, place: str) -> Iterator[tuple[str, str]]:
        from pyarrow.fs import FileSelector, FileType

        arrow, bare, _ = self._opened
        if bare is None:
            for info in arrow.get_file_info(FileSelector(place, recursive=True, allow_not_found=True)):
                if info.type == FileType.File:
                    yield info.path, f"{info.size} {info.mtime_ns}"
            return
        bare.invalidate_cache()
        for path, told in bare.find(place, detail=True).items():
            own = {name: value for name, value in told.items() if name not in PASSING}
            yield path, hashlib.sha256(json.dumps(own, default=str, sort_keys=True).encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """An object's content.

        Raises:
            FileNotFoundError: there is none.
            OSError: the store cannot be read.
        """
        with self._speaking(), self._opened[0].open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def fetch(self, name: str, path: Path) -> None:
        """Write an object into a file, whole or not at all.

        Raises:
            FileNotFoundError: there is none.
            OSError: the store cannot be read, or the file not be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path) as fresh,
            fresh.open("wb") as file,
            self._speaking(),
            self._opened[0].open_input_stream(self._path(name)) as stream,
        ):
            shutil.copyfileobj(stream, file, PIECE)

    def write(self, name: str, content: bytes) -> None:
        """Write an object, in place of one that is there.

        Raises:
            OSError: the store cannot be written.
        """
        with self._speaking():
            arrow, bare, _ = self._opened
            if bare is not None:  # only object stores know no folders
                bare.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            with arrow.open_output_stream(self._path(name)) as stream:
                stream.write(content)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there.

        Raises:
            OSError: the store cannot be written.
        """
        try:
            with self._speaking():
                self._opened[0].delete_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._opened[2]}/{name}"

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, ConfigError):
            raise
        except Exception as error:  # each library has errors of its own
            words = without_secrets(" ".join(str(error).split()))[:300]
            raise StoreError(f"{self.uri}: {type(error).__name__}: {words}") from None


class StoreError(OSError):
    """A store does not do what it is asked to."""


def check_inside(where: object, name: str) -> None:
    """Refuse a name of what lies in a folder that leads out of it.

    Raises:
        ConfigError: it does.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ConfigError(where, repr(name), "what lies in a folder is named from there", "a name without ..")
