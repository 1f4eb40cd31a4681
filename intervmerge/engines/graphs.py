"""One launch a step instead of hundreds: CUDA graphs for the class stream, whose kernels are too short for a GPU.

A recording reads and writes fixed addresses. So what a step needs is copied to where the recording reads it, gradients
are summed where it left them, and nothing in it may wait for the host. Elsewhere than on CUDA the same function runs on
the same copies, so that all but the recording itself is tested everywhere.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.engines.batches import Batch
from intervmerge.engines.exact import edit_of
from intervmerge.engines.stream import StreamEngine
from intervmerge.interventions import Interventions

WARM = 3
"""Runs before a recording, in which libraries choose their kernels and take their memory; as torch's manual says."""

Inputs = Mapping[str, Tensor]


class Replayed:
    """A function of tensors, recorded once on CUDA and replayed on new values.

    Args:
        function: reads these very tensors, writes to others of fixed address, never waits for the host.
        inputs: of the shapes, types and device of all later ones.
    """

    def __init__(self, function: Callable[[Inputs], None], inputs: Inputs) -> None:
        self._function = function
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        self._graph: torch.cuda.CUDAGraph | None = None
        device = next(iter(self._inputs.values())).device
        if device.type == "cuda":
            with torch.cuda.device(device):  # which need not be the first: streams are of the current one
                self._record()

    def _record(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM):
                self._function(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with uncollected(), torch.cuda.graph(self._graph):
            self._function(self._inputs)

    def __call__(self, inputs: Inputs) -> None:
        """Run on these values."""
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor, non_blocking=True)
        if self._graph is None:
            self._function(self._inputs)
        else:
            self._graph.replay()


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's collector runs now and not within: a graph that is destroyed while another is recorded spoils that one,
    and since version 2.9 torch no longer sees to it."""
    gc.collect()
    ran = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ran:
            gc.enable()


@dataclass(frozen=True)
class _Step:
    """What is recorded: adds the gradients of a batch to the interventions' own. It does not know its recording, so
    that both go, with the device's memory that they hold, when they are let go of."""

    engine: StreamEngine
    interventions: Interventions
    rows: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    losses: Tensor
    """Of each row [rows], of the last batch."""

    def __call__(self, inputs: Inputs) -> None:
        lead = inputs["targets"].shape[:2]
        edit = edit_of(self.interventions, lead, self.rows)
        found = self.engine.through(inputs, edit, self.interventions.blocks[0]).view(*lead, -1)
        losses = self.loss(found, inputs["targets"])
        self.losses.copy_(losses.detach())
        parameters = list(self.interventions.parameters())
        gradients = torch.autograd.grad(losses.sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad.add_(gradient)


class StreamSteps:
    """Adds the gradients of batches of some rows to the interventions' own; zero them before each step.

    Args:
        engine: the class stream.
        interventions: one row a task.
        rows: which rows of `interventions` stand in a batch, in order.
        loss: [rows], of features and targets, both [rows, images, features].
    """

    def __init__(
        self,
        engine: StreamEngine,
        interventions: Interventions,
        rows: Sequence[int],
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self._engine, self._interventions = engine, interventions
        places = torch.tensor(list(rows), device=engine.device)  # a list would be copied there at every step
        self._step = _Step(engine, interventions, places, loss, torch.zeros(len(rows), device=engine.device))
        for parameter in interventions.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._replayed: Replayed | None = None

    def __call__(self, batch: Batch, targets: Tensor) -> Tensor:
        """Add the gradients of a batch; the loss of each row [rows], until the next call."""
        inputs = {**self._engine.enter(batch, self._interventions.blocks[0]), "targets": targets}
        if self._replayed is None:
            parameters = list(self._interventions.parameters())
            before = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
            self._replayed = Replayed(self._step, inputs)
            for parameter, gradient in zip(parameters, before, strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(gradient)  # recording has added to it
        self._replayed(inputs)
        return self._step.losses
