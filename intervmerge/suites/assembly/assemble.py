"""From a plan to a suite on disk: weights and heads as safetensors, images as Arrow, suite.yaml last."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml

from intervmerge.disk import refusal
from intervmerge.errors import ConfigError
from intervmerge.files import replacing, sha256_of
from intervmerge.machine import cache_folder
from intervmerge.merging import State
from intervmerge.merging.lora.low_rank import LowRankVector
from intervmerge.suites.assembly.checkpoints import Found
from intervmerge.suites.assembly.content import content_of, is_made, noted
from intervmerge.suites.assembly.plan import Part, Plan
from intervmerge.suites.checkpoints import read_state, write_state
from intervmerge.suites.datasets import decode
from intervmerge.suites.heads.text import TextTower, text_head
from intervmerge.suites.heads.tower_files import read_text_tower
from intervmerge.suites.heads.words import prompts_of
from intervmerge.suites.published.tables import family_of
from intervmerge.suites.readers import lora
from intervmerge.suites.readers.canonical import Read, Target
from intervmerge.suites.readers.containers.opening import open_stored
from intervmerge.suites.readers.head_files import read_head
from intervmerge.suites.readers.pairs import write_pairs
from intervmerge.suites.readers.table import read_checkpoint
from intervmerge.suites.suite import load_suite
from intervmerge.suites.suite_file import TaskFile, files_of, read_suite_file

Report = Callable[[str, int, int], None]
"""(what, done, total)"""
Write = Callable[[Path, Read, Target, Mapping[str, str]], None]
"""Of a model that was read: how it is kept; the last is noted beside it."""
NOTHING: Mapping[str, str] = MappingProxyType({})
HALVED = "task vectors are rounded to bf16"
"""Said beside every figure where it is so."""


class Assembly:
    """A suite on its way to a folder.

    Args:
        plan: what it is made of; it has no problems.
        folder: of the suite.
        processes: that decode images.
        report: told how far it is.
    """

    def __init__(
        self, plan: Plan, folder: Path, processes: int = 1, report: Report = lambda what, done, total: None
    ) -> None:
        self._plan, self._folder, self._processes, self._report = plan, folder, processes, report
        self._tower: TextTower | None = None

    def write(self) -> Path:
        """Write what is not there yet, and suite.yaml last, whole or not at all; its path.

        Raises:
            ConfigError: there is a suite.yaml already.
            InputError: a file is not what it seemed, all that is wrong with it in one message.
            DiskError: there is no room.
        """
        path = self._folder / "suite.yaml"
        if path.exists():
            raise ConfigError(
                "the suite's folder", path, "nothing is written over", "a new folder, or this one without suite.yaml"
            )
        self._plan.check()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            values = self._values()
            with replacing(path) as fresh:
                fresh.write_text(
                    yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8"
                )
                values["sha256"] = self._hashes(fresh)
                fresh.write_text(
                    yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8"
                )
                load_suite(fresh)  # what would be refused later is refused now
        except OSError as error:
            raise refusal(path, error) from error
        return path

    def _values(self) -> dict[str, Any]:
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

        plan, asked = self._plan, self._plan.asked
        assert plan.pretrained is not None, "a plan without problems has one"
        start = self._weights(plan.pretrained, "pretrained", Target(plan.architecture))
        shapes = Target(plan.architecture).shapes
        base = read_state(self._folder / start, shapes, exact=False)
        return {
            "name": self._folder.resolve().name,
            "checkpoint_family": family_of(asked.family) or asked.family,
            "note": "\n".join(filter(None, [asked.rule.note, HALVED if asked.halved else ""])),
            "architecture": asdict(plan.architecture),
            "normalization": {"mean": list(OPENAI_DATASET_MEAN), "std": list(OPENAI_DATASET_STD)},
            "pretrained": start,
            "tasks": [self._task(part, base, self._folder / start) for part in plan.parts],
        }

    def _task(self, part: Part, base: State, start: Path) -> dict[str, Any]:
        name, source = part.task.name, part.source
        assert source is not None, "a plan without problems has one"
        assert part.finetuned is not None, "likewise"
        weights = self._finetuned(part.finetuned, name, base, start)
        images = self._folder / f"images/{name}.arrow"
        size = self._plan.architecture.image_size
        decode(
            source,
            images,
            size,
            self._plan.asked.rule,
            processes=self._processes,
            progress=lambda done, total: self._report(f"images of {name}", done, total),
        )
        file = TaskFile(
            name=name,
            classes=list(source.classes),
            head=self._head(part),
            images=str(images.relative_to(self._folder)),
            **weights,
            source=f"{source.kind}: {source.folder.name}",
            dataset=name if part.task.dataset.classes or part.task.dataset.test else "",
            limited=self._plan.asked.rule.note,
        )
        return {key: value for key, value in vars(file).items() if value not in (None, "")}

    def _finetuned(self, found: Found, name: str, base: State, start: Path) -> dict[str, str]:
        """What suite.yaml says of a fine-tuned model: where its weights are, or its task vector.

        An adapter stays the pairs that it is, which rules for task vectors of low rank need.
        """
        target = Target(self._plan.architecture, base, self._plan.asked.lossy)
        made_of = {"pretrained": content_of(start)}
        if lora.recognise(open_stored(found.path)):
            return {"task_vector": self._made(found, name, target, made_of | {"stored": "pairs"}, _pairs)}
        if self._plan.asked.halved:
            return {"task_vector": self._made(found, name, target, made_of | {"stored": "bf16"}, _halved)}
        return {"finetuned": self._weights(found, name, target, made_of)}

    def _weights(self, found: Found, name: str, target: Target, made_of: Mapping[str, str] = NOTHING) -> str:
        """The path of a model in canonical form, from the suite's folder: its own, if it is so already."""
        stored = open_stored(found.path)
        plain = {layer: entry.shape for layer, entry in stored.entries.items()}
        whole = all(entry.dtype == torch.float32 for entry in stored.entries.values())
        if stored.container == "safetensors" and plain == target.shapes and whole:
            return os.path.relpath(stored.path.resolve(), self._folder.resolve())
        return self._made(found, name, target, made_of, _whole)

    def _made(self, found: Found, name: str, target: Target, made_of: Mapping[str, str], write: Write) -> str:
        """The path of what was read of a model and written, from the suite's folder; written once."""
        path = self._folder / f"weights/{name}.safetensors"
        shape = repr(self._plan.architecture)
        made_of = {"source": found.path.name, "content": content_of(found.path), "shape": shape, **made_of}
        self._report(f"weights of {name}", 0, 1)
        if not is_made(path, made_of):
            read = read_checkpoint(found.path, target)
            notes = {"format": read.format, "half_precision_loss": f"{read.loss:.6g}"}
            write(path, read, target, notes | noted(made_of))
        self._report(f"weights of {name}", 1, 1)
        return str(path.relative_to(self._folder))

    def _head(self, part: Part) -> str:
        name, source = part.task.name, part.source
        assert source is not None
        path = self._folder / f"heads/{name}.safetensors"
        if part.head is not None:
            head = read_head(part.head.path, len(source.classes), self._plan.architecture.features)
            write_state(path, {"weight": head}, {"source": part.head.path.name})
        else:
            prompts = prompts_of(part.task.dataset.name)
            self._report(f"head of {name} from text", 0, 1)
            head = text_head(prompts.words(source.classes), prompts.templates, self._text(), cache_folder() / "heads")
            write_state(path, {"weight": head}, {"templates": "\n".join(prompts.templates)})
            self._report(f"head of {name} from text", 1, 1)
        return str(path.relative_to(self._folder))

    def _text(self) -> TextTower:
        """The text tower, read once."""
        if self._tower is None:
            assert self._plan.text is not None, "a plan without problems has one where heads are made from text"
            self._tower = read_text_tower(self._plan.text.path, self._plan.asked.model_name)
        return self._tower

    def _hashes(self, path: Path) -> Mapping[str, str]:
        kept = cache_folder() / "hashes"
        return {name: sha256_of(self._folder / name, kept) for name in files_of(read_suite_file(path))}


def _whole(path: Path, read: Read, target: Target, notes: Mapping[str, str]) -> None:
    write_state(path, read.state, notes)


def _pairs(path: Path, read: Read, target: Target, notes: Mapping[str, str]) -> None:
    write_pairs(path, LowRankVector(target.shapes, read.low_rank), notes)


def _halved(path: Path, read: Read, target: Target, notes: Mapping[str, str]) -> None:
    """Fine-tuned minus pre-trained, computed in fp32, each layer rounded once."""
    assert target.base is not None, "a fine-tuned model has one"
    write_state(path, {name: (read.state[name] - target.base[name]).bfloat16() for name in target.base}, notes)
