"""The explainer `reconstruction`: pictures that restore to what the detector made, a twin that is measured, clear
refusals.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xadflow.detectors.base import Reconstructions
from xadflow.errors import BadInput, BadSettings, WrongUse
from xadflow.evidence.rows import explanation_row
from xadflow.explainers import build_explainer, why_unfit
from xadflow.explainers.reconstruction import ReconstructionExplainer
from xadflow.images import as_float, restore_map
from xadflow.metrics.explanation import l1_l2_changed
from xadflow.work.night.chosen import choose_explainers


@pytest.fixture(scope="module")
def mender(trained):
    """The toy detector, which also says what its images should look like: their own blur."""

    class Mender(type(trained)):
        def reconstructions(self, images, samples):
            blurred = torch.nn.functional.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
            heat = self.score(images).map.detach()
            return Reconstructions(
                impression=blurred - 0.1,
                naive_mean=images,
                naive_variance=torch.full_like(heat, 1 / samples),
                expert_mean=blurred,
                expert_variance=torch.zeros_like(heat),
                terms={"x-x_hat": (images - blurred).square()[:, 0], "low-m": heat},
                contributions={"x-x_hat": heat - 1.0},
                map=heat,
                parts={"map": heat.flatten(1).amax(1), "knn": torch.zeros(len(images))},
            )

    return Mender(trained.network, trained.input_shape, trained.calibration)


def test_pictures_restore_to_the_raw_values_and_the_sheet_shows_them_all(mender, anomalies):
    x = as_float(anomalies[:3])
    told = ReconstructionExplainer(samples=4).explain(mender, x)
    raw = mender.reconstructions(x, 4)
    names = ["impression", "expert_mean", "expert_variance", "naive_mean", "naive_variance"]
    names += ["term.x-x_hat", "term.low-m", "map"]
    for row, one in enumerate(told):
        assert [shown.name for shown in one.images] == [*names, "sheet"]
        shown = {shown.name: shown for shown in one.images}
        for name, value in (("impression", raw.impression), ("map", raw.map), ("term.x-x_hat", raw.terms["x-x_hat"])):
            back = restore_map(shown[name].image, shown[name].minimum, shown[name].maximum)
            step = (shown[name].maximum - shown[name].minimum) / 255
            np.testing.assert_allclose(back, value[row].numpy(), atol=0.51 * step + 1e-7)
        assert np.array_equal(one.heatmap, raw.map[row].numpy())
        sheet = shown["sheet"].image
        assert sheet.dtype == np.uint8
        assert sheet.shape[0] == 3
        assert min(sheet.shape[1:]) > 3 * 128
        assert np.array_equal(
            sheet,
            {i.name: i for i in ReconstructionExplainer(samples=4).explain(mender, x[row : row + 1])[0].images}[
                "sheet"
            ].image,
        )


def test_the_twin_is_the_expert_reconstruction_and_its_figures_are_those_of_its_8_bits(mender, anomalies):
    x = as_float(anomalies[:4])
    for row, one in enumerate(ReconstructionExplainer().explain(mender, x)):
        (twin,) = one.counterfactuals
        expected = (mender.reconstructions(x, 2).expert_mean[row].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        assert np.array_equal(twin.image, expected)
        score = mender.score(as_float(torch.from_numpy(twin.image)[None])).image.item()
        assert twin.score == pytest.approx(score, rel=1e-5)
        assert twin.is_normal == (score <= mender.calibration.threshold)
        assert twin.p_value == float(mender.calibration.p_value(np.array([twin.score]))[0])
        assert (twin.l1, twin.l2, twin.changed_fraction) == tuple(l1_l2_changed(anomalies[row].numpy(), twin.image))
        metrics, raw = one.metrics, mender.reconstructions(x[row : row + 1], 10)
        assert metrics["part.map"] == pytest.approx(raw.parts["map"].item())
        assert metrics["part.knn"] == 0.0
        assert metrics["top.x-x_hat"] == pytest.approx(raw.map.max().item() - 1.0)
        assert metrics["fidelity_x_hat"] == pytest.approx((raw.expert_mean - x[row]).abs().mean().item(), rel=1e-5)
        assert metrics["fidelity_m"] > metrics["fidelity_x_hat"]
        assert metrics["variance_m_hat"] == pytest.approx(0.1)
        assert 0.0 < metrics["change_inside"] <= 1.0


def test_a_row_of_the_evidence_holds_every_picture(mender, anomalies):
    (one,) = ReconstructionExplainer().explain(mender, as_float(anomalies[:1]))
    row = explanation_row(
        {"score": 1.0},
        explainer="reconstruction",
        explainer_version="1",
        seed=0,
        original=anomalies[0].numpy(),
        explanation=one,
        lineage="{}",
    )
    assert [shown["name"] for shown in row["images"]][-1] == "sheet"
    assert all(shown["image"]["bytes"].startswith(b"\x89PNG") for shown in row["images"])
    assert {"part.map", "part.knn", "fidelity_m"} <= {metric["name"] for metric in row["metrics"]}


def test_a_detector_without_reconstructions_is_refused_and_wrong_images_too(trained, mender, anomalies):
    with pytest.raises(BadInput, match="a detector that reconstructs"):
        ReconstructionExplainer().explain(trained, as_float(anomalies[:1]))
    with pytest.raises(BadInput, match="8-bit"):
        ReconstructionExplainer().explain(mender, as_float(anomalies[:1]) + 0.3 / 255)
    assert ReconstructionExplainer().explain(mender, as_float(anomalies[:0])) == []
    with pytest.raises(BadSettings, match="samples"):
        build_explainer("reconstruction", samples=1)
    assert build_explainer("reconstruction", samples=3).version != build_explainer("reconstruction").version


def test_a_night_passes_it_over_for_other_detectors_and_refuses_it_by_name():
    assert why_unfit("reconstruction", "utad") is None
    assert why_unfit("heatmap", "hsc") is None
    assert why_unfit("reconstruction", "hsc") == "It needs a detector with `reconstructions`, which hsc does not have."
    settings = SimpleNamespace(
        nightly_explainers=lambda dataset, detector: ["heatmap", "reconstruction"],
        explainer_for=lambda *named: {},
        detector=lambda name: SimpleNamespace(method=name),
    )
    project = SimpleNamespace(home=None, settings=settings, registry=None)
    champion = SimpleNamespace(name="xad.plates.hsc", version=3)
    chosen = choose_explainers(project, "plates", "hsc", champion)
    assert (set(chosen.settings), set(chosen.left_out)) == ({"heatmap"}, set())
    assert set(choose_explainers(project, "plates", "utad", champion).settings) == {"heatmap", "reconstruction"}
    with pytest.raises(WrongUse, match=r"nothing to say of xad.plates.hsc.*leave out --explainer reconstruction"):
        choose_explainers(project, "plates", "hsc", champion, ["reconstruction"])


def test_variances_come_from_as_many_samples_as_asked_for(mender, anomalies):
    (bare,) = ReconstructionExplainer(sheet=False).explain(mender, as_float(anomalies[:1]))
    assert bare.images[-1].name == "map"
    few, many = (ReconstructionExplainer(samples=n).explain(mender, as_float(anomalies[:1]))[0] for n in (2, 16))
    assert few.metrics["variance_m_hat"] == 8 * many.metrics["variance_m_hat"]
    assert dataclasses.is_dataclass(few)
