"""Where and how one training runs, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SAMPLES = "samples"  # folder in a training's own where a method may leave PNG files for its MLflow run


@dataclass(frozen=True)
class FitRun:
    """Where and how one training runs; `progress(done, total, figures)` is called about once a step.

    `memory_mb`: what features of training images may take together; a method that keeps them takes fewer images.
    """

    folder: Path
    seed: int
    false_alarm_rate: float
    device: str = "auto"
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None
    memory_mb: int = 8000


@dataclass(frozen=True)
class FitReport:
    """What a training did. `history` holds (step, name, value); `resumed_from` is the step a checkpoint gave."""

    seconds: float
    steps: int
    resumed_from: int
    history: tuple[tuple[int, str, float], ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
