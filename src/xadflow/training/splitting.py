"""One step's gradients, in as many parts of the batch as the device's memory needs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from xadflow.errors import TrainingFailed

log = logging.getLogger(__name__)

FEWEST = 2  # images in a part: over a single one, batch normalisation of a vector has no spread


class Weighted(Protocol):
    """A whole batch; `weights` name its losses and say what each image counts in them, [B]."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Name of a loss to the weight of every image in it."""


Batch = TypeVar("Batch", bound=Weighted)
Network = Callable[..., Tensor]


@dataclass(frozen=True)
class Problem(Generic[Batch]):
    """What a loop minimises.

    `draw(generator)` gives a whole batch; `cost(network, batch, rows)` the loss of each image in those rows, [b]. A
    named loss is the weighted sum of them over the batch, so that the losses of its parts add up to its own.
    """

    draw: Callable[[torch.Generator], Batch]
    cost: Callable[[Network, Batch, slice], Tensor]

    def losses(self, network: Network, batch: Batch, parts: int) -> Iterator[dict[str, Tensor]]:
        """The losses of each part of a batch, one after the other."""
        count = len(next(iter(batch.weights.values())))
        if count // parts < FEWEST and parts > 1:
            raise TrainingFailed(
                "the memory of the device does not hold two images of a batch",
                seen=f"batches of {count}, even in {parts // 2} parts",
                next_step="choose a smaller network or size_px in params.yaml, or device: cpu",
            )
        for number in range(parts):
            rows = slice(count * number // parts, count * (number + 1) // parts)
            cost = self.cost(network, batch, rows)
            yield {name: (cost * weight[rows]).sum() for name, weight in batch.weights.items()}


class Splitting:
    """Halves what goes through the network at once, whenever memory does not suffice, and stays with it.

    The batch of a step is drawn whole by its own generator whatever `parts` is, and the gradients of the parts are
    added: without statistics over the batch a step is the same but for rounding. Batch normalisation standardises each
    part by itself and moves its running statistics once a part: as trained with smaller batches there, though not in
    the loss.
    """

    def __init__(self, module: nn.Module, parts: int = 1) -> None:
        self.parts = parts
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
        self._statistics = [value for one in module.modules() if isinstance(one, kinds) for value in one.buffers()]

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"parts": self.parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self.parts = int(state_dict["parts"])

    def gradients(
        self,
        problem: Problem[Batch],
        network: Network,
        generator: Callable[[], torch.Generator],
        optimiser: torch.optim.Optimizer,
        backward: Callable[[Tensor], object],
    ) -> dict[str, Tensor]:
        """Leave the gradients of one batch in the parameters; returns its losses, detached.

        Raises:
            TrainingFailed: not even parts of two images fit.
        """
        before = [value.clone() for value in self._statistics]  # half a forward pass would leave them half moved
        while True:
            optimiser.zero_grad()
            try:
                return self._added(problem.losses(network, problem.draw(generator()), self.parts), backward)
            except torch.OutOfMemoryError as err:
                said = str(err).split(". ")[0]
            self.parts *= 2  # after the handler: the error held the tensors of the failed pass
            with torch.no_grad():
                for value, old in zip(self._statistics, before, strict=True):
                    value.copy_(old)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning("out of memory (%s); batches go through the network in %d parts from now on", said, self.parts)

    @staticmethod
    def _added(parts: Iterator[dict[str, Tensor]], backward: Callable[[Tensor], object]) -> dict[str, Tensor]:
        """In a frame of its own, which ends with the tensors it holds when memory runs out."""
        sums: dict[str, Tensor] = {}
        for losses in parts:
            backward(torch.stack(list(losses.values())).sum())
            for name, value in losses.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        return sums
