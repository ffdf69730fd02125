"""What every task shares: opening the project's parts, the two global limits, and which failures are worth a retry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from xadflow.errors import XadflowError
from xadflow.ledger import LedgerHead
from xadflow.registry import Registry
from xadflow.settings import Home, Settings, load_settings
from xadflow.store import EvidenceStore

GPU, DVC = "gpu", "dvc"
RETRY_DELAYS: list[float] = [1, 5, 15]


@dataclass(frozen=True)
class Project:
    """The project's parts, opened in the process that runs a task."""

    home: Home
    settings: Settings
    registry: Registry
    store: EvidenceStore


def open_project() -> Project:
    """The project of the working folder (or $XADFLOW_PROJECT); settings are read anew, stores are opened once a process."""
    home = Home.find()
    registry, store = _stores(home, home.mlflow_uri)
    return Project(home, load_settings(home.params), registry, store)


@cache
def _stores(home: Home, mlflow_uri: str) -> tuple[Registry, EvidenceStore]:
    registry = Registry(mlflow_uri, home.mlflow_artifacts)

    def anchored() -> LedgerHead | None:
        head = registry.anchored_head()
        return LedgerHead(**head) if head else None

    store = EvidenceStore(
        home.tables, home.ledger, anchor=lambda head: registry.anchor_head(head.seq, head.digest), anchored=anchored
    )
    return registry, store


def local_runner() -> TaskRunner[PrefectFuture[Any]]:
    """Threads: torch, zlib and pyarrow release the GIL, and a thread starts a hundred times faster than a process."""
    return cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=2))


def ensure_limits() -> None:
    """Create the global limits `gpu` and `dvc` (one slot each) where they are missing.

    Tasks take them with strict=True: without it a missing limit would be no limit at all.
    """
    with get_client(sync_client=True) as client:
        for name in (GPU, DVC):
            try:
                client.read_global_concurrency_limit_by_name(name)  # a team may have set more slots: keep them
            except ObjectNotFound:
                client.upsert_global_concurrency_limit_by_name(name, limit=1)  # no error when another run was faster


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


