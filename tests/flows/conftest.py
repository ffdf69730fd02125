"""One small project of its own, with its own DVC repository, MLflow store, tables and Prefect server."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.small_project import draw_screws, make_project, project_environment, python_path
from tests.checkout import PROJECT
from tests.hostile.hostile_files import add_hostile_files, write_vanishing_act
from tests.terminal import called

README = PROJECT / "README.md"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's own files (not its data), a git and DVC repository of its own."""
    root = tmp_path_factory.mktemp("plant") / "project"
    # fewer explanations for the gate than in use: they are most of a small project's time
    make_project(root, {"explained: 48 ": "explained: 6 "})
    return root


@pytest.fixture(scope="session")
def environment(project: Path, screws: Path) -> dict[str, str]:
    """A fresh terminal in the project; one of the user's files vanishes whenever it is about to be read."""
    act = write_vanishing_act(project.parent / "act", screws)
    return {**project_environment(project), "PYTHONPATH": python_path(act)}


@pytest.fixture(scope="session")
def xadflow(project: Path, environment: dict[str, str]) -> Run:
    """Run the command as a user does: a child process in the project's folder."""

    def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "xadflow", *words],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, (
            f"xadflow {' '.join(words)} ended {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def here(project: Path, prefect_server: str) -> Run:
    """Run the command in this process, where flows find a server that is up, once `explained` is there.

    Nothing vanishes: the user's folder has been read by then.
    """
    environment = {**project_environment(project), "OMP_NUM_THREADS": "1"}

    def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = called(list(words), project, environment)
        assert done.returncode == status, (
            f"xadflow {' '.join(words)} ended {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def explained(project: Path, xadflow: Run, screws: Path) -> Path:
    """The README's three commands; returns the project. What each said on standard error is in <command>.said beside
    it.
    """
    commands = re.findall(r"^\$ (xadflow .*screws.*)$", README.read_text(), flags=re.M)[:3]
    assert [command.split()[1] for command in commands] == ["data", "retrain", "explain"]
    for command in commands:
        done = xadflow(*command.replace("~/screws", str(screws)).split()[1:])
        (project.parent / f"{command.split()[1]}.said").write_text(done.stderr)
    return project


@pytest.fixture(scope="session")
def screws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder in MVTec-AD layout: grey and RGB, mixed sizes, masks, odd but sound images, and every
    bad file.
    """
    root = tmp_path_factory.mktemp("users") / "screws"
    draw_screws(root)
    add_hostile_files(root)
    return root
