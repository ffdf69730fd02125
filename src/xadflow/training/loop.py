"""The one training loop: steps of a stage, its rates, checkpoints, checks and sample sheets.

Everything random in a step is a function of (seed, purpose, step), so that a checkpoint holds no random state and a
training that was killed and resumed ends with the same weights as one that was not. Where a method has several stages,
the checkpoint of one, its last step's included, is also how the next gets its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xadflow.errors import Stopped, TrainingFailed
from xadflow.training.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from xadflow.training.early_stop import Stopping
from xadflow.training.progress import LOWER, History, Progress
from xadflow.training.run import SAMPLES, FitReport
from xadflow.training.splitting import Splitting

CHECKPOINT_EVERY = 50  # steps, where whole networks and their optimisers are written


class Stateful(Protocol):
    """What goes on from a checkpoint: a module, an optimiser, a curve of rates, and whatever is made like them."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and containers of them alone."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Take what :meth:`state_dict` gave."""


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    name              its folder, and what stands before the names of its losses; "" where a training has no other stage
    module            all that learns; changed in place
    optimisers        by the names they have in the checkpoint
    step              trains once, the steps counted from 0; returns the losses, detached
    rate              the rate of an optimiser at a step, of the one it was made with; None: `curve` has it in hand, or
                      nothing changes it. Rates are no schedulers of torch here: those count steps of their optimiser,
                      and a judge takes none while its makers warm up
    curve, splitting  what else goes on from a checkpoint
    stopping          looked at where a checkpoint is due
    sheet             writes a PNG of what it makes of some images after so many steps; `sheets` times, evenly spread
    checkpoint_every  steps; None: CHECKPOINT_EVERY
    """

    name: str
    steps: int
    module: nn.Module
    optimisers: Mapping[str, torch.optim.Optimizer]
    step: Callable[[int], dict[str, Tensor]]
    rate: Callable[[int, float], float] | None = None
    curve: torch.optim.lr_scheduler.LRScheduler | None = None
    splitting: Splitting | None = None
    stopping: Stopping | None = None
    sheet: Callable[[Path, int], object] | None = None
    sheets: int = 0
    checkpoint_every: int | None = None

    @property
    def kept(self) -> dict[str, Stateful]:
        """What its checkpoints hold beside the step and the history."""
        others = {"curve": self.curve, "splitting": self.splitting, "stopping": self.stopping}
        named = {"module": self.module, **self.optimisers, **others}
        return {name: one for name, one in named.items() if one is not None}


@dataclass(frozen=True)
class Trained:
    """What a stage did: the step a checkpoint gave (0 without one), how many were done, (step, name, value) of each.

    `parts` is in how many parts the last batch went through the network.
    """

    resumed_from: int
    steps: int
    history: tuple[tuple[int, str, float], ...]
    parts: int = 1


def run_stage(stage: Stage, folder: Path, identity: str, progress: Progress) -> Trained:
    """Train to the end; in place.

    Checkpoints, the last step's included, are written to `folder`/<stage>; one there with the same `identity` (digest
    of data, settings and seed) is continued, any other is ignored and overwritten. On a GPU the losses are looked at
    where a checkpoint is due, so that no step waits for the one before.

    Raises:
        TrainingFailed: a loss or a weight is not a number; the checkpoint of before stays.
        Stopped: whoever listens was asked to stop; the step just done is in the checkpoint.
    """
    path, kept = folder / stage.name / CHECKPOINT, stage.kept
    start, history = 0, History([])
    if (saved := read_checkpoint(path, identity, {"step", "history", *kept})) is not None:
        for name, one in kept.items():
            one.load_state_dict(saved[name])
        start, history = int(saved["step"]), History(saved["history"])

    def keep() -> None:
        state = {name: one.state_dict() for name, one in kept.items()}
        write_checkpoint(path, identity, {"step": done, "history": history.seen, **state})

    progress.advance(units=start)
    done, figures = start, {}
    shown = shown_after(stage.steps, stage.sheets)
    before = f"{stage.name}." if stage.name else ""
    while done < stage.steps and not (stage.stopping and stage.stopping.is_over):
        if stage.rate is not None:
            for optimiser in stage.optimisers.values():
                optimiser.param_groups[0]["lr"] = stage.rate(done, optimiser.defaults["lr"])
        losses = stage.step(done)
        done = history.add(done, {before + name: value for name, value in losses.items()})
        is_due = done % (stage.checkpoint_every or CHECKPOINT_EVERY) == 0 or done == stage.steps
        if is_due or not any(value.is_cuda for value in losses.values()):
            figures = history.look()
        if is_due:
            _see_finite(stage, done)
            if stage.stopping:
                history.note(done, "check", stage.stopping.check())
            keep()
        if stage.sheet is not None and done in shown:
            sheet = folder / SAMPLES / f"{stage.name or 'step'}-{done:06d}.png"
            sheet.parent.mkdir(parents=True, exist_ok=True)
            stage.sheet(sheet, done)
        try:
            progress.advance(figures)
        except Stopped:
            if not is_due:  # every step that was done is kept
                history.look()
                _see_finite(stage, done)
                keep()
            raise
    if done < stage.steps:
        progress.advance(figures, stage.steps - done)
    if stage.stopping:
        stage.stopping.restore_best()
    return Trained(start, done, tuple(history.seen), stage.splitting.parts if stage.splitting else 1)


def _see_finite(stage: Stage, done: int) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in stage.module.state_dict().values()):
        where = f"step {done - 1}" + (f" of {stage.name}" if stage.name else "")
        raise TrainingFailed("a weight stopped being a number", seen=where, next_step=LOWER)


def shown_after(steps: int, sheets: int) -> set[int]:
    """After how many steps a sheet is due."""
    return {round(steps * (number + 1) / sheets) for number in range(sheets)}


def report_of(outcomes: Sequence[Trained], seconds: float, figures: Mapping[str, float]) -> FitReport:
    """What the stages of a training did together."""
    return FitReport(
        seconds,
        sum(one.steps for one in outcomes),
        sum(one.resumed_from for one in outcomes),
        tuple(row for one in outcomes for row in one.history),
        figures,
    )
