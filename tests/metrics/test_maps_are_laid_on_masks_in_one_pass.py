"""Figures of maps on masks, batch by batch, against the exact ones of all maps at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xadflow.errors import BadInput, NotFinite
from xadflow.metrics.localisation import aupro, pixel_auroc, regions_of
from xadflow.metrics.localised import Localisation, LocalisationFigures, ious
from xadflow.metrics.streaming import Bins, ScoreRange


def drawn(seed: int, images: int = 7, side: int = 20, levels: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps and masks; one image in three is normal, and regions touch at corners or lie alone."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, side, side), bool)
    for number in range(images):
        for _ in range(rng.integers(1, 4) if number % 3 else 0):
            y, x, h, w = *rng.integers(0, side - 6, 2), *rng.integers(1, 6, 2)
            masks[number, y : y + h, x : x + w] = True
    maps = (rng.normal(size=masks.shape) + 1.5 * masks).astype(np.float32)
    if levels:
        maps = np.round(maps * levels) / levels
    return torch.from_numpy(maps), torch.from_numpy(masks)


def laid(
    maps: torch.Tensor, masks: torch.Tensor, bins: Bins, threshold: float = 1.0, batch: int = 3, limit: float = 0.3
) -> LocalisationFigures:
    found = Localisation(bins, threshold)
    for some, their in zip(maps.split(batch), masks.split(batch), strict=True):
        found.add(some, their)
    return found.figures(limit)


def whole(maps: torch.Tensor, count: int) -> Bins:
    limits = ScoreRange()
    limits.add(maps)
    return limits.bins(count)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("bins", [3, 40, 2**16])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_exact_figure_lies_within_the_bounds_whatever_the_bins(seed: int, bins: int, limit: float) -> None:
    maps, masks = drawn(seed)
    found = laid(maps, masks, whole(maps, bins), limit=limit)
    exact = {
        "auroc": pixel_auroc(maps.double().numpy(), masks.numpy()),
        "aupro": aupro(maps.double().numpy(), masks.numpy(), limit),
    }
    for name, value in exact.items():
        bounded = getattr(found, name)
        assert bounded.low - 1e-12 <= value <= bounded.high + 1e-12, name
        assert bounded.low <= bounded.value <= bounded.high, name
    if bins == 2**16:
        assert found.aupro.value == pytest.approx(exact["aupro"], abs=1e-5)
        assert found.aupro.error < 2e-3
        assert found.auroc.error < 1e-4


def test_one_pass_in_any_batches_gives_one_answer() -> None:
    maps, masks = drawn(3)
    bins = whole(maps, 500)
    assert laid(maps, masks, bins, batch=1).as_metrics() == pytest.approx(laid(maps, masks, bins, batch=7).as_metrics())


def test_a_cut_is_compared_with_each_mask_and_touches_regions_as_counted_by_hand() -> None:
    masks = torch.zeros(3, 6, 6, dtype=torch.bool)
    masks[0, 0:2, 0:2] = masks[0, 4:6, 4:6] = masks[1, 2:4, 2:4] = True
    maps = torch.zeros(3, 6, 6)
    maps[0, 0:2, 0:3] = 2.0  # the first region and two pixels more, the second not
    maps[1, 3, 3] = 2.0
    maps[2, 0, 0] = 2.0  # of a normal image, which has no overlap
    found = laid(maps + torch.linspace(0, 0.1, 108).view(3, 6, 6), masks, Bins(0.0, 3.0))
    assert found.iou == pytest.approx((4 / 10 + 1 / 4) / 2)
    assert (found.found.count, found.found.of) == (2, 3)
    assert (found.images, found.normals) == (2, 1)
    by_hand = ious(np.asarray(maps.numpy() > 1), masks.numpy())
    assert by_hand[:2] == pytest.approx([0.4, 0.25])
    assert by_hand[2] == 0.0
    assert np.isnan(ious(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 2), bool))).all()


def test_ties_are_told_and_what_they_would_make_wrong_is_left_out() -> None:
    maps, masks = drawn(4, levels=1)
    found = laid(maps, masks, whole(maps, 2**16))
    values, truth = maps.flatten().numpy(), masks.flatten().numpy()
    assert found.tied_share == pytest.approx((values[truth][:, None] == values[~truth][None]).mean())
    assert found.tied_share > 0.02
    assert {"auroc", "aupro", "average_precision"}.isdisjoint(found.as_metrics())
    assert {"iou", "tied_share", "regions", "images"} <= found.as_metrics().keys()
    assert {"auroc", "aupro"} <= laid(*drawn(4), whole(drawn(4)[0], 2**16)).as_metrics().keys()


def test_what_cannot_be_is_refused() -> None:
    maps, masks = drawn(5)
    bins = whole(maps, 100)
    with pytest.raises(BadInput, match="anomalous"):
        laid(maps, torch.zeros_like(masks), bins)
    with pytest.raises(BadInput, match="limit"):
        laid(maps, masks, bins, limit=0.0)
    with pytest.raises(BadInput, match="image axis"):
        regions_of(masks[0].numpy())
    maps[0, 0, 0] = torch.nan
    with pytest.raises(NotFinite):
        laid(maps, masks, bins)
