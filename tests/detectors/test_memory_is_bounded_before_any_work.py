import pytest
import torch

from xadflow.detectors import FitRun, TrainingData, build_detector
from xadflow.detectors.memory import Need
from xadflow.errors import BadInput


@pytest.mark.parametrize(
    ("each", "fixed", "most", "count"),
    [(1, 0, 500, 500), (2**20, 0, 500, 100), (2**19, 50 * 2**20, 500, 100), (0, 0, 9, 9)],
)
def test_as_many_normals_are_learned_from_as_fit(each, fixed, most, count) -> None:
    assert Need(each, fixed).normals(most, 100, (1, 8, 8)) == count


@pytest.mark.parametrize(("each", "fixed"), [(2**20 * 7, 0), (1, 101 * 2**20), (2**20, 90 * 2**20)])
def test_an_image_too_large_to_be_looked_at_as_a_whole_is_refused_with_what_to_set(each, fixed) -> None:
    with pytest.raises(BadInput, match="8 x 9 px as a whole takes") as told:
        Need(each, fixed).normals(500, 100, (1, 8, 9))
    assert "tile_px: 128" in told.value.next_step


@pytest.mark.parametrize("method", ["fcdd", "padim"])
def test_a_detector_on_a_trunk_says_so_before_any_work(tmp_path, method) -> None:
    images = torch.randint(0, 255, (40, 1, 1024, 1024), dtype=torch.uint8)
    data = TrainingData(images[:20], images[20:], images[:0], None, images[:0])
    with pytest.raises(BadInput, match="1024 x 1024 px as a whole takes"):
        build_detector(method).fit(data, FitRun(tmp_path, 0, 0.05, "cpu", memory_mb=100))
