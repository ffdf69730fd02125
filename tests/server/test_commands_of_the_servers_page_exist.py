"""docs/how-to/run-the-servers.md: what it tells a reader to type is there, and what it says of times and
ports is so.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from tests.checkout import PROJECT
from xadflow.cli.main import cli

PAGE = (PROJECT / "docs" / "how-to" / "run-the-servers.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)$", PAGE, flags=re.M)
# Reads each command of standard input as `prefect` would, without running it.
READ = """
import json, sys
from prefect.cli._app import _app
from prefect.settings import get_current_settings

for words in json.load(sys.stdin):
    _, _, unused, *_ = _app.parse_args(words, print_error=False, exit_on_error=False)
    assert not unused, words
print(get_current_settings().server.database.connection_url.get_secret_value())
"""


def test_prefect_commands_are_read_by_prefect(tmp_path: Path) -> None:
    commands = [
        [word for word in shlex.split(line)[1:] if word != "--no-prompt"]
        for line in COMMANDS
        if line.startswith("prefect ")
    ]
    assert len(commands) >= 8
    address = re.search(r"`PREFECT_SERVER_DATABASE_CONNECTION_URL=(\S+)`", PAGE)[1].replace("PASSWORD", "secret")
    environment = {
        **os.environ,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": address,
    }
    done = subprocess.run(
        [sys.executable, "-c", READ], input=json.dumps(commands), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == address


def test_the_ports_of_make_server_reach_its_command() -> None:
    (line,) = (line for line in COMMANDS if line.startswith("make server ") and "PORT" in line)
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", *shlex.split(line)[1:]],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    for port in re.findall(r"=(\d+)", line):
        assert f"-port {port}" in done.stdout
    usual = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", "server"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"\(port (\d+)\)", PAGE)) == set(re.findall(r"-port (\d+)", usual))


def test_xadflow_commands_exist() -> None:
    for name in set(re.findall(r"`xadflow ([a-z]+)`", PAGE)):
        assert cli.get_command(None, name) is not None, name


def test_the_times_are_those_of_prefect_yaml() -> None:
    said = dict(re.findall(r"^\| `\w+/(\w+)` \|.*?(\d\d:\d\d) \|", PAGE, flags=re.M))
    crons = {
        one["name"]: one["schedules"][0]
        for one in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    }
    assert set(said) == set(crons)
    for name, when in crons.items():
        minute, hour = (int(part) for part in when["cron"].split()[:2])
        assert (said[name], when["timezone"]) == (f"{hour:02}:{minute:02}", "UTC")
