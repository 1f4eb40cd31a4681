"""Images decoded once: from where they lie to one Arrow file a task, which every process maps."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from intervmerge.errors import ConfigError, DiskError, IntervMergeError, SuiteError
from intervmerge.files import locked, write_whole
from intervmerge.processes import each
from intervmerge.suites.datasets.arrow import read_record, write_mapped
from intervmerge.suites.datasets.pieces import Pieces
from intervmerge.suites.datasets.sources.source import Source
from intervmerge.suites.datasets.splits import SplitRule, chosen

Progress = Callable[[int, int], None]
"""(done, total) images of a task; what was done in an earlier run counts."""
FORMAT = 1
"""Of what is recorded in a file, and of what an unfinished one leaves beside it."""
AHEAD = 1
"""Pieces a process that are handed out before it is free; the images of some cross with them."""
NAMED = 5
"""Corrupt images that are named in a line."""


@dataclass(frozen=True)
class Decoded:
    """What came of a data set."""

    counts: Mapping[str, int]
    """Images of each split, in the file."""
    corrupt: Mapping[str, str]
    """Images that were left out, by name, and why."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels."""
    note: str
    """What every caption must say of the limits; empty where nothing was limited."""


def decode(
    source: Source,
    path: Path,
    size: int,
    rule: SplitRule | None = None,
    *,
    processes: int = 1,
    progress: Progress = lambda done, total: None,
) -> Decoded:
    """Decode the images of a data set into an Arrow file that `read_images` maps.

    What a killed call finished lies beside `path`, and the same call goes on from there; a file that the same call made
    before is left as it is. Another file at `path` is replaced. Until the end it takes twice the file's room.

    Args:
        source: a data set, from `open_source`.
        path: of the Arrow file; its folder is made.
        size: side of the square images, as the encoder takes them.
        rule: which images are for what.
        processes: of one thread each; with 1, this process does it. More are started by `spawn`: a script that calls
            this guards its main part by `if __name__ == "__main__":`.
        progress: told how far it is.

    Raises:
        ConfigError: the rule does not fit the data set: no part for training or for testing, or too few images; or
            another process decodes into this file; or no processes.
        SuiteError: more images are corrupt than the rule lets pass; the first are named.
        DiskError: there is no room.
    """
    if processes < 1:
        raise ConfigError("processes", processes, "somebody decodes", "1 or more")
    rule = rule or SplitRule()
    parts = chosen(rule, {name: part.labels for name, part in source.parts.items()}, source.folder)
    folder = path.with_name(f".{path.name}.decoding")
    splits = [Pieces(folder, split, source.parts[of.part], of.numbers, size) for split, of in parts.items()]
    record = {
        "format": FORMAT,
        "kind": source.kind,
        "classes": source.classes,
        "size": size,
        "rule": asdict(rule),
        "parts": {split: of.part for split, of in parts.items()},
        "official": {name: len(part.labels) for name, part in source.parts.items()},
    }
    record["images"] = _hash([record, *(mark.state for pieces in splits for mark in pieces.marks)])
    try:
        with _held(folder):
            if read_record(path).get("images") != record["images"]:
                _begin(folder, record, splits)
                _decode(folder, splits, processes, progress)
                _write(path, source, rule, splits, record)
            shutil.rmtree(folder)
    except OSError as error:
        kept = "images are decoded into a file, beside which finished pieces are kept"
        allowed = "room, and a folder open to you; the same again goes on from here"
        raise DiskError(path, f"{type(error).__name__}: {error}", kept, allowed) from error
    found = read_decoded(path)
    if found.corrupt:
        logging.getLogger(__name__).warning("%s: left out %s", source.folder, named(found.corrupt))
    total = sum(len(pieces.numbers) for pieces in splits)
    progress(total, total)
    return found


def read_decoded(path: Path) -> Decoded:
    """What is recorded in a file that `decode` made.

    Raises:
        SuiteError: nothing is.
    """
    known = read_record(path)
    if known.get("format") != FORMAT:
        rule = f"it was decoded here, and says so in format {FORMAT}"
        raise SuiteError(path, f"the record {known or 'of nothing'}", rule, "a file that decode made")
    return Decoded(known["counts"], known["corrupt"], tuple(known["classes"]), SplitRule(**known["rule"]).note)


def named(corrupt: Mapping[str, str]) -> str:
    """Corrupt images in a line: how many, and the first of them."""
    first = "; ".join(f"{name} ({why})" for name, why in list(corrupt.items())[:NAMED])
    return f"{len(corrupt)} corrupt images: {first}{' ...' if len(corrupt) > NAMED else ''}"


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder of what is unfinished against other processes."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / "lock", wait=False):
            yield
    except BlockingIOError as error:
        rule = "one process at a time decodes into a file"
        raise ConfigError(folder, "another process that decodes into it", rule, "another path, or later") from error


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _begin(folder: Path, record: Mapping[str, Any], splits: Sequence[Pieces]) -> None:
    """Make the files of pixels, unless an earlier call of the same plan did; marks say which pieces are done."""
    plan = folder / "plan.json"
    key = _hash({name: value for name, value in record.items() if name != "images"}).encode()
    if plan.is_file() and plan.read_bytes() == key:
        return
    for left in [plan, *folder.glob("*.json"), *folder.glob("*.npy")]:
        left.unlink(missing_ok=True)
    for pieces in splits:
        pieces.begin()
    write_whole(plan, key)


def _decode(folder: Path, splits: Sequence[Pieces], processes: int, progress: Progress) -> None:
    waiting = [(pieces, mark) for pieces in splits for mark in pieces.marks if not mark.done]
    total = sum(len(pieces.numbers) for pieces in splits)
    so_far = total - sum(mark.count for _, mark in waiting)
    progress(so_far, total)
    try:
        for count in each((pieces.piece(mark).decode for pieces, mark in waiting), processes, AHEAD):
            so_far += count
            progress(so_far, total)
    except BrokenProcessPool as error:
        rule, allowed = "each decodes until the end", "the same again, which goes on from here; or fewer processes"
        raise IntervMergeError(folder, "a process that died", rule, allowed) from error


def _corrupt(source: Source, rule: SplitRule, splits: Sequence[Pieces]) -> dict[str, str]:
    """Corrupt images by name, and why.

    Raises:
        SuiteError: they are too many, or all of a split.
    """
    found: dict[str, str] = {}
    for pieces in splits:
        corrupt = pieces.corrupt()
        names = {pieces.part.images.name(pieces.numbers[place]): why for place, why in corrupt.items()}
        if len(corrupt) > rule.most_corrupt * len(pieces.numbers) or len(corrupt) == len(pieces.numbers):
            got = f"{named(names)}, of {len(pieces.numbers)}"
            allowed = f"{100 * rule.most_corrupt:g} % of a split; whole files, or a larger share (most_corrupt)"
            raise SuiteError(f"{source.folder}, {pieces.split}", got, "few images are corrupt", allowed)
        found |= names
    return found


def _write(path: Path, source: Source, rule: SplitRule, splits: Sequence[Pieces], record: Mapping[str, Any]) -> None:
    corrupt = _corrupt(source, rule, splits)
    gathered = {pieces.split: pieces.gathered() for pieces in splits}
    counts = {split: len(labels) for split, (_, labels) in gathered.items()}
    built_with = {package: version(package) for package in ("torchvision", "pillow")}
    write_mapped(path, gathered, {**record, "counts": counts, "corrupt": corrupt, "built_with": built_with})
