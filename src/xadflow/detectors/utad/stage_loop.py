"""The loop that both stages share: steps, rates, one checkpoint a stage, sample sheets.

Everything random in a step is a function of (seed, stage, step), so that a stage which was killed goes on exactly; its
checkpoint, the last step's included, is also how the next stage gets its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xadflow.detectors.base import SAMPLES, FitRun
from xadflow.detectors.utad.settings import StageSettings
from xadflow.engine.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from xadflow.engine.progress import LOWER, History, Progress
from xadflow.engine.seeds import seeded
from xadflow.errors import TrainingFailed

StageName = Literal["impression", "expert"]
CHECKPOINT_EVERY = 50  # steps; networks, judges and optimisers are written
DROPS: Mapping[StageName, tuple[tuple[float, ...], float]] = {
    "impression": ((0.5, 0.875), 0.1),  # epochs 200 and 350 of 400
    "expert": (tuple(number / 10 for number in range(1, 10)), 0.5),  # every 50,000 of 500,000 iterations
}


@dataclass(frozen=True)
class Stage:
    """One stage: `players` are all networks that learn; `step(number)` trains once and returns the losses.

    `rates` are the highest rates of the optimisers, by the same names.
    """

    name: StageName
    steps: int
    settings: StageSettings
    players: nn.Module
    optimisers: Mapping[str, torch.optim.Optimizer]
    rates: Mapping[str, float]
    step: Callable[[int], dict[str, Tensor]]
    sheet: Callable[[], bytes]


@dataclass(frozen=True)
class Trained:
    """The step a checkpoint gave, and (step, name, value) of the losses, with names `stage.loss`."""

    resumed_from: int
    steps: int
    history: tuple[tuple[int, str, float], ...]


def run_stage(stage: Stage, run: FitRun, identity: str, progress: Progress, sheets: int) -> Trained:
    """Train to the end; in place. Goes on from `run.folder/<stage>/checkpoint.pt` where that is of the same `identity`.

    Raises:
        TrainingFailed: a loss or a weight is not a number; the checkpoint of before stays.
    """
    path = run.folder / stage.name / CHECKPOINT
    start, history = 0, History([])
    if (saved := read_checkpoint(path, identity)) is not None:
        stage.players.load_state_dict(saved["players"])
        for name, optimiser in stage.optimisers.items():
            optimiser.load_state_dict(saved["optimisers"][name])
        start, history = int(saved["step"]), History(saved["history"])
    progress.advance(units=start)
    due = {round(stage.steps * (number + 1) / sheets) for number in range(sheets)} if sheets else set()
    figures: dict[str, float] = {}
    for number in range(start, stage.steps):
        share = rate_share(stage, number)
        for name, optimiser in stage.optimisers.items():
            optimiser.param_groups[0]["lr"] = stage.rates[name] * share
        losses = stage.step(number)
        done = history.add(number, {f"{stage.name}.{name}": value for name, value in losses.items()})
        if done % CHECKPOINT_EVERY == 0 or done == stage.steps:
            figures = history.look()
            if not all(bool(tensor.isfinite().all()) for tensor in stage.players.state_dict().values()):
                raise TrainingFailed("a weight stopped being a number", seen=f"step {number} of {stage.name}", next_step=LOWER)
            write_checkpoint(path, identity, {
                "step": done, "players": stage.players.state_dict(), "history": history.seen,
                "optimisers": {name: one.state_dict() for name, one in stage.optimisers.items()},
            })  # fmt: skip
        if done in due:
            sheet = run.folder / SAMPLES / f"{stage.name}-{done:06d}.png"
            sheet.parent.mkdir(parents=True, exist_ok=True)
            sheet.write_bytes(stage.sheet())
        progress.advance(figures)
    return Trained(start, stage.steps, tuple(history.seen))


def rate_share(stage: Stage, number: int) -> float:
    """Of the highest rate at a step counted from 0: the climb of the warm-up, then the curve."""
    settings, at = stage.settings, (number + 0.5) / stage.steps
    climb = min(1.0, at / settings.warm_up) if settings.warm_up > 0 else 1.0
    if settings.curve == "cosine":
        return climb * 0.5 * (1.0 + math.cos(math.pi * at))
    drops, factor = DROPS[stage.name]
    return float(climb * factor ** sum(at >= drop for drop in drops))


def is_warm(settings: StageSettings, steps: int, number: int) -> bool:
    """Whether the warm-up is over at a step counted from 0, and every loss counts."""
    return (number + 0.5) / steps >= settings.warm_up


@contextmanager
def weights_from(seed: int, purpose: str) -> Iterator[None]:
    """Initial weights from this seed, whatever was drawn before; torch's global state is given back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seeded(seed, "utad", purpose).initial_seed()))
        yield


@contextmanager
def drops_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Dropout within is a function of the generator: a resumed step drops the same channels."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator, device=generator.device)))
        yield
