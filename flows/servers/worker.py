"""The worker of `make server`: it runs what prefect.yaml of this project declares, and nothing else.

A deployment in Prefect may name any file, command, folder and environment. Whoever has the server's login could so run
commands as the account of the worker; here a run must be one of this project's deployments, as they are written.

    python -m flows.servers.worker NAME
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio.abc
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Crashed
from prefect.utilities.processutils import setup_signal_handlers_worker
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from xadflow.errors import WrongUse
from xadflow.settings.environment import Home

POOL = "local"


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # Prefect: it takes the place of ProcessWorker, as it is meant to

    class ProjectWorker(ProcessWorker):
        """Prefect's process worker, for the deployments of one project."""

        type = "process"

        async def run(
            self,
            flow_run: FlowRun,
            configuration: ProcessJobConfiguration,
            task_status: anyio.abc.TaskStatus[int] | None = None,
        ) -> ProcessWorkerResult:
            """Run a flow run that is the project's own; any other is shown as crashed, with the reason."""
            deployment = await self.client.read_deployment(flow_run.deployment_id) if flow_run.deployment_id else None
            project = Home.find().project
            try:
                check_is_own(flow_run, deployment, configuration._command_configured, declared(project), project)
            except WrongUse as err:
                self._logger.error("%s", err)
                await self.client.set_flow_run_state(flow_run.id, Crashed(message=str(err)), force=True)
                if task_status is not None:
                    task_status.started(os.getpid())
                return ProcessWorkerResult(status_code=1, identifier="refused")
            return await super().run(flow_run, configuration, task_status)


def declared(project: Path) -> dict[str, str]:
    """Entry points of prefect.yaml by the names of their deployments."""
    content = yaml.safe_load((project / "prefect.yaml").read_text(encoding="utf-8"))
    return {one["name"]: one["entrypoint"] for one in content["deployments"]}


def check_is_own(
    run: FlowRun, deployment: DeploymentResponse | None, has_command: bool, own: Mapping[str, str], project: Path
) -> None:
    """Refuse what is not a deployment of this project just as prefect.yaml has it.

    Raises:
        WrongUse: it names another entry point or folder, steps before it, a command, or variables of the job.
    """
    wrong: Any = None
    if deployment is None:
        wrong = "no deployment"
    elif own.get(deployment.name) != deployment.entrypoint:
        wrong = f"deployment {deployment.name!r} with the entry point {deployment.entrypoint!r}"
    elif deployment.path not in (None, "", ".", str(project)):
        wrong = f"the folder {deployment.path!r}"
    elif any(not _stays(step, project) for step in deployment.pull_steps or ()):
        wrong = f"steps before it: {deployment.pull_steps}"
    elif run.job_variables or deployment.job_variables:
        wrong = f"job variables {sorted({**(run.job_variables or {}), **deployment.job_variables})}"
    elif has_command:
        wrong = "a command of the work pool"
    if wrong is not None:
        raise WrongUse(
            "this worker runs the deployments of its project's prefect.yaml, as they are written there",
            seen=wrong,
            next_step="change prefect.yaml and start `make server` again, or run your flow by a worker of your own",
        )


def _stays(step: Mapping[str, Any], project: Path) -> bool:
    """Whether a step before the run only enters the project's folder, as `prefect deploy` writes it."""
    name = "prefect.deployments.steps.set_working_directory"
    return list(step) == [name] and Path(str(step[name].get("directory"))).resolve() == project


def main() -> None:
    """Work until SIGTERM; runs that are under way end with the worker's process group."""
    name = sys.argv[1]
    setup_signal_handlers_worker(os.getpid(), f"worker {name}", print)
    try:
        asyncio.run(ProjectWorker(work_pool_name=POOL, name=name).start(printer=print))
    except KeyboardInterrupt:  # Prefect makes one of SIGTERM
        return


if __name__ == "__main__":
    main()
