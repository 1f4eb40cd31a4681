"""Builds mini8 from its sources: images, broad pre-training, eight fine-tunings, one multi-task training, the folder.

Every stage is kept in the work folder; a build that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from intervmerge.suite_build.drawing.broad import broad_set
from intervmerge.suite_build.drawing.sources import require_packages
from intervmerge.suite_build.drawing.tasks import SPLIT_SIZES, TASKS, Task, balanced
from intervmerge.suite_build.stages import Tensors, kept, recipe_hash, stream, whole_seed
from intervmerge.suite_build.training import TrainingSetting, train
from intervmerge.suite_build.write import Part, write_suite
from intervmerge.suites.encoder import Architecture, Encoder
from intervmerge.training.lesson import Lesson, TaskImages

CLASS_VECTORS = "class_vectors"

ARCHITECTURE = Architecture(image_size=32, patch_size=8, width=96, blocks=12, heads=3, features=64)

BROAD_TRAINING = TrainingSetting(
    epochs=14, learning_rate=1.5e-3, weight_decay=0.05, learn_class_vectors=True, warmup_steps=200, shift=3
)
FINE_TUNING = TrainingSetting(epochs=6, learning_rate=8e-4, weight_decay=0.01)
"""Epochs are the task's own."""
MULTITASK_TRAINING = TrainingSetting(epochs=6, learning_rate=8e-4, weight_decay=0.01)
MULTITASK_IMAGES = 3500
"""The first so many training images of each task."""

IMAGES, BROAD, TRAINING = "images 1", "broad 1", "training 1"
"""Versions of the recipes: raised when a change of the code changes what a stage gives."""

Report = Callable[[str, float], None]
"""(stage, share done in 0..1)."""


@dataclass(frozen=True)
class Builder:
    """The stages of a build, each from those before it."""

    work: Path
    seed: int
    report: Report

    def images(self, task: Task) -> Tensors:
        """`train`, `adapt`, `validation`, `test`: uint8 [images, 3, 32, 32]; `<split>.labels`: int64 [images]."""
        recipe = recipe_hash(IMAGES, self.seed, task.name, task.train_images)
        return kept(self.work, f"images-{task.name}", recipe, partial(self._draw, task))

    def _draw(self, task: Task) -> Tensors:
        drawn: dict[str, Tensor] = {}
        for split, count in {"train": task.train_images, **SPLIT_SIZES}.items():
            random = stream(self.seed, "images", task.name, split)
            labels = balanced(len(task.classes), count, random)
            pixels = torch.from_numpy(task.draw(labels, split, random)).permute(0, 3, 1, 2)
            drawn |= {split: pixels, f"{split}.labels": torch.from_numpy(labels)}
        return drawn

    @cached_property
    def broad(self) -> Tensors:
        """Images and labels of the broad training; `first_class` [tasks]: where each task's classes begin."""
        recipe = recipe_hash(BROAD, self.seed)
        return kept(self.work, "images-broad", recipe, self._draw_broad)

    def _draw_broad(self) -> Tensors:
        drawn = broad_set(stream(self.seed, "broad"))
        return {
            "images": torch.from_numpy(drawn.images).permute(0, 3, 1, 2),
            "labels": torch.from_numpy(drawn.labels),
            "first_class": torch.tensor([drawn.first_class[task.name] for task in TASKS]),
            "classes": torch.tensor(drawn.classes),
        }

    @cached_property
    def pretrained(self) -> Tensors:
        """The pre-trained tower in values that bf16 holds exactly, and `class_vectors` [all classes, features]."""
        return kept(self.work, "pretrained", self.pretraining_recipe, self._pretrain)

    @property
    def pretraining_recipe(self) -> str:
        """What the pre-trained tower depends on."""
        return recipe_hash(IMAGES, BROAD, TRAINING, self.seed, BROAD_TRAINING, ARCHITECTURE)

    def _pretrain(self) -> Tensors:
        first = torch.Generator().manual_seed(whole_seed(self.seed, "class vectors"))
        vectors = torch.randn(int(self.broad["classes"]), ARCHITECTURE.features, generator=first)
        lesson = Lesson([TaskImages(self.broad["images"], self.broad["labels"], classes=len(vectors))])
        encoder = self.fresh("pretraining", lambda: Encoder(ARCHITECTURE))
        learnt = self._train(encoder, lesson, vectors, BROAD_TRAINING, "pretraining", self.pretraining_recipe)
        rounded = {name: weight.bfloat16().float() for name, weight in encoder.tower.state_dict().items()}
        return {**rounded, CLASS_VECTORS: learnt}

    def fresh(self, name: str, make: Callable[[], Encoder]) -> Encoder:
        """A new encoder; open_clip draws first weights from torch's global state, which is put back afterwards."""
        with torch.random.fork_rng():
            torch.manual_seed(whole_seed(self.seed, "weights", name))
            return make()

    def head(self, task: Task) -> Tensor:
        """The class vectors of a task [classes, features]."""
        first = int(self.broad["first_class"][[row.name for row in TASKS].index(task.name)])
        return self.pretrained[CLASS_VECTORS][first : first + len(task.classes)]

    def pretrained_encoder(self) -> Encoder:
        """A fresh encoder with the pre-trained weights."""
        return Encoder(ARCHITECTURE).load(weights_of(self.pretrained))

    def finetuned(self, task: Task) -> Tensors:
        """The tower fine-tuned on a task, fp32."""
        setting = TrainingSetting(**{**vars(FINE_TUNING), "epochs": task.epochs})
        return self._trained(task.name, [task], setting, task.train_images)

    @cached_property
    def multitask(self) -> Tensors:
        """One tower trained on all tasks, fp32."""
        return self._trained("multitask", TASKS, MULTITASK_TRAINING, MULTITASK_IMAGES)

    def _trained(self, name: str, tasks: tuple[Task, ...] | list[Task], setting: TrainingSetting, most: int) -> Tensors:
        recipe = recipe_hash(
            self.pretraining_recipe,
            IMAGES,
            TRAINING,
            setting,
            most,
            [(t.name, t.train_images, t.mirror) for t in tasks],
        )

        def compute() -> Tensors:
            encoder, heads = self.pretrained_encoder(), torch.cat([self.head(task) for task in tasks])
            self._train(encoder, self.lesson(tasks, most), heads, setting, name, recipe)
            return dict(encoder.tower.state_dict())

        return kept(self.work, f"finetuned-{name}", recipe, compute)

    def lesson(self, tasks: tuple[Task, ...] | list[Task], most: int) -> Lesson:
        """The first `most` training images of each task."""
        drawn = [(task, self.images(task)) for task in tasks]
        return Lesson(
            [
                TaskImages(images["train"][:most], images["train.labels"][:most], len(task.classes), task.mirror)
                for task, images in drawn
            ]
        )

    def _train(
        self, encoder: Encoder, lesson: Lesson, vectors: Tensor, setting: TrainingSetting, name: str, recipe: str
    ) -> Tensor:
        checkpoint = self.work / f"{name}-{recipe}.unfinished"
        seed = whole_seed(self.seed, "training", name)
        return train(encoder, lesson, vectors, setting, seed, checkpoint, partial(self._tell, name))

    def _tell(self, name: str, checkpoint: str, share: float) -> None:
        self.report(name, share)


def weights_of(stage: Tensors) -> dict[str, Tensor]:
    """The tower's weights among the tensors of a stage."""
    return {name: weight for name, weight in stage.items() if name != CLASS_VECTORS}


def build_mini8(out: Path, work: Path, seed: int = 0, *, train: bool = False, report: Report) -> None:
    """Build the suite mini8 into the folder `out`.

    Args:
        out: becomes the suite's folder; files of the same names are overwritten.
        work: finished stages stay here, and are taken up again.
        seed: all randomness derives from it.
        train: the images that the models were fine-tuned on are written too, so that others can be.
        report: told (stage, share done in 0..1).

    Raises:
        BuildError: packages are missing; the message names all of them.
    """
    require_packages()
    builder = Builder(work, seed, report)
    for number, task in enumerate(TASKS):
        builder.images(task)
        report("images", (number + 1) / len(TASKS))
    parts = [Part(task, builder.images(task), builder.head(task), builder.finetuned(task)) for task in TASKS]
    write_suite(out, ARCHITECTURE, weights_of(builder.pretrained), builder.multitask, parts, train)
