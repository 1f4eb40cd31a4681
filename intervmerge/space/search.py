"""How a space is searched: the one place of these knobs, from which YAML, flags and the plan come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType

from intervmerge.errors import ConfigError, lookup
from intervmerge.settings import settings

SEEDS = 2**32
"""Seeds of the samplers' generators are below it."""
MOST = 1_000_000
"""Trials of a study, further seeds and the like, at most: far beyond what anybody trains."""

PRIORS: Mapping[str, str] = MappingProxyType(
    {"paper": "the paper's own configurations are asked first", "none": "nothing is asked first"}
)


@settings
class SearchSettings:
    """How it is searched."""

    trials: int = 24
    """Different configurations to train, all sessions together."""
    sampler: str = "tpe"
    """A row of SAMPLERS."""
    priors: str = "paper"
    """`paper` asks the paper's own configurations first, `none` does not."""
    max_extra_params: int | None = None
    """Configurations with more are told to the sampler and never trained."""
    patience: int | None = None
    """The search ends when the front has not grown in so many ended trials; probes of bases, and trials that another
    study trained, are none of these."""
    stopping: str = "none"
    """What is trained no further at a rung: none, trial or task."""
    seed: int = 0
    """Of the sampler, and of every trial's initial values and batches."""
    hung_after: float = 1_800.0
    """Seconds without a step after which a trial hangs: its process is ended, and it fails."""
    final_seeds: int = 0
    """Further seeds that the front's trials are trained with when the search ends, for error bars: seed + 1, ..."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"search.{name}", value, "it is within its range", f"{low:,} to {high:,}")
        if self.seed + self.final_seeds >= SEEDS:
            got, rule = f"{self.seed}, and {self.final_seeds} further", f"seeds are below {SEEDS}"
            raise ConfigError("search.seed", got, rule, f"0 to {SEEDS - 1 - self.final_seeds}")
        if not 0 < self.hung_after <= MOST:
            raise ConfigError("search.hung_after", self.hung_after, "it is a time in seconds", f"0.1 to {MOST:,}")
        lookup(PRIORS, self.priors, "search.priors")


RANGES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "trials": (1, MOST),
        "max_extra_params": (1, 2**53),
        "patience": (1, MOST),
        "seed": (0, SEEDS - 1),
        "final_seeds": (0, 1_000),
    }
)
"""Counts by name, from the least to the largest."""

PASSING = ("trials", "max_extra_params", "patience", "stopping", "hung_after", "final_seeds")
"""Knobs that may change when a study is taken up again; the others decide what its trials were."""
KNOBS = tuple(f.name for f in fields(SearchSettings))
"""All by name."""
