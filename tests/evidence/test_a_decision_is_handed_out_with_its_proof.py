"""`xadflow audit export`: what is in it, what it proves by itself, and what it never does."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from evidence_rows import explanation_row, explanations, image_id, publish_shard, store_in
from test_decisions_are_shown import project_in, run

from xadflow.errors import AuditFailed, WrongUse
from xadflow.evidence.anchor_file import AnchorFile
from xadflow.evidence.export import export
from xadflow.evidence.tables import rows_digest


@pytest.fixture
def store(tmp_path):
    store = store_in(tmp_path / "var")
    store.prepare()
    publish_shard(store, range(4))
    publish_shard(store, range(4, 8))
    return store


@pytest.fixture
def exported(store, tmp_path):
    """The folder of image 2, and its files by name."""
    done = export(store, image_id(2), tmp_path / "out", store.ledger.head())
    assert (done.rows, done.pictures, done.anchors) == (2, 5, ("MLflow",))
    return {
        path.relative_to(done.path).as_posix(): path.read_bytes() for path in done.path.rglob("*") if path.is_file()
    }


def test_every_file_has_its_sum_and_every_picture_is_the_stored_one(exported):
    sums = dict(reversed(line.split("  ")) for line in exported["SHA256SUMS"].decode().splitlines())
    assert {
        name: hashlib.sha256(content).hexdigest() for name, content in exported.items() if name != "SHA256SUMS"
    } == sums
    stored = explanation_row(2)
    assert exported["pictures/01-sparse/original.png"] == stored["original"]["bytes"]
    assert (
        exported["pictures/01-sparse/counterfactual-01-concept-1.png"] == stored["counterfactuals"][1]["image"]["bytes"]
    )
    columns = json.loads(exported["rows.json"])[1]["columns"]
    assert columns["counterfactuals"][0]["image"]["file"] == "pictures/01-sparse/counterfactual-00-concept-0.png"
    assert columns["metrics"] == [{"name": "steps", "value": 7.0}, {"name": "inside", "value": "NaN"}]
    assert columns["score"] == stored["score"]
    (told,) = {json.dumps(one["lineage"]) for one in json.loads(exported["lineage.json"])}
    proved = [one["columns"]["lineage"] for one in json.loads(exported["rows.json"]) if "lineage" in one["columns"]]
    assert json.loads(told) == json.loads(proved[0]) == {"seed": 0, "weights": "abc"}
    assert b"not under any digest itself" in exported["README.txt"]
    assert b"README" not in exported["README.txt"]
    assert image_id(2).encode() in exported["README.txt"]


def test_the_proof_leads_from_each_row_to_the_anchor_by_the_files_alone(exported):
    lines = exported["ledger.jsonl"].splitlines()
    of_line = {json.loads(line)["seq"]: json.loads(line) for line in lines}
    commits = {commit["ledger_line"]: commit for commit in json.loads(exported["commits.json"])}
    rows = json.loads(exported["rows.json"])
    assert [row["table"] for row in rows] == ["scores", "explanations"]
    for row in rows:
        commit = commits[row["ledger_line"]]
        assert row["row_digest"] in commit["row_digests"]
        assert rows_digest(commit["row_digests"]) == of_line[row["ledger_line"]]["rows_digest"]
    for before, after in zip(lines, lines[1:], strict=False):
        assert json.loads(after)["previous"] == hashlib.sha256(before).hexdigest()
    anchor = json.loads(exported["anchors.json"])["MLflow"]
    assert anchor["seq"] == json.loads(lines[-1])["seq"]
    assert anchor["digest"] == hashlib.sha256(lines[-1]).hexdigest()


def test_a_zip_holds_the_same_and_equal_decisions_give_equal_bytes(store, exported, tmp_path):
    for name in ("one.zip", "more/one.zip"):
        export(store, image_id(2), tmp_path / name, store.ledger.head())
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "more" / "one.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {name.removeprefix("one/"): archive.read(name) for name in archive.namelist()} == exported


def test_lines_of_the_anchor_file_come_along_and_old_anchors_are_not_said_to_hold_the_rows(store, tmp_path):
    file, heads = AnchorFile(tmp_path / "heads.jsonl"), [line.head for line in store.ledger.lines()]
    for head in heads:
        file.append(head)
    done = export(store, image_id(6), tmp_path / "out", heads[2], tmp_path / "heads.jsonl")
    assert done.anchors == ("anchor file",)
    copied = [json.loads(line)["seq"] for line in (tmp_path / "out" / "anchor-file.jsonl").read_bytes().splitlines()]
    assert copied == [head.seq for head in heads[-done.lines :]]
    assert b"anchor-file.jsonl" in (tmp_path / "out" / "README.txt").read_bytes()


def test_what_is_there_already_is_left_alone_links_to_nowhere_included(store, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.zip").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link.zip").symlink_to(tmp_path / "elsewhere.zip")
    for name in ("folder", "file.zip", "link", "link.zip", "file.zip/below"):
        with pytest.raises(WrongUse, match="not overwritten"):
            export(store, image_id(2), tmp_path / name, None)
    assert (tmp_path / "file.zip").read_bytes() == b"mine"
    assert not list((tmp_path / "folder").iterdir())
    assert not list(tmp_path.glob("elsewhere*"))


def test_an_explainers_names_cannot_lead_out_of_the_folder(store, tmp_path):
    rows = explanations([8], explainer="../../../sparse")
    shown = rows.to_pylist()
    shown[0]["images"][0]["name"] = "/../../x"
    store.publish("explanations", type(rows).from_pylist(shown, schema=rows.schema), app="odd names")
    done = export(store, image_id(8), tmp_path / "deep" / "out", None)
    written = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*.png")}
    assert written == {("deep", "out")}
    assert done.pictures == len(list(done.path.rglob("*.png"))) == 5


def test_what_does_not_verify_is_not_handed_out(store, tmp_path):
    (path,) = [
        store.folder("explanations") / name
        for line in store.ledger.lines()
        if line.table == "explanations"
        for name in line.files
        if line.version == 1
    ]
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(AuditFailed, match="explanations.*gone or changed"):
        export(store, image_id(2), tmp_path / "out", None)
    assert not (tmp_path / "out").exists()
    export(store, image_id(6), tmp_path / "out", None)  # of another commit


def test_audit_export_says_where_it_wrote(store, tmp_path, monkeypatch):
    project_in(tmp_path, monkeypatch, store.ledger.head)
    monkeypatch.chdir(tmp_path)
    done = run("export", image_id(2)[:8])
    assert done.exit_code == 0, done.output
    assert f"decision-{image_id(2)[:12]}: 2 rows, 5 pictures" in done.output
    assert "held by MLflow" in done.output
    assert (Path(f"decision-{image_id(2)[:12]}") / "SHA256SUMS").is_file()
    assert run("export", image_id(2), "--to", "x.zip").exit_code == 0
    again = run("export", image_id(2), "--to", "x.zip").exception
    assert isinstance(again, WrongUse)
    assert again.exit_status == 2
