"""Where interventions stand: from a configuration to its one canonical placement.

Two configurations that edit the same elements of the same tokens and blocks in the same way have equal placements,
so that they are trained once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from intervmerge.interventions.sites import AUTO, SITES, Site


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A canonical configuration on a model of known shape. Made by `place`; hashable; compared by value."""

    formula: str
    """A row of FORMULAS."""
    rank: int
    """Rows of A and C."""
    blocks: tuple[int, ...]
    """The intervened blocks, 0-based, ascending; the feature, where it is edited, is the one after the last."""
    token: str
    """A row of TOKENS."""
    slice_width: int
    """Elements edited; where a site has representations of two widths, at most."""
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
    site: str = "attention"
    """A row of SITES."""
    features: int | None = None
    """Elements of the model's feature, where that is edited; None where it is not."""

    @property
    def config(self) -> InterventionConfig:
        """The configuration in canonical form; placing it again gives this placement."""
        return InterventionConfig(**{f.name: getattr(self, f.name) for f in fields(InterventionConfig)})

    def edits(self, block: int) -> str:
        """The representation that is edited in an intervened block: a row of REPRESENTATIONS."""
        return SITES[self.site].shown_in(block, self.num_blocks)

    def width_in(self, block: int) -> int:
        """Elements of that representation."""
        return self.width if self.features is None or block < self.num_blocks else self.features

    def slice_width_in(self, block: int) -> int:
        """Elements edited in an intervened block."""
        return min(self.slice_width, self.width_in(block))

    def slice_start_in(self, block: int) -> int:
        """The first edited element in an intervened block."""
        return (self.slice_start + self.blocks.index(block) * self.slice_shift) % self.width_in(block)

    def indices(self, block: int) -> tuple[int, ...]:
        """The edited elements in an intervened block, in the order of the slice; it may wrap around."""
        first = self.slice_start_in(block)
        return tuple((first + i) % self.width_in(block) for i in range(self.slice_width_in(block)))

    def token_indices(self, block: int) -> tuple[int, ...]:
        """The edited tokens in an intervened block, ascending."""
        return _reaching(self.token, SITES[self.site], block, self.num_blocks, self.grid)


def place(
    config: InterventionConfig,
    *,
    width: int,
    num_blocks: int,
    grid: int,
    features: int | None = None,
    formulas: Mapping[str, Formula] = FORMULAS,
) -> Placement:
    """The canonical placement of a configuration on a model.

    Args:
        config: as the user wrote it.
        width: elements of a token.
        num_blocks: blocks of the model.
        grid: patches along one side of the image.
        features: elements of the feature; None where it is not known, and so cannot be edited.
        formulas: the table to read.

    Raises:
        ConfigError: a setting is unknown or of the wrong type, does not fit the model or edits nothing.
    """
    formula = row_of(formulas, config, "formula")
    row_of(STARTS, config, "start")
    name, widths = _site_and_widths(config, formula, width, features)
    slice_width, narrowest = _slice_of(config, widths)
    if narrowest == 1 and not formula.constant:
        refuse("formula", config.formula, "a slice of 1 takes the constant formula only", _constant(formulas))
    rank, largest = number_of(config, "rank"), _largest_rank(narrowest, formula.constant)
    if not 1 <= rank <= largest:
        rule = f"{config.formula} on a slice of {narrowest} has at most half the slice, or 1 if it is constant"
        refuse("rank", rank, rule, f"1 to {largest}")
    token, blocks = _tokens_and_blocks(config, SITES[name], num_blocks, grid)
    first = elements_of(config, "slice_start", max(widths))
    shift = slice_width if config.slice_shift == "slice_width" else elements_of(config, "slice_shift", max(widths))
    whole = slice_width == max(widths)
    return Placement(
        formula=config.formula,
        rank=rank,
        blocks=blocks,
        token=token,
        slice_width=slice_width,
        slice_start=0 if whole else first % max(widths),
        slice_shift=0 if whole or len(blocks) == 1 else shift % max(widths),
        start="identity" if formula.identity is None else config.start,
        width=width,
        num_blocks=num_blocks,
        grid=grid,
        site=name,
        features=features if SITES[name].feature else None,
    )


def _site_and_widths(
    config: InterventionConfig, formula: Formula, width: int, features: int | None
) -> tuple[str, list[int]]:
    """The site by its own name, and the widths of what is edited there."""
    name = formula.site if config.site == AUTO else config.site
    site = row_of(SITES, replace(config, site=name), "site")
    if site.feature and features is None:
        refuse("site", name, "the feature's width is not known here", "a site in the blocks, or features=...")
    return name, [*([width] if site.block else []), *([features] if site.feature and features else [])]


def _slice_of(config: InterventionConfig, widths: Sequence[int]) -> tuple[int, int]:
    """The slice width, and its narrowest where representations of several widths are edited, each as a whole."""
    slice_width = slice_width_of(config, max(widths))
    if len(widths) > 1 and slice_width < max(widths):
        refuse("slice_width", config.slice_width, "this site edits representations of several widths", "'1/1'")
    return slice_width, min(slice_width, *widths)


def why_inapplicable(placement: Placement, formulas: Mapping[str, Formula] = FORMULAS) -> str:
    """Why a placement, canonical or not, cannot be applied to its model, in words; empty where it can."""
    p = placement
    if p.site not in SITES:
        return f"no site {p.site!r}"
    site, blocks = SITES[p.site], list(p.blocks)
    wide = max([*([p.width] if site.block else []), *([p.features or 0] if site.feature else [])])
    known = [*(range(p.num_blocks) if site.block else []), *([p.num_blocks] if site.feature else [])]
    rules = {
        f"no formula {p.formula!r}": p.formula in formulas,
        f"no token {p.token!r}": p.token in TOKENS,
        f"a model of width {p.width}, {p.num_blocks} blocks, grid {p.grid}": min(p.width, p.num_blocks, p.grid) >= 1,
        f"a feature of {p.features} elements at site {p.site}": ((p.features or 0) >= 1) == site.feature,
        f"a slice of {p.slice_width} of {wide} elements": 1 <= p.slice_width <= wide,
        f"rank {p.rank} on a slice of {p.slice_width}": 1 <= p.rank <= p.slice_width,
        f"blocks {blocks} of {p.num_blocks}": blocks == sorted(set(blocks) & set(known)) != [],
    }
    return "; ".join(what for what, holds in rules.items() if not holds)


def fit(
    config: InterventionConfig,
    *,
    width: int,
    num_blocks: int,
    grid: int,
    features: int | None = None,
    formulas: Mapping[str, Formula] = FORMULAS,
) -> Placement:
    """As `place`, but rank and formula give way to the slice, so that a search may draw each on its own.

    A slice of 1 takes the constant formula; the rank is cut to half the slice, or to 1 where Δ is constant.
    """
    row = row_of(formulas, config, "formula")
    site, widths = _site_and_widths(config, row, width, features)
    _, narrowest = _slice_of(config, widths)
    constant = row.constant or narrowest == 1
    formula = _constant(formulas) if narrowest == 1 else config.formula
    rank = min(number_of(config, "rank"), _largest_rank(narrowest, constant))
    fitted = replace(config, formula=formula, rank=rank, site=site)
    return place(fitted, width=width, num_blocks=num_blocks, grid=grid, features=features, formulas=formulas)


def extra_params(placement: Placement, formulas: Mapping[str, Formula] = FORMULAS) -> int:
    """Extra parameters of one task's interventions, over its blocks: what must be kept beside the merged weights."""
    formula = formulas[placement.formula]
    return sum(formula.extra_params(placement.rank, placement.slice_width_in(block)) for block in placement.blocks)


def count_extra_params(
    config: InterventionConfig,
    *,
    width: int,
    num_blocks: int,
    num_tasks: int,
    features: int | None = None,
    formulas: Mapping[str, Formula] = FORMULAS,
) -> int:
    """Extra parameters of a configuration, over all tasks and blocks.

    One intervention serves all its tokens, so the grid of patches plays no part.

    Raises:
        ConfigError: the configuration does not fit the model.
    """
    placement = place(config, width=width, num_blocks=num_blocks, grid=1, features=features, formulas=formulas)
    return num_tasks * extra_params(placement, formulas)


def _largest_rank(slice_width: int, constant: bool) -> int:
    return 1 if constant else max(1, slice_width // 2)


def _constant(formulas: Mapping[str, Formula]) -> str:
    return next(name for name, row in formulas.items() if row.constant)


def _reaching(token: str, site: Site, block: int, num_blocks: int, grid: int) -> tuple[int, ...]:
    """The edited tokens that reach the feature: in the last block mostly the class token alone, after it always."""
    tokens = tuple(TOKENS[token](grid))
    if block < num_blocks - 1 or (block == num_blocks - 1 and site.patches_count):
        return tokens
    return tuple(t for t in tokens if t == 0) if block < num_blocks else (0,)


def _tokens_and_blocks(
    config: InterventionConfig, site: Site, num_blocks: int, grid: int
) -> tuple[str, tuple[int, ...]]:
    """Token and blocks in canonical form: edits without effect dropped, the first name of what is edited."""
    row_of(TOKENS, config, "token")
    after = (num_blocks,) if site.feature else ()
    if isinstance(config.blocks, tuple):  # in canonical form the feature is one of them
        config = replace(config, blocks=tuple(block for block in config.blocks if block not in after))

    def edited(token: str, blocks: Iterable[int]) -> dict[int, tuple[int, ...]]:
        return {block: _reaching(token, site, block, num_blocks, grid) for block in blocks}

    chosen = edited(config.token, blocks_of(config, num_blocks))
    blocks = tuple(block for block, tokens in chosen.items() if tokens) if site.block else ()
    if site.block and not blocks:
        rule = f"token {config.token} leaves nothing to edit: the merged base itself, which is never trained"
        allowed = "any block for the class token, one before the last for patches"
        refuse("blocks", config.blocks, rule, allowed)
    wanted = edited(config.token, blocks)
    return next(token for token in TOKENS if edited(token, blocks) == wanted), (*blocks, *after)
