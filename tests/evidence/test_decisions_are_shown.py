from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from evidence_rows import MODEL, explanation_row, image_id, publish_shard, store_in

from tests.checkout import PROJECT
from xadflow.cli import audit as audit_commands
from xadflow.errors import AuditFailed, StoreBroken, UnknownName, WrongUse
from xadflow.evidence import decisions
from xadflow.images import decode_png

PARAMS = PROJECT / "params.yaml"


@pytest.fixture
def store(tmp_path):
    store = store_in(tmp_path / "var")
    store.prepare()
    publish_shard(store, range(4))
    return store


def project_in(folder: Path, monkeypatch, head) -> None:
    """Make a folder a project with this project's settings; MLflow's anchor is what `head()` gives."""
    shutil.copy(PARAMS, folder)
    (folder / "dvc.yaml").touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(folder))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    monkeypatch.setattr(audit_commands, "_anchored_head", lambda home: head())


@pytest.fixture
def project(store, tmp_path, monkeypatch):
    """A project around the store, anchored."""
    project_in(tmp_path, monkeypatch, store.ledger.head)
    return store


def test_an_image_is_found_by_the_beginning_of_its_id(store):
    assert decisions.find_image(store, image_id(2)[:6].upper()) == image_id(2)
    for wrong, error in (("abc", WrongUse), ("xyzxyz", WrongUse), ("0" * 64, UnknownName)):
        with pytest.raises(error):
            decisions.find_image(store, wrong)


def test_a_beginning_of_several_ids_is_refused(store, monkeypatch):
    monkeypatch.setattr(decisions, "SHORTEST_PREFIX", 0)
    with pytest.raises(UnknownName, match="several images.*more digits"):
        decisions.find_image(store, "")


def test_shown_rows_are_plain_and_tell_pictures_by_size(store):
    rows = decisions.show(store, image_id(2))
    assert [row["table"] for row in rows] == ["scores", "explanations"]
    size = len(explanation_row(2)["heatmap"]["bytes"])
    assert rows[1]["heatmap"] == f"PNG 8x8, {size} bytes"
    assert rows[1]["counterfactuals"][0]["image"].startswith("PNG 8x8")
    assert rows[1]["lineage"] == {"seed": 0, "weights": "abc"}
    assert rows[0]["run_date"] == "2026-11-21"
    json.dumps(rows)


def test_exported_pictures_are_the_stored_ones(store, tmp_path):
    written = decisions.export_images(store, image_id(2), tmp_path / "out")
    assert sorted(path.name for path in written) == [
        "counterfactual-00-concept-0.png",
        "counterfactual-01-concept-1.png",
        "heatmap.png",
        "image-00-class_map.png",
        "original.png",
    ]
    assert {path.parent.name for path in written} == {f"{MODEL}-v3-sparse-v1"}
    for path in written:
        assert decode_png(path.read_bytes()).shape == (1, 8, 8)
    assert (tmp_path / "out" / f"{MODEL}-v3-sparse-v1" / "original.png").read_bytes() == explanation_row(2)["original"][
        "bytes"
    ]


def test_an_explainers_names_cannot_leave_the_folder():
    assert decisions.safe_name("../../etc/pass wd") == "_.._etc_pass_wd"
    assert decisions.safe_name("..") == "_"


def run(*arguments: str):
    return CliRunner().invoke(audit_commands.audit, list(arguments))


def test_audit_verify_says_what_it_checked(project):
    result = run("verify")
    assert result.exit_code == 0, result.output
    assert "4 commits, 6 rows recomputed" in result.output
    assert "the evidence verifies" in result.output
    found = json.loads(run("verify", "--json").stdout)
    assert found["ok"] is True
    assert found["rows"] == 6
    assert json.loads(run("verify", "--since-anchor", "--json").stdout)["rows"] == 0


def test_audit_verify_fails_and_names_what_differs(project):
    (project.folder("scores") / "_delta_log" / f"{1:020d}.json").unlink()
    result = run("verify")
    assert isinstance(result.exception, AuditFailed)
    assert result.exception.exit_status == 1
    assert "scores commit 1: the commit was removed" in result.output
    found = json.loads(run("verify", "--json").stdout)
    assert found["ok"] is False
    assert {"table": "scores", "version": 1} == {key: found["problems"][0][key] for key in ("table", "version")}


def test_audit_show_prints_rows_and_writes_pictures(project, tmp_path):
    result = run("show", image_id(2)[:8], "--images", str(tmp_path / "pictures"))
    assert result.exit_code == 0, result.output
    assert "counterfactuals:" in result.output
    assert "5 pictures" in result.output
    rows = [json.loads(line) for line in run("show", image_id(2), "--json").stdout.splitlines()]
    assert [row["table"] for row in rows] == ["scores", "explanations"]


def test_before_the_first_night_the_next_step_is_named(tmp_path, monkeypatch):
    project_in(tmp_path, monkeypatch, lambda: None)
    for arguments in (["verify"], ["show", "abcdef"]):
        error = run(*arguments).exception
        assert isinstance(error, StoreBroken)
        assert "xadflow explain" in error.next_step
