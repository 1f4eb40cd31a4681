"""Three splits by purpose from the official parts of a data set: by a rule and a seed, which are recorded."""

from __future__ import annotations

from typing import Literal

from intervmerge.errors import ConfigError
from intervmerge.settings import settings


@settings
class SplitRule:
    """Which images are for what: `test` is the official test part; `adapt` and `validation` are never in it."""

    train: str | None = None
    """Official part to draw `adapt` from; None is the one that is named for training."""
    test: str | None = None
    """Official part for `test`; None is the one named test, else the one named for validation."""
    validation_from: Literal["official", "train"] = "official"
    """`official`: the part named for validation, where there is one beside train and test; else, and with `train`,
    images of the training part that are not in `adapt`."""
    validation: float = 0.1
    """Share of the training part that is drawn for `validation`."""
    most_validation: int = 5_000
    """Images that are drawn for `validation`, at most."""
    draw: Literal["stratified", "random"] = "stratified"
    """`stratified`: every class has its share; `random`: by lot."""
    seed: int = 0
    """Of all that is drawn."""
    limit_adapt: int | None = None
    """Images of `adapt`, at most, drawn likewise; None is all."""
    limit_validation: int | None = None
    """Images of `validation`, at most."""
    limit_test: int | None = None
    """Images of `test`, at most."""
    most_corrupt: float = 0.01
    """Share of the images that may be corrupt; they are left out. More are refused."""

    def __post_init__(self) -> None:
        for name in ("validation", "most_corrupt"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ConfigError(name, share, "it is a share", "0 or more, less than 1")
        for name in ("most_validation", "limit_adapt", "limit_validation", "limit_test"):
            most = getattr(self, name)
            if most is not None and most < 1:
                raise ConfigError(name, most, "every split has images", "1 or more")

    @property
    def note(self) -> str:
        """What every caption must say; empty where nothing was limited."""
        limits = {split: getattr(self, f"limit_{split}") for split in ("adapt", "validation", "test")}
        said = [f"{most:,} of {split}" for split, most in limits.items() if most is not None]
        return f"at most {', '.join(said)} images a task" if said else ""
