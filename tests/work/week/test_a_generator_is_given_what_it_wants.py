"""Pairs, companions, trunk and held-out normals for the training of an explainer, from train and val alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.explainers.conftest import ToyDetector, patterned, with_defects
from xadflow.datasets.manifest import ManifestRow
from xadflow.detectors.base import FitRun, TrainingData
from xadflow.explainers.trained import Pairs, Wanted
from xadflow.explainers.transplant.bank import DonorBank, DonorList
from xadflow.models.judges import donor_half
from xadflow.work.week import explainer_guidance
from xadflow.work.week.explainer_guidance import (
    donors_of,
    guidance,
    rows_of_donors,
    synthetic_pairs,
    together,
    transplant_pairs,
)


@pytest.fixture
def data() -> TrainingData:
    known = with_defects(patterned(4, 82), 83)[0]
    return TrainingData(patterned(40, 80), patterned(60, 81), known, None, known[:0])


@pytest.fixture
def run(tmp_path: Path) -> FitRun:
    return FitRun(tmp_path, 0, 0.05, "cpu")


def test_a_synthetic_pair_is_a_normal_with_a_drawn_defect_and_that_normal(data: TrainingData) -> None:
    pairs = synthetic_pairs(data.normals, "defects", 3, 0)
    assert (len(pairs.flawed), pairs.of.shape) == (120, (120, 1))
    assert torch.equal(pairs.mended, data.normals)
    changed = (pairs.flawed != pairs.mended[pairs.of[:, 0]]).flatten(1)
    assert changed.any(dim=1).all()
    assert changed.float().mean() < 0.5
    assert not torch.equal(pairs.flawed[:40], pairs.flawed[40:80])
    assert torch.equal(pairs.flawed, synthetic_pairs(data.normals, "defects", 3, 0).flawed)
    assert not torch.equal(pairs.flawed, synthetic_pairs(data.normals, "defects", 3, 1).flawed)


def test_pairs_are_at_most_so_many_whatever_is_asked(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explainer_guidance, "MOST_PAIRS", 90)
    assert len(synthetic_pairs(data.normals, "defects", 9, 0).flawed) == 80
    monkeypatch.setattr(explainer_guidance, "MOST_PAIRS", 30)
    assert len(synthetic_pairs(data.normals, "defects", 9, 0).flawed) == 30


def test_transplants_of_an_anomaly_and_their_mirrored_copies_are_pairs(
    trained: ToyDetector, data: TrainingData
) -> None:
    bank = DonorBank(tuple(map(str, range(40))), data.normals, "none", aligned=True)
    images = torch.cat([data.known, data.normals[:2]])  # normals already: nothing to mend, so no pair
    with torch.no_grad():
        flagged = trained.score(images.float() / 255).image > trained.calibration.threshold
    assert flagged.tolist() == [True] * 4 + [False] * 2
    found = transplant_pairs(trained, images, bank, 2, "flips")
    assert found is not None
    assert found.of.shape == (16, 2)
    for number, image in enumerate(data.known):
        for copy, axes in enumerate(([], [2], [1], [1, 2])):
            assert torch.equal(found.flawed[4 * number + copy], image.flip(axes))
            for mended, plain in zip(found.of[4 * number + copy], found.of[4 * number], strict=True):
                assert torch.equal(found.mended[mended], found.mended[plain].flip(axes))
    with torch.no_grad():
        assert (
            trained.score(found.mended.float() / 255).image[found.of[::4].flatten()] <= trained.calibration.threshold
        ).all()
    assert transplant_pairs(trained, data.normals[:2], bank, 2, "none") is None


def test_few_pairs_are_repeated_to_their_share_and_keep_their_alternatives() -> None:
    many = Pairs(
        torch.full((90, 1, 4, 4), 1, dtype=torch.uint8),
        torch.full((5, 1, 4, 4), 2, dtype=torch.uint8),
        torch.arange(90)[:, None] % 5,
    )
    levels = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(-1, 1, 4, 4)
    few = Pairs(torch.full((3, 1, 4, 4), 3, dtype=torch.uint8), levels, torch.tensor([[0, 1], [2, 3], [4, 5]]))
    found = together(many, few, 0.25)
    assert len(found.flawed) == 90 + 10 * 3
    assert (found.flawed[90:] == 3).all()
    assert found.of[:90, 0].equal(found.of[:90, 1])
    assert found.mended[found.of[93]][:, 0, 0, 0].tolist() == [0, 1]
    assert found.mended[found.of[-1]][:, 0, 0, 0].tolist() == [4, 5]


def test_what_is_not_wanted_is_not_made(trained: ToyDetector, data: TrainingData, run: FitRun) -> None:
    given = guidance(Wanted(rounds=1), trained, data, run)
    assert given.pairs is not None
    assert (given.companions, given.features, given.held_out) == ((), None, None)
    assert guidance(Wanted(held_out=True), trained, data, run).pairs is None
    assert torch.equal(guidance(Wanted(held_out=True), trained, data, run).held_out, data.val_normals)


def test_a_companion_is_fitted_once_on_the_normals_that_it_may_see(
    trained: ToyDetector, data: TrainingData, run: FitRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Fitted(ToyDetector):
        def fit(self, given, fit_run):
            seen.append((given, fit_run))

        def save(self, folder):
            folder.mkdir()
            (folder / "detector.json").write_text("{}")

    companion = Fitted(trained.network, trained.input_shape, trained.calibration)
    monkeypatch.setattr(
        explainer_guidance, "build_detector", lambda method, **settings: companion if method == "toy" else None
    )
    monkeypatch.setattr(explainer_guidance, "load_detector", lambda folder: companion)
    wanted = Wanted(companions=(("toy", {}),))
    for _ in range(2):
        assert guidance(wanted, trained, data, run, apart=[3, 5]).companions == (companion,)
    ((given, fit_run),) = seen
    assert torch.equal(given.normals, data.normals[[3, 5]])
    assert torch.equal(given.val_normals, data.val_normals)
    assert len(given.known) == len(given.calibration_defects) == 0
    assert (fit_run.seed, fit_run.false_alarm_rate) == (run.seed, run.false_alarm_rate)


def test_the_bank_is_that_of_the_version_without_donors_that_are_no_train_normals_any_more(tmp_path: Path) -> None:
    normals = patterned(4, 84)
    assert donors_of(tmp_path, ["a", "b", "c", "d"], normals) is None
    DonorList(("d", "gone", "b"), "none", True, 4, True).save(tmp_path)
    bank = donors_of(tmp_path, ["a", "b", "c", "d"], normals)
    assert bank is not None
    assert (bank.ids, bank.missing) == (("d", "b"), 1)
    assert torch.equal(bank.images, normals[[3, 1]])
    assert donors_of(tmp_path, ["a", "c"], normals[:2]) is None


def test_companions_learn_from_the_half_that_gives_donors_and_not_from_the_judges() -> None:
    rows = [
        ManifestRow(f"{number:064x}", f"images/{number}.png", "train", 0, "cell", None, None, 8, 8, "drawn", "none")
        for number in range(200)
    ]
    judged = {row.image_id for row in donor_half(rows).judged}
    chosen = rows_of_donors(rows)
    assert 60 < len(chosen) < 140
    assert not {rows[place].image_id for place in chosen} & judged
    assert rows_of_donors(rows[:20]) == list(range(20))


def test_an_explainer_of_before_is_not_given_guidance() -> None:
    from xadflow.explainers.trained import Guided

    assert not isinstance(SimpleNamespace(fit=lambda detector, weights, normals, anomalies, run: None), Guided)
