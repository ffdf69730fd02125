"""Whatever checkout is installed, the children of a test or a benchmark run the code that the test is of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.small_project import CHECKOUT, project_environment, python_path
from tests.hostile.hostile_files import write_vanishing_act

PACKAGES = ("xadflow", "flows", "tasks")


def test_a_child_finds_this_checkout_and_what_was_put_before_it(tmp_path: Path):
    """Without site-packages (-S) nothing is installed: the path alone must do, and sitecustomize is then asked for by
    name.
    """
    act = write_vanishing_act(tmp_path / "act", tmp_path)
    program = (
        f"import importlib.util as u; print(*(u.find_spec(name).origin for name in {('sitecustomize', *PACKAGES)}))"
    )
    environment = {**project_environment(tmp_path), "PYTHONPATH": python_path(act)}
    said = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert said == [
        str(act / "sitecustomize.py"),
        str(CHECKOUT / "src/xadflow/__init__.py"),
        *(str(CHECKOUT / name / "__init__.py") for name in PACKAGES[1:]),
    ]
