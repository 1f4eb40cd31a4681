"""An engine whose memory is too short, to see what is done about it."""

from __future__ import annotations

import torch
from torch import Tensor

from intervmerge.engines.batches import Batch
from intervmerge.engines.exact import ExactEngine
from intervmerge.suites.encoder import Edit


class Narrow(ExactEngine):
    """An engine on a device that has memory to train so many tasks at once."""

    most = 1

    def walk(self, batch: Batch, edit: Edit | None, first: int) -> Tensor:
        if torch.is_grad_enabled() and len(batch.index) > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(batch.index)} tasks")
        return super().walk(batch, edit, first)
