"""benchmarks/dense.py: the plain scores by hand, figures and differences of known counts, and what the page says."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from benchmarks import dense
from benchmarks.dense_table import dense_section, verdict
from xadflow.datasets.sources.mosaic import CLASSES
from xadflow.images import VOID


def test_plain_scores_are_those_of_the_softmax():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 4, 5)))
    p = torch.softmax(logits, dim=1).numpy()
    found = dense.plain_scores(logits)
    np.testing.assert_allclose(found["max-logit"], -logits.numpy().max(axis=1))
    np.testing.assert_allclose(found["max-softmax"], -p.max(axis=1))
    np.testing.assert_allclose(found["entropy"], entropy(p, axis=1))


@pytest.fixture(scope="module")
def found():
    """A score that knows the anomaly, one that half knows it and one that does not, on drawn scenes."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, len(CLASSES), (24, 16, 16)).astype(np.uint8))
    anomaly = torch.from_numpy(rng.random(labels.shape) < 0.1)
    labels[anomaly] = VOID
    scenes = dense.Scenes(labels[:, None], labels, anomaly, tuple(number % 2 for number in range(24)))
    noise = torch.from_numpy(rng.normal(size=labels.shape)).float()
    classes = torch.where(labels == VOID, 0, labels)
    maps = {"hybrid": noise + 3 * anomaly, "likelihood": noise + anomaly, "posterior": noise + 3 * anomaly}
    maps |= dict.fromkeys(("max-logit", "max-softmax", "entropy", "max-logit, before", "likelihood, before"), noise)
    return {(name, seed): dense.collected(scenes, score, classes) for name, score in maps.items() for seed in (0, 1)}


@pytest.fixture(scope="module")
def compared(found):
    """Their figures; with a tenth of the resamples, for no test here is about intervals."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("scene_intervals", "mean_paired_scene_tests"):
            patch.setattr(dense, name, partial(getattr(dense, name), bootstrap=100))
        return dense.figures_of(found, (0, 1))


@pytest.fixture
def figures(compared):
    return copy.deepcopy(compared)


def test_differences_are_paired_and_the_page_says_what_holds(figures):
    assert figures["tests"]["hybrid - likelihood"]["average_precision"]["low"] > 0
    same = figures["tests"]["hybrid - posterior"]["average_precision"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    assert figures["rows"]["hybrid"]["1"]["closed_miou"]["value"] == 1
    said = verdict(figures)
    assert "AP against likelihood holds; AP against posterior **is not shown**; FPR95 against likelihood holds" in said
    assert "Closed mIoU lost by the second stage: -0.0000" in said or "second stage: 0.0000" in said
    figures["tests"]["max-logit - max-logit, before"]["closed_miou"] = {"value": -0.01, "low": -0.03, "high": 0.0}
    assert "at most 0.0300 by the interval; the target of less than 0.02 **is missed**" in verdict(figures)


def test_the_table_names_every_score_in_a_fixed_order(figures):
    figures |= {
        "scenes": {"test": 24, "anomalous_share": 0.1, "train": 100, "negatives": 5, "side_px": 16},
        "trained": {"0": {"seconds": 100.0, "cpu_seconds": 90.0}},
        "floors": {"brightness": 0.1},
        "memory": {
            "before_mb": 900.0,
            "after_scenes_mb": {"2": 950.0},
            "seconds_each": 4.0,
            "pixels": 2**21,
            "margin_px": 174,
        },
    }
    page = dense_section(figures)
    places = [page.index(f"\n| {name} |") for name in ("hybrid", "likelihood", "posterior", "max-logit", "entropy")]
    assert places == sorted(places)
    assert "950 MB after 2" in page
