"""With `patience` a training ends early with the weights of its best check, chosen by training data alone."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from tests.detectors.small_problems import PROBLEM, STEPS, Killed, Limited, Points, draw, same_weights, trained
from xadflow.detectors import FitRun, TrainingData, build_detector
from xadflow.detectors.base import WEIGHTS
from xadflow.detectors.one_class.exposure import held_out
from xadflow.detectors.one_class.settings import OneClassSettings
from xadflow.errors import BadSettings, TrainingFailed
from xadflow.images import as_float
from xadflow.training.checkpoints import CHECKPOINT
from xadflow.training.seeds import seeded


def opposed() -> Points:
    """A batch to check on whose labels are the wrong way round: the better the training, the worse the check."""
    batch = draw(torch.Generator().manual_seed(5))
    return Points(batch.x, ~batch.is_anomaly)


def checks(history) -> list[tuple[int, float]]:
    return [(step, value) for step, name, value in history if name == "check"]


@pytest.mark.parametrize(("patience", "ends"), [(1, 8), (3, 16)])
def test_it_ends_after_so_many_checks_without_a_better_one_and_keeps_the_best(patience: int, ends: int, tmp_path: Path):
    module, short = Limited(normalised=True), Limited(normalised=True)
    report = trained(module, tmp_path / "early", checked_on=opposed(), patience=patience)
    assert report.steps == ends
    steps, values = zip(*checks(report.history), strict=True)
    assert steps == tuple(range(4, ends + 1, 4))
    assert min(values) == values[0]  # else this test would not see which weights are kept
    with pytest.raises(Killed):  # beside it: the same training at its first check
        trained(short, tmp_path / "short", kill_at=4, checked_on=opposed(), patience=patience)
    assert same_weights(module, short)
    batch = opposed()
    module.eval()
    with torch.no_grad():
        own = PROBLEM.cost(module, batch, slice(0, len(batch.x))).mean()
    assert values[0] == pytest.approx(own.item(), rel=1e-5)


def test_a_check_that_keeps_getting_better_never_ends_it(tmp_path: Path):
    report = trained(Limited(), tmp_path, checked_on=draw(torch.Generator().manual_seed(5)), patience=6)
    assert report.steps == STEPS
    assert len(checks(report.history)) == STEPS // 4


def test_checks_do_not_touch_the_training(tmp_path: Path):
    """With more patience than there are checks, what is trained is what is trained without any."""
    plain, checked = Limited(normalised=True), Limited(normalised=True)
    without = trained(plain, tmp_path / "plain")
    report = trained(checked, tmp_path / "checked", checked_on=opposed(), patience=99)
    assert [row for row in report.history if row[1] != "check"] == list(without.history)
    assert checks(without.history) == []
    saved = torch.load(tmp_path / "checked" / CHECKPOINT, weights_only=True)["module"]
    assert all(torch.equal(value, saved[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("most", [12, 3])
@pytest.mark.parametrize("kill_at", random.Random(1).sample(range(1, 16), 3))
def test_a_killed_training_stops_where_an_uninterrupted_one_does(kill_at: int, most: int, tmp_path: Path):
    """Also where the batches go through in parts."""
    whole, killed, resumed, once_more = (Limited(most, normalised=True) for _ in range(4))
    expected = trained(whole, tmp_path / "whole", checked_on=opposed(), patience=3)
    with pytest.raises(Killed):
        trained(killed, tmp_path / "killed", kill_at, checked_on=opposed(), patience=3)
    report = trained(resumed, tmp_path / "killed", checked_on=opposed(), patience=3)
    assert report.history == expected.history
    assert report.steps == expected.steps == 16
    assert same_weights(whole, resumed)
    finished = trained(once_more, tmp_path / "killed", checked_on=opposed(), patience=3)
    assert finished.resumed_from == finished.steps == 16
    assert same_weights(whole, once_more)


def test_a_check_that_is_not_a_number_stops_the_training(tmp_path: Path):
    batch = opposed()
    broken = Points(batch.x.clone().index_fill_(0, torch.tensor([0]), torch.inf) * 0, batch.is_anomaly)
    with pytest.raises(TrainingFailed, match="loss of a check is not a number"):
        trained(Limited(), tmp_path, checked_on=broken, patience=1)


def test_normals_for_the_check_are_held_out_of_the_steps_and_those_of_the_threshold_are_left_alone(
    small_data: TrainingData,
):
    settings = OneClassSettings(patience=2, batch_size=16)
    learned, checked = held_out(small_data, settings, seeded(0, "held out"))
    assert checked is not None
    assert (len(learned.normals), len(checked.normals)) == (44, 4)
    pixels, trained_on, checked_on = (
        {image.numpy().tobytes() for image in part.normals} for part in (small_data, learned, checked)
    )
    assert trained_on | checked_on == pixels
    assert not trained_on & checked_on
    for part in (learned, checked):
        assert part.val_normals is small_data.val_normals
        assert part.known is small_data.known
    assert held_out(small_data, OneClassSettings(), seeded(0, "held out")) == (small_data, None)
    few = dataclasses.replace(small_data, normals=small_data.normals[:2])
    with pytest.raises(BadSettings, match=r"two must be left.*got 2.*patience"):
        held_out(few, settings, seeded(0, "held out"))


@pytest.mark.parametrize("method", ["fcdd_conv", "dsvdd"])
def test_a_detector_that_stops_early_is_calibrated_on_all_held_out_normals_and_resumes(
    method: str, small_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("xadflow.detectors.one_class.detector.CHECKPOINT_EVERY", 2)
    data = TrainingData(
        small_data.normals[:20, :, ::2, ::2],
        small_data.val_normals[:10, :, ::2, ::2],
        small_data.known[:0, :, ::2, ::2],
        None,
        small_data.known[:0, :, ::2, ::2],
    )
    settings = {
        "network": "cnn28",
        "min_steps": 40,
        "epochs": 0.01,
        "batch_size": 8,
        "patience": 1,
        "learning_rate": 0.2,
    }

    def fit(folder: Path, kill_at: int | None = None):
        def progress(done, total, figures):
            if done == kill_at:
                raise Killed

        detector = build_detector(method, **settings)
        return detector, detector.fit(data, FitRun(folder, 0, 0.1, "cpu", progress))

    whole, report = fit(tmp_path / "whole")
    assert report.steps < 40
    kill_at = random.Random(method).randrange(2, report.steps)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", kill_at)
    resumed, again = fit(tmp_path / "killed")
    assert 0 < again.resumed_from <= kill_at
    assert (again.steps, again.history) == (report.steps, report.history)
    for name, one in (("a", whole), ("b", resumed)):
        one.save(tmp_path / name)
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    with torch.no_grad():
        own = whole.score(as_float(data.val_normals)).image.double().sort().values
    torch.testing.assert_close(torch.from_numpy(whole.calibration.normal_scores), own, rtol=1e-5, atol=0)
