from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_store import MODEL, Store

from xadflow.cli.models import models
from xadflow.errors import NoChampion, UnknownName, WrongUse
from xadflow.models.service import roll_back
from xadflow.models.tags import GATE
from xadflow.models.tracking_store import pages_at
from xadflow.progress import moment_text


@pytest.fixture
def project(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.setenv("XADFLOW_HOME", str(store.state))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(models, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_no_champion_says_which_command_makes_one(store: Store) -> None:
    with pytest.raises(
        NoChampion, match=r"no version of xad\.elpv\.fcdd .* Next: run `xadflow retrain --dataset elpv`"
    ):
        store.registry.champion("xad.elpv.fcdd")
    with pytest.raises(NoChampion, match="models promote"):
        store.registry.champion(MODEL)


def test_an_alias_moves_and_resolves(store: Store, second_version: int) -> None:
    registry = store.registry
    assert registry.alias(MODEL, "challenger") is None
    registry.set_alias(MODEL, "challenger", 1)
    registry.set_alias(MODEL, "challenger", second_version)
    assert registry.resolve(f"{MODEL}@challenger").version == second_version
    assert registry.resolve(f"{MODEL}/1") == store.ref


def test_rollback_goes_to_the_previous_champion_and_back(store: Store, second_version: int) -> None:
    registry = store.registry
    registry.set_alias(MODEL, "champion", 1)
    with pytest.raises(NoChampion, match="no earlier champion"):
        roll_back(registry, MODEL)
    registry.set_alias(MODEL, "champion", second_version)
    registry.set_alias(MODEL, "champion", second_version)  # again: nothing to remember
    assert roll_back(registry, MODEL).version == 1
    assert registry.champion(MODEL).version == 1
    assert roll_back(registry, MODEL).version == second_version


def test_an_alias_is_not_given_to_a_version_that_is_not_there(store: Store) -> None:
    with pytest.raises(UnknownName, match="models list"):
        store.registry.set_alias(MODEL, "champion", 99)


@pytest.mark.parametrize("spec", [MODEL, f"{MODEL}/", f"{MODEL}@", f"{MODEL}/x", "a/b/1", "a:b@champion", "@champion"])
def test_a_spec_of_another_form_is_refused(store: Store, spec: str) -> None:
    with pytest.raises(WrongUse):
        store.registry.resolve(spec)


def test_a_tag_is_seen_by_the_next_reader(store: Store, second_version: int) -> None:
    store.registry.tag(MODEL, second_version, GATE, "passed")
    assert store.registry.resolve(f"{MODEL}/{second_version}").tags[GATE] == "passed"
    (listed,) = [one for one in store.registry.models() if one.name == MODEL]
    assert [one.verdict for one in listed.versions] == ["passed", ""]


@pytest.mark.usefixtures("project")
def test_the_commands_promote_list_compare_and_roll_back(store: Store, second_version: int) -> None:
    run("promote", MODEL, "1")
    assert f"version {second_version}, was 1" in run("promote", MODEL, str(second_version))
    rows = [json.loads(line) for line in run("list", "--json").splitlines()]
    assert [(row["version"], row["aliases"]) for row in rows] == [(second_version, ["champion"]), (1, [])]
    assert rows[0]["figures"]["test.auroc"] == 0.91
    said = run("list")
    assert MODEL in said
    created = datetime.fromisoformat(rows[0]["created"])
    assert created.utcoffset() == timedelta(0)  # what programs read is UTC
    assert moment_text(created) in said
    figures = json.loads(run("compare", f"{MODEL}@champion", f"{MODEL}/1", "--json"))
    assert figures["test.auroc"] == {"a": 0.91, "b": 0.91, "kind": "figure"}
    store.registry.log_metrics(store.ref.run_id, {"fit.seconds": 3.25, "fit.head_s": 1.5, "fit.steps": 7.0})
    figures = json.loads(run("compare", f"{MODEL}@champion", f"{MODEL}/1", "--json"))
    assert {name for name, one in figures.items() if one["kind"] == "time"} == {"fit.seconds", "fit.head_s"}
    said = run("compare", f"{MODEL}@champion", f"{MODEL}/1")
    quality, timing = said.split("time (s)")
    assert "test.auroc" in quality
    assert "fit.steps" in quality
    assert "3.25" not in quality
    assert "fit.head_s" in timing
    assert "test." not in timing
    assert "version 1 again" in run("rollback", MODEL)


def test_nightly_figures_stand_below_the_training_run(store: Store, tmp_path: Path) -> None:
    sheet = tmp_path / "worst.png"
    sheet.write_bytes(b"\x89PNG")
    run_id = store.registry.log_explanations(store.ref, {"flip_rate": 0.97}, {"worst": sheet})
    found = store.registry._client.get_run(run_id)
    assert found.data.metrics == {"flip_rate": 0.97}
    assert found.info.status == "FINISHED"
    assert found.data.tags["mlflow.parentRunId"] == store.ref.run_id
    assert found.data.tags["xadflow.model_version"] == "1"
    store.registry.log_metrics(store.ref.run_id, {"gate.auroc": 0.9})
    assert store.registry.figures(store.ref)["gate.auroc"] == 0.9


class Healthy(BaseHTTPRequestHandler):
    """MLflow's server, as far as it is asked."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def test_a_run_is_linked_only_where_its_page_is_up(store: Store) -> None:
    run_id, named = store.ref.run_id, store.state / "server.json"
    silent = f"run {run_id}; `make server` shows it"
    assert store.registry.run_link(store.ref) == silent
    try:
        for text in ("", "[]", "not JSON", '{"mlflow": null}', '{"mlflow": "http://127.0.0.1:1"}'):
            named.write_text(text)
            assert store.registry.run_link(store.ref) == silent, text
        with HTTPServer(("127.0.0.1", 0), Healthy) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            address = f"http://127.0.0.1:{server.server_port}"
            named.write_text(json.dumps({"mlflow": address}))
            found = store.registry.run_link(store.ref)
            server.shutdown()
            thread.join()
        assert found.startswith(f"{address}/#/experiments/")
        assert found.endswith(f"/runs/{run_id}")
    finally:
        named.unlink()


def test_a_link_holds_no_login() -> None:
    assert pages_at("https://ann:secret@mlflow.example.org:5000/") == "https://mlflow.example.org:5000"
    assert pages_at("postgresql://ann:secret@db/mlflow") is None
