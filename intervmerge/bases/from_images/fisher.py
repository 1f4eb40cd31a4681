"""Fisher merging: every entry of the weights is a mean, weighted by how much each task's predictions hang on it.

F is the diagonal of the Fisher information: the mean over images of the squared gradient of log p(label), one label an
image, drawn from the model's own prediction. (A gradient of a whole batch, squared, would keep products of images.)
Source: arXiv:2111.09832.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from intervmerge.bases.from_images.kernel import weighed_by_entry
from intervmerge.seeding import generator
from intervmerge.suites.suite import Suite, Task

GRADIENTS = 2**26
"""Numbers of all images' gradients that are held at once."""


def fisher(
    suite: Suite,
    pixels: Mapping[str, Tensor],
    floor: float,
    normalised: bool,
    seed: int,
    device: torch.device,
    progress: Callable[[float], None],
) -> dict[str, Tensor]:
    """The merged state Σ F θ / Σ F, over all layers.

    Args:
        suite: tasks and their models.
        pixels: images by task, uint8 [images, 3, size, size].
        floor: added to every F, so that entries on which no task depends are averaged.
        normalised: each task's F is divided by its norm over all layers.
        seed: of the labels, with the task's name.
        device: where to compute.
        progress: is told the share done.
    """
    sums = {name: torch.zeros(2, *layer.shape, dtype=torch.float64) for name, layer in suite.pretrained.items()}
    for number, task in enumerate(suite.tasks):

        def within(share: float, before: int = number) -> None:
            progress((before + share) / len(suite.tasks))

        diagonal = diagonal_of(suite, task, pixels[task.name], generator(seed, task.name), device, within)
        squares = sum(float(layer.square().sum()) for layer in diagonal.values())
        scale = squares**-0.5 if normalised and squares else 1.0
        for name, layer in diagonal.items():
            weights = (layer.cpu() + floor) * scale
            sums[name] += torch.stack([weights * task.finetuned[name].double(), weights])
    return {name: weighed_by_entry(*both).float() for name, both in sums.items()}


def diagonal_of(
    suite: Suite,
    task: Task,
    pixels: Tensor,
    draw: Generator,
    device: torch.device,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Tensor]:
    """F of a task's own model by layer, fp64, of uint8 pixels [images, 3, size, size]."""
    module = suite.encoder(task.finetuned, f"fine-tuned {task.name}").to(device)
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    prefix = "tower."

    def surprise(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        features = functional_call(module, weights, (image.unsqueeze(0),))
        return F.cross_entropy(task.logits(features), label.unsqueeze(0))

    gradients = vmap(grad(surprise), in_dims=(None, 0, 0))
    totals = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    together = max(1, GRADIENTS // sum(weight.numel() for weight in weights.values()))
    done = 0
    for part in pixels.split(together):
        images = suite.normalise(part.to(device))
        chances = task.logits(module.features(images)).softmax(-1).cpu()
        labels = torch.multinomial(chances, 1, generator=draw).squeeze(1).to(device)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no gradients by image
            for name, each in gradients(weights, images, labels).items():
                totals[name] += each.square_().sum(0)
        done += len(part)
        progress(done / len(pixels))
    return {name.removeprefix(prefix): total / len(pixels) for name, total in totals.items()}
