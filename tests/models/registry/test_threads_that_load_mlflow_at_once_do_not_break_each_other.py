"""`xadflow doctor` asks the registry from several threads of a process that has not loaded MLflow yet.

Its modules import each other in circles: threads that enter them at different places break each other.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPT = """
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from xadflow.models import connection, registry
from xadflow.errors import UnknownName

def asking(question):
    return question(registry.Registry(sys.argv[1], Path(sys.argv[2])))

def resolve(one):
    try:
        return one.resolve("xad.elpv.fcdd/1")
    except UnknownName:
        return None

questions = [lambda one: one.alias("xad.elpv.fcdd", "champion"), resolve, lambda one: one.anchored_head()]
with ThreadPoolExecutor(len(questions)) as pool:
    with connection._LOADING:  # as if another thread were loading it
        answers = [pool.submit(asking, one) for one in questions]
        wait(answers, timeout=2)
        print("mlflow" in sys.modules)
    print([one.result() for one in answers])
"""


def test_whoever_comes_second_waits_and_gets_its_answer(
    tmp_path: Path, put_mlflow_database: Callable[[Path], None]
) -> None:
    put_mlflow_database(tmp_path)
    where = [f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts")]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *where], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["False", "[None, None, None]"], done.stderr[-2000:]
