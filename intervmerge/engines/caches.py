"""What never changes while a merged base is frozen, computed once for all trials and processes of a machine.

Of every image: the class token at every block boundary, and all tokens at some, so that the exact engine can begin at
the deepest one before the first intervened block; of `adapt` and `validation`, which trials read again and again, also
what the class stream attends to, in a row of STORAGES.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from intervmerge.engines.batches import BLOCK, Batch, side_by_side, sizes
from intervmerge.engines.computing import autocast, embedded, threads
from intervmerge.engines.storages import STORAGES, Storage
from intervmerge.errors import DiskError
from intervmerge.finite import check_finite
from intervmerge.machine import GIB
from intervmerge.stores.mapped import DONE, MappedStore, writable
from intervmerge.stores.store import Layout, Store
from intervmerge.suites.encoder import CHUNK, Encoder
from intervmerge.suites.suite import Suite

STREAMED = ("adapt", "validation")
"""What the class stream runs on; `test` is read once, by the exact engine."""
FORMAT = 2
"""Of what caches hold; one of another format is computed anew."""
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
    fitting = (plan for plan in _ladder(suite, budget, half) if plan.bytes(suite) <= budget)
    plan = next(fitting, NO_CACHES) if stream else NO_CACHES
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


@dataclass(frozen=True)
class Part:
    """Some images of a split that is being filled; crosses to the process that fills it."""

    split: str
    folder: str
    """Where the split's tensors lie."""
    start: int
    """The first image, in the order of the cache."""
    stop: int

    @property
    def mark(self) -> Path:
        """The file that says that this part has been filled."""
        return Path(self.folder) / f"{self.start}-{self.stop}{DONE}"


class Caches:
    """The caches of one merged base, made when first asked for.

    Args:
        suite: whose images.
        encoder: the merged base.
        fingerprint: of the merged base.
        plan: what to keep.
        store: where.
        alive: called after every few images that are computed.

    On a CPU they are told by the number of threads, which is this process's own at first: another gives other last
    digits. Who fills for another process has as many.
    """

    def __init__(
        self,
        suite: Suite,
        encoder: Encoder,
        fingerprint: str,
        plan: CachePlan,
        store: Store,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan, self._alive = plan, alive
        self._suite, self._encoder, self._fingerprint, self._store = suite, encoder, fingerprint, store
        self._threads = torch.get_num_threads()
        self._splits: dict[str, CachedSplit | None] = {}

    def split(self, name: str) -> CachedSplit | None:
        """The caches of a split; None where it has none.

        Raises:
            OSError: there is no room for what trials train on; for `test`, which is read once, there is then no cache.
            NotFiniteError: an activation is infinite or NaN; nothing is kept.
        """
        if self._keeps(name) and name not in self._splits:
            order = self._order(name)
            try:
                found = self._store.fill(
                    self._key(name, order),
                    self._layout(name, len(order)),
                    lambda tensors: self._fill(tensors, name, order, range(len(order))),
                )
                self._splits[name] = self._opened(order, found, name)
            except OSError:
                if name in STREAMED:
                    raise
                self._splits[name] = None
        return self._splits.get(name)

    @contextmanager
    def parts(self, split: str) -> Iterator[list[Part]]:
        """The parts of a split that other processes are to fill, each by `fill_part`, before this context ends.

        It holds the split meanwhile, and seals it at the end; after an error, or where this process dies, nothing is
        left of it. There are no parts where the split is not cached, or is whole already. `split` opens it then.

        Raises:
            OSError: there is no room for what trials train on; `test` has no parts then, as in `split`.
            DiskError: the context ended, and a part had not been filled.
        """
        assert isinstance(self._store, MappedStore), "only files are seen by other processes"
        parts: list[Part] = []
        with ExitStack() as stack:
            if self._keeps(split):
                order = self._order(split)
                with nullcontext() if split in STREAMED else suppress(OSError):
                    whole = self._store.filling(self._key(split, order), self._layout(split, len(order)))
                    if (folder := stack.enter_context(whole).folder) is not None:
                        starts = range(0, len(order), CHUNK)
                        parts = [Part(split, str(folder), at, min(at + CHUNK, len(order))) for at in starts]
            yield parts
            if missing := [part for part in parts if not part.mark.is_file()]:
                got = f"{len(missing)} of {len(parts)} parts not filled, the first from image {missing[0].start}"
                raise DiskError(f"caches of {split}", got, "all parts are filled before the whole is sealed", "all")

    def fill_part(self, part: Part) -> None:
        """Fill a part; another process holds the whole.

        Raises:
            NotFiniteError: an activation is infinite or NaN.
            OSError: the whole was given up.
        """
        self._fill(writable(Path(part.folder)), part.split, self._order(part.split), range(part.start, part.stop))
        part.mark.touch()

    def _keeps(self, split: str) -> bool:
        return self.plan != NO_CACHES and (split in STREAMED or bool(self.plan.boundaries))

    def _order(self, split: str) -> Tensor:
        """The images of a split, by number, in the order in which they are kept."""
        every = sizes(self._suite, split)
        return side_by_side(every, self.plan.adapt) if split == "adapt" else torch.arange(sum(every.values()))

    def _opened(self, order: Tensor, found: Mapping[str, Tensor], split: str) -> CachedSplit:
        places = torch.full((sum(sizes(self._suite, split).values()),), -1)
        places[order] = torch.arange(len(order))
        device = self._encoder.tower.proj.device
        return CachedSplit(self.plan, places, {name: tensor.to(device) for name, tensor in found.items()})

    def _key(self, split: str, order: Tensor) -> str:
        """Everything that the tensors depend on, by content; one for all that share them."""
        shape, device = self._suite.architecture, self._encoder.tower.proj.device
        computed = f"{device.type} torch {torch.__version__}" + ("" if device.type == "cuda" else f" {self._threads}")
        kept = (self.plan.storage if split in STREAMED else None, self.plan.boundaries)
        # the images of two splits may be the same, as under `protocol: paper`, and are kept in another order
        places = hashlib.sha256(order.numpy().tobytes()).hexdigest()[:16]
        suite = f"{shape} {self._suite.file.normalization} {images_of(self._suite, split)}"
        return f"{FORMAT} {self._fingerprint} {suite} {kept} {places} {computed}"

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

    def _fill(self, tensors: Mapping[str, Tensor], split: str, order: Tensor, images: range) -> None:
        """Write some images, a chunk at a time; the chunks of a part are those of the whole."""
        plan, last = self.plan, self._suite.architecture.blocks
        row = self._storage(split)
        with torch.no_grad(), autocast(self._encoder.tower.proj.device), threads(self._threads):
            at_once = self._encoder.at_once  # which divides CHUNK
            for start in images[::at_once]:
                part = slice(start, min(start + at_once, images.stop))

                def put(name: str, at: int, values: Tensor, part: slice = part) -> None:
                    tensors[name][at, part] = values.cpu()
                    check_finite(tensors[name][at, part], f"{name} of the merged base", f"{split}, block {at}")

                for block, entering in enumerate(
                    self._encoder.boundaries(embedded(self._suite, self._encoder, split, order[part]))
                ):
                    put("class", block, entering[:, 0])
                    if block in plan.boundaries:
                        put("tokens", plan.boundaries.index(block), entering)
                    if row is not None and block < last:
                        normed = self._encoder.block(block).ln_1(entering[:, 1:])
                        for name, kept in row.keep(self._encoder, block, normed).items():
                            put(name, block, kept)
                self._alive()


def images_of(suite: Suite, split: str) -> str:
    """Hash of all images of a split, and of the names of their tasks, which decide their order."""
    content = repr([(task.name, task.splits[split].fingerprint) for task in suite.tasks])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
