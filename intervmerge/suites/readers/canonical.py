"""From a file's names to the canonical form: open_clip's vision tower, q, k and v in one matrix, fp32."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from intervmerge.errors import CheckpointError
from intervmerge.merging import State
from intervmerge.merging.lora.low_rank import LowRank
from intervmerge.suites.encoder import Architecture, Encoder
from intervmerge.suites.readers.containers.stored import Entry, Stored, listed

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HALVES = (torch.float16, torch.bfloat16)
_TEXT = "of the text tower; heads are made from text apart"
DROPPED = (
    (r"(^|\.)logit_(scale|bias)$", "the scale of logits is in the heads"),
    (r"(^|\.)(text_model|text|token_embedding|text_projection|ln_final)(\.|$)", _TEXT),
    (r"(^|\.)(attn_mask|position_ids)$", "a buffer that the architecture gives"),
    (r"(^|\.)(optimizer|scaler|scheduler|lr_scheduler)\.", "state of a training"),
    (r"(^|\.)classification_head\.", "a head; it is imported apart"),
)
"""Names that may stand beside a tower's, and why they are not read."""
_OUTSIDE = (r"(^|\.)(positional_embedding|transformer\.resblocks\..+)$", _TEXT)
"""The same where the tower's own names have a prefix that these lack."""


@dataclass(frozen=True)
class Target:
    """What is wanted of a file."""

    architecture: Architecture
    base: State | None = None
    """The pre-trained model in canonical form, for a fine-tuned one; None: the file is the pre-trained model."""
    lossy: bool = False
    """A fine-tuned model in half precision is taken, and the loss told."""

    @cached_property
    def layers(self) -> State:
        """Every layer in the tower's order, without numbers."""
        with torch.device("meta"):
            return dict(Encoder(self.architecture).tower.named_parameters())

    @cached_property
    def shapes(self) -> Mapping[str, torch.Size]:
        """The shape of every layer, in the tower's order."""
        return {name: parameter.shape for name, parameter in self.layers.items()}


@dataclass(frozen=True)
class Read:
    """A model, read."""

    format: str
    """A row of READERS."""
    container: str
    state: Mapping[str, Tensor]
    """Canonical, fp32; of an adapter: the base with it applied."""
    dropped: Mapping[str, str]
    """Names of the file that were not read, and why."""
    borrowed: Mapping[str, str] = field(default_factory=dict)
    """Layers that the file lacks, and where they come from."""
    stored_as: Mapping[str, int] = field(default_factory=dict)
    """Tensors by the type in which they were stored."""
    loss: float = 0.0
    """What half precision took from the task vector: norm of the rounding error over the norm of the vector."""
    low_rank: tuple[LowRank, ...] = ()
    """An adapter's matrices, kept apart."""


@dataclass(frozen=True)
class Source:
    """Where a layer, or one of its equal parts by rows, stands in a file."""

    name: str
    transposed: bool = False


Sources = Callable[[str], tuple[Source, ...]]
"""From a canonical layer to where it stands, below the prefix."""


def prefix_of(stored: Stored, anchor: str) -> str | None:
    """What stands before a tower's names, by a name that each tower has once; None: there is no such name.

    Raises:
        CheckpointError: there are several such towers.
    """
    found = sorted(name.removesuffix(anchor) for name in stored.entries if f".{name}".endswith(f".{anchor}"))
    if len(found) > 1:
        got = f"{len(found)} vision towers: {listed(f'{prefix}*' for prefix in found)}"
        raise CheckpointError(stored.path, got, "which is meant cannot be told", "a file with one vision tower")
    return found[0] if found else None


def read_full(
    stored: Stored,
    target: Target,
    format_name: str,
    sources: Sources,
    *,
    prefix: str = "",
    contradictions: Sequence[str] = (),
    lent: Sequence[str] = (),
) -> Read:
    """All layers of a model whose names are known.

    Args:
        stored: the file.
        target: what is wanted.
        format_name: a row of READERS.
        sources: from a layer to where it stands.
        prefix: what stands before the tower's names.
        contradictions: what the settings beside the file say against the architecture.
        lent: layers that the format need not have, and takes from the pre-trained model.

    Raises:
        CheckpointError: everything that is missing, unexpected, of another shape or not finite, in one message.
    """
    wanted = {layer: [(prefix + s.name, s) for s in sources(layer)] for layer in target.shapes}
    absent = {layer for layer, parts in wanted.items() if not any(name in stored.entries for name, _ in parts)}
    borrowed = {layer: "of the pre-trained model: this format has none" for layer in lent if layer in absent}
    needed = {layer: parts for layer, parts in wanted.items() if layer not in borrowed}
    missing = [name for parts in needed.values() for name, _ in parts if name not in stored.entries]
    used = {name: stored.entries[name] for parts in needed.values() for name, _ in parts if name in stored.entries}
    dropped, unexpected = leftovers(stored, used, prefix)
    faults = list(contradictions)
    faults += [f"missing {listed(missing)}"] if missing else []
    faults += [f"unexpected {listed(unexpected)}"] if unexpected else []
    state: dict[str, Tensor] = {}
    misshaped: list[str] = []
    infinite: list[str] = []
    for layer, parts in needed.items():
        rows, *rest = target.shapes[layer]
        part = torch.Size([rows // len(parts), *rest])
        there = [(name, source, stored.entries[name]) for name, source in parts if name in stored.entries]
        bad = list(_misshapen(there, part))
        tensors = [] if bad else [finite(name, entry, infinite) for name, _, entry in there]
        misshaped += bad
        if len(tensors) == len(parts):
            flipped = [t.T if s.transposed else t for t, (_, s, _) in zip(tensors, there, strict=True)]
            state[layer] = torch.cat(flipped).contiguous() if len(flipped) > 1 else flipped[0].contiguous()
    faults += [f"of another shape {listed(misshaped)}"] if misshaped else []
    faults += [f"NaN or infinite {listed(infinite)}"] if infinite else []
    dtypes = {layer: [stored.entries[name].dtype for name, _ in needed[layer]] for layer in state}
    loss = half_loss(
        state, target.base, {layer: min(d, key=lambda dtype: dtype.itemsize) for layer, d in dtypes.items()}
    )
    faults += list(_half(used, target, loss))
    if faults:
        rule = f"as {format_name}, it must hold the {len(target.shapes)} layers of the architecture, finite"
        raise CheckpointError(stored.path, "; ".join(faults), rule, "a whole model of this architecture")
    state |= {layer: (target.base or {})[layer].float() for layer in borrowed}
    ordered = {layer: state[layer] for layer in target.shapes}
    return Read(format_name, stored.container, ordered, dropped, borrowed, stored_as(used), loss)


def _misshapen(parts: Sequence[tuple[str, Source, Entry]], expected: torch.Size) -> Iterator[str]:
    for name, source, entry in parts:
        shape = list(expected)[::-1] if source.transposed else list(expected)
        if entry.dtype not in FLOATS:
            yield f"{name} stored as {entry.dtype}"
        elif list(entry.shape) != shape:
            yield f"{name} {list(entry.shape)} for {shape}"


def finite(name: str, entry: Entry, infinite: list[str]) -> Tensor:
    """A tensor in fp32; if it is not finite, its name and how often go to `infinite`."""
    tensor = entry.read().float()
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        infinite.append(f"{name} ({bad} times)")
    return tensor


def leftovers(stored: Stored, used: Mapping[str, object], prefix: str = "") -> tuple[dict[str, str], list[str]]:
    """Of the names that are not used: those that may stand there, and why they are dropped; and those that may not."""
    dropped = {name: f"no tensor: {what}" for name, what in stored.others.items()}
    unexpected = []
    for name in (name for name in stored.entries if name not in used):
        outside = () if name.startswith(prefix) else (_OUTSIDE,)
        why = next((why for pattern, why in (*DROPPED, *outside) if re.search(pattern, name)), None)
        if why is None and stored.entries[name].dtype not in FLOATS:
            why = "a buffer of integers"
        if why is None:
            unexpected.append(name)
        else:
            dropped[name] = why
    return dropped, unexpected


def stored_as(used: Mapping[str, Entry]) -> dict[str, int]:
    """Tensors by the type in which they were stored."""
    return dict(Counter(str(entry.dtype).removeprefix("torch.") for entry in used.values()))


def half_loss(state: State, base: State | None, dtypes: Mapping[str, torch.dtype]) -> float:
    """Norm of the rounding error of layers stored in half precision, over the norm of the task vector.

    Rounding moves a number by up to half the step to the next one, all amounts alike: its square is on average a
    twelfth of the step's.
    """
    if base is None or not any(dtype in HALVES for dtype in dtypes.values()):
        return 0.0
    error = vector = 0.0
    for layer, tensor in state.items():
        vector += float((tensor - base[layer].float()).double().square().sum())
        if dtypes[layer] in HALVES:
            info = torch.finfo(dtypes[layer])
            _, exponent = torch.frexp(tensor.abs().clamp(min=info.smallest_normal))
            step = torch.ldexp(torch.full_like(tensor, info.eps), exponent - 1)
            error += float(step.double().square().sum()) / 12
    return (error / vector) ** 0.5 if vector else float("inf")


def _half(used: Mapping[str, Entry], target: Target, loss: float) -> Iterator[str]:
    halves = {name: entry for name, entry in used.items() if entry.dtype in HALVES}
    if halves and target.base is not None and not target.lossy:
        kinds = " and ".join(f"{count} as {dtype}" for dtype, count in stored_as(halves).items())
        yield (
            f"a fine-tuned model in half precision ({kinds}): its task vector has lost {loss:.1%}, "
            "which is taken only where lossy is asked for"
        )
