"""What stages of several players do with their losses: each optimiser's step is on gradients of its own players."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Scalar losses, each times the weight of its name, added."""
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


def leave_gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Put the loss's gradients into these parameters; no other gets any."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        parameter.grad = gradient


def judged(loss: Tensor, judge: torch.optim.Optimizer) -> Tensor:
    """One step of a judge on its own loss; returns that, detached."""
    judge.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    judge.step()
    return loss.detach()
