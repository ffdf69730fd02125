"""`make server`: Prefect server, MLflow server and one worker on loopback, both flows deployed with their schedules.

Everything that it starts is a process group of its own, logs to var/log/<name>.log and is stopped with it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from xadflow.errors import WorkFailed, WrongUse, XadflowError
from xadflow.settings.environment import Home, child_environment, quiet_environment

HOST = "127.0.0.1"
POOL = "local"
_UP_S = 300.0  # a fresh database took 10 to 50 s on a busy machine
_DOWN_S = 20.0
_TAIL_LINES = 5


@dataclass
class Service:
    """One child process group and the log it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise WorkFailed with the end of its log when it has ended by itself."""
        status = self.process.poll()
        if status is not None:
            raise WorkFailed(f"{self.name} ended by itself with status {status}", seen=_tail(self.log),
                             next_step=f"read {self.log}")  # fmt: skip

    def stop(self) -> None:
        """End the whole group: SIGTERM, then SIGKILL for what is left after 20 s."""
        _signal(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(_DOWN_S)
        except subprocess.TimeoutExpired:
            click.echo(f"{self.name} did not stop in {_DOWN_S:.0f} s and is killed", err=True)
        _signal(self.process.pid, signal.SIGKILL)  # also children that outlived it
        self.process.wait()


@click.command()
@click.option("--prefect-port", type=click.IntRange(1, 65535), default=4200, show_default=True)
@click.option("--mlflow-port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--ready-file", type=click.Path(path_type=Path), help="Written (JSON: addresses, process ids) when all is up.")
def serve(prefect_port: int, mlflow_port: int, ready_file: Path | None) -> None:
    """Start both servers and a worker on loopback, deploy the flows, and stay until Ctrl-C or SIGTERM.

    \b
    Example:
      python -m flows.server --prefect-port 4300 --mlflow-port 5100
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())
    home = Home.find()
    quiet_environment(home)
    _check_ports({"Prefect": ("--prefect-port", prefect_port), "MLflow": ("--mlflow-port", mlflow_port)})
    prefect, mlflow = f"http://{HOST}:{prefect_port}", f"http://{HOST}:{mlflow_port}"
    environment = child_environment(
        PREFECT_API_URL=f"{prefect}/api", MLFLOW_TRACKING_URI=mlflow, XADFLOW_HOME=str(home.state)
    )
    try:
        with ExitStack() as stack:
            services = list(_started(home, environment, prefect, mlflow, stack, stopped))
            if ready_file is not None:
                _write_ready(ready_file, prefect, mlflow, services)
            _say_ready(prefect, mlflow, home)
            while not stopped.wait(1.0):
                for service in services:
                    service.check()
            click.echo("stopping")
    except _Stopped:
        click.echo("stopped before everything was up")
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    click.echo("all stopped")


class _Stopped(Exception):
    """The user asked to stop while the services were starting."""


def _started(
    home: Home, environment: Mapping[str, str], prefect: str, mlflow: str, stack: ExitStack, stopped: threading.Event
) -> Iterator[Service]:
    """Start everything in order, each waited for; the stack stops it in the opposite order, the worker first."""
    from xadflow.registry import Registry

    logs = home.state / "log"
    logs.mkdir(parents=True, exist_ok=True)
    store = home.embedded_mlflow_uri
    with _step("MLflow database"):
        Registry(store, home.mlflow_artifacts).prepare()
    home.mlflow_artifacts.mkdir(parents=True, exist_ok=True)

    def start(name: str, *command: str) -> Service:
        with (logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", *command], cwd=home.project, env=dict(environment),
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       start_new_session=True)  # fmt: skip
        service = Service(name, process, logs / f"{name}.log")
        stack.callback(service.stop)
        return service

    servers = [
        start("prefect-server", "prefect", "server", "start", "--host", HOST, "--port", prefect.rpartition(":")[2]),
        # Files are not served: clients on this machine read and write var/mlartifacts, with or without the server.
        start("mlflow-server", "mlflow", "server", "--host", HOST, "--port", mlflow.rpartition(":")[2], "--workers", "1",
              "--backend-store-uri", store, "--no-serve-artifacts",
              "--default-artifact-root", home.mlflow_artifacts.resolve().as_uri()),
    ]  # fmt: skip
    with _step("Prefect server"):
        _wait(f"{prefect}/api/health", servers, stopped)
    with _step("MLflow server"):
        _wait(f"{mlflow}/health", servers, stopped)
    with _step("work pool, limits, deployments"):
        _prepare_prefect(environment, home, logs)
        if stopped.is_set():
            raise _Stopped
    with _step("worker"):
        name = f"xadflow-{os.getpid()}"
        worker = start("worker", "prefect", "worker", "start", "--pool", POOL, "--name", name)
        _wait_for_worker(f"{prefect}/api", name, [*servers, worker], stopped)
    yield from [*servers, worker]


def _prepare_prefect(environment: Mapping[str, str], home: Home, logs: Path) -> None:
    """Work pool, the limits that tasks take with strict=True, and the deployments of prefect.yaml."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.runtime import DVC, GPU

    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
        with get_client(sync_client=True) as client:
            for limit in (GPU, DVC):
                client.upsert_global_concurrency_limit_by_name(limit, limit=1)
                # A slot that a killed server left taken would block every run for good.
                client.update_global_concurrency_limit(limit, GlobalConcurrencyLimitUpdate(active_slots=0))
            try:
                client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
            except ObjectAlreadyExists:
                pass
    with (logs / "deploy.log").open("ab") as log:
        done = subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], cwd=home.project,
                              env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                              check=False)  # fmt: skip
    if done.returncode != 0:
        raise WorkFailed("the flows could not be deployed", seen=_tail(logs / "deploy.log"),
                         next_step=f"read {logs / 'deploy.log'}, mend prefect.yaml")  # fmt: skip


def _check_ports(wanted: Mapping[str, tuple[str, int]]) -> None:
    for name, (option, port) in wanted.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind((HOST, port))
            except OSError as err:
                raise WrongUse(f"the port for {name} is in use or not allowed", seen=port,
                               next_step=f"stop what uses it, or choose another by {option}") from err  # fmt: skip


def _wait(url: str, services: Sequence[Service], stopped: threading.Event) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return int(answer.status) == 200
        except (urllib.error.URLError, OSError):
            return False

    _until(answers, url, services, stopped)


def _wait_for_worker(api: str, name: str, services: Sequence[Service], stopped: threading.Event) -> None:
    request = urllib.request.Request(f"{api}/work_pools/{POOL}/workers/filter", b"{}",
                                     {"Content-Type": "application/json"})  # fmt: skip

    def is_online() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return any(worker["name"] == name for worker in json.load(answer))
        except (urllib.error.URLError, OSError):
            return False

    _until(is_online, f"worker {name}", services, stopped)


def _until(is_up: Callable[[], bool], what: str, services: Sequence[Service], stopped: threading.Event) -> None:
    deadline = time.monotonic() + _UP_S
    while not is_up():
        for service in services:
            service.check()
        if stopped.wait(0.5):
            raise _Stopped
        if time.monotonic() > deadline:
            raise WorkFailed(f"no answer in {_UP_S:.0f} s", seen=what, next_step="read the logs in var/log")


@contextmanager
def _step(what: str) -> Iterator[None]:
    click.echo(f"  {what} ...", nl=False)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        click.echo("")
        raise
    click.echo(f" {time.monotonic() - started:.0f} s")


def _say_ready(prefect: str, mlflow: str, home: Home) -> None:
    click.echo(
        f"ready\n  Prefect   {prefect}\n  MLflow    {mlflow}\n  logs      {home.state / 'log'}\n"
        f"in another terminal:\n  export PREFECT_API_URL={prefect}/api MLFLOW_TRACKING_URI={mlflow}\n"
        "  prefect deployment run 'explain/nightly'\nstop with Ctrl-C"
    )


def _write_ready(path: Path, prefect: str, mlflow: str, services: Sequence[Service]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"prefect": f"{prefect}/api", "mlflow": mlflow, "pids": {one.name: one.process.pid for one in services}}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-_TAIL_LINES:])[-600:]


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
