"""`make server` as a user runs it, for a small project of its own, on ports of its own; and what is seen of it
meanwhile.
"""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.checkout import PROJECT

PATIENCE_S = 600.0  # not a measurement: a machine that needs longer for one step is not working on it


@dataclass(frozen=True)
class SeenProcess:
    """One process of the servers, as the operating system shows it."""

    command: str
    environment: dict[str, str]


@dataclass
class Watcher:
    """Looks twice a second at every process that was started for one state folder."""

    state: Path
    processes: list[SeenProcess] = field(default_factory=list)
    listening: set[str] = field(default_factory=set)
    _strangers: set[int] = field(default_factory=set)

    def look(self) -> None:
        ours = set()
        for pid in set(psutil.pids()) - self._strangers:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if not is_of(process, self.state):
                    self._strangers.add(pid)
                    continue
                ours.add(pid)
                seen = SeenProcess(" ".join(process.cmdline()), process.environ())
                if seen not in self.processes:  # also when it became another program
                    self.processes.append(seen)
        # All sockets in one call: the kernel takes 10 ms to list them, and would for each process.
        sockets = psutil.net_connections("inet") if ours else []
        self.listening |= {one.laddr.ip for one in sockets if one.pid in ours and one.status == psutil.CONN_LISTEN}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        done = threading.Event()

        def keep_looking() -> None:
            while not done.wait(0.5):
                self.look()

        thread = threading.Thread(target=keep_looking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def is_of(process: psutil.Process, state: Path) -> bool:
    """Whether a process has this state folder in its environment: children inherit it, whoever started them."""
    return process.environ().get("XADFLOW_HOME") == str(state)


def living(state: Path) -> list[psutil.Process]:
    """Every process of a state folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if is_of(process, state) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now; all at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class RealServers:
    """The servers of one project and state folder."""

    def __init__(self, project: Path, state: Path, environment: dict[str, str]) -> None:
        self.project, self.state = project, state
        self.prefect_port, self.mlflow_port = free_ports(2)
        self.api = f"http://127.0.0.1:{self.prefect_port}/api"
        self.mlflow = f"http://127.0.0.1:{self.mlflow_port}"
        self._environment = environment
        self._output = state.parent / "make-server.txt"
        self._make: subprocess.Popen[bytes] | None = None

    def command(self, **variables: object) -> list[str]:
        """`make server` with this interpreter in the place of .venv, which is set up already."""
        given = {
            "XADFLOW_PROJECT": self.project,
            "BIN": Path(sys.executable).parent,
            "PREFECT_PORT": self.prefect_port,
            "MLFLOW_PORT": self.mlflow_port,
            **variables,
        }
        return [
            "make",
            "--no-print-directory",
            "-C",
            str(PROJECT),
            "-o",
            ".venv/.ready",
            "server",
            *(f"{name}={value}" for name, value in given.items()),
        ]

    def start(self) -> None:
        with self._output.open("wb") as output:
            self._make = subprocess.Popen(
                self.command(),
                env={**self._environment, "XADFLOW_HOME": str(self.state)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self._make.poll() is None, self.said()
            return "\nready\n" in self.said()

        until(is_ready, self.said)

    def again(self, **variables: object) -> subprocess.CompletedProcess[str]:
        """A second `make server`, which is expected to end by itself."""
        state = variables.pop("XADFLOW_HOME", self.state)
        return subprocess.run(
            self.command(**variables),
            env={**self._environment, "XADFLOW_HOME": str(state)},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def said(self) -> str:
        return self._output.read_text()

    def stop(self) -> int:
        """SIGTERM, by the process id that the servers' own record names; returns make's exit status."""
        os.kill(json.loads((self.state / "server.json").read_text())["pid"], signal.SIGTERM)
        return self._make.wait(PATIENCE_S)

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        for process in living(self.state):
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self._make is not None:
            self._make.kill()
            self._make.wait()

    def terminal(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in another terminal, with what `make server` says to export."""
        exported = dict(re.findall(r"(\w+)=(\S+)", re.search(r"^  export (.*)$", self.said(), flags=re.M)[1]))
        return subprocess.run(
            words,
            cwd=self.project,
            env={**self._environment, **exported, "PREFECT_API_AUTH_STRING": self.login},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        """Prefect's answer to a GET, to a POST of `body`, or to another method.

        While its database is locked it answers 503, as its own clients know: they ask again.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self.authorization}
        if content is not None or method is not None:
            headers |= {"Prefect-Csrf-Client": "tests", "Prefect-Csrf-Token": self._token()}
        request = urllib.request.Request(f"{self.api}/{path}", content, headers, method=method)
        for wait in (1.0, 2.0, 4.0, 8.0, 0.0):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as err:
                if err.code != 503 or not wait:
                    raise
                time.sleep(wait)
        return None

    def _token(self) -> str:
        return str(self.ask("csrf-token?client=tests")["token"])

    @property
    def login(self) -> str:
        """`user:password`."""
        return (self.state / "secrets" / "login").read_text().strip()

    @property
    def authorization(self) -> dict[str, str]:
        """The header that has the login."""
        return {"Authorization": f"Basic {base64.b64encode(self.login.encode()).decode()}"}

    def ask_mlflow(self, path: str) -> Any:
        """MLflow's answer to a GET."""
        request = urllib.request.Request(f"{self.mlflow}/api/2.0/mlflow/{path}", headers=self.authorization)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def trigger(self, deployment: str, *options: str) -> str:
        """`prefect deployment run`; returns the flow run's id."""
        done = self.terminal("prefect", "deployment", "run", deployment, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)[1]

    def outcome(self, run_id: str) -> dict[str, Any]:
        """A flow run when it is over."""
        until(lambda: self.ask(f"flow_runs/{run_id}")["state_type"] in FINAL, self.worker_log)
        return self.ask(f"flow_runs/{run_id}")

    def begin_later(self, deployment_id: str, due: str) -> str:
        """What `prefect deployment run --start-at` asks for, without the 5 s of processor time that the command takes;
        returns the flow run's id.
        """
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}
        return str(self.ask(f"deployments/{deployment_id}/create_flow_run", {"state": state})["id"])

    def begin_by_nobody(self, deployment_id: str, state: str, *, force: bool) -> str:
        """A run that has begun for Prefect, though no worker has it; returns its id. By force it needs no slot."""
        run_id = self.begin_later(deployment_id, "2099-01-01T00:00:00Z")
        self.ask(f"flow_runs/{run_id}/set_state", {"state": {"type": state}, "force": force})
        return run_id

    def taken_slots(self, deployment_id: str) -> int:
        """How many slots of a deployment are taken."""
        limits = self.ask("v2/concurrency_limits/filter", {})
        return sum(one["active_slots"] for one in limits if one["name"] == f"deployment:{deployment_id}")

    def worker_log(self) -> str:
        return (self.state / "log" / "worker.log").read_text()[-6000:]


FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def until(is_so: Callable[[], bool], explain: Callable[[], str]) -> None:
    """Look twice a second; fail with an explanation when it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.5)
