"""Data set stages: one task runs one `dvc repro` as a child process, under the limit `dvc`."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.runtime import DVC, RETRY_DELAYS, is_transient, slot
from xadflow.datasets.reproducing import reproduce
from xadflow.lineage import dvc_hashes
from xadflow.settings import Home


@task(
    name="dvc repro",
    task_run_name="dvc repro {dataset}",
    cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=is_transient,
    timeout_seconds=3600,
)
def build_dataset(dataset: str) -> dict[str, str]:
    """Bring a data set up to date (images, manifest, validation); DVC skips what did not change. Returns DVC hashes."""
    home = Home.find()
    with slot(DVC):
        reproduce(home.project, f"validate@{dataset}")
    return dvc_hashes(home.project, dataset)
