"""The module that applies many interventions at once: rows of (task, placement), stacked.

Rows of one placement share their tensors, [rows, rank, slice]; stacks of different formula, rank and slice
are zero padded to one kernel of [rows, rank, width] a block. Padding these small tensors, rather than gathering
slices of z, leaves one batched product and exact zeros outside every slice. Rows never touch one another: among
others, a row has the values, the gradients and (as Adam works by element) the training that it has alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.errors import ConfigError
from intervmerge.finite import check_finite
from intervmerge.interventions import files
from intervmerge.interventions.formulas import FORMULAS, Formula, Kernel, Moments, Tensors
from intervmerge.interventions.placement import Placement
from intervmerge.seeding import generator

Row = tuple[str, Placement]
"""A task and where its interventions stand."""
Statistics = Callable[[str, int], tuple[Tensor, Tensor]]
"""From task and block: mean [width] and covariance [width, width] of z over the edited tokens of `adapt`."""


class Stack(nn.Module):
    """Rows of one placement; every parameter is one tensor of one block, [rows, ...]."""

    positions: Tensor

    def __init__(
        self,
        placement: Placement,
        rows: Sequence[int],
        tensors: Sequence[Mapping[str, Tensor]],
        formula: Formula,
    ) -> None:
        super().__init__()
        self.placement = placement
        self.rows = tuple(rows)
        """Which rows of the whole these are: axis 0 of every parameter here."""
        self.formula = formula
        self.register_buffer("positions", torch.tensor(self.rows), persistent=False)
        self.tensors = nn.ParameterDict(
            {
                f"{block}/{name}": nn.Parameter(torch.stack([row[f"{block}/{name}"].detach() for row in tensors]))
                for block in placement.blocks
                for name in formula.tensors
            }
        )

    def stored(self, block: int) -> Tensors:
        """The trained tensors of one block, [rows, ...]."""
        return {name: self.tensors[f"{block}/{name}"] for name in self.formula.tensors}

    def kernel(self, block: int, rank: int) -> Kernel:
        """(A, b, C) of one block, zero padded to a rank and the width; b as [rows, rank, 1]."""
        A, b, C = self.formula.kernel(self.formula.read(self.stored(block)))  # noqa: N806
        below = rank - b.shape[-1]
        return Kernel(
            None if A is None else self._padded(A, block, rank),
            F.pad(b, (0, below)).unsqueeze(-1) if below else b.unsqueeze(-1),
            self._padded(C, block, rank),
        )

    def _padded(self, matrix: Tensor, block: int, rank: int) -> Tensor:
        right = self.placement.width - matrix.shape[-1]
        below = rank - matrix.shape[-2]
        if right or below:
            matrix = F.pad(matrix, (0, right, 0, below))
        first = self.placement.slice_start_in(block)
        return matrix.roll(first, -1) if first else matrix  # rolling wraps a slice around the end


class Interventions(nn.Module):
    """Interventions of many rows, one (task, placement) pair each; called as `interventions(block, z, rows)`.

    Args:
        rows: task and placement of every row; placements of one model.
        tensors: for every row its trained tensors, named `block/tensor`, as `state` gives them.
        formulas: the table to read.

    Raises:
        ConfigError: no rows, or placements of different models.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        tensors: Sequence[Mapping[str, Tensor]],
        formulas: Mapping[str, Formula] = FORMULAS,
    ) -> None:
        super().__init__()
        self.rows = tuple(rows)
        shapes = {(p.width, p.num_blocks, p.grid) for _, p in self.rows}
        if len(shapes) != 1:
            rule = "rows stand side by side in one model"
            raise ConfigError("interventions", sorted(shapes), rule, "one (width, blocks, grid)")
        self.width, self.num_blocks, self.grid = shapes.pop()
        self.blocks = tuple(sorted({block for _, placement in self.rows for block in placement.blocks}))
        """The blocks in which any row intervenes."""
        members: dict[Placement, list[int]] = {}
        for position, (_, placement) in enumerate(self.rows):
            members.setdefault(placement, []).append(position)
        self.stacks = tuple(
            Stack(placement, positions, [tensors[i] for i in positions], formulas[placement.formula])
            for placement, positions in members.items()
        )
        """One a distinct placement. Norms and clipping by row go through `stack.rows`."""
        for number, stack in enumerate(self.stacks):
            self.add_module(f"stack_{number}", stack)
        self._home = {row: (stack, i) for stack in self.stacks for i, row in enumerate(stack.rows)}
        self._active = {b: [s for s in self.stacks if b in s.placement.blocks] for b in self.blocks}
        self._register_tokens()

    @classmethod
    def start(
        cls,
        rows: Sequence[Row],
        *,
        seed: int,
        statistics: Statistics | None = None,
        formulas: Mapping[str, Formula] = FORMULAS,
    ) -> Interventions:
        """Interventions before training; each row draws from its own generator, seeded by (seed, task name).

        Args:
            rows: task and placement of every row.
            seed: of the initial values.
            statistics: moments of z on the merged base; asked for only by consreft's start `identity`.
            formulas: the table to read.

        Raises:
            ConfigError: a row needs statistics and there are none.
        """
        starts = [_started(task, placement, seed, statistics, formulas) for task, placement in rows]
        return cls(rows, starts, formulas)

    @property
    def class_only(self) -> bool:
        """Whether only the class token is edited, in every row and block."""
        return all(self.edited(block) == (0,) for block in self.blocks)

    def edited(self, block: int) -> tuple[int, ...]:
        """The tokens that any row edits in a block, ascending: the tokens of z that `forward` expects."""
        return self._edited.get(block, ())

    def forward(self, block: int, z: Tensor, rows: slice | Sequence[int] | Tensor | None = None) -> Tensor:
        """Δ of the attention output; the edited output is z + Δ.

        Args:
            block: the block whose attention output z is.
            z: [rows, batch, edited tokens, width], in any dtype.
            rows: which rows stand on axis 0 of z, in order; None for all.

        Returns:
            Δ in the shape and dtype of z, computed in fp32; zeros for rows that do not intervene here.
        """
        active = self._active.get(block)
        if not active:
            return torch.zeros_like(z)
        assert z.shape[2:] == (len(self.edited(block)), self.width), "z holds the edited tokens"
        at = rows if rows is None or isinstance(rows, slice | Tensor) else list(rows)
        with torch.autocast(z.device.type, enabled=False):
            kernel = self._kernel(active, block)
            A, b, C = kernel if at is None else kernel.of(at)  # noqa: N806
            points = z.flatten(1, 2).float()
            hidden = b.mT if A is None else torch.baddbmm(b.mT, points, A.mT)
            delta = torch.bmm(hidden, C)
            delta = (delta.expand(points.shape) if A is None else delta).reshape(z.shape)
        mask = self._masks.get(block)
        if mask is not None:
            edits = self.get_buffer(mask)
            delta = delta * (edits if at is None else edits[at])
        return delta.to(z.dtype)

    def state(self, row: int) -> Tensors:
        """The trained tensors of one row, named `block/tensor`: copies, as stored."""
        stack, i = self._home[row]
        return {name: tensor[i].detach().clone() for name, tensor in stack.tensors.items()}

    def kept(self, row: int) -> Tensors:
        """What must be kept of one row at inference, named `block/tensor`; a constant Δ is folded."""
        stack, i = self._home[row]
        with torch.no_grad():
            return {
                f"{block}/{name}": tensor[i].clone()
                for block in stack.placement.blocks
                for name, tensor in stack.formula.kept(stack.stored(block)).items()
            }

    def check_finite(self, when: str) -> None:
        """Refuse trained tensors that are infinite or NaN; on CUDA this waits for the device once.

        Raises:
            NotFiniteError: names the first such task and tensor.
        """
        if bool(torch.stack([tensor.isfinite().all() for tensor in self.parameters()]).all()):
            return
        for row, (task, _) in enumerate(self.rows):
            for name, tensor in self.state(row).items():
                check_finite(tensor, f"the trained {name}", f"task {task}, {when}")

    def state_by_task(self) -> dict[str, Tensors]:
        """The trained tensors of every task.

        Raises:
            ConfigError: two rows are of one task.
        """
        tasks = [task for task, _ in self.rows]
        if len(set(tasks)) < len(tasks):
            raise ConfigError("interventions", sorted(tasks), "tasks name the tensors", "each task once")
        return {task: self.state(row) for row, task in enumerate(tasks)}

    def save(self, path: str | Path) -> None:
        """Write all rows to one safetensors file, tensors named `task/block/tensor`; whole or not at all.

        Raises:
            NotFiniteError: a tensor is infinite or NaN.
        """
        self.check_finite(f"for {Path(path).name}")
        files.write(path, dict(self.rows), self.state_by_task())

    @classmethod
    def load(cls, path: str | Path, formulas: Mapping[str, Formula] = FORMULAS) -> Interventions:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, truncated, foreign, or holds other tensors than it says.
        """
        placements, tensors = files.read(path, formulas)
        return cls(list(placements.items()), [tensors[task] for task in placements], formulas)

    def _kernel(self, active: Sequence[Stack], block: int) -> Kernel:
        """The kernel of all rows in a block: A and C [rows, rank, width], b [rows, rank, 1]."""
        rank = max(stack.placement.rank for stack in active)
        kernels = [stack.kernel(block, rank) for stack in active]
        if len(active[0].rows) == len(self.rows):
            return kernels[0]
        pairs = list(zip(active, kernels, strict=True))
        projected = [(stack, k.A) for stack, k in pairs if k.A is not None]
        return Kernel(
            self._scattered(projected) if projected else None,
            self._scattered([(stack, k.b) for stack, k in pairs]),
            self._scattered([(stack, k.C) for stack, k in pairs]),
        )

    def _scattered(self, parts: Sequence[tuple[Stack, Tensor]]) -> Tensor:
        """The tensors of some stacks at their rows among all; zeros elsewhere."""
        first = parts[0][1]
        total = first.new_zeros(len(self.rows), *first.shape[1:])
        for stack, part in parts:
            total = total.index_copy(0, stack.positions, part)
        return total

    def _register_tokens(self) -> None:
        """Edited tokens by block and, where rows differ, which are whose: [rows, 1, tokens, 1]."""
        self._edited: dict[int, tuple[int, ...]] = {}
        self._masks: dict[int, str] = {}
        for block, active in self._active.items():
            own = {stack: set(stack.placement.token_indices(block)) for stack in active}
            edited = self._edited[block] = tuple(sorted(set().union(*own.values())))
            if all(len(tokens) == len(edited) for tokens in own.values()):
                continue
            tokens_of = [own.get(self._home[row][0], set()) for row in range(len(self.rows))]
            mask = torch.tensor([[token in tokens for token in edited] for tokens in tokens_of])
            self._masks[block] = f"edits_{block}"
            self.register_buffer(self._masks[block], mask[:, None, :, None], persistent=False)


def _started(
    task: str, placement: Placement, seed: int, statistics: Statistics | None, formulas: Mapping[str, Formula]
) -> Tensors:
    """The initial tensors of one row, named `block/tensor`; bit for bit the same among any others."""
    drawing = generator(seed, task)
    formula = formulas[placement.formula]

    def moments(block: int) -> Moments:
        if statistics is None:
            rule = f"{placement.formula} has no identity: its start needs the mean and covariance of z"
            raise ConfigError("intervention.start", repr(placement.start), rule, "statistics, or start paper")
        mean, covariance = statistics(task, block)
        kept = torch.tensor(placement.indices(block), device=mean.device)
        return Moments(mean[kept], covariance[kept][:, kept])

    drawn: Tensors = {}
    for block in placement.blocks:
        tensors = formula.paper(placement.rank, placement.slice_width, drawing)
        if placement.start == "identity":
            tensors = formula.identity(tensors, lambda block=block: moments(block))  # type: ignore[misc]
        drawn |= {f"{block}/{name}": tensor for name, tensor in tensors.items()}
    return drawn
