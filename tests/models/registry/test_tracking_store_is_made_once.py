from __future__ import annotations

import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from xadflow.errors import RegistryUnavailable
from xadflow.models import tracking_store
from xadflow.models.registry import Registry


@pytest.fixture
def upgrades(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """MLflow's slow command replaced by what it leaves; the list says how often it ran."""
    ran: list[str] = []

    def make(uri: str) -> None:
        ran.append(uri)
        with closing(sqlite3.connect(tracking_store.sqlite_file(uri))) as database:
            database.execute("create table alembic_version (version_num text)")
            database.execute("insert into alembic_version values ('abc')")
            database.commit()

    monkeypatch.setattr(tracking_store, "_upgrade", make)
    return ran


def test_starters_that_race_create_the_database_once(tmp_path: Path, upgrades: list[str]) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'var' / 'mlflow.db'}", tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: registry.prepare(), range(8)))
    assert len(upgrades) == 1
    assert tracking_store.sqlite_revision(tmp_path / "var" / "mlflow.db") == "abc"


def test_a_creation_that_dies_leaves_no_half_database(
    tmp_path: Path, upgrades: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, good = f"sqlite:///{tmp_path / 'mlflow.db'}", tracking_store._upgrade

    def dies(uri: str) -> None:
        tracking_store.sqlite_file(uri).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking_store, "_upgrade", dies)
    with pytest.raises(KeyboardInterrupt):
        tracking_store.prepare_store(uri, tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    monkeypatch.setattr(tracking_store, "_upgrade", good)
    tracking_store.prepare_store(uri, tmp_path)
    assert len(upgrades) == 1


@pytest.mark.usefixtures("upgrades")
def test_an_empty_file_is_replaced_but_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    tracking_store.prepare_store(f"sqlite:///{path}", tmp_path)
    assert tracking_store.sqlite_revision(path) == "abc"
    path.write_text("shopping list")
    with pytest.raises(RegistryUnavailable, match=r"restore mlflow\.db from a backup; without one move it away"):
        tracking_store.prepare_store(f"sqlite:///{path}", tmp_path)
    assert path.read_text() == "shopping list"


def test_a_server_that_is_down_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound, not listening: refuses
        registry = Registry(f"http://ann:secret@127.0.0.1:{port}", tmp_path)
        with pytest.raises(RegistryUnavailable, match="make server") as down:
            registry.prepare()
    assert "secret" not in str(down.value) + repr(registry)
    assert down.value.transient


def test_a_database_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable, match="MLFLOW_TRACKING_URI"):
        tracking_store.prepare_store("nosuchdatabase://u:secret@host/mlflow", tmp_path)
