"""`dvc repro` in a child: its stages are pieces of work, and what it said of a failure is handed on."""

import contextlib
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.checkout import PROJECT
from xadflow import progress
from xadflow.datasets import reproducing
from xadflow.datasets.reproducing import reproduce
from xadflow.errors import CannotWrite, StageFailed
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
def dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A project in which `python -m dvc` runs the given code."""
    monkeypatch.setattr(reproducing, "PAUSES_S", (0.01,))

    def make(code: str) -> Path:
        (tmp_path / "dvc").mkdir()
        for name in ("params.yaml", "dvc.yaml"):  # looked at before any work
            shutil.copy(PROJECT / name, tmp_path)
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


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: Unable to acquire lock. Most likely another DVC process is running",
        "ERROR: '/p/data/a' is busy, it is being blocked by: (PID 1): dvc repro",
        "ERROR: unable to read: 'dvc.lock', YAML file structure is corrupted",
        "ERROR: Lockfile 'dvc.lock' is corrupted.",
        "yaml.scanner.ScannerError: while scanning a simple key in dvc.lock",
    ],
)
def test_another_dvc_that_is_at_work_is_waited_for(dvc, said: str) -> None:
    """The first attempt meets it, the second does not."""
    code = f"""
if not os.path.exists("met"):
    open("met", "w").close()
    print({said!r}, flush=True)
    sys.exit(255)
"""
    project = dvc(code)
    reproduce(project, "validate@plates")
    assert (project / "met").exists()


def test_two_of_ours_take_turns(dvc) -> None:
    """Neither sees the other at work."""
    project = dvc("import time\nopen('busy', 'x').close()\ntime.sleep(0.2)\nos.unlink('busy')\n")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: reproduce(project, "validate@plates"), range(3)))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("ERROR: unexpected error - [Errno 28] No space left on device: '/p/.dvc/tmp/a'", "the disk is full"),
        ("sqlite3.OperationalError: database or disk is full", "the disk is full"),
        ("ERROR: [Errno 30] Read-only file system: 'dvc.lock'", "read-only"),
        ("sqlite3.OperationalError: attempt to write a readonly database", "read-only"),
        ("ERROR: [Errno 13] Permission denied: '/p/.dvc/tmp/lock'", "may not be used by this user"),
    ],
)
def test_a_disk_that_cannot_be_written_is_said_without_dvcs_advertisement(dvc, said: str, words: str) -> None:
    advertisement = "Having any troubles? Hit us up at https://dvc.org/support, we are always happy to help!"
    with pytest.raises(CannotWrite) as failed:
        reproduce(dvc(f"print({said!r}); print(); print({advertisement!r}); sys.exit(255)\n"), "validate@plates")
    assert words in str(failed.value)
    assert "\n" not in str(failed.value)
    assert "dvc.org" not in str(failed.value)


def test_the_advertisement_is_left_out_of_any_failure(dvc) -> None:
    code = "print('ERROR: it broke'); print('Having any troubles? Hit us up at https://dvc.org/support'); sys.exit(1)\n"
    with pytest.raises(StageFailed) as failed:
        reproduce(dvc(code), "validate@plates")
    assert failed.value.seen == "ERROR: it broke"


def test_who_is_interrupted_ends_the_stage_too(dvc, monkeypatch) -> None:
    """DVC's own child would go on, and hold DVC's locks."""
    code = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('child', 'w').write(str(child.pid))\n"
        "print('checking images of plates ... 15 s so far, 3 of 20', flush=True)\n"
        "child.wait()\n"
    )
    project = dvc(code)

    class Asked(Exception):
        pass

    def update(*_: object) -> None:
        raise Asked

    monkeypatch.setattr(reproducing, "track", lambda *_: contextlib.nullcontext(update))
    with pytest.raises(Asked):
        reproduce(project, "validate@plates")
    child = int((project / "child").read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
