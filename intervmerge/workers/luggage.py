"""What travels where no folder is shared: the files of a trial, to whoever trains it and back at every rung.

Interventions are kilobytes, and with what is needed to go on a few times as much; the driver alone writes them down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from intervmerge.disk import refusal
from intervmerge.files import write_whole
from intervmerge.study.layout import repeat_folder, trial_folder
from intervmerge.trial import unfinished
from intervmerge.trial.run import FILE

FILES = (FILE, unfinished.FILE)


class Luggage(dict[str, bytes]):
    """Files by name.

    Tune's copies of a configuration are copies of all but this: a trial that begins again, as its node has gone, takes
    along what it had reached, and not what it began with.
    """

    def __deepcopy__(self, known: dict[int, Any]) -> Luggage:
        return self

    @classmethod
    def packed(cls, folder: Path) -> Luggage:
        """What a trial's folder holds of FILES."""
        return cls({name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()})

    def unpack(self, folder: Path) -> None:
        """Write the files into a trial's folder, each whole or not at all; made if there is none.

        Raises:
            OSError: they cannot be written.
        """
        if self:
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.items():
            write_whole(folder / name, content)


@contextmanager
def at_hand(folder: Path | None, luggage: Luggage) -> Iterator[Path]:
    """Where to work on a trial: in its folder of the study, made if there is none; or, where none is shared, in one of
    this node's own that holds the luggage and is gone afterwards."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with TemporaryDirectory(prefix="intervmerge-", ignore_cleanup_errors=True) as own:
        luggage.unpack(Path(own))
        yield Path(own)


class LeftLuggage:
    """The driver's side: what it gave to trials that run, and what came back.

    Args:
        study: folder of the study.
        travels: whether workers do not see it.
    """

    def __init__(self, study: Path = Path(), travels: bool = False) -> None:
        self._study, self._travels = study, travels
        self._given: dict[int, Luggage] = {}

    def of(self, number: int, seed: int | None = None) -> Luggage:
        """What whoever works on a trial, or on its repeat with a seed, takes along; empty where folders are shared."""
        return Luggage.packed(self._folder(number, seed)) if self._travels else Luggage()

    def given(self, number: int) -> Luggage:
        """The same of a trial that begins, kept up with what comes back until it has ended."""
        return self._given.setdefault(number, self.of(number))

    def received(self, luggage: Luggage, number: int, seed: int | None = None) -> None:
        """Write down what came of a trial or a repeat, of which Tune then keeps no copy.

        Raises:
            DiskError: it cannot be written.
        """
        folder = self._folder(number, seed)
        try:
            luggage.unpack(folder)
        except OSError as error:
            raise refusal(folder, error) from error
        if luggage and seed is None and number in self._given:
            self._given[number].clear()
            self._given[number].update(luggage)
        luggage.clear()

    def ended(self, number: int) -> None:
        """A trial begins nowhere again."""
        self._given.pop(number, Luggage()).clear()

    def _folder(self, number: int, seed: int | None) -> Path:
        return trial_folder(self._study, number) if seed is None else repeat_folder(self._study, number, seed)
