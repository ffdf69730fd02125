"""Coloured-MNIST: normal by colour or by digit, one fixed colour for each test image, and its digits recoloured."""

from __future__ import annotations

import dataclasses
import shutil
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.checkout import PROJECT
from xadflow.cli.data.group import data
from xadflow.datasets.manifest import Split
from xadflow.datasets.public import fetching
from xadflow.datasets.public.colours import COLOURS, painted
from xadflow.datasets.public.raw_files import raw_folder
from xadflow.datasets.public.sets import SETS
from xadflow.datasets.sources import Candidate, open_source
from xadflow.digests import sha256_bytes
from xadflow.errors import BadSettings, WrongUse
from xadflow.images import decode_image
from xadflow.settings import DatasetSettings, Home

RNG = np.random.default_rng(0)
TRAIN, TRAIN_LABELS = RNG.integers(0, 256, (200, 28, 28), dtype=np.uint8), np.arange(200, dtype=np.uint8) % 10
TEST, TEST_LABELS = RNG.integers(0, 256, (140, 28, 28), dtype=np.uint8), np.arange(140, dtype=np.uint8) % 10


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A project whose MNIST is 200 + 140 made-up images, 20 and 14 of each digit."""
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    home = Home.find()
    folder = raw_folder(home, "mnist")
    folder.mkdir(parents=True)
    digests = {}
    for name, array in zip(SETS["mnist"].digests, (TRAIN, TRAIN_LABELS, TEST, TEST_LABELS), strict=True):
        content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        (folder / name).write_bytes(content)
        digests[name] = sha256_bytes(content)
    monkeypatch.setitem(SETS, "mnist", dataclasses.replace(SETS["mnist"], digests=digests))
    return home


def candidates(**options: object) -> list[Candidate]:
    found = list(open_source("coloured", DatasetSettings(source="coloured_mnist", options=options)).candidates())
    assert all(isinstance(one, Candidate) for one in found)
    return found


def of(split: Split, found: list[Candidate]) -> list[Candidate]:
    return [one for one in found if one.split == split]


def parts(one: Candidate) -> tuple[int, str]:
    digit, _, colour = one.category.partition("-")
    return int(digit), colour


def number(one: Candidate) -> int:
    return int(Path(one.target).stem)


def test_a_painted_stroke_keeps_its_brightness_and_has_its_colour():
    strokes = np.array([[0, 255], [100, 1]], np.uint8)
    assert painted(strokes, "cyan").tolist() == [[[0, 0, 0], [0, 255, 255]], [[0, 100, 100], [0, 1, 1]]]
    assert painted(strokes, "grey")[0, 1].tolist() == [128] * 3
    every = np.arange(256, dtype=np.uint8)[None]
    for colour, rgb in COLOURS.items():
        assert np.array_equal(painted(every, colour)[0], np.rint(np.arange(256)[:, None] * np.array(rgb) / 255)), colour


def test_the_picture_is_the_digit_of_its_number_in_the_colour_of_its_category(home: Home):
    found = candidates(normal=["cyan", 1])
    for split, strokes, labels in ((Split.TRAIN, TRAIN, TRAIN_LABELS), (Split.TEST, TEST, TEST_LABELS)):
        for one in of(split, found):
            digit, colour = parts(one)
            assert labels[number(one)] == digit
            assert np.array_equal(decode_image(one.content), painted(strokes[number(one)], colour))


def test_an_image_is_normal_by_its_colour_or_by_its_digit(home: Home):
    found = candidates(normal=["cyan", 1])
    test = of(Split.TEST, found)
    assert len(test) == 140
    for one in test:
        digit, colour = parts(one)
        assert one.label == int(not (colour == "cyan" or digit == 1))
        assert one.defect == (one.category if one.label else None)
    assert {parts(one)[1] for one in test} == set(COLOURS)
    train = of(Split.TRAIN, found)
    assert {one.label for one in train} == {0}
    assert all(parts(one)[1] == "cyan" or parts(one)[0] == 1 for one in train)


def test_half_of_the_train_images_are_normal_by_each_and_none_is_there_twice(home: Home):
    train = of(Split.TRAIN, candidates(normal=["cyan", 1], train=20))
    by_colour = train[10:]
    assert [parts(one)[0] for one in train[:10]] == [1] * 10
    assert {parts(one)[1] for one in by_colour} == {"cyan"}
    assert len({parts(one)[1] for one in train[:10]}) > 2
    assert len({parts(one)[0] for one in by_colour}) > 3
    assert len({number(one) for one in train}) == 20


def test_without_a_limit_the_rarest_decides(home: Home):
    assert len(of(Split.TRAIN, candidates(normal=["cyan", 1]))) == 2 * 20
    assert len(of(Split.TRAIN, candidates(normal=["cyan"]))) == 200
    assert len(of(Split.TRAIN, candidates(normal=[8, 9]))) == 2 * 20
    assert Counter(parts(one)[1] for one in of(Split.TRAIN, candidates(normal=["cyan", "red"]))) == {
        "cyan": 100,
        "red": 100,
    }
    with pytest.raises(BadSettings, match="at most 40"):
        candidates(normal=["cyan", 1], train=41)


def test_limits_change_no_image_and_the_seed_does(home: Home):
    whole, cut, other = (candidates(normal=["cyan", 1], **more) for more in ({}, {"test": 30}, {"seed": 1}))
    assert of(Split.TEST, whole)[:30] == of(Split.TEST, cut)
    assert of(Split.TRAIN, whole) == of(Split.TRAIN, cut)
    assert [one.category for one in of(Split.TEST, whole)] != [one.category for one in of(Split.TEST, other)]


def test_recoloured_digits_are_of_any_class_in_any_colour_but_the_normal_one(home: Home):
    found = candidates(normal=["cyan", 1], recoloured=True, train=150, test=20)
    assert {one.label for one in found} == {0}
    assert Counter(str(one.split) for one in found) == {"train": 150, "test": 20}
    assert {parts(one)[1] for one in found} == set(COLOURS) - {"cyan"}
    assert {parts(one)[0] for one in found} == set(range(10)), "ones too: the classes are not looked at"


@pytest.mark.parametrize(
    "options",
    [
        {"normal": ["pink"]},
        {"normal": [10]},
        {"normal": []},
        {"normal": [1], "recoloured": True},
        {"normal": list(COLOURS), "recoloured": True},
        {"normal": ["cyan"], "shade": 1},
    ],
)
def test_what_makes_no_sense_is_refused(home: Home, options: dict[str, object]):
    with pytest.raises(BadSettings, match="datasets.coloured.options"):
        candidates(**options)


def test_fetch_brings_what_a_data_set_is_made_from(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "_from_torchvision", None)
    done = CliRunner().invoke(data, ["fetch", "coloured-mnist"], catch_exceptions=False)
    assert done.output.startswith("mnist: files that were there")
    with pytest.raises(WrongUse, match="nothing to fetch"):
        CliRunner().invoke(data, ["fetch", "letters-any"], catch_exceptions=False)
