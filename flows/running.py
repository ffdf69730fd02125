"""Run a flow from a person's command: checks first, then Prefect, progress on standard error, and errors in
our words.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from xadflow.errors import WorkFailed, XadflowError, no_room
from xadflow.progress import PartTimes, progress_board, track
from xadflow.project import Project
from xadflow.settings import Home, check_writable, interactive_environment

_REACH_S = 5.0


def run_retrain(
    datasets: list[str], detectors: list[str], seeds: list[int] | None = None, times: PartTimes | None = None
) -> list[dict[str, Any]]:
    """The flow `retrain`; empty lists are its defaults. `times` counts the seconds of its parts."""
    _check_first(datasets, detectors=detectors)
    with _started(times):
        from flows.retrain import retrain as flow

        return flow(datasets or None, detectors or None, seeds or None)


def run_explain(
    datasets: list[str],
    day: date | None,
    inbox: Path | None,
    sample: tuple[int, int] | None,
    days: list[date] | None = None,
    only_inbox: bool = False,
    explainers: list[str] | None = None,
    detectors: list[str] | None = None,
    is_built: bool = False,
    times: PartTimes | None = None,
) -> list[dict[str, Any]]:
    """The flow `explain`; None and empty lists are its defaults. `is_built`: the data sets are known to be
    up to date.

    Many parameters: those of the flow.
    """
    _check_first(datasets, detectors or (), explainers or ())
    with _started(times):
        from flows.explain import explain as flow

        folder = str(inbox.resolve()) if inbox else None
        return flow(
            datasets or None, day, folder, sample, days, only_inbox, explainers or None, detectors or None, is_built
        )


@contextmanager
def _started(times: PartTimes | None) -> Iterator[None]:
    """Prefect loaded and its server there; progress and errors are told as long as the block lasts."""
    interactive_environment()
    with progress_board(times), _answered():
        with track("start Prefect", "start"):
            get_client = _load_prefect()
            with ThreadPoolExecutor(1) as beside:
                # Without PREFECT_API_URL a client starts a server of its own, a child that loads and migrates its
                # database for seconds; this process loads what else the flows need meanwhile.
                server = beside.submit(get_client, sync_client=True)
                import flows.explain
                import flows.retrain  # noqa: F401

                server.result()
        yield


def _load_prefect() -> Callable[..., Any]:
    """All of Prefect that the flows import, before any thread is there: two that load parts of one package at once can
    wait for each other's import. Returns its `get_client`.
    """
    from prefect.client.orchestration import get_client

    if Project.open().home.prefect_api_url is None:
        from tasks.own_server import end_servers_with_us

        end_servers_with_us()
    return get_client


def _check_first(datasets: Iterable[str], detectors: Iterable[str] = (), explainers: Iterable[str] = ()) -> None:
    """Settings, names and servers, before Prefect is imported and starts: what is wrong is said in seconds."""
    from xadflow.models.tracking_store import ask_health, is_server, shown

    project = Project.open()
    home, settings = project.home, project.settings
    check_writable(home)
    for look_up, names in (
        (settings.dataset, datasets),
        (settings.detector, detectors),
        (settings.explainer, explainers),
    ):
        for name in names:
            look_up(name)
    if is_server(home.mlflow_uri):
        ask_health(home.mlflow_uri)
    if home.prefect_api_url is not None:
        try:
            urllib.request.urlopen(f"{home.prefect_api_url.rstrip('/')}/health", timeout=_REACH_S).close()
        except urllib.error.HTTPError:
            pass  # it is there; what it wants, Prefect asks it
        except (OSError, ValueError) as err:
            raise _no_prefect(f"{shown(home.prefect_api_url)}: {getattr(err, 'reason', err)}") from err
    from xadflow.explainers.declared import check_explainers  # last: it brings torch in

    check_explainers(settings)


@contextmanager
def _answered() -> Iterator[None]:
    """Everything that a flow raises becomes one line of ours: a state that cannot be written, a Prefect server that
    does not answer (a bare RuntimeError or an httpx error), and what is a bug.
    """
    try:
        yield
    except XadflowError:
        raise
    except Exception as err:
        from tasks.failures import ours

        said = f"{type(err).__name__}: {err}"
        if no_room(err) is None and any(words in said for words in _NO_ANSWER):
            check_writable(Home.find())  # a server of our own does not start where it cannot write
            raise _no_prefect(said[:200]) from err
        raise ours(err, "the flow") from err


_NO_ANSWER = ("ephemeral Prefect API server", "ConnectError", "Failed to reach API")


def _no_prefect(said: str) -> WorkFailed:
    return WorkFailed(
        "no Prefect server answered",
        seen=said,
        next_step="run `xadflow doctor`; start servers by "
        "`make server`, or unset PREFECT_API_URL to let each run start its own",
    )
