import pytest
from pydantic import ValidationError

from xadflow.settings import DatasetSettings, ExplainSettings
from xadflow.settings.blocks import at_once


@pytest.mark.parametrize(("size", "shape"), [(64, (64, 64)), ((32, 96), (32, 96)), ([1600, 2400], (1600, 2400))])
def test_a_size_is_a_side_or_height_and_width(size, shape) -> None:
    assert DatasetSettings(source="folder", size_px=size).shape_px == shape


@pytest.mark.parametrize(
    "given",
    [
        {"size_px": 5000},
        {"size_px": (512, 24_000)},
        {"size_px": (8, 64)},
        {"size_px": (64, 64, 64)},
        {"size_px": 70_000, "tile_px": 128},
        {"size_px": (64, 96), "symmetries": "square"},
        {"tile_px": 8},
    ],
)
def test_sizes_that_cannot_be_are_refused(given) -> None:
    with pytest.raises(ValidationError):
        DatasetSettings(source="folder", **given)


def test_windows_allow_sides_beyond_what_is_looked_at_as_a_whole_and_overlap_by_a_quarter() -> None:
    its = DatasetSettings(source="folder", size_px=(512, 24_000), tile_px=128)
    assert (its.shape_px, its.overlap) == ((512, 24_000), 32)
    assert DatasetSettings(source="folder", tile_px=128, overlap_px=0).overlap == 0


@pytest.mark.parametrize(
    ("shape", "count"),
    [((1, 128, 128), 32), ((3, 224, 224), 32), ((1, 1024, 1024), 15), ((1, 1600, 2400), 1), ((3, 4096, 4096), 1)],
)
def test_a_batch_holds_no_more_values_than_are_allowed(shape, count) -> None:
    assert ExplainSettings(datasets=(), explainers=()).batch_of(shape) == count


@pytest.mark.parametrize(
    ("shape", "side_by_side", "shard"),
    [((3, 224, 224), 106, 100), ((1, 1600, 2400), 4, 8), ((1, 512, 24_000), 1, 2), ((3, 4096, 4096), 1, 1)],
)
def test_what_is_in_memory_together_does_not_grow_with_the_image(shape, side_by_side, shard) -> None:
    assert at_once(shape) == side_by_side
    assert ExplainSettings(datasets=(), explainers=()).shard_of(shape) == shard
    assert ExplainSettings(datasets=(), explainers=(), shard_size=1).shard_of(shape) == 1
