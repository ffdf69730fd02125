from __future__ import annotations

import hashlib
import json

import pytest

from xadflow.errors import StoreBroken
from xadflow.evidence.ledger import Intent, Ledger, LedgerHead, LedgerLine


def _append(ledger: Ledger, version: int) -> LedgerHead:
    return ledger.append(
        table="scores", version=version, rows_digest="r" * 64, files={"b": "2", "a": "1"}, log_entry="e" * 64
    )


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    for version in range(3):
        _append(ledger, version)
    return ledger


def test_each_line_names_the_digest_of_the_bytes_before_it(ledger):
    previous = "0" * 64
    for number, raw in enumerate(ledger.path.read_bytes().splitlines(), start=1):
        line = json.loads(raw)
        assert (line["seq"], line["version"], line["previous"]) == (number, number - 1, previous)
        previous = hashlib.sha256(raw).hexdigest()
    assert ledger.head() == LedgerHead(3, previous)
    assert ledger.verify() == []


def test_an_empty_ledger_has_no_head(tmp_path):
    ledger = Ledger(tmp_path)
    assert (ledger.head(), ledger.lines(), ledger.last_version("scores")) == (None, [], -1)


def test_two_objects_on_one_folder_see_each_others_lines(ledger):
    other = Ledger(ledger.folder)
    assert _append(other, 3) == ledger.head()
    assert _append(ledger, 4).seq == 5
    assert other.last_version("scores") == 4


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b'"version":1', b'"version":7', "line 3 does not follow"),
        (b'"version":1', b'"version": 1', "line 2 is damaged"),
        (b'"version":1', b'"version":true', "line 2 is damaged"),
        (b'"version":1', b'"version":1,"version":1', "line 2 is damaged"),
        (b'"version":1', b"\xff", "line 2 is damaged"),
        (b'"a":"1"', b'"a":{}', "line 1 is damaged"),
        (b'"seq":2', b'"seq":5', "line 2 says it is line 5"),
    ],
)
def test_an_edited_line_is_named(ledger, old, new, what):
    ledger.path.write_bytes(ledger.path.read_bytes().replace(old, new, 1))
    assert any(what in problem for problem in ledger.verify())
    with pytest.raises(StoreBroken):
        Ledger(ledger.folder).lines()


def test_a_ledger_that_shrinks_while_in_use_is_refused(ledger):
    ledger.path.write_bytes(ledger.path.read_bytes()[:40])
    with pytest.raises(StoreBroken, match="became shorter"):
        ledger.head()


def test_removed_and_exchanged_lines_are_found(ledger):
    first, second, third = ledger.path.read_bytes().splitlines(keepends=True)
    for forged in (second + third, first + third, second + first + third, first + second + second):
        ledger.path.write_bytes(forged)
        assert ledger.verify()


def test_half_a_line_is_replaced_only_by_the_line_that_it_begins(ledger):
    whole = ledger.path.read_bytes()
    for cut in (60, len(whole.splitlines()[2]) - 1, len(whole.splitlines()[2])):
        start = len(b"".join(whole.splitlines(keepends=True)[:2]))
        ledger.path.write_bytes(whole[: start + cut])
        torn = Ledger(ledger.folder)
        assert torn.tail() == whole[start : start + cut]
        with pytest.raises(StoreBroken, match="not the one due"):
            torn.append(table="scores", version=2, rows_digest="other", files={}, log_entry="")
        _append(Ledger(ledger.folder), 2)
        assert ledger.path.read_bytes() == whole


def test_an_intent_lasts_until_it_is_ended(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.intent() is None
    intent = Intent("scores", 4, "app", "digest")
    ledger.begin(intent)
    assert Ledger(ledger.folder).intent() == intent
    assert intent.mark != Intent("scores", 4, "app", "digest").mark
    ledger.end()
    assert ledger.intent() is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"table": 3}', b"\xff"])
def test_a_damaged_intent_is_an_error_not_a_guess(tmp_path, content):
    (tmp_path / "intent.json").write_bytes(content)
    with pytest.raises(StoreBroken, match="intent"):
        Ledger(tmp_path).intent()


def test_a_line_survives_its_encoding():
    line = LedgerLine(1, "scores", 0, "r", {"naïve path": "x"}, "e", "p")
    assert LedgerLine.decode(line.encode()) == line
