"""The claims: words, two groups of configurations, and what is claimed of their difference."""

from __future__ import annotations

from dataclasses import dataclass

from intervmerge.paper.tables.published import BASES, STRONG_BASES, TABLES
from intervmerge.paper.tables.rows import LAYER_WISE, MERGED, Row


@dataclass(frozen=True)
class Group:
    """Rows of tables, and how they come to one accuracy a seed."""

    rows: tuple[Row, ...]
    pick: str = "mean"
    """A row of PICKS."""


@dataclass(frozen=True)
class Claim:
    """A sentence on the difference of two groups."""

    words: str
    first: Group
    second: Group
    direction: str = "more"
    """A row of DIRECTIONS: that the first is more accurate, or that the two are close."""
    source: str = "the paper"
    blocks: int | None = None
    """Of the towers that it is said of, where it names blocks by number; of others it is not measured."""


def group(table: str, pick: str = "mean", *, base: str | None = None, **chosen: object) -> Group:
    """The rows of a table whose interventions have these settings, on a base if one is named; never one whose
    coefficients are learned too."""
    return Group(
        tuple(
            row
            for row in TABLES[table].rows
            if row.intervention is not None
            and row.coefficients is None
            and base in (None, row.base)
            and all(row.intervention.get(name) == value for name, value in chosen.items())
        ),
        pick,
    )


def bare(table: str, *bases: str) -> Group:
    """The merged bases of a table, without interventions."""
    rows = TABLES[table].rows
    return Group(tuple(r for r in rows if r.intervention is None and r.model == MERGED and r.base in bases))


def union(*groups: Group, pick: str = "mean") -> Group:
    """The rows of several groups."""
    return Group(tuple(row for own in groups for row in own.rows), pick)


def of_rank(rank: int, base: str | None = None) -> Group:
    """IntervMerge of a rank, on one of the paper's bases or on all."""
    return group("table6", base=base, formula="noreft", rank=rank)


def surgery(rank: int) -> Group:
    """Surgery of a rank on layer-wise AdaMerging."""
    return group("table6", formula="surgery", rank=rank)


def share(part: float) -> Group:
    """The row of Table 8 with a share of the images."""
    return Group(tuple(row for row in TABLES["table8"].rows if row.share == part))


def singles(pick: str) -> Group:
    """Every block alone."""
    rows = TABLES["table3"].rows
    return Group(tuple(r for r in rows if r.intervention and isinstance(r.intervention.get("blocks"), int)), pick)


def slices(place: str) -> Group:
    """Slices of all widths at one place, or shifted."""
    return Group(tuple(row for row in TABLES["table4"].rows if row.words.endswith(f", {place}")))


OTHER_TOKENS = union(
    *(group("table2", token=t) for t in ("first_patch", "middle_patch", "last_patch", "patches", "all"))
)
OURS = "ours: nobody has asked"

# fmt: off
CLAIMS: tuple[Claim, ...] = (
    Claim("interventions of rank 1 help, mean over the paper's bases", of_rank(1), bare("table6", *BASES)),
    Claim("rank 4 beats rank 1", group("table1", rank=4), group("table1", base=LAYER_WISE, rank=1, blocks=None,
          formula="noreft")),
    Claim("all blocks beat every second", group("table3", blocks="all"), group("table3", blocks="every_2")),
    Claim("every second block beats every fourth", group("table3", blocks="every_2"),
          group("table3", blocks="every_4")),
    Claim("every fourth block beats the last three", group("table3", blocks="every_4"),
          group("table3", blocks="last_3")),
    Claim("the best single block depends on the task: each its own beats one for all", singles("best_by_task"),
          singles("best"), blocks=12),
    Claim("the last block alone falls below the base", bare("table6", LAYER_WISE), group("table3", blocks=11),
          blocks=12),
    Claim("a slice in all blocks beats one whole block of as many parameters", group("table5", slice_width="1/12"),
          group("table5", blocks="middle_1")),
    Claim("the class token beats the best other choice of tokens", group("table2", token="class"),
          Group(OTHER_TOKENS.rows, "best")),
    Claim("later slices are slightly better", slices("last"), slices("first")),
    Claim("shifting the slice from block to block helps", slices("shifted"), slices("first")),
    Claim("noreft and loreft are close", group("table7", formula="noreft"), group("table7", formula="loreft"), "close"),
    Claim("noreft and direft are close", group("table7", formula="noreft"), group("table7", formula="direft"), "close"),
    Claim("a constant vector is worse than noreft", group("table7", formula="noreft"),
          group("table7", formula="lobireft")),
    Claim("rank 8 beats rank 1, mean over the paper's bases", of_rank(8), of_rank(1)),
    Claim("rank saturates: 64 and 16 are close, mean over the paper's bases", of_rank(64), of_rank(16), "close"),
    Claim("the base still matters at rank 1", of_rank(1, LAYER_WISE), of_rank(1, "weight_average")),
    Claim("mini-interventions beat Surgery of rank 1, which has more parameters", group("table1", formula="lobireft"),
          surgery(1)),
    Claim("rank 1 beats Surgery of rank 64, which has more parameters", of_rank(1, LAYER_WISE), surgery(64)),
    Claim("1 % of the images repair the base", share(0.01), bare("table6", LAYER_WISE)),
    Claim("10 % of the images do about as well as all", share(1.0), share(0.1), "close"),
    *(Claim(f"interventions of rank 1 still pay on {words}", group("strong_bases", base=base, rank=1),
            bare("strong_bases", base), source=OURS) for base, words in STRONG_BASES.items()),
    Claim("a strong base with rank 1 beats TIES with four times the parameters",
          group("strong_bases", base="wudi_flow", rank=1), group("strong_bases", base="ties_sum", rank=4), source=OURS),
    Claim("at rank 16 TIES has caught up with WUDI", group("strong_bases", base="wudi_flow", rank=16),
          group("strong_bases", base="ties_sum", rank=16), "close", OURS),
)
# fmt: on
"""One line each in RESULTS.md."""
