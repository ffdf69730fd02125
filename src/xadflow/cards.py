"""The JSON card beside saved weights, read with suspicion: whoever can register a version can write one.

Needs no torch, so that `xadflow doctor` judges a card as a night does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xadflow.errors import BadWeights

MOST_BYTES = 16 << 20
MOST_VALUES = 1 << 28  # of one input image, C x H x W: a gigabyte of float32
_RETRAIN = "register the model again by `xadflow retrain`"


def read_card(path: Path) -> dict[str, Any]:
    """The object in a card, seen to hold finite numbers only.

    Raises:
        BadWeights: no file, too large, not JSON, not an object, nested too deeply, or a number that is not finite.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, at most {MOST_BYTES} are read")
        card = json.loads(path.read_bytes(), parse_constant=_refuse, parse_float=_finite)
        if not isinstance(card, dict):
            raise ValueError(f"holds {type(card).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as err:
        raise bad_card(path, getattr(err, "strerror", None) or str(err)) from err
    return card


def checked_calibration(card: Mapping[str, Any], path: Path) -> None:
    """See that threshold, temperature and false-alarm rate of a detector's card are numbers that can decide anything.

    A card without `calibration`, as a detector of another package may write it, is left to that package.

    Raises:
        BadWeights: one that is missing, no number, or out of its range.
    """
    if "calibration" not in card:
        return
    its = card["calibration"]
    ranges = {"threshold": (-math.inf, math.inf), "temperature": (0.0, math.inf), "false_alarm_rate": (0.0, 1.0)}
    for name, (low, high) in ranges.items():
        value = its.get(name) if isinstance(its, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not _fits(value, low, high):
            raise bad_card(path, f"calibration.{name} is {str(value)[:40]}")


def checked_shape(card: Mapping[str, Any], path: Path) -> None:
    """See that the shape (C, H, W) of a card, if it has one, is one that an image can have.

    Raises:
        BadWeights: not three positive integers, or more than `MOST_VALUES` values.
    """
    for name in ("input_shape", "shape"):
        shape = card.get(name)
        if shape is None:
            continue
        whole = isinstance(shape, list) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)
        if not whole or math.prod(shape) > MOST_VALUES:
            raise bad_card(path, f"{name} is {str(shape)[:60]}")


def bad_card(path: Path, seen: str) -> BadWeights:
    """The error of a card that cannot be used."""
    told = " ".join(f"{path.name}: {seen}".split())
    return BadWeights("a saved model's card cannot be used", seen=told[:200], next_step=_RETRAIN)


def _fits(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low < value < high


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")
