"""Child processes of `make server`: each a process group of its own with one log, started, waited for and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from xadflow.errors import WorkFailed

_UP_S = 300.0  # a fresh database took 10 to 50 s on a busy machine
_DOWN_S = 20.0
_TAIL_LINES = 5
_FULL_BYTES = 20_000_000  # a log that is longer when it is opened makes room for a new one


class Stopped(Exception):
    """The user asked to stop while the services were starting."""


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
            raise WorkFailed(
                f"{self.name} ended by itself with status {status}", seen=tail(self.log), next_step=f"read {self.log}"
            )

    def stop(self) -> None:
        """End the whole group: SIGTERM, then SIGKILL for what is left after 20 s."""
        _signal(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(_DOWN_S)
        except subprocess.TimeoutExpired:
            click.echo(f"{self.name} did not stop in {_DOWN_S:.0f} s and is killed", err=True)
        _signal(self.process.pid, signal.SIGKILL)  # also children that outlived it
        self.process.wait()


def start_service(
    name: str, command: Sequence[str], *, logs: Path, folder: Path, environment: Mapping[str, str], kept_open: int
) -> Service:
    """Start `python -m COMMAND` as the leader of a new process group, with `kept_open`, a file descriptor,
    inherited.
    """
    path = open_log(logs, name, command)
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(kept_open,),
        )
    return Service(name, process, path)


def run_logged(name: str, command: Sequence[str], *, logs: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Run `python -m COMMAND` to its end. Raises WorkFailed with the end of its log when it fails."""
    path = open_log(logs, name, command)
    with path.open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=True,
        )
    if done.returncode != 0:
        raise WorkFailed(
            f"`{' '.join(command)}` ended with status {done.returncode}", seen=tail(path), next_step=f"read {path}"
        )


def open_log(logs: Path, name: str, command: Sequence[str]) -> Path:
    """The log of a service, with one line that says what starts now; a log above 20 MB becomes <name>.log.1 first."""
    path = logs / f"{name}.log"
    if path.exists() and path.stat().st_size > _FULL_BYTES:
        path.replace(path.with_suffix(".log.1"))
    with path.open("a") as log:
        log.write(f"=== {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {' '.join(command)}\n")
    return path


def wait_until(is_up: Callable[[], bool], what: str, services: Sequence[Service], stopped: threading.Event) -> None:
    """Ask twice a second. Raises WorkFailed after 300 s or when a service has ended, Stopped when the user stops."""
    deadline = time.monotonic() + _UP_S
    while not is_up():
        for service in services:
            service.check()
        if stopped.wait(0.5):
            raise Stopped
        if time.monotonic() > deadline:
            raise WorkFailed(f"no answer in {_UP_S:.0f} s", seen=what, next_step="read the logs in var/log")


def answers(url: str) -> bool:
    """Whether an address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is waited for, and how long it took."""
    click.echo(f"  {what} ...", nl=False)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        click.echo("")
        raise
    click.echo(f" {time.monotonic() - started:.0f} s")


def tail(log: Path) -> str:
    """The last lines of a log, as one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-_TAIL_LINES:])[-600:]


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
