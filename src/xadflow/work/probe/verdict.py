"""What the cells of one rate say beside the control: heat inside the mark, AUROC on three copies of the test set,
alarm.

The control is the same training without any mark, of the same seed, measured on the same images. It tells what the mark
is worth as the foreign object that it is: a detector is right to find a label on a wall odd, and only what comes on top
was learned from the planting. Definitions:

- heat share: of a marked test image's heat (its map minus the map's minimum), the part inside the mark; mean over
  images and seeds. Chance is the mark's share of the image.
- excess: that share minus the control's on the same images.
- AUROC: of raw scores; `raw` without any mark, `planted` with the mark on that share of the planted side, `other_side`
  with the mark on every image of the other side and on none of the planted one.
- loss: AUROC of the control minus that of the probed detector, on the same copy `other_side`.
- alarm: the 95 % interval of the excess lies above LEAST, or that of the loss does.

Intervals: percentile bootstrap over test images (AUROC: within each class) of the mean over seeds; differences are
paired. They do not see the spread between trainings, which `seed_spread` shows where there are several seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xadflow.metrics.intervals import resampled_tables, wilson_rate
from xadflow.metrics.ranks import auroc, auroc_of, rank, tied_share
from xadflow.work.probe.cells import Cell, Floats
from xadflow.work.probe.planting import Side, side_label

LEAST = 0.05  # an excess of heat, or a loss of AUROC, below this is no alarm: two trainings of one kind differ too
BOOTSTRAP = 1000
Labels = NDArray[np.int64]


def judged(
    probed: Sequence[Cell],
    control: Sequence[Cell],
    labels: Labels,
    area: float,
    carrying: NDArray[np.bool_],
    side: Side,
) -> dict[str, Any]:
    """Figures of one rate; `probed` and `control` are cells of the same seeds, `carrying` [N] who carries the mark.

    `area` is the mark's share of an image. Raises BadInput where the test images are of one class only.
    """
    of_side, own = labels == side_label(side), [cell.heat for cell in probed]
    base = [cell.heat for cell in control]
    heat = {"planted_side": _heat(own, base, of_side), "other_side": _heat(own, base, ~of_side)}
    copies = {"raw": np.zeros_like(carrying), "planted": carrying, "other_side": ~of_side}
    scores = {
        name: ([_copy(cell, where) for cell in probed], [_copy(cell, where) for cell in control])
        for name, where in copies.items()
    }
    ranks = {name: _auroc(ours, theirs, labels) for name, (ours, theirs) in scores.items()}
    removal = _interval(_drawn(scores["planted"][0], labels) - _drawn(scores["raw"][0], labels))
    figures: dict[str, Any] = {
        "heat": {**heat, "chance": area},
        "auroc": ranks,
        "removal": {
            "change": ranks["raw"]["value"] - ranks["planted"]["value"],
            "low": 0.0 - removal[1],
            "high": 0.0 - removal[0],
        },
        "seed_spread": {
            "heat": _spread([float(one[of_side].mean()) for one in own]),
            "auroc_raw": _spread([auroc(one, labels) for one in scores["raw"][0]]),
        },
    }
    reasons = []
    if heat["planted_side"]["excess_low"] > LEAST:
        reasons.append("heat")
    if ranks["other_side"]["loss_low"] > LEAST:
        reasons.append("auroc")
    return figures | {"alarm": reasons}


def _copy(cell: Cell, carrying: NDArray[np.bool_]) -> Floats:
    """Scores of the test set with the mark on some of its images."""
    return np.where(carrying, cell.marked, cell.raw)


def _heat(own: Sequence[Floats], base: Sequence[Floats], where: NDArray[np.bool_]) -> dict[str, float]:
    ours, theirs = (np.mean([one[where] for one in shares], axis=0) for shares in (own, base))  # [n], mean over seeds
    rng = np.random.default_rng(0)
    picks = rng.integers(0, ours.size, (BOOTSTRAP, ours.size))
    low, high = _interval(ours[picks].mean(axis=1))
    control_low, control_high = _interval(theirs[picks].mean(axis=1))
    excess_low, excess_high = _interval((ours - theirs)[picks].mean(axis=1))
    return {
        "share": float(ours.mean()),
        "low": low,
        "high": high,
        "control": float(theirs.mean()),
        "control_low": control_low,
        "control_high": control_high,
        "excess": float((ours - theirs).mean()),
        "excess_low": excess_low,
        "excess_high": excess_high,
    }


def _auroc(ours: Sequence[Floats], theirs: Sequence[Floats], labels: Labels) -> dict[str, float]:
    drawn, base = _drawn(ours, labels), _drawn(theirs, labels)
    value, control = (float(np.mean([auroc(one, labels) for one in scores])) for scores in (ours, theirs))
    low, high = _sane(_interval(drawn), value, labels)
    loss_low, loss_high = _interval(base - drawn)
    return {
        "value": value,
        "low": low,
        "high": high,
        "control": control,
        "loss": control - value,
        "loss_low": loss_low,
        "loss_high": loss_high,
        "tied_share": max(tied_share(one, labels) for one in ours),
    }


def _drawn(scores: Sequence[Floats], labels: Labels) -> Floats:
    """Draws [BOOTSTRAP] of the mean over seeds; always the same resampled images, so that differences are paired."""
    per_seed = [
        np.concatenate([auroc_of(*tables) for tables in resampled_tables(rank(one, labels), BOOTSTRAP, 0)])
        for one in scores
    ]
    return np.asarray(np.mean(per_seed, axis=0), dtype=np.float64)


def _interval(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def _sane(interval: tuple[float, float], value: float, labels: Labels) -> tuple[float, float]:
    """Perfect separation shows no spread: Wilson's interval of min(n, m) independent pairs, as
    metrics.intervals does.
    """
    if interval[1] - interval[0] > 1e-12 or 0.0 < value < 1.0:
        return interval
    pairs = int(min(labels.sum(), labels.size - labels.sum()))
    wilson = wilson_rate(round(value * pairs), pairs)
    return wilson.low, wilson.high


def _spread(values: Sequence[float]) -> float | None:
    """Highest minus lowest over the seeds; None with one seed."""
    return max(values) - min(values) if len(values) > 1 else None
