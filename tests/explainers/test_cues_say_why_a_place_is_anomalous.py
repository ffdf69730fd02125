"""The explainer `cues`: pictures that restore to the cues, shares that no constant changes, classes by name, clear
refusals.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xadflow.detectors.base import Cues, Scores
from xadflow.errors import BadInput, BadSettings, WrongUse
from xadflow.evidence.rows import explanation_row
from xadflow.explainers import build_explainer, why_unfit
from xadflow.explainers.cues import CuesExplainer
from xadflow.images import as_float, restore_map
from xadflow.pictures.class_colours import class_colour
from xadflow.work.night.chosen import choose_explainers

NAMES = ("dark wall", "bright wall", "door")


class Scene:
    """The toy detector with a map of two cues, three parts network to one part brightness, and two walls it tells
    apart.
    """

    def __init__(self, plain, offset=0.0):
        self.plain, self.offset = plain, offset
        self.input_shape, self.calibration = plain.input_shape, plain.calibration

    def cues(self, images):
        heat = self.plain.score(images).map
        maps = {"outlier": 0.75 * heat + self.offset, "unlikely": 0.25 * heat + images[:, 0] * 0.0}
        return Cues(maps, (images[:, 0] > 0.5).long(), NAMES)

    def score(self, images):
        heat = sum(self.cues(images).maps.values())
        return Scores(heat.flatten(1).amax(dim=1), heat)


@pytest.fixture(scope="module")
def scene(trained):
    return Scene(trained)


def test_pictures_restore_to_the_cues_and_the_heatmap_is_their_sum(scene, anomalies):
    x = as_float(anomalies[:3])
    raw = scene.cues(x)
    told = CuesExplainer().explain(scene, x)
    for row, one in enumerate(told):
        assert [shown.name for shown in one.images] == ["classes", "legend", "cue.outlier", "cue.unlikely", "sheet"]
        shown = {shown.name: shown for shown in one.images}
        for name in ("outlier", "unlikely"):
            picture = shown[f"cue.{name}"]
            back = restore_map(picture.image, picture.minimum, picture.maximum)
            step = (picture.maximum - picture.minimum) / 255
            np.testing.assert_allclose(back, raw.maps[name][row].detach().numpy(), atol=0.51 * step + 1e-7)
        np.testing.assert_allclose(one.heatmap, scene.score(x).map[row].detach().numpy(), atol=1e-5)
        assert shown["sheet"].image.dtype == np.uint8
        assert min(shown["sheet"].image.shape[1:]) > 2 * 128
        alone = CuesExplainer().explain(scene, x[row : row + 1])[0]
        assert all(np.array_equal(a.image, b.image) for a, b in zip(one.images, alone.images, strict=True))


def test_each_class_has_its_colour_in_the_map_and_in_the_legend(scene, anomalies):
    x = as_float(anomalies[:1])
    (one,) = CuesExplainer().explain(scene, x)
    shown = {shown.name: shown.image for shown in one.images}
    classes = scene.cues(x).classes[0].numpy()
    for number in (0, 1):
        colour = np.array(class_colour(number), dtype=np.uint8)[:, None, None]
        assert np.array_equal((shown["classes"] == colour).all(axis=0), classes == number)
        assert (shown["legend"] == colour).all(axis=0).sum() > 50, "a swatch"
    absent = np.array(class_colour(2), dtype=np.uint8)[:, None, None]
    assert not (shown["legend"] == absent).all(axis=0).any()
    assert shown["sheet"][:, -12:].size > 0
    assert len({class_colour(number) for number in range(64)}) == 64


def test_shares_are_what_lifts_the_hottest_region_and_no_constant_changes_them(scene, trained, anomalies):
    x = as_float(anomalies[:4])
    told = CuesExplainer(heat_share=0.1).explain(scene, x)
    moved = CuesExplainer(heat_share=0.1).explain(Scene(trained, offset=-50.0), x)
    heat = scene.plain.score(x).map.detach().double().numpy()
    for row, (one, other) in enumerate(zip(told, moved, strict=True)):
        assert one.metrics["share.outlier"] == pytest.approx(0.75, abs=1e-5)
        assert one.metrics["share.outlier"] + one.metrics["share.unlikely"] == pytest.approx(1.0)
        assert other.metrics["share.outlier"] == pytest.approx(one.metrics["share.outlier"], abs=1e-4)
        level = np.sort(heat[row].ravel())[-58]  # a tenth of 576 pixels, rounded up
        hot = heat[row] >= level
        assert one.metrics["hot.unlikely"] == pytest.approx(0.25 * heat[row][hot].mean(), rel=1e-5)
        assert one.metrics["mean.outlier"] == pytest.approx(0.75 * heat[row].mean(), rel=1e-5)
        assert other.metrics["mean.outlier"] == pytest.approx(0.75 * heat[row].mean() - 50.0, rel=1e-5)
        classes = scene.cues(x).classes[row].numpy()
        assert one.metrics.get("hot_class.bright wall", 0.0) == pytest.approx(classes[hot].mean())
        assert sum(value for name, value in one.metrics.items() if name.startswith("hot_class.")) == pytest.approx(1.0)
        assert one.metrics["peak_class"] == classes.flat[heat[row].argmax()]
        assert one.metrics["score_before"] == pytest.approx(scene.score(x).image[row].item())
    named = {name for one in told for name in one.metrics if name.startswith("hot_class.")}
    assert named == {"hot_class.dark wall", "hot_class.bright wall"}, "squares of both kinds"


def test_a_flat_map_has_no_shares(scene, anomalies):
    class Flat(Scene):
        def cues(self, images):
            told = super().cues(images)
            return Cues({name: torch.ones_like(value) for name, value in told.maps.items()}, told.classes, told.names)

    (one,) = CuesExplainer().explain(Flat(scene.plain), as_float(anomalies[:1]))
    assert one.metrics["hot.outlier"] == 1.0
    assert not any(name.startswith("share.") for name in one.metrics)


def test_a_row_of_the_evidence_holds_every_picture(scene, anomalies):
    (one,) = CuesExplainer(sheet=False).explain(scene, as_float(anomalies[:1]))
    row = explanation_row(
        {"score": 1.0},
        explainer="cues",
        explainer_version="1",
        seed=0,
        original=anomalies[0].numpy(),
        explanation=one,
        lineage="{}",
    )
    assert [shown["name"] for shown in row["images"]] == ["classes", "legend", "cue.outlier", "cue.unlikely"]
    assert all(shown["image"]["bytes"].startswith(b"\x89PNG") for shown in row["images"])
    assert {"share.outlier", "hot.unlikely", "peak_class"} <= {metric["name"] for metric in row["metrics"]}


def test_a_detector_without_cues_is_refused_and_wrong_images_too(trained, scene, anomalies):
    with pytest.raises(BadInput, match="whose map has cues"):
        CuesExplainer().explain(trained, as_float(anomalies[:1]))
    with pytest.raises(BadInput, match="8-bit"):
        CuesExplainer().explain(scene, as_float(anomalies[:1]) + 0.3 / 255)
    assert CuesExplainer().explain(scene, as_float(anomalies[:0])) == []
    with pytest.raises(BadSettings, match="heat_share"):
        build_explainer("cues", heat_share=1.5)
    assert build_explainer("cues", heat_share=0.1).version != build_explainer("cues").version


def test_a_night_passes_it_over_for_other_detectors_and_refuses_it_by_name():
    assert why_unfit("cues", "dense_hybrid") is None
    assert why_unfit("cues", "hsc") == "It needs a detector with `cues`, which hsc does not have."
    settings = SimpleNamespace(
        nightly_explainers=lambda dataset, detector: ["heatmap", "cues"],
        explainer_for=lambda *named: {},
        detector=lambda name: SimpleNamespace(method=name),
    )
    project = SimpleNamespace(home=None, settings=settings, registry=None)
    champion = SimpleNamespace(name="xad.plates.hsc", version=3)
    chosen = choose_explainers(project, "plates", "hsc", champion)
    assert (set(chosen.settings), set(chosen.left_out)) == ({"heatmap"}, set())
    with pytest.raises(WrongUse, match=r"nothing to say of xad.plates.hsc.*leave out --explainer cues"):
        choose_explainers(project, "plates", "hsc", champion, ["cues"])
