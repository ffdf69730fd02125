"""What every task shares: who runs it, and which failures are worth a retry."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from xadflow import stopping
from xadflow.errors import BadSettings, XadflowError
from xadflow.settings import Home
from xadflow.settings.environment import dask_scheduler

P = ParamSpec("P")
R = TypeVar("R")
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
    """Retry what may pass by itself (I/O, locks, a lost server); never what is wrong (settings, schema, validation),
    and nothing that was asked to stop.
    """
    if stopping.stop_status() is not None:
        return False
    try:
        state.result()
    except XadflowError as err:
        return err.transient
    except (OSError, TimeoutError, ConnectionError):
        return True
    except Exception as err:
        return "database is locked" in str(err) or "out of memory" in str(err).lower()
    return False
