"""Each stage has its own checkpoint, goes on from it exactly, and the second leaves the first as it is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests.detectors.utad.conftest import TINY, crops, run_in, training_data
from xadflow.detectors import FitReport
from xadflow.detectors.base import SAMPLES, WEIGHTS, training_stages
from xadflow.detectors.utad.batches import corrupted, moved
from xadflow.detectors.utad.detector import Utad
from xadflow.detectors.utad.impression_net import ImpressionNet
from xadflow.detectors.utad.settings import ExpertSettings, ImpressionSettings, StageName, StageSettings, rate_share
from xadflow.detectors.utad.training import ExpertGame
from xadflow.errors import TrainingFailed
from xadflow.images import decode_png
from xadflow.training.checkpoints import CHECKPOINT
from xadflow.training.loop import run_stage
from xadflow.training.progress import Progress

STEPS = (12, 9)


@pytest.fixture(autouse=True)
def _checkpoints_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xadflow.training.loop.CHECKPOINT_EVERY", 5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, FitReport]:
    """Weights and report of a fit that nothing interrupted."""
    folder, detector = tmp_path_factory.mktemp("whole"), Utad(**TINY)
    report = detector.fit(training_data(), run_in(folder))
    detector.save(folder / "saved")
    return (folder / "saved" / WEIGHTS).read_bytes(), report


@pytest.mark.parametrize(("kill_at", "first", "second"), [(8, 5, 0), (12, 12, 0), (19, 12, 5), (21, 12, 9)])
def test_a_fit_killed_in_either_stage_ends_with_the_same_bytes(
    kill_at: int, first: int, second: int, whole: tuple[bytes, FitReport], tmp_path: Path
):
    with pytest.raises(KeyboardInterrupt):
        Utad(**TINY).fit(training_data(), run_in(tmp_path, kill_at))
    for stage, done in (("impression", first), ("expert", second)):
        path = tmp_path / stage / CHECKPOINT
        assert (torch.load(path, weights_only=True)["step"] if path.exists() else 0) == done
    resumed = Utad(**TINY)
    report = resumed.fit(training_data(), run_in(tmp_path))
    assert (report.resumed_from, report.steps) == (first + second, sum(STEPS))
    assert report.history == whole[1].history
    resumed.save(tmp_path / "saved")
    assert (tmp_path / "saved" / WEIGHTS).read_bytes() == whole[0]


def test_stages_run_as_work_of_their_own_end_with_the_same_bytes(whole: tuple[bytes, FitReport], tmp_path: Path):
    assert training_stages("utad") == Utad.stages == ("impression", "expert")
    assert training_stages("fcdd") == ()
    first = Utad(**TINY).fit_stage("impression", training_data(), run_in(tmp_path))
    assert (first.resumed_from, first.steps) == (0, STEPS[0])
    assert not (tmp_path / "expert").exists()
    again = Utad(**TINY).fit_stage("expert", training_data(), run_in(tmp_path))
    assert (again.resumed_from, again.steps) == (STEPS[0], sum(STEPS))
    last = Utad(**TINY)
    assert last.fit(training_data(), run_in(tmp_path)).resumed_from == sum(STEPS)
    last.save(tmp_path / "saved")
    assert (tmp_path / "saved" / WEIGHTS).read_bytes() == whole[0]
    assert {path.name for path in (tmp_path / SAMPLES).iterdir()} == {"impression-000012.png", "expert-000009.png"}
    sheet = decode_png((tmp_path / SAMPLES / "expert-000009.png").read_bytes())
    assert sheet.shape[0] == 3
    assert sheet.std() > 10


def test_another_map_keeps_both_stages_and_another_expert_the_first(tmp_path: Path):
    Utad(**TINY).fit(training_data(), run_in(tmp_path))
    other_map = Utad(**TINY, map={"terms": {"x-m": 1.0}}).fit(training_data(), run_in(tmp_path))
    assert other_map.resumed_from == sum(STEPS)
    expert = {**TINY["expert"], "detail": 4}  # type: ignore[dict-item]
    assert Utad(**{**TINY, "expert": expert}).fit(training_data(), run_in(tmp_path)).resumed_from == STEPS[0]


@pytest.mark.parametrize("form", ["residual", "munit"])
def test_the_second_stage_leaves_the_first_bit_equal_and_forms_no_gradient_in_it(form: str, tmp_path: Path):
    torch.manual_seed(0)
    impress = ImpressionNet((1, 32, 32), ImpressionSettings(width=2, code=4))
    impress.train()(torch.rand(4, 1, 32, 32))  # its statistics have moved
    before = copy.deepcopy(impress.state_dict())
    settings = ExpertSettings(form=form, width=4, min_steps=3, batch_size=2, warm_up=0.0)
    game = ExpertGame((1, 32, 32), settings, impress, crops(6, 1), 0)
    trained = run_stage(game.stage(sheets=0), tmp_path, "id", Progress(run_in(tmp_path), 3))
    assert all(torch.equal(value, before[name]) for name, value in impress.state_dict().items())
    assert all(parameter.grad is None for parameter in impress.parameters())
    told = {name for _, name, _ in trained.history}
    assert {"expert.judge", "expert.adversarial", "expert.code", "expert.paired_image"} <= told
    assert ("expert.content" in told) == ("expert.reconstruction" in told) == (form == "munit")
    assert all(parameter.isfinite().all() for parameter in game.players.expert.parameters())


def test_every_loss_of_the_first_stage_can_enter(tmp_path: Path):
    weights = {"adversarial": 0.1, "variation": 0.1, "similarity": 1.0, "edges": 1.0, "rotation": 20.0, "crop": 0.8}
    settings = {**TINY["impression"], **weights, "min_steps": 6, "warm_up": 0.5}  # type: ignore[dict-item]
    report = Utad(**{**TINY, "impression": settings}).fit_stage("impression", training_data(), run_in(tmp_path))
    by_step = {step: {name for at, name, _ in report.history if at == step} for step in (1, 6)}
    early = {f"impression.{name}" for name in ("reconstruction", "prior", "variation", "similarity", "edges")}
    assert by_step[1] == early
    assert by_step[6] == early | {f"impression.{name}" for name in ("judge", "adversarial", "mi_local", "mi_global")}


@pytest.mark.parametrize("stage", ["impression", "expert"])
def test_a_training_that_blows_up_says_so_and_keeps_the_last_good_checkpoint(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("xadflow.training.loop.CHECKPOINT_EVERY", 1)
    settings = {**TINY, stage: {**TINY[stage], "learning_rate": 1e30, "warm_up": 0.0}}  # type: ignore[dict-item]
    with pytest.raises(TrainingFailed, match=r"stopped being a number; got .*lower learning_rate"):
        Utad(**settings).fit(training_data(), run_in(tmp_path))
    kept = tmp_path / stage / CHECKPOINT
    if kept.exists():
        players = torch.load(kept, weights_only=True)["module"]
        assert all(tensor.isfinite().all() for tensor in players.values())
    assert Utad(**TINY).fit(training_data(), run_in(tmp_path)).resumed_from == (
        0 if stage == "impression" else STEPS[0]
    )


def test_rates_climb_then_fall_along_their_curve():
    def shares(name: StageName, **settings: object) -> list[float]:
        return [rate_share(name, StageSettings(**settings), 200, number) for number in range(200)]  # type: ignore[arg-type]

    cosine = shares("impression", curve="cosine", warm_up=0.1)
    assert cosine[0] < 0.05 < 0.9 < max(cosine[19:25])
    assert cosine[-1] < 1e-3
    steps = shares("impression", curve="steps", warm_up=0.0)
    assert [round(steps[at], 6) for at in (0, 99, 100, 174, 175)] == [1.0, 1.0, 0.1, 0.1, 0.01]
    halves = shares("expert", curve="steps", warm_up=0.0)
    assert [halves[at] for at in (0, 19, 20, 199)] == [1.0, 1.0, 0.5, 0.5**9]


def test_images_are_moved_without_black_corners_and_the_target_stays_clean():
    images = 0.5 + 0.5 * torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    turned = moved(images, StageSettings(rotation=45.0, crop=0.8), torch.Generator().manual_seed(1))
    assert turned.min() >= 0.5 - 1e-5
    assert not torch.equal(turned, images)
    still = moved(images, StageSettings(flips="none"), torch.Generator().manual_seed(1))
    assert torch.equal(still, images)
    mirrored = moved(images, StageSettings(flips="horizontal"), torch.Generator().manual_seed(1))
    same, other = ((mirrored == one).flatten(1).all(1) for one in (images, images.flip(-1)))
    assert (same | other).all()
    assert 20 < same.sum() < 44
    before = images.clone()
    seen = corrupted(images, ImpressionSettings(corrupt=0.75), torch.Generator().manual_seed(2))
    assert torch.equal(images, before)
    share = (seen != images).flatten(1).any(1).float().mean().item()
    assert abs(share - 0.75) < 3 * (0.75 * 0.25 / 64) ** 0.5
