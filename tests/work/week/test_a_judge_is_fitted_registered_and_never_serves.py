"""The judge of a data set: fitted on the half that gives no donors, skipped when nothing changed, refused
as champion.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from tests.evidence.replay.conftest import plates
from xadflow.datasets.manifest import ManifestRow, Split, read_manifest, write_manifest
from xadflow.detectors import as_float
from xadflow.errors import WrongUse
from xadflow.evidence.store import EvidenceStore
from xadflow.models.judges import ask, donor_half, find_judges, open_judges
from xadflow.models.service import put_in_service
from xadflow.project import Project
from xadflow.settings import Home
from xadflow.work.week import fit_judge, judge_challenger, judge_order

JUDGE = "xad.plates.judge"
PARAMS = """\
seed: 0
device: cpu
catalogue: [plates]
datasets: {plates: {source: folder, size_px: 28, channels: 1, judge: {settings: {stages: [3], least_px: 64}}}}
detectors: {hsc: {method: hsc}}
explainers: {sparse: {}}
calibration: {false_alarm_rate: 0.1}
retrain: {datasets: [plates], detectors: [hsc]}
explain: {datasets: [plates], explainers: [sparse]}
demo: {dataset: plates}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, put_mlflow_database) -> SimpleNamespace:
    """90 train normals, 12 val normals and 4 known defects; nothing is registered yet."""
    root = tmp_path_factory.mktemp("judged")
    home = Home(root, root / "var")
    put_mlflow_database(home.state)
    (root / "params.yaml").write_text(PARAMS)
    (root / "dvc.yaml").touch()
    lock = {"manifest@plates": {"outs": [{"path": "data/plates/manifest.parquet", "md5": "d" * 32}]}}
    (root / "dvc.lock").write_text(json.dumps({"stages": lock}) + "\n")
    folder = home.dataset("plates")
    (folder / "images").mkdir(parents=True)
    rows = []
    parts = [("train", 0, plates(90, 1)), ("val", 0, plates(12, 2)), ("known", 1, plates(4, 3, spots=True))]
    for split, label, images in parts:
        for number, image in enumerate(images.numpy()):
            path = folder / "images" / f"{split}-{number:03d}.png"
            Image.fromarray(image[0]).save(path)
            image_id = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append(
                ManifestRow(
                    image_id, f"images/{path.name}", split, label, "plates", None, None, 28, 28, "drawn", "none"
                )
            )
    write_manifest(folder / "manifest.parquet", rows)
    project = Project(home)
    none_yet = find_judges(project.settings, project.registry, "plates")
    found = fit_judge(project, "plates")
    assert found is not None
    return SimpleNamespace(
        home=home,
        settings=project.settings,
        registry=project.registry,
        records=project.records,
        device=project.device,
        found=found,
        none_yet=none_yet,
    )


def with_judge(project: SimpleNamespace, judge: object) -> Project:
    dataset = project.settings.datasets["plates"].model_copy(update={"judge": judge})
    return Project(project.home, project.settings.model_copy(update={"datasets": {"plates": dataset}}))


def test_before_it_is_fitted_the_reason_names_the_command(project) -> None:
    assert project.none_yet.judges == ()
    assert "`xadflow retrain --dataset plates` fits it" in project.none_yet.why_none


def test_it_is_fitted_on_the_normals_that_give_no_donors_and_calibrated_on_val(project) -> None:
    assert (project.found.model_name, project.found.version, project.found.fitted) == (JUDGE, 1, True)
    assert project.found.apart
    half = donor_half(read_manifest(project.home.dataset("plates")).rows(Split.TRAIN, label=0))
    order = judge_order(project, "plates")
    assert order is not None
    assert order.normals == {row.image_id for row in half.judged}
    ref = project.registry.resolve(f"{JUDGE}/1")
    card = json.loads((project.registry.detector_folder(ref) / "detector.json").read_text())
    assert card["normals"] == len(half.judged) < 90
    (judge,) = open_judges(find_judges(project.settings, project.registry, "plates").judges, project.device)
    val = torch.cat([plates(12, 2)])
    with torch.no_grad():
        own = judge.detector.score(as_float(val)).image
    assert len(judge.detector.calibration.normal_scores) == 12
    assert float((own > judge.detector.calibration.threshold).float().mean()) <= 0.1
    figures = project.registry.figures(ref)
    assert figures["known.flagged"] == 1.0
    assert figures["calibration.normals"] == 12


def test_when_nothing_changed_the_registered_version_stays(project) -> None:
    before = [one.version for one in project.registry.versions(JUDGE)]
    again = fit_judge(project, "plates")
    assert again == dataclasses.replace(project.found, fitted=False)
    assert [one.version for one in project.registry.versions(JUDGE)] == before


def test_other_settings_make_another_version_and_going_back_asks_the_first_again(project) -> None:
    other = project.settings.datasets["plates"].judge.model_copy(update={"settings": {"stages": [3], "least_px": 32}})
    second = fit_judge(with_judge(project, other), "plates")
    assert second is not None
    assert (second.version, second.fitted) == (2, True)
    assert find_judges(project.settings, project.registry, "plates").judges[0].version == 2
    first = fit_judge(project, "plates")
    assert first is not None
    assert (first.version, first.fitted) == (1, False)
    assert find_judges(project.settings, project.registry, "plates").judges[0].version == 1


def test_a_judge_that_is_switched_off_is_neither_fitted_nor_asked(project) -> None:
    off = with_judge(project, None)
    assert fit_judge(off, "plates") is None
    panel = find_judges(off.settings, project.registry, "plates")
    assert (panel.judges, panel.wanted) == ((), False)
    assert "switched off" in (panel.why_none or "")


def test_it_never_becomes_champion_by_any_way(project) -> None:
    registry = project.registry
    ref = registry.resolve(f"{JUDGE}/1")
    ways = (
        lambda: registry.set_alias(JUDGE, "champion", 1),
        lambda: put_in_service(registry, JUDGE, 1),
        lambda: judge_challenger(project, "plates", ref),
    )
    for way in ways:
        with pytest.raises(WrongUse, match="never becomes champion.*models list"):
            way()
    assert registry.alias(JUDGE, "champion") is None
    assert [model.aliases for model in registry.models() if model.name == JUDGE] == [{"judge": 1}]


def test_a_judge_of_images_of_another_size_is_not_asked(project, tmp_path: Path) -> None:
    (tmp_path / "detector.json").write_text(json.dumps({"input_shape": [1, 32, 32], "settings": {}}))
    panel = find_judges(project.settings, project.registry, "plates", tmp_path)
    assert panel.judges == ()
    assert "sees images of shape [1, 28, 28]" in (panel.why_none or "")


def test_a_judge_of_images_of_other_bits_is_not_asked(project, tmp_path: Path) -> None:
    (tmp_path / "detector.json").write_text(json.dumps({"input_shape": [1, 28, 28], "bit_depth": 12, "settings": {}}))
    panel = find_judges(project.settings, project.registry, "plates", tmp_path)
    assert panel.judges == ()
    assert "sees grey values of 16 bits, the detector of 12" in (panel.why_none or "")


def test_a_judge_whose_number_stands_beside_words_of_another_gets_a_new_one(project, monkeypatch) -> None:
    """As after a registry that was lost: the same training is there, its number is not its own."""
    now = fit_judge(project, "plates")
    assert now is not None
    lost = {(JUDGE, now.version): {"b" * 64}, (JUDGE, now.version + 3): {"c" * 64}}
    with monkeypatch.context() as patch:
        patch.setattr(EvidenceStore, "judges", lambda *_: lost)
        anew = fit_judge(project, "plates")
        assert (anew.version, anew.fitted) == (now.version + 4, True)
        assert fit_judge(project, "plates").version == anew.version, "and keeps it"
    project.registry.set_alias(JUDGE, "judge", now.version)
    MlflowClient(project.home.mlflow_uri).delete_model_version(JUDGE, str(anew.version))


def test_a_detector_on_the_same_trunk_is_told(project, tmp_path: Path) -> None:
    card = {"input_shape": [1, 28, 28], "settings": {"trunk": "mobilenet_v2"}}
    (tmp_path / "detector.json").write_text(json.dumps(card))
    assert find_judges(project.settings, project.registry, "plates", tmp_path).judges[0].shares_trunk
    (tmp_path / "detector.json").write_text(json.dumps({**card, "settings": {"trunk": "lite0"}}))
    assert not find_judges(project.settings, project.registry, "plates", tmp_path).judges[0].shares_trunk


def test_what_it_flags_is_what_is_odd(project) -> None:
    judges = open_judges(find_judges(project.settings, project.registry, "plates").judges, project.device)
    odd = ask(judges, plates(12, 9, spots=True))
    fine = ask(judges, plates(12, 8))
    assert sum(words[0].is_normal for words in odd) < 3
    assert sum(words[0].is_normal for words in fine) > 6
