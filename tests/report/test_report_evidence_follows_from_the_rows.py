from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp

from xadflow.images import encode_png
from xadflow.pictures.plots import difference_picture, heat_overlay
from xadflow.report.evidence import drift_of, explainer_figures, score_quantiles, worst_cases
from xadflow.report.transplanted import outline_of


def stored(pixels):
    return {"bytes": encode_png(pixels), "path": None}


def rows_of(image_id, score, original, answers=(), heat=None):
    """The two rows, one an explainer, that the table holds for one flagged image."""
    shared = {
        "image_id": image_id,
        "image_path": f"inbox/{image_id}.png",
        "score": score,
        "threshold": 1.0,
        "p_value": 0.01,
        "original": stored(original),
    }
    heatmap = None if heat is None else stored(np.rint(255 * (heat - heat.min()) / np.ptp(heat)).astype(np.uint8))
    low, high = (None, None) if heat is None else (float(heat.min()), float(heat.max()))
    counterfactuals = [
        {
            "concept": concept,
            "image": stored(image),
            "score": 0.5,
            "is_normal": is_normal,
            "changed_fraction": changed,
            "judges": None,
            "donor_id": None,
        }
        for concept, (image, is_normal, changed) in enumerate(answers)
    ]
    return [
        shared
        | {
            "explainer": "heatmap",
            "heatmap": heatmap,
            "heatmap_min": low,
            "heatmap_max": high,
            "counterfactuals": None,
            "metrics": None,
        },
        shared
        | {
            "explainer": "sparse",
            "heatmap": None,
            "heatmap_min": None,
            "heatmap_max": None,
            "counterfactuals": counterfactuals,
            "metrics": [{"name": "change_inside", "value": score / 10}],
        },
    ]


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (4, 1, 16, 16), dtype=np.uint8)


def test_the_highest_scores_come_first_and_rows_of_one_image_become_one_case(pictures):
    rows = [row for number, score in enumerate((2.0, 9.0, 5.0)) for row in rows_of(str(number), score, pictures[0])]
    assert [case.image_id for case in worst_cases(rows, top=2)] == ["1", "2"]
    assert len(worst_cases(rows, top=10)) == 3
    assert worst_cases([]) == ()


def test_the_counterfactual_shown_is_normal_and_changes_least(pictures):
    answers = [(pictures[1], False, 0.01), (pictures[2], True, 0.5), (pictures[3], True, 0.2)]
    (case,) = worst_cases(rows_of("a", 3.0, pictures[0], answers))
    assert (case.counterfactual == pictures[3]).all()
    assert (case.counterfactual_is_normal, case.changed_fraction) == (True, 0.2)
    (failed,) = worst_cases(rows_of("a", 3.0, pictures[0], answers[:1]))
    assert failed.counterfactual_is_normal is False
    change = np.abs(pictures[1].astype(float) - pictures[0])[0]
    most = np.quantile(change, 0.999) / 255
    assert (failed.difference == difference_picture(pictures[0], pictures[1], most)).all()


def test_all_counterfactuals_are_shown_of_an_explainer_that_gives_several_and_of_no_other(pictures):
    single = rows_of("a", 3.0, pictures[0], [(pictures[1], True, 0.1)])
    _, row = rows_of("a", 3.0, pictures[0], [(pictures[2], True, 0.3), (pictures[3], False, 0.4)])
    several = row | {"explainer": "diverse"}
    assert worst_cases(single)[0].alternatives == ()
    (case,) = worst_cases([*single, several])
    assert (case.counterfactual == pictures[1]).all()
    found = [(one.explainer, one.concept, one.is_normal, one.changed_fraction) for one in case.alternatives]
    assert found == [("diverse", 0, True, 0.3), ("diverse", 1, False, 0.4)]
    for one, expected in zip(case.alternatives, pictures[2:], strict=True):
        assert (one.picture == expected).all()
        assert one.difference.shape == (3, 16, 16)


def test_heat_is_laid_on_one_scale_from_restored_raw_values(pictures):
    mild, hot = (np.linspace(0, top, 256).reshape(16, 16) for top in (1.0, 10.0))
    rows = rows_of("mild", 2.0, pictures[0], heat=mild) + rows_of("hot", 3.0, pictures[0], heat=hot)
    shown = {case.image_id: case.overlay for case in worst_cases(rows)}
    low, high = np.quantile(np.concatenate([mild.ravel(), hot.ravel()]), (0.5, 0.995))
    for name, heat in (("mild", mild), ("hot", hot)):
        expected = heat_overlay(pictures[0], heat, low, high)
        assert np.abs(shown[name].astype(int) - expected).max() <= 8  # what 8 bits of the hot map's range cost
    bare = np.repeat(pictures[0], 3, axis=0)
    assert np.abs(shown["mild"].astype(int) - bare).mean() < np.abs(shown["hot"].astype(int) - bare).mean()


def test_an_image_without_pictures_is_a_case_all_the_same(pictures):
    rows = rows_of("a", 3.0, pictures[0])
    for row in rows:
        row["original"] = None
    (case,) = worst_cases(rows)
    assert case.original is case.overlay is case.counterfactual is case.difference is None


def with_donors(row, answers, regions):
    """The same image's row of an explainer that takes pixels: (picture, donor, judges' verdicts, share replaced) an
    answer.
    """
    judge = {"name": "judge", "version": 2, "score": 1.0, "threshold": 2.0}
    counterfactuals = [
        {
            "concept": concept,
            "image": stored(image),
            "score": 0.5,
            "is_normal": True,
            "changed_fraction": 0.001,
            "donor_id": donor,
            "judges": [{**judge, "is_normal": one} for one in verdicts],
        }
        for concept, (image, donor, verdicts, _) in enumerate(answers)
    ]
    images = [
        {"name": f"transplant.{concept}.region", "image": stored(one), "min": 0.0, "max": 1.0}
        for concept, one in enumerate(regions)
    ]
    metrics = [{"name": f"region_share.{concept}", "value": answer[3]} for concept, answer in enumerate(answers)]
    return {
        **row,
        "explainer": "transplant",
        "heatmap": None,
        "counterfactuals": counterfactuals,
        "images": images,
        "metrics": [*metrics, {"name": "region_share", "value": 1.0}],
    }


def test_transplants_stand_apart_with_their_donors_regions_and_verdicts(pictures):
    region = np.zeros((1, 16, 16), np.uint8)
    region[0, 4:8, 2:12] = 255
    rows = rows_of("a", 8.0, pictures[0], [(pictures[1], True, 0.1)])
    rows.append(
        with_donors(
            rows[0], [(pictures[2], "d0", [True, False], 0.4), (pictures[3], "d1", [True], 0.95)], [region, region]
        )
    )
    (case,) = worst_cases(rows, 12, {"d1": "images/train/good/7.png"})
    assert (case.counterfactual == pictures[1]).all()  # though a transplant changes fewer pixels
    assert case.alternatives == ()
    first, second = case.transplants
    assert (first.picture == pictures[2]).all()
    assert [(one.concept, one.donor_id, one.donor_path, one.replaced, one.is_whole) for one in (first, second)] == [
        (0, "d0", None, 0.4, False),
        (1, "d1", "images/train/good/7.png", 0.95, True),
    ]
    assert [(said.judge, said.version, said.is_normal) for said in first.verdicts] == [
        ("judge", 2, True),
        ("judge", 2, False),
    ]
    assert second.outline == ()
    (line,) = first.outline
    xs, ys = zip(*line, strict=True)
    assert (min(xs), max(xs)) == pytest.approx((2 / 16, 12 / 16), abs=0.01)
    assert (min(ys), max(ys)) == pytest.approx((4 / 16, 8 / 16), abs=0.01)
    figures = {one.explainer: one for one in explainer_figures(rows)}
    assert figures["transplant"].region == 1.0
    assert math.isnan(figures["sparse"].transfer)
    assert math.isnan(figures["sparse"].region)


def test_parts_of_the_first_region_are_those_of_the_row_in_their_order(pictures):
    row = with_donors(
        rows_of("a", 8.0, pictures[0])[0], [(pictures[2], "d0", [], 0.4)], [np.zeros((1, 16, 16), np.uint8)]
    )
    row["images"] += [
        {"name": f"transplant.part.{number}", "image": stored(pictures[number]), "min": 0.0, "max": 1.0}
        for number in (2, 1, 3)
    ]
    row["metrics"] += [
        {"name": "part.1.score", "value": 9.5},
        {"name": "part.1.is_normal", "value": 0.0},
        {"name": "part.2.score", "value": 0.25},
        {"name": "part.2.is_normal", "value": 1.0},
    ]
    (case,) = worst_cases([row])
    assert [(one.number, one.is_normal, one.score) for one in case.parts] == [(1, False, 9.5), (2, True, 0.25)]
    assert (case.parts[1].picture == pictures[2]).all()
    assert worst_cases(rows_of("a", 8.0, pictures[0]))[0].parts == ()


def test_transfer_is_that_of_images_which_the_judge_flags_and_the_heatmaps_map_goes_before_others(pictures):
    rows = [
        with_donors(rows_of(str(number), 3.0, pictures[0])[0], [(pictures[1], "d", [number % 4 > 0], 0.3)], [])
        for number in range(12)
    ]
    for row in rows:
        row["metrics"] += [{"name": "judge_score", "value": 3.0}, {"name": "judge_flags", "value": 1.0}]
    (figures,) = explainer_figures(rows)
    assert figures.transfer == pytest.approx(9 / 12)
    heat = np.linspace(0.0, 1.0, 256).reshape(16, 16)
    plain, _ = rows_of("0", 3.0, pictures[0], heat=heat)
    other = {**rows[0], "heatmap": stored(np.zeros((16, 16), np.uint8)), "heatmap_min": 0.0, "heatmap_max": 1.0}
    assert [said.is_blind for case in worst_cases(rows[:1]) for said in case.transplants[0].verdicts] == [False]
    rows[0]["metrics"][-1]["value"] = 0.0
    assert [said.is_blind for case in worst_cases(rows[:1]) for said in case.transplants[0].verdicts] == [True]
    (first,), (second,) = worst_cases([other, plain]), worst_cases([plain])
    assert (first.overlay == second.overlay).all()


def test_a_border_is_closed_at_the_images_edge_and_there_may_be_several():
    region = np.zeros((20, 10), np.uint8)
    region[:5] = 255
    region[12:16, 3:6] = 255
    first, second = sorted(outline_of(region), key=lambda line: min(y for _, y in line))
    assert first[0] == first[-1]
    assert (min(x for x, _ in first), max(x for x, _ in first)) == (0, 1)
    assert max(y for _, y in first) == pytest.approx(5 / 20, abs=0.01)
    assert (min(y for _, y in second), max(y for _, y in second)) == pytest.approx((12 / 20, 16 / 20), abs=0.01)
    assert outline_of(np.zeros((8, 8), np.uint8)) == ()


def test_an_explainers_figures_are_over_its_own_rows(pictures):
    rows = rows_of("a", 8.0, pictures[0], [(pictures[1], True, 0.1), (pictures[2], False, 0.3)])
    rows += rows_of("b", 4.0, pictures[0], [(pictures[1], True, 0.2)])
    heatmap, sparse = explainer_figures(rows)
    assert (heatmap.explainer, heatmap.rows, heatmap.counterfactuals) == ("heatmap", 2, 0)
    assert math.isnan(heatmap.flip_rate)
    assert math.isnan(heatmap.change_inside)
    assert sparse.flip_rate == pytest.approx(2 / 3)
    assert sparse.changed_fraction == 0.2
    assert sparse.change_inside == pytest.approx(0.6)
    assert explainer_figures([]) == ()


def test_a_figure_that_was_not_measured_is_left_out_of_the_mean(pictures):
    rows = rows_of("a", 8.0, pictures[0]) + rows_of("b", 4.0, pictures[0])
    rows[1]["metrics"][0]["value"] = math.nan
    assert explainer_figures(rows)[1].change_inside == pytest.approx(0.4)


def test_drift_is_scipys_test_and_silent_on_few_images():
    rng = np.random.default_rng(1)
    now, past = rng.random(80) ** 2, rng.random(300)
    found, expected = drift_of(now, past), ks_2samp(now, past)
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue, abs=5e-4)  # asymptotic against exact
    assert not found.is_alarming  # p = .016
    assert drift_of(rng.random(200) ** 2, past).is_alarming
    assert drift_of(now[:19], past) is None
    assert drift_of(now, []) is None


def test_quantiles_stand_side_by_side_and_need_both_sets():
    found = score_quantiles(np.arange(101.0), np.arange(0.0, 202.0, 2.0))
    assert [(one.now, one.normals) for one in found] == [(5, 10), (25, 50), (50, 100), (75, 150), (95, 190)]
    assert score_quantiles([], [1.0]) == ()
