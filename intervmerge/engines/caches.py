"""What never changes while a merged base is frozen, computed once for all trials and processes of a machine.

Of every image: the class token at every block boundary, and all tokens at some, so that the exact engine can begin at
the deepest one before the first intervened block; of `adapt` and `validation`, which trials read again and again, also
what the class stream attends to, in a row of STORAGES.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intervmerge.engines.batches import BLOCK, Batch, side_by_side, sizes
from intervmerge.engines.storages import STORAGES, Storage
from intervmerge.engines.store import Layout, Store
from intervmerge.machine import GIB
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import CHUNK, Suite

STREAMED = ("adapt", "validation")
"""What the class stream runs on; `test` is read once, by the exact engine."""
FEWEST = 4 * BLOCK
"""Images a task to adapt on, at least; with fewer the exact engine trains."""


@dataclass(frozen=True)
class CachePlan:
    """What is kept, chosen by `plan_caches`; equal for all processes of a search, as it decides what is computed."""

    storage: str | None = None
    """A row of STORAGES; None keeps nothing for the class stream, and the exact engine trains."""
    boundaries: tuple[int, ...] = ()
    """Block boundaries at which all tokens are kept, fp32; 0 is what enters block 0."""
    adapt: int | None = None
    """Images a task to adapt on; None is all."""

    def bytes(self, suite: Suite) -> int:
        """What this needs for a suite."""
        images = sum(min(size, self.adapt or size) for size in sizes(suite, "adapt").values())
        images += sum(sizes(suite, "validation").values())
        tests = sum(sizes(suite, "test").values()) if self.boundaries else 0
        return _image_bytes(self, suite) * images + _image_bytes(replace(self, storage=None), suite) * tests

    def words(self, suite: Suite) -> str:
        """What is kept and what it costs, and what was given up for it."""
        if self.storage is None and not self.boundaries:
            return "no caches: the exact engine computes every block at every step"
        kept = f"class stream in {self.storage}" if self.storage else "no class stream, the exact engine trains"
        few = f"; ONLY {self.adapt} images a task to adapt on, as more do not fit" if self.adapt else ""
        whole = f"{len(self.boundaries)} of {suite.architecture.blocks} block boundaries"
        return f"caches: {kept}, {whole}, {self.bytes(suite) / GIB:.2f} GiB on this machine{few}"


NO_CACHES = CachePlan()


def _image_bytes(plan: CachePlan, suite: Suite) -> int:
    """Bytes of one image under a plan."""
    shape = suite.architecture
    stream = STORAGES[plan.storage].image_bytes(shape) if plan.storage else 0
    return stream + 4 * shape.width * (len(plan.boundaries) * shape.tokens + shape.blocks + 1)


def plan_caches(suite: Suite, budget: int, *, stream: bool = True, half: bool = False) -> CachePlan:
    """The best that fits: the ladder fp32, bf16, bf16 tokens, fewer images to adapt on, exact; then block boundaries.

    Args:
        suite: whose images.
        budget: bytes.
        stream: whether any trial edits the class token alone.
        half: whether the encoder computes in bf16 anyway, so that fp32 would keep nothing more.
    """
    found = (
        next((plan for plan in _ladder(suite, budget, half) if plan.bytes(suite) <= budget), None) if stream else None
    )
    plan = found or NO_CACHES
    blocks = suite.architecture.blocks
    for count in range(blocks, 0, -1):
        even = tuple(sorted({number * blocks // count for number in range(count)}))
        if (more := replace(plan, boundaries=even)).bytes(suite) <= budget:
            return more
    return plan


def _ladder(suite: Suite, budget: int, half: bool) -> list[CachePlan]:
    names = [name for name, row in STORAGES.items() if not (half and row.dtype == torch.float32)]
    smallest = CachePlan(storage=names[-1])
    left = budget // _image_bytes(smallest, suite) - sum(sizes(suite, "validation").values())
    few = left // len(suite.tasks) // BLOCK * BLOCK
    cut = [replace(smallest, adapt=few)] if few >= FEWEST else []
    return [*(CachePlan(storage=name) for name in names), *cut]


@dataclass(frozen=True)
class CachedSplit:
    """The caches of one split."""

    plan: CachePlan
    places: Tensor
    """Where an image lies, by its number; -1 for one that is not cached."""
    tensors: Mapping[str, Tensor]
    """`class` [blocks + 1, images, width]; `tokens` [boundaries, images, tokens, width]; the storage's own
    [blocks, images, ...]."""

    def placed(self, batch: Batch) -> slice | Tensor:
        """Where a batch's images lie, row after row: a slice, which copies nothing, where they are side by side."""
        places = self.places[batch.index.flatten()]
        first = int(places[0])
        if torch.equal(places, torch.arange(first, first + len(places))):
            return slice(first, first + len(places))
        return places.to(self.tensors["class"].device)

    def taken(self, name: str, block: int, places: slice | Tensor) -> Tensor:
        """A tensor of one block, or boundary, at the images' places."""
        return self.tensors[name][block][places]


class Caches:
    """The caches of one merged base, made when first asked for.

    Args:
        suite: whose images.
        encoder: the merged base.
        fingerprint: of the merged base.
        plan: what to keep.
        store: where.
    """

    def __init__(self, suite: Suite, encoder: Encoder, fingerprint: str, plan: CachePlan, store: Store) -> None:
        self.plan = plan
        self._suite, self._encoder, self._fingerprint, self._store = suite, encoder, fingerprint, store
        self._splits: dict[str, CachedSplit | None] = {}

    def split(self, name: str) -> CachedSplit | None:
        """The caches of a split; None where it has none.

        Raises:
            OSError: there is no room for what trials train on; for `test`, which is read once, there is then no cache.
        """
        if self.plan == NO_CACHES or (name not in STREAMED and not self.plan.boundaries):
            return None
        if name not in self._splits:
            try:
                self._splits[name] = self._filled(name)
            except OSError:
                if name in STREAMED:
                    raise
                self._splits[name] = None
        return self._splits[name]

    def _filled(self, split: str) -> CachedSplit:
        every = sizes(self._suite, split)
        order = side_by_side(every, self.plan.adapt) if split == "adapt" else torch.arange(sum(every.values()))
        places = torch.full((sum(every.values()),), -1)
        places[order] = torch.arange(len(order))
        device = self._encoder.tower.proj.device
        key = f"{self._fingerprint}/{split}/{images_of(self._suite, split)}/{self.plan}/{device.type}"
        found = self._store.fill(
            key, self._layout(split, len(order)), lambda tensors: self._fill(tensors, split, order)
        )
        return CachedSplit(self.plan, places, {name: tensor.to(device) for name, tensor in found.items()})

    def _storage(self, split: str) -> Storage | None:
        return STORAGES[self.plan.storage] if self.plan.storage and split in STREAMED else None

    def _layout(self, split: str, images: int) -> Layout:
        shape, plan, row = self._suite.architecture, self.plan, self._storage(split)
        layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "class": ((shape.blocks + 1, images, shape.width), torch.float32)
        }
        if plan.boundaries:
            layout["tokens"] = ((len(plan.boundaries), images, shape.tokens, shape.width), torch.float32)
        if row is not None:
            layout |= {name: ((shape.blocks, images, *of), row.dtype) for name, of in row.shapes(shape).items()}
        return layout

    def _fill(self, tensors: Mapping[str, Tensor], split: str, order: Tensor) -> None:
        plan, last = self.plan, self._suite.architecture.blocks
        row = self._storage(split)
        with torch.no_grad(), autocast(self._encoder.tower.proj.device):
            for start in range(0, len(order), CHUNK):
                part = slice(start, start + CHUNK)
                tokens = embedded(self._suite, self._encoder, split, order[part])
                for block, entering in enumerate(self._encoder.boundaries(tokens)):
                    tensors["class"][block, part] = entering[:, 0].cpu()
                    if block in plan.boundaries:
                        tensors["tokens"][plan.boundaries.index(block), part] = entering.cpu()
                    if row is not None and block < last:
                        normed = self._encoder.block(block).ln_1(entering[:, 1:])
                        for name, kept in row.keep(self._encoder, block, normed).items():
                            tensors[name][block, part] = kept.cpu()


def autocast(device: torch.device) -> torch.autocast:
    """bf16 for the encoder on CUDA; fp32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def embedded(suite: Suite, encoder: Encoder, split: str, index: Tensor) -> Tensor:
    """Tokens that enter block 0 [images, tokens, width] of images by their numbers [images]."""
    offset = 0
    found = torch.empty(len(index), 3, suite.architecture.image_size, suite.architecture.image_size, dtype=torch.uint8)
    for task in suite.tasks:
        own = task.splits[split].pixels
        mine = (index >= offset) & (index < offset + len(own))
        found[mine] = own[index[mine] - offset]
        offset += len(own)
    return encoder.embed(suite.normalise(found.to(encoder.tower.proj.device)))


def images_of(suite: Suite, split: str) -> str:
    """Hash that tells the images of a split from those of another split of the same suite."""
    digest = hashlib.sha256()
    for task in suite.tasks:
        pixels = task.splits[split].pixels
        digest.update(f"{task.name} {len(pixels)}".encode() + pixels[:BLOCK].numpy().tobytes())
    return digest.hexdigest()[:16]
