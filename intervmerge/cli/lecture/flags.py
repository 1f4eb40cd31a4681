"""Flags that these commands share, and what they write."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intervmerge.cli.program.values import check_out, number, whole

if TYPE_CHECKING:
    from intervmerge.suites.suite import Suite
    from intervmerge.views.curves.picture import Picture

MOST_SCALINGS = 1_000
"""Coefficients of one sweep."""


def add_suite_arguments(parser: argparse.ArgumentParser) -> None:
    """--suite, --device, --threads, --out."""
    parser.add_argument(
        "--suite", default="mini8", metavar="NAME|PATH", help="a packaged suite or a folder with suite.yaml"
    )
    add_machine_arguments(parser)


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """--device, --threads, --out."""
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=whole, help="CPU threads")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the figures here, as JSON, and a picture")


def add_scalings(parser: argparse.ArgumentParser, default: str) -> None:
    """--lambdas."""
    words = f"coefficients to try, evenly apart, both ends among them (default {default})"
    parser.add_argument("--lambdas", type=scalings, default=scalings(default), metavar="FROM:TO:COUNT", help=words)


def scalings(text: str) -> list[float]:
    """`0:1:21` as 21 numbers from 0 to 1, for argparse.

    Raises:
        argparse.ArgumentTypeError: the text is no such thing.
    """
    parts = text.split(":")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not FROM:TO:COUNT, such as 0:1:21")
    low, high, count = number(parts[0]), number(parts[1]), whole(parts[2])
    if not low < high or not 2 <= count <= MOST_SCALINGS:
        raise argparse.ArgumentTypeError(f"{text!r} must go up, in 2 to {MOST_SCALINGS} numbers")
    return [low + (high - low) * step / (count - 1) for step in range(count)]


def opened(chosen: argparse.Namespace) -> Suite:
    """The suite of the flags, once --out is found open."""
    from intervmerge.cli.arguments import open_suite

    suite = open_suite(chosen)
    if chosen.out is not None:
        check_out(chosen.out)
    return suite


def caption(suite: Suite, split: str, most: int | None = None) -> str:
    """What a picture says of figures on a split of a suite; on at most so many images of it a task, if that is said."""
    images = "-".join(map(str, sorted({len(task.splits[split].pixels[:most]) for task in suite.tasks})))
    return f"{suite.name}, {suite.file.checkpoint_family}; {images} images a task on {split}. {suite.file.note}".strip()


def write(folder: Path | None, name: str, suite: Suite, values: Mapping[str, Any], picture: Picture) -> None:
    """Write `name`.json and `name`.png, if there is a folder, and say so."""
    from intervmerge.views.curves.picture import write_picture

    write_pictured(folder, name, suite, values, lambda path: write_picture(picture, path))


def write_pictured(
    folder: Path | None, name: str, suite: Suite, values: Mapping[str, Any], draw: Callable[[Path], None]
) -> None:
    """The same of any picture, which is drawn into a PNG file."""
    if folder is None:
        return
    from intervmerge.files import write_whole

    whole_values = {"suite": suite.name, "suite_fingerprint": suite.fingerprint, **values}
    write_whole(folder / f"{name}.json", json.dumps(whole_values, indent=2, ensure_ascii=False).encode())
    draw(folder / f"{name}.png")
    print(f"written: {folder / name}.json and {folder / name}.png")
