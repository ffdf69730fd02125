"""A training that was killed and started again ends with the weights of one that was not."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from xadflow.detectors import FitReport, FitRun, TrainingData
from xadflow.detectors.base import WEIGHTS
from xadflow.detectors.fcdd.detector import FCDD
from xadflow.errors import BadSettings, Stopped, TrainingFailed
from xadflow.networks.pretrained import Trunk
from xadflow.training.checkpoints import CHECKPOINT
from xadflow.training.devices import resolve_device
from xadflow.training.loop import run_stage
from xadflow.training.minimising import Schedule, minimising
from xadflow.training.progress import Progress
from xadflow.training.seeds import seeded
from xadflow.training.splitting import Problem

SETTINGS = {
    "stages": (2,),
    "min_steps": 24,
    "epochs": 1.0,
    "batch_normals": 16,
    "batch_synthetic": 16,
    "synthetic_rounds": 1,
    "flips": "none",
}


class Killed(Exception):
    """Stands for a kill in the middle of a step."""


def run_in(folder: Path, kill_at: float | None = None, seed: int = 0) -> FitRun:
    def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
        if kill_at is not None and figures and done >= kill_at * total:
            raise Killed

    return FitRun(folder, seed=seed, false_alarm_rate=0.1, device="cpu", progress=progress)


def weights_of(detector: FCDD, folder: Path) -> bytes:
    detector.save(folder)
    return (folder / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def whole_fit(small_data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> tuple[FCDD, FitReport, Path]:
    """A fit that nothing interrupted, and its folder."""
    folder, detector = tmp_path_factory.mktemp("whole"), FCDD(**SETTINGS)
    return detector, detector.fit(small_data, run_in(folder)), folder


@pytest.fixture
def finished(whole_fit: tuple[FCDD, FitReport, Path], tmp_path: Path) -> Path:
    """A copy of the folder of the finished fit."""
    return Path(shutil.copytree(whole_fit[2], tmp_path / "finished"))


@pytest.mark.parametrize("at", [0.3, 0.5, 0.95])
def test_a_fit_that_is_asked_to_stop_keeps_every_step(
    small_data: TrainingData, whole_fit: tuple[FCDD, FitReport, Path], tmp_path: Path, at: float
):
    whole, report, _ = whole_fit
    done = [0]

    def progress(units: int, total: int, figures: Mapping[str, float]) -> None:
        done[0] += bool(figures)
        if figures and units >= at * total:
            raise Stopped("the work was asked to stop", seen="SIGTERM", next_step="again")

    with pytest.raises(Stopped):
        FCDD(**SETTINGS).fit(small_data, dataclasses.replace(run_in(tmp_path / "stopped"), progress=progress))
    resumed = FCDD(**SETTINGS)
    again = resumed.fit(small_data, run_in(tmp_path / "stopped"))
    assert again.resumed_from == done[0] > 0
    assert again.history == report.history
    assert weights_of(resumed, tmp_path / "a") == weights_of(whole, tmp_path / "b")


def test_a_killed_and_resumed_fit_equals_an_uninterrupted_one(
    small_data: TrainingData, whole_fit: tuple[FCDD, FitReport, Path], tmp_path: Path
):
    whole, report, _ = whole_fit
    assert report.resumed_from == 0
    with pytest.raises(Killed):
        FCDD(**SETTINGS).fit(small_data, run_in(tmp_path / "killed", kill_at=0.7))
    resumed = FCDD(**SETTINGS)
    again = resumed.fit(small_data, run_in(tmp_path / "killed"))
    assert 0 < again.resumed_from < again.steps
    assert again.history == report.history
    assert weights_of(resumed, tmp_path / "a") == weights_of(whole, tmp_path / "b")


def test_a_finished_fit_is_not_trained_again(
    small_data: TrainingData, whole_fit: tuple[FCDD, FitReport, Path], finished: Path, tmp_path: Path
):
    second = FCDD(**SETTINGS)
    report = second.fit(small_data, run_in(finished))
    assert report.resumed_from == report.steps
    assert weights_of(whole_fit[0], tmp_path / "a") == weights_of(second, tmp_path / "b")


@pytest.mark.parametrize("what", ["seed", "settings", "data"])
def test_a_checkpoint_of_other_work_is_ignored(small_data: TrainingData, finished: Path, what: str):
    settings, data, seed = SETTINGS, small_data, 0
    if what == "seed":
        seed = 1
    elif what == "settings":
        settings = {**SETTINGS, "dropout": 0.1}
    else:
        data = dataclasses.replace(small_data, normals=small_data.normals.clone())
        data.normals[3, 0, 5, 5] ^= 1
    assert FCDD(**settings).fit(data, run_in(finished, seed=seed)).resumed_from == 0


def test_a_truncated_checkpoint_is_ignored(small_data: TrainingData, finished: Path):
    content = (finished / CHECKPOINT).read_bytes()
    (finished / CHECKPOINT).write_bytes(content[: len(content) // 2])
    assert FCDD(**SETTINGS).fit(small_data, run_in(finished)).resumed_from == 0


def test_a_checkpoint_of_another_version_is_refused_and_the_log_says_so(
    small_data: TrainingData, finished: Path, caplog: pytest.LogCaptureFixture
):
    saved = torch.load(finished / CHECKPOINT, weights_only=True)
    saved["parts"] = saved.pop("splitting")["parts"]  # as it was
    torch.save(saved, finished / CHECKPOINT)
    assert FCDD(**SETTINGS).fit(small_data, run_in(finished)).resumed_from == 0
    assert "is of another xadflow" in caplog.text


def test_progress_counts_up_to_its_total(small_data: TrainingData, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    run = dataclasses.replace(run_in(tmp_path), progress=lambda done, total, figures: seen.append((done, total)))
    FCDD(**SETTINGS).fit(small_data, run)
    totals = {total for _, total in seen}
    assert len(totals) == 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]


def test_the_trunk_is_bit_equal_after_training(whole_fit: tuple[FCDD, FitReport, Path]):
    fresh = Trunk("lite0", (2,)).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in whole_fit[0].fitted.trunk.state_dict().items())


def train_scale(folder: Path, cost, steps: int = 20):
    module = nn.Linear(2, 1)
    problem = Problem(lambda generator: SimpleNamespace(weights={"loss": torch.ones(2)}), cost)
    stage = minimising(module, problem, Schedule(steps, 1e-2, 0.0), 0, torch.device("cpu"))
    return run_stage(stage, folder, "id", Progress(run_in(folder), steps))


@pytest.mark.parametrize(("bad_step", "advice"), [(13, "lower learning_rate"), (0, "look at the training images")])
def test_a_loss_that_is_not_a_number_stops_the_training(bad_step: int, advice: str, tmp_path: Path):
    calls = iter(range(100))

    def cost(network, batch, rows: slice) -> torch.Tensor:
        losses = network(torch.ones(2, 2)).square().sum(dim=1)[rows]
        return losses * float("nan") if next(calls) == bad_step else losses

    with pytest.raises(TrainingFailed, match=rf"step {bad_step}\b.*{advice}"):
        train_scale(tmp_path, cost)
    if bad_step == 0:
        assert not (tmp_path / CHECKPOINT).exists()
    else:
        assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 10


def test_seeds_depend_on_the_purpose_and_repeat():
    def draw(*purpose: object) -> float:
        return torch.rand(1, generator=seeded(*purpose)).item()

    assert draw(0, "step", 1) == draw(0, "step", 1)
    assert len({draw(0, "step", 1), draw(0, "step", 2), draw(1, "step", 1), draw(0, "head")}) == 4


def test_a_device_that_is_not_there_is_refused():
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(BadSettings, match="auto, cpu or cuda"):
        resolve_device("gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(BadSettings, match="no such GPU"):
            resolve_device("cuda")
        assert resolve_device("auto").type == "cpu"
