"""Flags of one trial, and the configuration that they say."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.cli.arguments import add_base_arguments, add_limits
from intervmerge.cli.program.values import number, whole

if TYPE_CHECKING:
    from intervmerge.trial.config import TrialConfig

SLICE_FLAGS = ("slice_width", "slice_start", "slice_shift")
INTERVENTION_FLAGS = ("formula", "rank", "blocks", "token", *SLICE_FLAGS, "start", "site")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command; those left out have the preset's, or the settings' own."""
    add_base_arguments(parser)
    parser.add_argument("--preset", help="paper-text or paper-code: settings of the flags that are left out")
    what = parser.add_argument_group("interventions")
    what.add_argument(
        "--formula", help="noreft, loreft, direft, nodireft, consreft, lobireft; surgery (default noreft)"
    )
    what.add_argument("--rank", type=whole, help="at most half the slice width (default 1)")
    what.add_argument(
        "--blocks",
        help="all, every_2, first_6, last_3, middle_1; one block, 5, or several, 3,7; three or more digits of 0 and 1 "
        "are a mask (default all)",
    )
    what.add_argument("--token", help="class, first_patch, middle_patch, last_patch, patches, all (default class)")
    what.add_argument("--slice-width", help='elements, or a fraction of the width such as "1/12" (default 1/1)')
    what.add_argument("--slice-start", help="first element of the slice, or a fraction (default 0)")
    what.add_argument(
        "--slice-shift", help="elements from one block to the next, a fraction, or slice_width (default 0)"
    )
    what.add_argument("--start", help="identity, or paper for the authors' initial values (default identity)")
    what.add_argument(
        "--site",
        help="attention, ln_1, residual, ln_2, mlp, block, feature, block_and_feature (default: where the formula's "
        "source puts it, the feature for surgery and the attention output for the others)",
    )
    how = parser.add_argument_group("training")
    how.add_argument("--steps", type=whole, help="optimizer steps (default 100)")
    how.add_argument("--batch", type=whole, help="images of each task a step (default 16)")
    how.add_argument("--learning-rate", type=number, help="of Adam (default 0.01)")
    how.add_argument("--rungs", type=whole, nargs="*", help="steps after which to measure, besides the last")
    how.add_argument("--engine", help="auto, exact, or stream (default auto: the class stream where it can be had)")
    how.add_argument("--loss", help="of features l1, l1_normalised, mse, cosine; or blocks (default l1)")
    add_limits(how)
    how.add_argument("--seed", type=whole, help="of initial values and batches (default 0)")
    parser.add_argument("--test", action="store_true", help="report on test too; choose by validation before you do")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write interventions.safetensors here at every rung")


def config_of(chosen: argparse.Namespace) -> TrialConfig:
    """The configuration that the flags say; those left out have the settings' own defaults."""
    from intervmerge.settings import read_settings
    from intervmerge.trial.config import TrialConfig
    from intervmerge.trial.presets import filled

    intervention = _given(chosen, *INTERVENTION_FLAGS)
    intervention |= {name: _number(str(intervention[name])) for name in SLICE_FLAGS if name in intervention}
    if "blocks" in intervention:
        intervention["blocks"] = _blocks(str(intervention["blocks"]))
    values = {
        "intervention": intervention,
        "training": _given(chosen, "steps", "batch", "learning_rate", "rungs", "engine", "loss"),
        **_given(chosen, "seed"),
    }
    return read_settings(TrialConfig, filled(values, chosen.preset), "trial")


def _blocks(text: str) -> object:
    """What --blocks says: a number is one block; only digits 0 and 1, three or more, are a mask, one a block."""
    if "," in text:
        return [_number(part) for part in text.split(",")]
    return text if re.fullmatch("[01]{3,}", text) else _number(text)


def _number(text: str) -> int | str:
    """A whole number where the text is one; otherwise the text, which the settings judge."""
    try:
        return int(text)
    except ValueError:
        return text


def _given(chosen: argparse.Namespace, *names: str) -> dict[str, object]:
    """The flags that were given; the others keep the defaults of the settings."""
    return {name: value for name in names if (value := getattr(chosen, name)) is not None}
