"""Suites beside a suite: the same tasks, fine-tuned another way, found by their folder's name."""

from __future__ import annotations

from pathlib import Path

from intervmerge.errors import SuiteError
from intervmerge.suites.suite import Suite, load_suite, packaged


def place_of(suite: str, method: str, seed: int = 0) -> Path:
    """Where the sibling of a suite is looked for: `/data/clip-lora` beside `/data/clip`, with another seed
    `/data/clip-lora-seed-1`. Of a packaged suite it is the packaged one, where there is one, or `mini8-linearized` in
    the working folder.

    Args:
        suite: a packaged one's name, or a path.
        method: a row of training's METHODS.
        seed: of the fine-tuning.
    """
    name = f"{method}-seed-{seed}" if seed else method
    if own := packaged().get(f"{suite}-{name}"):
        return own.parent
    path = Path(suite)
    return Path(f"{path.parent if path.name == 'suite.yaml' else path}-{name}")


def how_to_build(suite: str, method: str, seed: int = 0) -> str:
    """The command that builds it."""
    rest = f"--method {method}{f' --seed {seed}' if seed else ''} --out {place_of(suite, method, seed)}"
    if suite in packaged():
        return f"intervmerge suite build {suite} {rest}"
    return f"intervmerge finetune --suite {suite} --task each {rest}"


def sibling(suite: Suite, place: str, method: str, seed: int = 0) -> Suite | None:
    """The sibling of a suite that was opened at `place`; None where there is none.

    Raises:
        SuiteError: what lies there is fine-tuned otherwise, from another pre-trained model, or on other tasks.
    """
    path = place_of(place, method, seed)
    if not (path / "suite.yaml").is_file():
        return None
    found = load_suite(path)
    same = found.hashes[found.file.pretrained] == suite.hashes[suite.file.pretrained]
    if found.file.finetuned_by != method or not same or found.task_names != suite.task_names:
        got = f"a suite fine-tuned by {found.file.finetuned_by or 'nobody says what'}, of {', '.join(found.task_names)}"
        rule = f"{method} of the same tasks, from the same pre-trained model, is compared with {suite.name}"
        raise SuiteError(path, got, rule, how_to_build(place, method, seed))
    return found
