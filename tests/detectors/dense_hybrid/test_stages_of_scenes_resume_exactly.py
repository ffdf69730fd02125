"""Both stages leave checkpoints that go on exactly; validation pastes are the same at every look (tests 10 and 12)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.detectors.dense_hybrid.conftest import CLASSES, TINY, run_in, training_data
from xadflow.detectors import FitReport
from xadflow.detectors.base import SAMPLES, WEIGHTS, training_stages
from xadflow.detectors.dense_hybrid.detector import DenseHybrid
from xadflow.detectors.dense_hybrid.scenes import Scenes, scenes_of
from xadflow.detectors.dense_hybrid.settings import StageSettings, dense_hybrid_settings
from xadflow.detectors.dense_hybrid.training import (
    closed_miou,
    new_net,
    paste_figures,
    training_mode,
    validation_batches,
)
from xadflow.errors import TrainingFailed
from xadflow.images import decode_png
from xadflow.training.checkpoints import CHECKPOINT

STEPS = (7, 6)


@pytest.fixture(autouse=True)
def _checkpoints_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xadflow.training.loop.CHECKPOINT_EVERY", 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, FitReport]:
    """Weights and report of a fit that nothing interrupted."""
    folder, detector = tmp_path_factory.mktemp("whole"), DenseHybrid(**TINY)
    report = detector.fit(training_data(), run_in(folder))
    detector.save(folder / "saved")
    return (folder / "saved" / WEIGHTS).read_bytes(), report


@pytest.mark.parametrize(("kill_at", "first", "second"), [(6, 4, 0), (12, 7, 4)])
def test_a_fit_killed_in_either_stage_ends_with_the_same_bytes(
    kill_at: int, first: int, second: int, whole: tuple[bytes, FitReport], tmp_path: Path
):
    with pytest.raises(KeyboardInterrupt):
        DenseHybrid(**TINY).fit(training_data(), run_in(tmp_path, kill_at))
    for stage, done in (("closed", first), ("hybrid", second)):
        path = tmp_path / stage / CHECKPOINT
        assert (torch.load(path, weights_only=True)["step"] if path.exists() else 0) == done
    resumed = DenseHybrid(**TINY)
    report = resumed.fit(training_data(), run_in(tmp_path))
    assert (report.resumed_from, report.steps) == (first + second, sum(STEPS))
    assert report.history == whole[1].history
    resumed.save(tmp_path / "saved")
    assert (tmp_path / "saved" / WEIGHTS).read_bytes() == whole[0]


def test_stages_run_as_work_of_their_own_end_with_the_same_bytes(whole: tuple[bytes, FitReport], tmp_path: Path):
    assert training_stages("dense_hybrid") == DenseHybrid.stages == ("closed", "hybrid")
    first = DenseHybrid(**TINY).fit_stage("closed", training_data(), run_in(tmp_path))
    assert (first.resumed_from, first.steps) == (0, STEPS[0])
    assert not (tmp_path / "hybrid").exists()
    last = DenseHybrid(**TINY)
    report = last.fit(training_data(), run_in(tmp_path))
    assert report.resumed_from == STEPS[0]
    assert report.figures["closed_miou_before"] == first.figures["closed_miou"]
    last.save(tmp_path / "saved")
    assert (tmp_path / "saved" / WEIGHTS).read_bytes() == whole[0]
    assert {path.name for path in (tmp_path / SAMPLES).iterdir()} == {"closed-000007.png", "hybrid-000006.png"}
    assert decode_png((tmp_path / SAMPLES / "hybrid-000006.png").read_bytes()).std() > 10


def test_another_score_keeps_both_stages_and_other_negatives_or_losses_the_first(tmp_path: Path):
    DenseHybrid(**TINY).fit(training_data(), run_in(tmp_path))

    def resumed(data: object = None, **changes: object) -> int:
        return DenseHybrid(**{**TINY, **changes}).fit(data or training_data(), run_in(tmp_path)).resumed_from  # type: ignore[arg-type]

    assert resumed(score={"part": "posterior"}) == sum(STEPS)
    assert resumed(hybrid={**TINY["hybrid"], "form": "paper"}) == STEPS[0]
    fewer = dataclasses.replace(training_data(), outliers=training_data().outliers[:9])
    assert resumed(fewer) == STEPS[0]
    labels = training_data().labels
    assert labels is not None
    assert resumed(dataclasses.replace(training_data(), labels=labels.flip(0))) == 0


def test_frozen_batch_normalisation_keeps_its_statistics_but_for_the_new_head(tmp_path: Path):
    DenseHybrid(**TINY).fit(training_data(), run_in(tmp_path))
    before, after = (
        torch.load(tmp_path / stage / CHECKPOINT, weights_only=True)["module"] for stage in DenseHybrid.stages
    )
    running = [name for name in before if "running_mean" in name]
    moved = {name for name in running if not torch.equal(before[name], after[name])}
    assert moved == {name for name in running if name.startswith("dataset_head")}
    assert moved
    assert all(not torch.equal(before[name], after[name]) for name in ("narrow.weight", "dataset_head.2.weight"))
    net = new_net(dense_hybrid_settings(TINY, "dense_hybrid"), 3, 1, 0)
    training_mode(net, frozen_bn=False)
    assert all(module.training for module in net.modules())


def test_two_looks_at_the_seeded_pastes_agree_exactly():
    settings = dense_hybrid_settings(TINY, "dense_hybrid")
    _, shown = scenes_of(training_data(), settings, 0, torch.device("cpu"))
    net = new_net(settings, len(CLASSES), 1, 0).eval()
    first = paste_figures(net, shown, settings, 0)
    torch.manual_seed(99)
    assert paste_figures(net, shown, settings, 0) == first
    assert set(first) == {"paste_ap_hybrid", "paste_ap_likelihood", "paste_ap_posterior", "paste_share"}
    assert paste_figures(net, shown, settings, 1) != first
    pastes = [next(iter(validation_batches(shown, settings, seed))).pasted for seed in (0, 0, 1)]
    assert torch.equal(pastes[0], pastes[1])
    assert not torch.equal(pastes[0], pastes[2])


def test_negatives_of_the_validation_are_not_trained_on():
    settings = dense_hybrid_settings(TINY, "dense_hybrid")
    learned, shown = scenes_of(training_data(), settings, 0, torch.device("cpu"))
    assert (len(learned.negatives), len(shown.negatives)) == (36, 4)
    assert not (learned.negatives[:, None] == shown.negatives).flatten(2).all(2).any()


def test_the_closed_miou_is_the_hand_value():
    class Fixed(torch.nn.Module):
        num_classes = 2

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.cat([1 - images, images], dim=1), torch.zeros(len(images), 2, *images.shape[2:])

    seen = torch.tensor([0, 0, 1, 1, 1, 1]).view(1, 1, 1, 6)
    labels = torch.tensor([0, 0, 0, 1, 1, 255]).view(1, 1, 6).to(torch.uint8)
    shown = Scenes((seen * 255).to(torch.uint8), labels, torch.zeros(0, 1, 1, 6, dtype=torch.uint8))
    assert closed_miou(Fixed(), shown) == pytest.approx((2 / 3 + 2 / 3) / 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["closed", "hybrid"])
def test_a_training_that_blows_up_says_so(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("xadflow.training.loop.CHECKPOINT_EVERY", 1)
    broken = {**TINY, stage: {**TINY[stage], "learning_rate": 1e30, "learning_rate_trunk": 1e30, "warm_up": 0.0}}
    with pytest.raises(TrainingFailed, match=r"stopped being a number; got .*lower learning_rate"):
        DenseHybrid(**broken).fit(training_data(), run_in(tmp_path))


def test_bfloat16_trains_with_finite_losses_in_float32(tmp_path: Path):
    report = DenseHybrid(**TINY, precision="bfloat16").fit(training_data(), run_in(tmp_path))
    assert {name for _, name, _ in report.history} >= {
        "closed.classes",
        "hybrid.energy",
        "hybrid.dataset",
        "hybrid.lse_in",
    }
    assert (
        torch.load(tmp_path / "hybrid" / CHECKPOINT, weights_only=True)["module"]["narrow.weight"].dtype
        == torch.float32
    )


def test_rates_climb_then_fall():
    s = StageSettings(warm_up=0.2)
    shares = [s.rate_share(100, number) for number in range(100)]
    assert shares[0] < 0.05
    assert max(shares) == pytest.approx(1.0, abs=0.03)
    assert shares.index(max(shares)) in (19, 20)
    assert shares[-1] < 1e-3
    flat = StageSettings(warm_up=0.0, curve="constant")
    assert {flat.rate_share(100, number) for number in range(100)} == {1.0}
    assert (s.steps(24), StageSettings(epochs=3.0, min_steps=5).steps(120)) == (280, 30)
