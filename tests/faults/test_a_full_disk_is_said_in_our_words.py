"""No room, or a read-only disk: one line that says so, nothing that the next run cannot complete."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from xadflow.cli import main as cli
from xadflow.errors import CannotWrite
from xadflow.evidence.ledger import Intent, Ledger

LINE = {"table": "scores", "version": 0, "rows_digest": "a" * 64, "files": {}, "log_entry": "b" * 64}


def test_a_line_of_the_ledger_that_had_no_room_is_completed_by_the_next_append(tmp_path, monkeypatch):
    real = os.write

    def half(stream, content):
        if len(content) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(stream, content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(CannotWrite, match="No space left.*Next: free some space"):
            Ledger(tmp_path).append(**LINE)
    after = Ledger(tmp_path)
    assert after.tail() != b""
    after.append(**LINE)
    assert after.verify() == []
    assert [line.version for line in after.lines()] == [0]


def test_an_intent_that_had_no_room_leaves_the_one_before(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    before = Intent("scores", 1, "app", "c" * 64)
    ledger.begin(before)

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(CannotWrite, match="Read-only file system"):
            ledger.begin(Intent("scores", 2, "app", "d" * 64))
    assert ledger.intent() == before


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make the folder writable"),
        (errno.EACCES, "give this user the right to read and write there"),
    ],
)
def test_a_command_that_any_library_ends_with_no_room_prints_one_line(monkeypatch, capsys, number, mend):
    def full(*_, **__):
        raise OSError(number, os.strerror(number), "/somewhere/report.html")

    monkeypatch.setattr(cli.cli, "main", full)
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert os.strerror(number) in line
    assert "report.html" in line
    assert f"Next: {mend}" in line


def test_another_os_error_is_a_bug_and_keeps_its_traceback(monkeypatch):
    def broken(*_, **__):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(cli.cli, "main", broken)
    with pytest.raises(OSError, match="Bad file"):
        cli.main(["explain"])
