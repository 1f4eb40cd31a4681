"""What a search would be: the space's size, what it costs; nothing is trained but one timed step."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from intervmerge.search.plan import Prepared
    from intervmerge.search.sampling import Drawn
    from intervmerge.trial.distill import Lesson
    from intervmerge.trial.run import Bench

DRAWS = 2000
"""Random draws by which a space too large to list is described."""


def print_plan(prepared: Prepared) -> None:
    """Print size of the space, range of extra parameters, repeats, and the expected time."""
    sampling = prepared.sampling
    low, high = sampling.cost_range()
    lines = [
        f"space {prepared.plan.space} on {prepared.suite.name}, base {sampling.space.bases[0]}, into {prepared.folder}",
        *_size(prepared),
        f"extra parameters: {low:,} to {high:,} for {sampling.num_tasks} tasks",
        f"asked first: {len(sampling.priors())} configurations of the paper",
        _cost(prepared),
    ]
    for line in lines:
        Console().print(line, highlight=False, markup=False, soft_wrap=True)


def _size(prepared: Prepared) -> list[str]:
    sampling, budget = prepared.sampling, prepared.sampling.space.search.max_extra_params
    grid = sampling.grid()
    if grid is not None:
        points = [drawn for drawn, _ in grid]
        what = "points of the grid"
    else:
        points = [drawn for drawn in sampling.sample(DRAWS) if drawn is not None]
        what = f"random draws that edit something, of {DRAWS} (the space is too large to list)"
    different = len({drawn.key for drawn in points})
    text = f"size: {different:,} different configurations among {len(points):,} {what}"
    lines = [f"{text}; {len(points) - different:,} equal to another"]
    if budget is not None:
        over = len({drawn.key for drawn in points if drawn.extra_params > budget})
        lines.append(f"over the budget of {budget:,}: {over:,}; these are never trained")
    return lines


def _cost(prepared: Prepared) -> str:
    """Expected seconds of a trial from one timed step and one timed measurement, with the threads of one worker."""
    import torch

    from intervmerge.search.plan import choose_base
    from intervmerge.search.watch import Silence
    from intervmerge.search.worker import cores
    from intervmerge.suites.suite import CHUNK
    from intervmerge.trial.distill import distill
    from intervmerge.trial.run import Bench

    drawn: Drawn = next(d for d in prepared.sampling.sample(DRAWS) if d is not None)
    training = drawn.trial.training
    gpus = torch.cuda.device_count() if prepared.device.startswith("cuda") else 0
    workers = prepared.plan.workers or (gpus * prepared.plan.workers_per_gpu) or cores()
    torch.set_num_threads(max(1, cores() // workers))
    bench = Bench(choose_base(prepared, Silence()), prepared.device)
    interventions = bench.start(bench.place(drawn.trial), drawn.trial.seed)
    few = replace(training, steps=3, rungs=(1, 2))
    ticks = [now(bench) for _ in distill(bench.engine, interventions, _any_lesson(bench, training.batch), few, 0)]
    step = ticks[-1] - ticks[-2]
    pixels = prepared.suite.tasks[0].splits["validation"].pixels[:CHUNK]
    began = now(bench)
    with torch.no_grad():
        bench.engine.features(interventions, bench.engine.enter(pixels[None]), [0])
    image = (now(bench) - began) / len(pixels)
    images = sum(len(task.splits["validation"]) for task in prepared.suite.tasks)
    trial = training.steps * step + len(training.measured_steps) * images * image
    trials = prepared.sampling.space.search.trials
    total = trials * trial / workers
    return (
        f"a step takes about {step:.2f} s, a trial of {training.steps} steps with {len(training.measured_steps)} "
        f"measurements about {trial:.0f} s; {trials} trials on {workers} workers about {total / 60:.0f} minutes"
    )


def _any_lesson(bench: Bench, batch: int) -> Lesson:
    """A lesson of the right shapes whose targets are zeros: enough to time a step, without the teachers' forward."""
    import torch

    from intervmerge.trial.distill import Lesson

    suite, shape = bench.base.suite, bench.base.suite.architecture
    sizes = {task.name: len(task.splits["adapt"]) for task in suite.tasks}
    few = {name: min(size, max(64, batch)) for name, size in sizes.items()}
    entered = [bench.engine.enter(task.splits["adapt"].pixels[None, : few[task.name]])[0] for task in suite.tasks]
    targets = torch.zeros(sum(few.values()), shape.features, device=bench.engine.device)
    return Lesson(torch.cat(entered), targets, few)


def now(bench: Bench) -> float:
    """Seconds, when the device has done what it was given."""
    import torch

    if bench.engine.device.type == "cuda":
        torch.cuda.synchronize(bench.engine.device)
    return time.perf_counter()
