"""Where the tiny nights happen: one project, the state after training, and copies of that state."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_night

from benchmarks.faults_kit import children
from benchmarks.faults_kit.children import Child, Ended
from benchmarks.faults_kit.outcomes import Evidence, evidence
from xadflow.settings.environment import QUIET


@dataclass(frozen=True)
class Plant:
    """A project, and the state folder in which its champion was registered."""

    root: Path

    @property
    def project(self) -> Path:
        return self.root / "project"

    def fresh(self, name: str) -> Path:
        """A state of its own with the champion in its registry and nothing else."""
        state = self.root / "".join(letter if letter.isalnum() else "-" for letter in name)
        state.mkdir()
        shutil.copyfile(self.root / "trained" / "mlflow.db", state / "mlflow.db")
        shutil.copytree(self.root / "trained" / "mlartifacts", state / "mlartifacts")  # looked for nowhere else
        return state

    def start(self, state: Path, run_id: str, **options: Any) -> Child:
        """Start a night in a child process; the options are those of tiny_night.explain."""
        return children.start(
            tiny_night.explain,
            run_id,
            self.project / "inbox",
            options,
            log=state / f"{run_id}.log",
            environment={"XADFLOW_HOME": str(state)},
        )

    def night(self, state: Path, run_id: str, **options: Any) -> Ended:
        """A night that must end well."""
        ended = self.start(state, run_id, **options).wait()
        assert ended.status == 0, ended.said
        return ended

    def evidence(self, state: Path) -> Evidence:
        """What is in the state's tables, ledger and anchor."""
        found: Evidence = children.ask(evidence, state, log=state / "evidence.log")
        return found


def make(root: Path) -> Plant:
    """Draw the images, train and register; starts the parent of all children."""
    plant = Plant(root)
    children.warm(
        *tiny_night.WARM,
        environment={
            **QUIET,
            "XADFLOW_PROJECT": str(plant.project),
            "XADFLOW_HOME": str(root / "trained"),
            "PREFECT_HOME": str(root),
            "MPLCONFIGDIR": str(root / "matplotlib"),
            "OPENBLAS_NUM_THREADS": "1",
        },
    )
    children.ask(tiny_night.make_project, plant.project, log=root / "log")
    children.ask(tiny_night.register_champion, log=root / "log")
    return plant
