"""A problem that the training loop solves in milliseconds, with what the loop can be asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xadflow.detectors import FitRun
from xadflow.training.loop import Trained, run_stage
from xadflow.training.minimising import Schedule, minimising
from xadflow.training.progress import Progress
from xadflow.training.splitting import Problem

STEPS, BATCH = 24, 12
SCHEDULE = Schedule(STEPS, 0.05, 1e-4, checkpoint_every=4)


class Killed(Exception):
    """Stands for a kill in the middle of a step."""


@dataclass(frozen=True)
class Points:
    """Points [B,6] and whether they are anomalies [B]."""

    x: Tensor
    is_anomaly: Tensor

    @property
    def weights(self) -> Mapping[str, Tensor]:
        share = self.is_anomaly.to(self.x.dtype) / len(self.x)
        return {"normal": 1 / len(self.x) - share, "anomaly": share}


def draw(generator: torch.Generator) -> Points:
    """Anomalies are shifted."""
    is_anomaly = torch.rand(BATCH, generator=generator) < 0.5
    return Points(torch.randn(BATCH, 6, generator=generator) + is_anomaly[:, None].float(), is_anomaly)


def cost(network: Any, batch: Points, rows: slice) -> Tensor:
    """Logistic loss."""
    z = network(batch.x[rows]).squeeze(1)
    return nn.functional.softplus(torch.where(batch.is_anomaly[rows], -z, z))


PROBLEM = Problem(draw, cost)


class Limited(nn.Module):
    """A network whose device holds `most` images; the batch normalisation, if any, runs before memory does out."""

    def __init__(self, most: int = BATCH, *, normalised: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first = nn.BatchNorm1d(6) if normalised else nn.Identity()
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.first, self.most, self.refused = first, most, 0

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        if self.training and len(x) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError(f"tried to hold {len(x)} images. It did not work")
        result: Tensor = self.layers(hidden)
        return result


def trained(
    module: nn.Module,
    folder: Path,
    kill_at: int | None = None,
    problem: Problem[Points] = PROBLEM,
    checked_on: Points | None = None,
    **schedule: object,
) -> Trained:
    """Run the loop on a CPU; with `kill_at` it ends by Killed after that many steps."""

    def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
        if done == kill_at and figures:
            raise Killed

    run = FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu", progress=progress)
    changed = dataclasses.replace(SCHEDULE, **schedule)  # type: ignore[arg-type]
    stage = minimising(module, problem, changed, run.seed, torch.device("cpu"), checked_on)
    return run_stage(stage, folder, "id", Progress(run, STEPS))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether every number of two modules is equal, bit by bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())
