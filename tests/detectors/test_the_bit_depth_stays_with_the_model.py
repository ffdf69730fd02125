"""How many bits its images had is part of a saved detector: a night or `score` reads them as the training did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xadflow.detectors import base
from xadflow.detectors.base import CARD, bit_depth_of, load_detector, remember_bit_depth
from xadflow.errors import BadWeights


class Saved:
    """A detector of a third party: it knows nothing of bits."""

    @classmethod
    def load(cls, folder: Path) -> Saved:
        return cls()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(base, "detector_class", lambda name: Saved)
    (tmp_path / CARD).write_text(json.dumps({"method": "theirs", "input_shape": [1, 8, 8]}))
    return tmp_path


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_it_is_written_into_the_card_and_read_from_it(folder: Path, bits: int) -> None:
    remember_bit_depth(folder, bits)
    assert bit_depth_of(load_detector(folder)) == bits
    assert json.loads((folder / CARD).read_text())["input_shape"] == [1, 8, 8]


def test_a_detector_of_all_16_bits_keeps_its_bytes(folder: Path) -> None:
    before = (folder / CARD).read_bytes()
    remember_bit_depth(folder, 16)
    assert (folder / CARD).read_bytes() == before
    assert bit_depth_of(load_detector(folder)) == 16


@pytest.mark.parametrize("bits", [0, 7, 17, 10**30, "many", None, [12]])
def test_a_card_that_says_anything_else_is_refused_in_one_line(folder: Path, bits: object) -> None:
    (folder / CARD).write_text(json.dumps({"method": "theirs", "bit_depth": bits}))
    with pytest.raises(BadWeights, match="no saved detector"):
        load_detector(folder)
