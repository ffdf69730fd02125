import numpy as np
import pytest
from PIL import Image

from xadflow.errors import BadInput
from xadflow.pictures.counterfactual_sheet import CounterfactualRow, _change, counterfactual_sheet


def rows(count: int, concepts: int, channels: int) -> list[CounterfactualRow]:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, 1 + concepts, channels, 12, 12), dtype=np.uint8)
    labels = [f"normal, {k}" for k in range(concepts)]
    return [CounterfactualRow(its[0], list(its[1:]), labels, "a$b\n.png") for its in pictures]


@pytest.mark.parametrize(("concepts", "channels"), [(1, 1), (2, 3), (4, 1)])
def test_it_grows_by_a_line_an_image_and_equal_sheets_are_equal_bytes(tmp_path, concepts, channels) -> None:
    for name, count in (("one", 1), ("again", 1), ("three", 3)):
        counterfactual_sheet(rows(count, concepts, channels), tmp_path / f"{name}.png", "xad.a.b.diverse")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "three.png") as three:
        assert one.width == three.width
        assert three.height > one.height + 200
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_changes_stand_beside_the_concepts_grey_where_nothing_changed(tmp_path) -> None:
    (one,) = rows(1, 3, 1)
    made = one.original.copy()
    made[0, :6] = np.clip(made[0, :6].astype(int) + 64, 0, 255)
    counterfactual_sheet([one._replace(counterfactuals=[made] * 3)], tmp_path / "plain.png", "t")
    counterfactual_sheet([one._replace(counterfactuals=[made] * 3)], tmp_path / "changes.png", "t", changes=True)
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "changes.png") as changes:
        assert changes.width > 1.5 * plain.width
    change = _change(one.original, made)
    assert (change[0, 6:] == 128).all()
    assert _change(np.zeros((1, 1, 1), np.uint8), np.full((1, 1, 1), 64, np.uint8)).item() == 255


def test_nothing_to_show_is_refused(tmp_path) -> None:
    with pytest.raises(BadInput, match="at least one row"):
        counterfactual_sheet([], tmp_path / "none.png", "t")
