from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from tiny_store import MODEL, Store, training

from tests.checkout import PROJECT
from xadflow.cli.doctor import models as doctor_models
from xadflow.errors import BadWeights
from xadflow.models.places import left_behind, move_in, own_place
from xadflow.models.registry import Registry
from xadflow.models.service import put_in_service, roll_back
from xadflow.settings import Home


def moved(store: Store, to: Path) -> Registry:
    """A copy of the state, as `cp -r` makes it; the database still names the old place."""
    shutil.copytree(store.state, to / "var")
    return Registry(f"sqlite:///{to / 'var' / 'mlflow.db'}", to / "var" / "mlartifacts")


def rows(registry: Registry, query: str) -> list[str]:
    with closing(sqlite3.connect(registry.uri.removeprefix("sqlite:///"))) as database:
        return [str(one) for (one,) in database.execute(query)]


@pytest.mark.parametrize("name", ["neu er Ort, größer", "100%20done", "a#b", "mlartifacts", "日本"])
def test_a_copy_reads_its_own_files_and_writes_to_its_own_folder(store: Store, tmp_path: Path, name: str) -> None:
    registry = moved(store, tmp_path / name)
    root = registry.artifacts.resolve()
    assert registry.detector_folder(store.ref).is_relative_to(root)
    assert left_behind(registry.uri, registry.artifacts) == [str(store.registry.artifacts.resolve())]
    before = sorted(store.state.rglob("*"))
    small = {"params": {}, "metrics": {}, "history": [], "figures": {}, "tags": {"xadflow.training_key": "key-moved"}}
    made = registry.log_training(**training(store.saved, store.saved, **small))
    assert registry.detector_folder(made).is_relative_to(root)
    figure = next(root.rglob("roc.png"))
    assert len([one for one in root.rglob("roc.png") if one.read_bytes()]) == 1
    registry.log_explanations(store.ref, {"flip_rate": 0.9}, {"roc": figure})
    assert len(list(root.rglob("roc.png"))) == 2
    assert sorted(store.state.rglob("*")) == before  # nothing went to the old place
    assert left_behind(registry.uri, registry.artifacts) == []
    old = str(store.state.as_uri())
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("model_versions", "source")):
        assert not [one for one in rows(registry, f"select {column} from {table}") if one.startswith(old)], table


def test_reading_leaves_the_database_as_it_is(store: Store, tmp_path: Path) -> None:
    registry = moved(store, tmp_path / "copy")
    assert registry.detector_folder(registry.resolve(f"{MODEL}/1")).is_relative_to(tmp_path)
    assert left_behind(registry.uri, registry.artifacts)  # looking wrote nothing


def test_what_was_renamed_back_and_forth_is_found(store: Store, tmp_path: Path) -> None:
    registry = moved(store, tmp_path / "first")
    move_in(registry.uri, registry.artifacts)
    (tmp_path / "first").rename(tmp_path / "second")
    again = Registry(f"sqlite:///{tmp_path / 'second/var/mlflow.db'}", tmp_path / "second" / "var" / "mlartifacts")
    assert left_behind(again.uri, again.artifacts) == [str(registry.artifacts)]
    move_in(again.uri, again.artifacts)
    assert left_behind(again.uri, again.artifacts) == []
    assert again.detector_folder(store.ref).is_relative_to(tmp_path / "second")


def test_a_database_of_another_project_keeps_its_addresses(store: Store, tmp_path: Path) -> None:
    """Somebody looks at another project's database, by MLFLOW_TRACKING_URI, from a home of his own."""
    own = tmp_path / "auditor" / "mlartifacts"
    own.mkdir(parents=True)
    before = rows(store.registry, "select artifact_location from experiments")
    move_in(store.registry.uri, own)
    assert rows(store.registry, "select artifact_location from experiments") == before


def test_a_copy_without_its_files_promotes_and_rolls_back_to_nothing(
    store: Store, second_version: int, tmp_path: Path
) -> None:
    for version in (1, second_version):
        put_in_service(store.registry, MODEL, version)
    registry = moved(store, tmp_path / "copy")
    shutil.rmtree(registry.artifacts)
    for attempt in (lambda: roll_back(registry, MODEL), lambda: put_in_service(registry, MODEL, 1)):
        with pytest.raises(BadWeights, match=r"not below mlartifacts.*Next: .*copy them"):
            attempt()
    assert registry.champion(MODEL).version == second_version
    assert registry.find_trained(MODEL, "key-1") is None  # retrain makes a new one


def test_a_version_that_scores_no_finite_number_does_not_serve(
    store: Store, second_version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_service(store.registry, MODEL, 1)
    monkeypatch.setattr(type(store.detector), "load", lambda folder: type(store.detector)(store.detector.weight / 0))
    with pytest.raises(BadWeights, match="no finite score"):
        put_in_service(store.registry, MODEL, second_version)
    assert store.registry.champion(MODEL).version == 1


def test_a_link_out_of_the_artifacts_is_not_followed(tmp_path: Path) -> None:
    stranger, ours = tmp_path / "stranger", tmp_path / "var" / "mlartifacts"
    (stranger / "artifacts").mkdir(parents=True)
    (ours / "x" / "models").mkdir(parents=True)
    (ours / "x" / "models" / "m-1").symlink_to(stranger)
    assert own_place(ours / "x" / "models" / "m-1" / "artifacts", ours) is None
    assert own_place(stranger / "artifacts", ours) is None
    assert own_place(ours / "x" / ".." / ".." / ".." / "stranger" / "artifacts", ours) is None
    (ours / "x" / "models" / "m-2" / "artifacts").mkdir(parents=True)
    assert own_place(Path("/gone/x/models/m-2/artifacts"), ours) == ours.resolve() / "x/models/m-2/artifacts"
    assert own_place(Path("/gone/../../../models/m-2/artifacts"), ours) is None


def test_doctor_names_what_was_left_behind(store: Store, tmp_path: Path) -> None:
    registry = moved(store, tmp_path / "new place")
    home = Home(tmp_path / "new place", tmp_path / "new place" / "var")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (warned,) = doctor_models.moved(home)
        assert (warned.level, str(store.registry.artifacts) in warned.said) == ("warn", True)
        shutil.rmtree(home.mlflow_artifacts / "xad.tiny-set" / "models")
        (failed,) = doctor_models.moved(home)
        assert failed.level == "fail"
        assert f"{MODEL}/1" in failed.said
        assert str(store.registry.artifacts) in failed.mend
        subprocess.run(failed.mend, shell=True, check=True)  # as a person would paste it
        assert registry.detector_folder(store.ref).is_relative_to(home.state)
        move_in(home.mlflow_uri, home.mlflow_artifacts)
        assert list(doctor_models.moved(home)) == []
        (home.project / "src" / "xadflow").mkdir(parents=True)
        (other,) = doctor_models.moved(home)
        assert "not this checkout's" in other.said


@pytest.mark.parametrize(("made_in", "anew"), [("{here}/.venv", False), ("/old place/.venv", True), (None, False)])
def test_make_sets_a_moved_environment_up_anew(tmp_path: Path, made_in: str | None, anew: bool) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    if made_in:
        command = f"/usr/bin/python3.11 -m venv {made_in.format(here=tmp_path)}"
        (tmp_path / ".venv" / "pyvenv.cfg").write_text(f"home = /usr/bin\ncommand = {command}\n")
    (tmp_path / ".venv" / ".ready").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    said = subprocess.run(
        ["make", "-n", "setup"], cwd=tmp_path, env=kept, capture_output=True, text=True, check=True
    ).stdout
    assert ("rm -rf .venv" in said) == anew
