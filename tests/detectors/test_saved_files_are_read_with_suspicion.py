from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xadflow.calibration import Calibration
from xadflow.detectors import base
from xadflow.detectors.base import load_detector
from xadflow.detectors.saved import read_detector, write_detector
from xadflow.errors import BadWeights, UnknownName

SCORES = np.linspace(0.0, 1.0, 21)


def saved(folder: Path, scores: Any = SCORES, **changed: Any) -> Path:
    """What a detector of the method `padim` writes, with this calibration; it has none of its tensors."""
    its: dict[str, Any] = {"threshold": 0.95, "temperature": 0.1, "false_alarm_rate": 0.05, **changed}
    calibration = Calibration(its["threshold"], its["temperature"], its["false_alarm_rate"], scores, 0.01, "known")
    write_detector(folder, {"method": "padim", "settings": {}, "input_shape": [1, 8, 8]}, {}, calibration)
    return folder


def test_a_good_calibration_is_read(tmp_path: Path) -> None:
    _, _, found = read_detector(saved(tmp_path), "padim")
    assert (found.threshold, found.temperature) == (0.95, 0.1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threshold": 1e9}, "outside its held-out scores"),
        ({"threshold": -0.1}, "outside its held-out scores"),
        ({"temperature": 0.0}, "temperature"),
        ({"false_alarm_rate": 1.5}, "false_alarm_rate"),
        ({"scores": np.array([0.0, np.nan, 1.0])}, "finite"),
        ({"scores": np.array([])}, "finite"),
        ({"scores": np.ones((2, 2))}, "finite"),
    ],
)
def test_a_calibration_that_calls_all_normal_or_nothing_is_refused(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadWeights, match=said):
        read_detector(saved(tmp_path, **changed), "padim")


@pytest.mark.parametrize(
    "changed",
    [
        {"settings": [1]},
        {"settings": None},
        {"settings": {"no_such": 1}},
        {"input_shape": [1, 10**6, 10**6]},
        {"method": None},
        {"method": ["padim"]},
        {"calibration": []},
        {"calibration": None},
    ],
)
def test_a_card_that_does_not_fit_is_one_line(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = saved(tmp_path) / "detector.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trunk_sha256": "x", **changed}))
    with pytest.raises((BadWeights, UnknownName)) as refused:
        load_detector(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_nan_in_a_card_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path) / "detector.json"
    path.write_text(path.read_text().replace("0.95", "NaN"))
    with pytest.raises(BadWeights, match="NaN is not a finite number"):
        load_detector(tmp_path)
    with pytest.raises(BadWeights, match="NaN is not a finite number"):
        read_detector(tmp_path, "padim")


def test_what_a_detector_cannot_load_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (KeyError("settings"), TypeError("no"), RuntimeError("size mismatch\nfor a"), MemoryError()):

        def load(folder: Path, err: Exception = broken) -> None:
            raise err

        kind = SimpleNamespace(load=load)
        monkeypatch.setattr(base, "detector_class", lambda name, kind=kind: kind)
        with pytest.raises(BadWeights, match="card cannot be used") as refused:
            load_detector(saved(tmp_path))
        assert "\\n" not in str(refused.value)
