"""One training step, by every route: what others do, our engines with every storage, and the floors below them.

    python tests/benchmarks/step_time.py [--model vit_b32|vit_l14|mini8] [--tasks 2] [--repeats 9] [--threads 2]
        [--device cpu|cuda]

plain loop       what a user writes today: merged once, hooks on the attention output, one task after another, the
                 teacher's forward at every step
literature       as published code does: both models merged in Python from all task vectors at every batch
exact, stream    our engines; the stream with each of its storages, on CUDA also as a recorded graph
floor            the matrix products that the work needs, alone, at their shapes and with as many different weights

All train rank-1 noreft on all blocks, 16 images of every task a step, other images at every step. Routes alternate, so
that all meet the same machine; figures are medians of the steps and of the ratios within a round: read the ratios.
Memory is the largest private memory beyond what the process held before the first step, of a process a route; on CUDA
the most that the route held there, weights and caches too. On CUDA every route computes in bf16, as a trial does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Protocol

import torch
from merging_memory import anonymous_mib, peak_of_anonymous
from random_suite import random_suite
from torch import Tensor
from torch.func import functional_call

from intervmerge.bases.merged import merge
from intervmerge.engines.batches import BLOCK, batches, sizes
from intervmerge.engines.caches import NO_CACHES, CachePlan
from intervmerge.engines.computing import autocast
from intervmerge.engines.storages import STORAGES
from intervmerge.interventions import InterventionConfig
from intervmerge.suites.encoder import Architecture, open_clip_architecture
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.distill import adam, distill
from intervmerge.trial.lesson import Lesson

SHAPES = {
    "vit_b32": open_clip_architecture("ViT-B-32-quickgelu"),
    "vit_l14": open_clip_architecture("ViT-L-14-quickgelu"),
    "mini8": load_suite("mini8").architecture,
}
CONFIG = TrialConfig(intervention=InterventionConfig(rank=1))
MERGED = 8
"""Task vectors that the literature's way sums at every batch."""
IMAGES = 4 * BLOCK


class HasStep(Protocol):
    def step(self) -> None: ...


class Route:
    """A way to train; every call of `step` takes other images."""

    def __init__(self, suite: Suite, device: str) -> None:
        self.suite, self.device = suite, torch.device(device)
        self.index = batches(sizes(suite, "adapt"), BLOCK, 1000, seed=0)
        self.taken = 0

    def next(self) -> Tensor:
        """Images [tasks, batch, 3, size, size] of the next step, normalised, as a loader gives them."""
        self.taken += 1
        every = torch.cat([task.splits["adapt"].pixels for task in self.suite.tasks])
        return torch.stack([self.suite.normalise(every[row].to(self.device)) for row in self.index[self.taken]])


class PlainLoop(Route):
    """open_clip's own tower with hooks at `ls_1`, task after task, the teacher's forward at every step."""

    def __init__(self, suite: Suite, device: str) -> None:
        super().__init__(suite, device)
        self.bench = Bench(merge(suite, "task_arithmetic", scaling=0.3), device, plan=NO_CACHES)
        self.edits = self.bench.start(self.bench.place(CONFIG), 0)
        self.student, self.teacher = self.bench.encoder, suite.encoder(suite.pretrained).to(device)
        self.optimizer = adam(self.edits, CONFIG.training)

    def step(self) -> None:
        for task, images in enumerate(self.next()):
            with autocast(self.device):
                with torch.no_grad():
                    targets = self.teacher.tower(images)
                found = self.hooked(task, images, self.student.tower)
            train(found, targets, self.optimizer)

    def hooked(self, task: int, images: Tensor, tower: Callable[[Tensor], Tensor]) -> Tensor:
        """The student's features through open_clip's own forward."""
        handles = [
            self.student.block(block).ls_1.register_forward_hook(
                lambda m, i, z, b=block: torch.cat([z[:, :1] + self.edits(b, z[None, :, :1], [task])[0], z[:, 1:]], 1)
            )
            for block in range(self.suite.architecture.blocks)
        ]
        found = tower(images)
        for handle in handles:
            handle.remove()
        return found


class Literature(PlainLoop):
    """Student and teacher merged anew at every batch, layer by layer in Python, from the task vectors of all tasks."""

    def __init__(self, suite: Suite, device: str) -> None:
        super().__init__(suite, device)
        # each in memory of its own, as eight real ones are: one vector read eight times would stay in the processor
        own = [suite.tasks[0].task_vector] * MERGED
        self.vectors = [{name: tensor.to(device, copy=True) for name, tensor in vector.items()} for vector in own]
        self.pretrained = {name: tensor.to(device) for name, tensor in suite.pretrained.items()}

    def merged(self, coefficients: Sequence[float]) -> dict[str, Tensor]:
        return {
            name: sum((c * vector[name] for c, vector in zip(coefficients, self.vectors, strict=True)), start=tensor)
            for name, tensor in self.pretrained.items()
        }

    def step(self) -> None:
        for task, images in enumerate(self.next()):
            with autocast(self.device):
                with torch.no_grad():
                    teacher = self.merged([float(other == task) for other in range(MERGED)])
                    targets = functional_call(self.student.tower, teacher, (images,))
                state = self.merged([0.3] * MERGED)
                found = self.hooked(task, images, lambda x, s=state: functional_call(self.student.tower, s, (x,)))
            train(found, targets, self.optimizer)


class Ours(Route):
    """One of our engines, as a trial runs it: through `distill`."""

    def __init__(self, suite: Suite, device: str, engine: str, plan: CachePlan, graphs: bool = False) -> None:
        super().__init__(suite, device)
        bench = Bench(merge(suite, "task_arithmetic", scaling=0.3), device, plan=plan)
        edits = bench.start(bench.place(CONFIG), 0)
        features = suite.architecture.features
        targets = torch.zeros(sum(sizes(suite, "adapt").values()), features, device=device)
        lesson = Lesson(targets, sizes(suite, "adapt"))
        bench.caches.split("adapt")
        training = TrainingConfig(steps=1000, batch=BLOCK, rungs=tuple(range(1, 1000)))
        self.steps = distill(getattr(bench, engine), edits, lesson, training, 0, graphs=graphs)

    def step(self) -> None:
        next(self.steps)


class Floor:
    """The matrix products of some work, so many times, alone: each with a weight, or operands, of its own."""

    def __init__(self, work: Work, device: str, times: int = 1) -> None:
        self.times = times
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        drawn = partial(torch.randn, device=device, dtype=dtype)
        plain = [(drawn(m, k), drawn(n, k).mT) for m, k, n in work.products]
        batched = [(drawn(b, m, k), drawn(b, k, n)) for b, m, k, n in work.batched]
        self.pairs: list[tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]] = [
            *((torch.mm, left, right) for left, right in plain),
            *((torch.bmm, left, right) for left, right in batched),
        ]

    def step(self) -> None:
        with torch.no_grad():
            for _ in range(self.times):
                for product, left, right in self.pairs:
                    product(left, right)


def train(features: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    (features - targets).abs().mean(dim=(-2, -1)).sum().backward()
    optimizer.step()


# ---- the products that work needs; legend: n images, t tokens, w width, h heads, d = w / h


@dataclass
class Work:
    """Products [m, k] x [k, n], and batched ones [b, m, k] x [b, k, n]."""

    products: list[tuple[int, int, int]] = field(default_factory=list)
    batched: list[tuple[int, int, int, int]] = field(default_factory=list)

    def linear(self, m: int, k: int, n: int, backward: bool) -> None:
        """A linear layer, forward and perhaps the gradient of its input; the weights are frozen."""
        self.products += [(m, k, n), *([(m, n, k)] if backward else [])]

    def attention(self, b: int, queries: int, keys: int, d: int, backward: int) -> None:
        """Scores and mixture, forward and so many gradients of either."""
        self.batched += [(b, queries, d, keys), (b, queries, keys, d)] * (1 + backward)


def tower_work(shape: Architecture, n: int, *, train: bool, class_last: bool, embed: bool) -> Work:
    """A whole forward, with `train` the backward down to the first block's intervention."""
    w, t, h, work = shape.width, shape.tokens, shape.heads, Work()
    if embed:
        work.linear(n * (t - 1), 3 * shape.patch_size**2, w, backward=False)
    for block in range(shape.blocks):
        down = train and block > 0
        asking = n if class_last and block == shape.blocks - 1 else n * t
        work.linear(asking, w, w, backward=down)
        work.linear(n * t, w, 2 * w, backward=down)
        work.attention(n * h, asking // n, t, w // h, backward=2 * down)
        work.linear(asking, w, w, backward=down)
        work.linear(asking, w, 4 * w, backward=train)
        work.linear(asking, 4 * w, w, backward=train)
    return work


def stream_work(shape: Architecture, n: int) -> Work:
    """A training step of the class stream on stored keys and values."""
    w, h, work = shape.width, shape.heads, Work()
    for block in range(shape.blocks):
        work.linear(n, w, 3 * w, backward=block > 0)
        work.attention(n * h, 1, shape.tokens - 1, w // h, backward=int(block > 0))
        work.linear(n, w, w, backward=block > 0)
        work.linear(n, w, 4 * w, backward=True)
        work.linear(n, 4 * w, w, backward=True)
    return work


def plain_work(shape: Architecture) -> Work:
    """Teacher forward, student forward and backward, of one task."""
    student, teacher = (tower_work(shape, BLOCK, train=t, class_last=False, embed=True) for t in (True, False))
    return Work(student.products + teacher.products, student.batched + teacher.batched)


# ---- the table


def routes(shape: Architecture, tasks: int, device: str) -> dict[str, Callable[[], HasStep]]:
    """Every row of the table, made when it is needed."""
    suite, n = random_suite(shape, tasks, IMAGES), tasks * BLOCK
    streams = {
        f"stream, {name}{', graph' if graphs else ''}": partial(
            Ours, suite, device, "stream", CachePlan(storage=name, boundaries=(0,)), graphs
        )
        for name in STORAGES
        for graphs in ((False, True) if device == "cuda" else (False,))
    }
    exact_work = tower_work(shape, n, train=True, class_last=True, embed=False)
    return {
        "literature": partial(Literature, suite, device),
        "plain loop": partial(PlainLoop, suite, device),
        "plain loop's floor": partial(Floor, plain_work(shape), device, tasks),
        "exact": partial(Ours, suite, device, "exact", CachePlan(boundaries=(0,))),
        "exact's floor": partial(Floor, exact_work, device),
        **streams,
        "stream's floor": partial(Floor, stream_work(shape, n), device),
    }


def times(made: Mapping[str, HasStep], repeats: int) -> dict[str, list[float]]:
    """Seconds of the steps; every round takes one step of each route, the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(repeats + 1):
        for name, route in made.items():
            began = time.perf_counter()
            route.step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def memory_of(name: str, arguments: Sequence[str]) -> float:
    """Largest private memory, or memory on the device, of three steps, MiB, in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--memory-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> str:
    """Median of the ratios within a round; empty where one of the two was left out."""
    if slow not in seconds or fast not in seconds:
        return ""
    return f"{median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)):.2f}"


def print_table(seconds: Mapping[str, list[float]], memory: Mapping[str, float]) -> None:
    heads = ("median s", "least", "most", "plain / it", "lit. / it", "over floor", "MiB")
    print(f"{'route':24}" + "".join(f"{head:>11}" for head in heads))
    for name, taken in seconds.items():
        kind = name.split(",")[0].removesuffix("'s floor")
        floor = f"{kind}'s floor" if f"{kind}'s floor" in seconds else name
        figures = [f"{figure:.4f}" for figure in (median(taken), min(taken), max(taken))]
        figures += [
            ratio(seconds, slow, fast) for slow, fast in (("plain loop", name), ("literature", name), (name, floor))
        ]
        figures += [f"{memory[name]:.0f}" if name in memory else ""]
        print(f"{name:24}" + "".join(f"{figure:>11}" for figure in figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="vit_b32")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--routes", nargs="+", metavar="NAME", help="only those whose names begin so")
    parser.add_argument("--no-memory", action="store_true", help="leave the last column out")
    parser.add_argument("--memory-of", help="print the memory of one route's steps and nothing else")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    known = routes(SHAPES[chosen.model], chosen.tasks, chosen.device)
    if chosen.memory_of:
        route = known[chosen.memory_of]()
        before = anonymous_mib()
        with peak_of_anonymous() as peak:
            for _ in range(3):
                route.step()
        print(torch.cuda.max_memory_allocated() / 2**20 if chosen.device == "cuda" else peak[0] - before)
        return
    if chosen.routes:
        known = {name: make for name, make in known.items() if name.startswith(tuple(chosen.routes))}
    made = {name: make() for name, make in known.items()}
    seconds = times(made, chosen.repeats)
    made.clear()
    given = ["--model", chosen.model, "--tasks", str(chosen.tasks), "--threads", str(chosen.threads)]
    given += ["--device", chosen.device]
    memory = {name: memory_of(name, given) for name in known if "floor" not in name and not chosen.no_memory}
    where = torch.cuda.get_device_name() if chosen.device == "cuda" else f"{chosen.threads} threads, CPU"
    print(f"{chosen.model}, random weights, {chosen.tasks} x {BLOCK} images a step, {where}")
    print_table(seconds, memory)


if __name__ == "__main__":
    main()
