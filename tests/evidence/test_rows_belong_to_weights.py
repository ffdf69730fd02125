"""A registry that was lost gives numbers again; rows under such a number are known to be of another model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from evidence_rows import MODEL, VERSION, explanation_row, score_row

from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.tables import EXPLANATIONS, SCORES
from xadflow.work.numbers import rows_of_another, take_a_free_number

WEIGHTS, THRESHOLD = "a" * 64, 0.5
JUDGE, OURS = "xad.made-up.judge", hashlib.sha256(b"ours").hexdigest()


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


def judged(number: int, *weights: str, run: str = "run-1", dataset: str = "made-up") -> dict:
    """A row whose judges have these weights, versions 1, 2, ... of one name."""
    told = [
        {"model_name": JUDGE, "model_version": version, "weights": one} for version, one in enumerate(weights, start=1)
    ]
    lineage = json.dumps({"weights": WEIGHTS, **({"judges": told} if told else {})})
    row = explanation_row(number, run_id=run)
    return {**row, "dataset": dataset, "lineage": lineage, "row_digest": None}


def saved(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(weights)
    return folder


class Numbers:
    """Stands for a registry: which number the next version gets."""

    def __init__(self, last: int) -> None:
        self.last = last

    def versions(self, name: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(version=self.last)] if self.last else []

    def skip_numbers(self, name: str, to: int) -> None:
        self.last = to


@pytest.mark.parametrize(
    ("gone", "last", "due"),
    [
        ([], 0, 1),
        (["b" * 64], 0, 2),  # lost
        (["b" * 64, "c" * 64], 1, 3),  # put back from a backup
        (["b" * 64], 1, 2),  # the next number is free
        ([OURS], 0, 1),  # the same judge comes back
    ],
)
def test_a_new_judge_gets_a_number_that_no_row_has(
    store: EvidenceStore, tmp_path: Path, gone: list[str], last: int, due: int
) -> None:
    strange = {**judged(8, run="run-3"), "lineage": '{"judges": [3]}'}
    rows = [strange, judged(2, *gone), judged(4, run="run-2"), judged(6, "d" * 64, dataset="another")]
    store.publish("explanations", table(EXPLANATIONS, *rows), app="one")
    numbers = Numbers(last)
    take_a_free_number(store, numbers, JUDGE, saved(tmp_path / "saved", b"ours"))
    assert numbers.last + 1 == due


def test_rows_beside_words_of_another_judge_are_said_of_its_version(store: EvidenceStore, tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", b"ours")
    ref = SimpleNamespace(name=JUDGE, version=1)
    assert rows_of_another(store, ref, folder) is None
    store.publish("explanations", table(EXPLANATIONS, judged(2, OURS), judged(4, OURS)), app="one")
    assert rows_of_another(store, ref, folder) is None
    store.publish("explanations", table(EXPLANATIONS, judged(6, "b" * 64, run="run-2")), app="two")
    assert rows_of_another(store, ref, folder) == f"weights {'b' * 12}, this version has {OURS[:12]}"
    assert store.judges("made-up") == {(JUDGE, 1): {OURS, "b" * 64}}
    assert store.judges("another") == {}
