"""Recorded trials: every configuration of a finite space on mini8, a stand-in, with three seeds; a table a base.

Made by tests/benchmarks/record_trials.py, which says how; for whoever wants to try a search without training anything.
One row a configuration, seed and rung. Columns: `configuration` (equal for equal ones), seed, steps, formula, rank,
blocks, token, slice_width, slice_start, slice_shift, site (`attention`; the first table says none), extra_params,
seconds (one CPU thread, since the trial began), `correct/<task>` and `agreeing/<task>` (images of `validation` that are
classified right, and as the teacher does), and `test_correct/<task>` and `test_agreeing/<task>`, which only a trial's
last rung has. The schema's metadata says, under `intervmerge`, as JSON: suite, note, base, base_fingerprint, engine,
training, tasks, dearest (extra parameters), and of the reference models by split and model the same counts.

The suite's images and licences: intervmerge/suites/mini8. The counts are our own, under the licence of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from intervmerge.errors import ConfigError, lookup

if TYPE_CHECKING:
    import pyarrow as pa

HERE = Path(__file__).parent
TABLES: Mapping[str, Path] = MappingProxyType(
    {"ties_sum": HERE / "mini8.parquet", "wudi_flow": HERE / "mini8-wudi_flow.parquet"}
)
"""By the rule of the merged base, at the rule's own settings."""


def load_recorded(path: str | Path | None = None, *, base: str | None = None) -> pa.Table:
    """The recorded trials as a table: `im.load_recorded(base="ties_sum").to_pandas()`.

    Args:
        path: a file that record_trials.py made; None is the shipped one of `base`.
        base: a row of TABLES; None is TIES.

    Raises:
        ConfigError: nothing was recorded on this base, or both a file and a base are given.
    """
    if path is not None and base is not None:
        raise ConfigError("load_recorded", f"{path} and {base}", "a file says on which base it was made", "one of them")
    import pyarrow.parquet as pq

    return pq.read_table(lookup(TABLES, base or "ties_sum", "base") if path is None else path)
