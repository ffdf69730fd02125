"""The loop that methods trained in stages share: steps, rates, one checkpoint a stage, sample sheets.

Everything random in a step is a function of (seed, stage, step), so that a stage which was killed goes on exactly; its
checkpoint, the last step's included, is also how the next stage gets its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xadflow.errors import TrainingFailed
from xadflow.training.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from xadflow.training.progress import LOWER, History, Progress
from xadflow.training.run import SAMPLES, FitRun
from xadflow.training.seeds import seeded

CHECKPOINT_EVERY = 50  # steps; networks, judges and optimisers are written


@dataclass(frozen=True)
class Stage:
    """One stage: `players` are all networks that learn; `step(number)` trains once and returns the losses.

    `rates` are the highest rates of the optimisers, by the same names; `share(number)` is how much of them a step
    takes.
    """

    name: str
    steps: int
    players: nn.Module
    optimisers: Mapping[str, torch.optim.Optimizer]
    rates: Mapping[str, float]
    share: Callable[[int], float]
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
        share = stage.share(number)
        for name, optimiser in stage.optimisers.items():
            optimiser.param_groups[0]["lr"] = stage.rates[name] * share
        losses = stage.step(number)
        done = history.add(number, {f"{stage.name}.{name}": value for name, value in losses.items()})
        if done % CHECKPOINT_EVERY == 0 or done == stage.steps:
            figures = history.look()
            if not all(bool(tensor.isfinite().all()) for tensor in stage.players.state_dict().values()):
                raise TrainingFailed(
                    "a weight stopped being a number", seen=f"step {number} of {stage.name}", next_step=LOWER
                )
            write_checkpoint(
                path,
                identity,
                {
                    "step": done,
                    "players": stage.players.state_dict(),
                    "history": history.seen,
                    "optimisers": {name: one.state_dict() for name, one in stage.optimisers.items()},
                },
            )
        if done in due:
            sheet = run.folder / SAMPLES / f"{stage.name}-{done:06d}.png"
            sheet.parent.mkdir(parents=True, exist_ok=True)
            sheet.write_bytes(stage.sheet())
        progress.advance(figures)
    return Trained(start, stage.steps, tuple(history.seen))


@contextmanager
def weights_from(seed: int, *purpose: str) -> Iterator[None]:
    """Initial weights from this seed, whatever was drawn before; torch's global state is given back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seeded(seed, *purpose).initial_seed()))
        yield


@contextmanager
def drops_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Dropout within is a function of the generator: a resumed step drops the same channels."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator, device=generator.device)))
        yield
