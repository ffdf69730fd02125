"""What a command shows of long work where standard error is no terminal: a pipe, a file, CI."""

import logging
import re
import threading
import time
from datetime import UTC, datetime

import pytest

from xadflow import progress
from xadflow.progress import PartTimes, moment_text, progress_board, seconds_text, take_lock, track, waiting


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Seconds as hundredths of seconds, so that nothing has to be waited for."""
    for name, value in (("SHORT_S", 0.01), ("SHORT_WAIT_S", 0.05), ("SECONDS_BETWEEN_LINES", 0.1), ("_LOOK_S", 0.01)):
        monkeypatch.setattr(progress, name, value)


def lines(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""  # standard output belongs to the results
    return captured.err.splitlines()


def until_said(capsys, text: str) -> None:
    end = time.monotonic() + 20
    said = ""
    while text not in said:
        assert time.monotonic() < end, said
        said += capsys.readouterr().err
        time.sleep(0.01)


def test_a_piece_of_work_is_one_line_with_its_seconds_when_it_ends(capsys) -> None:
    with progress_board(), track("train fcdd on elpv") as update:
        update(1, 2, {})
        time.sleep(0.02)
    said = lines(capsys)
    assert len(said) == 1
    assert re.fullmatch(r"train fcdd on elpv \.\.\. 0\.\d s", said[0])


def test_what_takes_no_time_is_not_worth_a_line(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "SHORT_S", 60.0)
    with progress_board(), track("look"):
        pass
    assert lines(capsys) == []


def test_what_lasts_says_how_far_it_is(capsys) -> None:
    with progress_board(), track("train fcdd on elpv") as update:
        update(310, 900, {"loss": 0.4125})
        until_said(capsys, "s so far, 310 of 900 loss 0.4125\n")


def test_a_wait_says_what_it_waits_for_and_a_short_one_nothing(capsys) -> None:
    with progress_board():
        with waiting("a slot of the limit gpu"):
            pass
        assert lines(capsys) == []
        with waiting("a slot of the limit gpu"):
            until_said(capsys, "waiting for a slot of the limit gpu ... ")


def test_what_fails_is_said_to_have_failed(capsys) -> None:
    def broken() -> None:
        with progress_board(), track("gate"):
            time.sleep(0.02)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert re.fullmatch(r"gate \.\.\. failed after 0\.\d s", lines(capsys)[0])


def test_work_of_other_threads_is_said_too(capsys) -> None:
    def shard(number: int) -> None:
        with track(f"shard {number}"):
            time.sleep(0.02)

    with progress_board():
        threads = [threading.Thread(target=shard, args=(number,)) for number in range(2)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert sorted(line.split(" ...")[0] for line in lines(capsys)) == ["shard 0", "shard 1"]


def test_where_nobody_watches_it_goes_to_the_log(capsys, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="xadflow.progress"), track("train") as update:
        time.sleep(0.11)
        update(1, 2, {})
    assert lines(capsys) == []
    assert [record.message.split(" ... ")[0] for record in caplog.records] == ["train", "train"]


def test_a_part_counts_what_runs_side_by_side_once() -> None:
    times = PartTimes()
    both = threading.Barrier(2)

    def shard() -> None:
        with track("shard", "night"):
            both.wait(20)
            time.sleep(0.1)

    with progress_board(times):
        threads = [threading.Thread(target=shard) for _ in range(2)]
        started = time.monotonic()
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        passed = time.monotonic() - started
        with track("gate", "gate"):
            pass
    assert list(times.seconds) == ["night", "gate"]
    assert 0.1 <= times.seconds["night"][0] <= passed


def test_a_part_counts_the_processor_not_the_sleep() -> None:
    times = PartTimes()
    with progress_board(times):
        with track("sleep", "sleep"):
            time.sleep(0.3)
        with track("work", "work"):
            end = time.process_time() + 0.3
            while time.process_time() < end:
                pass
    assert times.seconds["sleep"][1] < 0.2
    assert times.seconds["work"][1] >= 0.25


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (312.4, "312 s")])
def test_seconds_have_a_digit_more_below_ten(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize("known", [None, "the run of somebody"])
def test_a_wait_goes_to_the_log_as_a_warning_where_nobody_watches(caplog, known: str | None) -> None:
    """A worker prints warnings only, and so does a bare command: without the line it seems to hang."""
    with waiting("a lock"):
        pass
    assert not caplog.records  # a short wait is not worth a line
    with waiting("a lock") as say:
        if known is not None:
            say(known)
        deadline = time.monotonic() + 20
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].message.startswith(f"waiting for {known or 'a lock'} ... ")
    assert caplog.records[0].message.endswith(" so far")


def test_who_waits_for_a_locked_file_says_for_whom_and_goes_on_when_it_is_free(tmp_path, capsys) -> None:
    path = tmp_path / "lock"
    done = threading.Event()

    def work() -> None:
        with path.open("a") as stream:
            take_lock(stream, "another run")
            done.set()

    with progress_board(), path.open("a") as held:
        take_lock(held, "nobody")
        thread = threading.Thread(target=work)
        thread.start()
        until_said(capsys, "waiting for another run ... ")
        assert not done.is_set()
        held.close()
        assert done.wait(20)
        thread.join()


def test_a_moment_is_told_by_this_machines_clock_with_its_offset(monkeypatch) -> None:
    moment = datetime(2026, 12, 1, 4, 5, 6, tzinfo=UTC)
    said = {}
    try:
        for zone in ("Europe/Berlin", "America/St_Johns", "UTC"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            said[zone] = moment_text(moment)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert said == {
        "Europe/Berlin": "2026-12-01 05:05:06 +0100",
        "America/St_Johns": "2026-12-01 00:35:06 -0330",
        "UTC": "2026-12-01 04:05:06 +0000",
    }
