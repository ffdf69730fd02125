"""The two global limits of Prefect, `gpu` and `dvc`: who holds a slot, who waits for one, and what a dead holder left.

Prefect gives a slot on a lease, which its holder renews. Beside the lease each holder keeps a file in
var/prefect/holders locked as long as it lives. So whoever waits can say for whom, and sees at once that a holder is
dead: the kernel unlocks the file of a killed process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_HOME

from tasks.own_server import end_servers_with_us
from xadflow import stopping
from xadflow.errors import WorkFailed
from xadflow.progress import Say, moment_text, waiting
from xadflow.settings import Home

GPU, DVC = "gpu", "dvc"
LEASE_S = 60.0  # Prefect's shortest
PAUSE_S = 2.0  # between two questions of one that waits
_LOOKS = 3  # in a row that find a slot taken and nobody who could hold it
_LOCKED = 423


def ensure_limits() -> None:
    """Create the global limits `gpu` and `dvc` (one slot each) where they are missing; free slots of killed runs.

    Tasks take them with strict=True: without it a missing limit would be no limit at all. A server of `make server`
    frees the slot of a dead run by itself when its lease ends; a run's own short-lived server never does, so the first
    run that finds itself alone in this state folder does, and otherwise whoever waits (:func:`slot`).
    """
    home = Home.find()
    abandoned = home.prefect_api_url is None and _alone(home.state / "prefect" / "runs.lock")
    if home.prefect_api_url is None:
        end_servers_with_us()
    with get_client(sync_client=True) as client:
        for name in (GPU, DVC):
            try:
                client.read_global_concurrency_limit_by_name(name)  # a team may have set more slots: keep them
            except ObjectNotFound:
                client.upsert_global_concurrency_limit_by_name(name, limit=1)  # no error when another run was faster
            if abandoned:
                client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))


_run_lock: list[int] = []  # descriptor of a file kept open, and so locked, as long as this process lives


def _alone(path: Path) -> bool:
    """Whether no other run of this state folder is alive; from now on this one counts as alive."""
    if _run_lock:
        return False
    lock = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    _run_lock.append(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return False
    fcntl.flock(lock, fcntl.LOCK_SH)
    return True


@contextmanager
def slot(name: str) -> Iterator[None]:
    """Hold one slot of a global limit. Whoever waits says for whom, and frees what a dead holder left.

    Raises Stopped when this process is asked to stop meanwhile, WorkFailed when there is no such limit.
    """
    with ExitStack() as held:
        with waiting(f"other work of this run, which holds the limit {name}"):
            turns = _turns(name)
            while not turns.acquire(timeout=0.5):
                stopping.check()
            held.callback(turns.release)
        own = held.enter_context(_record(name))
        with waiting(f"a slot of the limit {name}") as say:
            _take(name, own, held, say)
        own.holds()
        yield


def _take(name: str, own: _Record, held: ExitStack, say: Say) -> None:
    """Ask for a slot until there is one. Prefect's own wait is a random pause of up to 30 s that nothing ends."""
    usher = _Usher(name)
    while True:
        try:
            held.enter_context(
                concurrency(
                    name,
                    occupy=1,
                    strict=True,
                    lease_duration=LEASE_S,
                    max_retries=0,
                    holder=ConcurrencyLeaseHolder(type="task_run", id=own.id),
                )
            )
            return
        except ConcurrencySlotAcquisitionError as err:
            if not (isinstance(err.__cause__, httpx.HTTPStatusError) and err.__cause__.response.status_code == _LOCKED):
                raise
        say(usher.look())
        stopping.pause(PAUSE_S)


@cache
def _turns(name: str) -> BoundedSemaphore:
    """As many turns in this process as the limit has slots: a thread that waits here wakes at once."""
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as err:
            raise WorkFailed(
                "a global limit is missing in Prefect, so nothing says how many may work at once",
                seen=name,
                next_step=f"run `prefect gcl create {name} --limit 1`, then the flow again",
            ) from err
    return BoundedSemaphore(max(1, limit.limit))


@dataclass(frozen=True)
class Holder:
    """Who holds a slot: its process, what it works at, and since when (ISO 8601, UTC); `holds` False: it waits."""

    limit: str
    pid: int
    host: str
    command: str
    work: str
    since: str
    holds: bool

    def __str__(self) -> str:
        since = moment_text(datetime.fromisoformat(self.since))
        return (
            f"{self.command} (process {self.pid} on {self.host}: {self.work}, since {since}; "
            f"`kill {self.pid}` stops it)"
        )


@dataclass
class _Record:
    """The locked file of one who holds a slot or waits for it."""

    id: UUID
    stream: int
    holder: Holder

    def write(self) -> None:
        os.ftruncate(self.stream, 0)
        os.pwrite(self.stream, json.dumps(asdict(self.holder)).encode(), 0)

    def holds(self) -> None:
        """From now on it holds the slot."""
        self.holder = Holder(**{**asdict(self.holder), "since": _now().isoformat(), "holds": True})
        self.write()


@contextmanager
def _record(name: str) -> Iterator[_Record]:
    own = uuid4()
    folder = _holders()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{own}.json"
    stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        work = str(runtime.task_run.name or runtime.flow_run.name or "work outside of a flow")
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:120]
        record = _Record(
            own, stream, Holder(name, os.getpid(), socket.gethostname(), command, work, _now().isoformat(), False)
        )
        record.write()
        yield record
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        os.close(stream)


def _holders() -> Path:
    return Home.find().state / "prefect" / "holders"


def _read(path: Path) -> tuple[Holder | None, bool]:
    """What a record says, and whether the process that wrote it lives."""
    try:
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                lives = False
            except BlockingIOError:
                lives = True
            return Holder(**json.load(stream)), lives
    except FileNotFoundError:
        return None, False
    except (ValueError, TypeError):  # just being written, or cut off by a kill
        return None, lives


class _Usher:
    """Looks, for one who waits, at who holds the slots of a limit, and frees those that nobody holds any more."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._idle = 0

    def look(self) -> str:
        """Free what dead holders left; returns what is waited for, in words."""
        found = {path.stem: (path, *_read(path)) for path in sorted(_holders().glob("*.json"))}
        with get_client(sync_client=True) as client:
            self._free(client, {name: lives for name, (_, _, lives) in found.items()})
        for path, _, lives in found.values():
            if not lives:
                path.unlink(missing_ok=True)
        holders = [one for _, one, lives in found.values() if lives and one and one.holds and one.limit == self.name]
        if holders:
            return f"a slot of the limit {self.name}, held by {' and by '.join(map(str, holders))}"
        return f"a slot of the limit {self.name}, which a run elsewhere holds, or held until it died a moment ago"

    def _free(self, client: SyncPrefectClient, lives: dict[str, bool]) -> None:
        """Give back the slots of leases whose holder is dead, and slots that no lease stands for.

        Leases are seen where the server keeps them in this project's state: a run's own server and `make server` do.
        """
        limit = client.read_global_concurrency_limit_by_name(self.name)
        taken = 0
        for lease in _leases(str(limit.id)):
            holder = str((lease["metadata"].get("holder") or {}).get("id"))
            ended = datetime.fromisoformat(lease["expiration"]) + timedelta(seconds=LEASE_S) < _now()
            if lives.get(holder, not ended):
                taken += int(lease["metadata"]["slots"])
            else:
                client.release_concurrency_slots_with_lease(UUID(lease["id"]))
        if Home.find().prefect_api_url is not None:
            return
        # killed between the slot and its lease: seen several times, because a living one is there for a moment too
        self._idle = self._idle + 1 if limit.active_slots > taken else 0
        if self._idle >= _LOOKS:
            self._idle = 0
            client.update_global_concurrency_limit(self.name, GlobalConcurrencyLimitUpdate(active_slots=taken))


def _leases(limit: str) -> Iterator[dict[str, Any]]:
    """The leases of a limit that lie in this project's state."""
    for path in (PREFECT_HOME.value() / "concurrency_leases").glob("*.json"):
        with suppress(OSError, ValueError):  # ended meanwhile
            lease = json.loads(path.read_text())
            if limit in lease.get("resource_ids", ()) and lease.get("metadata"):
                yield lease


def _now() -> datetime:
    return datetime.now(UTC)
