"""Figures of explanations against direct computations and closed forms."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xadflow.errors import BadInput
from xadflow.metrics import explanation
from xadflow.metrics.explanation import (
    area_above,
    change_inside,
    concentration,
    flip_rate,
    l1_l2_changed,
    lp_norm,
    peak,
    top_share,
)


def pair(seed=0, channels=3):
    rng = np.random.default_rng(seed)
    original = rng.integers(0, 256, (channels, 6, 5), dtype=np.uint8)
    other = original.copy()
    other[:, 2:4, 1:4] = rng.integers(0, 256, (channels, 2, 3), dtype=np.uint8)
    return original, other


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_the_decoded_images(channels, seed):
    original, other = pair(seed, channels)
    change = l1_l2_changed(original, other)
    delta = [(int(a) - int(b)) / 255 for a, b in zip(other.ravel(), original.ravel(), strict=True)]
    assert change.l1 == pytest.approx(sum(abs(d) for d in delta), rel=1e-12)
    assert change.l2 == pytest.approx(sum(d * d for d in delta) ** 0.5, rel=1e-12)
    pixels = [
        (y, x) for y in range(6) for x in range(5) if any(original[c, y, x] != other[c, y, x] for c in range(channels))
    ]
    assert change.changed_fraction == len(pixels) / 30
    assert lp_norm(original, other, 1.5) == pytest.approx(sum(abs(d) ** 1.5 for d in delta) ** (1 / 1.5), rel=1e-12)
    assert lp_norm(original, other, np.inf) == pytest.approx(max(abs(d) for d in delta), rel=1e-12)
    assert l1_l2_changed(other, original) == change


def test_a_change_does_not_wrap_around_in_8_bit():
    black, white = np.zeros((1, 1, 1), np.uint8), np.full((1, 1, 1), 255, np.uint8)
    assert l1_l2_changed(white, black).l1 == l1_l2_changed(black, white).l1 == 1.0


def test_change_inside_counts_absolute_change_by_place():
    original = np.zeros((2, 2, 2), np.uint8)
    other = np.array([[[3, 0], [0, 1]], [[0, 0], [0, 4]]], np.uint8)
    mask = np.array([[True, False], [False, False]])
    assert change_inside(original, other, mask) == 3 / 8
    assert change_inside(original, other, ~mask) == 5 / 8
    assert change_inside(other, original, mask) == 3 / 8
    assert np.isnan(change_inside(original, original, mask))


def test_a_change_spread_evenly_has_the_masks_share_inside():
    heat = np.random.default_rng(0).normal(size=(20, 20))
    original = np.full((1, 20, 20), 100, np.uint8)
    assert change_inside(original, original + np.uint8(1), top_share(heat, 0.25)) == 0.25


@given(seed=st.integers(0, 10_000), share=st.floats(0.01, 1.0))
@settings(max_examples=50, deadline=None)
def test_the_mask_holds_the_hottest_share(seed, share):
    heat = np.random.default_rng(seed).normal(size=(7, 9)).astype(np.float32)
    mask = top_share(heat, share)
    assert mask.sum() == max(round(63 * share), 1)
    assert mask.all() or heat[mask].min() > heat[~mask].max()
    assert np.array_equal(top_share(heat * 5 - 3, share), mask)  # raw scale does not matter


def test_ties_at_the_level_belong_to_the_mask():
    assert top_share(np.zeros((4, 4)), 0.25).all()


@given(seed=st.integers(0, 10_000), share=st.floats(0.01, 0.9), shift=st.floats(-100, 100))
@settings(max_examples=50, deadline=None)
def test_concentration_is_the_hottest_pixels_share_of_the_heat(seed, share, shift):
    heat = np.random.default_rng(seed).gamma(1.0, size=(8, 8))
    lifted = sorted((heat - heat.min()).ravel().tolist(), reverse=True)
    count = max(round(64 * share), 1)
    assert concentration(heat + shift, share) == pytest.approx(sum(lifted[:count]) / sum(lifted), rel=1e-9)


def test_a_flat_map_is_not_concentrated():
    assert concentration(np.full((10, 10), 3.0), 0.1) == pytest.approx(0.1)
    assert area_above(np.full((10, 10), 3.0), 0.5) == 0.0


def test_peak_and_area():
    heat = np.arange(20.0).reshape(4, 5)
    heat[1, 3] = 100.0
    assert peak(heat) == (1, 3)
    assert area_above(heat, 0.5) == 1 / 20
    assert area_above(np.arange(4.0).reshape(2, 2), 0.5) == 0.5


def test_flip_rate_is_the_share_that_is_normal():
    assert flip_rate([True, True, False, True]) == 0.75
    with pytest.raises(BadInput, match="at least one"):
        flip_rate([])


@pytest.mark.parametrize(
    "call",
    [
        lambda: l1_l2_changed(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), np.uint8)),
        lambda: l1_l2_changed(np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 3), np.uint8)),
        lambda: l1_l2_changed(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)),
        lambda: top_share(np.full((2, 2), np.nan), 0.5),
        lambda: top_share(np.zeros((2, 2)), 0.0),
        lambda: concentration(np.zeros((1, 2, 2)), 0.5),
    ],
    ids=["float image", "shapes", "no channel axis", "nan heat", "no share", "heat of three axes"],
)
def test_wrong_input_is_refused(call):
    with pytest.raises(BadInput):
        call()


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(explanation, extraglobs={"np": np}).failed == 0
