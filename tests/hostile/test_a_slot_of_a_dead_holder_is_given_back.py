"""Who waits for a slot of a limit says for whom, takes what a dead holder left, and robs no living one."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.settings import PREFECT_HOME

from tasks import slots
from tasks.slots import Holder, slot
from xadflow import stopping
from xadflow.errors import Stopped
from xadflow.progress import moment_text, progress_board

pytestmark = [pytest.mark.slow, pytest.mark.server]

SOON_S = 60.0
DEAD = Holder(
    "", 4_000_000, "here", "xadflow retrain", "train fcdd on screws, seed 0", "2026-01-05T01:02:03+00:00", True
)


@pytest.fixture
def limit(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A limit of one slot of a test's own, in a project of its own."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    for name in ("XADFLOW_HOME", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(slots, "PAUSE_S", 0.05)
    name = f"limit-{uuid4().hex[:8]}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, limit=1)
        yield name
        client.delete_global_concurrency_limit_by_name(name)


def active(limit: str) -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(limit).active_slots


def lease(limit: str, holder: UUID) -> Path:
    """Take the slot as a holder does; returns the file of the lease."""
    with get_client(sync_client=True) as client:
        given = client.increment_concurrency_slots_with_lease(
            [limit], 1, "concurrency", slots.LEASE_S, ConcurrencyLeaseHolder(type="task_run", id=holder)
        )
    assert active(limit) == 1
    path = PREFECT_HOME.value() / "concurrency_leases" / f"{given.json()['lease_id']}.json"
    assert path.exists()
    return path


def record(limit: str, holder: UUID, text: str | None = None) -> Path:
    path = slots._holders() / f"{holder}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(replace(DEAD, limit=limit))) if text is None else text)
    return path


def killed(limit: str) -> None:
    """Its record is there, and nobody has locked it any more."""
    holder = uuid4()
    record(limit, holder)
    lease(limit, holder)


def killed_while_it_wrote(limit: str) -> None:
    holder = uuid4()
    record(limit, holder, '{"limit": "gp')
    lease(limit, holder)


def killed_of_another_version(limit: str) -> None:
    """One that kept no record, long ago."""
    path = lease(limit, uuid4())
    path.write_text(json.dumps({**json.loads(path.read_text()), "expiration": "2026-01-05T00:00:00+00:00"}))


def killed_before_its_lease(limit: str) -> None:
    """Between the slot and the lease: nothing names it."""
    with get_client(sync_client=True) as client:
        client.increment_concurrency_slots([limit], 1, "concurrency")
    assert active(limit) == 1


@pytest.mark.parametrize("die", [killed, killed_while_it_wrote, killed_of_another_version, killed_before_its_lease])
def test_what_a_dead_holder_left_is_taken(limit: str, die: Callable[[str], None]) -> None:
    die(limit)
    started = time.monotonic()
    with slot(limit):
        assert active(limit) == 1
    assert time.monotonic() - started < SOON_S
    assert active(limit) == 0
    assert list(slots._holders().iterdir()) == []


def test_a_living_holder_keeps_its_slot_and_is_named(limit: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr("xadflow.progress.SHORT_WAIT_S", 0.0)
    monkeypatch.setattr("xadflow.progress._LOOK_S", 0.01)
    monkeypatch.setattr("xadflow.progress.SECONDS_BETWEEN_LINES", 0.05)
    holder = uuid4()
    path, said = record(limit, holder), ""
    got = threading.Event()

    def wait() -> None:
        with slot(limit):
            got.set()

    stream = os.open(path, os.O_RDWR)
    fcntl.flock(stream, fcntl.LOCK_EX)
    lease_file = lease(limit, holder)
    # its renewals are late: that alone is no death
    lease_file.write_text(json.dumps({**json.loads(lease_file.read_text()), "expiration": "2026-01-05T00:00:00+00:00"}))
    with progress_board():
        thread = threading.Thread(target=copy_context().run, args=(wait,))  # Prefect's settings are in it
        thread.start()
        deadline = time.monotonic() + SOON_S
        while "held by" not in said and time.monotonic() < deadline:
            said += capsys.readouterr().err
            time.sleep(0.05)
        assert not got.wait(10 * slots.PAUSE_S)
        assert active(limit) == 1
        os.close(stream)  # it dies
        assert got.wait(SOON_S)
        thread.join()
    assert f"waiting for a slot of the limit {limit}, held by xadflow retrain (process 4000000 on here: " in said
    since = moment_text(datetime.fromisoformat(DEAD.since))
    assert f"train fcdd on screws, seed 0, since {since}; `kill 4000000` stops it)" in said


def test_a_real_holder_says_who_it_is(limit: str) -> None:
    with slot(limit):
        (path,) = slots._holders().iterdir()
        found, lives = slots._read(path)
        assert lives
        assert found is not None
        assert (found.limit, found.pid, found.holds) == (limit, os.getpid(), True)
        assert f"kill {os.getpid()}" in str(found)


@pytest.mark.parametrize("holds", [True, False], ids=["held by another run", "held by this run"])
def test_one_that_waits_is_stopped_too_and_leaves_nothing(limit: str, holds: bool) -> None:
    if holds:
        lease(limit, uuid4())
    else:
        slots._turns(limit).acquire()
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            with slot(limit):
                pass
        except BaseException as err:
            ended.append(err)

    thread = threading.Thread(target=copy_context().run, args=(wait,))  # Prefect's settings are in it
    thread.start()
    try:
        stopping._request.asked.set()
        thread.join(SOON_S)
    finally:
        stopping._request.forget()
    assert [type(err) for err in ended] == [Stopped]
    assert not slots._holders().exists() or list(slots._holders().iterdir()) == []
    assert active(limit) == int(holds)
