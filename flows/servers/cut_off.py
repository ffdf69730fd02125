"""Runs that were under way when their worker ended: Prefect goes on showing them as running.

Their deployment's one slot stays taken for five minutes, and a run that is due meanwhile is cancelled. If the worker
alone was killed, its run lives on, and would go on beside a new one as soon as the servers answer again.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

_BEGUN = FlowRunFilter(
    state=FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    ),
    deployment_id=FlowRunFilterDeploymentId(is_null_=False),
)


def end_cut_off_runs(client: SyncPrefectClient) -> list[str]:
    """End every deployment's run that has begun and mark it as crashed; returns their names.

    To be called when no worker uses the server's database.
    """
    names = []
    for run in client.read_flow_runs(flow_run_filter=_BEGUN):
        _kill(run)
        client.set_flow_run_state(run.id, Crashed(message="the worker was stopped while this ran"), force=True)
        names.append(run.name)
    return names


def _kill(run: FlowRun) -> None:
    """Kill the run's process group if it lives; the tables and checkpoints that it wrote stand a kill.

    A process id may belong to another process by now, so the process itself is asked which run it is (Linux only).
    """
    if not (run.infrastructure_pid or "").isdigit():
        return
    process = int(str(run.infrastructure_pid))
    try:
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        if f"PREFECT__FLOW_RUN_ID={run.id}".encode() in environment:
            os.killpg(process, signal.SIGKILL)
    except OSError:
        return
