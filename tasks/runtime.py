"""What every task shares: opening the project's parts, the two global limits, and which failures are worth a retry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists

from xadflow.errors import XadflowError
from xadflow.registry import Registry
from xadflow.settings import Home, Settings, load_settings
from xadflow.store import EvidenceStore

GPU, DVC = "gpu", "dvc"
RETRY_DELAYS = [1, 5, 15]


@dataclass(frozen=True)
class Project:
    """The project's parts, opened in the process that runs a task."""

    home: Home
    settings: Settings
    registry: Registry
    store: EvidenceStore


def open_project() -> Project:
    """Open the project of the working folder (or $XADFLOW_PROJECT); cheap enough to do once a task."""
    home = Home.find()
    registry = Registry(home.mlflow_uri, home.mlflow_artifacts)
    store = EvidenceStore(
        home.tables, home.ledger, anchor=lambda head: registry.anchor_head(head.seq, head.digest)
    )
    return Project(home, load_settings(home.params), registry, store)


def ensure_limits() -> None:
    """Create the global limits `gpu` and `dvc` (one slot each) where they are missing.

    Tasks take them with strict=True: without it a missing limit would be no limit at all.
    """
    with get_client(sync_client=True) as client:
        for name in (GPU, DVC):
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
            except ObjectAlreadyExists:
                continue


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


