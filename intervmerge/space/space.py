"""A search space as the user writes it: YAML, values only, to typed settings.

A setting is a plain value, which is fixed; `{choices: [...]}`; or `{low: ..., high: ..., log: true}`.
"""

from __future__ import annotations

from dataclasses import field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from intervmerge.errors import ConfigError, nearest
from intervmerge.interventions import InterventionConfig
from intervmerge.settings import Lines as Lines
from intervmerge.settings import read_settings, settings
from intervmerge.space.bases import Base, Fixed, SomeBase, check_base, one_base, plain
from intervmerge.space.search import SearchSettings as SearchSettings
from intervmerge.space.values import Blocks, Elements, Name, Number, Whole
from intervmerge.space.values import Choices as Choices
from intervmerge.space.values import Range as Range
from intervmerge.space.values import WholeRange as WholeRange
from intervmerge.trial.config import TrainingConfig
from intervmerge.trial.presets import filled


@settings
class InterventionSpace:
    """What is searched of an InterventionConfig; a setting left out has that one's default."""

    formula: Name = InterventionConfig.formula
    rank: Whole = InterventionConfig.rank
    """Cut to half the slice; absent where the formula is constant."""
    blocks: Blocks = "all"
    """As in InterventionConfig; `mask` draws a 0 or 1 for every block."""
    token: Name = InterventionConfig.token
    slice_width: Elements = InterventionConfig.slice_width
    slice_start: Elements = InterventionConfig.slice_start
    slice_shift: Elements = InterventionConfig.slice_shift
    start: Name = InterventionConfig.start
    site: Name = InterventionConfig.site


@settings
class TrainingSpace:
    """What is searched of a TrainingConfig."""

    steps: Whole = TrainingConfig.steps
    batch: Whole = TrainingConfig.batch
    learning_rate: Number = TrainingConfig.learning_rate
    rungs: tuple[int, ...] = ()
    """As in TrainingConfig; rungs beyond a trial's last step are left out."""
    engine: str = TrainingConfig.engine
    """As in TrainingConfig."""
    loss: Name = TrainingConfig.loss

    def __post_init__(self) -> None:
        if list(self.rungs) != sorted({rung for rung in self.rungs if rung > 0}):
            raise ConfigError("training.rungs", list(self.rungs), "rungs are steps, in order", "such as [25, 50, 100]")


@settings
class Space:
    """A search space, not yet held against a model."""

    suite: str = "mini8"
    preset: str | None = None
    """A row of PRESETS: what `intervention` and `training` have where this file says nothing."""
    base: SomeBase = "auto"
    """One merged base; a list makes one study each; choices and steps are searched, as all else is."""
    bare: list[Fixed] = field(default_factory=list)
    """Bases that are measured without interventions and never repaired: a front without extra parameters is the best
    of them and of `base`."""
    training: TrainingSpace = field(default_factory=TrainingSpace)
    intervention: InterventionSpace = field(default_factory=InterventionSpace)
    search: SearchSettings = field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        if not self._written:
            raise ConfigError("base", "[]", "a space has a base, or several", "auto, or {rule: task_arithmetic}")
        for base in self._written:
            check_base(base)
        _ = self.alone  # refused here, where it is wrong

    @property
    def alone(self) -> list[dict[str, Any]]:
        """Rule and complete settings of each different one of `bare`.

        Raises:
            ConfigError: one of them is no rule with its settings.
        """
        every = [one_base(base, "bare") for base in self.bare]
        return [base for place, base in enumerate(every) if base not in every[:place]]

    @property
    def _written(self) -> list[Base]:
        """The bases as the user wrote them."""
        return self.base if isinstance(self.base, list) else [self.base]

    @property
    def bases(self) -> list[Base]:
        """The bases, one study each; one that is searched, and leaves no choice, is that base."""
        return [plain(base) for base in self._written]


def domains(space: Space) -> dict[str, Any]:
    """Every setting that a trial draws or takes, by dotted name."""
    return {
        f"{part}.{f.name}": getattr(getattr(space, part), f.name)
        for part in ("intervention", "training")
        for f in fields(getattr(space, part))
        if f.name != "rungs"
    }


def read_space(name: str | Path, preset: str | None = None) -> Space:
    """Read and check a search space.

    Args:
        name: the path of a YAML file, or the name of a shipped one, with or without `.yaml`.
        preset: a row of PRESETS, instead of the file's own.

    Raises:
        ConfigError: with file, line and key, what was got, the rule and what is allowed.
    """
    lines = Lines(find_space(name))
    chosen = lines.values.get("preset") if preset is None else preset
    try:
        filling = chosen if isinstance(chosen, str) else None  # what is no name is refused as a setting
        return read_settings(Space, filled(lines.values, filling), "")
    except ConfigError as error:
        raise lines.located(error) from error


def find_space(name: str | Path) -> Path:
    """The file of a space: a path, or one that is shipped; found from any working directory."""
    path, known = Path(name), shipped()
    if path.is_file():
        return path
    if path.name == str(name) and path.name.removesuffix(".yaml") in known:
        return known[path.name.removesuffix(".yaml")]
    rule = "it must be a YAML file or a shipped space"
    raise ConfigError("--space", repr(str(name)), rule, nearest(path.stem, known))


def shipped() -> dict[str, Path]:
    """The shipped spaces by name: beside the package in a checkout, inside it when installed from a wheel."""
    root = Path(__file__).parent.parent
    folders = (root / "search_spaces", root.parent / "search_spaces")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def schema() -> dict[str, Any]:
    """The JSON schema of a space, for editors."""
    return TypeAdapter(Space).json_schema()
