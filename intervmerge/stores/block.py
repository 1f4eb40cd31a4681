"""A tensor that is a block of a file of another format: mapped read-only, and known by where it lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from intervmerge.errors import SuiteError
from intervmerge.files import state_of


@dataclass(frozen=True)
class Block:
    """Pixels that lie one after the other in a file."""

    path: Path
    """From any working directory."""
    start: int
    """Byte of the first."""
    shape: tuple[int, ...]
    state: tuple[int, ...]
    """What changes when the file is written to."""

    @classmethod
    def of(cls, path: Path, start: int, shape: tuple[int, ...]) -> Block:
        """A block of a file as it is now."""
        return cls(path.resolve(), start, shape, tuple(state_of(path)))

    def mapped(self) -> Tensor:
        """The pixels, uint8, as the file is mapped: one copy for all processes of a machine, in no one's own memory.

        It is read-only: a process that writes there is ended by the system.

        Raises:
            SuiteError: the file is not as it was.
        """
        try:
            if (now := tuple(state_of(self.path))) != self.state:
                rule = "images stay as they are while they are in use"
                raise SuiteError(self.path, f"another file ({now}) than before", rule, "the same again, from the start")
            with pa.memory_map(str(self.path)) as file:
                file.seek(self.start)
                size = math.prod(self.shape)
                found = pa.Array.from_buffers(pa.uint8(), size, [None, file.read_buffer(size)])
        except OSError as error:
            raise SuiteError(
                self.path, str(error), "images are mapped by every process", "a file open to you"
            ) from error
        return from_dlpack(found).view(self.shape)  # numpy would have torch warn of memory that is read-only
