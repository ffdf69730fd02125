"""Frames that the quality rules look at: plain values only, no picture ever leaves Arrow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from xadflow.settings import DatasetSettings

MIN_TRAIN = 10
"""Fewest train normals that any method here can learn from."""
KEY = ("image_id", "model_name", "model_version")
_REQUIRED = (
    "schema_version",
    "run_date",
    "run_id",
    "image_path",
    "dataset",
    "detector",
    "model_name",
    "model_version",
    "score",
    "threshold",
    "p_value",
    "is_anomaly",
    "created_at",
)
_REQUIRED_TOO = ("explainer", "explainer_version", "seed", "lineage", "row_digest")
_OWNER = ("image_id", "image_path", "explainer", "threshold")
_FIGURES = ("concept", "score", "p_value", "is_normal", "l1", "l2", "changed_fraction")
_WORDS = ("name", "version", "score", "threshold", "is_normal")  # of a judge


def minimum_counts(manifest: pd.DataFrame, dataset: DatasetSettings, false_alarm_rate: float | None) -> pd.DataFrame:
    """One row a split and kind: split, kind, count, minimum. See `validate_manifest` for `false_alarm_rate`.

    A product of which no defect is known yet needs none, nor can one alone be on both sides: the gate then says that it
    was not measured.
    """
    val = max(1, math.ceil(round(1.0 / false_alarm_rate, 9)) - 1) if false_alarm_rate else 1
    found = manifest.groupby(["split", "label"]).size().to_dict()
    defects = int(dataset.judged and found.get(("test", 1), 0) + found.get(("gate", 1), 0) > 1)
    least = {
        ("train", 0): MIN_TRAIN,
        ("val", 0): val,
        ("gate", 0): 1,
        ("gate", 1): defects,
        ("test", 0): 1,
        ("test", 1): defects,
        ("known", 1): dataset.known_used,
    }
    return pd.DataFrame(
        [
            {
                "split": split,
                "kind": ("normal", "anomalous")[label],
                "count": int(found.get((split, label), 0)),
                "minimum": minimum,
            }
            for (split, label), minimum in least.items()
        ]
    )


def shard_frames(
    scores: pa.Table, explanations: pa.Table, expected: Mapping[str, int] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Scores, explanations, and explanations joined with the score of their image where that is in the same shard.

    Scores get `explanations`, how many their image has, and `explainers`, how many it should have: what `expected`
    says, or as many as there are explainers in the shard. The first two get `missing`, the required columns without a
    value. Flags are 0 and 1.
    """
    scored, explained = _scalars(scores).to_pandas(), _scalars(explanations).to_pandas()
    scored["explanations"] = scored["image_id"].map(explained["image_id"].value_counts()).fillna(0).astype("int64")
    scored["missing"], explained["missing"] = (
        _missing(scored, _REQUIRED),
        _missing(explained, _REQUIRED + _REQUIRED_TOO),
    )
    held = len(explained[["explainer", "explainer_version"]].drop_duplicates())
    scored["explainers"] = scored["image_id"].map(expected).astype("int64") if expected is not None else held
    of_image = scored[[*KEY, "score", "threshold", "p_value"]]
    return scored, explained, explained.merge(of_image, on=list(KEY), suffixes=("", "_of_image"))


def _scalars(table: pa.Table) -> pa.Table:
    plain = table.select([field.name for field in table.schema if not pa.types.is_nested(field.type)])
    return plain.cast(pa.schema([_numeric(field) for field in plain.schema]))


def _numeric(field: pa.Field) -> pa.Field:
    """Flags as 0 and 1: a condition of Great Expectations takes no bool."""
    return field.with_type(pa.int64()) if pa.types.is_boolean(field.type) else field


def _missing(frame: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    """The required columns that a row has no value in; NaN is no value. One rule then covers them all."""
    absent = frame[list(columns)].isna().to_numpy()
    return [", ".join(name for name, gone in zip(columns, row, strict=True) if gone) for row in absent]


def counterfactual_frame(explanations: pa.Table) -> pd.DataFrame:
    """One row a counterfactual: its scalar figures, its image, the image's threshold, and `missing` as above."""
    parts = [_beside(owners, _OWNER, flat, _FIGURES) for owners, flat in _counterfactuals(explanations)]
    return _framed(parts, _FIGURES)


def judgement_frame(explanations: pa.Table) -> pd.DataFrame:
    """One row a word that a judge says of a counterfactual: its figures, the image, and `missing` as above."""
    owner = tuple(name for name in _OWNER if name != "threshold")  # the judge has its own
    parts = []
    for owners, flat in _counterfactuals(explanations):
        lists = pc.struct_field(flat, "judges")
        of = owners.take(pc.list_parent_indices(lists))
        parts.append(_beside(of, owner, pc.list_flatten(lists), _WORDS))
    return _framed(parts, _WORDS)


def _counterfactuals(explanations: pa.Table) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """Of each batch: the rows of the images, one a counterfactual, and the counterfactuals."""
    for batch in explanations.select([*_OWNER, "counterfactuals"]).to_batches():
        lists = batch.column("counterfactuals")
        yield batch.select(list(_OWNER)).take(pc.list_parent_indices(lists)), pc.list_flatten(lists)


def _beside(owners: pa.RecordBatch, of: Sequence[str], flat: pa.Array, figures: Sequence[str]) -> pa.Table:
    columns = [*owners.select(list(of)).columns, *(pc.struct_field(flat, name) for name in figures)]
    return _scalars(pa.table(columns, names=[*of, *figures]))


def _framed(parts: Sequence[pa.Table], required: tuple[str, ...]) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame()
    frame: pd.DataFrame = pa.concat_tables(parts).to_pandas()
    frame["missing"] = _missing(frame, required)
    return frame
