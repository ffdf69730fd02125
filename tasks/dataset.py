"""Data set stages: one task runs one `dvc repro` as a child process, under the limit `dvc`."""

from __future__ import annotations

from tasks.runtime import step
from tasks.slots import DVC, slot
from xadflow.datasets.reproducing import reproduce
from xadflow.lineage import dvc_hashes
from xadflow.settings import Home


@step("dvc repro", "dvc repro {dataset}", timeout_seconds=3600)
def build_dataset(dataset: str) -> dict[str, str]:
    """Bring a data set up to date (images, manifest, validation); DVC skips what did not change. Returns DVC hashes."""
    home = Home.find()
    with slot(DVC):
        reproduce(home.project, f"validate@{dataset}")
    return dvc_hashes(home.project, dataset)
