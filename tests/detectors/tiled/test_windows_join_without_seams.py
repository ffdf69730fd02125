import pytest
import torch
import torch.nn.functional as F

from xadflow.detectors.tiled.windows import Windows

SIZES = [(64, 64, 64, 16), (64, 200, 64, 16), (130, 64, 32, 16), (97, 151, 48, 0), (40, 500, 64, 32), (161, 95, 32, 7)]


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_windows_of_one_size_cover_every_pixel_and_their_shares_sum_to_one(height, width, tile, overlap) -> None:
    windows = Windows(height, width, tile, overlap)
    for rows, columns in windows.places:
        assert (rows.stop - rows.start, columns.stop - columns.start) == windows.size
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
    whole = windows.joined(torch.ones(len(windows), *windows.size))
    assert torch.allclose(whole, torch.ones(height, width), atol=1e-6)


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_where_windows_agree_the_map_is_what_they_agree_on(height, width, tile, overlap) -> None:
    windows, whole = Windows(height, width, tile, overlap), torch.rand(height, width)
    parts = windows.cut(whole[None], list(range(len(windows))))[:, 0]
    assert torch.allclose(windows.joined(parts), whole, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(96, 160), (101, 90), (64, 333)])
def test_what_sees_no_farther_than_a_quarter_of_the_overlap_has_the_map_of_the_whole_image(height, width) -> None:
    """A blur that sees 4 px and takes zeros beyond the border differs at a window's border, and not in the map."""
    windows, image = Windows(height, width, 64, 16), torch.rand(1, height, width)
    parts = F.avg_pool2d(windows.cut(image, list(range(len(windows)))), 9, stride=1, padding=4)[:, 0]
    assert torch.allclose(windows.joined(parts), F.avg_pool2d(image[None], 9, stride=1, padding=4)[0, 0], atol=1e-6)


def test_maps_that_disagree_meet_without_a_step() -> None:
    windows = Windows(32, 80, 32, 16)
    levels = torch.arange(len(windows), dtype=torch.float32)
    row = windows.joined(levels[:, None, None].expand(-1, 32, 32))[0]
    assert row.diff().abs().max() < 0.2
    assert (row[0], row[-1]) == (0.0, levels[-1])


@pytest.mark.parametrize(
    ("place", "count"), [((5, 5), 1), ((30, 30), 1), ((0, 75), 1), ((10, 52), 2), ((52, 52), 4), ((None, None), 0)]
)
def test_a_window_has_changed_when_a_pixel_in_it_has(place, count) -> None:
    windows, image = Windows(112, 112, 64, 16), torch.rand(3, 112, 112)
    other = image.clone()
    if place[0] is not None:
        other[1, place[0], place[1]] += 1
    assert len(windows.changed(other, image)) == count
