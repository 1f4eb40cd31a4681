"""What a user writes about an intervention, and how its words become numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NoReturn, TypeVar

from pydantic import ConfigDict

from intervmerge.errors import ConfigError, lookup, nearest
from intervmerge.interventions.sites import AUTO

Row = TypeVar("Row")

STARTS: Mapping[str, str] = MappingProxyType(
    {"identity": "Δ is zero at first (for consreft: as near as can be)", "paper": "as the authors start"}
)
"""How the trained tensors may start."""

TOKENS: Mapping[str, Callable[[int], Iterable[int]]] = MappingProxyType(
    {
        "class": lambda grid: (0,),
        "first_patch": lambda grid: (1,),
        "middle_patch": lambda grid: (1 + grid // 2 * grid + grid // 2,),
        "last_patch": lambda grid: (grid**2,),
        "patches": lambda grid: range(1, grid**2 + 1),
        "all": lambda grid: range(grid**2 + 1),
    }
)
"""Token indices by kind, for a grid of grid x grid patches behind the class token; read-only."""

BLOCKS: Mapping[str, Callable[[int, int], Iterable[int]]] = MappingProxyType(
    {
        "all": lambda n, num_blocks: range(num_blocks),
        "every_N": lambda n, num_blocks: range(0, num_blocks, n),
        "first_N": lambda n, num_blocks: range(n),
        "last_N": lambda n, num_blocks: range(num_blocks - n, num_blocks),
        "middle_N": lambda n, num_blocks: range(num_blocks // 2 - n // 2, num_blocks // 2 - n // 2 + n),
    }
)
"""Block indices by pattern and N, a number as in `every_2`, from 1 to the number of blocks; read-only."""


@dataclass(frozen=True, kw_only=True)
class InterventionConfig:
    """What a user chooses. `place` checks it against a model."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    formula: str = "noreft"
    """A row of FORMULAS; the paper's default is its eq. 3.4, `noreft`."""
    rank: int = 1
    """At most half the slice width, at least 1; 1 for the constant formula."""
    blocks: str | int | tuple[int, ...] = "all"
    """A pattern of BLOCKS such as `every_2`, a 0-based index or a list of them, or a mask: one 0 or 1 a block."""
    token: str = "class"
    """Which tokens are edited: a row of TOKENS; the feature is one."""
    slice_width: int | str = "1/1"
    """Elements edited, as a number or as a fraction of the width."""
    slice_start: int | str = 0
    """First element edited, as a number or as a fraction of the width; modulo the width."""
    slice_shift: int | str = 0
    """How far the slice moves from one intervened block to the next; also `slice_width`, to tile."""
    start: str = "identity"
    """A row of STARTS."""
    site: str = AUTO
    """Which representation is edited: a row of SITES; `auto` is where the source of the formula puts it."""

    def __post_init__(self) -> None:
        if isinstance(self.blocks, list):
            object.__setattr__(self, "blocks", tuple(self.blocks))  # so that a config stays hashable
        if isinstance(self.blocks, int) and not isinstance(self.blocks, bool):
            object.__setattr__(self, "blocks", (self.blocks,))


def refuse(name: str, got: object, rule: str, allowed: str) -> NoReturn:
    """Refuse a setting of an intervention."""
    raise ConfigError(f"intervention.{name}", repr(got), rule, allowed)


def row_of(table: Mapping[str, Row], config: InterventionConfig, name: str) -> Row:
    """The row that a setting names."""
    value: object = getattr(config, name)
    if not isinstance(value, str):
        refuse(name, value, "it must be a name", ", ".join(table))
    return lookup(table, value, f"intervention.{name}")


def number_of(config: InterventionConfig, name: str) -> int:
    """A setting that is a whole number."""
    value: object = getattr(config, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    refuse(name, value, "it must be a whole number", "a number such as 1")


def elements_of(config: InterventionConfig, name: str, width: int) -> int:
    """A setting in elements: a number of them, or a fraction of the width, rounded down."""
    value: object = getattr(config, name)
    if not isinstance(value, str):
        return number_of(config, name)
    fraction = re.fullmatch(r"(\d+)/(\d+)", value)
    if fraction is None or int(fraction[2]) == 0 or int(fraction[1]) > int(fraction[2]):
        allowed = "a number of elements such as 64, or a fraction such as '1/12'"
        allowed += ", or 'slice_width'" if name == "slice_shift" else ""
        refuse(name, value, f"a string must be a fraction of the width {width}, at most '1/1'", allowed)
    return width * int(fraction[1]) // int(fraction[2])


def slice_width_of(config: InterventionConfig, width: int) -> int:
    """The slice width in elements, from 1 to the width."""
    value = config.slice_width
    elements = elements_of(config, "slice_width", width)
    if isinstance(value, str) and int(value.partition("/")[0]) > 0:
        elements = max(1, elements)  # rounded down, but a slice all the same
    if not 1 <= elements <= width:
        refuse("slice_width", value, f"a slice must fit the model, which is {width} wide", f"1 to {width}")
    return elements


def blocks_of(config: InterventionConfig, num_blocks: int) -> tuple[int, ...]:
    """Block indices, ascending, of a pattern, a mask or a list."""
    chosen: object = config.blocks
    if isinstance(chosen, str):
        read = _from_mask if re.fullmatch("[01]+", chosen) else _from_name
        return read(chosen, num_blocks)
    if not isinstance(chosen, tuple):
        refuse("blocks", chosen, "it is a name, a mask in quotes or a list", "all, '010010...' or [3, 7]")
    for block in chosen:
        if not isinstance(block, int) or isinstance(block, bool) or not 0 <= block < num_blocks:
            rule = f"{block!r} is no block of this model, whose first is 0"
            refuse("blocks", chosen, rule, f"0 to {num_blocks - 1}, or a mask in quotes")
    if len(set(chosen)) < len(chosen):
        refuse("blocks", chosen, "a block stands twice", f"each of 0 to {num_blocks - 1} once at most")
    return tuple(sorted(chosen))


def _from_mask(mask: str, num_blocks: int) -> tuple[int, ...]:
    if len(mask) != num_blocks:
        refuse("blocks", mask, "a mask has one digit a block", f"{num_blocks} digits 0 or 1")
    return tuple(block for block, mark in enumerate(mask) if mark == "1")


def _from_name(name: str, num_blocks: int) -> tuple[int, ...]:
    number = re.fullmatch(r"(.*_)(\d+)", name)
    pattern, n = (f"{number[1]}N", int(number[2])) if number else (name, 1)
    named = name == "all" if number is None else pattern in BLOCKS
    if not named or not 1 <= n <= num_blocks:
        patterns = f"{nearest(pattern, BLOCKS)} with N from 1 to {num_blocks}"
        allowed = f"{patterns}; a mask of {num_blocks} digits 0 or 1; a list of indices"
        refuse("blocks", name, "a name must be one of the patterns, as in every_2", allowed)
    return tuple(BLOCKS[pattern](n, num_blocks))
