"""One small project in this process: a real detector, registered with donors, and one real shard of a night that used
them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tests.evidence.replay.conftest import SIDE, plates
from tests.models.donors.patching import patch_registered
from xadflow.datasets.loading import training_data
from xadflow.datasets.manifest import ManifestRow, read_manifest, write_manifest
from xadflow.detectors import FitRun, build_detector
from xadflow.evidence.store import EvidenceStore
from xadflow.models.service import put_in_service
from xadflow.project import Project
from xadflow.settings import Home
from xadflow.settings.environment import QUIET
from xadflow.work.night.plan import NightOrder, plan_night, read_plan
from xadflow.work.night.work import explain_shard
from xadflow.work.week.order import REPORT, TrainingOrder
from xadflow.work.week.register import register_trained

MODEL, DAY = "xad.plates.hsc", date(2026, 11, 27)
PARAMS = """\
seed: 0
device: cpu
catalogue: [plates]
datasets: {plates: {source: folder, size_px: 28, channels: 1, known_used: 12, symmetries: flips}}
detectors: {hsc: {method: hsc}}
explainers: {heatmap: {}, sparse: {iterations: 4, rung_iterations: 4}, patch: {}}
retrain: {datasets: [plates], detectors: [hsc]}
explain: {datasets: [plates], explainers: [heatmap, patch], shard_size: 100, batch_size: 4}
demo: {dataset: plates}
"""
# (split, label, images, with spots)
PARTS = (
    ("train", 0, 100, False),
    ("val", 0, 24, False),
    ("known", 1, 16, True),
    ("gate", 0, 4, False),
    ("gate", 1, 4, True),
    ("test", 0, 5, False),
    ("test", 1, 7, True),
)


def write_plates(folder: Path) -> None:
    """A manifest with its images."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for seed, (split, label, count, spots) in enumerate(PARTS):
        for number, image in enumerate(plates(count, 40 + seed, spots=spots).numpy()):
            path = folder / "images" / f"{split}-{label}-{number:03d}.png"
            Image.fromarray(image[0]).save(path)
            image_id = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append(
                ManifestRow(
                    image_id, f"images/{path.name}", split, label, "plates", None, None, SIDE, SIDE, "drawn", "none"
                )
            )
    write_manifest(folder / "manifest.parquet", rows)


@pytest.fixture(scope="session")
def built(tmp_path_factory, put_mlflow_database) -> Iterator[SimpleNamespace]:
    """home, settings, registry, store, device, the order of the training, its version, the plan of one night, and
    flagged ids.
    """
    root = tmp_path_factory.mktemp("plates")
    home = Home(root, root / "var")
    put_mlflow_database(home.state)
    before, threads = dict(os.environ), torch.get_num_threads()
    os.environ.update(QUIET)
    torch.set_num_threads(1)
    (root / "params.yaml").write_text(PARAMS)
    (root / "dvc.yaml").touch()
    project = Project(home)
    write_plates(home.dataset("plates"))
    with patch_registered():
        order = TrainingOrder("plates", "hsc", "hsc", {}, 0, 0.2, "d" * 32, "k1")
        detector = build_detector("hsc", network="cnn28", min_steps=30, epochs=1.0, batch_size=16)
        data = training_data(read_manifest(home.dataset("plates")), project.settings.dataset("plates"))
        detector.fit(data, FitRun(order.folder(home), 0, 0.2, "cpu"))
        detector.save(order.saved(home))
        (order.folder(home) / REPORT).write_text(
            json.dumps({"figures": {}, "seconds": 1.0, "steps": 30, "history": []})
        )
        ref = register_trained(project, order)
        put_in_service(project.registry, MODEL, ref.version)
        project.store.prepare()
        plan = read_plan(plan_night(project, NightOrder("plates", DAY, "run-1")))
        explain_shard(project, plan, 0)
        flagged = sorted(one for one, is_anomaly in project.store.scored(MODEL, ref.version).items() if is_anomaly)
        assert len(flagged) >= 5
        yield SimpleNamespace(
            records=EvidenceStore(tmp_path_factory.mktemp("tables") / "tables", tmp_path_factory.mktemp("ledger")),
            home=home,
            settings=project.settings,
            registry=project.registry,
            store=project.store,
            device=project.device,
            order=order,
            ref=ref,
            plan=plan,
            flagged=flagged,
            folder=project.registry.detector_folder(ref),
        )
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def copied(built, tmp_path) -> SimpleNamespace:
    """The data set and params.yaml in another place, to be changed; models and tables are those of `built`."""
    home = Home(tmp_path / "moved", built.home.state)
    shutil.copytree(built.home.dataset("plates"), home.dataset("plates"))
    shutil.copy(built.home.params, home.params)
    return SimpleNamespace(**{**vars(built), "home": home})
