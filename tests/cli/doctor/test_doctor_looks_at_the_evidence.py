"""Real tables and a real ledger, brought into each state that the doctor has a word for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.checkout import PROJECT
from tests.evidence.evidence_rows import publish_shard, store_in
from xadflow.cli.doctor.command import doctor
from xadflow.evidence.anchor_file import AnchorFile
from xadflow.evidence.ledger import Intent, LedgerHead
from xadflow.evidence.store import EvidenceStore
from xadflow.models.registry import Registry


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvidenceStore:
    """The store of a project, with one shard in it."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    for name in ("XADFLOW_HOME", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "XADFLOW_WEBHOOK"):
        monkeypatch.delenv(name, raising=False)
    store = store_in(tmp_path / "var")
    store.prepare()
    publish_shard(store, range(4))
    return store


def found() -> dict[str, dict[str, str]]:
    return {one["what"]: one for one in json.loads(CliRunner().invoke(doctor, ["--json"]).output)["findings"]}


def test_sound_tables_and_a_ledger_in_step_are_ok_and_the_lacking_anchor_is_named(store) -> None:
    seen = found()
    assert seen["table scores"]["said"] == "2 commits, as many as in the ledger"
    assert seen["table explanations"]["level"] == "ok"
    assert seen["ledger"]["said"] == "4 lines, the chain is whole"
    assert (seen["anchor"]["level"], seen["anchor"]["said"]) == ("warn", "MLflow holds no line of the ledger")
    assert "xadflow explain" in seen["anchor"]["mend"]


def test_a_file_that_the_log_does_not_name_is_counted(store) -> None:
    (named,) = store.log_files("scores")
    stray = store.folder("scores") / Path(named).parent / "stray.parquet"
    stray.write_bytes(b"of a killed writer")
    seen = found()["table scores"]
    assert seen["level"] == "warn"
    assert "1 files that its log does not name" in seen["said"]
    assert stray.exists()


def test_a_commit_without_a_ledger_line_fails(store) -> None:
    log = store.folder("scores") / "_delta_log"
    (log / "00000000000000000002.json").write_bytes((log / "00000000000000000001.json").read_bytes())
    seen = found()["table scores"]
    assert seen["level"] == "fail"
    assert "xadflow audit verify" in seen["mend"]


def test_an_unfinished_commit_is_named(store) -> None:
    store.ledger.begin(Intent("scores", 2, "app", "digest"))
    seen = found()["ledger"]
    assert (seen["level"], "commit 2" in seen["said"]) == ("warn", True)


def test_a_broken_chain_fails(store) -> None:
    lines = store.ledger.path.read_bytes().splitlines(keepends=True)
    store.ledger.path.write_bytes(b"".join([lines[0], *lines[2:]]))
    seen = found()["ledger"]
    assert (seen["level"], seen["mend"]) == ("fail", "xadflow audit verify")


@pytest.mark.parametrize(
    ("seq", "digest", "level"), [(4, None, "ok"), (3, None, "warn"), (4, "f" * 64, "fail"), (9, "f" * 64, "fail")]
)
def test_the_head_that_mlflow_holds_is_compared(store, monkeypatch, seq: int, digest: str | None, level: str) -> None:
    head = {"seq": seq, "digest": digest or store.ledger.lines()[seq - 1].head.digest}
    monkeypatch.setattr(Registry, "anchored_head", lambda _: head)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    seen = found()["anchor"]
    assert seen["level"] == level
    assert bool(seen["mend"]) == (level != "ok")


def test_the_head_that_the_anchor_file_holds_is_compared(store, tmp_path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("anchor_file: null", "anchor_file: heads.jsonl"))
    assert found()["anchor file"]["level"] == "warn"
    AnchorFile(tmp_path / "heads.jsonl").append(store.ledger.head())
    assert found()["anchor file"]["level"] == "ok"
    AnchorFile(tmp_path / "heads.jsonl").append(LedgerHead(5, "e" * 64))
    seen = found()["anchor file"]
    assert (seen["level"], seen["mend"]) == ("fail", "xadflow audit verify")
