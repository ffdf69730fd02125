"""`xadflow models recalibrate`: the same weights at another false-alarm rate, as a version through the gate."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evidence.replay.conftest import plates
from tests.terminal import called
from xadflow.calibration import Calibration
from xadflow.datasets.manifest import ManifestRow, write_manifest
from xadflow.detectors import load_detector
from xadflow.errors import TooFewNormals, WrongUse
from xadflow.evidence.replay import IDENTICAL, replay
from xadflow.evidence.verify import verify
from xadflow.lineage import dvc_hashes
from xadflow.models.service import put_in_service, roll_back
from xadflow.models.versions import Explains, ModelRef
from xadflow.project import Project
from xadflow.settings import Home
from xadflow.settings.environment import QUIET
from xadflow.work.night.plan import NightOrder, plan_night, read_plan
from xadflow.work.night.work import explain_shard
from xadflow.work.week import judge_challenger, recalibrate, register_trained, train_detector, training_order
from xadflow.work.week.recalibration import _check_kind, _check_rate, recalibration_order

MODEL, SIDE = "xad.plates.padim", 28
PARAMS = """\
seed: 0
device: cpu
catalogue: [plates]
datasets: {plates: {source: folder, size_px: 28, channels: 1, judge: false}}
detectors: {padim: {method: padim, settings: {stages: [3], least_px: 32}}}
explainers: {heatmap: {}, sparse: {iterations: 2, rung_iterations: 2}}
calibration: {false_alarm_rate: 0.2}
gate: {min_flip_rate: 0.0, min_change_inside: 0.0, max_flip_rate_drop: 1.0, explained: 5}
retrain: {datasets: [plates], detectors: [padim]}
explain: {datasets: [plates], explainers: [heatmap], batch_size: 32}
demo: {dataset: plates}
"""
PARTS = (("train", 0, 24), ("val", 0, 24), ("gate", 0, 6), ("gate", 1, 6), ("test", 0, 6), ("test", 1, 6))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, put_mlflow_database) -> Iterator[Project]:
    """A data set whose detector was trained, registered and put into service as version 1, at a rate of .2."""
    root = tmp_path_factory.mktemp("recalibrated")
    home = Home(root, root / "var")
    put_mlflow_database(home.state)
    before, threads = dict(os.environ), torch.get_num_threads()
    os.environ.update(QUIET)
    torch.set_num_threads(1)
    (root / "params.yaml").write_text(PARAMS)
    (root / "dvc.yaml").touch()
    _lock(root, "d" * 32)
    folder, rows = home.dataset("plates"), []
    (folder / "images").mkdir(parents=True)
    for seed, (split, label, count) in enumerate(PARTS):
        for number, image in enumerate(plates(count, 60 + seed, spots=label == 1).numpy()):
            path = folder / "images" / f"{split}-{label}-{number:02d}.png"
            Image.fromarray(image[0]).save(path)
            image_id = hashlib.sha256(path.read_bytes()).hexdigest()
            place = f"images/{path.name}"
            rows.append(ManifestRow(image_id, place, split, label, "plates", None, None, SIDE, SIDE, "drawn", "none"))
    write_manifest(folder / "manifest.parquet", rows)
    opened = Project(home)
    order = training_order(opened, "plates", "padim")
    train_detector(opened, order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xadflow.work.week.register._plots", lambda *_: {})  # half of the time, and nothing here
        put_in_service(opened.registry, MODEL, register_trained(opened, order).version)
        opened.store.prepare()
        yield opened
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def second(project: Project):
    """Version 1 at a rate of .1: version 2, which the gate let into service."""
    return recalibrate(project, MODEL, 0.1)


def _lock(root: Path, md5: str) -> None:
    stage = {"manifest@plates": {"outs": [{"path": "data/plates/manifest.parquet", "md5": md5}]}}
    (root / "dvc.lock").write_text(json.dumps({"stages": stage}) + "\n")


def stating(project: Project, rate: float | None, **detector: object) -> Project:
    """The project with this rate, and other settings of the detector, in params.yaml."""
    dataset = project.settings.datasets["plates"].model_copy(update={"false_alarm_rate": rate})
    changed = {"datasets": {"plates": dataset}}
    if detector:
        its = project.settings.detectors["padim"]
        changed["detectors"] = {"padim": its.model_copy(update={"settings": {**its.settings, **detector}})}
    return Project(project.home, project.settings.model_copy(update=changed))


def test_it_is_what_a_training_at_that_rate_would_have_given(project: Project, second, tmp_path: Path) -> None:
    there = stating(Project(dataclasses.replace(project.home, state=tmp_path)), 0.1)
    trained = train_detector(there, training_order(there, "plates", "padim"))
    made = project.registry.detector_folder(second.ref)
    names = ("detector.json", "weights.safetensors")
    assert [(made / name).read_bytes() for name in names] == [(trained / name).read_bytes() for name in names]
    assert second.after.threshold > second.before.threshold
    assert (second.before.false_alarm_rate, second.after.false_alarm_rate) == (0.2, 0.1)
    assert second.after.temperature != second.before.temperature
    assert (second.after.normal_scores == second.before.normal_scores).all()


def test_it_is_a_version_of_its_own_that_says_where_it_comes_from_and_passed_the_gate(project, second) -> None:
    registry, (ref, source) = project.registry, (second.ref, second.source)
    assert (source.version, ref.version, ref.recalibrated_from) == (1, 2, 1)
    assert ref.files["weights.safetensors"] == source.files["weights.safetensors"]
    assert ref.files["detector.json"] != source.files["detector.json"]
    assert second.outcome.judged
    assert registry.champion(MODEL).version == 2
    before, after = registry.figures(source), registry.figures(ref)
    assert (before["calibration.false_alarm_rate"], after["calibration.false_alarm_rate"]) == (0.2, 0.1)
    assert before["test.auroc"] == after["test.auroc"]
    assert after["gate.auroc"] > 0.9
    listed = {one.version: one for model in registry.models() for one in model.versions}
    assert [listed[number].recalibrated_from for number in (1, 2)] == [None, 1]


def test_a_night_with_it_scores_anew_and_its_rows_verify_and_come_out_again(project, second) -> None:
    plan = read_plan(plan_night(project, NightOrder("plates", date(2026, 12, 1), "run-1")))
    assert plan.model_version == 2
    explain_shard(project, plan, 0)
    scored = project.store.scored(MODEL, 2)
    assert len(scored) == 12
    assert verify(project.store, project.store.ledger.head()).problems == ()
    told = replay(project.home, project.settings, project.registry, project.store, min(scored))
    assert {one.outcome for one in told} == {IDENTICAL}
    (row, *_) = project.store.read("scores").to_pylist()
    assert row["threshold"] == second.after.threshold


def test_a_rollback_and_a_promotion_move_between_both(project: Project, second) -> None:
    assert roll_back(project.registry, MODEL).version == 1
    assert roll_back(project.registry, MODEL).version == 2


def test_the_next_training_that_takes_it_back_says_so_and_how_to_keep_it(project: Project, second) -> None:
    put_in_service(project.registry, MODEL, 2)
    ref = register_trained(project, training_order(project, "plates", "padim"))
    outcome = judge_challenger(project, "plates", ref)
    assert (ref.version, outcome.passed, outcome.serves) == (1, True, 1)
    (said,) = [reason for reason in outcome.reasons if "by hand" in reason]
    assert "version 2, was recalibrated by hand to a false-alarm rate of 0.1; this version has 0.2" in said
    assert "put false_alarm_rate: 0.1 under datasets.plates in params.yaml and run `xadflow models rollback" in said
    put_in_service(project.registry, MODEL, 2)


def test_with_the_rate_in_params_yaml_nothing_is_trained_and_it_stays(project: Project, second) -> None:
    put_in_service(project.registry, MODEL, 2)
    stated = stating(project, 0.1)
    order = training_order(stated, "plates", "padim")
    assert order.is_done(project.home)
    assert register_trained(stated, order).version == 2
    outcome = judge_challenger(stated, "plates", project.registry.resolve(f"{MODEL}/2"))
    assert outcome.reasons == ("is champion already",)
    assert second.line == "false_alarm_rate: 0.1 under datasets.plates in params.yaml"


def test_the_rate_of_a_data_set_goes_before_that_of_all_and_the_same_rate_is_the_same_training(project) -> None:
    same, other = stating(project, 0.2), stating(project, 0.3)
    assert training_order(same, "plates", "padim").key == training_order(project, "plates", "padim").key
    assert training_order(other, "plates", "padim").false_alarm_rate == 0.3
    assert training_order(other, "plates", "padim").key != training_order(project, "plates", "padim").key


def test_a_version_that_params_yaml_would_train_otherwise_is_recalibrated_all_the_same_and_once(project) -> None:
    changed = stating(project, None, least_px=48)
    first, again = (recalibrate(changed, f"{MODEL}/1", 0.3) for _ in range(2))
    assert first.ref.version == again.ref.version > 2
    assert first.ref.recalibrated_from == 1
    assert not training_order(stating(changed, 0.3), "plates", "padim").is_done(project.home)
    assert not again.outcome.judged


def test_what_was_recalibrated_is_recalibrated_again_as_if_it_had_been_trained(project: Project, second) -> None:
    wanted = training_order(stating(project, 0.3), "plates", "padim")
    assert recalibration_order(project, second.ref, 0.1, 0.3) == wanted
    assert recalibration_order(project, second.source, 0.2, 0.3) == wanted
    odd = recalibration_order(stating(project, None, least_px=48), second.ref, 0.1, 0.3)
    assert (odd.method, odd.seed, odd.data_md5) == (wanted.method, wanted.seed, wanted.data_md5)
    assert odd.key not in (wanted.key, training_order(stating(project, 0.3, least_px=48), "plates", "padim").key)


def test_the_command_says_what_came_of_it_and_asking_again_serves_it_again(project: Project, second) -> None:
    environment = {**os.environ, "XADFLOW_PROJECT": str(project.home.project), "XADFLOW_HOME": str(project.home.state)}
    put_in_service(project.registry, MODEL, 1)
    done = called(["models", "recalibrate", MODEL, "--false-alarm-rate", "0.1"], project.home.project, environment)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first.startswith(f"{MODEL}: version 2 is version 1 at a false-alarm rate of 0.1, was 0.2; threshold ")
    assert f"{MODEL}: champion is version 2" in done.stdout
    assert last.endswith("put false_alarm_rate: 0.1 under datasets.plates in params.yaml")
    assert project.registry.champion(MODEL).version == 2
    listed = called(["models", "list"], project.home.project, environment).stdout
    assert "0.1, from 1" in listed


@pytest.mark.parametrize(
    ("spec", "rate", "error", "told"),
    [
        (f"{MODEL}/1", 0.2, WrongUse, "has this false-alarm rate already; got '0.2'"),
        (f"{MODEL}/2", 0.1, WrongUse, "has this false-alarm rate already"),
        (f"{MODEL}/1", 0.03, TooFewNormals, "needs at least 33 held-out normals; got '24 of .*--false-alarm-rate 0.04"),
        (f"{MODEL}/1", 0.039, TooFewNormals, "--false-alarm-rate 0.04 or more"),
        ("xad.plates.judge", 0.1, WrongUse, "xad.plates.judge is a judge.*name a detector"),
    ],
)
def test_a_rate_that_cannot_be_is_answered_with_one_that_can(project, second, spec, rate, error, told) -> None:
    with pytest.raises(error, match=told):
        recalibrate(project, spec, rate)


def test_the_least_rate_that_is_named_is_taken() -> None:
    source = ModelRef(MODEL, 1, "run")
    for normals in (3, 19, 24, 57, 331):
        its = Calibration(1.0, 1.0, 0.9, np.zeros(normals), 0.0, "none")
        with pytest.raises(TooFewNormals) as told:
            _check_rate(source, its, 0.9 / (normals + 1))
        _check_rate(source, its, float(str(told.value).split("--false-alarm-rate ")[1].split()[0]))


@pytest.mark.parametrize(
    "ref",
    [ModelRef("xad.plates.judge", 1, "run"), ModelRef(f"{MODEL}.diverse", 1, "run", Explains(1, "0" * 64).as_tags())],
)
def test_only_detectors_have_a_rate(ref: ModelRef) -> None:
    with pytest.raises(WrongUse, match="only a detector has a false-alarm rate of its own.*models list"):
        _check_kind(ref)


def test_other_data_than_it_was_trained_on_are_refused_with_the_way_that_works(project: Project) -> None:
    try:
        _lock(project.home.project, "e" * 32)
        with pytest.raises(
            WrongUse, match=r"eeeeeeee, was dddddddd.*put false_alarm_rate: 0\.15 under datasets\.plates"
        ):
            recalibrate(project, f"{MODEL}/1", 0.15)
    finally:
        _lock(project.home.project, "d" * 32)
    assert dvc_hashes(project.home.project, "plates") == {"manifest": "d" * 32}
    larger = project.settings.datasets["plates"].model_copy(update={"size_px": 32})
    other = Project(project.home, project.settings.model_copy(update={"datasets": {"plates": larger}}))
    with pytest.raises(WrongUse, match=r"images of shape \[1, 32, 32\], was \[1, 28, 28\]"):
        recalibrate(other, f"{MODEL}/1", 0.15)


def test_a_detector_that_calibrates_itself_is_told_apart(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = SimpleNamespace(
        calibration=load_detector(project.registry.detector_folder(project.registry.resolve(f"{MODEL}/1"))).calibration
    )
    monkeypatch.setattr("xadflow.work.week.recalibration.open_detector", lambda *_: foreign)
    with pytest.raises(WrongUse, match="calibrates itself.*put false_alarm_rate: 0.25 under datasets.plates"):
        recalibrate(project, f"{MODEL}/1", 0.25)
