"""What the golden test takes from xadflow: the one file here that changes when a module moves.

Every name below keeps its meaning; only the places it is imported from follow the house.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

import xadflow
from xadflow.defects.drawn import synthetic_defects
from xadflow.detectors import FitRun, TrainingData, as_float, build_detector, load_detector
from xadflow.evidence.rows import as_tables, explanation_row, score_row
from xadflow.evidence.tables import EXPLANATIONS, REVIEWS, SCORES
from xadflow.explainers import build_explainer, load_explainer
from xadflow.explainers.base import explainer_class
from xadflow.explainers.trained import GeneratorRun
from xadflow.explainers.transplant import DonorBank, DonorList
from xadflow.images import load_input
from xadflow.models.judges.panel import JudgeRef, open_judges, with_words
from xadflow.settings import Settings

__all__ = [
    "DonorBank",
    "DonorList",
    "FitRun",
    "GeneratorRun",
    "TrainingData",
    "as_float",
    "build_detector",
    "build_explainer",
    "load_detector",
    "load_explainer",
    "load_input",
    "synthetic_defects",
]

SOURCE = Path(xadflow.__file__).parent
SCHEMAS = {"scores": SCORES, "explanations": EXPLANATIONS, "reviews": REVIEWS}

_NIGHT: Mapping[str, Any] = {
    "run_date": "2026-11-28",
    "run_id": "golden",
    "dataset": "golden",
    "model_name": "xad.golden",
    "model_version": 1,
}
_NOW = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)


def settings_models() -> dict[str, type[BaseModel]]:
    """The settings of params.yaml, and those of every method and explainer, by what they are settings of."""
    from importlib.metadata import entry_points

    found: dict[str, type[BaseModel]] = {"params.yaml": Settings}
    for entry in entry_points(group="xadflow.detectors"):
        found[f"detector {entry.name}"] = type(build_detector(entry.name).settings)  # type: ignore[attr-defined]
    for entry in entry_points(group="xadflow.explainers"):
        found[f"explainer {entry.name}"] = type(explainer_class(entry.name)().settings)
    return found


def judged(folder: Path, weights: str, told: list[Any], images: Tensor) -> list[Any]:
    """Explanations with the words of the detector in `folder` as a judge."""
    ref = JudgeRef("xad.golden.judge", 1, str(folder), weights, True)
    return with_words(open_judges([ref], images.device), told, images)


def row(
    method: str, explainer: Any, image: NDArray[np.uint8], name: str, score: float, calibration: Any, told: Any
) -> dict[str, Any]:
    """The row of `explanations` that a night writes, as it comes out of the table; its lineage is a fixed text.

    The real lineage holds a digest of the code, which moves with the code and is not compared.
    """
    plan = SimpleNamespace(**_NIGHT, detector=method)
    p_value = float(calibration.p_value(np.array([score]))[0])
    planned = SimpleNamespace(image_id=name, path=f"golden/{name}.png")
    left = score_row(plan, planned, score, calibration.threshold, p_value, _NOW)  # type: ignore[arg-type]
    full = explanation_row(
        left,
        explainer=explainer.name,
        explainer_version=explainer.version,
        seed=explainer.seed,
        original=image,
        explanation=told,
        lineage=json.dumps({"golden": True}),
    )
    _, table = as_tables([left], [full])
    found: dict[str, Any] = table.to_pylist()[0]
    return found
