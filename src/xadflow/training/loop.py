"""The training loop that detectors share: steps on Lightning Fabric, seeds, checkpoints, progress.

Everything random in a step comes from generators that are functions of (seed, purpose, step), so a checkpoint holds
no random state and a training that was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, cast

import torch
from lightning_fabric import Fabric
from torch import nn

from xadflow.errors import TrainingFailed
from xadflow.training.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from xadflow.training.compiling import Compiled
from xadflow.training.early_stop import Stopping
from xadflow.training.progress import LOWER, History, Progress
from xadflow.training.run import FitRun
from xadflow.training.seeds import seeded
from xadflow.training.splitting import Batch, Network, Problem, Splitting


@dataclass(frozen=True)
class Schedule:
    """How one training goes; `learning_rate` is the highest.

    `optimiser` is adamw (weight decay decoupled) or sgd (Nesterov momentum .9); `curve` one cosine cycle, or
    exponential: the rate times `decay` after each step. A checkpoint every `checkpoint_every` steps: the default suits
    a head, whose checkpoint is small and written in milliseconds. `patience`, in checks of which each checkpoint has
    one, ends it earlier (see stopping.py); `compile` runs the network through torch.compile.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    optimiser: Literal["adamw", "sgd"] = "adamw"
    curve: Literal["cosine", "exponential"] = "cosine"
    decay: float = 1.0
    checkpoint_every: int = 10
    patience: int | None = None
    compile: bool = False


@dataclass(frozen=True)
class Trained:
    """What a loop did: the step a checkpoint gave (0 without one), how many were done, (step, name, value) of each.

    `parts` is in how many parts the last batch went through the network.
    """

    resumed_from: int
    steps: int
    history: tuple[tuple[int, str, float], ...]
    parts: int


def train(
    module: nn.Module,
    problem: Problem[Batch],
    schedule: Schedule,
    run: FitRun,
    identity: str,
    progress: Progress,
    device: torch.device,
    checked_on: Batch | None = None,
) -> Trained:
    """Minimise the sum of the problem's losses, step by step; in place.

    The forward pass runs in bfloat16 autocast on a GPU and in float32 on a CPU. Checkpoints, the last step's included,
    are written to `run.folder`; one there with the same `identity` (digest of data, settings and seed) is continued,
    any other is ignored and overwritten. On a GPU the losses are looked at where a checkpoint is due, so that no step
    waits for the one before. A batch that does not fit into memory is split, see :class:`Splitting`; the checkpoint
    remembers into how many parts. With `schedule.patience` the loss on `checked_on` is looked at there too, and the
    weights of the best check are those that the training ends with.

    Raises:
        TrainingFailed: a loss or a weight is not a number, or memory does not hold two images; the checkpoint of before
            stays.
    """
    on_gpu = device.type == "cuda"
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=[device.index or 0] if on_gpu else 1,
        precision="bf16-mixed" if on_gpu else "32-true",
    )
    module.to(device)
    optimiser, curve = _optimiser(module, schedule)
    splitting, stopping = Splitting(module), Stopping(schedule.patience if checked_on is not None else None)
    start, history = 0, History([])
    path = run.folder / CHECKPOINT
    if (saved := read_checkpoint(path, identity)) is not None:
        module.load_state_dict(saved["module"])
        optimiser.load_state_dict(saved["optimiser"])
        curve.load_state_dict(saved["curve"])
        stopping.restore(saved["stopping"], device)
        start, splitting.parts, history = int(saved["step"]), int(saved["parts"]), History(saved["history"])
    plain, fabric_optimiser = fabric.setup(module, optimiser)
    network: Network = plain
    if schedule.compile:
        network = Compiled(fabric.setup_module(cast(nn.Module, torch.compile(module))), plain)
    progress.advance(units=start)
    done, figures = start, {}
    while done < schedule.steps and not stopping.is_over:
        generator = functools.partial(seeded, run.seed, "step", done, device=device)
        losses = splitting.gradients(problem, network, generator, fabric_optimiser, fabric.backward)
        done = history.add(done, losses)
        is_due = done % schedule.checkpoint_every == 0 or done == schedule.steps
        if is_due or not on_gpu:
            figures = history.look()
        fabric_optimiser.step()
        curve.step()
        if is_due:
            if not all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values()):
                raise TrainingFailed("a weight stopped being a number", seen=f"step {done - 1}", next_step=LOWER)
            if checked_on is not None and schedule.patience is not None:
                history.note(done, "check", stopping.check(problem, plain, checked_on, splitting.parts, module))
            write_checkpoint(
                path,
                identity,
                {
                    "step": done,
                    "module": module.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "curve": curve.state_dict(),
                    "history": history.seen,
                    "parts": splitting.parts,
                    "stopping": stopping.state(),
                },
            )
        progress.advance(figures)
    if done < schedule.steps:
        progress.advance(figures, schedule.steps - done)
    if stopping.weights:
        module.load_state_dict(stopping.weights)
    return Trained(start, done, tuple((step, name, value) for step, name, value in history.seen), splitting.parts)


def _optimiser(
    module: nn.Module, schedule: Schedule
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]  # a frozen trunk's are not
    optimiser: torch.optim.Optimizer
    if schedule.optimiser == "sgd":
        optimiser = torch.optim.SGD(trained, lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
    else:
        optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
    if schedule.curve == "exponential":
        return optimiser, torch.optim.lr_scheduler.ExponentialLR(optimiser, schedule.decay)
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=schedule.steps)
