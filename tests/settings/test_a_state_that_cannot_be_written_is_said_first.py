"""Read-only, another user's or full: one line that names the folder, before a server or a database is asked."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from pathlib import Path

import pytest

from tests.checkout import PROJECT
from xadflow.cli.main import main
from xadflow.errors import CannotWrite, WorkFailed, no_room
from xadflow.models.registry import Registry
from xadflow.settings import Home, check_writable
from xadflow.settings.environment import quiet_environment

UNWRITABLE = "/sys"  # nobody may make a file there, root neither
COMMANDS = (
    "explain --dataset elpv",
    "retrain --dataset elpv",
    "models rollback xad.elpv.fcdd",
    "models promote xad.elpv.fcdd 1",
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    for name in ("XADFLOW_HOME", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_writes_says_that_it_cannot(project, monkeypatch, capsys, command: str) -> None:
    monkeypatch.setenv("XADFLOW_HOME", UNWRITABLE)
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("xadflow: sys/ is not writable; got ")
    assert "Next: make it writable for this user" in line


def test_what_only_looks_works_all_the_same(project, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XADFLOW_HOME", UNWRITABLE)
    with pytest.raises(SystemExit) as ended:
        main(["data", "--help"])
    assert ended.value.code == 0
    quiet_environment(Home.find())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "var/ is full: there is no room on its disk"),
        (errno.EDQUOT, "var/ is full: there is no room on its disk"),
        (errno.EROFS, "var/ is not writable"),
        (errno.EACCES, "var/ is not writable"),
        (errno.EPERM, "var/ is not writable"),
    ],
)
def test_each_reason_has_its_words(project, monkeypatch, number: int, words: str) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(CannotWrite) as failed:
        check_writable(Home.find())
    assert str(failed.value).startswith(f"{words}; got {os.strerror(number)!r}. Next: ")


def test_a_database_that_is_read_only_is_named(project, monkeypatch) -> None:
    (project / "var").mkdir()
    (project / "var" / "mlflow.db").touch()
    real = os.open

    def guarded(path: object, flags: int, *more: int, **named: int) -> int:
        if str(path).endswith("mlflow.db"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", guarded)
    with pytest.raises(CannotWrite, match="var/mlflow.db is not writable; got 'Permission denied'"):
        check_writable(Home.find())


def test_one_that_can_be_written_is_left_as_it_was(project) -> None:
    check_writable(Home.find())
    assert list((project / "var").iterdir()) == []


def caused(cause: Exception) -> Exception:
    """As libraries raise it: their own error, from another, from the system's."""
    found = WorkFailed("a request failed", seen="500", next_step="again")
    middle = RuntimeError("in the middle")
    middle.__cause__ = cause
    found.__context__ = middle
    return found


def read_only_sqlite(folder: Path) -> Exception:
    path = folder / "a.db"
    sqlite3.connect(path).close()
    path.touch()
    with pytest.raises(sqlite3.OperationalError) as failed:
        sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True).execute("create table a (b)")
    return failed.value


@pytest.mark.parametrize("deep", [False, True])
def test_whoever_met_it_it_is_recognised(tmp_path: Path, deep: bool) -> None:
    for err, words in (
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/b.parquet"), "No space left on device: b.parquet"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system"),
        (sqlite3.OperationalError("database or disk is full"), "database or disk is full"),
        (read_only_sqlite(tmp_path), "attempt to write a readonly database"),
        (ExceptionGroup("two", [ValueError(), OSError(errno.EDQUOT, "Disk quota exceeded")]), "Disk quota exceeded"),
    ):
        found = no_room(caused(err) if deep else err)
        assert isinstance(found, CannotWrite), err
        assert words in str(found)


@pytest.mark.parametrize("err", [OSError(errno.EBADF, "Bad file"), ValueError("room"), FileNotFoundError("x"), "fine"])
def test_nothing_else_is_taken_for_it(err: Exception | str) -> None:
    assert no_room(err) is None


def test_mlflows_own_refusal_is_said_in_our_words(tmp_path: Path) -> None:
    """MLflow prints the statement and all its parameters."""
    from mlflow.exceptions import MlflowException

    said = "(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: UPDATE registered_models SET x=?]"
    found = Registry("sqlite:///a.db", tmp_path)._unavailable(MlflowException(said))
    assert isinstance(found, CannotWrite)
    assert "attempt to write a readonly database" in str(found)
    assert "SQL:" not in str(found)
