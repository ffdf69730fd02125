"""The sparse explainer on a trained toy detector, its figures recomputed from the stored 8-bit images."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xadflow.detectors.base import Scores
from xadflow.errors import BadInput, BadSettings
from xadflow.explainers.base import Explainer
from xadflow.explainers.sparse.explainer import SparseExplainer, SparseSettings, _widened
from xadflow.images import as_float
from xadflow.metrics.explanation import change_inside, flip_rate, top_share

SCALE = (24 * 24 / (3 * 224 * 224)) ** (1 / 1.5)


@pytest.fixture(scope="module")
def explained(trained, defective):
    return defective[0], SparseExplainer().explain(trained, as_float(defective[0]))


def stored(told):
    return torch.from_numpy(np.stack([one.counterfactuals[0].image for one in told]))


def test_anomalies_flip_where_random_changes_of_the_same_size_do_not(trained, explained):
    images, told = explained
    with torch.no_grad():
        assert (trained.normal_logit(as_float(images)) < 0).float().mean() > 0.95  # they were anomalous
        flipped = trained.score(as_float(stored(told))).image.double() <= trained.calibration.threshold
    assert flip_rate(flipped.numpy()) > 0.9
    assert flip_rate([one.counterfactuals[0].is_normal for one in told]) == flip_rate(flipped.numpy())
    generator = torch.Generator().manual_seed(0)
    change = (stored(told).float() - images.float()).flatten(1)
    shuffled = torch.stack([row[torch.randperm(row.numel(), generator=generator)] for row in change]).view(images.shape)
    control = (images.float() + shuffled).round().clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        by_chance = trained.score(as_float(control)).image.double() <= trained.calibration.threshold
    assert flip_rate(by_chance.numpy()) < 0.3


def test_figures_are_those_of_the_stored_image(trained, explained):
    images, told = explained
    with torch.no_grad():
        scores = trained.score(as_float(stored(told))).image.double().numpy()
        p_normal = torch.sigmoid(trained.normal_logit(as_float(stored(told)))).numpy()
    for row, one in enumerate(told):
        found = one.counterfactuals[0]
        change = (found.image.astype(float) - images[row].numpy().astype(float)) / 255
        assert found.image.dtype == np.uint8
        assert found.image.shape == (1, 24, 24)
        assert found.score == pytest.approx(scores[row], abs=1e-5)
        assert found.p_value == float(trained.calibration.p_value(np.array([found.score]))[0])
        assert found.is_normal == (found.score <= trained.calibration.threshold)
        assert found.l1 == pytest.approx(np.abs(change).sum())
        assert found.l2 == pytest.approx(np.sqrt((change**2).sum()))
        assert found.changed_fraction == pytest.approx((change[0] != 0).mean())
        assert one.metrics["p_normal_after"] == pytest.approx(p_normal[row], abs=1e-4)
        assert one.metrics["lp_norm"] == pytest.approx((np.abs(change) ** 1.5).sum() ** (1 / 1.5))
        assert one.metrics["reached"] == (one.metrics["p_normal_after"] >= 0.6 - 1e-5)
        mask = top_share(one.heatmap, 0.25)
        if found.l1 > 0:
            assert one.metrics["change_inside"] == change_inside(images[row].numpy(), found.image, mask)


def test_with_p_one_fewer_pixels_change(trained, defective):
    """Published radii at p = 1 are 400 to 800 where they are 50 to 100 at 1.5: the ladder of equal mean change has
    them.
    """
    images = as_float(defective[0][:12])
    few, more = (SparseExplainer(p=p).explain(trained, images) for p in (1.0, 1.5))
    assert np.mean([one.counterfactuals[0].is_normal for one in few]) > 0.9
    changed = [np.median([one.counterfactuals[0].changed_fraction for one in told]) for told in (few, more)]
    assert changed[0] < 0.7 * changed[1]
    ladder = SparseSettings(p=1.0).ladder(3 * 224 * 224)
    assert ladder[0] < 400 < 800 < ladder[-1]
    assert ladder[3] / 150528 == pytest.approx(
        50 / 150528 ** (1 / 1.5)
    )  # mean |change| of an even change on the sphere


def test_a_target_that_no_normal_image_reaches_is_lowered_to_their_median(trained, defective):
    """With a high temperature even the best normal has P(normal) near .5: .6 would never be there, and the search not
    end.
    """
    flat = copy.copy(trained)
    flat._calibration = dataclasses.replace(trained.calibration, temperature=100 * trained.calibration.temperature)
    median = float(np.median(flat.calibration.normal_scores))
    target = 1 / (1 + np.exp((median - flat.calibration.threshold) / flat.calibration.temperature))
    assert 0.5 < target < 0.6
    told = SparseExplainer().explain(flat, as_float(defective[0][:8]))
    assert [one.metrics["reached"] for one in told] == [1.0] * 8
    for one in told:
        assert one.metrics["p_normal_after"] >= target - 1e-6
        assert one.counterfactuals[0].is_normal


def test_rounding_costs_a_reached_image_nothing_but_what_is_stated(trained, explained):
    _, told = explained
    for one in told:
        assert one.metrics["rounding_cost"] >= 0
        if one.metrics["reached"]:
            assert one.counterfactuals[0].is_normal


def test_change_stays_inside_the_dilated_mask_unless_it_was_widened(trained, explained):
    images, told = explained
    reach = round(0.0625 * 24)
    for row, one in enumerate(told):
        changed = (one.counterfactuals[0].image != images[row].numpy()).any(axis=0)
        mask = top_share(one.heatmap, 0.25) | (one.heatmap > trained.calibration.threshold)
        wide = np.zeros_like(mask)
        for y, x in np.argwhere(mask):
            wide[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = True
        if one.metrics["mask_widened"]:
            assert one.metrics["mask_share"] == 1.0
        else:
            assert not (changed & ~wide).any()
            assert one.metrics["mask_share"] == pytest.approx(wide.mean())


def test_the_first_rung_that_works_is_used(trained, explained):
    _, told = explained
    radii = [
        0.0,
        *(radius * SCALE for radius in (6.25, 12.5, 25.0, 50.0, 100.0, 200.0, 400.0, 400.0)),
    ]  # the last one twice
    for one in told:
        assert one.metrics["eps"] == pytest.approx(radii[int(one.metrics["rungs"])], rel=1e-5)
    assert len({one.metrics["rungs"] for one in told}) > 1


def test_a_longer_ladder_reaches_no_less(trained, anomalies):
    few = SparseExplainer(radii=(6.25, 12.5), widen_mask=False, iterations=1).explain(trained, as_float(anomalies))
    more = SparseExplainer(radii=(6.25, 12.5, 50.0), widen_mask=False, iterations=1).explain(
        trained, as_float(anomalies)
    )
    for short, long in zip(few, more, strict=True):
        assert long.metrics["reached"] >= short.metrics["reached"]
        if short.metrics["rungs"] < 3:
            assert np.array_equal(short.counterfactuals[0].image, long.counterfactuals[0].image)


def test_the_stored_change_fits_the_ball_up_to_rounding(trained, explained):
    _, told = explained
    for one in told:
        rounding = 0.5 / 255 * (one.counterfactuals[0].changed_fraction * 576) ** (1 / 1.5)
        assert one.metrics["lp_norm"] <= one.metrics["eps"] + rounding


def test_drawing_back_makes_the_change_smaller_and_keeps_it_normal(trained, anomalies):
    far = SparseExplainer(shrink_steps=0).explain(trained, as_float(anomalies))
    near = SparseExplainer().explain(trained, as_float(anomalies))
    assert sum(one.counterfactuals[0].l1 for one in near) < sum(one.counterfactuals[0].l1 for one in far)
    assert [one.metrics["reached"] for one in near] == [one.metrics["reached"] for one in far]
    assert all(one.metrics["p_normal_after"] >= 0.6 - 1e-5 for one in near if one.metrics["reached"])


def test_what_is_normal_already_comes_back_unchanged(trained, normals):
    with torch.no_grad():
        sure = torch.sigmoid(trained.normal_logit(as_float(normals))) >= 0.6
    assert sure.sum() >= 3
    for image, one in zip(normals[sure], SparseExplainer().explain(trained, as_float(normals[sure])), strict=True):
        assert np.array_equal(one.counterfactuals[0].image, image.numpy())
        assert one.counterfactuals[0].l1 == 0.0
        assert one.metrics["eps"] == one.metrics["iterations"] == one.metrics["rungs"] == 0
        assert "change_inside" not in one.metrics


def test_a_mask_that_cannot_work_is_widened_and_said(low_mapped, anomalies):
    few = {"heat_share": 0.01, "dilation": 0.0, "radii": (25.0, 200.0)}
    told = SparseExplainer(**few).explain(low_mapped, as_float(anomalies[:8]))
    widened = [one for one in told if one.metrics["mask_widened"]]
    assert widened
    assert any(one.metrics["reached"] for one in widened)
    kept = SparseExplainer(**few, widen_mask=False).explain(low_mapped, as_float(anomalies[:8]))
    assert not any(one.metrics["mask_widened"] for one in kept)
    assert all((one.counterfactuals[0].changed_fraction <= 6 / 576) for one in kept)


@pytest.mark.parametrize(("size", "reach"), [((20, 31), 0), ((20, 31), 3), ((9, 64), 12), ((5, 5), 1500)])
def test_the_region_that_may_change_is_widened_as_by_max_pooling(size, reach):
    region = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0)) > 0.97
    region[1] = False
    padded = F.pad(region.float(), (reach,) * 4)
    assert torch.equal(_widened(region, reach), F.max_pool2d(padded, 2 * reach + 1, stride=1) > 0)


def test_without_a_map_the_whole_image_may_change(trained, anomalies):
    mapless = copy.copy(trained)
    mapless.has_map = False
    told = SparseExplainer().explain(mapless, as_float(anomalies[:6]))
    assert all(one.heatmap is None for one in told)
    assert all(one.metrics["mask_share"] == 1.0 and "change_inside" not in one.metrics for one in told)
    assert all(one.metrics["mask_widened"] == 0.0 for one in told)
    assert sum(one.counterfactuals[0].is_normal for one in told) >= 5


def test_a_batch_equals_one_by_one(trained, anomalies):
    batch = SparseExplainer().explain(trained, as_float(anomalies[:5]))
    for row in range(5):
        (single,) = SparseExplainer().explain(trained, as_float(anomalies[row : row + 1]))
        gap = np.abs(batch[row].counterfactuals[0].image.astype(int) - single.counterfactuals[0].image)
        assert gap.max() <= 1  # float32 sums of another batch size may tip a rounding
        assert batch[row].metrics["iterations"] == single.metrics["iterations"]


def test_the_same_seed_gives_the_same_answer(trained, anomalies):
    def told(**settings):
        return stored(SparseExplainer(**settings).explain(trained, as_float(anomalies[:4])))

    assert torch.equal(told(), told())
    assert torch.equal(told(random_start=True, seed=1), told(random_start=True, seed=1))
    assert not torch.equal(told(random_start=True, seed=1), told(random_start=True, seed=2))


def test_the_detector_is_left_as_found(trained, anomalies):
    before = {name: value.clone() for name, value in trained.network.state_dict().items()}
    SparseExplainer().explain(trained, as_float(anomalies[:4]))
    assert all(torch.equal(value, before[name]) for name, value in trained.network.state_dict().items())
    assert all(value.requires_grad and value.grad is None for value in trained.network.parameters())
    assert not trained.network.training


def test_colour_images_and_a_flat_detector_give_feasible_answers(trained):
    class Flat:
        input_shape = (3, 10, 12)
        calibration = trained.calibration

        def score(self, images):
            return Scores((images * 0).sum(dim=(1, 2, 3)) + self.calibration.threshold + 1, images.mean(dim=1) * 0)

        def normal_logit(self, images):
            return self.calibration.threshold - self.score(images).image

    images = torch.randint(0, 256, (3, 3, 10, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    told = SparseExplainer(iterations=3, rung_iterations=2).explain(Flat(), as_float(images))
    assert not any(one.counterfactuals[0].is_normal or one.metrics["reached"] for one in told)
    assert all(np.isfinite(list(one.metrics.values())).all() for one in told)
    assert np.array_equal(np.stack([one.counterfactuals[0].image for one in told]), images.numpy())


def test_no_image_no_explanation(trained):
    assert SparseExplainer().explain(trained, torch.zeros(0, 1, 24, 24)) == []


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 1, 24, 24, dtype=torch.float64),
        torch.zeros(1, 3, 24, 24),
        torch.zeros(1, 24, 24),
        torch.full((1, 1, 24, 24), 1.01),
        torch.full((1, 1, 24, 24), 0.5),
        torch.full((1, 1, 24, 24), float("nan")),
    ],
    ids=["float64", "channels", "no batch", "range", "not 8 bit", "nan"],
)
def test_wrong_images_are_refused(trained, images):
    with pytest.raises(BadInput):
        SparseExplainer().explain(trained, images)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"iteration": 5}, "did you mean 'iterations'"),
        ({"p": 0.9}, "setting p"),
        ({"radii": (5.0, 1.0)}, "must grow"),
        ({"radii": ()}, "radii"),
        ({"target_p_normal": 0.5}, "target_p_normal"),
        ({"seed": -1}, "seed"),
        ({"zzz": 1}, "known keys"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(BadSettings, match=words):
        SparseExplainer(**settings)


def test_the_version_follows_the_settings():
    assert SparseExplainer().version == SparseExplainer(p=1.5).version
    assert SparseExplainer().version != SparseExplainer(p=2.0).version
    assert SparseExplainer().version.startswith("3-")
    assert len(SparseExplainer().version) == 10
    assert SparseExplainer(seed=7).seed == 7
    assert isinstance(SparseExplainer(), Explainer)
