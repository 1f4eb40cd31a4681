"""A suite unlike the packaged one: 3 tasks, 5 blocks, width 48, patch 16, made in a moment from random weights.

Its labels are what its fine-tuned models say, so that these classify without a mistake.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from intervmerge.files import sha256_of
from intervmerge.suites.datasets.arrow import write_images
from intervmerge.suites.encoder import Architecture, Encoder
from intervmerge.suites.images import Split
from intervmerge.suites.suite import Normalization, files_of, read_suite_file, write_yaml

SHAPE = Architecture(image_size=32, patch_size=16, width=48, blocks=5, heads=4, features=24, activation="quick_gelu")
TASKS = {"red": 3, "green": 5, "blue": 2}
"""Name to number of classes."""
IMAGES = {"adapt": 48, "validation": 40, "test": 56}
NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def write_odd_suite(folder: Path, whole_states: bool = False) -> Path:
    """Write it; with `whole_states` the fine-tuned weights are stored whole instead of as task vectors."""
    generator = torch.Generator().manual_seed(7)
    pretrained = _random_weights(generator)
    save(folder / "weights/pretrained.safetensors", pretrained)
    tasks = []
    for name, classes in TASKS.items():
        vector = {k: 0.3 * v.std().nan_to_num(0.01) * _randn(v, generator) for k, v in pretrained.items()}
        finetuned = {k: v + vector[k] for k, v in pretrained.items()}
        head = torch.nn.functional.normalize(torch.randn(classes, SHAPE.features, generator=generator), dim=-1) * 20
        stored = ("finetuned", finetuned) if whole_states else ("task_vector", vector)
        save(folder / f"weights/{name}.safetensors", stored[1])
        save(folder / f"heads/{name}.safetensors", {"weight": head})
        write_images(folder / f"images/{name}.arrow", _splits(finetuned, head, generator))
        tasks.append(
            {
                "name": name,
                "classes": [f"{name} {i}" for i in range(classes)],
                stored[0]: f"weights/{name}.safetensors",
                "head": f"heads/{name}.safetensors",
                "images": f"images/{name}.arrow",
            }
        )
    values = {
        "name": "odd",
        "checkpoint_family": "random",
        "architecture": vars(SHAPE),
        "normalization": {"mean": list(NORMALIZATION.mean), "std": list(NORMALIZATION.std)},
        "pretrained": "weights/pretrained.safetensors",
        "tasks": tasks,
    }
    write_yaml(folder / "suite.yaml", values)
    files = files_of(read_suite_file(folder / "suite.yaml"))
    write_yaml(folder / "suite.yaml", {**values, "sha256": {path: sha256_of(folder / path) for path in files}})
    return folder


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _randn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator)


def _random_weights(generator: torch.Generator) -> dict[str, Tensor]:
    tower = Encoder(SHAPE).tower
    weights = {}
    for name, parameter in tower.named_parameters():
        spread = 0.05 if parameter.ndim == 1 else 1.5 * parameter[0].numel() ** -0.5
        centre = 1.0 if name.endswith("weight") and parameter.ndim == 1 else 0.0  # a layer norm's scale
        weights[name] = centre + spread * _randn(parameter, generator)
    return weights


def _splits(finetuned: dict[str, Tensor], head: Tensor, generator: torch.Generator) -> dict[str, Split]:
    encoder = Encoder(SHAPE).load(finetuned)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (NORMALIZATION.mean, NORMALIZATION.std))
    splits = {}
    for name, count in IMAGES.items():
        pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        features = encoder.features((pixels.float() / 255 - mean) / std)
        labels = (torch.nn.functional.normalize(features, dim=-1) @ head.T).argmax(-1)
        splits[name] = Split(pixels, None if name == "adapt" else labels)
    return splits
