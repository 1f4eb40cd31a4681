"""A training put aside: everything it needs to go on as if it had never stopped, in one file, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from intervmerge.errors import CheckpointError
from intervmerge.files import replacing

Point = dict[str, float]
"""Of the curve: the step, the mean loss since the point before, and what was measured."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is put aside, and under which name."""

    path: Path
    identity: Mapping[str, Any]
    """Plain values that decide what comes of the training; another one's file is refused."""

    def write(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, curve: list[Point], generator: torch.Generator
    ) -> None:
        """Put aside what is trained, the optimizer, the curve so far and the randomness of the epoch that runs.

        Raises:
            OSError: it cannot be written; an earlier one stays.
        """
        kept = {
            "identity": json.dumps(self.identity),
            "weights": {name: weight.detach() for name, weight in trained(model).items()},
            "optimizer": optimizer.state_dict(),
            "curve": json.dumps(curve),
            "generator": generator.get_state(),
        }
        with replacing(self.path) as fresh:
            torch.save(kept, fresh)

    def read(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[Point], Tensor | None]:
        """Restore model and optimizer in place; the curve, and the state of the generator, empty without a file.

        Raises:
            CheckpointError: the file is another training's, or damaged.
        """
        if not self.path.is_file():
            return [], None
        refusal = "a file that this command made, or none: delete it to begin anew"
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, curve, generator = json.loads(kept["identity"]), json.loads(kept["curve"]), kept["generator"]
        except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError, KeyError, TypeError) as error:
            got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise CheckpointError(self.path, got, "a training is put aside here", refusal) from error
        own = json.loads(json.dumps(self.identity))
        if other := [key for key in {**identity, **own} if identity.get(key) != own.get(key)]:
            got, wanted = (", ".join(f"{key} {of.get(key)!r}" for key in other) for of in (identity, own))
            rule = f"a training with {wanted} would not go on from it"
            raise CheckpointError(self.path, f"a training with {got}", rule, refusal)
        with torch.no_grad():
            for name, weight in trained(model).items():
                weight.copy_(kept["weights"][name])
        optimizer.load_state_dict(kept["optimizer"])
        return curve, generator


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
