"""Merging rules: one kernel, and a table with one row a published method.

Every rule is θ_pre + Σ λ s(τ) / divisor: s sparsifies a task vector and, where the rule elects signs, keeps
only the entries that agree with the elected sign. A new rule is a new row.

λ is applied *after* trim and election, as in the code of TIES and AdaMerging; mergekit's `weight` multiplies
before election (mergekit issue 474), which is another method.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from intervmerge.errors import CheckpointError, ConfigError, lookup, nearest
from intervmerge.merging.magnitudes import trim_threshold
from intervmerge.merging.task_vectors import State, check_tasks, layer_chunks, spread
from intervmerge.seeding import generator

STACK_ELEMENTS = 2**16
"""Numbers of all tasks together that the kernel holds at once: 256 KiB in fp32, which stays in the cache."""

Stacks: TypeAlias = Iterable[Tensor]
"""The task vectors of one layer, flat and side by side, in chunks [tasks, chunk], fp32, free to overwrite."""

Sparsify: TypeAlias = Callable[[str, Stacks], Stacks]
"""(layer name, stacks) -> stacks."""


@dataclass(frozen=True)
class Rule:
    """A merging rule: a row of `RULES`."""

    name: str
    sparsify: Literal["none", "trim", "drop"]
    elect: bool
    """Keep only the entries whose sign is that of the tasks' sum."""
    reduce: Literal["sum", "mean", "disjoint_mean"]
    """Divide the sum by nothing, by the tasks, or entry by entry by the tasks that survive there."""
    defaults: Mapping[str, Any]
    """The settings that the rule knows."""
    source: str
    about: str


TASK_ARITHMETIC, TIES, DARE = "arXiv:2212.04089", "arXiv:2306.01708", "arXiv:2311.03099"
TRIM = {"density": 0.2}
DROP = {"drop": 0.5, "seed": 0}

# DARE with TIES: drop takes the place of trim, as in mergekit; DARE's authors drop, then trim as well.
# fmt: off
RULES: Mapping[str, Rule] = MappingProxyType({row.name: row for row in (
    Rule("weight_average",       "none", False, "mean",          {},                       "arXiv:2203.05482",
         "mean of the fine-tuned weights"),
    Rule("task_arithmetic",      "none", False, "sum",           {"scaling": 0.3},         TASK_ARITHMETIC,
         "scaled sum of the task vectors"),
    Rule("ties_mean",            "trim", True,  "disjoint_mean", {"scaling": 1.0, **TRIM}, TIES,
         "trim, elect signs, mean of the survivors (the TIES paper)"),
    Rule("ties_sum",             "trim", True,  "sum",           {"scaling": 0.3, **TRIM}, TIES,
         "trim, elect signs, sum of the survivors (as AdaMerging and IntervMerge use TIES)"),
    Rule("dare_task_arithmetic", "drop", False, "sum",           {"scaling": 0.3, **DROP}, DARE,
         "drop entries at random and rescale, then task arithmetic"),
    Rule("dare_ties_mean",       "drop", True,  "disjoint_mean", {"scaling": 1.0, **DROP}, DARE,
         "drop entries at random and rescale, elect signs, mean of the survivors"),
    Rule("dare_ties_sum",        "drop", True,  "sum",           {"scaling": 0.3, **DROP}, DARE,
         "drop entries at random and rescale, elect signs, sum of the survivors"),
)})
# fmt: on


@torch.no_grad()
def merge_states(
    pretrained: State, task_vectors: Mapping[str, State], rule: str | Rule, **settings: Any
) -> dict[str, Tensor]:
    """θ_pre + the merged task vector, a new fp32 state. Reads its inputs in chunks, never writes into them.

    Beside the result it holds a few MiB, whatever the number of tasks, if the states are stored (memory-mapped,
    say), or are `TaskVector`s of stored states; of any other state that computes its layers it holds one layer.

    Args:
        pretrained: fixes the order of the layers.
        task_vectors: task name -> task vector, in the order of the coefficients.
        rule: a name in `RULES`, or a row of your own.
        settings: see `resolve_settings`.

    Raises:
        CheckpointError: a task vector has other layers, or weights are not finite.
        ConfigError: no such rule, or a setting is refused.
    """
    row = _row(rule)
    chosen = resolve_settings(row, settings)
    check_tasks(pretrained, task_vectors)
    scaling = torch.tensor(chosen.get("scaling", 1.0), dtype=torch.float32)
    coefficients = spread(scaling, len(task_vectors), len(pretrained), f"{row.name}.scaling")
    sparsify = SPARSIFIERS[row.sparsify](task_vectors, chosen)

    def stacks(layer: str) -> Stacks:
        return sparsify(layer, _stacks(layer, task_vectors))

    majority = _majority_sign(stacks(layer) for layer in pretrained) if row.elect else 0.0
    merged: dict[str, Tensor] = {}
    for (layer, base), column in zip(pretrained.items(), coefficients.unbind(1), strict=True):
        merged[layer] = base.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        _refuse_non_finite(merged[layer].view(1, -1), layer, ["the pre-trained state"])
        chunks = torch.split(merged[layer].view(-1), _chunk_elements(len(task_vectors)))
        for chunk, stack in zip(chunks, stacks(layer), strict=True):
            chunk.add_(_consensus(row, stack, column.unsqueeze(1).to(stack.device), majority))
    return merged


def _consensus(row: Rule, stack: Tensor, coefficients: Tensor, majority: float) -> Tensor:
    """[tasks, chunk] and λ [tasks, 1] -> the merged task vector [chunk]. Overwrites the stack."""
    if not row.elect:
        divisor = DIVISORS[row.reduce](stack)
        return stack.mul_(coefficients).sum(0).div_(divisor)
    signs = stack.sum(0).sign_()
    signs.add_(1 - signs.abs(), alpha=majority)  # zeros take the majority sign
    agreeing = stack.mul_(signs).clamp_(min=0)  # magnitudes, 0 where the signs differ
    divisor = DIVISORS[row.reduce](agreeing)
    return agreeing.mul_(coefficients).sum(0).mul_(signs).div_(divisor)


def _majority_sign(layers: Iterable[Stacks]) -> float:
    """The sign of the sum of all elected signs: +1, −1, or 0 where they balance (then zeros keep nothing)."""
    votes = sum(int(stack.sum(0).sign_().sum()) for stacks in layers for stack in stacks)
    return float((votes > 0) - (votes < 0))


DIVISORS: Mapping[str, Callable[[Tensor], Tensor | int]] = MappingProxyType(
    {
        "sum": lambda stack: 1,
        "mean": len,
        "disjoint_mean": lambda stack: stack.sign().abs_().sum(0).clamp_(min=1),
    }
)


def _keep_all(task_vectors: Mapping[str, State], settings: Mapping[str, Any]) -> Sparsify:
    return lambda layer, stacks: stacks


def _trim(task_vectors: Mapping[str, State], settings: Mapping[str, Any]) -> Sparsify:
    """Trim (TIES) ranks |τ| over ALL layers at once; a threshold for each layer would be another method."""
    thresholds = torch.stack([trim_threshold(vector, settings["density"]) for vector in task_vectors.values()])

    def sparsify(layer: str, stacks: Stacks) -> Iterator[Tensor]:
        for stack in stacks:
            # Comparing in fp32 is many times faster on a CPU than a mask of booleans.
            yield stack.mul_(stack.abs().ge_(thresholds.unsqueeze(1).to(stack.device)))

    return sparsify


def _drop(task_vectors: Mapping[str, State], settings: Mapping[str, Any]) -> Sparsify:
    """Drop (DARE) each entry with probability p and rescale by 1/(1−p).

    Each task and layer draws from a generator of its own, entry by entry in order: a mask depends neither on
    other tasks nor on the size of the chunks.
    """
    drop, seed = settings["drop"], settings["seed"]

    def sparsify(layer: str, stacks: Stacks) -> Iterator[Tensor]:
        generators = [generator(seed, task, layer) for task in task_vectors]
        for stack in stacks:
            draws = torch.stack([torch.rand(stack.shape[1], generator=drawn) for drawn in generators])
            yield stack.mul_(draws.ge_(drop).to(stack.device)).div_(1 - drop)

    return sparsify


SPARSIFIERS: Mapping[str, Callable[[Mapping[str, State], Mapping[str, Any]], Sparsify]] = MappingProxyType(
    {"none": _keep_all, "trim": _trim, "drop": _drop}
)


def _stacks(layer: str, task_vectors: Mapping[str, State]) -> Iterator[Tensor]:
    size = _chunk_elements(len(task_vectors))
    for chunks in zip(*(layer_chunks(vector, layer, size) for vector in task_vectors.values()), strict=True):
        stack = torch.stack(chunks)
        _refuse_non_finite(stack, layer, [f"task vector {task!r}" for task in task_vectors])
        yield stack


def _chunk_elements(tasks: int) -> int:
    return max(1, STACK_ELEMENTS // tasks)


def _refuse_non_finite(rows: Tensor, layer: str, names: Iterable[str]) -> None:
    """A NaN is smaller than no threshold and would silently be trimmed, or spread."""
    if bool(rows.sum().isfinite()):  # one cheap look; the sum of finite rows may overflow, so look again
        return
    for name, row in zip(names, rows, strict=True):
        if not bool(row.isfinite().all()):
            raise CheckpointError(name, f"NaN or infinity in {layer}", "weights are finite", "a sound checkpoint")


def _row(rule: str | Rule) -> Rule:
    return rule if isinstance(rule, Rule) else lookup(RULES, rule, "rule")


# ---- settings


def resolve_settings(rule: str | Rule, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete settings of a rule, defaults filled in, as plain numbers and tuples: what a record keeps.

    Args:
        rule: a name in `RULES`, or a row.
        settings: those that are not the default.
            scaling: λ; a finite number, one a task, or one a task and layer.
            density: share of entries that trim keeps, in (0, 1].
            drop: probability that an entry is dropped, in [0, 1).
            seed: of the drop masks.

    Raises:
        ConfigError: a setting that the rule does not know, or a value out of range.
    """
    row = _row(rule)
    for name in settings:
        if name not in row.defaults:
            known = nearest(name, row.defaults) or "none; the rule has no settings"
            raise ConfigError(f"{row.name}.{name}", repr(settings[name]), "no such setting of this rule", known)
    return {name: _read(row, name, value) for name, value in {**row.defaults, **settings}.items()}


def _read(row: Rule, name: str, value: object) -> Any:
    read, allowed = SETTINGS[name]
    try:
        if isinstance(value, str | bool):
            raise TypeError
        return read(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{row.name}.{name}", repr(value), "out of range", allowed) from None


def _read_scaling(value: Any) -> Any:
    numbers = torch.as_tensor(value, dtype=torch.float64)
    if numbers.ndim > 2 or not numbers.numel() or not bool(numbers.isfinite().all()):
        raise ValueError
    plain = numbers.tolist()
    return tuple(tuple(row) if isinstance(row, list) else row for row in plain) if numbers.ndim else plain


def _number(fits: Callable[[float], bool]) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if not fits(float(value)):
            raise ValueError
        return float(value)

    return read


SETTINGS: Mapping[str, tuple[Callable[[Any], Any], str]] = MappingProxyType(
    {
        "scaling": (_read_scaling, "a finite number, one a task, or one a task and layer"),
        "density": (_number(lambda share: 0 < share <= 1), "a number above 0 and at most 1"),
        "drop": (_number(lambda probability: 0 <= probability < 1), "a number from 0 to below 1"),
        "seed": (operator.index, "a whole number"),
    }
)
