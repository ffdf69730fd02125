"""A detector whose training has stages gets a task for each; the checkpoint in the training's folder is the
hand-off.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flows import retrain as flow
from tests.detectors.utad.conftest import TINY, training_data
from xadflow.detectors import FitRun
from xadflow.detectors.base import SAMPLES
from xadflow.settings.blocks import DatasetSettings
from xadflow.training.checkpoints import CHECKPOINT
from xadflow.work.week import TrainingOrder, earlier_stages, train_detector, train_stage
from xadflow.work.week import train as module


class Submitted:
    """A task that only writes down what it was asked for."""

    def __init__(self, name: str, seen: list[tuple[object, ...]]) -> None:
        self.name, self.seen = name, seen

    def submit(self, *given: object, return_state: bool, wait_for: list[Any]) -> str:
        self.seen.append((self.name, *given, [one.value for one in wait_for]))
        return f"{self.name} of {given}"


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        ([], [("train", "plates", "hsc", 3, "md5", [])]),
        (
            ["impression", "middle"],
            [
                ("stage", "plates", "hsc", 3, "impression", []),
                ("stage", "plates", "hsc", 3, "middle", ["stage of ('plates', 'hsc', 3, 'impression')"]),
                ("train", "plates", "hsc", 3, "md5", ["stage of ('plates', 'hsc', 3, 'middle')"]),
            ],
        ),
    ],
)
def test_each_task_waits_for_the_one_before(earlier, expected, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(flow, "train", Submitted("train", seen))
    monkeypatch.setattr(flow, "train_stage_of", Submitted("stage", seen))
    flow._trained("plates", "hsc", 3, "md5", earlier)
    assert seen == expected


def test_a_stage_leaves_its_checkpoint_and_the_training_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings: Any = SimpleNamespace(
        detector=lambda name: SimpleNamespace(method=name), dataset=lambda name: DatasetSettings(source="folder")
    )
    home: Any = SimpleNamespace(runs=tmp_path)
    order = TrainingOrder("plates", "utad", "utad", TINY, 0, 0.1, "md5", "key")

    project: Any = SimpleNamespace(home=home, settings=settings)

    def work(project: object, order: TrainingOrder, update: Callable[..., None] | None) -> tuple[Any, FitRun]:
        return training_data(), FitRun(order.folder(home), order.seed, order.false_alarm_rate, "cpu", update)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_work", work)
    assert (earlier_stages(settings, "utad"), earlier_stages(settings, "fcdd")) == (["impression"], [])
    folder = train_stage(project, order, "impression")
    assert torch.load(folder / "impression" / CHECKPOINT, weights_only=True)["step"] == 12
    assert not (folder / "expert").exists()
    assert not order.is_done(home)
    progress: list[int] = []
    saved = train_detector(project, order, lambda done, total, figures: progress.append(done))
    assert progress[0] == 12  # nothing of the first stage is done again
    assert order.is_done(home)
    assert (saved / "weights.safetensors").is_file()
    assert len(list((folder / SAMPLES).glob("*.png"))) == 2
    before = (folder / "impression" / CHECKPOINT).stat().st_mtime_ns
    train_stage(project, order, "impression")  # a retraining where nothing changed
    assert (folder / "impression" / CHECKPOINT).stat().st_mtime_ns == before
