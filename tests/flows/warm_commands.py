"""`xadflow` commands that are forked from one parent, which has imported what they import.

Torch, MLflow, Prefect and Great Expectations are most of what a small command costs. Each command is a process of its own,
and nothing but imports has happened in its parent: no thread, no database, no Prefect client.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

PARENT = """
import json, os, sys
from importlib import import_module

from xadflow.cli import main
from xadflow.settings import Home, interactive_environment, quiet_environment

quiet_environment(Home.find())  # Prefect and MLflow read the environment when they are imported, so this comes first
interactive_environment()
for name in ("flows.retrain", "flows.explain", "flows.commands", "mlflow", "great_expectations", "lightning_fabric"):
    import_module(name)
while line := sys.stdin.readline():
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, order["out"], os.O_WRONLY), (2, order["err"], os.O_WRONLY)):
    os.dup2(os.open(name, flags | os.O_CREAT), number)
main(order["words"])
"""


class WarmCommands:
    """The parent, for one project and one environment."""

    def __init__(self, project: Path, environment: Mapping[str, str], said: Path) -> None:
        self._said = said
        self._parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=project, env=dict(environment), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`xadflow WORDS` in a new process."""
        out, err = self._said / "out.txt", self._said / "err.txt"
        for path in (out, err):
            path.write_text("")
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps({"words": words, "out": str(out), "err": str(err)}) + "\n")
        self._parent.stdin.flush()
        status = self._parent.stdout.readline()
        assert status, "the parent of all commands has ended"
        return subprocess.CompletedProcess(["xadflow", *words], int(status), out.read_text(), err.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate()  # the end of its orders is its end
