"""Where interventions stand: from a configuration to its one canonical placement.

Two configurations that edit the same elements of the same tokens and blocks in the same way have equal placements,
so that they are trained once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from intervmerge.interventions.config import (
    STARTS,
    TOKENS,
    InterventionConfig,
    blocks_of,
    elements_of,
    number_of,
    refuse,
    row_of,
    slice_width_of,
)
from intervmerge.interventions.formulas import FORMULAS, Formula


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A canonical configuration on a model of known shape. Made by `place`; hashable; compared by value."""

    formula: str
    """A row of FORMULAS."""
    rank: int
    """Rows of A and C."""
    blocks: tuple[int, ...]
    """The intervened blocks, 0-based, ascending."""
    token: str
    """A row of TOKENS."""
    slice_width: int
    """Elements edited."""
    slice_start: int
    """First element edited in the first intervened block."""
    slice_shift: int
    """Elements by which the slice moves from one intervened block to the next."""
    start: str
    """A row of STARTS."""
    width: int
    """Elements of a token of the model."""
    num_blocks: int
    """Blocks of the model."""
    grid: int
    """Patches along one side of the image."""

    @property
    def config(self) -> InterventionConfig:
        """The configuration in canonical form; placing it again gives this placement."""
        return InterventionConfig(**{f.name: getattr(self, f.name) for f in fields(InterventionConfig)})

    def slice_start_in(self, block: int) -> int:
        """The first edited element in an intervened block."""
        return (self.slice_start + self.blocks.index(block) * self.slice_shift) % self.width

    def indices(self, block: int) -> tuple[int, ...]:
        """The edited elements in an intervened block, in the order of the slice; it may wrap around."""
        first = self.slice_start_in(block)
        return tuple((first + i) % self.width for i in range(self.slice_width))

    def token_indices(self, block: int) -> tuple[int, ...]:
        """The edited tokens in an intervened block, ascending."""
        return _reaching(self.token, block, self.num_blocks, self.grid)


def place(
    config: InterventionConfig,
    *,
    width: int,
    num_blocks: int,
    grid: int,
    formulas: Mapping[str, Formula] = FORMULAS,
) -> Placement:
    """The canonical placement of a configuration on a model.

    Args:
        config: as the user wrote it.
        width: elements of a token.
        num_blocks: blocks of the model.
        grid: patches along one side of the image.
        formulas: the table to read.

    Raises:
        ConfigError: a setting is unknown or of the wrong type, does not fit the model or edits nothing.
    """
    constant = row_of(formulas, config, "formula").constant
    row_of(STARTS, config, "start")
    slice_width = slice_width_of(config, width)
    if slice_width == 1 and not constant:
        refuse("formula", config.formula, "a slice of 1 takes the constant formula only", _constant(formulas))
    rank, largest = number_of(config, "rank"), _largest_rank(slice_width, constant)
    if not 1 <= rank <= largest:
        rule = f"{config.formula} on a slice of {slice_width} has at most half the slice, or 1 if it is constant"
        refuse("rank", rank, rule, f"1 to {largest}")
    token, blocks = _tokens_and_blocks(config, num_blocks, grid)
    first = elements_of(config, "slice_start", width)
    shift = slice_width if config.slice_shift == "slice_width" else elements_of(config, "slice_shift", width)
    whole = slice_width == width
    return Placement(
        formula=config.formula,
        rank=rank,
        blocks=blocks,
        token=token,
        slice_width=slice_width,
        slice_start=0 if whole else first % width,
        slice_shift=0 if whole or len(blocks) == 1 else shift % width,
        start=config.start,
        width=width,
        num_blocks=num_blocks,
        grid=grid,
    )


def why_inapplicable(placement: Placement, formulas: Mapping[str, Formula] = FORMULAS) -> str:
    """Why a placement, canonical or not, cannot be applied to its model, in words; empty where it can."""
    p = placement
    blocks = list(p.blocks)
    rules = {
        f"no formula {p.formula!r}": p.formula in formulas,
        f"no token {p.token!r}": p.token in TOKENS,
        f"a model of width {p.width}, {p.num_blocks} blocks, grid {p.grid}": min(p.width, p.num_blocks, p.grid) >= 1,
        f"a slice of {p.slice_width} of {p.width} elements": 1 <= p.slice_width <= p.width,
        f"rank {p.rank} on a slice of {p.slice_width}": 1 <= p.rank <= p.slice_width,
        f"blocks {blocks} of {p.num_blocks}": blocks == sorted(set(blocks) & set(range(p.num_blocks))) != [],
    }
    return "; ".join(what for what, holds in rules.items() if not holds)


def fit(
    config: InterventionConfig,
    *,
    width: int,
    num_blocks: int,
    grid: int,
    formulas: Mapping[str, Formula] = FORMULAS,
) -> Placement:
    """As `place`, but rank and formula give way to the slice, so that a search may draw each on its own.

    A slice of 1 takes the constant formula; the rank is cut to half the slice, or to 1 where Δ is constant.
    """
    slice_width = slice_width_of(config, width)
    constant = row_of(formulas, config, "formula").constant or slice_width == 1
    formula = _constant(formulas) if slice_width == 1 else config.formula
    rank = min(number_of(config, "rank"), _largest_rank(slice_width, constant))
    fitted = replace(config, formula=formula, rank=rank)
    return place(fitted, width=width, num_blocks=num_blocks, grid=grid, formulas=formulas)


def extra_params(placement: Placement, formulas: Mapping[str, Formula] = FORMULAS) -> int:
    """Extra parameters of one task's interventions, over its blocks: what must be kept beside the merged weights."""
    return len(placement.blocks) * formulas[placement.formula].extra_params(placement.rank, placement.slice_width)


def count_extra_params(
    config: InterventionConfig,
    *,
    width: int,
    num_blocks: int,
    num_tasks: int,
    formulas: Mapping[str, Formula] = FORMULAS,
) -> int:
    """Extra parameters of a configuration, over all tasks and blocks.

    One intervention serves all its tokens, so the grid of patches plays no part.

    Raises:
        ConfigError: the configuration does not fit the model.
    """
    placement = place(config, width=width, num_blocks=num_blocks, grid=1, formulas=formulas)
    return num_tasks * extra_params(placement, formulas)


def _largest_rank(slice_width: int, constant: bool) -> int:
    return 1 if constant else max(1, slice_width // 2)


def _constant(formulas: Mapping[str, Formula]) -> str:
    return next(name for name, row in formulas.items() if row.constant)


def _reaching(token: str, block: int, num_blocks: int, grid: int) -> tuple[int, ...]:
    """The edited tokens that reach the feature: in the last block, the class token alone."""
    tokens = tuple(TOKENS[token](grid))
    return tokens if block < num_blocks - 1 else tuple(t for t in tokens if t == 0)


def _tokens_and_blocks(config: InterventionConfig, num_blocks: int, grid: int) -> tuple[str, tuple[int, ...]]:
    """Token and blocks in canonical form: edits without effect dropped, the first name of what is edited."""
    row_of(TOKENS, config, "token")

    def edited(token: str, blocks: Iterable[int]) -> dict[int, tuple[int, ...]]:
        return {block: _reaching(token, block, num_blocks, grid) for block in blocks}

    chosen = edited(config.token, blocks_of(config, num_blocks))
    blocks = tuple(block for block, tokens in chosen.items() if tokens)
    if not blocks:
        rule = f"token {config.token} leaves nothing to edit: the merged base itself, which is never trained"
        allowed = "any block for the class token, one before the last for patches"
        refuse("blocks", config.blocks, rule, allowed)
    wanted = edited(config.token, blocks)
    return next(token for token in TOKENS if edited(token, blocks) == wanted), blocks
