"""How fast each stage learns at each step: a warm-up, then a cosine or the published drops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from xadflow.detectors.utad.settings import StageSettings

StageName = Literal["impression", "expert"]
DROPS: Mapping[StageName, tuple[tuple[float, ...], float]] = {
    "impression": ((0.5, 0.875), 0.1),  # epochs 200 and 350 of 400
    "expert": (tuple(number / 10 for number in range(1, 10)), 0.5),  # every 50,000 of 500,000 iterations
}


def rate_share(stage: StageName, settings: StageSettings, steps: int, number: int) -> float:
    """Of the highest rate at a step counted from 0: the climb of the warm-up, then the curve."""
    at = (number + 0.5) / steps
    climb = min(1.0, at / settings.warm_up) if settings.warm_up > 0 else 1.0
    if settings.curve == "cosine":
        return climb * 0.5 * (1.0 + math.cos(math.pi * at))
    drops, factor = DROPS[stage]
    return float(climb * factor ** sum(at >= drop for drop in drops))


def is_warm(settings: StageSettings, steps: int, number: int) -> bool:
    """Whether the warm-up is over at a step counted from 0, and every loss counts."""
    return (number + 0.5) / steps >= settings.warm_up
