"""The linear maximisation oracle on an l_p ball intersected with the pixel box: the vertex a Frank-Wolfe step aims at.

    max_delta  <w, delta>   s.t.  ||delta||_p <= eps,  x + delta in [0,1]^d,   norm over the flattened image

Source: KKT conditions of the problem of Sparse visual counterfactual explanations (Boreiko et al., GCPR 2022, arXiv
2205.07972). The released code sorts and bisects; here the budget equation is solved by Newton's method: no sort, few
steps, and exact at any scale of w, where the released one shrinks the step for |w| below 1e-6.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from xadflow.errors import BadInput, NotFinite

MAX_NEWTON_STEPS = 64
CACHED = 1 << 18  # values of the rows that a CPU works on at once: some forty passes over them then stay in its cache


def linear_maximisation_oracle(x: Tensor, w: Tensor, eps: float | Tensor, p: float = 1.5) -> Tensor:
    """The delta that maximises <w, delta> with ||delta||_p <= eps and x + delta in [0,1], per sample.

    `x`, `w` [B,...] (1-D: one sample), `eps` a number or [B], p >= 1 (p = 1: greedy; p = inf: sign steps). Computed in
    float32 at least, float64 where x or w is or where p < 1.4 makes the powers too steep; the result has the inputs'
    dtype, float32 for half precision. It does not depend on the scale of w.

    Raises:
        BadInput: x outside [0,1], eps negative or not a number, p < 1, shapes that differ.
        NotFinite: w is not finite; a BadInput and a ValueError.

    Source: KKT conditions, delta_i = sign(w_i) min(gamma_i, (|w_i| / (p mu))^{1/(p-1)}), gamma the room to the wall.

    >>> linear_maximisation_oracle(torch.tensor([0.2, 0.5]), torch.tensor([1.0, -2.0]), 2.0)
    tensor([ 0.8000, -0.5000])
    """
    if x.shape != w.shape:
        raise BadInput(
            "x and w must have one shape",
            seen=(tuple(x.shape), tuple(w.shape)),
            next_step="give the gradient of the image it belongs to",
        )
    if x.ndim == 1:
        return linear_maximisation_oracle(x[None], w[None], eps, p)[0]
    check_box(x)
    if w.numel() and not bool(w.abs().amax().isfinite()):  # NaN where an entry is; far quicker than to look at each
        raise NotFinite(
            "w must be finite",
            seen=f"{int((~w.isfinite()).sum())} of {w.numel()} entries that are not",
            next_step="see why the gradient of the score is not a number",
        )
    return bounded_step(x, w, radius_of(eps, x), p, None)[0]


def check_box(x: Tensor) -> None:
    """Raises BadInput for pixels outside [0,1]."""
    if x.numel() and not bool((x.amin() >= 0) & (x.amax() <= 1)):  # both are NaN where a pixel is
        raise BadInput(
            "pixels must lie in [0,1]", seen=[float(x.min()), float(x.max())], next_step="divide 8-bit values by 255"
        )


def radius_of(eps: float | Tensor, x: Tensor) -> Tensor:
    """eps as float64 [B]. Raises BadInput: negative, not a number, or of another length."""
    radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    if radius.ndim > 1 or (radius.ndim == 1 and radius.shape[0] != x.shape[0]) or not bool((radius >= 0).all()):
        raise BadInput(
            "eps must be one number >= 0, or one a sample",
            seen=radius.flatten()[:4].tolist(),
            next_step="give a radius of the ball in pixel values of [0,1]",
        )
    return radius.expand(x.shape[0])


def bounded_step(x: Tensor, w: Tensor, eps: Tensor, p: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """The oracle without checks of x, w and eps [B]: delta and the multiplier t [B], which may warm-start the next
    call.

    Entries of w that are not finite count as 0: a search goes on where a score has no gradient, and waits for no check.
    """
    if not p >= 1.0:
        raise BadInput("the ball needs p >= 1 to be convex", seen=p, next_step="use p = 1.5 (sparse and smooth)")
    result = torch.promote_types(torch.promote_types(x.dtype, w.dtype), torch.float32)
    work = torch.float64 if p < 1.4 else result  # float32 |w|^{p/(p-1)} would lose entries below 1e-7 of the largest
    at_once = max(1, len(x) if x.is_cuda else CACHED // max(math.prod(x.shape[1:]), 1))
    start = torch.zeros_like(eps) if start is None else start
    cut = [torch.split(whole, at_once) for whole in (x.flatten(1), w.flatten(1), eps, start)]
    parts = [_step(*part, p=p, work=work) for part in zip(*cut, strict=True)]
    delta, t = (torch.cat(some) if len(some) > 1 else some[0] for some in zip(*parts, strict=True))
    return delta.to(result).view_as(x), t


def _step(x: Tensor, w: Tensor, eps: Tensor, start: Tensor, *, p: float, work: torch.dtype) -> tuple[Tensor, Tensor]:
    """Some rows of :func:`bounded_step`, x and w [b,d]. Written without `torch.where`: on a CPU it takes 15 products'
    time.
    """
    x, w = x.to(work), w.to(work)
    largest = w.abs().amax(dim=1, keepdim=True)
    if x.is_cuda or not bool(largest.isfinite().all()):  # a GPU does not wait to be looked at
        w = torch.nan_to_num(w, nan=0.0, posinf=0.0, neginf=0.0)
        largest = w.abs().amax(dim=1, keepdim=True)
    least = 1.01 * torch.finfo(work).tiny ** ((p - 1) / p) if 1.0 < p < math.inf else 0.0  # below it |w|^q is not exact
    scaled = F.hardshrink(w / (largest + (largest == 0)), least)
    sign, a = scaled.sign(), scaled.abs()
    gamma = torch.addcmul(sign.clamp(min=0), x, sign, value=-1.0)  # 1 - x where w > 0, x where w < 0, 0 where w = 0
    if p == 1.0:
        size, t = _greedy(a, gamma, eps), torch.zeros_like(eps)
    elif math.isinf(p):
        size, t = torch.minimum(gamma, eps[:, None].to(work)), torch.zeros_like(eps)
    else:
        size, t = _newton(a, gamma, eps, p, start)
    return sign * size, t


def _greedy(a: Tensor, gamma: Tensor, eps: Tensor) -> Tensor:
    """p = 1: fill the entries of largest |w| up to the wall until the budget is spent."""
    order = a.argsort(dim=1, descending=True, stable=True)
    room = gamma.gather(1, order).double()
    left = eps[:, None] - (room.cumsum(dim=1) - room)
    filled = torch.minimum(room, left.clamp(min=0)).to(gamma.dtype)
    return torch.zeros_like(gamma).scatter(1, order, filled)


def _newton(a: Tensor, gamma: Tensor, eps: Tensor, p: float, start: Tensor) -> tuple[Tensor, Tensor]:
    """Solve g(t) = sum_i min(gamma_i^p, t a_i^q) = eps^p; g is concave, so Newton rises to the root and stays feasible.

    `a`, `gamma` [b,d], `a` at most 1, `gamma` 0 where `a` is; `eps`, `start` [b] float64. Returns |delta| [b,d] and t
    [b], 0 where the whole box fits into the ball.
    """
    if p == 1.5:
        shape, capital_g = a * a, gamma * gamma.sqrt()
        capital_a = shape * a
    elif p == 2.0:
        shape, capital_a, capital_g = a, a * a, gamma * gamma
    else:
        shape, capital_a, capital_g = a.pow(1 / (p - 1)), a.pow(p / (p - 1)), gamma.pow(p)
    budget = eps.pow(p)
    slack = _total(capital_g) <= budget  # the whole box fits into the ball: t would be infinite
    budget = torch.where(slack, torch.ones_like(budget), budget)
    smallest, highest = torch.finfo(torch.float64).tiny, torch.finfo(a.dtype).max
    lowest = budget / _total(capital_a).clamp(min=smallest)
    t = torch.maximum(start, lowest)
    tolerance = 1e-6 if a.dtype == torch.float32 else 1e-12
    done = slack
    check_every = 4 if a.is_cuda else 1  # each look at `done` waits for the device
    for step in range(1, MAX_NEWTON_STEPS + 1):
        taken = torch.minimum(capital_g, t[:, None].clamp(max=highest).to(a.dtype) * capital_a)
        free = _total(capital_a * (capital_g - taken).sign())  # of the entries that are not at their wall
        missing = budget - _total(taken)
        done = done | (missing.abs() <= tolerance * budget)
        floor = lowest if step == 1 else t  # a warm start may lie above the root, later iterates cannot
        t = torch.where(done, t, torch.maximum(t + missing / free.clamp(min=smallest), floor))
        if step % check_every == 0 and bool(done.all()):
            break
    factor = torch.where(slack, highest, t.pow(1 / p)).clamp(max=highest).to(a.dtype)
    return torch.minimum(gamma, factor[:, None] * shape), torch.where(slack, torch.zeros_like(t), t)


def _total(values: Tensor) -> Tensor:
    return values.sum(dim=1).double()
