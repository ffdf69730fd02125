"""The other arm of benchmarks/sparse_speed.py: Auto-Frank-Wolfe with an oracle that sorts and bisects, from its
description.

Formulas: sparse-counterfactuals.md, sections 2 and 3 (Boreiko et al., arXiv 2205.07972). No line is of the released
code, and its known losses (index tensors on the CPU, copies that nobody reads) are not imitated: what is compared is
the method.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from xadflow.explainers.sparse.frank_wolfe import check_schedule

SMALLEST = 1e-38


def oracle(x: Tensor, w: Tensor, eps: float, p: float) -> Tensor:
    """max <w, delta> with ||delta||_p <= eps and x + delta in [0,1], of x and w [B,...]; p > 1.

    With the multiplier mu, delta_i is at its wall where mu <= mu_i = |w_i| / (p gamma_i^{p-1}): the mu_i are sorted,
    sums of either side are kept, and the cell that holds the solution is bisected for.
    """
    q = p / (p - 1)
    flat_x, flat_w = x.flatten(1), w.flatten(1)
    a = flat_w.abs() / flat_w.abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST)
    sign = flat_w.sign()
    gamma = torch.addcmul(sign.clamp(min=0), flat_x, sign, value=-1.0)  # 1 - x or x; torch.where is slow on a CPU
    walls = a / (p * gamma.clamp(min=SMALLEST).pow(p - 1))
    ordered, order = walls.sort(dim=1)
    free = torch.nn.functional.pad(a.pow(q).gather(1, order).double().cumsum(dim=1), (1, 0))  # (B, d+1): of the first k
    spent = torch.nn.functional.pad(gamma.pow(p).gather(1, order).double().flip(1).cumsum(dim=1), (1, 0)).flip(
        1
    )  # the others'
    budget = eps**p
    count = flat_x.shape[1]
    low = torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)  # so many entries are free at least
    high = torch.full_like(low, count)
    for _ in range(math.ceil(math.log2(count + 1))):
        middle = (low + high) // 2
        wall = ordered.gather(1, middle.clamp(max=count - 1)).double().clamp(min=SMALLEST)
        norm = free.gather(1, middle) / (p * wall).pow(q) + spent.gather(1, middle)  # at mu = that wall
        too_long = norm > budget
        low, high = torch.where(too_long, (middle + 1).clamp(max=count), low), torch.where(too_long, high, middle)
    scale = (free.gather(1, low) / (budget - spent.gather(1, low)).clamp(min=SMALLEST)).pow(1 / q)  # p mu
    size = torch.minimum(gamma, (a / scale.clamp(min=SMALLEST).to(a.dtype)).pow(1 / (p - 1)))
    size = torch.lerp(size, gamma, (spent[:, :1] <= budget).to(size.dtype))  # the whole box fits into the ball
    return (sign * size).view_as(x)


def search(
    objective: Callable[[Tensor], Tensor], x: Tensor, eps: float, p: float, iterations: int, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Best images and their objective [B] after all iterations; `noise` [B,...] is the direction of the start."""
    checks = dict(check_schedule(iterations))
    z = (x + oracle(x, noise, eps, p)).clamp(0, 1)
    value, gradient = _value_and_gradient(objective, z)
    best, best_value, best_gradient = z.clone(), value.clone(), gradient.clone()
    checked = best_value.clone()
    step = torch.full((len(x),), 0.75, device=x.device)
    flag = torch.ones(len(x), dtype=torch.bool, device=x.device)
    values = [torch.zeros_like(value)]  # the first comparison is with an empty row
    for done in range(1, iterations + 1):
        z = (z + step.view(-1, 1, 1, 1) * (x + oracle(x, gradient, eps, p) - z)).clamp(0, 1)
        value, gradient = _value_and_gradient(objective, z)
        values.append(value)
        better = value > best_value
        best[better], best_gradient[better] = z[better], gradient[better]  # quicker than torch.where, too
        best_value = torch.where(better, value, best_value)
        if done in checks:
            window = checks[done]
            rows = torch.stack(values[-window - 1 :])
            rose = (rows[1:] > rows[:-1]).sum(dim=0)
            halve = (rose <= 0.75 * window) | (~flag & (best_value == checked))
            step = torch.where(halve, step / 2, step)
            z[halve], gradient[halve] = best[halve], best_gradient[halve]
            flag, checked = halve, best_value.clone()
    return best, best_value


def _value_and_gradient(objective: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    leaf = z.detach().requires_grad_(True)
    values = objective(leaf)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient
