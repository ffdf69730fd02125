"""From scores and explanations to rows of the evidence tables; pictures become PNG bytes, raw maps keep min and max."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xadflow.evidence.tables import EXPLANATIONS, SCHEMA_VERSION, SCORES, row_digest
from xadflow.explainers.base import Counterfactual, Explanation, ShownImage
from xadflow.images import encode_png, quantise_map


class Night(Protocol):
    """What rows say of the night that wrote them."""

    @property
    def run_date(self) -> str:
        """ISO date."""

    @property
    def run_id(self) -> str:
        """Of the run."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""

    @property
    def detector(self) -> str:
        """Name under `detectors` of params.yaml."""

    @property
    def model_name(self) -> str:
        """Of the registered model."""

    @property
    def model_version(self) -> int:
        """Of the registered model."""


class ImageOfNight(Protocol):
    """What rows say of an image."""

    @property
    def image_id(self) -> str:
        """sha256 of the file's bytes."""

    @property
    def path(self) -> str:
        """Where it was read."""


def score_row(
    plan: Night, image: ImageOfNight, score: float, threshold: float, p_value: float, now: dt.datetime
) -> dict[str, Any]:
    """One row of `scores`, which is also the left part of a row of `explanations`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_date": dt.date.fromisoformat(plan.run_date),
        "run_id": plan.run_id,
        "image_id": image.image_id,
        "image_path": image.path,
        "dataset": plan.dataset,
        "detector": plan.detector,
        "model_name": plan.model_name,
        "model_version": plan.model_version,
        "score": score,
        "threshold": threshold,
        "p_value": p_value,
        "is_anomaly": score > threshold,
        "created_at": now,
    }


def explanation_row(
    scored: Mapping[str, Any],
    *,
    explainer: str,
    explainer_version: str,
    seed: int,
    original: NDArray[np.uint8],
    explanation: Explanation,
    lineage: str,
) -> dict[str, Any]:
    """One row of `explanations`, its digest included; `original` is the uint8 [C,H,W] image the detector saw."""
    heatmap, low, high = None, None, None
    if explanation.heatmap is not None:
        picture, low, high = quantise_map(explanation.heatmap)
        heatmap = _picture(picture)
    row = {
        **scored,
        "explainer": explainer,
        "explainer_version": explainer_version,
        "seed": seed,
        "heatmap": heatmap,
        "heatmap_min": low,
        "heatmap_max": high,
        "original": _picture(original),
        "counterfactuals": [_counterfactual(one) for one in explanation.counterfactuals],
        "images": [_shown(one) for one in explanation.images],
        "metrics": [{"name": name, "value": float(value)} for name, value in sorted(explanation.metrics.items())],
        "lineage": lineage,
    }
    return {**row, "row_digest": row_digest(row)}


def as_tables(
    scores: Sequence[Mapping[str, Any]], explanations: Sequence[Mapping[str, Any]]
) -> tuple[pa.Table, pa.Table]:
    """Rows as Arrow tables of the contract's schemas."""
    return (
        pa.Table.from_pylist([dict(row) for row in scores], schema=SCORES),
        pa.Table.from_pylist([dict(row) for row in explanations], schema=EXPLANATIONS),
    )


def _picture(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    return {"bytes": encode_png(pixels), "path": None}


def _counterfactual(one: Counterfactual) -> dict[str, Any]:
    return {
        "concept": one.concept,
        "image": _picture(one.image),
        "score": one.score,
        "p_value": one.p_value,
        "is_normal": one.is_normal,
        "l1": one.l1,
        "l2": one.l2,
        "changed_fraction": one.changed_fraction,
        "judges": [asdict(word) for word in one.judges] or None,
        "donor_id": one.donor_id,
    }


def _shown(one: ShownImage) -> dict[str, Any]:
    return {"name": one.name, "image": _picture(one.image), "min": one.minimum, "max": one.maximum}
