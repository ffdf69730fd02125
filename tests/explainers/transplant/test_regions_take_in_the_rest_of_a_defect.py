"""Completed regions: which cells belong to one, by hand and by a flood; and that an image stays as normal as it was."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from tests.explainers.transplant.conftest import bank_of
from xadflow.detectors import Scores
from xadflow.digests import sha256_json
from xadflow.explainers.transplant import TransplantExplainer, TransplantSettings
from xadflow.explainers.transplant.masks import completed
from xadflow.explainers.transplant.search import Goal, RegionSearch
from xadflow.images import as_float

SIDE = 32  # px, and so cells: each is a pixel


def drawn(*rows):
    """Bool cells [1,u,v], true where a row has an `x`."""
    return torch.tensor([[[one == "x" for one in row] for row in rows]])


def flooded(cells, hot):
    """All hot cells that a chain of hot ones, corners included, joins to the region."""
    region, todo = cells.copy(), list(map(tuple, np.argwhere(cells)))
    while todo:
        y, x = todo.pop()
        for beside in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
            if (
                min(beside) >= 0
                and beside[0] < len(hot)
                and beside[1] < len(hot[0])
                and hot[beside]
                and not region[beside]
            ):
                region[beside] = True
                todo.append(beside)
    return region


def windowed(region):
    """The region and the cells of which every window of 3 x 3 that has them has a cell of the region, too."""
    wide = np.pad(region, 2)
    full = np.array(
        [[wide[y : y + 3, x : x + 3].any() for x in range(wide.shape[1] - 2)] for y in range(wide.shape[0] - 2)]
    )
    return np.array(
        [[full[y : y + 3, x : x + 3].all() for x in range(region.shape[1])] for y in range(region.shape[0])]
    )


def test_joined_cells_of_half_the_highest_heat_belong_to_the_region():
    heat = torch.tensor(
        [
            [
                [0.0, 0.9, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0],
                [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.8],
                [0.0, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0, 0.0],
            ]
        ]
    )
    found = drawn(".x......", "........", "........")
    assert completed(found, heat, 0.5).equal(drawn(".xx.....", "...x....", "........"))
    assert completed(found, heat, 0.65).equal(drawn(".xx.....", "........", "........"))
    assert completed(found, heat, 1.0).equal(found)


def test_the_highest_heat_is_that_of_the_region_and_not_of_the_image():
    heat = torch.tensor([[[0.2, 0.1, 0.05, 0.0, 0.0, 1.0]]])
    assert completed(drawn("x....."), heat, 0.5).equal(drawn("xx...."))


def test_regions_are_those_of_a_flood_and_of_windows():
    rng = np.random.default_rng(0)
    heat, cells = rng.random((20, 12, 16)), rng.random((20, 12, 16)) > 0.98
    cells[:, 3, 3] = True
    hot = heat >= 0.85 * np.where(cells, heat, -1).max(axis=(1, 2), keepdims=True)
    found = completed(torch.from_numpy(cells), torch.from_numpy(heat), 0.85).numpy()
    for own, its_hot, region in zip(cells, hot, found, strict=True):
        expected = windowed(flooded(own, its_hot))
        numbered, _ = label(np.pad(~expected, 1, constant_values=True))
        assert (
            region == expected | (numbered[1:-1, 1:-1] != 1) & ~expected
        ).all()  # 1: what can be reached from outside


def test_gaps_of_two_cells_are_closed_and_wider_ones_are_not():
    cold, row = torch.zeros(1, 5, 9), "........."
    for one in (".xx.xx...", ".xx..xx.."):
        whole = one[0] + one[1:].strip(".").replace(".", "x").ljust(8, ".")
        assert completed(drawn(row, one, one, one, row), cold, 0.5).equal(drawn(row, whole, whole, whole, row))
    apart = drawn(row, ".xx...xx.", ".xx...xx.", ".xx...xx.", row)
    assert completed(apart, cold, 0.5).equal(apart)


def test_holes_are_filled_and_nothing_is_lost_at_the_border():
    ring = drawn("xxxxxx", "x....x", "x....x", "x....x", "x....x", "xxxxxx")
    assert completed(ring, torch.zeros(1, 6, 6), 0.5).all()
    corner = drawn("x.....", "......", "......", "......", "......", "......")
    assert completed(corner, torch.zeros(1, 6, 6), 0.5).equal(corner)


def test_without_heat_no_cell_is_hot():
    cells = drawn("....", ".x..", "....")
    assert completed(cells, torch.zeros(1, 3, 4), 0.5).equal(cells)


class Counting:
    """A detector that is content with at most so many white pixels, and likes each of them a little less than black."""

    def __init__(self, most):
        self._most, self.calibration = most, SimpleNamespace()

    def score(self, images):
        white = images.flatten(1).sum(dim=1)
        return Scores(torch.where(white <= self._most, white / 1000, 5.0), None)


def completed_by(most, goal, **settings):
    """Columns of row 5 that the second of two pairs has, of 3 to 5, once it is completed, and the attempts
    that took.
    """
    heat = torch.zeros(2, SIDE, SIDE)
    heat[1, 5, 3:6], heat[1, 5, 6:8], heat[1, 5, 8:10] = 1.0, 0.8, 0.6
    black = torch.zeros(2, 1, SIDE, SIDE)
    search = RegionSearch(
        Counting(most), black, black + 1, heat, None, goal, TransplantSettings(dilation=0.0, feather=0.0, **settings)
    )
    cells = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    cells[:, 5, 3:6] = True
    before, _ = search.attempt(torch.arange(2), cells)
    after = search.completed(before, torch.tensor([1]))
    attempts = search.passes - 2
    again, _ = search.attempt(torch.tensor([1]), after.cells)
    for name in ("images", "scores", "blends"):
        assert getattr(after, name).equal(getattr(again, name))  # what is told is of these cells
    assert after.cells.sum() == after.cells[0, 5].sum()
    return after.cells[0, 5].nonzero().flatten().tolist(), attempts


def test_a_region_takes_in_what_is_hot_as_far_as_the_image_stays_normal():
    goal = Goal(threshold=1.0, target=0.5)
    assert completed_by(100, goal) == ([3, 4, 5, 6, 7, 8, 9], 1)
    assert completed_by(5, goal) == ([3, 4, 5, 6, 7], 2)  # all is too much: what has three quarters of the heat
    assert completed_by(4, goal) == ([3, 4, 5], 2)
    assert completed_by(100, goal, complete=0.7) == ([3, 4, 5, 6, 7], 1)


def test_a_region_that_met_the_target_stays_below_it():
    assert completed_by(100, Goal(threshold=1.0, target=0.0055)) == ([3, 4, 5, 6, 7], 2)
    assert completed_by(100, Goal(threshold=0.0055, target=0.001)) == ([3, 4, 5, 6, 7], 2)  # it met the threshold alone


def test_a_region_that_is_not_normal_is_left_as_it_is():
    assert completed_by(2, Goal(threshold=1.0, target=0.5)) == ([3, 4, 5], 0)
    assert completed_by(100, Goal(threshold=0.001, target=0.001)) == ([3, 4, 5], 0)


def test_more_of_the_defect_is_replaced_and_every_image_stays_normal(trained, defective):
    images, masks = defective
    shares = {}
    for share in (0.0, 0.5):
        told = TransplantExplainer(complete=share).with_donors(bank_of(trained)).explain(trained, as_float(images))
        assert all(found.is_normal for one in told for found in one.counterfactuals)
        regions = [(one.images[0].image, mask) for one, mask in zip(told, masks.numpy(), strict=True) if one.images]
        shares[share] = np.mean([(region[mask] >= 128).mean() for region, mask in regions])
    assert shares[0.5] > shares[0.0] + 0.02


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_shares_of_heat_lie_between_none_and_all(wrong):
    with pytest.raises(ValueError, match="complete"):
        TransplantSettings(complete=wrong)


def test_a_row_from_before_keeps_the_version_it_was_written_with() -> None:
    then = sha256_json({k: v for k, v in TransplantSettings().model_dump(mode="json").items() if k != "complete"})[:8]
    assert TransplantSettings(complete=0.0).version("1") == f"1-{then}"
    assert TransplantSettings().version("1") != f"1-{then}"
