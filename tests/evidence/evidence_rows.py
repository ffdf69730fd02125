"""Small made-up rows of both tables, and a store on a temporary folder. Seeded, no detector needed."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from xadflow.evidence.store import EvidenceStore, shard_app
from xadflow.evidence.tables import EXPLANATIONS, SCORES
from xadflow.images import encode_png

MODEL, VERSION = "xad.made-up.fcdd", 3


def image_id(number: int) -> str:
    return hashlib.sha256(f"image {number}".encode()).hexdigest()


def score_row(number: int, *, run_id: str = "run-1", day: int = 21) -> dict:
    score = float(np.random.default_rng(number).normal())
    return {
        "schema_version": 1,
        "run_date": date(2026, 11, day),
        "run_id": run_id,
        "image_id": image_id(number),
        "image_path": f"images/{number}.png",
        "dataset": "made-up",
        "detector": "fcdd",
        "model_name": MODEL,
        "model_version": VERSION,
        "score": score,
        "threshold": 0.5,
        "p_value": 0.01,
        "is_anomaly": number % 2 == 0,
        "created_at": datetime(2026, 11, day, 1, 2, 3, 456789, tzinfo=UTC),
    }


def picture(number: int, side: int = 8) -> dict:
    pixels = np.random.default_rng(number).integers(0, 256, (1, side, side), dtype=np.uint8)
    return {"bytes": encode_png(pixels), "path": None}


def explanation_row(number: int, *, explainer: str = "sparse", side: int = 8, **options) -> dict:
    return {
        **score_row(number, **options),
        "is_anomaly": True,
        "explainer": explainer,
        "explainer_version": "v1",
        "seed": 0,
        "heatmap": picture(number, side),
        "heatmap_min": -1.5,
        "heatmap_max": 2.5,
        "original": picture(number + 1, side),
        "counterfactuals": [
            {
                "concept": concept,
                "image": picture(number + 2 + concept, side),
                "score": 0.25,
                "p_value": 0.5,
                "is_normal": True,
                "l1": 3.0,
                "l2": 0.7,
                "changed_fraction": 0.125,
            }
            for concept in range(2)
        ],
        "images": [{"name": "class map", "image": picture(number + 5, side), "min": 0.0, "max": 1.0}],
        "metrics": [{"name": "steps", "value": 7.0}, {"name": "inside", "value": float("nan")}],
        "lineage": json.dumps({"seed": 0, "weights": "abc"}),
    }


def explanations(numbers, **options) -> pa.Table:
    rows = [explanation_row(number, **options) for number in numbers]
    schema = pa.schema([field for field in EXPLANATIONS if field.name != "row_digest"])
    return pa.Table.from_pylist(rows, schema=schema)


def scores(numbers, **options) -> pa.Table:
    return pa.Table.from_pylist([score_row(number, **options) for number in numbers], schema=SCORES)


def app_of(table: str, numbers) -> str:
    return shard_app(table, "made-up", MODEL, VERSION, "explainers", [image_id(number) for number in numbers])


def publish_shard(store: EvidenceStore, numbers, **options) -> None:
    """Explanations of the even (anomalous) images first, then all scores, as the nightly work does."""
    numbers = list(numbers)
    store.publish(
        "explanations",
        explanations([number for number in numbers if number % 2 == 0], **options),
        app=app_of("explanations", numbers),
    )
    store.publish("scores", scores(numbers, **options), app=app_of("scores", numbers))


def store_in(folder: Path, **options) -> EvidenceStore:
    return EvidenceStore(folder / "tables", folder / "ledger", **options)


def content(store: EvidenceStore) -> dict[str, list]:
    """Rows that must be equal however they came in: keys, scores and digests, in key order."""
    found = store.read("explanations", ["image_id", "explainer", "score", "row_digest"]).to_pylist()
    scored = store.read("scores", ["image_id", "score", "is_anomaly"]).to_pylist()
    return {
        "explanations": sorted(tuple(row.values()) for row in found),
        "scores": sorted(tuple(row.values()) for row in scored),
    }
