"""What a trial learns from: the teachers' features, the distance to them, and the points that it starts from."""

from intervmerge.trial.lesson.losses import LOSSES, Loss
from intervmerge.trial.lesson.targets import Lesson, block_targets, shown

__all__ = ["LOSSES", "Lesson", "Loss", "block_targets", "shown"]
