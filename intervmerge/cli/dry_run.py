"""What a search would be: the space's size, what it costs; nothing is trained but one timed step."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from rich.console import Console

from intervmerge.bases.merged import merge
from intervmerge.engines.caches import FEWEST, plan_caches
from intervmerge.machine import Machine, cores, sharers
from intervmerge.search.plan import Prepared, named_base
from intervmerge.space.bases import Bases, in_words
from intervmerge.space.bases.probes import PART
from intervmerge.space.sampling import DRAWS, Drawn
from intervmerge.space.space import SearchSettings
from intervmerge.suites.images import Split
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.distill import distill
from intervmerge.workers.seat import threads_of

FINALISTS = 12
"""Trials that are thought to be on the front at the end; searches of mini8 had about so many."""


def print_plan(prepared: Prepared) -> None:
    """Print size of the space, range of extra parameters, repeats, and the expected time."""
    sampling = prepared.sampling
    low, high = sampling.cost_range()
    bases = sampling.bases
    base = sampling.space.bases[0] if bases is None else f"one of {len(bases.every)}"
    lines = [
        f"space {prepared.plan.space} on {prepared.suite.name}, base {base}, into {prepared.folder}",
        *([] if bases is None else [_bases(bases, sampling.space.search.trials)]),
        *(f"measured without interventions: {in_words(base)}" for base in sampling.space.alone),
        *_size(prepared),
        f"extra parameters: {low:,} to {high:,} for {sampling.num_tasks} tasks",
        f"asked first: {len(sampling.priors())} configurations of the paper",
        *_cost(prepared),
    ]
    for line in lines:
        Console().print(line, highlight=False, markup=False, soft_wrap=True)


def _bases(bases: Bases, trials: int) -> str:
    """Which are tried first, and from where fronts are measured."""
    first = ", ".join(in_words(base) for base in bases.wide(trials // PART))
    return f"fronts are measured from {in_words(bases.reference)}; tried first: {first}"


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


def _cost(prepared: Prepared) -> list[str]:
    """Expected seconds of trials, from one of each engine timed on a few images with the threads of one worker."""
    sampling = prepared.sampling
    drawn = [d for d in sampling.sample(DRAWS) if d is not None]
    gpus = torch.cuda.device_count() if prepared.device.startswith("cuda") else 0
    sharing = sharers(prepared.plan.gpu_share)
    workers = prepared.plan.workers or (gpus * sharing) or max(1, cores() // threads_of())
    torch.set_num_threads(threads_of())
    shared = sharing if gpus else workers
    plan = prepared.plan
    machine = Machine(device=prepared.device, cache_gib=plan.cache_gib, step_gib=plan.step_gib, workers=shared)
    stream = sampling.holds_streams()
    whole = plan_caches(prepared.suite, machine.cache_bytes, stream=stream, half=machine.half)
    base = named_base(prepared) or merge(prepared.suite)  # all rules give a model of the same cost
    few = max(FEWEST, *sampling.batch_sizes())
    bench = Bench(replace(base, suite=fewer(base.suite, few)), machine, plan=replace(whole, adapt=None))
    kinds: dict[str, list[Drawn]] = {}
    for each in drawn:
        kinds.setdefault(bench.engine(each.trial.training, bench.place(each.trial)).name, []).append(each)
    lines, mean = [whole.words(prepared.suite)], 0.0
    for name, these in kinds.items():
        step, image = _timed(bench, these[0])
        training = these[0].trial.training
        images = sum(len(task.splits["validation"]) for task in prepared.suite.tasks)
        trial = training.steps * step + len(training.measured_steps) * images * image
        mean += trial * len(these) / len(drawn)
        lines.append(
            f"{name} engine, {100 * len(these) / len(drawn):.0f} % of the space: a step takes about {step:.2f} s, "
            f"a trial of {training.steps} steps with {len(training.measured_steps)} measurements about {trial:.0f} s"
        )
    trainings, what = _trainings(sampling.space.search)
    return [*lines, f"{what} on {workers} workers: about {trainings * mean / workers / 60:.0f} minutes"]


def _trainings(search: SearchSettings) -> tuple[int, str]:
    """How many trainings a search comes to, in a number and in words; the size of its front is a guess."""
    finalists = min(search.trials, FINALISTS)
    again = search.final_seeds * finalists
    words = f", and {again} trainings for error bars, were {finalists} of them on the front," if again else ""
    return search.trials + again, f"{search.trials} trials{words}"


def fewer(suite: Suite, images: int) -> Suite:
    """The same suite with so many images in every split, at most."""

    def cut(split: Split) -> Split:
        return Split(split.pixels[:images], None if split.labels is None else split.labels[:images])

    tasks = (replace(t, splits={name: cut(split) for name, split in t.splits.items()}) for t in suite.tasks)
    return replace(suite, tasks=tuple(tasks))


def _timed(bench: Bench, drawn: Drawn) -> tuple[float, float]:
    """Seconds of a step, and of measuring an image."""
    placement = bench.place(drawn.trial)
    engine = bench.engine(drawn.trial.training, placement)
    interventions = bench.start(placement, drawn.trial.seed, engine)
    few = replace(drawn.trial.training, steps=3, rungs=(1, 2))
    ticks = [now(bench) for _ in distill(engine, interventions, bench.lesson_of(few), few, 0)]
    began = now(bench)
    scores = bench.measure(interventions, engine=engine)
    return ticks[-1] - ticks[-2], (now(bench) - began) / sum(score.total for score in scores.values())


def now(bench: Bench) -> float:
    """Seconds, when the device has done what it was given."""
    if bench.device.type == "cuda":
        torch.cuda.synchronize(bench.device)
    return time.perf_counter()
