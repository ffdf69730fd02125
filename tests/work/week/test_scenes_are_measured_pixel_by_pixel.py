"""What registration says of scenes: figures of the map that a detector's cues add up to, by town."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from xadflow.detectors.base import Cues
from xadflow.images import VOID
from xadflow.work.week import scene_figures as module
from xadflow.work.week.scene_figures import scene_figures

SIZE = 16
# no anomaly in a-town, which is first by name: it must not become a fold that has none
TOWNS = ["a-town", *(f"town-{1 + number % 2}" for number in range(1, 8))]
ROWS = [SimpleNamespace(category=town, label=int(number > 1)) for number, town in enumerate(TOWNS)]


class Grey:
    """Its two cues add up to the grey value, and neither ranks pixels as their sum does; it sees class 1 in bright
    pixels.
    """

    def cues(self, images):
        grey = images[:, 0]
        slope = torch.linspace(-2.0, 2.0, SIZE).expand_as(grey)
        return Cues({"ln_p_out": slope, "minus_ln_p_hat": grey - slope}, (grey > 0.4).long(), ("road", "sky"))


@pytest.fixture
def scenes(monkeypatch):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (8, 1, SIZE, SIZE), dtype=np.uint8))
    anomaly = torch.from_numpy(rng.random((8, SIZE, SIZE)) < images[:, 0].numpy() / 900.0)
    anomaly[:2] = False
    labels = (images[:, 0] > 110).to(torch.uint8)
    labels[anomaly] = VOID
    labels[:, 0] = VOID
    anomaly[:, 0] = False
    monkeypatch.setattr(module, "load_labels", lambda *given: labels)
    monkeypatch.setattr(module, "load_masks", lambda *given: anomaly)
    return images, labels, anomaly


def project(classes=("road", "sky")):
    settings = SimpleNamespace(
        dataset=lambda name: SimpleNamespace(classes=classes), explain=SimpleNamespace(batch_size=3)
    )
    return SimpleNamespace(settings=settings, device=torch.device("cpu"))


def test_pixels_are_ranked_by_the_sum_of_the_cues_and_void_is_in_no_figure(scenes):
    images, labels, anomaly = scenes
    found = scene_figures(project(), Grey(), None, ROWS, images, "plates")
    kept = (labels != VOID) | anomaly
    expected = average_precision_score(anomaly[kept], images[:, 0][kept])
    assert found["average_precision"] == pytest.approx(expected, abs=max(found["average_precision_bound"], 1e-9))
    assert found["average_precision_bound"] < 0.05  # 256 grey values are all ties
    assert found["images"] == 8
    assert found["anomalous"] + found["inliers"] == kept.sum()
    right = (images[:, 0].float() / 255 > 0.4).to(torch.uint8)[labels != VOID] == labels[labels != VOID]
    assert 0.8 < found["closed_miou"] <= float(right.float().mean())
    assert found["open_set_gap"] == pytest.approx(found["closed_miou"] - found["open_miou"])


def test_other_data_sets_detectors_and_splits_without_anomalies_have_none(scenes):
    images, _, _ = scenes
    assert scene_figures(project(classes=()), Grey(), None, ROWS, images, "plates") == {}
    assert scene_figures(project(), object(), None, ROWS, images, "plates") == {}
    normal = [SimpleNamespace(category="town-1", label=0)] * 8
    assert scene_figures(project(), Grey(), None, normal, images, "plates") == {}
