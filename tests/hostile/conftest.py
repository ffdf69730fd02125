"""One small plant: a project of its own with real git, DVC, MLflow and a champion, and a user's folder full of bad
files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_files import add_hostile_files, write_vanishing_act
from small_works import SMALL, Answer, Plant, draw_bolts

from benchmarks.small_project import make_project, project_environment, python_path


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """The project and the folder ~/bolts; nothing is added yet."""
    root = tmp_path_factory.mktemp("plant")
    make_project(
        root / "plant",
        {
            "retrain: {datasets: [elpv],": "retrain: {datasets: [],",
            "explain: {datasets: [elpv],": "explain: {datasets: [],",
        },
    )
    users = root / "users"
    draw_bolts(users / "bolts")
    add_hostile_files(users / "bolts")
    act = write_vanishing_act(root / "act", users / "bolts")
    environment = {
        **project_environment(root / "plant"),
        "HOME": str(users),
        "NO_COLOR": "1",
        "COLUMNS": "120",
        "PYTHONPATH": python_path(act),
    }
    return Plant(root / "plant", users, environment)


@pytest.fixture(scope="session")
def added(plant: Plant) -> Answer:
    """`xadflow data add bolts ~/bolts`, by real DVC."""
    answer = plant.child("xadflow data add bolts ~/bolts")
    assert answer.status == 0, answer.said
    return answer


@pytest.fixture(scope="session")
def champion(plant: Plant, added: Answer, put_mlflow_database: Callable[[Path], None]) -> Path:
    """The folder of a small real detector, registered for ~/bolts and champion."""
    put_mlflow_database(plant.state)
    with plant.inside():
        return _registered(plant)


def _registered(plant: Plant) -> Path:
    from xadflow.datasets.loading import training_data
    from xadflow.datasets.manifest import read_manifest
    from xadflow.detectors import FitRun
    from xadflow.detectors.fcdd.detector import FCDD
    from xadflow.models.registry import CHAMPION, Registry
    from xadflow.settings import Home, load_settings, quiet_environment

    home = Home.find(plant.project)
    quiet_environment(home)
    settings = load_settings(home.params)
    manifest = read_manifest(home.dataset("bolts"))
    detector = FCDD(**SMALL)
    detector.fit(
        training_data(manifest, settings.dataset("bolts")),
        FitRun(home.runs / "fit", seed=0, false_alarm_rate=0.05, device="cpu"),
    )
    detector.save(home.runs / "saved")
    registry = Registry(home.mlflow_uri, home.mlflow_artifacts)
    ref = registry.log_training(
        model_name="xad.bolts.fcdd",
        folder=home.runs / "saved",
        experiment="xad.bolts",
        params={},
        metrics={},
        history=[],
        figures={},
        dataset_name="bolts",
        dataset_digest="none",
        dataset_frame=manifest.table.to_pandas(),
        input_shape=detector.input_shape,
        lineage={},
        tags={},
    )
    registry.set_alias(ref.name, CHAMPION, ref.version)
    return registry.detector_folder(ref)
