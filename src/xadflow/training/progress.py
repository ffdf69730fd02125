"""How far a training is, and what its losses were: told without waiting for the device at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from xadflow.errors import TrainingFailed

LOWER = "lower learning_rate of the detector in params.yaml"

Listener = Callable[[int, int, Mapping[str, float]], None]


class Listened(Protocol):
    """A training that somebody may listen to: `progress(done, total, figures)`."""

    @property
    def progress(self) -> Listener | None:
        """Called about once a step; None: nobody listens."""


@dataclass
class Progress:
    """Counts the units of one fit, all phases together, and tells whoever listens."""

    run: Listened
    total: int
    done: int = field(default=0)

    def advance(self, figures: Mapping[str, float] | None = None, units: int = 1) -> None:
        """One more unit done."""
        self.done = min(self.done + units, self.total)
        if self.run.progress is not None:
            self.run.progress(self.done, self.total, figures or {})


class History:
    """Losses of the steps: what the host has seen, (step, name, value) with steps from 1, and what is on the device
    yet.
    """

    def __init__(self, seen: Sequence[tuple[int, str, float]]) -> None:
        self.seen = [(int(step), str(name), float(value)) for step, name, value in seen]
        self._unseen: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, losses: dict[str, Tensor]) -> int:
        """Take the losses of a step, counted from 0, without looking at them; returns how many steps are done."""
        self._unseen.append((step, losses))
        return step + 1

    def note(self, done: int, name: str, value: float) -> None:
        """Add a figure that the host knows. Raises TrainingFailed when it is not a number."""
        if not math.isfinite(value):
            raise TrainingFailed(
                f"the loss of a {name} is not a number", seen=f"step {done - 1}: {value}", next_step=LOWER
            )
        self.seen.append((done, name, value))

    def look(self) -> dict[str, float]:
        """Bring losses to the host, in one copy; returns the last step's, {} where all were. Raises TrainingFailed."""
        if not self._unseen:
            return {}
        values = iter(torch.stack([value for _, losses in self._unseen for value in losses.values()]).tolist())
        figures: dict[str, float] = {}
        for step, losses in self._unseen:
            figures = {name: next(values) for name in losses}
            if not math.isfinite(sum(figures.values())):
                raise TrainingFailed(
                    "the loss stopped being a number",
                    seen=f"step {step}: {figures}",
                    next_step=LOWER if step else "look at the training images: no weight has been changed yet",
                )
            self.seen.extend((step + 1, name, value) for name, value in figures.items())
        self._unseen.clear()
        return figures
