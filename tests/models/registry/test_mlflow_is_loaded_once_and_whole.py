"""Two threads that load parts of MLflow at once can wait for each other: it is loaded by the first, whole, under
a lock.

In a child, because this process has it loaded already: about eight seconds of a processor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.small_project import python_path

CODE = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xadflow.models.registry import Registry

state = Path(sys.argv[1])

def registry():
    return Registry(f"sqlite:///{state / 'mlflow.db'}", state / "mlartifacts")

with ThreadPoolExecutor(4) as pool:  # as `xadflow doctor` does
    clients = list(pool.map(lambda _: registry()._client, range(4)))

def loaded():
    return {name for name in sys.modules if name.split(".")[0] == "mlflow"}

before = loaded()
used = registry()
used.models()
used.alias("xad.screws.fcdd", "champion")
used.versions("xad.screws.fcdd")
used.explainer_models("xad.screws.fcdd")
used.anchor_head(1, "a" * 64)
used.anchored_head()
print(json.dumps([len(clients), sorted(loaded() - before)]))
"""


def test_nothing_of_it_is_loaded_after_the_first_client(tmp_path: Path, put_mlflow_database) -> None:
    put_mlflow_database(tmp_path)
    environment = {**os.environ, "PYTHONPATH": python_path()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [4, []]
