"""Early stopping: the weights of the best check, and an end when checks stop getting better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Stopping:
    """Ends a training after `patience` checks in a row that were no better than the best one.

    A check is `loss()` on one batch that is always the same. That batch must come from training data alone: normals
    that were held out of the steps for it, and anomalies as trained on. Held-out normals of the threshold would flatter
    it, and test and gate are not for choosing anything.
    """

    def __init__(self, patience: int, module: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.patience, self.module, self.loss = patience, module, loss
        self.best, self.waited = math.inf, 0
        self.weights: dict[str, Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether the training has ended."""
        return self.waited >= self.patience

    @torch.no_grad()
    def check(self) -> float:
        """The loss in evaluation mode; the weights are kept if it is the least so far."""
        was_training = self.module.training
        self.module.eval()
        value = float(self.loss())
        self.module.train(was_training)
        if value < self.best:
            self.best, self.waited = value, 0
            self.weights = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        else:
            self.waited += 1
        return value

    def restore_best(self) -> None:
        """Give the module the weights of the best check, if there was one."""
        if self.weights:
            self.module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self.best, self.waited, self.weights = (state_dict[name] for name in ("best", "waited", "weights"))
