"""Detectors on disk: detector.json (what it is) and weights.safetensors (every learned number), never pickle.

Equal detectors give equal bytes: keys are sorted and the tensors' file carries exactly one metadata key, because
safetensors writes several in no fixed order.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xadflow.calibration import Calibration
from xadflow.cards import checked_calibration, checked_shape, read_card
from xadflow.detectors.base import CARD, WEIGHTS, TrainingData
from xadflow.digests import sha256_file, sha256_json
from xadflow.errors import BadInput, BadWeights

FORMAT = 1
_NORMAL_SCORES = "calibration.normal_scores"
_RETRAIN = "register the model again by `xadflow retrain`"


def work_identity(method: str, settings: Mapping[str, object], seed: int, data: TrainingData) -> str:
    """Digest of everything that decides the trained weights: method, settings, seed, and every training pixel."""
    parts = [data.normals, data.known, data.known_masks, data.outliers, *([] if data.labels is None else [data.labels])]
    digests = [
        None
        if part is None
        else hashlib.sha256(str(part.shape).encode() + part.contiguous().numpy().tobytes()).hexdigest()
        for part in parts
    ]
    return sha256_json({"method": method, "settings": dict(settings), "seed": seed, "data": digests})


def write_detector(
    folder: Path, card: Mapping[str, Any], tensors: Mapping[str, Tensor], calibration: Calibration
) -> None:
    """Write both files; the card gets the sha256 of the weights, so that a mixed-up pair is refused at load.

    Raises BadInput for weights that are no tensors.
    """
    other = {name: type(one).__name__ for name, one in tensors.items() if not isinstance(one, Tensor)}
    if other:
        raise BadInput(
            "a detector keeps tensors in its weights file, and nothing else",
            seen=", ".join(f"{name} is a {kind}" for name, kind in other.items()),
            next_step="make a tensor of it by torch.as_tensor, or put it into the card",
        )
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    stored[_NORMAL_SCORES] = torch.from_numpy(np.array(calibration.normal_scores, dtype=np.float64))
    save_file(stored, folder / WEIGHTS, metadata={"xadflow": json.dumps({"format": FORMAT}, sort_keys=True)})
    error = calibration.calibration_error
    full = {
        **card,
        "format": FORMAT,
        "weights_sha256": sha256_file(folder / WEIGHTS),
        "calibration": {
            "threshold": calibration.threshold,
            "temperature": calibration.temperature,
            "false_alarm_rate": calibration.false_alarm_rate,
            "calibration_error": None if math.isnan(error) else error,
            "defects_used": calibration.defects_used,
        },
    }
    (folder / CARD).write_text(json.dumps(full, sort_keys=True, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_detector(folder: Path, method: str) -> tuple[dict[str, Any], dict[str, Tensor], Calibration]:
    """Card, tensors and calibration of a saved detector.

    Raises:
        BadWeights: a file is missing or broken, belongs to another method, or the two are not of one save.
    """
    try:
        card = read_card(folder / CARD)
        checked_shape(card, folder / CARD)
        checked_calibration(card, folder / CARD)
        if card["method"] != method or card["format"] != FORMAT:
            raise BadWeights(
                f"the folder holds no {method} detector of format {FORMAT}",
                seen=(card["method"], card["format"]),
                next_step=_RETRAIN,
            )
        digest = sha256_file(folder / WEIGHTS)
        if digest != card["weights_sha256"]:
            raise BadWeights(
                "the weights are not those that the card was written with", seen=digest[:16], next_step=_RETRAIN
            )
        with safe_open(folder / WEIGHTS, framework="pt", device="cpu") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 not a mapping
        scores = tensors.pop(_NORMAL_SCORES).numpy()
        saved = card["calibration"]
        _check_scores(scores, float(saved["threshold"]))
        error = saved["calibration_error"]
        calibration = Calibration(
            float(saved["threshold"]),
            float(saved["temperature"]),
            float(saved["false_alarm_rate"]),
            scores,
            math.nan if error is None else float(error),
            str(saved["defects_used"]),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as err:
        seen = f"{folder.name}: {type(err).__name__} {err}"[:200]
        raise BadWeights("the folder holds no readable detector", seen=seen, next_step=_RETRAIN) from err
    return card, tensors, calibration


def _check_scores(scores: NDArray[np.float64], threshold: float) -> None:
    """Held-out scores are finite, and the threshold is within them: it was put there by :func:`threshold_at`."""
    if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"{_NORMAL_SCORES} of shape {scores.shape} with no, or no finite, numbers")
    if not scores.min() <= threshold <= scores.max():
        raise ValueError(f"threshold {threshold:g} outside its held-out scores, {scores.min():g} to {scores.max():g}")


def check_tensors(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Refuse saved tensors whose names or shapes are not the detector's own. Raises BadWeights."""
    odd = sorted(set(own) ^ set(given))
    odd += sorted(name for name in own.keys() & given.keys() if own[name].shape != given[name].shape)
    if odd:
        raise BadWeights("saved tensors do not fit the detector", seen=odd[:5], next_step=_RETRAIN)
