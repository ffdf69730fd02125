"""What a command only reads of the embedded store it gets without MLflow, and gets the same."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tiny_store import MODEL, Store

from xadflow.errors import BadWeights, NoChampion, UnknownName, WrongUse
from xadflow.models import lookup
from xadflow.models.lookup import champions, count_versions, find_detector, only_champion
from xadflow.models.registry import CHAMPION, Registry
from xadflow.models.tags import EXPLAINS_VERSION
from xadflow.models.tracking_store import sqlite_file, sqlite_revision


class Asked(Exception):
    """MLflow was asked."""


class Unasked(Registry):
    """A registry that MLflow must not be asked for."""

    @property
    def _client(self) -> object:
        raise Asked


@pytest.fixture
def unasked(store: Store) -> Registry:
    return Unasked(store.registry.uri, store.registry.artifacts)


def test_the_schema_that_is_looked_at_is_that_of_the_locked_mlflow(store: Store) -> None:
    assert sqlite_revision(sqlite_file(store.registry.uri)) == lookup.SCHEMA


@pytest.mark.parametrize("which", ["/1", "@champion", "@challenger", "/{second}"])
def test_a_version_is_the_one_that_mlflow_names(
    store: Store, unasked: Registry, second_version: int, which: str
) -> None:
    store.registry.set_alias(MODEL, CHAMPION, second_version)
    store.registry.set_alias(MODEL, "challenger", 1)
    spec = f"{MODEL}{which.format(second=second_version)}"
    ref, folder = find_detector(unasked, spec)
    expected = store.registry.resolve(spec)
    assert (ref, folder) == (expected, store.registry.detector_folder(expected))
    assert champions(unasked) == champions_of(store) == {MODEL: second_version}
    assert count_versions(unasked, "tiny-set") == {MODEL: 2}
    assert count_versions(unasked, "tiny") == {}
    assert only_champion(unasked, ["tiny-set", "other"], "other") == f"{MODEL}@champion"


def champions_of(store: Store) -> dict[str, int]:
    return store.registry.carrying(CHAMPION)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (f"{MODEL}/99", UnknownName),
        (f"{MODEL}@champion", NoChampion),
        ("xad.none.fcdd@champion", NoChampion),
        (f"{MODEL}' or 1=1 --/1", WrongUse),
        ("", WrongUse),
    ],
)
def test_what_is_not_there_is_mlflows_to_say(store: Store, spec: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        find_detector(store.registry, spec)


def test_a_deleted_version_and_an_explainer_are_mlflows_to_answer(
    store: Store, unasked: Registry, second_version: int
) -> None:
    store.registry.tag(MODEL, second_version, EXPLAINS_VERSION, "1")
    with pytest.raises(Asked):
        find_detector(unasked, f"{MODEL}/{second_version}")
    client = store.registry._client
    gone = client.create_model_version(MODEL, client.get_model_version(MODEL, "1").source, store.ref.run_id)
    client.delete_model_version(MODEL, gone.version)
    with pytest.raises(Asked):
        find_detector(unasked, f"{MODEL}/{gone.version}")


@pytest.fixture
def copied(store: Store, tmp_path: Path) -> Registry:
    """The store in a place of its own, where MLflow must not be asked."""
    shutil.copytree(store.state, tmp_path / "var")
    return Unasked(f"sqlite:///{tmp_path / 'var' / 'mlflow.db'}", tmp_path / "var" / "mlartifacts")


def change(registry: Registry, statement: str) -> None:
    with closing(sqlite3.connect(sqlite_file(registry.uri))) as database:
        database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "update alembic_version set version_num = 'ffffffffffff'",
        "drop table model_version_tags",
        "update model_versions set storage_location = null, source = 's3://bucket/model'",
        "update model_versions set workspace = 'another'",
    ],
)
def test_what_is_not_known_here_is_left_to_mlflow(copied: Registry, statement: str) -> None:
    assert find_detector(copied, f"{MODEL}/1")[0].version == 1  # a moved store: its own files are found
    change(copied, statement)
    with pytest.raises(Asked):
        find_detector(copied, f"{MODEL}/1")


@pytest.mark.parametrize("fault", ["changed", "missing", "elsewhere", "no digests"])
def test_files_are_checked_whoever_said_where_they_are(copied: Registry, tmp_path: Path, fault: str) -> None:
    _, folder = find_detector(copied, f"{MODEL}/1")
    assert folder.is_relative_to(tmp_path)
    if fault == "changed":
        (folder / "weights.safetensors").write_bytes(b"other")
    elif fault == "missing":
        (folder / "weights.safetensors").unlink()
    elif fault == "elsewhere":
        change(copied, "update model_versions set storage_location = null, source = 'file:///tmp/strangers/model'")
    else:
        change(copied, "delete from model_version_tags where key = 'xadflow.files'")
    with pytest.raises(BadWeights):
        find_detector(copied, f"{MODEL}/1")


def test_without_a_store_none_is_made(tmp_path: Path) -> None:
    nowhere = Unasked(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts")
    assert champions(nowhere) == count_versions(nowhere, "elpv") == {}
    with pytest.raises(NoChampion, match="xadflow retrain --dataset elpv"):
        only_champion(nowhere, ["elpv"], "elpv")
    assert list(tmp_path.iterdir()) == []


def test_several_champions_are_named_and_those_of_no_data_set_do_not_count(
    unasked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = {"xad.elpv.fcdd": 1, "xad.screws.fcdd": 2, "xad.screws.padim": 1, "xad.gone.fcdd": 1}
    monkeypatch.setattr(lookup, "champions", lambda _: serving)
    with pytest.raises(WrongUse) as refused:
        only_champion(unasked, ["elpv", "screws"], "elpv")
    assert "xad.elpv.fcdd@champion, xad.screws.fcdd@champion, xad.screws.padim@champion" in str(refused.value)
    assert "--model xad.elpv.fcdd@champion" in str(refused.value)
    assert only_champion(unasked, ["elpv"], "elpv") == "xad.elpv.fcdd@champion"
    with pytest.raises(NoChampion):
        only_champion(unasked, ["bolts"], "bolts")


def test_no_module_of_mlflow_is_loaded(store: Store) -> None:
    code = (
        "import sys; from pathlib import Path; from xadflow.models.lookup import *; "
        f"print(find_detector(Registry({store.registry.uri!r}, Path({str(store.registry.artifacts)!r})), '{MODEL}/1'));"
        "print(sorted({'mlflow', 'sqlalchemy', 'pandas', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
