from pathlib import Path

from server_logs import tracebacks

LOCKED = """17:48:21.261 | ERROR   | docket - monitor_worker_health()
Traceback (most recent call last):
  File "sqlalchemy/engine/base.py", line 1967, in _exec_single_context
    self.dialect.do_execute(
sqlite3.OperationalError: database is locked

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "docket/worker.py", line 12, in run
    await task()
sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database is locked
[SQL: INSERT INTO worker]
"""
OTHER = """Traceback (most recent call last):
  File "scheduler.py", line 3, in schedule
    insert()
sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement
"""
FRAMED = """╭───────────── Traceback (most recent call last) ─────────────╮
│ cli.py:12 in run                                             │
╰──────────────────────────────────────────────────────────────╯
OperationalError: (sqlite3.OperationalError) no such table: flow
"""


def found(tmp_path: Path, text: str) -> list[tuple[int, bool]]:
    log = tmp_path / "server.log"
    log.write_text(text)
    return [(one.line, one.is_locked_database) for one in tracebacks(log)]


def test_a_locked_database_is_told_from_everything_else(tmp_path: Path) -> None:
    assert found(tmp_path, LOCKED) == [(2, True), (9, True)]
    assert found(tmp_path, OTHER) == [(1, False)]
    assert found(tmp_path, FRAMED) == [(1, False)]
    assert found(tmp_path, OTHER + LOCKED) == [(1, False), (6, True), (13, True)]


def test_a_traceback_that_only_mentions_a_lock_in_its_source_lines_is_not_forgiven(tmp_path: Path) -> None:
    text = OTHER.replace("insert()", 'raise Error("sqlite3.OperationalError database is locked")')
    assert found(tmp_path, text) == [(1, False)]


def test_a_traceback_without_an_end_is_not_forgiven(tmp_path: Path) -> None:
    assert found(tmp_path, LOCKED.splitlines()[1] + "\n  File x\n") == [(1, False)]


def test_a_log_without_tracebacks_has_none(tmp_path: Path) -> None:
    assert found(tmp_path, "17:48 | INFO | ready\n") == []
