"""Between admission and night a file can be swapped: nothing about its new bytes may stand under its old image_id."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.checkout import PROJECT
from xadflow.datasets.inbox import admit_inbox
from xadflow.datasets.manifest import Manifest
from xadflow.detectors import FitRun, TrainingData, build_detector
from xadflow.digests import sha256_bytes
from xadflow.evidence.store import EvidenceStore
from xadflow.images import ImageLimits, encode_png
from xadflow.lineage import RunIdentity
from xadflow.project import Project
from xadflow.settings import Home, load_settings
from xadflow.work.night.plan import NightPlan, _candidates, _shards
from xadflow.work.night.work import ShardFigures, explain_shard

MODEL, SIDE = "xad.plates.hsc", 28


def plates(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(80, 120, (count, 1, SIDE, SIDE), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hsc")
    detector = build_detector("hsc", network="cnn28", min_steps=2, epochs=1.0, batch_size=16)
    nothing = torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8)
    data = TrainingData(torch.from_numpy(plates(16, 1)), torch.from_numpy(plates(10, 2)), nothing, None, nothing)
    detector.fit(data, FitRun(root / "fit", 0, 0.2, "cpu"))
    detector.save(root / "saved")
    return root / "saved"


@pytest.fixture
def site(tmp_path: Path, detector_folder: Path) -> SimpleNamespace:
    """A project whose inbox brought three images."""
    home = Home(tmp_path, tmp_path / "var")
    (tmp_path / "camera").mkdir()
    for number, image in enumerate(plates(3, 3)):
        (tmp_path / "camera" / f"{number}.png").write_bytes(encode_png(image))
    manifest = admit_inbox(tmp_path / "camera", ImageLimits(), home.state / "inbox-runs" / "plates" / "2026-11-30")
    settings = load_settings(PROJECT / "params.yaml").model_copy(update={"device": "cpu"})
    project = Project(home, settings)
    project.store = EvidenceStore(home.tables, home.ledger)  # without an anchor in MLflow
    project.store.prepare()
    return SimpleNamespace(home=home, project=project, manifest=manifest, store=project.store, folder=detector_folder)


def night(site: SimpleNamespace) -> tuple[ShardFigures, NightPlan]:
    """Do what has no score yet, without explainers."""
    shards, already = _shards(_candidates(site.home, [site.manifest], None), site.store.scored(MODEL, 1), set(), {}, 9)
    identity = RunIdentity("", "", {}, "", MODEL, 1, "weights", 0, "cpu", 1)
    plan = NightPlan(
        dataset="plates",
        detector="hsc",
        run_date=date(2026, 11, 30).isoformat(),
        run_id=f"run-{already}",
        model_name=MODEL,
        model_version=1,
        model_run="run",
        detector_folder=str(site.folder),
        explainers={},
        explainer_versions={},
        identity=asdict(identity),
        shards=shards,
        already=already,
        admitted=3,
    )
    return explain_shard(site.project, plan, 0), plan


def file_of(manifest: Manifest, number: int) -> Path:
    return next(manifest.path_of(row) for row in manifest.rows() if row.path == f"images/{number}.png")


def test_it_is_left_out_with_a_reason_and_done_once_its_own_bytes_are_back(site: SimpleNamespace) -> None:
    path = file_of(site.manifest, 1)
    before, swapped = path.read_bytes(), encode_png(plates(1, 9)[0])
    path.write_bytes(swapped)
    figures, plan = night(site)
    relative = path.relative_to(site.home.state).as_posix()
    assert figures.refused == {relative: "the file has other bytes than its manifest says"}
    assert figures.images == 2
    ids = {row.path: row.image_id for row in site.manifest.rows()}
    assert set(site.store.scored(MODEL, 1)) == {ids["images/0.png"], ids["images/2.png"]}
    assert sha256_bytes(swapped) not in site.store.scored(MODEL, 1)

    path.write_bytes(before)
    figures, plan = night(site)
    assert (plan.images, plan.already) == (1, 2)
    assert not figures.refused
    assert set(site.store.scored(MODEL, 1)) == set(ids.values())


def test_the_same_pixels_in_other_bytes_are_another_file(site: SimpleNamespace) -> None:
    path = file_of(site.manifest, 0)
    path.write_bytes(path.read_bytes() + b"\0")
    figures, _ = night(site)
    assert list(figures.refused) == [path.relative_to(site.home.state).as_posix()]
