"""The tables: figures of IntervMerge, arXiv:2412.17023, ViT-B/32, checkpoints of the task_vectors family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from intervmerge.paper.tables.rows import LAYER_WISE, TASK_WISE, Published, Row, Slices, Table, model, repaired

PAPER = "IntervMerge, arXiv:2412.17023"
METHODS, TOKENS, BLOCKS, RANKS, FORMULAS, DATA, SURGERY, STRONG = (
    *("table1_methods", "table2_tokens", "table3_blocks", "table6_ranks", "table7_formulas", "table8_data"),
    "surgery",
    "strong_bases",
)
BASES = {
    "ties_sum": "TIES",
    "weight_average": "weight average",
    "task_arithmetic": "task arithmetic",
    TASK_WISE: "AdaMerging, task-wise",
    LAYER_WISE: "AdaMerging, layer-wise",
}
"""Rules of the paper's bases in words, in the order of its Table 6."""
ALONE = {"ties_sum": 72.4, "weight_average": 65.8, "task_arithmetic": 69.1, TASK_WISE: 71.1, LAYER_WISE: 80.1}
"""Merged, without interventions; as AdaMerging (arXiv:2310.02575) and its repository have them."""
RANK_FIGURES = {
    "ties_sum": (84.3, 86.58, 86.86, 86.91),
    "weight_average": (82.56, 87.13, 87.64, 88.3),
    "task_arithmetic": (85.47, 88.28, 88.49, 88.88),
    TASK_WISE: (86.12, 88.72, 89.03, 88.97),
    LAYER_WISE: (88.90, 89.79, 89.84, 89.48),
}
"""Table 6, by rank."""
RANK_CHOICES = (1, 8, 16, 64)
"""Of Table 6; on a narrow tower the last is cut to half the width, or half the feature."""
SURGERY_FIGURES = {
    "ties_sum": 83.1,
    "weight_average": 80.0,
    "task_arithmetic": 80.9,
    TASK_WISE: 81.1,
    LAYER_WISE: 86.1,
}
"""Representation Surgery (arXiv:2402.02705) of rank 16 on each base, as Table 1 has it."""
SURGERY_RANKS = (81.34, 84.55, 86.10, 87.50)
"""Of RANK_CHOICES on layer-wise AdaMerging, as Table 6 has them."""
LEARNED = {"by": "layer", "learning_rate": 0.01}
"""Coefficients that are learned together with what repairs; mini8 wants a rate ten times the paper's."""
BLOCK_ROWS = {
    "all": ("all blocks", 88.83),
    "every_2": ("every second", 88.13),
    "every_3": ("every third", 87.80),
    "every_4": ("every fourth", 87.20),
    "last_3": ("the last three", 85.65),
}
SINGLE_BLOCKS = range(12)
SINGLES = {0: 84.67, 6: 85.48, 11: 79.50}
"""Of single blocks the paper's first, middle and last; which block its middle one is, it does not say."""
TOKEN_ROWS = {
    "first_patch": Published(88.79, 0.08),
    "middle_patch": Published(88.57, 0.10),
    "last_patch": Published(88.79, 0.04),
    "class": Published(89.49, 0.04),
    "patches": Published(70.82, 0.33),
    "all": Published(88.92, 0.06),
}
FORMULA_ROWS = {
    "lobireft": Published(88.39, 0.04),
    "consreft": Published(88.96, 0.01),
    "direft": Published(89.53, 0.05),
    "noreft": Published(89.56, 0.02),
    "loreft": Published(89.49, 0.03),
}
DATA_ROWS = {0.01: 85.55, 0.05: 87.78, 0.1: 88.47, 1.0: 88.90}
SLICES = (
    Slices(3, (0, "1/3", "2/3"), Published(87.54, upto=87.77)),
    Slices(6, (0, "5/12", "5/6"), Published(86.66, upto=86.73)),
    Slices(12, (0, "11/24", "11/12"), Published(85.22, upto=85.44), Published(85.63, 0.03)),
    Slices(24, (0, "23/48", "23/24"), Published(83.95, upto=84.10)),
)
STRONG_BASES = {"ties_sum": "TIES", "wudi_flow": "WUDI, flow", "iso_c": "Iso-C"}
STRONG_RANKS = (1, 4, 16)


def _ranks(base: str, words: str) -> list[Row]:
    figures = zip(RANK_CHOICES, RANK_FIGURES[base], strict=True)
    own = [
        repaired(f"{words}, rank {rank}", RANKS, Published(figure), base=base, rank=rank) for rank, figure in figures
    ]
    return [model(f"{words}, no interventions", RANKS, ALONE[base], base=base), *own]


def _surgery(base: str, rank: int, published: float) -> Row:
    return Row(f"{BASES[base]} + Surgery, rank {rank}", SURGERY, base, {"formula": "surgery", "rank": rank},
               published=Published(published))  # fmt: skip


def _together() -> list[Row]:
    words = "coefficients learned together with"
    rank_1, surgery = {"formula": "noreft", "rank": 1}, {"formula": "surgery", "rank": 16}
    return [
        Row(f"{words} IntervMerge, rank 1", RANKS, intervention=rank_1, coefficients=LEARNED),
        Row(f"{words} Surgery, rank 16", SURGERY, intervention=surgery, coefficients=LEARNED,
            published=Published(86.36)),
    ]  # fmt: skip


def _methods() -> list[Row]:
    bare = [model(words, RANKS, ALONE[base], base=base) for base, words in BASES.items()]
    rank_1 = [
        repaired(f"{words} + IntervMerge", RANKS, Published(RANK_FIGURES[base][0]), base=base)
        for base, words in BASES.items()
        if base != LAYER_WISE
    ]
    return [
        model("pre-trained", RANKS, 48.0, which="pre-trained"),
        model("individual", RANKS, 90.5, which="individual"),
        model("one model trained on all tasks", RANKS, 88.9, which="multi-task"),
        *bare,
        *rank_1,
        repaired(f"{BASES[LAYER_WISE]} + IntervMerge", METHODS, Published(88.96)),
        repaired(f"{BASES[LAYER_WISE]} + IntervMerge, rank 4", METHODS, Published(89.62), rank=4),
        repaired(f"{BASES[LAYER_WISE]} + IntervMerge, one block", METHODS, Published(85.48), blocks="middle_1"),
        repaired(f"{BASES[LAYER_WISE]} + IntervMerge, mini", METHODS, Published(83.45), formula="lobireft",
                 slice_width="1/12", slice_shift="slice_width"),
        *(_surgery(base, 16, figure) for base, figure in SURGERY_FIGURES.items()),
    ]  # fmt: skip


def _blocks() -> list[Row]:
    patterns = [repaired(words, BLOCKS, Published(own), blocks=name) for name, (words, own) in BLOCK_ROWS.items()]
    known = {block: Published(figure) for block, figure in SINGLES.items()}
    return [*patterns, *(repaired(f"block {n} alone", BLOCKS, known.get(n), blocks=n) for n in SINGLE_BLOCKS)]


def _data() -> list[Row]:
    chosen = {"formula": "noreft", "rank": 1}
    return [
        Row(f"{100 * share:.0f} % of the images", DATA, intervention=chosen, share=share, published=Published(figure))
        for share, figure in DATA_ROWS.items()
    ]


def _strong() -> list[Row]:
    return [
        row
        for base, words in STRONG_BASES.items()
        for row in (
            model(f"{words}, no interventions", STRONG, base=base),
            *(repaired(f"{words}, rank {rank}", STRONG, base=base, rank=rank) for rank in STRONG_RANKS),
        )
    ]


# fmt: off
TABLES: Mapping[str, Table] = MappingProxyType({
    "table1": Table("methods", f"{PAPER}, Table 1", tuple(_methods()),
                    "Surgery is at the final feature, and trained here as interventions are."),
    "table2": Table("tokens, rank 4", f"{PAPER}, Table 2",
                    tuple(repaired(t, TOKENS, own, token=t, rank=4) for t, own in TOKEN_ROWS.items()),
                    "The authors' code leaves all patches but one untrained: its 70.82 is no target."),
    "table3": Table("blocks, rank 1", f"{PAPER}, Table 3", tuple(_blocks()),
                    "Which block is the paper's middle one is not known; here it is block 6."),
    "table4": Table("slices, rank 1", f"{PAPER}, Table 4", tuple(row for own in SLICES for row in own.rows),
                    "The paper's range of a width stands beside each of its starts."),
    "table5": Table("the budget of one block", f"{PAPER}, Table 5", (
        repaired("one block, whole width", METHODS, Published(85.48), blocks="middle_1"),
        repaired("all blocks, slice 1/12, shifted", METHODS, Published(85.63, 0.03), slice_width="1/12",
                 slice_shift="slice_width"))),
    "table6": Table("ranks", f"{PAPER}, Table 6",
                    (*(row for base, words in BASES.items() for row in _ranks(base, words)),
                     *(_surgery(LAYER_WISE, *own) for own in zip(RANK_CHOICES, SURGERY_RANKS, strict=True)),
                     *_together()),
                    "On a narrow tower rank 64 is cut to half the width; that of Surgery, to half the feature. Where "
                    "coefficients are learned too, all start at 0.3 and the exact engine trains, with nothing kept."),
    "table7": Table("formulas, rank 4", f"{PAPER}, Table 7",
                    tuple(repaired(f, FORMULAS, own, formula=f, rank=4) for f, own in FORMULA_ROWS.items())),
    "table8": Table("images to adapt on, rank 1", f"{PAPER}, Table 8", tuple(_data()),
                    "The paper's shares are of the images of `test`, which it adapts on."),
    "strong_bases": Table("interventions on strong bases", "not in the paper", tuple(_strong())),
})
# fmt: on
"""By the name that `intervmerge reproduce` takes."""
