"""Whoever can write to var/ can append rows and name them in an intent or in the ledger. No honest run completes,
anchors or signs them: an intent carries a seal by a key or a secret that is not in the folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from evidence_rows import app_of, scores, store_in

import xadflow.evidence.store
from xadflow.cli.audit import audit
from xadflow.cli.doctor import evidence as doctor_evidence
from xadflow.digests import sha256_file
from xadflow.errors import StoreBroken, WrongUse
from xadflow.evidence.alarms import Alarm, Alarms, open_alarms
from xadflow.evidence.commits import entry_path, read_commit
from xadflow.evidence.ledger import Intent, Ledger, LedgerHead
from xadflow.evidence.row_keys import checked_rows, digests_of
from xadflow.evidence.seals import Seals, account_secret
from xadflow.evidence.signing import SigningKey
from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.tables import rows_digest
from xadflow.evidence.verify import verify

SECRET, OTHER = Seals(secret=b"a" * 64), Seals(secret=b"b" * 64)
SIGNED, OTHER_SIGNED = (Seals(key=SigningKey(Ed25519PrivateKey.generate())) for _ in range(2))
OURS = {"secret": (SECRET, OTHER), "signing key": (SIGNED, OTHER_SIGNED)}


class Killed(BaseException):
    """Stands for a SIGKILL."""


class Plant:
    """A store with one anchor outside and one honest commit."""

    def __init__(self, folder: Path, seals: Seals | None) -> None:
        self.folder, self.seals = folder, seals
        self.heads: list[LedgerHead] = []
        first = self.store()
        first.prepare()
        first.publish("scores", scores([1]), app=app_of("scores", [1]))

    def store(self, seals: Seals | None = None) -> EvidenceStore:
        """A new run's."""
        options = {"anchor": self.heads.append, "anchored": lambda: self.heads[-1:] or [None]}
        return store_in(self.folder, seals=seals or self.seals, **options)


def forge(plant: Plant, change: Callable[[Intent], Intent] = lambda intent: intent) -> Intent:
    """A valid append of a row that nobody scored, with every mark of ours, and the intent that names it."""
    store = store_in(plant.folder)
    table = DeltaTable(store.folder("scores"))
    rows = checked_rows("scores", scores([99]))
    intent = Intent("scores", table.version() + 1, "scores/forged", rows_digest(digests_of(rows)))
    intent = change(replace(intent, after=store.ledger.last_digest()))
    properties = CommitProperties(
        custom_metadata={"xadflow.rows_digest": intent.rows_digest, "xadflow.mark": intent.mark},
        app_transactions=[Transaction(intent.app, 1), Transaction("chain", table.version() + 1)],
    )
    write_deltalake(table, rows, mode="append", commit_properties=properties)
    store.ledger.begin(intent)
    return intent


def write_its_line(store: EvidenceStore) -> None:
    """The ledger line of the newest commit, as anybody can make it who reads ledger.py."""
    folder = store.folder("scores")
    commit = read_commit(folder, DeltaTable(folder).version())
    Ledger(store.ledger.folder).append(
        table="scores",
        version=commit.version,
        rows_digest=str(commit.rows_digest),
        log_entry=sha256_file(entry_path(folder, commit.version)),
        files={file.path: sha256_file(folder / file.path) for file in commit.files},
    )


def cut_off(plant: Plant, monkeypatch: pytest.MonkeyPatch, place: object, name: str, numbers: list[int]) -> None:
    """An honest commit that dies by SIGKILL at this place."""

    def die(*words: object, **options: object) -> None:
        if name == "write_deltalake":
            write_deltalake(*words, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, name, die)
        with pytest.raises(Killed):
            plant.store().publish("scores", scores(numbers), app=app_of("scores", numbers))


FORGED: dict[str, Callable[[Seals, Seals], Callable[[Intent], Intent]]] = {
    "without a seal": lambda ours, others: lambda it: it,
    "by another account": lambda ours, others: lambda it: replace(it, seal=others.seal(it.content)),
    "with the seal of another intent": lambda ours, others: (
        lambda it: replace(it, seal=ours.seal(replace(it, mark="0" * 32).content))
    ),
    "with an old intent of ours": lambda ours, others: (
        lambda it: (lambda old: replace(old, seal=ours.seal(old.content)))(replace(it, after="0" * 64))
    ),
    "with a seal of a kind that is not": lambda ours, others: lambda it: replace(it, seal="none:"),
    "with letters beyond ASCII": lambda ours, others: lambda it: replace(it, seal="hmac:\u00e9"),
}


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("how", FORGED)
def test_a_forged_intent_is_refused_and_nothing_is_anchored(tmp_path: Path, kind: str, how: str) -> None:
    ours, others = OURS[kind]
    plant = Plant(tmp_path, ours)
    anchored, lines = list(plant.heads), plant.store().ledger.path.read_bytes()
    forge(plant, FORGED[how](ours, others))
    for work in (EvidenceStore.prepare, lambda store: store.publish("scores", scores([3]), app="3")):
        with pytest.raises(StoreBroken, match="commit 2 of scores was not announced by this account.*audit accept"):
            work(plant.store())
    assert (plant.heads, plant.store().ledger.path.read_bytes()) == (anchored, lines)
    assert "commit 2 of scores" in str(verify(plant.store(), plant.heads[-1]).problems)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("names_it", [True, False], ids=["with an intent", "without"])
def test_a_line_added_to_the_ledger_is_not_anchored(tmp_path: Path, kind: str, names_it: bool) -> None:
    plant = Plant(tmp_path, OURS[kind][0])
    at_work = plant.store()
    at_work.prepare()
    forge(plant)
    write_its_line(at_work)
    if not names_it:
        at_work.ledger.end()
    before = list(plant.heads)
    for store in (plant.store(), at_work):  # the one that is in the middle of its night too
        with pytest.raises(StoreBroken, match="line 4 of the ledger, commit 2 of scores, was not announced"):
            store.publish("scores", scores([3]), app="3")
    assert plant.heads == before


PLACES = {
    "after the commit": (xadflow.evidence.store, "write_deltalake"),
    "before the line": (Ledger, "append"),
    "before the anchor": (EvidenceStore, "_copy_head"),
    "before the intent is forgotten": (Ledger, "end"),
}


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("place", PLACES)
def test_our_own_commit_that_was_cut_off_is_completed_and_said(
    tmp_path: Path, monkeypatch, caplog, kind: str, place: str
) -> None:
    plant = Plant(tmp_path, OURS[kind][0])
    cut_off(plant, monkeypatch, *PLACES[place], [3])
    with caplog.at_level(logging.WARNING, "xadflow"):
        plant.store().prepare()
    assert verify(plant.store(), plant.heads[-1]).problems == ()
    assert plant.store().ledger.last_version("scores") == 2
    assert plant.heads[-1] == plant.store().ledger.head()
    if place in ("after the commit", "before the line"):
        assert "was announced by this account and cut off" in caplog.text


def test_where_no_secret_is_there_it_is_completed_and_said_that_nothing_proves_it(tmp_path: Path, caplog) -> None:
    plant = Plant(tmp_path, None)
    forge(plant)
    with caplog.at_level(logging.WARNING, "xadflow"):
        plant.store().prepare()
    assert "commit 2 of scores, was completed for a run that was cut off, and nothing proves who made it" in caplog.text


def forged_intent(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(plant)
    plant.store(Seals()).prepare()


def killed_before_the_key_was_lost(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(plant, monkeypatch, xadflow.evidence.store, "write_deltalake", [3])
    plant.store(Seals()).prepare()


def lines_after_the_anchor(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(plant)
    write_its_line(plant.store())
    plant.store(Seals()).prepare()


def lines_where_the_anchor_was_lost(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(plant)
    write_its_line(plant.store())
    plant.heads.clear()
    plant.store().prepare()


def killed_after_the_alarm(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(plant)

    def die(*words: object, **options: object) -> None:
        raise Killed

    for place in ("append", "end"):
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, place, die)
            with pytest.raises(Killed):
                plant.store(Seals()).prepare()
    plant.store(Seals()).prepare()


UNPROVEN = {
    forged_intent: "line 4 of the ledger, commit 2 of scores, was completed",
    killed_before_the_key_was_lost: "line 4 of the ledger, commit 2 of scores, was completed",
    lines_after_the_anchor: "line 4 of the ledger, commit 2 of scores, was anchored",
    lines_where_the_anchor_was_lost: "line 3 of the ledger, commit 1 of scores, and 1 more were anchored",
    killed_after_the_alarm: "line 4 of the ledger, commit 2 of scores, was completed",
}


@pytest.mark.parametrize("happened", UNPROVEN)
def test_what_nobody_announced_is_an_alarm_till_a_person_vouches(tmp_path: Path, monkeypatch, happened) -> None:
    """At the night's page, at `doctor` and at `audit verify`; the webhook: tests/hostile."""
    plant = Plant(tmp_path, SIGNED)
    happened(plant, monkeypatch)
    store = plant.store()
    (alarm,) = open_alarms(store.ledger.folder)
    assert UNPROVEN[happened] in alarm
    assert [UNPROVEN[happened] in str(one) for one in verify(store, plant.heads[-1]).problems] == [True]
    (found, *_) = doctor_evidence.ledger(SimpleNamespace(ledger=store.ledger.folder, mlflow_uri="sqlite:///none.db"))
    assert (found.level, UNPROVEN[happened] in found.said) == ("fail", True)
    assert store.accept() == 1
    assert open_alarms(store.ledger.folder) == ()
    assert verify(store, plant.heads[-1]).ok


@pytest.mark.parametrize(
    "line",
    [b"\xff", b"{}", b"[]", b'{"vouched": "x"}', b'{"line": 1}', b"[" * 5000, b'{"vouched": 1e999}'],
    ids=range(7),
)
def test_a_damaged_record_of_alarms_is_an_alarm(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "alarms.jsonl"
    path.write_bytes(line)
    (alarm,) = open_alarms(tmp_path)
    assert "line 1 of alarms.jsonl, which is damaged" in alarm
    assert Alarms(tmp_path).vouch() == 1
    Alarms(tmp_path).sound(Alarm(1, 1, "scores", 0, "", "\x1b[2J"))
    (alarm,) = open_alarms(tmp_path)
    assert alarm.isprintable()


def test_a_head_that_vouches_for_alarms_to_come_silences_none(tmp_path: Path) -> None:
    (tmp_path / "alarms.jsonl").write_text('{"vouched": 99}\n')
    Alarms(tmp_path).sound(Alarm(1, 1, "scores", 0, "", "made up"))
    assert len(open_alarms(tmp_path)) == 1


@pytest.mark.parametrize("has_line", [False, True])
def test_a_person_may_vouch_for_it(tmp_path: Path, has_line: bool) -> None:
    plant = Plant(tmp_path, SECRET)
    forge(plant, lambda it: replace(it, seal=OTHER.seal(it.content)))  # the same run, under another account
    if has_line:
        write_its_line(plant.store())
    plant.store().accept()
    assert plant.heads[-1].seq == 4
    assert verify(plant.store(), plant.heads[-1]).problems == ()
    assert plant.store().publish("scores", scores([3]), app="3").added


def test_a_forged_intent_without_a_commit_does_no_harm(tmp_path: Path) -> None:
    plant = Plant(tmp_path, SECRET)
    plant.store().ledger.begin(Intent("scores", 2, "forged", "d" * 64))
    plant.store().prepare()
    assert plant.store().ledger.intent() is None


def test_an_intent_from_before_seals_is_read(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.ledger.begin(Intent("scores", 2, "app", "d" * 64))
    path = store.ledger.folder / "intent.json"
    old = {name: value for name, value in json.loads(path.read_bytes()).items() if name not in ("after", "seal")}
    path.write_text(json.dumps(old))
    assert asdict(store.ledger.intent()) == {**old, "after": "", "seal": ""}


def test_a_seal_does_not_hold_for_a_head_of_the_ledger(tmp_path: Path) -> None:
    """One key signs both: words for one purpose are not taken for the other."""
    content = b"ledger head\n{}"
    assert not SIGNED.holds(content, f"ed25519:{SIGNED.key.sign(b'xadflow ' + content)}")
    assert SIGNED.holds(content, SIGNED.seal(content))


def test_the_secret_of_an_account_is_outside_the_state_and_its_alone(tmp_path: Path) -> None:
    path, state = tmp_path / "account" / "xadflow" / "writer-secret", tmp_path / "var"
    secret = account_secret(path, state)
    assert secret is not None
    assert account_secret(path, state) == secret
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.chmod(0o640)
    assert account_secret(path, state) is None
    assert account_secret(None, state) is None
    assert account_secret(state / "writer-secret", state) is None
    assert not state.exists()
    (tmp_path / "file").write_text("")
    assert account_secret(tmp_path / "file" / "writer-secret", state) is None  # no place for it
    path.chmod(0o600)
    path.write_text("short")
    assert account_secret(path, state) is None


def test_nobody_vouches_by_mistake() -> None:
    told = CliRunner().invoke(audit, ["accept"])
    assert isinstance(told.exception, WrongUse)
    assert "xadflow audit accept --yes" in told.exception.next_step
