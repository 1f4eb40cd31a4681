"""A space whose trials take a moment on the odd suite."""

from __future__ import annotations

SPACE = """\
base: {rule: task_arithmetic, scaling: 0.3}
training: {steps: 4, batch: 8, rungs: [2]}
intervention:
  formula: {choices: [noreft, lobireft, consreft]}
  rank: {low: 1, high: 4}
  blocks: {choices: [all, mask]}
  slice_width: {choices: ["1/1", "1/6"]}
search: {trials: 5}
"""
