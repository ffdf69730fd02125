"""The stage that most detectors have: one network minimises the losses of whole batches, on Lightning Fabric."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from xadflow.training.compiling import Compiled
from xadflow.training.early_stop import Stopping
from xadflow.training.loop import Stage
from xadflow.training.seeds import seeded
from xadflow.training.splitting import Batch, Network, Problem, Splitting


@dataclass(frozen=True)
class Schedule:
    """How one training goes; `learning_rate` is the highest.

    `optimiser` is adamw (weight decay decoupled) or sgd (Nesterov momentum .9); `curve` one cosine cycle, or
    exponential: the rate times `decay` after each step. A checkpoint every `checkpoint_every` steps: the default suits
    a head, whose checkpoint is small and written in milliseconds. `patience`, in checks of which each checkpoint has
    one, ends it earlier (see early_stop.py); `compile` runs the network through torch.compile.
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


def minimising(
    module: nn.Module,
    problem: Problem[Batch],
    schedule: Schedule,
    seed: int,
    device: torch.device,
    checked_on: Batch | None = None,
) -> Stage:
    """The stage that minimises the sum of the problem's losses.

    The forward pass runs in bfloat16 autocast on a GPU and in float32 on a CPU. A batch that does not fit into memory
    is split, see :class:`Splitting`; the checkpoint remembers into how many parts. With `schedule.patience` the loss on
    `checked_on` is looked at where a checkpoint is due, and the weights of the best check are those that the training
    ends with. A step raises TrainingFailed when memory does not hold two images.
    """
    from lightning_fabric import Fabric  # seconds of torch's compiler, which a command that only scores has no use for

    on_gpu = device.type == "cuda"
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=[device.index or 0] if on_gpu else 1,
        precision="bf16-mixed" if on_gpu else "32-true",
    )
    module.to(device)
    optimiser, curve = optimiser_of(module, schedule)
    splitting = Splitting(module)
    plain = fabric.setup_module(module)
    network: Network = plain
    if schedule.compile:
        network = Compiled(fabric.setup_module(cast(nn.Module, torch.compile(module))), plain)

    def step(number: int) -> dict[str, Tensor]:
        generator = functools.partial(seeded, seed, "step", number, device=device)
        losses = splitting.gradients(problem, network, generator, optimiser, fabric.backward)
        optimiser.step()
        curve.step()
        return losses

    stopping = None
    if schedule.patience is not None and checked_on is not None:

        def loss() -> Tensor:
            parts = problem.losses(plain, checked_on, splitting.parts)
            return torch.stack([torch.stack(list(losses.values())).sum() for losses in parts]).sum()

        stopping = Stopping(schedule.patience, module, loss)
    return Stage(
        name="",
        steps=schedule.steps,
        module=module,
        optimisers={"optimiser": optimiser},
        step=step,
        curve=curve,
        splitting=splitting,
        stopping=stopping,
        checkpoint_every=schedule.checkpoint_every,
    )


def optimiser_of(
    module: nn.Module, schedule: Schedule
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimiser of what is not frozen, and the curve of its rate."""
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
