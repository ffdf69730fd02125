from pathlib import Path

import numpy as np
import pytest
import torch

from tests.work.probe.conftest import MARK, SIDE, TemplateDetector, gravel
from xadflow.detectors import FitRun, Scores, TrainingData
from xadflow.errors import BadInput, WorkFailed
from xadflow.metrics.explanation import heat_inside
from xadflow.metrics.ranks import auroc
from xadflow.work.probe.cells import Cell, measured
from xadflow.work.probe.planting import carriers, ground, marked_test, planted
from xadflow.work.probe.verdict import judged

LABELS = np.array([0] * 60 + [1] * 60)


def cell(data: TrainingData, rate: float, run: FitRun, side="outliers", seed: int = 0) -> tuple[Cell, float]:
    """One cell, and the area of the mark."""
    test = marked_test(gravel(len(LABELS), 7), LABELS, MARK, 0)
    detector = TemplateDetector()
    detector.fit(planted(ground(detector, data, side, 0), rate, MARK, seed), run)
    return measured(detector, test, [0, 70], 32, torch.device("cpu")), float(test.masks.float().mean())


def verdict(data: TrainingData, rate: float, run: FitRun, side="outliers"):
    control, area = cell(data, 0.0, run, side)
    probed, _ = cell(data, rate, run, side)
    return judged([probed], [control], LABELS, area, carriers(LABELS, side, rate, 0), side)


def test_a_detector_that_sees_nothing_but_the_mark_is_caught(same_kind: TrainingData, run_here: FitRun):
    said = verdict(same_kind, 1.0, run_here)
    heat, ranks = said["heat"]["planted_side"], said["auroc"]
    assert heat["share"] > 0.95
    assert heat["control"] < 0.4
    assert heat["excess"] == pytest.approx(heat["share"] - heat["control"])
    assert ranks["planted"]["value"] > 0.95
    assert abs(ranks["raw"]["value"] - 0.5) < 0.15
    assert ranks["other_side"]["value"] < 0.06
    assert said["removal"]["change"] < -0.35
    assert said["removal"]["low"] <= said["removal"]["change"] <= said["removal"]["high"] < -0.2
    assert said["alarm"] == ["heat", "auroc"]


def test_a_mark_on_normals_hides_anomalies_and_is_caught_by_auroc(same_kind: TrainingData, run_here: FitRun):
    said = verdict(same_kind, 1.0, run_here, "normals")
    assert said["auroc"]["planted"]["value"] > 0.95  # marked normals look most normal
    assert said["auroc"]["other_side"]["value"] < 0.06  # and marked anomalies pass
    assert "auroc" in said["alarm"]


def test_the_control_beside_itself_is_no_alarm(same_kind: TrainingData, run_here: FitRun):
    said = verdict(same_kind, 0.0, run_here)
    assert said["alarm"] == []
    assert said["heat"]["planted_side"]["excess_low"] == said["heat"]["planted_side"]["excess_high"] == 0.0
    assert said["auroc"]["raw"]["value"] == said["auroc"]["planted"]["value"]
    assert said["removal"]["change"] == 0.0


def test_figures_of_several_seeds_are_means_and_their_spread_is_told(same_kind: TrainingData, run_here: FitRun):
    control = [cell(same_kind, 0.0, run_here)[0]] * 2
    probed = [cell(same_kind, 0.3, run_here, seed=seed)[0] for seed in (0, 1)]
    said = judged(probed, control, LABELS, 0.1, carriers(LABELS, "outliers", 0.3, 0), "outliers")
    per_seed = [auroc(one.raw, LABELS) for one in probed]
    assert said["auroc"]["raw"]["value"] == pytest.approx(np.mean(per_seed))
    assert said["seed_spread"]["auroc_raw"] == pytest.approx(abs(per_seed[0] - per_seed[1]))
    shares = [one.heat[LABELS == 1].mean() for one in probed]
    assert said["heat"]["planted_side"]["share"] == pytest.approx(np.mean(shares))


def test_each_copy_of_the_test_set_is_scored_as_if_it_had_been_made(same_kind: TrainingData, run_here: FitRun):
    """The scores of a copy, put together from two passes, against scores of the copy itself."""
    test = marked_test(gravel(len(LABELS), 7), LABELS, MARK, 0)
    detector = TemplateDetector()
    detector.fit(planted(ground(detector, same_kind, "outliers", 0), 0.5, MARK, 0), run_here)
    one = measured(detector, test, [], 32, torch.device("cpu"))
    carrying = carriers(LABELS, "outliers", 0.5, 0)
    copy = torch.where(torch.from_numpy(carrying)[:, None, None, None], test.marked, test.images)
    expected = detector.score(copy.float() / 255).image.double().numpy()
    said = judged([one], [one], LABELS, 0.1, carrying, "outliers")
    assert said["auroc"]["planted"]["value"] == pytest.approx(auroc(expected, LABELS))
    other = torch.where(torch.from_numpy(LABELS == 0)[:, None, None, None], test.marked, test.images)
    expected = detector.score(other.float() / 255).image.double().numpy()
    assert said["auroc"]["other_side"]["value"] == pytest.approx(auroc(expected, LABELS))


def test_tied_scores_are_counted_not_hidden():
    flat = Cell(np.zeros(120), np.arange(120.0), np.full(120, 0.1), np.full(120, 0.1), np.zeros((0, 2, 2)), 0.0)
    said = judged([flat], [flat], LABELS, 0.1, carriers(LABELS, "outliers", 1.0, 0), "outliers")
    assert said["auroc"]["raw"]["tied_share"] == 1.0
    assert said["auroc"]["raw"]["value"] == 0.5


def test_heat_shares_by_hand():
    maps = np.array([[[1.0, 1.0], [2.0, 4.0]], [[5.0, 5.0], [5.0, 5.0]], [[-3.0, -1.0], [-1.0, -3.0]]])
    masks = np.zeros((3, 2, 2), dtype=bool)
    masks[:, 1, 1] = True
    assert heat_inside(maps, masks).tolist() == [0.75, 0.25, 0.0]
    assert heat_inside(1000 + 7 * maps, masks).tolist() == pytest.approx([0.75, 0.25, 0.0])
    with pytest.raises(BadInput, match="one shape"):
        heat_inside(maps, masks[:2])
    with pytest.raises(BadInput, match="finite"):
        heat_inside(np.full((1, 2, 2), np.nan), masks[:1])


def test_a_detector_without_a_map_is_measured_by_its_gradient(same_kind: TrainingData, run_here: FitRun):
    class Mapless(TemplateDetector):
        def score(self, images: torch.Tensor) -> Scores:
            return Scores(super().score(images).image)

    detector = Mapless()
    detector.fit(planted(ground(detector, same_kind, "outliers", 0), 1.0, MARK, 0), run_here)
    test = marked_test(gravel(len(LABELS), 7), LABELS, MARK, 0)
    assert measured(detector, test, [3], 32, torch.device("cpu")).maps.shape == (1, SIDE, SIDE)
    assert measured(detector, test, [3], 32, torch.device("cpu")).heat.mean() > 0.7


def test_a_cell_comes_back_as_it_was_saved_and_a_broken_one_is_named(same_kind, run_here, tmp_path: Path):
    one, _ = cell(same_kind, 1.0, run_here)
    path = tmp_path / "key" / "cell.npz"
    one.save(path)
    again = Cell.load(path)
    for name in ("raw", "marked", "heat", "heat_raw", "maps"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert again.seconds == one.seconds
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(WorkFailed, match="made again"):
        Cell.load(path)
