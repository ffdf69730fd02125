"""`dvc repro` in a child: its stages are pieces of work, and what it said of a failure is handed on."""

import sys
from pathlib import Path

import pytest

from xadflow import progress
from xadflow.datasets.reproducing import reproduce
from xadflow.errors import StageFailed
from xadflow.progress import PartTimes, progress_board

CHATTER = """
print("Running stage 'origin@plates':", flush=True)
print("> xadflow data origin plates", flush=True)
print("Running stage 'images@plates':", flush=True)
print("> xadflow data images plates", flush=True)
print("checking images of plates ... 15 s so far, 300 of 2000", flush=True)
print("checking images of plates ... 31 s", flush=True)
"""


@pytest.fixture
def dvc(tmp_path: Path):
    """A project in which `python -m dvc` runs the given code."""

    def make(code: str) -> Path:
        (tmp_path / "dvc").mkdir()
        (tmp_path / "dvc" / "__init__.py").touch()  # goes before the installed one, which a folder without it would not
        (tmp_path / "dvc" / "__main__.py").write_text("import os, sys\n" + code)
        return tmp_path

    return make


def test_each_stage_is_a_piece_of_work_of_its_own(dvc, capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "SHORT_S", 0.0)
    times = PartTimes()
    with progress_board(times):
        reproduce(dvc(CHATTER), "validate@plates")
    said = [line.split(" ...")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["data set plates: what changed", "data set plates: origin", "data set plates: images"]
    assert list(times.seconds) == ["data"]


def test_how_far_a_stage_is_reaches_the_person(dvc, capsys, monkeypatch) -> None:
    for name, value in (("SECONDS_BETWEEN_LINES", 0.05), ("_LOOK_S", 0.01)):
        monkeypatch.setattr(progress, name, value)
    with progress_board():
        reproduce(dvc(CHATTER + "import time; time.sleep(1)\n"), "validate@plates")
    assert "s so far, 300 of 2000\n" in capsys.readouterr().err


def test_what_a_stage_notes_reaches_the_person_though_all_went_well(dvc, caplog) -> None:
    with caplog.at_level("WARNING", "xadflow"):
        reproduce(dvc(CHATTER + "print('note: the folder is not there', file=sys.stderr)\n"), "validate@plates")
    assert [one.message for one in caplog.records] == ["the folder is not there"]


def test_a_failure_says_what_the_failing_stage_said_and_no_chatter(dvc) -> None:
    code = CHATTER + "print('xadflow: no image can be used', file=sys.stderr, flush=True)\nsys.exit(1)\n"
    with pytest.raises(StageFailed) as failed:
        reproduce(dvc(code), "validate@plates")
    assert failed.value.seen == "xadflow: no image can be used"
    assert "dvc repro validate@plates" in failed.value.next_step


@pytest.mark.parametrize(
    ("code", "is_transient"),
    [
        ("os.kill(os.getpid(), 9)", True),
        ("sys.exit(1)", False),
        ("print('validation failed'); sys.exit(1)", False),
        ("print(\"'manifest@plates' is busy\"); sys.exit(255)", True),
    ],
)
def test_a_stage_that_a_signal_ended_or_that_met_another_dvc_is_tried_again(dvc, code: str, is_transient: bool) -> None:
    with pytest.raises(StageFailed) as failed:
        reproduce(dvc(code), "validate@plates")
    assert failed.value.transient is is_transient


def test_the_child_is_this_interpreter(dvc) -> None:
    reproduce(dvc(f"assert sys.executable == {sys.executable!r}, sys.executable\n"), "validate@plates")
