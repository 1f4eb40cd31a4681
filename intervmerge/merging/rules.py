"""Merging rules: a table with one row a published method, over two kernels: by entry and by matrix.

Every rule gives θ_pre + M, the merged task vector M streamed by layer. A new rule is a new row, and its maths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from intervmerge.errors import lookup
from intervmerge.merging import veneers
from intervmerge.merging.entries import sparsifiers
from intervmerge.merging.entries.kernel import ByEntry, MergeLayer
from intervmerge.merging.layers import count_blocks
from intervmerge.merging.lora.knots import Aligned
from intervmerge.merging.lora.low_rank import LowRankVector, at_places, places
from intervmerge.merging.matrices import regression, spectral
from intervmerge.merging.matrices.kernel import ByMatrix
from intervmerge.merging.settings import ONE_SCALING, SETTINGS, Setting, Settings, resolve
from intervmerge.merging.task_vectors import State, by_task_and_layer, check_tasks, refuse_non_finite


class Kernel(Protocol):
    """How a rule merges: looks at all task vectors if it must, then goes layer by layer."""

    @property
    def reads(self) -> Mapping[str, Setting]:
        """Settings that it reads otherwise than the table says."""
        ...

    def start(self, task_vectors: Mapping[str, State], settings: Settings) -> MergeLayer:
        """Look at the task vectors, and return what merges a layer of them."""
        ...


@dataclass(frozen=True)
class Rule:
    """A merging rule: a row of `RULES`."""

    name: str
    kernel: Kernel
    defaults: Settings
    """The settings that the rule knows."""
    source: str
    about: str


TASK_ARITHMETIC, TIES, DARE = "arXiv:2212.04089", "arXiv:2306.01708", "arXiv:2311.03099"
CONSENSUS, ISO, WUDI = "arXiv:2405.07813", "arXiv:2502.04959", "arXiv:2503.08099"
KNOTS = "arXiv:2410.19735"
TRIM = {"density": 0.2}
DROP = {"drop": 0.5, "seed": 0}
MASKS = {"mask_threshold": 0.4, "agreement": 2}
MATRICES = {"scaling": 1.0, "matrices": "blocks", "qkv": "fused"}

# DARE with TIES: drop takes the place of trim, as in mergekit; DARE's authors drop, then trim as well.
# fmt: off
RULES: Mapping[str, Rule] = MappingProxyType({row.name: row for row in (
    Rule("weight_average",            ByEntry(reduce="mean"),            {},                       "arXiv:2203.05482",
         "mean of the fine-tuned weights"),
    Rule("task_arithmetic",           ByEntry(),                         {"scaling": 0.3},         TASK_ARITHMETIC,
         "scaled sum of the task vectors"),
    Rule("ties_mean",                 ByEntry(sparsifiers.trim, elect=True, reduce="disjoint_mean"),
         {"scaling": 1.0, **TRIM}, TIES,
         "trim, elect signs, mean of the survivors (the TIES paper)"),
    Rule("ties_sum",                  ByEntry(sparsifiers.trim, elect=True), {"scaling": 0.3, **TRIM}, TIES,
         "trim, elect signs, sum of the survivors (as AdaMerging and IntervMerge use TIES)"),
    Rule("dare_task_arithmetic",      ByEntry(sparsifiers.drop),         {"scaling": 0.3, **DROP}, DARE,
         "drop entries at random and rescale, then task arithmetic"),
    Rule("dare_ties_mean",            ByEntry(sparsifiers.drop, elect=True, reduce="disjoint_mean"),
         {"scaling": 1.0, **DROP}, DARE,
         "drop entries at random and rescale, elect signs, mean of the survivors"),
    Rule("dare_ties_sum",             ByEntry(sparsifiers.drop, elect=True), {"scaling": 0.3, **DROP}, DARE,
         "drop entries at random and rescale, elect signs, sum of the survivors"),
    Rule("breadcrumbs",               ByEntry(sparsifiers.breadcrumbs),
         {"scaling": 0.2, "density": 0.15, "outliers": 0.006, "within": "rows"}, "arXiv:2312.06795",
         "drop the largest entries and the small ones, sum of the rest"),
    Rule("magmax",                    ByEntry(sparsifiers.winner),       {"scaling": 0.5},         "arXiv:2407.06322",
         "entry by entry the task that moved it most"),
    Rule("consensus_task_arithmetic", ByEntry(consensus=True),           {"scaling": 0.3, **MASKS}, CONSENSUS,
         "task arithmetic where enough tasks use an entry"),
    Rule("consensus_ties",            ByEntry(sparsifiers.trim, elect=True, consensus=True),
         {"scaling": 0.3, **TRIM, **MASKS}, CONSENSUS,
         "TIES (sum) where enough tasks use an entry"),
    Rule("pcb",                       ByEntry(sparsifiers.balance),
         {"scaling": 1.2, "density": 0.05, "clip": 0.01}, "arXiv:2410.02396",
         "mean of the entries, weighted by what they are to their task and to the others"),
    Rule("iso_c",                     ByMatrix(spectral.isotropic),      MATRICES,                 ISO,
         "the sum, with every singular value their mean"),
    Rule("iso_cts",                   ByMatrix(spectral.isotropic_with_tasks), {**MATRICES, "common": 0.8}, ISO,
         "common directions of the sum and own ones of the tasks, all of one singular value"),
    Rule("tsv_m",                     ByMatrix(spectral.task_singular_vectors), MATRICES,          "arXiv:2412.00081",
         "the largest singular directions of each task, made orthogonal"),
    Rule("cart",                      ByMatrix(spectral.centred),
         {**MATRICES, "rank_share": 0.08, "deviation": 1.0}, "arXiv:2412.12153",
         "the mean and the largest singular directions of each task's deviation from it"),
    Rule("wudi",                      ByMatrix(regression.wudi),
         {**MATRICES, "steps": 300, "step_size": 0.04}, WUDI,
         "least interference with the task vectors, by Adam from the sum on"),
    Rule("wudi_flow",                 ByMatrix(regression.wudi_flow),    {**MATRICES, "time": 3.0}, WUDI,
         "least interference, by the gradient's flow from the sum on, in closed form"),
    Rule("wudi_ridge",                ByMatrix(regression.wudi_ridge),   {**MATRICES, "ridge": 0.1}, WUDI,
         "least interference with a pull towards the sum, in closed form"),
    Rule("knots_ties",                Aligned(ByEntry(sparsifiers.trim, elect=True, reduce="disjoint_mean")),
         {"scaling": 0.6, **TRIM, "matrices": "blocks"}, KNOTS,
         "TIES (mean) in directions that the tasks share; made for LoRA"),
    Rule("knots_dare_ties",           Aligned(ByEntry(sparsifiers.drop, elect=True, reduce="disjoint_mean")),
         {"scaling": 0.7, "drop": 0.1, "seed": 0, "matrices": "blocks"}, KNOTS,
         "DARE-TIES (mean) in directions that the tasks share; made for LoRA"),
)})
# fmt: on


@torch.no_grad()
def merge_states(
    pretrained: State, task_vectors: Mapping[str, State], rule: str | Rule, **settings: Any
) -> dict[str, Tensor]:
    """θ_pre + the merged task vector, a new fp32 state. Reads its inputs by layer, never writes into them.

    Beside the result a rule by entry holds a few MiB, whatever the number of tasks, and a rule by matrix one layer
    of all tasks and what solves it, if the states are stored (memory-mapped, say), or are `TaskVector`s of stored
    states; of any other state that computes its layers it holds one layer more.

    Where all are of low rank, only the rows that one of them moves are merged, q, k and v apart where adapters have
    them apart: shares such as a density count these alone. Coefficients by layer and blocks are the whole model's.

    Args:
        pretrained: fixes the order of the layers, of coefficients too.
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
    blocks = count_blocks(pretrained)
    veneers.check_depth(blocks, chosen)
    scaling = 1.0 if veneers.scales_at_the_end(chosen) else chosen.get("scaling", 1.0)
    given = torch.tensor(scaling, dtype=torch.float32)
    coefficients = by_task_and_layer(given, len(task_vectors), len(pretrained), f"{row.name}.scaling")
    columns = dict(zip(pretrained, coefficients.unbind(1), strict=True))
    low_rank = {task: vector for task, vector in task_vectors.items() if isinstance(vector, LowRankVector)}
    if low_rank.keys() < task_vectors.keys():
        return _merged(pretrained, task_vectors, row, chosen, columns, blocks)
    where = places(low_rank)
    moved = {task: at_places(vector, where) for task, vector in low_rank.items()}
    rows = {name: place.rows(pretrained) for name, place in where.items()}
    columns = {name: columns[place.layer] for name, place in where.items()}
    parts = _merged(rows, moved, row, chosen, columns, blocks)
    whole = {layer: _place(layer, base).copy_(base) for layer, base in pretrained.items()}
    for name, place in where.items():
        place.rows(whole).copy_(parts.pop(name))
    return whole


def _merged(
    pretrained: State,
    task_vectors: Mapping[str, State],
    row: Rule,
    chosen: Settings,
    columns: Mapping[str, Tensor],
    blocks: int,
) -> dict[str, Tensor]:
    """`merge_states` over all layers of `pretrained`: settings complete, λ [tasks] by layer, the encoder's blocks."""
    merged = {layer: _place(layer, base) for layer, base in pretrained.items()}
    merge_layer = row.kernel.start(task_vectors, chosen)
    for layer, place in merged.items():
        _fill(place, merge_layer(layer, columns[layer]))
    veneers.put_on(merged, task_vectors, chosen, blocks)
    for layer, base in pretrained.items():
        merged[layer].add_(base.float())
    return merged


def _place(layer: str, base: Tensor) -> Tensor:
    """Room for the layer, once its pre-trained weights are found sound."""
    refuse_non_finite(base.reshape(1, -1), layer, ["the pre-trained state"])
    return torch.empty(base.shape, dtype=torch.float32, device=base.device)


def _fill(place: Tensor, chunks: Iterable[Tensor]) -> None:
    """Write the chunks one after the other."""
    start = 0
    for chunk in chunks:
        place.view(-1)[start : start + len(chunk)] = chunk
        start += len(chunk)


def _row(rule: str | Rule) -> Rule:
    return rule if isinstance(rule, Rule) else lookup(RULES, rule, "rule")


def resolve_settings(rule: str | Rule, settings: Settings) -> dict[str, Any]:
    """The complete settings of a rule, defaults filled in, as plain numbers, words and tuples: what a record keeps.

    Args:
        rule: a name in `RULES`, or a row.
        settings: those that are not the default: of the rule (see `SETTINGS`), or of a veneer, which any rule takes:
            `depth`, and `svc` with `svc_floor` and `svc_scaling` (see `veneers`). A veneer not asked for is not
            among the result.

    Raises:
        ConfigError: a setting that the rule does not know, or a value out of range.
    """
    row = _row(rule)
    own = {**row.kernel.reads, **({"scaling": ONE_SCALING} if "depth" in settings else {})}
    defaults = {**row.defaults, **veneers.settings_of_veneers(settings)}
    return resolve(row.name, defaults, settings, {**SETTINGS, **own})
