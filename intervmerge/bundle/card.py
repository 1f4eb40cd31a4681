"""The card of a bundle: what it is, how to load it, its accuracy, where it comes from, under which licences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intervmerge.bundle.model import BundleFile, Origin
from intervmerge.quoting import as_markdown
from intervmerge.records.scores import Scores, accuracy
from intervmerge.records.study import StudyRecord
from intervmerge.records.words import in_words
from intervmerge.suites.suite import SuiteFile
from intervmerge.views.tables import NOTHING


def card(file: BundleFile, record: StudyRecord, suite: SuiteFile, name: str) -> str:
    """In Markdown, for a bundle in a folder of this name."""
    made = file.provenance
    words = "each task has its own, listed below" if made.tasks else _words(made.intervention, record)
    whence = "each task from its own trial" if made.tasks else f"trial {made.trial}, seed {made.seed}"
    parts = [
        f"# {as_markdown(name)}",
        f"One merged vision model for {len(file.tasks)} tasks, repaired with interventions: {words}.",
        f"It keeps {file.extra_params:,} extra parameters beside the merged weights; the individual models would need "
        f"{record.individual_params:,}.",
        f"```python\n{loading(name, file)}\n```",
        "## Accuracy, % (right/images)",
        "The point was chosen by its validation figures: they are optimistic."
        + (" Protocol paper: adapted to and reported on the test images." if made.protocol == "paper" else ""),
        *([_mixture(file, record)] if made.tasks else []),
        _table("validation", file, file.validation, record),
        _table("test", file, file.test, record),
        as_markdown(record.caption),
        "## Provenance",
        f"Study {as_markdown(made.study)}, {whence}; measured by the {made.measured_by} forward. "
        f"Base {made.base}, fingerprint {made.base_fingerprint}. Suite {as_markdown(made.suite)}, fingerprint "
        f"{made.suite_fingerprint}, checkpoints of the family {as_markdown(suite.checkpoint_family)}.",
        "## Sources and licences of the tasks",
        "\n".join(
            f"- {as_markdown(task.name)}: {as_markdown(task.source) or 'source not stated'}; "
            f"licence: {as_markdown(task.licence) or 'not stated'}"
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
        f"logits = bundle(images, task={file.tasks[0].name!r})  # PIL images, or uint8 [images, 3, {side}, {side}]"
    )


def _table(split: str, file: BundleFile, own: Scores, record: StudyRecord) -> str:
    known = record.references.get(split, {})
    merged = record.bare(file.provenance.base_fingerprint, split)
    columns = {"merged base": merged, "this bundle": own, "individual": known.get("individual", {})}
    rows = [
        [split, *columns],
        ["---", *("---:" for _ in columns)],
        *(
            [as_markdown(task.name), *(_figure(scores, task.name) for scores in columns.values())]
            for task in file.tasks
        ),
        ["mean", *(_percent(scores) for scores in columns.values())],
    ]
    return _lines(rows)


def _mixture(file: BundleFile, record: StudyRecord) -> str:
    """Which trial each task came from, and what was expected of them together."""
    made = file.provenance
    rows = [["task", "trial", "seed", "extra parameters", "configuration"], ["---", "---:", "---:", "---:", "---"]]
    rows += [[as_markdown(task.name), *_origin(made.tasks[task.name], record)] for task in file.tasks]
    said = f"Expected {100 * (file.expected or 0):.1f}, by the {made.selection} figures that chose each task's trial"
    return f"{said}; validation {_percent(file.validation)}, test {_percent(file.test)}.\n\n{_lines(rows)}"


def _origin(origin: Origin | None, record: StudyRecord) -> list[str]:
    if origin is None:
        return ["-", "-", "0", NOTHING]
    words = _words(origin.intervention, record)
    return [str(origin.trial), str(origin.seed), f"{origin.extra_params:,}", words]


def _words(intervention: Mapping[str, Any], record: StudyRecord) -> str:
    return in_words(intervention, record.width, record.num_blocks)


def _percent(scores: Scores) -> str:
    return f"{100 * accuracy(scores):.1f}" if scores else "-"


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _figure(scores: Scores, task: str) -> str:
    if task not in scores:
        return "-"
    counts = scores[task]
    return f"{100 * counts.accuracy:.1f} ({counts.correct}/{counts.total})"
