"""The curve of valid counterfactuals against their distance, by counting."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from PIL import Image

from xadflow.errors import BadInput
from xadflow.metrics import validity
from xadflow.metrics.validity import distance_for, nearest_valid, validity_curve
from xadflow.pictures.curves import validity_figure


def test_the_examples_of_the_docstrings_hold():
    found = doctest.testmod(validity)
    assert found.attempted >= 3
    assert found.failed == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_counts_images_within_each_distance(seed):
    rng = np.random.default_rng(seed)
    far = rng.integers(0, 8, (40, 3)) / 4  # many ties
    valid = rng.random((40, 3)) < 0.4
    nearest = nearest_valid(far, valid)
    pairs = [zip(*both, strict=True) for both in zip(far, valid, strict=True)]
    by_hand = [min((d for d, ok in image if ok), default=np.inf) for image in pairs]
    assert nearest.tolist() == by_hand
    distances, shares = validity_curve(nearest)
    for distance, share in zip(distances, shares, strict=True):
        assert share == pytest.approx(sum(d <= distance for d in by_hand) / 40)
    assert shares[-1] == pytest.approx(valid.any(axis=1).mean())  # ends at the flip rate
    assert (np.diff(distances) > 0).all()
    for share in (0.1, 0.5):
        found = distance_for(nearest, share)
        assert np.mean(nearest <= found) >= share
        assert np.mean(nearest < found) < share


def test_an_explainer_that_never_succeeds_has_an_empty_curve_and_no_distance():
    nearest = nearest_valid([1.0, 2.0], [False, False])
    distances, shares = validity_curve(nearest)
    assert distances.size == shares.size == 0
    assert distance_for(nearest) == np.inf


@pytest.mark.parametrize(
    ("distances", "valid"), [([1.0], [True, False]), ([-1.0], [True]), ([float("nan")], [True]), (1.0, True)]
)
def test_distances_that_make_no_sense_are_refused(distances, valid):
    with pytest.raises(BadInput, match="distance"):
        nearest_valid(distances, valid)


def test_nothing_explained_is_not_a_curve(tmp_path):
    with pytest.raises(BadInput, match="at least one explained image"):
        validity_curve([])
    with pytest.raises(BadInput, match="at least one curve"):
        validity_figure({}, tmp_path / "none.png", "l2")


def test_the_figure_shows_every_explainer(tmp_path):
    path = tmp_path / "validity.png"
    validity_figure(
        {"sparse": [0.1, 0.2, np.inf], "diverse": [0.4, 0.5, 0.6], "none": [np.inf]}, path, "l2 of the change"
    )
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for colour in ("#0072B2", "#D55E00"):
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(pixels.astype(int) - wanted).max(axis=1) < 12).sum() > 100
