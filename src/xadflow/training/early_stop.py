"""Early stopping: the weights of the best check, and an end when checks stop getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xadflow.training.splitting import Batch, Network, Problem


class Stopping:
    """Ends a training after `patience` checks in a row that were no better than the best one; never, if it is None.

    A check is the loss on one batch that is always the same. That batch must come from training data alone: normals
    that were held out of the steps for it, and anomalies as trained on. Held-out normals of the threshold would flatter
    it, and test and gate are not for choosing anything.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.best, self.waited = math.inf, 0
        self.weights: dict[str, Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether the training has ended."""
        return self.patience is not None and self.waited >= self.patience

    @torch.no_grad()
    def check(self, problem: Problem[Batch], network: Network, batch: Batch, parts: int, module: nn.Module) -> float:
        """The loss on the batch in evaluation mode; the weights are kept if it is the least so far."""
        was_training = module.training
        module.eval()
        parts_of_it = [torch.stack(list(losses.values())).sum() for losses in problem.losses(network, batch, parts)]
        module.train(was_training)
        value = float(torch.stack(parts_of_it).sum())
        if value < self.best:
            self.best, self.waited = value, 0
            self.weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        else:
            self.waited += 1
        return value

    def state(self) -> dict[str, Any]:
        """For the checkpoint; empty without patience."""
        if self.patience is None:
            return {}
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def restore(self, saved: Mapping[str, Any], device: torch.device) -> None:
        """Take what :meth:`state` gave."""
        if saved:
            self.best, self.waited = float(saved["best"]), int(saved["waited"])
            self.weights = {name: tensor.to(device) for name, tensor in saved["weights"].items()}
