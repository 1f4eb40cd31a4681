"""Known-cost stopping: what a trial, or one of its tasks, must reach at a rung to be trained further.

What a trial costs is known before it is trained; how accurate it will be is not. So it is held only against trials that
cost no more, at the same rung: the cheap end of a front is never starved. Figures are noisy, so it must be worse by
more than the noise. All this is read from the records: what a killed search knew, its successor knows.
"""

from intervmerge.records.stopping.known import Bars, Known, Staircase, bars
from intervmerge.records.stopping.rules import MARGIN, STOPPING, Rule, error_of_difference

__all__ = ["MARGIN", "STOPPING", "Bars", "Known", "Rule", "Staircase", "bars", "error_of_difference"]
