"""Schemas of the evidence tables: contract (docs/explanation/architecture.md). Pure pyarrow, no storage.

Timestamps are UTC microseconds, doubles are IEEE-754 binary64, pictures are PNG bytes in struct{bytes,path} (the layout
that Hugging Face `datasets.Image` decodes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from xadflow.digests import canonical_digest

SCHEMA_VERSION = 1
ROWS_PER_GROUP = 100
NOT_DIGESTED = frozenset({"run_id", "created_at", "row_digest"})

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
JUDGEMENT = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("score", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("is_normal", pa.bool_()),
    ]
)
ADDED_LATER = ("judges", "donor_id")
"""Of a counterfactual: null in rows written before they were, and where no judge was asked, or no donor gave pixels."""

_SCORE_FIELDS = [
    pa.field("schema_version", pa.int32(), nullable=False),
    pa.field("run_date", pa.date32(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("image_path", pa.string(), nullable=False),
    pa.field("dataset", pa.string(), nullable=False),
    pa.field("detector", pa.string(), nullable=False),
    pa.field("model_name", pa.string(), nullable=False),
    pa.field("model_version", pa.int64(), nullable=False),
    pa.field("score", pa.float64(), nullable=False),
    pa.field("threshold", pa.float64(), nullable=False),
    pa.field("p_value", pa.float64(), nullable=False),
    pa.field("is_anomaly", pa.bool_(), nullable=False),
    pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
]

SCORES = pa.schema(_SCORE_FIELDS)

EXPLANATIONS = pa.schema(
    [
        *_SCORE_FIELDS,
        pa.field("explainer", pa.string(), nullable=False),
        pa.field("explainer_version", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("heatmap", IMAGE),
        pa.field("heatmap_min", pa.float64()),
        pa.field("heatmap_max", pa.float64()),
        pa.field("original", IMAGE),
        pa.field(
            "counterfactuals",
            pa.list_(
                pa.struct(
                    [
                        pa.field("concept", pa.int32()),
                        pa.field("image", IMAGE),
                        pa.field("score", pa.float64()),
                        pa.field("p_value", pa.float64()),
                        pa.field("is_normal", pa.bool_()),
                        pa.field("l1", pa.float64()),
                        pa.field("l2", pa.float64()),
                        pa.field("changed_fraction", pa.float64()),
                        pa.field("judges", pa.list_(JUDGEMENT)),
                        pa.field("donor_id", pa.string()),
                    ]
                )
            ),
        ),
        pa.field(
            "images",
            pa.list_(
                pa.struct(
                    [
                        pa.field("name", pa.string()),
                        pa.field("image", IMAGE),
                        pa.field("min", pa.float64()),
                        pa.field("max", pa.float64()),
                    ]
                )
            ),
        ),
        pa.field("metrics", pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.float64())]))),
        pa.field("lineage", pa.string(), nullable=False),
        pa.field("row_digest", pa.string(), nullable=False),
    ]
)

REVIEWS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("model_version", pa.int64(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("defect", pa.string()),
        pa.field("note", pa.string()),
        pa.field("reviewer", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

BY_NAME: Mapping[str, pa.Schema] = {"scores": SCORES, "explanations": EXPLANATIONS}


def row_digest(row: Mapping[str, Any]) -> str:
    """Hex sha256 over the canonical encoding of every column but run_id, created_at and itself.

    `row` is a plain dict as `pyarrow.Table.to_pylist` gives it; metric names are sorted first, so their order in the
    list does not matter. A null `judges` or `donor_id` of a counterfactual is left out, so that rows written before
    these columns were there keep their digests. No two rows become one by that: a row that lacks the column reads as
    null, so both are the same row; and putting anything there, or taking it away, changes the digest, an empty list
    included.
    """
    content = {name: value for name, value in row.items() if name not in NOT_DIGESTED}
    if content.get("metrics") is not None:
        content["metrics"] = sorted(content["metrics"], key=lambda metric: str(metric["name"]))
    if content.get("counterfactuals") is not None:
        content["counterfactuals"] = [
            {name: value for name, value in one.items() if value is not None or name not in ADDED_LATER}
            for one in content["counterfactuals"]
        ]
    return canonical_digest(content)


def rows_digest(digests: Sequence[str]) -> str:
    """One digest of a commit's rows, whatever their order."""
    return canonical_digest(sorted(digests))


def field_names(fields: Any, above: str = "") -> set[str]:
    """Dotted names of all fields of a schema or struct, those inside lists included."""
    found: set[str] = set()
    for field in fields:
        name, kind = f"{above}{field.name}", field.type
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        found |= {name} | (field_names(kind, f"{name}.") if pa.types.is_struct(kind) else set())
    return found
