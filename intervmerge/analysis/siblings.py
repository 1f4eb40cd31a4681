"""Suites beside a suite: the same tasks, fine-tuned another way, found by their folder's name."""

from __future__ import annotations

from pathlib import Path

from intervmerge.errors import SuiteError
from intervmerge.suites.suite import Suite, load_suite, packaged


def place_of(suite: str, method: str) -> Path:
    """Where the sibling of a suite is looked for: `/data/clip-lora` beside `/data/clip`. Of a packaged suite it is the
    packaged one, where there is one, or `mini8-linearized` in the working folder.

    Args:
        suite: a packaged one's name, or a path.
        method: a row of training's METHODS.
    """
    if own := packaged().get(f"{suite}-{method}"):
        return own.parent
    path = Path(suite)
    return Path(f"{path.parent if path.name == 'suite.yaml' else path}-{method}")


def how_to_build(suite: str, method: str) -> str:
    """The command that builds it."""
    out = place_of(suite, method)
    if suite in packaged():
        return f"intervmerge suite build {suite} --method {method} --out {out}"
    return f"intervmerge finetune --suite {suite} --task each --method {method} --out {out}"


def sibling(suite: Suite, place: str, method: str) -> Suite | None:
    """The sibling of a suite that was opened at `place`; None where there is none.

    Raises:
        SuiteError: what lies there is fine-tuned otherwise, from another pre-trained model, or on other tasks.
    """
    path = place_of(place, method)
    if not (path / "suite.yaml").is_file():
        return None
    found = load_suite(path)
    same = found.hashes[found.file.pretrained] == suite.hashes[suite.file.pretrained]
    if found.file.finetuned_by != method or not same or found.task_names != suite.task_names:
        got = f"a suite fine-tuned by {found.file.finetuned_by or 'nobody says what'}, of {', '.join(found.task_names)}"
        rule = f"{method} of the same tasks, from the same pre-trained model, is compared with {suite.name}"
        raise SuiteError(path, got, rule, how_to_build(place, method))
    return found
