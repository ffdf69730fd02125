"""Auto-Frank-Wolfe: maximise an objective per image in an l_p ball intersected with the pixel box.

    max_delta  f(x + delta)   s.t.  ||delta||_p <= eps,  x + delta in [0,1]^d,   norm over the flattened image

Source: Sparse visual counterfactual explanations (Boreiko et al., GCPR 2022, arXiv 2205.07972); schedule and start as
in its released code. Written afresh. What differs, and why: the oracle (see oracle.py); finished samples leave the
batch; the random start is really seeded, and is one draw shared by the rows of a batch, so that the answer for an image
does not depend on its batch mates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from xadflow.errors import BadInput
from xadflow.explainers.sparse.oracle import bounded_step, check_box, radius_of

FIRST_STEP = 0.75  # of the way to the oracle's vertex
FIRST_WINDOW, SHORTEST_WINDOW, WINDOW_DECREASE = 0.22, 0.06, 0.03  # of all iterations
ENOUGH_IMPROVEMENTS = 0.75  # of a window; at or below it the step is halved


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
    """Maximise `objective` per sample by Frank-Wolfe with the step halved where a window of iterations helped too
    little.

    Args:
        objective: (images [b,...], rows [b] int64: their places in the batch) -> [b], differentiable in the images and
            each entry a function of its own image only. Only the input's gradient is taken: weights get none.
        x: [B,...] float32 or float64 in [0,1]; eps: radius, a number or [B]; p >= 1.
        iterations: at most this many a sample; each costs one forward, one backward and one oracle.
        seed: of the Gaussian direction of the start, one draw shared by all samples.
        direction_mask: bool, broadcastable to x; delta stays exactly 0 where it is False.
        stop: (best values [b]) -> bool [b]; a sample leaves the batch as soon as it says so.
        start: [B,...] a feasible point (changes inside the mask only) to start from instead of the random one.

    Many parameters: the problem, and each choice of the published search, for use without an explainer.

    Raises:
        BadInput: x outside [0,1], a bad radius or p, iterations < 1.
    """
    check_box(x)
    if iterations < 1:
        raise BadInput("Frank-Wolfe needs at least one iteration", seen=iterations, next_step="raise iterations")
    count, radius, origin = x.shape[0], radius_of(eps, x), x.detach()
    mask = None if direction_mask is None else direction_mask.to(x.device).expand_as(x)
    if start is None:
        noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        direction = noise.to(x).expand_as(x)
        delta, _ = bounded_step(origin, direction if mask is None else direction * mask, radius, p, None)
        start = (origin + delta).clamp(0, 1)
    z, rows = start.detach(), torch.arange(count, device=x.device)
    value, gradient = _value_and_gradient(objective, z, rows)
    now = _Active(
        rows=rows,
        x=origin,
        eps=radius,
        mask=mask,
        z=z,
        gradient=gradient,
        value=value,
        momentum=gradient,
        t=None,
        best_z=z,
        best_gradient=gradient,
        best_value=value,
        checked_value=value,
        step=torch.full((count,), first_step, dtype=x.dtype, device=x.device),
        improvements=torch.zeros(count, dtype=torch.int64, device=x.device),
        flag=torch.ones(count, dtype=torch.bool, device=x.device),
    )
    result = FrankWolfeResult(
        images=z.clone(),
        values=value.clone(),
        iterations=torch.full_like(rows, iterations),
        stopped=torch.zeros_like(now.flag),
        history=torch.full((iterations + 1, count), torch.nan, dtype=value.dtype, device=x.device) if record else None,
    )
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
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)  # as the oracle counts them
    return torch.where(values.isnan(), -torch.inf, values), gradient


def _advance(objective: Objective, now: _Active, p: float, momentum: float, *, first: bool) -> None:
    """One iteration: a convex step towards the oracle's vertex, so always inside ball and box."""
    now.momentum = now.gradient if momentum == 0.0 else momentum * now.momentum + (1 - momentum) * now.gradient
    direction = now.momentum if now.mask is None else now.momentum * now.mask
    delta, now.t = bounded_step(now.x, direction, now.eps, p, now.t)
    step = now.step.view(-1, *[1] * (now.x.ndim - 1))
    now.z = torch.lerp(now.z, now.x + delta, step).clamp_(0, 1)  # the clamp takes back rounding only
    before = now.value
    now.value, now.gradient = _value_and_gradient(objective, now.z, now.rows)
    if not first:  # the released code compares the first value with an empty row, above every log-probability
        now.improvements = now.improvements + (now.value > before)
    better = now.value > now.best_value
    now.best_value = torch.where(better, now.value, now.best_value)
    now.best_z = _either(better, now.z, now.best_z)
    now.best_gradient = _either(better, now.gradient, now.best_gradient)


def _check(now: _Active, *, window: int) -> None:
    """Halve the step, and go back to the best point, where the window brought too little."""
    few = now.improvements <= ENOUGH_IMPROVEMENTS * window
    stuck = ~now.flag & (now.best_value <= now.checked_value)
    halve = few | stuck
    now.step = torch.where(halve, now.step / 2, now.step)
    now.z = _either(halve, now.best_z, now.z)
    now.gradient = _either(halve, now.best_gradient, now.gradient)
    now.flag, now.checked_value = halve, now.best_value
    now.improvements = torch.zeros_like(now.improvements)


def _either(which: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Rows of `first` where `which` [b], else of `second`, to the bit: lerp by 1 or 0, four times as fast as
    `torch.where`.
    """
    return torch.lerp(second, first, which.to(first.dtype).view(-1, *[1] * (first.ndim - 1)))


def _store(now: _Active, which: Tensor, result: FrankWolfeResult) -> None:
    """Write the best of the samples `which` [b] to their places in the result."""
    rows = now.rows[which]
    result.images[rows] = now.best_z[which]
    result.values[rows] = now.best_value[which]
