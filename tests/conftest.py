"""Spreads the tests over processes: what shares one plant stays together, and the longest go first.

pytest-xdist's own `--dist loadgroup` writes a group into the node's id, which pytest 9.2 no longer reads: every group was
split, and each process built every plant again.
"""

import os
from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes with a thread for each core wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Folders whose tests share one small project, Prefect server or registry; the longest first. Others go file by file.
TOGETHER = ("flows", "server", "hostile", "faults", "registry", "explainers")


class ByPlant(LoadScopeScheduling):
    """Gives a process whole folders of TOGETHER, else whole files."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        return path.parent.name if path.parent.name in TOGETHER else str(path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """The scheduler for `-n`, whatever `--dist` says."""
    config.option.loadscopereorder = False  # the order below, not the number of tests
    return ByPlant(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring long groups forward."""
    items.sort(key=lambda item: _place(item.path.parent.name))


def _place(folder: str) -> int:
    return TOGETHER.index(folder) if folder in TOGETHER else len(TOGETHER)
