"""Auto-Frank-Wolfe in an l_p ball intersected with the pixel box, and its linear maximisation oracle.

    max_delta  f(x + delta)   s.t.  ||delta||_p <= eps,  x + delta in [0,1]^d,   norm over the flattened image

Source: Sparse visual counterfactual explanations (Boreiko et al., GCPR 2022, arXiv 2205.07972); schedule and start as in
its released code. Written afresh. What differs, and why: the oracle solves the budget equation by Newton's method instead
of sorting and bisecting (no sort, exact at any scale of w, where the released one shrinks the step for |w| below 1e-6);
finished samples leave the batch; the random start is really seeded, and is one draw shared by the rows of a batch, so
that the answer for an image does not depend on its batch mates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from xadflow.errors import BadInput

MAX_NEWTON_STEPS = 64
FIRST_STEP = 0.75  # of the way to the oracle's vertex
FIRST_WINDOW, SHORTEST_WINDOW, WINDOW_DECREASE = 0.22, 0.06, 0.03  # of all iterations
ENOUGH_IMPROVEMENTS = 0.75  # of a window; at or below it the step is halved


def linear_maximisation_oracle(x: Tensor, w: Tensor, eps: float | Tensor, p: float = 1.5) -> Tensor:
    """The delta that maximises <w, delta> with ||delta||_p <= eps and x + delta in [0,1], per sample.

    `x`, `w` [B,...] (1-D: one sample), `eps` a number or [B], p >= 1 (p = 1: greedy; p = inf: sign steps). Computed in
    float32 at least, float64 where x or w is or where p < 1.4 makes the powers too steep; the result has the inputs'
    dtype, float32 for half precision. It does not depend on the scale of w; entries of w that are not finite count as 0.

    Raises:
        BadInput: x outside [0,1], eps negative or not a number, p < 1, shapes that differ.

    Source: KKT conditions, delta_i = sign(w_i) min(gamma_i, (|w_i| / (p mu))^{1/(p-1)}), gamma the room to the wall.

    >>> linear_maximisation_oracle(torch.tensor([0.2, 0.5]), torch.tensor([1.0, -2.0]), 2.0)
    tensor([ 0.8000, -0.5000])
    """
    if x.shape != w.shape:
        raise BadInput("x and w must have one shape", seen=(tuple(x.shape), tuple(w.shape)),
                       next_step="give the gradient of the image it belongs to")  # fmt: skip
    if x.ndim == 1:
        return linear_maximisation_oracle(x[None], w[None], eps, p)[0]
    _check_box(x)
    return _oracle(x, w, _radius(eps, x), p, None)[0]


def _check_box(x: Tensor) -> None:
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise BadInput("pixels must lie in [0,1]", seen=[float(x.min()), float(x.max())],
                       next_step="divide 8-bit values by 255")  # fmt: skip


def _radius(eps: float | Tensor, x: Tensor) -> Tensor:
    radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    if radius.ndim > 1 or (radius.ndim == 1 and radius.shape[0] != x.shape[0]) or not bool((radius >= 0).all()):
        raise BadInput("eps must be one number >= 0, or one a sample", seen=radius.flatten()[:4].tolist(),
                       next_step="give a radius of the ball in pixel values of [0,1]")  # fmt: skip
    return radius.expand(x.shape[0])


def _oracle(x: Tensor, w: Tensor, eps: Tensor, p: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """The oracle without checks of x and eps [B]: delta and the multiplier t [B], which may warm-start the next call."""
    if not p >= 1.0:
        raise BadInput("the ball needs p >= 1 to be convex", seen=p, next_step="use p = 1.5 (sparse and smooth)")
    result = torch.promote_types(torch.promote_types(x.dtype, w.dtype), torch.float32)
    work = torch.float64 if p < 1.4 else result  # float32 |w|^{p/(p-1)} would lose entries below 1e-7 of the largest
    flat_x, flat_w = x.flatten(1).to(work), w.flatten(1).to(work)  # (B, d)
    flat_w = torch.nan_to_num(flat_w, nan=0.0, posinf=0.0, neginf=0.0)
    a = flat_w.abs()
    largest = a.amax(dim=1, keepdim=True)
    a = a / torch.where(largest > 0, largest, torch.ones_like(largest))
    gamma = torch.where(flat_w > 0, 1 - flat_x, flat_x).clamp(min=0) * (a > 0)
    if p == 1.0:
        size, t = _greedy(a, gamma, eps), torch.zeros_like(eps)
    elif math.isinf(p):
        size, t = torch.minimum(gamma, eps[:, None].to(work)), torch.zeros_like(eps)
    else:
        size, t = _newton(a, gamma, eps, p, start)
    return (torch.sign(flat_w) * size).to(result).view_as(x), t


def _greedy(a: Tensor, gamma: Tensor, eps: Tensor) -> Tensor:
    """p = 1: fill the entries of largest |w| up to the wall until the budget is spent."""
    order = a.argsort(dim=1, descending=True, stable=True)
    room = gamma.gather(1, order).double()
    left = eps[:, None] - (room.cumsum(dim=1) - room)
    filled = torch.minimum(room, left.clamp(min=0)).to(gamma.dtype)
    return torch.zeros_like(gamma).scatter(1, order, filled)


def _newton(a: Tensor, gamma: Tensor, eps: Tensor, p: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """Solve g(t) = sum_i min(gamma_i^p, t a_i^q) = eps^p; g is concave, so Newton rises to the root and stays feasible.

    `a`, `gamma` [B,d], `a` at most 1; `eps`, `start` [B] float64. Returns |delta| [B,d] and t [B].
    """
    if p == 1.5:
        capital_a, capital_g, shape = a * a * a, gamma * gamma.sqrt(), a * a
    elif p == 2.0:
        capital_a, capital_g, shape = a * a, gamma * gamma, a
    else:
        capital_a, capital_g, shape = a.pow(p / (p - 1)), gamma.pow(p), a.pow(1 / (p - 1))
    usable = capital_a >= torch.finfo(a.dtype).tiny  # below it a^q and the entry's true size no longer agree
    capital_a, capital_g, gamma = capital_a * usable, capital_g * usable, gamma * usable
    wall = torch.where(usable, capital_g / capital_a, torch.inf)  # t at which an entry reaches its wall
    budget = eps.pow(p)
    slack = _total(capital_g) <= budget  # the whole box fits into the ball: t would be infinite
    budget = torch.where(slack, torch.ones_like(budget), budget)
    smallest = torch.finfo(torch.float64).tiny
    lowest = budget / _total(capital_a).clamp(min=smallest)
    t = lowest if start is None else torch.maximum(start, lowest)
    tolerance = 1e-6 if a.dtype == torch.float32 else 1e-12
    done = slack
    check_every = 4 if a.is_cuda else 1  # each look at `done` waits for the device
    highest = torch.finfo(a.dtype).max
    for step in range(1, MAX_NEWTON_STEPS + 1):
        clipped = t[:, None].clamp(max=highest).to(a.dtype) >= wall
        spent = _total(capital_g * clipped)
        free = _total(capital_a * ~clipped)
        done = done | ((budget - spent - t * free).abs() <= tolerance * budget)
        floor = lowest if step == 1 else t  # a warm start may lie above the root, later iterates cannot
        t = torch.where(done, t, torch.maximum((budget - spent) / free.clamp(min=smallest), floor))
        if step % check_every == 0 and bool(done.all()):
            break
    factor = t.pow(1 / p).clamp(max=highest).to(a.dtype)
    size = torch.minimum(gamma, factor[:, None] * shape)
    return torch.where(slack[:, None], gamma, size), torch.where(slack, torch.zeros_like(t), t)


def _total(values: Tensor) -> Tensor:
    return values.sum(dim=1).double()


@dataclass(frozen=True)
class FrankWolfeResult:
    """The best iterate of each sample.

    `images` [B,...], `values` [B] its objective, `iterations` [B] int64 done for it, `stopped` [B] whether `stop` ended
    it. `history` [iterations + 1, B], where asked for: the objective at the start and after each iteration, NaN once a
    sample has left.
    """

    images: Tensor
    values: Tensor
    iterations: Tensor
    stopped: Tensor
    history: Tensor | None = None


@dataclass
class _Active:
    """The samples still at work; `rows` are their places in the batch. One row of every field a sample."""

    rows: Tensor
    x: Tensor
    eps: Tensor
    mask: Tensor | None
    z: Tensor
    gradient: Tensor
    value: Tensor
    momentum: Tensor
    t: Tensor | None
    best_z: Tensor
    best_gradient: Tensor
    best_value: Tensor
    checked_value: Tensor
    step: Tensor
    improvements: Tensor
    flag: Tensor

    def keep(self, which: Tensor) -> None:
        """Drop the samples where `which` [b] is False."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                setattr(self, field.name, value[which])


Objective = Callable[[Tensor, Tensor], Tensor]
Stop = Callable[[Tensor], Tensor]


def auto_frank_wolfe(
    objective: Objective,
    x: Tensor,
    eps: float | Tensor,
    p: float = 1.5,
    iterations: int = 75,
    seed: int = 0,
    *,
    direction_mask: Tensor | None = None,
    stop: Stop | None = None,
    start: Tensor | None = None,
    first_step: float = FIRST_STEP,
    momentum: float = 0.0,
    record: bool = False,
) -> FrankWolfeResult:
    """Maximise `objective` per sample by Frank-Wolfe with the step halved where a window of iterations helped too little.

    Args:
        objective: (images [b,...], rows [b] int64: their places in the batch) -> [b], differentiable in the images and
            each entry a function of its own image only. Only the input's gradient is taken: weights get none.
        x: [B,...] float32 or float64 in [0,1]; eps: radius, a number or [B]; p > 1.
        iterations: at most this many a sample; each costs one forward, one backward and one oracle.
        seed: of the Gaussian direction of the start, one draw shared by all samples.
        direction_mask: bool, broadcastable to x; delta stays exactly 0 where it is False.
        stop: (best values [b]) -> bool [b]; a sample leaves the batch as soon as it says so.
        start: [B,...] a feasible point (changes inside the mask only) to start from instead of the random one.

    Raises:
        BadInput: x outside [0,1], a bad radius or p, iterations < 1.
    """
    _check_box(x)
    if iterations < 1:
        raise BadInput("Frank-Wolfe needs at least one iteration", seen=iterations, next_step="raise iterations")
    count, radius, origin = x.shape[0], _radius(eps, x), x.detach()
    mask = None if direction_mask is None else direction_mask.to(x.device).expand_as(x)
    if start is None:
        noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        direction = noise.to(x).expand_as(x)
        delta, _ = _oracle(origin, direction if mask is None else direction * mask, radius, p, None)
        start = (origin + delta).clamp(0, 1)
    z, rows = start.detach(), torch.arange(count, device=x.device)
    value, gradient = _value_and_gradient(objective, z, rows)
    now = _Active(
        rows=rows, x=origin, eps=radius, mask=mask, z=z, gradient=gradient, value=value, momentum=gradient, t=None,
        best_z=z, best_gradient=gradient, best_value=value, checked_value=value,
        step=torch.full((count,), first_step, dtype=x.dtype, device=x.device),
        improvements=torch.zeros(count, dtype=torch.int64, device=x.device),
        flag=torch.ones(count, dtype=torch.bool, device=x.device),
    )  # fmt: skip
    result = FrankWolfeResult(
        images=z.clone(), values=value.clone(), iterations=torch.full_like(rows, iterations),
        stopped=torch.zeros_like(now.flag),
        history=torch.full((iterations + 1, count), torch.nan, dtype=value.dtype, device=x.device) if record else None,
    )  # fmt: skip
    checks = dict(check_schedule(iterations))
    for done in range(iterations + 1):
        if done > 0:
            _advance(objective, now, p, momentum, first=done == 1)
        if result.history is not None:
            result.history[done, now.rows] = now.value
        if stop is not None:
            finished = stop(now.best_value)
            if bool(finished.any()):
                _store(now, finished, result)
                result.iterations[now.rows[finished]] = done
                result.stopped[now.rows[finished]] = True
                now.keep(~finished)
        if now.rows.numel() == 0:
            return result
        if done in checks:
            _check(now, window=checks[done])
    _store(now, torch.ones_like(now.flag), result)
    return result


def check_schedule(iterations: int) -> list[tuple[int, int]]:
    """(iteration, 1-based, after which progress is checked; length of the window it closes).

    >>> [after for after, _ in check_schedule(75)]
    [16, 30, 42, 52, 60, 66, 70, 74]
    """
    window = max(int(FIRST_WINDOW * iterations), 1)
    shortest, decrease = max(int(SHORTEST_WINDOW * iterations), 1), max(int(WINDOW_DECREASE * iterations), 1)
    checks, after = [], window
    while after <= iterations:
        checks.append((after, window))
        window = max(window - decrease, shortest)
        after += window
    return checks


def _value_and_gradient(objective: Objective, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = z.detach().requires_grad_(True)
        values = objective(leaf, rows)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    values = values.detach()
    return torch.where(values.isnan(), -torch.inf, values), gradient


def _advance(objective: Objective, now: _Active, p: float, momentum: float, *, first: bool) -> None:
    """One iteration: a convex step towards the oracle's vertex, so always inside ball and box."""
    now.momentum = now.gradient if momentum == 0.0 else momentum * now.momentum + (1 - momentum) * now.gradient
    direction = now.momentum if now.mask is None else now.momentum * now.mask
    delta, now.t = _oracle(now.x, direction, now.eps, p, now.t)
    step = now.step.view(-1, *[1] * (now.x.ndim - 1))
    now.z = (now.z + step * (now.x + delta - now.z)).clamp(0, 1)  # the clamp takes back rounding only
    before = now.value
    now.value, now.gradient = _value_and_gradient(objective, now.z, now.rows)
    if not first:  # the released code compares the first value with an empty row, above every log-probability
        now.improvements = now.improvements + (now.value > before)
    better = now.value > now.best_value
    where = better.view_as(step)
    now.best_value = torch.where(better, now.value, now.best_value)
    now.best_z = torch.where(where, now.z, now.best_z)
    now.best_gradient = torch.where(where, now.gradient, now.best_gradient)


def _check(now: _Active, *, window: int) -> None:
    """Halve the step, and go back to the best point, where the window brought too little."""
    few = now.improvements <= ENOUGH_IMPROVEMENTS * window
    stuck = ~now.flag & (now.best_value <= now.checked_value)
    halve = few | stuck
    where = halve.view(-1, *[1] * (now.x.ndim - 1))
    now.step = torch.where(halve, now.step / 2, now.step)
    now.z = torch.where(where, now.best_z, now.z)
    now.gradient = torch.where(where, now.best_gradient, now.gradient)
    now.flag, now.checked_value = halve, now.best_value
    now.improvements = torch.zeros_like(now.improvements)


def _store(now: _Active, which: Tensor, result: FrankWolfeResult) -> None:
    """Write the best of the samples `which` [b] to their places in the result."""
    rows = now.rows[which]
    result.images[rows] = now.best_z[which]
    result.values[rows] = now.best_value[which]
