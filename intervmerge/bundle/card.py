"""The card of a bundle: what it is, how to load it, its accuracy, where it comes from, under which licences."""

from __future__ import annotations

from pathlib import Path

from intervmerge.bundle.model import BundleFile
from intervmerge.suites.suite import SuiteFile
from intervmerge.tracking.records import Scores, StudyRecord, accuracy, in_words


def card(file: BundleFile, record: StudyRecord, suite: SuiteFile, name: str) -> str:
    """In Markdown, for a bundle in a folder of this name."""
    made = file.provenance
    words = in_words(made.intervention, record.width, record.num_blocks)
    parts = [
        f"# {name}",
        f"One merged vision model for {len(file.tasks)} tasks, repaired with interventions: {words}.",
        f"It keeps {file.extra_params:,} extra parameters beside the merged weights; the individual models would need "
        f"{record.individual_params:,}.",
        f"```python\n{loading(name, file)}\n```",
        "## Accuracy, % (right/images)",
        "The point was chosen by its validation figures: they are optimistic."
        + (" Protocol paper: adapted to and reported on the test images." if made.protocol == "paper" else ""),
        _table("validation", file, file.validation, record),
        _table("test", file, file.test, record),
        record.caption,
        "## Provenance",
        f"Study {made.study}, trial {made.trial}, seed {made.seed}; measured by the {made.measured_by} forward. "
        f"Base {made.base}, fingerprint {made.base_fingerprint}. Suite {made.suite}, fingerprint "
        f"{made.suite_fingerprint}, checkpoints of the family {suite.checkpoint_family}.",
        "## Sources and licences of the tasks",
        "\n".join(
            f"- {task.name}: {task.source or 'source not stated'}; licence: {task.licence or 'not stated'}"
            for task in suite.tasks
        ),
    ]
    return "\n\n".join(parts) + "\n"


def loading(folder: str | Path, file: BundleFile) -> str:
    """The lines of Python that open a bundle and predict."""
    side = file.architecture.image_size
    return (
        "import intervmerge as im\n"
        f"bundle = im.load_bundle({str(folder)!r})\n"
        f"logits = bundle(images, task={file.tasks[0].name!r})  # images: uint8 [images, 3, {side}, {side}]"
    )


def _table(split: str, file: BundleFile, own: Scores, record: StudyRecord) -> str:
    known = record.references.get(split, {})
    columns = {"merged base": known.get("merged", {}), "this bundle": own, "individual": known.get("individual", {})}
    rows = [
        [split, *columns],
        ["---", *("---:" for _ in columns)],
        *([task.name, *(_figure(scores, task.name) for scores in columns.values())] for task in file.tasks),
        ["mean", *(f"{100 * accuracy(scores):.1f}" if scores else "-" for scores in columns.values())],
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _figure(scores: Scores, task: str) -> str:
    if task not in scores:
        return "-"
    counts = scores[task]
    return f"{100 * counts.correct / counts.total:.1f} ({counts.correct}/{counts.total})"
