from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xadflow.calibration import calibrate
from xadflow.detectors.base import Scores
from xadflow.explainers.base import Counterfactual, Explanation, Judgement
from xadflow.metrics.intervals import wilson_rate
from xadflow.models.judges import Heard, Judge, JudgeRef, ask, cases_of, transfer_figures, with_words
from xadflow.models.judges.transfer import FEWEST_FLAGGED, Case, cases_of_rows, curve_figure, figures_of, transfer_curve

SHAPE = (1, 8, 8)


class Bright:
    """A judge whose score is the mean grey value."""

    def __init__(self, threshold: float) -> None:
        normals = np.linspace(0.0, threshold, 40)
        self.calibration = calibrate(normals, np.array([]), 0.025, "none")
        self.seen: list[int] = []

    def score(self, images: torch.Tensor) -> Scores:
        self.seen.append(len(images))
        return Scores(images.mean(dim=(1, 2, 3)))


def judge(threshold: float, number: int = 1) -> Judge:
    return Judge(JudgeRef("xad.plates.judge", number, "", "", True), Bright(threshold), "cpu")  # type: ignore[arg-type]


def grey(level: float) -> np.ndarray:
    return np.full(SHAPE, round(level * 255), np.uint8)


def told(*levels: float, region: float | None = None) -> Explanation:
    made = tuple(Counterfactual(k, grey(level), 0.0, 0.5, True, 1.0, 1.0, 0.5) for k, level in enumerate(levels))
    return Explanation(counterfactuals=made, metrics={} if region is None else {"region_share": region})


def word(is_normal: bool) -> Judgement:
    return Judgement("xad.plates.judge", 1, 0.0 if is_normal else 1.0, 0.5, is_normal)


def test_every_judge_is_asked_about_every_image_in_portions():
    judges = (judge(0.5), judge(0.8, 2))
    images = torch.from_numpy(np.stack([grey(level) for level in np.linspace(0.0, 1.0, 70)]))
    said = ask(judges, images)
    assert [len(words) for words in said] == [2] * 70
    assert judges[0].detector.seen == [32, 32, 6]  # type: ignore[attr-defined]
    for words, image in zip(said, images, strict=True):
        assert [one.version for one in words] == [1, 2]
        for one in words:
            assert one.score == pytest.approx(float(image[0, 0, 0]) / 255)
            assert one.is_normal == (one.score <= one.threshold)
    assert ask((), images[:2]) == [[], []]


def test_words_stand_beside_each_counterfactual_and_what_is_said_of_the_image_is_a_metric():
    images = np.stack([grey(0.9), grey(0.1), grey(0.9)])
    full = with_words((judge(0.5), judge(0.95, 2)), [told(0.2, 0.8), Explanation(), told(0.4)], images)
    assert [[one.is_normal for one in found.judges] for found in full[0].counterfactuals] == [
        [True, True],
        [False, True],
    ]
    assert full[1] == Explanation()
    assert full[2].metrics["judge_flags"] == 1.0
    assert full[2].metrics["judge_score"] == pytest.approx(0.9, abs=2e-3)
    assert full[2].metrics["judge_flags.1"] == 0.0
    unasked = told(0.2)
    assert with_words((), [unasked], images[:1])[0] is unasked


def test_the_originals_of_a_batch_are_asked_about_once_whatever_explains_them():
    judges = (judge(0.5), judge(0.95, 2))
    images = torch.from_numpy(np.stack([grey(level) for level in (0.9, 0.1, 0.7)]))
    first, second = [told(0.2), told(0.3), told(0.4)], [told(0.25, 0.5), told(0.35), told(0.45)]
    alone = [with_words(judges, explained, images) for explained in (first, second)]
    asked, heard = (judge(0.5), judge(0.95, 2)), Heard()
    assert [with_words(asked, explained, images, heard) for explained in (first, second)] == alone
    assert asked[0].detector.seen == [3, 3, 4]  # type: ignore[attr-defined]  # the originals, then both explainers' answers
    with_words(asked, [told(0.2), Explanation(), told(0.4)], images, heard)  # other company: their sums may differ
    assert asked[0].detector.seen[3:] == [2, 2]  # type: ignore[attr-defined]
    with_words(asked[:1], first, images, heard)
    assert asked[0].detector.seen[5:] == [3, 3]  # type: ignore[attr-defined]  # other judges


def test_an_anomaly_that_the_judge_does_not_flag_counts_for_nothing():
    flagged, missed = [word(False)], [word(True)]
    cases = [told(0.1, 0.1)] * 12 + [told(0.1, 0.1)] * 20
    before = [flagged] * 12 + [missed] * 20
    after = (
        [[[word(True)], [word(False)]]] * 6 + [[[word(True)], [word(True)]]] * 6 + [[[word(True)], [word(True)]]] * 20
    )
    figures = transfer_figures(cases, before, after)
    assert figures == {"transfer": 0.75, "judge_flagged": 12.0, "judge_recall": 12 / 32}


def test_of_few_flagged_anomalies_no_transfer_is_told():
    few = FEWEST_FLAGGED - 1
    figures = transfer_figures([told(0.1)] * few, [[word(False)]] * few, [[[word(True)]]] * few)
    assert math.isnan(figures["transfer"])
    assert figures["judge_flagged"] == few
    assert transfer_figures([], [], []) == {}
    assert transfer_figures([Explanation(), told(0.1)], [[word(False)], []], [[], [[]]]) == {}


def test_the_area_is_the_median_of_those_that_have_one():
    cases = [told(0.1, region=area) for area in (0.1, 0.2, 0.6)] + [told(0.1)]
    assert transfer_figures(cases, [[word(False)]] * 4, [[[word(True)]]] * 4)["region_share"] == 0.2


def test_rows_of_the_table_give_the_same_cases_as_explanations():
    images = np.stack([grey(0.9), grey(0.3), grey(0.7)])
    judges = (judge(0.5), judge(0.8, 2))
    explained = [told(0.2, 0.8, region=0.25), told(0.1), told(0.6)]
    full = with_words(judges, explained, images)
    rows = [
        {
            "metrics": [{"name": name, "value": value} for name, value in one.metrics.items()],
            "counterfactuals": [{"judges": [asdict(said) for said in found.judges]} for found in one.counterfactuals],
        }
        for one in full
    ]
    after = [[list(found.judges) for found in one.counterfactuals] for one in full]
    mine, theirs = cases_of_rows(rows), cases_of(explained, ask(judges, images), after)
    assert [(one.flagged, one.normal) for one in mine] == [(one.flagged, one.normal) for one in theirs]
    assert [one.flagged for one in mine] == [(True, True), (False, False), (True, False)]
    assert mine[0].region == 0.25
    unasked = {"metrics": [], "counterfactuals": [{"judges": None}]}
    assert cases_of_rows([unasked, {"metrics": None, "counterfactuals": None}]) == []


def case(region: float, *, mended: bool, flagged: bool = True) -> Case:
    return Case((flagged,), ((mended,),), region)


def test_the_curve_has_equal_bins_with_wilsons_intervals_and_needs_enough_rows():
    cases = [case(place / 100, mended=place >= 20) for place in range(40)]
    random = np.random.default_rng(0).permutation(40)
    points = transfer_curve([cases[place] for place in random] + [case(0.5, mended=True, flagged=False)] * 30)
    assert [(point.low, point.high, point.rate.of) for point in points] == [
        (0.0, 0.09, 10),
        (0.1, 0.19, 10),
        (0.2, 0.29, 10),
        (0.3, 0.39, 10),
    ]
    assert [point.rate for point in points] == [wilson_rate(count, 10) for count in (0, 0, 10, 10)]
    assert transfer_curve(cases[:19]) == []
    assert transfer_curve([case(math.nan, mended=True)] * 60) == []
    assert len(transfer_curve(cases * 5)) == 5


def test_the_curve_is_drawn(tmp_path: Path):
    cases = [case(place / 100, mended=place % 3 > 0) for place in range(60)]
    curve_figure({"transplant": transfer_curve(cases), "sparse": []}, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 600
        assert len(set(picture.convert("L").tobytes())) > 20


def test_several_judges_count_only_where_they_flag():
    one = Case((True, False), ((True, False), (False, True)), math.nan)
    assert one.counts
    assert one.share() == 0.5
    assert not Case((False, False), ((True, True),), math.nan).counts
    assert figures_of([one] * FEWEST_FLAGGED)["transfer"] == 0.5
