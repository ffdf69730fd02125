import pytest
import torch

from tests.work.probe.conftest import gravel
from xadflow.errors import BadInput
from xadflow.work.probe.watermark import LEAST_CHANGE, Watermark

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


def stamped(images, mark=None, seed=0):
    mark = mark or Watermark()
    places = mark.drawn(len(images), images.shape[2], images.shape[3], torch.Generator().manual_seed(seed))
    return *mark.stamped(images, places), places


def every_level(side: int, channels: int) -> torch.Tensor:
    """Flat images of each grey level there is, and noise."""
    flat = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, channels, side, side)
    noise = torch.randint(0, 256, (300, channels, side, side), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    return torch.cat([flat, noise])


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (28, 3), (61, 3)])
def test_the_mask_is_exactly_where_pixels_changed_whatever_was_there(side: int, channels: int):
    images = every_level(side, channels)
    before = images.clone()
    marked, masks, _ = stamped(images)
    change = (marked.int() - images.int()).abs()
    assert torch.equal((change > 0).any(dim=1), masks)
    assert torch.equal((change > 0).all(dim=1), masks)  # in every channel
    assert change[masks[:, None].expand_as(change)].min() >= LEAST_CHANGE
    assert torch.equal(images, before)


@pytest.mark.parametrize("corner", CORNERS)
def test_the_mark_is_one_rectangle_of_a_known_size_near_its_corner(corner):
    images = gravel(40, 0)
    _, masks, _ = stamped(images, Watermark(corner=corner))
    scale = int(0.34 * 32 / 9)
    for mask in masks:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert (len(rows), len(columns)) == (7 * scale, 9 * scale)
        assert mask.sum() == len(rows) * len(columns)
        most = int(0.06 * 32)
        assert (31 - rows[-1] if corner.startswith("bottom") else rows[0]) <= most
        assert (31 - columns[-1] if corner.endswith("right") else columns[0]) <= most
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 1  # it drifts


def test_a_pixel_under_the_mark_is_the_stated_mixture_of_picture_and_ink():
    images = torch.full((1, 1, 28, 28), 100, dtype=torch.uint8)
    marked, masks, places = stamped(images)
    opacity = float(places.opacities[0])
    values = {int(value) for value in marked[0, 0][masks[0]]}
    assert values == {round(100 + opacity * (235 - 100)), round(100 + opacity * (20 - 100))}
    top, left = int(places.rows[0]), int(places.columns[0])
    strokes = (marked[0, 0, top + 1 : top + 6, left + 5 : left + 8] > 100).int().tolist()
    assert strokes == [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]]  # the letter F


def test_batches_do_not_change_the_marks_and_equal_seeds_give_equal_ones(monkeypatch):
    images = gravel(30, 0)
    whole, masks, _ = stamped(images)
    monkeypatch.setattr("xadflow.work.probe.watermark.BATCH", 7)
    parts, part_masks, _ = stamped(images)
    assert torch.equal(whole, parts)
    assert torch.equal(masks, part_masks)
    assert not torch.equal(whole, stamped(images, seed=1)[0])


def test_images_of_another_type_or_too_small_are_refused():
    mark = Watermark()
    places = mark.drawn(2, 32, 32, torch.Generator())
    with pytest.raises(BadInput, match="uint8"):
        mark.stamped(torch.zeros(2, 1, 32, 32), places)
    with pytest.raises(BadInput, match="one place each"):
        mark.stamped(gravel(3, 0), places)
    with pytest.raises(BadInput, match="does not fit"):
        mark.drawn(1, 8, 8, torch.Generator())
