"""Recorded trials: every configuration of a finite space on mini8, a stand-in, trained with three seeds.

Made by tests/benchmarks/record_trials.py, which says how; for whoever wants to try a search without training anything.
One row a configuration, seed and rung. Columns: `configuration` (equal for equal ones), seed, steps, formula, rank,
blocks, token, slice_width, slice_start, slice_shift, extra_params, seconds (one CPU thread, since the trial began),
`correct/<task>` and `agreeing/<task>` (images of `validation` that are classified right, and as the teacher does), and
`test_correct/<task>` and `test_agreeing/<task>`, which only a trial's last rung has. The schema's metadata says, under
`intervmerge`, as JSON: suite, note, base, base_fingerprint, engine, tasks, dearest (extra parameters), and of the
reference models by split and model the same counts.

The suite's images and licences: intervmerge/suites/mini8. The counts are our own, under the licence of this package.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

PATH = Path(__file__).parent / "mini8.parquet"
"""The recorded trials."""


def load_recorded(path: str | Path = PATH) -> pa.Table:
    """The recorded trials as a table: `im.load_recorded().to_pandas()`."""
    import pyarrow.parquet as pq

    return pq.read_table(path)
