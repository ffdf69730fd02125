"""The server that Prefect starts for one run ends with that run, however that ends; any other process is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.small_project import python_path

# A run that starts what stands for its server, through the door that Prefect uses, and says its process id.
RUN = """
import sys, time
from tasks import own_server
server = own_server._Subprocess("subprocess").Popen([sys.executable, "-c", {body!r}, {words!r}])
print(server.pid, flush=True)
{then}
"""
SLEEPS = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def lives(process: int) -> bool:
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def run(body: str, words: str, then: str) -> tuple[subprocess.Popen[str], int]:
    started = subprocess.Popen(
        [sys.executable, "-c", RUN.format(body=body, words=words, then=then)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": python_path(), "PATH": ""},
    )
    assert started.stdout is not None
    return started, int(started.stdout.readline())


@pytest.mark.parametrize(
    ("body", "then", "number"),
    [
        (SLEEPS, "time.sleep(600)", signal.SIGKILL),
        (SLEEPS, "time.sleep(600)", signal.SIGTERM),
        (SLEEPS, "import os; os._exit(1)", None),
        (DEAF, "time.sleep(600)", signal.SIGKILL),
    ],
    ids=["killed", "ended by a signal", "exits at once", "its server hears no SIGTERM"],
)
def test_the_server_ends_too(body: str, then: str, number: signal.Signals | None) -> None:
    started, server = run(body, "prefect.server.api.server:create_app", then)
    with started:
        if number is not None:
            assert lives(server)
            started.send_signal(number)
        started.wait(60)
    deadline = time.monotonic() + 60
    while lives(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_another_process_that_got_its_number_is_left_alone() -> None:
    started, other = run(SLEEPS, "no server", "import os; os._exit(1)")
    with started:
        started.wait(60)
    try:
        time.sleep(0.5)
        assert lives(other)
    finally:
        subprocess.run(["/bin/kill", "-9", str(other)], check=True)


def test_prefect_starts_its_server_through_this_door() -> None:
    from prefect.server.api import server

    from tasks.own_server import _Subprocess, end_servers_with_us

    before = vars(server)["subprocess"]
    try:
        end_servers_with_us()
        assert isinstance(vars(server)["subprocess"], _Subprocess)
        assert vars(server)["subprocess"].TimeoutExpired is subprocess.TimeoutExpired
        assert "subprocess.Popen(" in Path(server.__file__).read_text().partition("def _run_uvicorn_command")[2][:600]
    finally:
        vars(server)["subprocess"] = before
