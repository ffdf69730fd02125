"""A batch that memory does not hold goes through the network in parts, and the step stays the same step."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.detectors.small_problems import BATCH, PROBLEM, STEPS, Killed, Limited, Points, same_weights, trained
from xadflow.detectors import FitRun, TrainingData, build_detector
from xadflow.detectors.base import WEIGHTS
from xadflow.detectors.fcdd.heads import MahalanobisHead
from xadflow.detectors.one_class.responses import VectorResponse
from xadflow.errors import TrainingFailed
from xadflow.training.checkpoints import CHECKPOINT
from xadflow.training.splitting import Problem, Splitting


@pytest.mark.parametrize(("most", "parts"), [(12, 1), (11, 2), (6, 2), (3, 4), (2, 8)])
def test_weights_and_losses_are_those_of_whole_batches(
    most: int, parts: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    if parts > BATCH // 2:
        with pytest.raises(TrainingFailed, match=r"two images .*'batches of 12, even in 4 parts'.*smaller network"):
            trained(Limited(most), tmp_path)
        return
    whole, split = Limited(), Limited(most)
    expected = trained(whole, tmp_path / "whole")
    report = trained(split, tmp_path / "split")
    assert (expected.parts, report.parts) == (1, parts)
    assert split.refused == {1: 0, 2: 1, 4: 2}[parts]  # and never again after the first step
    # The sums of a step are added in another order: float32, 24 steps.
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    for mine, other in zip(report.history, expected.history, strict=True):
        assert mine[:2] == other[:2]
        assert mine[2] == pytest.approx(other[2], rel=1e-4)
    assert [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()] == [
        f"out of memory (tried to hold {held} images); batches go through the network in {into} parts from now on"
        for held, into in [(12, 2), (6, 4)][: split.refused]
    ]


@pytest.mark.parametrize("parts", [2, 3, 4, 5])
def test_gradients_of_parts_add_up_to_those_of_the_batch(parts: int):
    """Float64, against autograd on the plain mean of the losses; parts of unequal size too."""
    module = Limited().double()
    batch = PROBLEM.draw(torch.Generator().manual_seed(3))
    batch = Points(batch.x.double(), batch.is_anomaly)
    z = module(batch.x).squeeze(1)
    plain = torch.where(batch.is_anomaly, -torch.nn.functional.logsigmoid(z), -torch.nn.functional.logsigmoid(-z))
    expected = torch.autograd.grad(plain.mean(), list(module.parameters()))
    problem = Problem(lambda generator: batch, PROBLEM.cost)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.0)
    losses = Splitting(module, parts).gradients(problem, module, torch.Generator, optimiser, torch.Tensor.backward)
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)
    assert losses["normal"].item() == pytest.approx(plain[~batch.is_anomaly].sum().item() / BATCH, rel=1e-12)
    assert losses["anomaly"].item() == pytest.approx(plain[batch.is_anomaly].sum().item() / BATCH, rel=1e-12)


def test_a_pass_that_failed_half_way_leaves_no_trace_in_the_running_statistics(tmp_path: Path):
    """The limit here comes after batch normalisation has seen the batch. Beside it: a training of halves from the
    start.
    """
    surprised, told = Limited(6, normalised=True), Limited(6, normalised=True)
    surprised_by = trained(surprised, tmp_path / "surprised")
    original, Splitting.__init__.__defaults__ = Splitting.__init__.__defaults__, (2,)
    try:
        told_before = trained(told, tmp_path / "told")
    finally:
        Splitting.__init__.__defaults__ = original
    assert (surprised.refused, told.refused) == (1, 0)
    assert same_weights(surprised, told)
    assert surprised_by.history == told_before.history
    assert surprised.first.num_batches_tracked == 2 * STEPS  # once a part, as the page of Splitting says


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kill_at", random.Random(0).sample(range(1, STEPS), 3))
def test_a_killed_training_goes_on_in_the_same_parts_and_ends_the_same(normalised: bool, kill_at: int, tmp_path: Path):
    whole, killed, resumed = (Limited(3, normalised=normalised) for _ in range(3))
    expected = trained(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(killed, tmp_path / "killed", kill_at)
    report = trained(resumed, tmp_path / "killed")
    assert report.resumed_from == (kill_at - 1) // 4 * 4 if kill_at % 4 else kill_at
    assert resumed.refused == (0 if report.resumed_from else 2)
    assert report.parts == 4
    assert report.history == expected.history
    assert same_weights(whole, resumed)


def test_the_checkpoint_of_before_stays_when_memory_runs_out_for_good(tmp_path: Path):
    module = Limited()

    def shrink(batch_cost):
        def cost(network, batch: Points, rows: slice) -> torch.Tensor:
            module.most = 1 if (tmp_path / CHECKPOINT).exists() else BATCH
            return batch_cost(network, batch, rows)

        return cost

    with pytest.raises(TrainingFailed, match="two images"):
        trained(module, tmp_path, problem=Problem(PROBLEM.draw, shrink(PROBLEM.cost)))
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 4


def test_any_other_error_is_not_taken_for_a_lack_of_memory(tmp_path: Path):
    class Broken(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("CUDA error: out of memory in a driver call")

    with pytest.raises(RuntimeError, match="driver call"):
        trained(Broken(6, 1), tmp_path)


@pytest.mark.parametrize("method", ["fcdd", "hsc"])
def test_a_detector_is_fitted_in_parts_and_says_so(
    method: str, small_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """fcdd has no statistics over the batch: its weights are those of a fit with memory enough."""
    data = TrainingData(
        small_data.normals[:12, :, ::2, ::2],
        small_data.val_normals[:10, :, ::2, ::2],
        small_data.known[:3, :, ::2, ::2],
        None,
        small_data.known[:0, :, ::2, ::2],
    )
    kind = {"fcdd": MahalanobisHead, "hsc": VectorResponse}[method]
    settings = {
        "fcdd": {"stages": (2,), "min_steps": 5, "epochs": 0.01, "batch_normals": 8, "batch_synthetic": 8},
        "hsc": {"network": "cnn28", "min_steps": 5, "epochs": 0.01, "batch_size": 16},
    }[method]
    original = kind.forward

    def limited(self, *inputs):
        if torch.is_grad_enabled() and len(inputs[0]) > 5:
            raise torch.OutOfMemoryError("no room")
        return original(self, *inputs)

    def fit(folder: Path):
        detector = build_detector(method, **settings)
        report = detector.fit(data, FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu"))
        detector.save(folder / "saved")
        return detector, report

    whole, expected = fit(tmp_path / "whole")
    monkeypatch.setattr(kind, "forward", limited)
    split, report = fit(tmp_path / "split")
    assert (expected.figures["batch_parts"], report.figures["batch_parts"]) == (1, {"fcdd": 8, "hsc": 4}[method])
    _, again = fit(tmp_path / "split")
    assert again.resumed_from == 5
    if method == "fcdd":
        torch.testing.assert_close(split.calibration.threshold, whole.calibration.threshold, rtol=1e-4, atol=0)
        for mine, other in zip(report.history, expected.history, strict=True):
            assert mine[2] == pytest.approx(other[2], rel=1e-4)
    else:
        assert (tmp_path / "split/saved" / WEIGHTS).read_bytes() != (tmp_path / "whole/saved" / WEIGHTS).read_bytes()
