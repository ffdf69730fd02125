from __future__ import annotations

import hashlib
import struct
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from evidence_rows import app_of, explanation_row, explanations, scores, store_in

from xadflow.evidence.tables import row_digest


def encoded(value) -> bytes:
    """The canonical encoding, written anew from its description: tag, length where needed, big-endian content."""

    def sized(tag: str, content: bytes, count: int | None = None) -> bytes:
        return tag.encode() + (len(content) if count is None else count).to_bytes(8, "big") + content

    if value is None:
        return b"n"
    if value is True or value is False:
        return b"t" if value else b"f"
    if type(value) is int:
        return sized("i", str(value).encode())
    if type(value) is float:
        return b"d" + struct.pack(">d", value)
    if type(value) is str:
        return sized("s", value.encode("utf-8"))
    if type(value) is bytes:
        return sized("b", value)
    if type(value) is date:
        return b"D" + struct.pack(">q", (value - date(1, 1, 1)).days + 1)
    if type(value) is datetime:
        return b"m" + struct.pack(">q", round((value - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6))
    if type(value) is dict:
        parts = b"".join(encoded(key) + encoded(value[key]) for key in sorted(value))
        return sized("M", parts, len(value))
    return sized("L", b"".join(encoded(item) for item in value), len(value))


def without_nulls(struct: dict, *names: str) -> dict:
    return {key: value for key, value in struct.items() if not (key in names and value is None)}


def digest(row: dict) -> str:
    content = {key: value for key, value in row.items() if key not in ("run_id", "created_at", "row_digest")}
    if "metrics" in content:
        content["metrics"] = sorted(content["metrics"], key=lambda metric: metric["name"])
    if "counterfactuals" in content:
        content["counterfactuals"] = [without_nulls(one, "judges", "donor_id") for one in content["counterfactuals"]]
    return hashlib.sha256(encoded(content)).hexdigest()


@pytest.fixture
def stored(tmp_path):
    store = store_in(tmp_path)
    store.prepare()
    store.publish("explanations", explanations(range(0, 8, 2)), app=app_of("explanations", range(8)))
    store.publish("scores", scores(range(8)), app=app_of("scores", range(8)))
    return store


def test_every_stored_row_digest_is_that_of_its_content(stored):
    rows = stored.read("explanations").to_pylist()
    assert len(rows) == 4
    assert [row["row_digest"] for row in rows] == [digest(row) for row in rows]


def test_the_ledger_holds_the_digest_of_the_sorted_row_digests(stored):
    for line in stored.ledger.lines():
        rows = stored.read(line.table).to_pylist() if line.version else []
        assert line.rows_digest == hashlib.sha256(encoded(sorted(digest(row) for row in rows))).hexdigest()


def test_run_time_and_metric_order_do_not_matter_and_everything_else_does():
    row = explanation_row(2)
    same = {**row, "run_id": "another", "created_at": None, "row_digest": "x", "metrics": row["metrics"][::-1]}
    assert row_digest(same) == row_digest(row) == digest(row)
    for key in set(row) - {"run_id", "created_at"}:
        assert row_digest({**row, key: None}) != row_digest(row), key
    assert row_digest({**row, "score": float(np.nextafter(row["score"], 9.0))}) != row_digest(row)
    assert row_digest({**row, "heatmap_min": 0.0}) != row_digest({**row, "heatmap_min": -0.0})


def test_metric_order_does_not_make_another_row(tmp_path):
    digests = []
    for order, name in ((1, "as given"), (-1, "turned round")):
        store = store_in(tmp_path / name)
        store.prepare()
        row = explanation_row(2)
        row["metrics"] = row["metrics"][::order]
        rows = pa.Table.from_pylist([row], schema=explanations([]).schema)
        store.publish("explanations", rows, app="one")
        digests += store.read("explanations", ["row_digest"])["row_digest"].to_pylist()
    assert digests[0] == digests[1]


WORD = {"name": "xad.made-up.judge", "version": 2, "score": 0.4, "threshold": 0.5, "is_normal": True}


def test_the_word_of_a_judge_and_the_donor_are_in_the_digest_and_their_absence_is_not():
    row = explanation_row(2)

    def with_first(**more) -> dict:
        first, *others = row["counterfactuals"]
        return {**row, "counterfactuals": [{**first, **more}, *others]}

    assert row_digest(with_first(judges=None, donor_id=None)) == row_digest(row) == digest(row)
    changed = [
        with_first(judges=[]),
        with_first(judges=[WORD]),
        with_first(judges=[{**WORD, "is_normal": False}]),
        with_first(judges=[{**WORD, "score": None}]),
        with_first(donor_id=""),
        with_first(donor_id="a" * 64),
        with_first(judges=[WORD], donor_id="a" * 64),
        with_first(score=None),
    ]
    digests = [row_digest(one) for one in (row, *changed)]
    assert digests == [digest(one) for one in (row, *changed)]
    assert len(set(digests)) == len(digests)
