"""Spreads the tests over processes: what shares one plant stays together, and the longest go first."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes with a thread for each core wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Folders whose tests share one small project, Prefect server or registry; the longest first. Others go file by file.
TOGETHER = ("flows", "server", "hostile", "faults", "registry", "explainers")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name each test's group for pytest-xdist's `loadgroup`, and bring long groups forward."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item.path)))
    items.sort(key=lambda item: _place(item.path))


def _group(path: Path) -> str:
    folder = path.parent.name
    return folder if folder in TOGETHER else f"{folder}/{path.name}"


def _place(path: Path) -> int:
    folder = path.parent.name
    return TOGETHER.index(folder) if folder in TOGETHER else len(TOGETHER)
