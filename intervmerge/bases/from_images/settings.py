"""Settings of the bases that read images; each default stands here once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal

from intervmerge.errors import ConfigError
from intervmerge.merging import resolve_settings
from intervmerge.settings import settings

Check = tuple[Callable[[Any], bool], str]
COUNT: Check = (lambda value: value >= 1, "1 or more")
NOT_NEGATIVE: Check = (lambda value: 0 <= value < float("inf"), "0 or more")
POSITIVE: Check = (lambda value: 0 < value < float("inf"), "more than 0")
SHARE: Check = (lambda value: 0 <= value <= 1, "0..1")
KEPT: Check = (lambda value: 0 < value <= 1, "above 0 and at most 1")
FINITE: Check = (lambda value: abs(value) < float("inf"), "a finite number")

RANGES: Mapping[str, Check] = {
    "images": COUNT,
    "batch": COUNT,
    "steps": NOT_NEGATIVE,
    "learning_rate": POSITIVE,
    "start": FINITE,
    "density": KEPT,
    "ratio": KEPT,
    "ridge": NOT_NEGATIVE,
    "floor": POSITIVE,
    "off_diagonal": SHARE,
    "teachers": SHARE,
    "extrapolation": FINITE,
}
"""What a number may be, by its name, in whatever rule."""


@settings
class FromImages:
    """What every such base has."""

    images: int = 256
    """Images of `adapt` a task that are read, without labels; the first of the order in which training takes them."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            fits, allowed = RANGES.get(name, (lambda value: True, ""))
            if not fits(value):
                raise ConfigError(name, repr(value), "out of range", allowed)
            if isinstance(value, dict):
                object.__setattr__(self, name, data_free(name, value))


def data_free(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A base without images, as `{rule: task_arithmetic, scaling: 0.3}`, all its settings filled in.

    Raises:
        ConfigError: no rule is named, or there is none of this name, or a setting is refused.
    """
    if not isinstance(values.get("rule"), str):
        raise ConfigError(where, repr(values), "it names a rule without images", "such as {rule: task_arithmetic}")
    rest = {name: value for name, value in values.items() if name != "rule"}
    return {"rule": values["rule"], **resolve_settings(values["rule"], rest)}


@settings
class RegMean(FromImages):
    """RegMean and RegMean++."""

    off_diagonal: float = 0.95
    """What is kept of the products of different inputs."""
    ridge: float = 1e-3
    """Pull towards the anchor, as a share of the mean diagonal of Σ C; 0 leaves what no image excites at the anchor."""
    anchor: dict[str, Any] = field(default_factory=lambda: {"rule": "weight_average"})
    """The base without images that the ridge draws to."""


@settings
class FeatCal(FromImages):
    """FeatCal."""

    first: dict[str, Any] = field(default_factory=lambda: {"rule": "task_arithmetic", "scaling": 0.3})
    """The base without images that is calibrated."""
    teachers: float = 0.25
    """Share of the tasks' own features in what layers are fitted to; the rest is the merged model's own."""
    ridge: float = 0.05
    """Pull towards the anchor; statistics of a task count 1."""
    extrapolation: float = 2.2
    """The anchor is the first base with its merged task vector this many times as long; 1 suits strong bases."""


@settings
class Fisher(FromImages):
    """Fisher merging."""

    floor: float = 1e-6
    """Added to every F."""
    normalised: bool = True
    """Each task's F is divided by its norm."""
    seed: int = 0
    """Of the labels that are drawn."""


@settings
class AdaMerging(FromImages):
    """AdaMerging, its coefficients one a task or one a task and layer."""

    start: float = 0.3
    """λ at the start."""
    loss: Literal["entropy", "distance"] = "entropy"
    """`entropy` of the predictions; `distance` to the features of the tasks' own models."""
    steps: int = 500
    """Adam steps."""
    batch: int = 32
    """Images of each task a step."""
    learning_rate: float = 1e-3
    """Of Adam."""
    seed: int = 0
    """Of the order of batches."""


@settings
class AdaMergingPP(AdaMerging):
    """AdaMerging++."""

    density: float = 0.2
    """Share of each task vector that trimming keeps."""


@settings
class AdaRankSum(AdaMerging):
    """AdaRank from the pre-trained model."""

    batch: int = 16
    """Images of each task a step."""
    ratio: float = 1.0
    """Share of singular directions kept at the start."""


@settings
class AdaRankMean(AdaRankSum):
    """AdaRank from the mean of the models, as CART."""

    start: float = 2.3
    """λ at the start."""
    ratio: float = 0.16
    """Share of singular directions kept at the start."""
