"""`make server`: Prefect server, MLflow server and one worker on loopback, both flows deployed with their schedules.

Everything that it starts is a process group of its own, logs to var/log/<name>.log and is stopped with it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import click

from flows.servers.doors import allowed_origins
from flows.servers.presence import Presence, presence
from flows.servers.services import Service, Stopped, answers, run_logged, start_service, step, wait_until
from xadflow.cli.doctor.prefect import ask_prefect
from xadflow.errors import WrongUse, XadflowError
from xadflow.settings.environment import Home, child_environment, quiet_environment, server_environment
from xadflow.settings.login import login_of, mlflow_login

HOST = "127.0.0.1"
POOL = "local"


@click.command()
@click.option("--prefect-port", type=click.IntRange(1, 65535), default=4200, show_default=True)
@click.option("--mlflow-port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def serve(prefect_port: int, mlflow_port: int) -> None:
    """Start both servers and a worker on loopback, deploy the flows, and stay until Ctrl-C or SIGTERM.

    \b
    Example:
      python -m flows.servers.server --prefect-port 4300 --mlflow-port 5100
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())
    home = Home.find()
    quiet_environment(home)
    prefect, mlflow = f"http://{HOST}:{prefect_port}", f"http://{HOST}:{mlflow_port}"
    with presence(home.state, {"prefect": prefect, "mlflow": mlflow}) as here:
        _check_port("Prefect", prefect_port, "PREFECT_PORT")
        _check_port("MLflow", mlflow_port, "MLFLOW_PORT")
        try:
            with ExitStack() as stack:
                services = list(_started(home, prefect, mlflow, here, stack, stopped))
                _say_ready(prefect, mlflow, home)
                while not stopped.wait(1.0):
                    for service in services:
                        service.check()
                click.echo("stopping")
        except (Stopped, XadflowError):
            if not stopped.is_set():
                raise
            click.echo("stopped before everything was up")
    click.echo("all stopped")


def _started(
    home: Home, prefect: str, mlflow: str, here: Presence, stack: ExitStack, stopped: threading.Event
) -> Iterator[Service]:
    """Start everything; the stack stops it in the opposite order, the worker first."""
    from xadflow.models.places import move_in
    from xadflow.models.registry import Registry

    logs = home.state / "log"
    logs.mkdir(parents=True, exist_ok=True)
    # All that the servers, the worker and each flow run that it starts get: Prefect reads its settings when it is
    # imported, before a flow could set them.
    environment = child_environment(
        PREFECT_API_URL=f"{prefect}/api",
        MLFLOW_TRACKING_URI=mlflow,
        XADFLOW_HOME=str(home.state),
        **server_environment(home, prefect),
    )

    def start(name: str, *command: str, more: Mapping[str, str] | None = None) -> Service:
        given = {**environment, **(more or {})}
        service = start_service(
            name, command, logs=logs, folder=home.project, environment=given, kept_open=here.descriptor
        )
        stack.callback(service.stop)
        here.add(name, service.process.pid)
        return service

    prefect_server = start(
        "prefect-server",
        *("uvicorn", "--factory", "flows.servers.doors:prefect_app", "--host", HOST, "--port", _port(prefect)),
        *("--timeout-keep-alive", "30", "--no-access-log"),
    )
    store = home.embedded_mlflow_uri
    with step("MLflow database"):
        Registry(store, home.mlflow_artifacts).prepare()
        move_in(store, home.mlflow_artifacts)
    home.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
    # Files are not served: clients on this machine read and write var/mlartifacts, with or without the server.
    mlflow_server = start(
        "mlflow-server",
        *("mlflow", "server", "--host", HOST, "--port", _port(mlflow), "--workers", "1"),
        *("--app-name", "basic-auth", "--backend-store-uri", store, "--no-serve-artifacts"),
        *("--default-artifact-root", home.mlflow_artifacts.resolve().as_uri()),
        *("--allowed-hosts", ",".join(one.partition("://")[2] for one in allowed_origins(mlflow))),
        *("--cors-allowed-origins", ",".join(allowed_origins(mlflow))),
        more=mlflow_login(home.state),
    )
    servers = [prefect_server, mlflow_server]
    with step("Prefect server"):
        wait_until(lambda: answers(f"{prefect}/api/health"), f"{prefect}/api/health", servers, stopped)
    with step("MLflow server"):
        wait_until(lambda: answers(f"{mlflow}/health"), f"{mlflow}/health", servers, stopped)
    with step("work pool, limits"):
        _prepare_prefect(environment)
    if stopped.is_set():
        raise Stopped
    name = f"xadflow-{os.getpid()}"
    worker = start("worker", "flows.servers.worker", name)
    with step("deployments"):
        run_logged(
            "deploy",
            ("prefect", "--no-prompt", "deploy", "--all"),
            logs=logs,
            folder=home.project,
            environment=environment,
        )
    with step("worker"):
        authorization = f"Basic {b64encode(login_of(home.state).pair.encode()).decode()}"
        wait_until(
            lambda: name in worker_names(f"{prefect}/api", authorization), f"worker {name}", [*servers, worker], stopped
        )
    yield from [*servers, worker]


def worker_names(api: str, authorization: str) -> list[str]:
    """Names of the workers that the work pool has; none where the server does not answer."""
    try:
        found = ask_prefect(api, f"work_pools/{POOL}/workers/filter", {}, authorization)
    except (OSError, ValueError):
        return []
    return [str(one["name"]) for one in found]


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _prepare_prefect(environment: Mapping[str, str]) -> None:
    """Work pool and the limits that tasks take with strict=True; ends the runs that the last stop cut off."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_SERVER_DATABASE_CONNECTION_URL,
        temporary_settings,
    )

    from flows.servers.cut_off import end_cut_off_runs
    from tasks.slots import DVC, GPU

    settings = {
        PREFECT_API_URL: environment["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: environment["PREFECT_API_AUTH_STRING"],
    }
    with temporary_settings(settings), get_client(sync_client=True) as client:
        for limit in (GPU, DVC):
            try:
                client.read_global_concurrency_limit_by_name(limit)  # more slots may have been given to it: keep them
            except ObjectNotFound:
                client.upsert_global_concurrency_limit_by_name(limit, limit=1)
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        except ObjectAlreadyExists:
            pass
        if str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).startswith(
            "sqlite"
        ):  # a shared database has other workers
            for name in end_cut_off_runs(client):
                click.echo(f"\n  run {name!r} was cut off when the servers stopped; it is marked as crashed", nl=False)


def _check_port(name: str, port: int, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError as err:
            raise WrongUse(
                f"the port for {name} is in use or not allowed",
                seen=port,
                next_step=f"stop what uses it, or choose another: `make server {variable}={port + 1}`",
            ) from err


def _say_ready(prefect: str, mlflow: str, home: Home) -> None:
    click.echo(
        f"ready\n  Prefect   {prefect}\n  MLflow    {mlflow}\n  logs      {home.state / 'log'}\n"
        f"  login     {home.state / 'secrets' / 'login'}  (user:password; `xadflow` reads it by itself)\n"
        f"in another terminal:\n  export PREFECT_API_URL={prefect}/api MLFLOW_TRACKING_URI={mlflow} DO_NOT_TRACK=1\n"
        f"  export PREFECT_API_AUTH_STRING=$(cat {home.state / 'secrets' / 'login'})\n"
        "  prefect deployment run 'explain/nightly'\nstop with Ctrl-C"
    )


def main() -> None:
    """Run; exit status 0 when stopped by a signal, 1 the work failed, 2 wrong use."""
    try:
        serve(standalone_mode=False)
    except click.ClickException as err:
        err.show()
        sys.exit(2)
    except XadflowError as err:
        click.secho(f"xadflow: {err}", fg="red", err=True)
        sys.exit(err.exit_status)


if __name__ == "__main__":
    main()
