"""LoRA adapters of PEFT: scaling · B A by layer, applied to the base, and kept apart.

scaling is alpha / rank, or alpha / √rank (rsLoRA), with the layer's own alpha and rank where a pattern sets them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from intervmerge.errors import CheckpointError
from intervmerge.merging.lora.low_rank import LowRank, scaling_of
from intervmerge.suites.readers import open_clip_names, transformers_names
from intervmerge.suites.readers.canonical import FLOATS, Read, Target, finite, leftovers, stored_as
from intervmerge.suites.readers.containers.stored import Entry, Stored, listed

NAME = "peft_lora"
_MATRIX = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.(?!weight$)[^.]+)?\.weight")
_READ = frozenset(["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias"])
"""Settings that are read; others that are set, and not in the next list, may change what the matrices mean."""
_IMMATERIAL = frozenset(
    [
        *("task_type", "base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
        *("lora_dropout", "loftq_config", "megatron_core", "runtime_config", "qalora_group_size"),
    ]
)
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of `init_lora_weights` under which the base itself was changed."""
Place = tuple[str, int, int, bool]
"""A layer, the first of the rows and their count, and whether it stands transposed."""


def recognise(stored: Stored) -> bool:
    """Whether there are LoRA matrices, or the settings of a PEFT adapter."""
    return "adapter" in stored.settings or any(".lora_" in name for name in stored.entries)


def read(stored: Stored, target: Target) -> Read:
    """The adapter on its base, and its matrices.

    Raises:
        CheckpointError: there is no base or no settings, a kind that is not read, or matrices that fit nowhere; all in
            one message.
    """
    config = stored.settings.get("adapter", {})
    faults = list(_unsupported(config)) if config else ["no adapter_config.json beside it: give the folder of both"]
    known = not faults
    faults += [] if target.base else ["an adapter is no pre-trained model, and needs one"]
    matrices, others = _matrices(stored)
    text = {name for sides in matrices.values() for name, _ in sides.values() if ".text_model." in f".{name}"}
    used = {name: entry for sides in matrices.values() for name, entry in sides.values() if name not in text}
    dropped, _ = leftovers(stored, {**used, **others})
    faults += [f"unexpected {listed(others)}"] if others else []
    faults += [] if used else ["no matrices of the vision tower"]
    low_rank: list[LowRank] = []
    places, infinite = _places(target), list[str]()
    for module, sides in matrices.items() if known else ():
        if {name for name, _ in sides.values()} <= text:
            continue
        found = _low_rank(module, sides, places, target, config, infinite)
        low_rank += found if isinstance(found, list) else []
        faults += [found] if isinstance(found, str) else []
    faults += _twice(low_rank)
    faults += [f"NaN or infinite {listed(infinite)}"] if infinite else []
    if faults:
        rule = "a LoRA adapter has A and B for layers of the architecture, and settings that are known"
        raise CheckpointError(stored.path, "; ".join(faults), rule, "a folder as PEFT saves it, of plain LoRA")
    state = apply(target.base or {}, low_rank)
    return Read(NAME, stored.container, state, dropped, {}, stored_as(used), 0.0, tuple(low_rank))


def apply(base: Mapping[str, Tensor], low_rank: list[LowRank]) -> dict[str, Tensor]:
    """A base with an adapter added, fp32; layers that it does not touch are the base's own tensors."""
    state = {layer: base[layer].float() for layer in base}
    for part in low_rank:
        layer = state[part.layer].clone()
        rows = layer[part.start : part.start + len(part.b)]
        rows += part.delta.view_as(rows)
        state[part.layer] = layer
    return state


def _matrices(stored: Stored) -> tuple[dict[str, dict[str, tuple[str, Entry]]], dict[str, Entry]]:
    """A and B by module, and what else stands in the file that may not be dropped."""
    matrices: dict[str, dict[str, tuple[str, Entry]]] = {}
    for name, entry in stored.entries.items():
        if found := _MATRIX.fullmatch(name):
            module = found["module"].removeprefix("base_model.model.")
            matrices.setdefault(module, {})[found["side"]] = name, entry
    known = {name for sides in matrices.values() for name, _ in sides.values()}
    _, unexpected = leftovers(stored, dict.fromkeys(known))
    return matrices, {name: stored.entries[name] for name in unexpected}


def _places(target: Target) -> dict[str, Place]:
    """Modules of transformers and of open_clip, and where their weights stand in canonical form."""
    places: dict[str, Place] = {}
    for layer, shape in target.shapes.items():
        if layer.endswith("bias"):
            continue
        for sources in (transformers_names.sources, open_clip_names.sources):
            parts = sources(layer)
            for index, source in enumerate(parts):
                rows = shape[0] // len(parts)
                module = source.name.removesuffix(".weight")
                places[module] = layer, index * rows, rows, source.transposed
    return places


def _low_rank(
    module: str,
    sides: Mapping[str, tuple[str, Entry]],
    places: Mapping[str, Place],
    target: Target,
    config: Mapping[str, Any],
    infinite: list[str],
) -> list[LowRank] | str:
    """The pair of one module, or what is wrong with it."""
    if ".base_layer." in module:  # seen in PEFT 0.21: forward and merge add this delta twice, so it means no one thing
        return f"{listed([module])} wraps open_clip's attention, whose out_proj PEFT does not apply as scaling · B A"
    words = module.split(".")
    place = next((places[m] for i in range(len(words)) if (m := ".".join(words[i:])) in places), None)
    if place is None:
        return f"{listed([module])} is no layer of the architecture"
    if set(sides) != {"A", "B"}:
        return f"{listed([module])} has only {'A' if 'A' in sides else 'B'}"
    layer, start, rows, transposed = place
    inputs = target.shapes[layer][1:].numel()
    outputs, inputs = (inputs, rows) if transposed else (rows, inputs)
    (name_a, a), (name_b, b) = sides["A"], sides["B"]
    rank = a.shape[0] if a.shape else 0
    expected = int(_by_pattern(config.get("rank_pattern"), module, config.get("r", rank)))
    fits = a.shape[1:].numel() == inputs and b.shape[:1] == (outputs,) and b.shape[1:].numel() == rank > 0
    if not fits or rank != expected or not {a.dtype, b.dtype} <= set(FLOATS):
        got = f"A {list(a.shape)} and B {list(b.shape)}"
        return f"{listed([module])}: {got} for rank {expected}, {inputs} inputs and {outputs} outputs"
    alpha = float(_by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", rank)))
    scaling = scaling_of(alpha, rank, rank_stabilised=bool(config.get("use_rslora")))
    left, right = finite(name_b, b, infinite).flatten(1), finite(name_a, a, infinite).flatten(1)
    left, right = (right.T.contiguous(), left.T.contiguous()) if transposed else (left, right)
    return [LowRank(layer, start, left, right, scaling)]


def _by_pattern(patterns: object, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the whole of a module's name, or its end after a dot."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _unsupported(config: Mapping[str, Any]) -> Iterator[str]:
    """Settings under which the matrices mean something else than scaling · B A on the base."""
    if config.get("peft_type") != "LORA":
        yield f"an adapter of kind {listed([str(config.get('peft_type'))])}, not LoRA"
    if config.get("use_dora"):
        yield "use_dora: DoRA rescales the columns of the base"
    if config.get("bias", "none") != "none":
        yield f"bias {listed([str(config['bias'])])}: biases of the base were trained too"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_MOVES_BASE):
        yield f"init_lora_weights {listed([start])}: the base was changed at the start"
    other = [key for key, value in config.items() if value and key not in _IMMATERIAL | _READ]
    if other:
        yield f"settings that are not read: {listed(sorted(other))}"
    numbers = {"r": config.get("r", 1), "lora_alpha": config.get("lora_alpha", 1)}
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            yield f"{key} is no mapping"
            continue
        numbers |= {f"{key}.{pattern}": value for pattern, value in patterns.items()}
        yield from (f"{key} {listed([p])}: a pattern that may match without end" for p in patterns if not _is_tame(p))
    for key, value in numbers.items():
        if type(value) not in (int, float) or not 0 < value < 1e6:
            yield f"{listed([key])} must be a number above 0"


def _is_tame(pattern: str) -> bool:
    """Whether a pattern repeats single characters alone, and few: one that repeats groups may take for ever."""
    if len(pattern) > 200 or re.search(r"\)[*+?{]|[*+}][*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > 3:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _twice(low_rank: list[LowRank]) -> list[str]:
    places = [(part.layer, part.start) for part in low_rank]
    return [f"{layer} from row {start} twice" for layer, start in sorted({p for p in places if places.count(p) > 1})]
