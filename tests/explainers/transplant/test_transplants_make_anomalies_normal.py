"""Transplants on a trained toy detector, every figure recomputed from the stored 8-bit images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.explainers.conftest import SIDE, patterned
from tests.explainers.transplant.conftest import bank_of
from xadflow.errors import BadInput, BadSettings, NoDonors
from xadflow.explainers.base import Explainer, takes_donors
from xadflow.explainers.transplant import TransplantExplainer
from xadflow.images import as_float


@pytest.fixture(scope="module")
def explained(trained, defective):
    bank = bank_of(trained)
    return defective[0], bank, TransplantExplainer().with_donors(bank).explain(trained, as_float(defective[0]))


def scored(detector, pictures):
    with torch.no_grad():
        return detector.score(as_float(torch.from_numpy(np.stack(pictures)))).image.double().numpy()


def regions(one):
    return [shown.image for shown in one.images if shown.name.endswith(".region")]


def flagged(trained, images):
    return scored(trained, list(images.numpy())) > trained.calibration.threshold


def test_it_is_an_explainer_that_takes_donors():
    assert isinstance(TransplantExplainer(), Explainer)
    assert takes_donors("transplant")
    assert not takes_donors("sparse")


def test_every_anomaly_becomes_normal(trained, explained):
    images, _, told = explained
    assert flagged(trained, images).mean() > 0.9
    for one in told:
        assert one.metrics["reached"] == 1.0
        assert all(found.is_normal for found in one.counterfactuals)
        assert (scored(trained, [found.image for found in one.counterfactuals]) <= trained.calibration.threshold).all()


def test_outside_the_region_nothing_changes_and_inside_the_donor_shows(trained, explained):
    images, bank, told = explained
    for image, one in zip(images.numpy(), told, strict=True):
        for found, region in zip(one.counterfactuals, regions(one), strict=False):
            assert found.donor_id in bank.ids
            outside = np.broadcast_to(region == 0, image.shape)
            assert (found.image[outside] == image[outside]).all()
            inside = np.broadcast_to(region == 255, image.shape)
            if inside.any():  # up to brightness and contrast these are the donor's pixels
                donor = bank.images[bank.ids.index(found.donor_id)].numpy()
                alike = np.corrcoef(found.image[inside].astype(float), donor[inside].astype(float))[0, 1]
                assert inside.sum() < 20 or alike > 0.9


def test_figures_are_those_of_the_stored_image(trained, explained):
    images, _, told = explained
    for image, one in zip(images.numpy(), told, strict=True):
        scores = scored(trained, [found.image for found in one.counterfactuals])
        for place, found in enumerate(one.counterfactuals):
            change = (found.image.astype(float) - image.astype(float)) / 255
            assert found.concept == place
            assert found.image.dtype == np.uint8
            assert found.score == pytest.approx(scores[place], abs=1e-5)
            assert found.p_value == float(trained.calibration.p_value(np.array([found.score]))[0])
            assert found.l1 == pytest.approx(np.abs(change).sum())
            assert found.l2 == pytest.approx(np.sqrt((change**2).sum()))
            assert found.changed_fraction == pytest.approx((change != 0).any(axis=0).mean())
        if regions(one):
            share = (regions(one)[0] >= 128).mean()
            assert one.metrics["region_share"] == pytest.approx(share, abs=2 / SIDE**2)  # half is rounded to 128 or 127
            assert (
                one.metrics["region_share"] <= min(one.metrics["region_share.1"], one.metrics["region_share.2"]) + 1e-9
            )


def test_regions_lie_on_the_defect_and_the_same_area_elsewhere_does_not_help(trained, defective, explained):
    images, bank, told = explained
    rng = np.random.default_rng(0)
    covered, elsewhere = [], []
    for image, mask, one in zip(images.numpy(), defective[1].numpy(), told, strict=True):
        found = one.counterfactuals[0]
        if found.donor_id is None:
            continue
        region = regions(one)[0] / 255.0
        covered.append(region[mask].mean() - region.mean())
        shift = tuple(rng.integers(SIDE // 3, 2 * SIDE // 3, 2))
        moved = np.roll(region, shift, axis=(0, 1))
        donor = bank.images[bank.ids.index(found.donor_id)].numpy()
        elsewhere.append(np.rint(image + moved * (donor.astype(float) - image)).astype(np.uint8))
    assert np.mean(covered) > 0.4
    assert (scored(trained, elsewhere) <= trained.calibration.threshold).mean() < 0.4


def test_alternatives_come_from_different_donors_and_differ(explained):
    _, _, told = explained
    for one in told:
        if one.metrics["alternatives"]:
            assert len({found.donor_id for found in one.counterfactuals}) == len(one.counterfactuals) == 3
            pictures = [found.image.astype(float) / 255 for found in one.counterfactuals]
            apart = min(
                np.abs(first - second).mean() for place, first in enumerate(pictures) for second in pictures[:place]
            )
            assert one.metrics["apart_min"] == pytest.approx(apart)


def test_a_normal_image_comes_back_unchanged(trained, bank, normals):
    calm = normals[~torch.from_numpy(flagged(trained, normals))]
    for image, one in zip(
        calm.numpy(), TransplantExplainer().with_donors(bank).explain(trained, as_float(calm)), strict=True
    ):
        (found,) = one.counterfactuals
        assert (found.image == image).all()
        assert (found.donor_id, found.l1, one.metrics["region_share"]) == (None, 0.0, 0.0)


def test_a_score_alone_is_enough(black_box, bank, anomalies):
    told = (
        TransplantExplainer(mask_steps=0)
        .with_donors(dataclasses.replace(bank, mean_map=None))
        .explain(black_box, as_float(anomalies[:8]))
    )
    for one in told:
        assert one.metrics["reached"] == 1.0
        assert one.counterfactuals[0].donor_id is None or one.metrics["heat_by_occlusion"] == 1.0
        assert one.metrics["region_share"] < 0.8


def test_fewer_donors_give_fewer_alternatives_and_one_is_enough(trained, anomalies):
    for count in (1, 2):
        told = TransplantExplainer().with_donors(bank_of(trained, count)).explain(trained, as_float(anomalies[:6]))
        for one in told:
            assert len(one.counterfactuals) in (1, count)
            assert one.metrics["reached"] == 1.0
            assert one.metrics["donors"] == count


def test_an_image_that_is_anomalous_all_over_is_replaced_as_a_whole(trained, bank):
    noise = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (2, 1, SIDE, SIDE)).astype(np.uint8))
    for one in TransplantExplainer().with_donors(bank).explain(trained, as_float(noise)):
        assert one.metrics["reached"] == 1.0
        assert one.metrics["region_share"] > 0.3


def test_where_no_donor_helps_the_least_anomalous_attempt_is_returned(trained, anomalies):
    rng = np.random.default_rng(1)
    squares = torch.from_numpy(rng.choice([0, 255], (8, 1, SIDE, SIDE)).astype(np.uint8))
    bank = dataclasses.replace(bank_of(trained, 6), images=squares[:6])  # anomalous all over: no bank has such donors
    for one in TransplantExplainer().with_donors(bank).explain(trained, as_float(squares[6:])):
        scores = [found.score for found in one.counterfactuals]
        assert one.metrics["reached"] == 0.0
        assert not any(found.is_normal for found in one.counterfactuals)
        assert scores == sorted(scores)


def test_attempts_that_stay_anomalous_are_left_out_where_another_is_normal(trained, anomalies):
    rng = np.random.default_rng(2)
    noise = torch.from_numpy(rng.choice([0, 255], (5, 1, SIDE, SIDE)).astype(np.uint8))
    bank = bank_of(trained, 6)
    bank = dataclasses.replace(bank, images=torch.cat([bank.images[:1], noise]))  # one of six is a donor
    told = [
        one
        for one in TransplantExplainer(candidates=6).with_donors(bank).explain(trained, as_float(anomalies))
        if one.metrics["alternatives"]
    ]
    assert all(found.is_normal for one in told for found in one.counterfactuals)
    assert min(len(one.counterfactuals) for one in told) < 3


def test_each_of_several_defects_is_shown_mended_alone(trained, bank):
    images = patterned(12, 40).clone()
    for image in images:
        image[0, 2:8, 2:8] = 235
        image[0, 15:21, 15:21] = 20
    told = TransplantExplainer().with_donors(bank).explain(trained, as_float(images))
    several = [(image, one) for image, one in zip(images.numpy(), told, strict=True) if "parts" in one.metrics]
    assert len(several) >= 4
    for image, one in several:
        shown = [each.image for each in one.images if each.name.startswith("transplant.part.")]
        assert len(shown) == one.metrics["parts"] >= 2
        for number, (picture, score) in enumerate(zip(shown, scored(trained, shown), strict=True)):
            assert one.metrics[f"part.{number}.score"] == pytest.approx(score, abs=1e-5)
            changed = (picture != image).mean()
            assert 0 < changed < (one.counterfactuals[0].image != image).mean() + 0.05


def test_gradient_steps_make_regions_no_larger_and_keep_them_normal(trained, bank, anomalies):
    plain = TransplantExplainer().with_donors(bank).explain(trained, as_float(anomalies))
    tuned = TransplantExplainer(mask_steps=25).with_donors(bank).explain(trained, as_float(anomalies))
    before, after = (np.array([one.metrics["region_share"] for one in told]) for told in (plain, tuned))
    assert all(one.metrics["reached"] for one in tuned)
    assert (after <= before + 0.05).all()  # cells never grow; the pixels of a blend may, by the shape of its border
    assert after.mean() < before.mean()
    assert all(parameter.grad is None for parameter in trained.network.parameters())


def test_shrinking_takes_cells_away_and_keeps_the_image_normal(trained, bank, anomalies):
    told = {
        rounds: TransplantExplainer(shrink_rounds=rounds).with_donors(bank).explain(trained, as_float(anomalies))
        for rounds in (0, 6)
    }
    shares = {rounds: np.mean([one.metrics["region_share"] for one in each]) for rounds, each in told.items()}
    assert shares[6] < shares[0]
    assert all(one.metrics["reached"] for each in told.values() for one in each)


def test_the_same_batch_gives_the_same_pictures(trained, bank, anomalies):
    first, second = (
        TransplantExplainer().with_donors(bank).explain(trained, as_float(anomalies[:6])) for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert [found.image.tobytes() for found in one.counterfactuals] == [
            found.image.tobytes() for found in other.counterfactuals
        ]
        assert one.metrics == other.metrics


def test_without_donors_the_error_says_what_to_run(trained, bank, anomalies):
    with pytest.raises(NoDonors, match="xadflow retrain"):
        TransplantExplainer().explain(trained, as_float(anomalies[:1]))
    with pytest.raises(NoDonors, match="24 donors are gone"):
        TransplantExplainer().with_donors(bank.without(bank.ids)).explain(trained, as_float(anomalies[:1]))


def test_an_erased_donor_is_used_no_more_and_counted(trained, bank, anomalies):
    explainer = TransplantExplainer()
    (before,) = explainer.with_donors(bank).explain(trained, as_float(anomalies[:1]))
    used = before.counterfactuals[0].donor_id
    (after,) = explainer.with_donors(bank.without([used])).explain(trained, as_float(anomalies[:1]))
    assert used not in {found.donor_id for found in after.counterfactuals}
    assert after.metrics["donors_missing"] == 1.0
    assert after.metrics["reached"] == 1.0
    assert bank.digest != bank.without([used]).digest


def test_donors_of_another_shape_are_refused(trained, bank, anomalies):
    with pytest.raises(BadInput, match="one shape"):
        TransplantExplainer().with_donors(dataclasses.replace(bank, images=bank.images[..., :-1])).explain(
            trained, as_float(anomalies[:1])
        )


def test_no_image_gives_no_explanation(trained, bank, anomalies):
    assert TransplantExplainer().with_donors(bank).explain(trained, as_float(anomalies[:0])) == []


@pytest.mark.parametrize(
    "wrong",
    [{"rungs": [0.5, 0.2, 1.0]}, {"rungs": [0.1, 0.5]}, {"alternatives": 0}, {"target_share": 1.0}, {"donors": 3}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(BadSettings):
        TransplantExplainer(**wrong)


def test_settings_change_the_version():
    assert TransplantExplainer().version != TransplantExplainer(target_share=0.5).version
