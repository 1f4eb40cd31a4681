"""The module that applies many interventions at once: rows of (task, placement), stacked.

Rows of one placement share their tensors, [rows, rank, slice]; stacks of different formula, rank and slice
are zero padded to one kernel of [rows, rank, width] a block. Padding these small tensors, rather than gathering
slices of z, leaves one batched product and exact zeros outside every slice. Rows never touch one another: among
others, a row has the values, the gradients and (as Adam works by element) the training that it has alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from intervmerge.errors import ConfigError
from intervmerge.finite import check_finite
from intervmerge.interventions import files
from intervmerge.interventions.formulas import FORMULAS, Formula, Kernel, Moments, Tensors
from intervmerge.interventions.placement import Placement
from intervmerge.interventions.stack import Stack
from intervmerge.seeding import generator

Row = tuple[str, Placement]
"""A task and where its interventions stand."""
Statistics = Callable[[str, int], tuple[Tensor, Tensor]]
"""From task and block: mean [width] and covariance [width, width] of z over the edited tokens of `adapt`."""


class Interventions(nn.Module):
    """Interventions of many rows, one (task, placement) pair each; called as `interventions(block, z, rows)`.

    Rows of one model may edit different representations: `site` says of which one z is.

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
        rule = "rows stand side by side in one model"
        if len(shapes) != 1:
            raise ConfigError("interventions", sorted(shapes), rule, "one (width, blocks, grid)")
        self.width, self.num_blocks, self.grid = shapes.pop()
        features = {p.features for _, p in self.rows} - {None}
        if len(features) > 1:
            raise ConfigError("interventions", sorted(map(str, features)), rule, "one width of the feature")
        self.features = next(iter(features), None)
        """Elements of the feature; None where no row edits it."""
        self.blocks = tuple(sorted({block for _, placement in self.rows for block in placement.blocks}))
        """The blocks in which any row intervenes; the feature counts as the one after the last."""
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
        self._active: dict[tuple[str, int], list[Stack]] = {}
        for stack in self.stacks:
            for block in stack.placement.blocks:
                self._active.setdefault((stack.placement.edits(block), block), []).append(stack)
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
        return all(tokens == (0,) for tokens in self._edited.values())

    def edited(self, block: int, site: str = "attention") -> tuple[int, ...]:
        """The tokens that any row edits in a block, ascending: the tokens of z that `forward` expects."""
        return self._edited.get((site, block), ())

    def forward(
        self,
        block: int,
        z: Tensor,
        rows: slice | Sequence[int] | Tensor | None = None,
        site: str = "attention",
    ) -> Tensor:
        """Δ of a representation; the edited one is z + Δ.

        Args:
            block: the block whose representation z is.
            z: [rows, batch, edited tokens, width], in any dtype.
            rows: which rows stand on axis 0 of z, in order; None for all.
            site: which representation: a row of REPRESENTATIONS.

        Returns:
            Δ in the shape and dtype of z, computed in fp32; zeros for rows that do not intervene here.
        """
        active = self._active.get((site, block))
        if not active:
            return torch.zeros_like(z)
        width = active[0].placement.width_in(block)
        assert z.shape[2:] == (len(self.edited(block, site)), width), "z holds the edited tokens"
        at = rows if rows is None or isinstance(rows, slice | Tensor) else list(rows)
        with torch.autocast(z.device.type, enabled=False):
            kernel = self._kernel(active, block)
            A, b, C = kernel if at is None else kernel.of(at)  # noqa: N806
            points = z.flatten(1, 2).float()
            hidden = b.mT if A is None else torch.baddbmm(b.mT, points, A.mT)
            hidden = self._cut(hidden, site, block, at)
            delta = torch.bmm(hidden, C)
            delta = (delta.expand(points.shape) if A is None else delta).reshape(z.shape)
        mask = self._masks.get((site, block))
        if mask is not None:
            edits = self.get_buffer(mask)
            delta = delta * (edits if at is None else edits[at])
        return delta.to(z.dtype)

    def _cut(self, hidden: Tensor, site: str, block: int, at: slice | list[int] | Tensor | None) -> Tensor:
        """What z is projected to [rows, points, rank], at zero for the rows whose formula says so."""
        name = self._relus.get((site, block))
        if name is None:
            return hidden
        relus = self.get_buffer(name)
        return torch.where(relus if at is None else relus[at], hidden.relu(), hidden)

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
        """Edited tokens by representation and block and, where rows differ, which are whose: [rows, 1, tokens, 1]; and
        whose projections are cut at zero, [rows, 1, 1], where any are.
        """
        self._edited: dict[tuple[str, int], tuple[int, ...]] = {}
        self._masks: dict[tuple[str, int], str] = {}
        self._relus: dict[tuple[str, int], str] = {}
        for (site, block), active in self._active.items():
            own = {stack: set(stack.placement.token_indices(block)) for stack in active}
            edited = self._edited[site, block] = tuple(sorted(set().union(*own.values())))
            stacks = [self._home[row][0] for row in range(len(self.rows))]
            if any(stack.formula.relu for stack in active):
                relus = torch.tensor([stack.formula.relu for stack in stacks])
                self._relus[site, block] = f"relus_{site}_{block}"
                self.register_buffer(self._relus[site, block], relus[:, None, None], persistent=False)
            if all(len(tokens) == len(edited) for tokens in own.values()):
                continue
            mask = torch.tensor([[token in own.get(stack, set()) for token in edited] for stack in stacks])
            self._masks[site, block] = f"edits_{site}_{block}"
            self.register_buffer(self._masks[site, block], mask[:, None, :, None], persistent=False)


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
        tensors = formula.started(
            placement.start, placement.rank, placement.slice_width_in(block), drawing, partial(moments, block)
        )
        drawn |= {f"{block}/{name}": tensor for name, tensor in tensors.items()}
    return drawn
