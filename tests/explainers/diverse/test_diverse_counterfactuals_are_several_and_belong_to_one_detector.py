import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.explainers.conftest import patterned, with_defects
from xadflow.errors import BadInput, BadWeights
from xadflow.explainers.diverse.explainer import WEIGHTS, DiverseExplainer
from xadflow.explainers.trained import CARD, GeneratorRun
from xadflow.images import as_float

SHA = "ab" * 32


@pytest.fixture(scope="module")
def explainer(trained, tmp_path_factory):
    """Trained for a moment: enough for its figures, not for good pictures."""
    found = DiverseExplainer(width=8, images=4, steps=4, concepts=3)
    run = GeneratorRun(tmp_path_factory.mktemp("run"), 0, "work", torch.device("cpu"))
    found.fit(trained, SHA, patterned(16, 30), with_defects(patterned(16, 31), 32)[0], run)
    return found


def test_every_figure_of_a_row_is_that_of_the_stored_image(explainer, trained, anomalies):
    told = explainer.explain(trained, as_float(anomalies[:3]))
    for image, one in zip(anomalies[:3].numpy(), told, strict=True):
        assert [each.concept for each in one.counterfactuals] == [0, 1, 2]
        stored = np.stack([each.image for each in one.counterfactuals])
        assert stored.dtype == np.uint8
        with torch.no_grad():
            scores = trained.score(as_float(torch.from_numpy(stored))).image.double().numpy()
            normal = torch.sigmoid(trained.normal_logit(as_float(torch.from_numpy(stored)))).numpy()
        np.testing.assert_allclose([each.score for each in one.counterfactuals], scores, rtol=1e-5)
        assert [each.is_normal for each in one.counterfactuals] == (scores <= trained.calibration.threshold).tolist()
        np.testing.assert_allclose([one.metrics[f"p_normal_{k}"] for k in range(3)], normal, rtol=1e-4)
        differences = np.abs(stored.astype(float) - image) / 255
        np.testing.assert_allclose([each.l1 for each in one.counterfactuals], differences.sum(axis=(1, 2, 3)))
        pairs = [(a.astype(float), b.astype(float)) for a, b in [*pairwise(stored), (stored[0], stored[2])]]
        assert one.metrics["apart_min"] == pytest.approx(min(np.abs(a - b).mean() / 255 for a, b in pairs))
        cosines = [
            np.sum((a - image) * (b - image)) / np.linalg.norm(a - image) / np.linalg.norm(b - image) for a, b in pairs
        ]
        assert one.metrics["likeness_max"] == pytest.approx(max(cosines))
        assert one.metrics["flipped"] == np.mean(scores <= trained.calibration.threshold)


def test_the_answer_for_an_image_does_not_depend_on_its_batch_mates(explainer, trained, anomalies):
    together = explainer.explain(trained, as_float(anomalies[:4]))
    (alone,) = explainer.explain(trained, as_float(anomalies[2:3]))
    for one, other in zip(together[2].counterfactuals, alone.counterfactuals, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 1


def test_a_saved_explainer_says_the_same(explainer, trained, anomalies, tmp_path):
    explainer.save(tmp_path)
    loaded = DiverseExplainer.load(tmp_path)
    assert loaded.version == explainer.version
    assert loaded.explained == explainer.explained
    for one, other in zip(
        explainer.explain(trained, as_float(anomalies[:2])),
        loaded.explain(trained, as_float(anomalies[:2])),
        strict=True,
    ):
        for first, second in zip(one.counterfactuals, other.counterfactuals, strict=True):
            np.testing.assert_array_equal(first.image, second.image)


def test_another_detector_is_refused(explainer, trained, anomalies):
    explainer.explain(trained, as_float(anomalies[:1]), SHA)
    with pytest.raises(BadWeights, match="another detector"):
        explainer.explain(trained, as_float(anomalies[:1]), "cd" * 32)


def test_an_untrained_one_says_so(trained, anomalies, tmp_path):
    fresh = DiverseExplainer()
    with pytest.raises(BadWeights, match="no trained generator"):
        fresh.explain(trained, as_float(anomalies[:1]))
    with pytest.raises(BadWeights, match="no trained generator"):
        fresh.save(tmp_path)


def test_images_of_another_shape_are_refused_and_none_give_none(explainer, trained):
    assert explainer.explain(trained, torch.zeros(0, 1, 24, 24)) == []
    with pytest.raises(BadInput):
        explainer.explain(trained, torch.zeros(1, 1, 20, 24))


@pytest.mark.parametrize("damage", ["card", "weights", "swapped", "missing"])
def test_damage_is_found_at_load(explainer, tmp_path, damage):
    explainer.save(tmp_path)
    if damage == "card":
        (tmp_path / CARD).write_text("{")
    elif damage == "weights":
        content = bytearray((tmp_path / WEIGHTS).read_bytes())
        content[-1] ^= 1
        (tmp_path / WEIGHTS).write_bytes(content)
    elif damage == "swapped":
        card = json.loads((tmp_path / CARD).read_text())
        card["settings"]["width"] = 16
        (tmp_path / CARD).write_text(json.dumps(card))
    else:
        (tmp_path / WEIGHTS).unlink()
    with pytest.raises(BadWeights):
        DiverseExplainer.load(tmp_path)
