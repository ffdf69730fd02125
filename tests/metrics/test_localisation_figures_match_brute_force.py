"""AUPRO against its definition, threshold by threshold."""

import numpy as np
import pytest
from scipy import ndimage

from xadflow.errors import BadInput
from xadflow.metrics.localisation import aupro, pixel_auroc

RNG = np.random.default_rng(0)


def drawn(levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Four images of 24 px with regions of different sizes, two of which touch at a corner; one image is normal."""
    masks = np.zeros((4, 24, 24), bool)
    masks[0, 2:5, 2:5] = masks[0, 5:7, 5:7] = True
    masks[1, 10:20, 8:21] = masks[1, 1, 1] = True
    masks[2, 0:2, 20:24] = True
    maps = RNG.normal(size=masks.shape) + 1.2 * masks * RNG.uniform(0, 2, masks.shape)
    return (maps if levels is None else np.round(maps * levels) / levels), masks


def by_definition(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    regions = []
    for number, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(number, labels == one) for one in range(1, count + 1)]
    assert len(regions) == 4
    curve = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        flagged = maps >= threshold
        overlap = np.mean([flagged[number][region].mean() for number, region in regions])
        curve.append((flagged[~masks].mean(), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(curve[:-1], curve[1:], strict=True):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            middle = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + middle) / 2
    return area / limit


@pytest.mark.parametrize("levels", [None, 8])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_is_the_area_of_its_definition(levels, limit):
    maps, masks = drawn(levels)
    assert aupro(maps, masks, limit, max_tied_share=0.2) == pytest.approx(by_definition(maps, masks, limit), abs=1e-12)


def test_the_perfect_map_has_one_and_small_regions_count_like_large_ones():
    maps, masks = drawn()
    assert aupro(maps + 100 * masks, masks) == pytest.approx(1.0)
    lost = maps + 100 * masks
    lost[1, 1, 1] = -100.0  # one region of four, one pixel of 152
    assert aupro(lost, masks) == pytest.approx(0.75)
    assert pixel_auroc(lost, masks) > 0.99


def test_a_map_without_knowledge_has_half_the_limit():
    masks = np.zeros((20, 64, 64), bool)
    masks[:, 20:40, 20:40] = True
    assert aupro(RNG.normal(size=masks.shape), masks, 0.3) == pytest.approx(0.15, abs=0.02)


def test_regions_of_two_images_are_never_joined():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 3, 3] = masks[1, 3:5, 3] = True
    maps = RNG.uniform(size=masks.shape) + 10 * masks
    maps[1, 3:5, 3] = -1.0
    assert aupro(maps, masks) == pytest.approx(0.5)


@pytest.mark.parametrize("limit", [0.0, 1.1])
def test_a_limit_that_is_no_rate_is_refused(limit):
    with pytest.raises(BadInput, match="false-positive rate"):
        aupro(*drawn(), limit)
