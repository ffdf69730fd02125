"""One `make server` a state folder: the next one says which is up, or how to end what a killed one left."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.servers.presence import presence
from tests.checkout import PROJECT
from xadflow.errors import WrongUse

ADDRESSES = {"prefect": "http://127.0.0.1:4200", "mlflow": "http://127.0.0.1:5000"}
# A `make server` in small: holds the state folder, starts one "server" in a process group of its own, waits.
PARENT = """
import json, subprocess, sys, time
from pathlib import Path
from flows.servers.presence import presence
with presence(Path(sys.argv[1]), json.loads(sys.argv[2])) as here:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True,
                             pass_fds=(here.descriptor,))
    here.add("worker", child.pid)
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def parent(tmp_path: Path):
    command = [sys.executable, "-c", PARENT, str(tmp_path), json.dumps(ADDRESSES)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    child = int(process.stdout.readline())
    yield process, child
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass


def refusal(state: Path) -> str:
    with pytest.raises(WrongUse) as refused, presence(state, ADDRESSES):
        pass
    return str(refused.value)


def test_the_second_is_told_where_the_first_is_and_how_to_stop_it(parent, tmp_path: Path) -> None:
    process, _ = parent
    said = refusal(tmp_path)
    assert ADDRESSES["prefect"] in said
    assert ADDRESSES["mlflow"] in said
    assert f"`kill {process.pid}`" in said


def test_after_a_kill_the_command_that_ends_the_left_servers_is_named_and_works(parent, tmp_path: Path) -> None:
    process, child = parent
    process.kill()
    process.wait()
    said = refusal(tmp_path)
    assert "was killed" in said
    (command,) = re.findall(r"`(kill -- [-0-9 ]+)`", said)
    assert str(child) in command
    subprocess.run(command.split(), check=True)
    process.communicate(timeout=60)  # the end of its output: no process that inherited it is left
    with presence(tmp_path, ADDRESSES):
        pass


def test_a_state_folder_is_free_again_after_a_normal_end(tmp_path: Path) -> None:
    for _ in range(2):
        with presence(tmp_path, ADDRESSES) as here:
            here.add("worker", 1)
            assert json.loads((tmp_path / "server.json").read_text())["services"] == {"worker": 1}
        assert (tmp_path / "server.json").read_text() == ""
