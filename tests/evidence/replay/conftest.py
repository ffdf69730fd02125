"""One small project in this process: a real detector with a generator of its own, registered, and one real shard of a
night.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from xadflow.datasets.manifest import ManifestRow, write_manifest
from xadflow.detectors import FitRun, TrainingData, build_detector
from xadflow.digests import sha256_file
from xadflow.evidence.store import EvidenceStore
from xadflow.explainers import build_explainer
from xadflow.explainers.trained import GeneratorRun
from xadflow.models.judges.panel import JUDGE
from xadflow.models.registry import Registry
from xadflow.models.service import put_in_service
from xadflow.models.tags import GATE, JUDGE_APART, PASSED
from xadflow.models.versions import judge_of
from xadflow.project import Project
from xadflow.settings import Home
from xadflow.settings.environment import QUIET
from xadflow.work.night.plan import NightOrder, plan_night, read_plan
from xadflow.work.night.work import explain_shard

MODEL, SIDE = "xad.plates.hsc", 28
PARAMS = """\
seed: 0
device: cpu
catalogue: [plates]
datasets: {plates: {source: folder, size_px: 28, channels: 1}}
detectors: {hsc: {method: hsc}}
explainers: {heatmap: {}, sparse: {iterations: 6, rung_iterations: 4}, diverse: {width: 8, images: 2, steps: 3}}
retrain: {datasets: [plates], detectors: [hsc], explainers: {diverse: {datasets: [plates], detectors: [hsc]}}}
explain: {datasets: [plates], explainers: [heatmap, sparse], shard_size: 100, batch_size: 4}
demo: {dataset: plates}
"""


def plates(count: int, seed: int, *, spots: bool = False) -> torch.Tensor:
    """uint8 [N,1,28,28]: soft stripes with noise, with a bright spot each if asked for."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1))
    images = np.clip(
        0.4 + 0.2 * np.sin(np.arange(SIDE) * 0.7 + phase) + rng.normal(0, 0.04, (count, 1, SIDE, SIDE)), 0, 1
    )
    if spots:
        for image in images:
            y, x = rng.integers(2, SIDE - 9, 2)
            image[0, y : y + 7, x : x + 7] = 1.0
    return torch.from_numpy((images * 255).astype(np.uint8))


def log(registry: Registry, name: str, folder: Path, explains=None):
    frame = pd.DataFrame({"image_id": ["a"]})
    return registry.log_training(
        model_name=name,
        folder=folder,
        experiment="xad.plates",
        params={},
        metrics={},
        history=[],
        figures={},
        dataset_name="plates",
        dataset_digest="d" * 32,
        dataset_frame=frame,
        lineage={},
        tags={},
        input_shape=None if explains else (1, SIDE, SIDE),
        explains=explains,
    )


@pytest.fixture(scope="session")
def night(tmp_path_factory, put_mlflow_database) -> Iterator[SimpleNamespace]:
    """home, settings, registry, store, the detector's version, and ids of its flagged and other images
    after one shard.
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
    settings, registry, store = project.settings, project.registry, project.store

    nothing = torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8)
    normals, spotted = plates(32, 1), plates(16, 2, spots=True)
    detector = build_detector("hsc", network="cnn28", min_steps=30, epochs=1.0, batch_size=16)
    detector.fit(TrainingData(normals, plates(20, 3), spotted, None, nothing), FitRun(root / "fit", 0, 0.2, "cpu"))
    detector.save(root / "saved")
    ref = log(registry, MODEL, root / "saved")
    generator = build_explainer("diverse", **settings.explainer("diverse"))
    generator.fit(
        detector,
        sha256_file(root / "saved" / "weights.safetensors"),
        normals,
        spotted,
        GeneratorRun(root / "fit-generator", 0, "one", torch.device("cpu")),
    )
    generator.save(root / "saved-generator")
    trained = log(registry, f"{MODEL}.diverse", root / "saved-generator", ref.as_explained)
    registry.tag(trained.name, trained.version, GATE, PASSED)
    put_in_service(registry, MODEL, ref.version)
    judge = build_detector("padim", stages=[3], least_px=64)
    judge.fit(
        TrainingData(plates(24, 6), plates(20, 3), spotted[:0], None, nothing),
        FitRun(root / "fit-judge", 0, 0.2, "cpu"),
    )
    judge.save(root / "saved-judge")
    asked = log(registry, judge_of("plates"), root / "saved-judge")
    registry.tag(asked.name, asked.version, JUDGE_APART, "true")
    registry.set_alias(asked.name, JUDGE, asked.version)

    folder = home.dataset("plates")
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, image in enumerate(torch.cat([plates(7, 4), plates(7, 5, spots=True)]).numpy()):
        path = folder / "images" / f"{number:02d}.png"
        Image.fromarray(image[0]).save(path)
        image_id = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append(
            ManifestRow(
                image_id,
                f"images/{path.name}",
                "test",
                int(number >= 7),
                "plates",
                None,
                None,
                SIDE,
                SIDE,
                "drawn",
                "none",
            )
        )
    write_manifest(folder / "manifest.parquet", rows)
    store.prepare()
    plan = read_plan(plan_night(project, NightOrder("plates", date(2026, 11, 27), "run-1")))
    explain_shard(project, plan, 0)
    scored = store.scored(MODEL, ref.version)
    flagged = sorted(one for one, is_anomaly in scored.items() if is_anomaly)
    assert len(flagged) >= 5  # a full batch of four and another one
    yield SimpleNamespace(
        home=home,
        settings=settings,
        registry=registry,
        store=store,
        device=project.device,
        ref=ref,
        flagged=flagged,
        normal=sorted(set(scored) - set(flagged)),
    )
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def forged(night, tmp_path):
    """A store in which somebody changed the rows of one table, wrote all digests anew, and with them the ledger."""

    def forge(change, table: str = "explanations") -> EvidenceStore:
        folder = tmp_path / change.__name__
        store = EvidenceStore(folder / "tables", folder / "ledger")
        store.prepare()
        for name in ("explanations", "scores"):
            rows = night.store.read(name)
            plain = rows.to_pylist()
            for row in plain:
                if name == table:
                    change(row)
                row.pop("row_digest", None)
            schema = rows.schema if name == "scores" else rows.schema.remove(rows.schema.get_field_index("row_digest"))
            store.publish(name, type(rows).from_pylist(plain, schema=schema), app=f"{name}/forged")
        return store

    return forge


def set_lineage(row: dict, **changes) -> None:
    """Change keys of a row's lineage; None takes one away."""
    lineage = {**json.loads(row["lineage"]), **changes}
    row["lineage"] = json.dumps({key: value for key, value in lineage.items() if value is not None})
