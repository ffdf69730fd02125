"""A registry that was lost gives numbers again; rows under such a number are known to be of another model."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from evidence_rows import MODEL, VERSION, explanation_row, score_row

from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.tables import EXPLANATIONS, SCORES

WEIGHTS, THRESHOLD = "a" * 64, 0.5


def table(schema: pa.Schema, *rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


@pytest.fixture
def store(tmp_path: Path) -> EvidenceStore:
    made = EvidenceStore(tmp_path / "tables", tmp_path / "ledger")
    made.prepare()
    return made


def test_an_empty_store_knows_of_no_version(tmp_path: Path) -> None:
    nothing = EvidenceStore(tmp_path / "tables", tmp_path / "ledger")
    assert nothing.versions(MODEL) == set()
    assert nothing.of_another(MODEL, VERSION, WEIGHTS, THRESHOLD) is None


def test_thresholds_and_weights_of_rows_tell_whose_they_are(store: EvidenceStore) -> None:
    store.publish("scores", table(SCORES, score_row(1), score_row(3)), app="one")
    assert store.versions(MODEL) == {VERSION}
    assert store.versions("xad.made-up.other") == set()
    assert store.of_another(MODEL, VERSION, WEIGHTS, THRESHOLD) is None
    assert store.of_another(MODEL, VERSION + 1, WEIGHTS, 0.7) is None
    assert "threshold 0.5" in str(store.of_another(MODEL, VERSION, WEIGHTS, 0.7))

    lineage = json.dumps({"weights": WEIGHTS})
    store.publish(
        "explanations", table(EXPLANATIONS, {**explanation_row(2), "lineage": lineage, "row_digest": None}), app="two"
    )
    assert store.of_another(MODEL, VERSION, WEIGHTS, THRESHOLD) is None
    assert f"weights {WEIGHTS[:12]}" in str(store.of_another(MODEL, VERSION, "b" * 64, THRESHOLD))


def test_one_odd_row_among_right_ones_is_enough(store: EvidenceStore) -> None:
    """As a night left it that met the rows of a lost registry, and went on."""
    store.publish("scores", table(SCORES, score_row(1), {**score_row(3), "threshold": 0.25}), app="one")
    for ours in (0.5, 0.25):
        assert "this version has" in str(store.of_another(MODEL, VERSION, WEIGHTS, ours))
