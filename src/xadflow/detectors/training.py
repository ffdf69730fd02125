"""The training loop that detectors share: steps on Lightning Fabric, seeds, checkpoints, progress.

Everything random in a step comes from generators that are functions of (seed, purpose, step), so a checkpoint holds
no random state and a training that was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import logging
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Generator, Tensor, nn

from xadflow.detectors.base import FitRun
from xadflow.errors import BadSettings, TrainingFailed

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Schedule:
    """How one training goes; `learning_rate` is the highest.

    `optimiser` is adamw (weight decay decoupled) or sgd (Nesterov momentum .9); `curve` one cosine cycle, or
    exponential: the rate times `decay` after each step. A checkpoint every `checkpoint_every` steps: the default suits
    a head, whose checkpoint is small and written in milliseconds.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    optimiser: Literal["adamw", "sgd"] = "adamw"
    curve: Literal["cosine", "exponential"] = "cosine"
    decay: float = 1.0
    checkpoint_every: int = 10


@dataclass(frozen=True)
class Trained:
    """What a loop did: the step a checkpoint gave (0 without one) and (step, name, value) of every step."""

    resumed_from: int
    history: tuple[tuple[int, str, float], ...]


@dataclass
class Progress:
    """Counts the units of one fit, all phases together, and tells whoever listens."""

    run: FitRun
    total: int
    done: int = field(default=0)

    def advance(self, figures: Mapping[str, float] | None = None, units: int = 1) -> None:
        """One more unit done."""
        self.done = min(self.done + units, self.total)
        if self.run.progress is not None:
            self.run.progress(self.done, self.total, figures or {})


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU. Raises BadSettings for what is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise BadSettings("no such device", seen=name, next_step="set device to auto, cpu or cuda") from err
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadSettings("no such GPU on this machine", seen=name, next_step="set device to auto or cpu")
    return device


def seeded(seed: int, *purpose: object, device: torch.device | str = "cpu") -> Generator:
    """A generator that depends on the seed and on what it is for, on nothing else."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


def train(
    module: nn.Module,
    losses_of: Callable[[nn.Module, Generator], Mapping[str, Tensor]],
    schedule: Schedule,
    run: FitRun,
    identity: str,
    progress: Progress,
    device: torch.device,
) -> Trained:
    """Minimise the sum of the losses that `losses_of(module, generator)` gives in each step; in place.

    The forward pass runs in bfloat16 autocast on a GPU and in float32 on a CPU. Checkpoints, the last step's included,
    are written to `run.folder`; one there with the same `identity` (digest of data, settings and seed) is continued,
    any other is ignored and overwritten. On a GPU the losses are looked at where a checkpoint is due, so that no step
    waits for the one before.

    Raises:
        TrainingFailed: a loss or a weight is not a number; the checkpoint of before stays.
    """
    on_gpu = device.type == "cuda"
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu", devices=[device.index or 0] if on_gpu else 1,
        precision="bf16-mixed" if on_gpu else "32-true",
    )  # fmt: skip
    module.to(device)
    optimiser, curve = _optimiser(module, schedule)
    path = run.folder / CHECKPOINT
    start, history = _resume(path, identity, module, optimiser, curve)
    wrapped, fabric_optimiser = fabric.setup(module, optimiser)
    progress.advance(units=start)
    unseen: list[tuple[int, dict[str, Tensor]]] = []
    figures: dict[str, float] = {}
    for step in range(start, schedule.steps):
        losses = losses_of(wrapped, seeded(run.seed, "step", step, device=device))
        total = torch.stack(list(losses.values())).sum()
        unseen.append((step, {name: value.detach() for name, value in losses.items()}))
        is_due = (step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps
        if is_due or not on_gpu:
            figures = _seen(unseen, history)
        fabric_optimiser.zero_grad()
        fabric.backward(total)
        fabric_optimiser.step()
        curve.step()
        if is_due:
            if not all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values()):
                raise TrainingFailed("a weight stopped being a number", seen=f"step {step}",
                                     next_step="lower learning_rate of the detector in params.yaml")  # fmt: skip
            _write(path, {
                "identity": identity, "step": step + 1, "module": module.state_dict(),
                "optimiser": optimiser.state_dict(), "curve": curve.state_dict(), "history": history,
            })  # fmt: skip
        progress.advance(figures)
    return Trained(start, tuple(history))


def _optimiser(
    module: nn.Module, schedule: Schedule
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    optimiser: torch.optim.Optimizer
    if schedule.optimiser == "sgd":
        optimiser = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
    else:
        optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay)
    if schedule.curve == "exponential":
        return optimiser, torch.optim.lr_scheduler.ExponentialLR(optimiser, schedule.decay)
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=schedule.steps)


def _seen(unseen: list[tuple[int, dict[str, Tensor]]], history: list[tuple[int, str, float]]) -> dict[str, float]:
    """Bring losses to the host, in one copy, and into the history; returns the last. Raises TrainingFailed."""
    values = iter(torch.stack([value for _, losses in unseen for value in losses.values()]).tolist())
    figures: dict[str, float] = {}
    for step, losses in unseen:
        figures = {name: next(values) for name in losses}
        if not math.isfinite(sum(figures.values())):
            raise TrainingFailed("the loss stopped being a number", seen=f"step {step}: {figures}",
                                 next_step="lower learning_rate of the detector in params.yaml")  # fmt: skip
        history.extend((step + 1, name, value) for name, value in figures.items())
    unseen.clear()
    return figures


def _resume(
    path: Path,
    identity: str,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    curve: torch.optim.lr_scheduler.LRScheduler,
) -> tuple[int, list[tuple[int, str, float]]]:
    if not path.is_file():
        return 0, []
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums of what it reads
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(damaged)
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # both raise many kinds on a damaged archive; each means "no checkpoint"
        log.warning("checkpoint %s cannot be read (%s); training starts over", path.name, type(err).__name__)
        return 0, []
    if saved.get("identity") != identity:
        log.info("checkpoint %s is of other work; training starts over", path.name)
        return 0, []
    module.load_state_dict(saved["module"])
    optimiser.load_state_dict(saved["optimiser"])
    curve.load_state_dict(saved["curve"])
    return int(saved["step"]), [(int(step), str(name), float(value)) for step, name, value in saved["history"]]


def _write(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)  # a kill leaves the old checkpoint or the new one, never half of one
