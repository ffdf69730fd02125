"""What every task shares: the two global limits, and which failures are worth a retry."""

from __future__ import annotations

import fcntl
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from xadflow.errors import BadSettings, WorkFailed, XadflowError
from xadflow.progress import waiting
from xadflow.settings import Home
from xadflow.settings.environment import dask_scheduler

P = ParamSpec("P")
R = TypeVar("R")
GPU, DVC = "gpu", "dvc"
LEASE_S = 60.0  # Prefect's shortest
RETRY_DELAYS: list[float] = [1, 5, 15, 60]  # outlasts a server that is away for a minute


def local_runner() -> TaskRunner[PrefectFuture[Any]]:
    """Threads: torch, zlib and pyarrow release the GIL, and a thread starts a hundred times faster than a process."""
    return cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=2))


def cluster_runner(name: str) -> TaskRunner[PrefectFuture[Any]]:
    """The runner of a cluster that params.yaml names by task_runner: `dask` or `ray`.

    The cluster is the one of $DASK_SCHEDULER_ADDRESS or $RAY_ADDRESS; its workers see the project's folder at the same
    place, and one Prefect server, which counts who holds a slot. Raises BadSettings where there is none, or where
    Prefect's package for the cluster is not installed.
    """
    if Home.find().prefect_api_url is None:
        raise BadSettings(
            "a cluster needs one Prefect server: without, each of its workers would start its own",
            seen=f"task_runner {name}, and no PREFECT_API_URL",
            next_step="run `make server` and set PREFECT_API_URL here and for the workers, or set task_runner: local",
        )
    module, kind, address = {
        "dask": ("prefect_dask", "DaskTaskRunner", dask_scheduler()),
        "ray": ("prefect_ray", "RayTaskRunner", None),  # Ray looks for its address by itself
    }[name]
    try:
        runner = getattr(importlib.import_module(module), kind)
    except ImportError as err:
        package = module.replace("_", "-")
        raise BadSettings(
            "Prefect's package for this task_runner is not installed",
            seen=f"task_runner {name}, and no {package}",
            next_step=f"run `pip install {package}`, or set task_runner: local in params.yaml",
        ) from err
    return cast("TaskRunner[PrefectFuture[Any]]", runner(address=address))


def ensure_limits() -> None:
    """Create the global limits `gpu` and `dvc` (one slot each) where they are missing; free slots of killed runs.

    Tasks take them with strict=True: without it a missing limit would be no limit at all. A server of `make server`
    frees the slot of a dead run by itself when its lease ends; a run's own short-lived server never does, so the first
    run that finds itself alone in this state folder does.
    """
    home = Home.find()
    abandoned = home.prefect_api_url is None and _alone(home.state / "prefect" / "runs.lock")
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
    """Hold one slot of a global limit; a dead holder's lease ends after a minute."""
    with ExitStack() as held:
        with waiting(f"other work of this run, which holds the limit {name}"):
            held.enter_context(_turns(name))
        with waiting(f"a slot of the limit {name}, which another run holds or held until it died"):
            held.enter_context(concurrency(name, occupy=1, strict=True, lease_duration=LEASE_S))
        yield


@cache
def _turns(name: str) -> BoundedSemaphore:
    """As many turns in this process as the limit has slots: a thread that waits here wakes at once.

    The server instead tells whoever it refuses to come again after a random pause, up to 30 s, while the slot lies
    idle.
    """
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


def step(name: str, run_name: str | None = None, **more: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that is tried again where its failure may pass by itself, and not cached unless `more` says how."""
    caching: dict[str, Any] = {} if "cache_key_fn" in more else {"cache_policy": NO_CACHE}
    return task(
        name=name,
        task_run_name=run_name,
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=is_transient,
        **caching,
        **more,
    )


def is_transient(task: Any, task_run: Any, state: Any) -> bool:
    """Retry what may pass by itself (I/O, locks, a lost server); never what is wrong (settings, schema, validation)."""
    try:
        state.result()
    except XadflowError as err:
        return err.transient
    except (OSError, TimeoutError, ConnectionError):
        return True
    except Exception as err:
        return "database is locked" in str(err) or "out of memory" in str(err).lower()
    return False
