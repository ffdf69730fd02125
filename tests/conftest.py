"""Spreads the tests over processes: what shares one plant stays together, and the longest go first.

What every plant needs and no test is about, MLflow's empty database, is made once and copied.

pytest-xdist's own `--dist loadgroup` writes a group into the node's id, which pytest 9.2 no longer reads: every group
was split, and each process built every plant again.
"""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

# The secret that announces this account's commits of evidence: the tests have one of their own.
_ACCOUNT = tempfile.TemporaryDirectory(prefix="xadflow-tests-")
os.environ["XDG_STATE_HOME"] = _ACCOUNT.name

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes with a thread for each core wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Folders whose tests share one small project, Prefect server or registry; the longest first. Others go file by file.
TOGETHER = ("flows", "server", "hostile", "faults", "registry", "donors", "explainers")


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


@pytest.fixture(autouse=True)
def _same_environment_in_any_order() -> Iterator[None]:
    """What a command that ran in this process left in the environment, a login for one, reaches no later test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """What a test draws without a generator of its own hangs on no test before it, in whatever process that ran."""
    torch = sys.modules.get("torch")  # most tests need none
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def put_mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Puts a new MLflow database into a state folder.

    xadflow makes it once for all processes of a run, as it does for a user; whoever comes meanwhile waits for its lock.
    `xadflow retrain` in tests/flows and `make server` in tests/server make their own.
    """
    from xadflow.models.tracking_store import prepare_store
    from xadflow.settings.environment import QUIET

    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mlflow" / "mlflow.db"

    def put(state: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in QUIET.items():
                patch.setenv(name, value)
            prepare_store(f"sqlite:///{made}", made.parent)
        state.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, state / "mlflow.db")

    return put


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prefect server of the tests' own: offline, and as silent as in a person's command.

    Flows that are run in this process find it; a process of its own starts one for itself, which takes 10 s.
    """
    from prefect import settings
    from prefect.testing.utilities import prefect_test_harness

    from xadflow.settings.environment import QUIET

    chosen = {
        settings.PREFECT_HOME: tmp_path_factory.mktemp("prefect"),
        settings.PREFECT_SERVER_ANALYTICS_ENABLED: False,
        settings.PREFECT_LOGGING_LEVEL: "CRITICAL",
        settings.PREFECT_SERVER_LOGGING_LEVEL: "CRITICAL",
        settings.PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE: QUIET["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"],
    }
    # the login that a command which ran here before left: in Prefect's settings, and where a child finds it
    login = {settings.PREFECT_SERVER_API_AUTH_STRING, settings.PREFECT_API_AUTH_STRING}
    with pytest.MonkeyPatch.context() as patch:
        for one in login:
            patch.delenv(one.name, raising=False)
        with (
            settings.temporary_settings(chosen, restore_defaults=login),
            prefect_test_harness(server_startup_timeout=300),
        ):
            yield settings.PREFECT_API_URL.value()
            logging.getLogger("prefect").setLevel(
                logging.CRITICAL
            )  # its handler writes to a stream that pytest has closed


def _place(folder: str) -> int:
    return TOGETHER.index(folder) if folder in TOGETHER else len(TOGETHER)
