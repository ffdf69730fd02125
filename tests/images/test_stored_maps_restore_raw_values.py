import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xadflow.images import decode_png, encode_png, quantise_map, restore_map


@given(arrays(np.float32, (5, 7), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_map_comes_back_within_one_level_of_its_range(raw: np.ndarray) -> None:
    picture, low, high = quantise_map(raw)
    stored = decode_png(encode_png(picture))[0]
    restored = restore_map(stored, low, high)
    assert np.abs(restored - raw).max() <= (high - low) / 255 * 0.501 + 1e-9 * max(abs(low), abs(high))


def test_a_constant_map_is_its_value_everywhere() -> None:
    picture, low, high = quantise_map(np.full((4, 4), 2.5, np.float32))
    assert restore_map(picture, low, high) == pytest.approx(np.full((4, 4), 2.5))
