"""A suite of any size with random weights and images, in memory: what benchmarks of speed run on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from intervmerge.suites.encoder import Architecture, Encoder
from intervmerge.suites.images import SPLITS, Split
from intervmerge.suites.suite import Normalization, Suite, SuiteFile, Task, TaskFile, files_of


def random_weights(shape: Architecture, seed: int) -> dict[str, Tensor]:
    """Weights of a tower as torch makes them."""
    torch.manual_seed(seed)
    return dict(Encoder(shape).tower.state_dict())


def random_suite(shape: Architecture, tasks: int, images: int) -> Suite:
    """So many tasks of two classes with so many images in every split; all fine-tuned models are one.

    Timings do not depend on what the weights are, so that one task vector serves all tasks.
    """
    pretrained, vector = random_weights(shape, 0), random_weights(shape, 1)
    generator = torch.Generator().manual_seed(2)
    made = []
    for number in range(tasks):
        size = (images, 3, shape.image_size, shape.image_size)
        pixels = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        labels = torch.zeros(images, dtype=torch.int64)
        splits = {name: Split(pixels, None if name == "adapt" else labels) for name in SPLITS}
        head = torch.randn(2, shape.features, generator=generator)
        made.append(Task(f"task {number}", ("a", "b"), head, pretrained, vector, splits))
    file = SuiteFile(
        name="random",
        checkpoint_family="random",
        architecture=shape,
        normalization=Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        pretrained="pretrained",
        tasks=[TaskFile(name=task.name, classes=["a", "b"], head="", images="", task_vector="vector") for task in made],
    )
    suite = Suite(Path(), file, shape, pretrained, None, tuple(made))
    # it has no files to hash
    suite.__dict__["hashes"] = dict.fromkeys(files_of(file), f"random {tasks} {images}")
    return suite
